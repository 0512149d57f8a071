"""Latents as others keep them, a file a sample, and what a conversion of them says."""

import warnings

import numpy as np

from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.encoding import EncodingSettings, convert, open_foreign

N = 8
SETTINGS = EncodingSettings(flips="none")


def moments(k: int = 0) -> np.ndarray:
    return np.random.default_rng(k).normal(size=(8, 4, 4)).astype(np.float32)


def write(root, count=N, folder=lambda k: "", **fields):
    """`count` samples .npz with moments and what the functions `fields` give for the number."""
    for k in range(count):
        path = root / folder(k) / f"{k:02d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, moments=moments(k), **{name: field(k) for name, field in fields.items()})
    return root


def labels_of(root, out, labels="auto", **words):
    convert(open_foreign(str(root), labels), out, SETTINGS, **words)
    data = Latents(out)
    return None if data.labels() is None else data.labels().tolist()


def refused(words, capsys) -> str:
    """The one line that a command ends with."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(words) == 1
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("alphaflow: ")]
    assert len(lines) == 1
    return lines[0]


def encode(source, out, *more):
    return ["encode", str(source), str(out), "--from", "latents", *more]
