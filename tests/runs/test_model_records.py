"""A model's record that somebody wrote by hand, or a disk damaged: a line that names what is wrong, and no more
memory than the weights take."""

import copy
import json
import resource

import pytest

import alphaflow as af
import foreign_transformers as theirs
from alphaflow import UserError
from alphaflow.importing.import_checkpoint import import_checkpoint

VALUES = (None, -1, 10**9, 1.5, float("nan"), "a" * 10_000, [1, "a"], {}, [10**9] * 3)
FREE = ("versions", "origin", "metrics")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    home = tmp_path_factory.mktemp("records")
    file, *_ = theirs.alphaflow_file(home / "snapshot.pt")
    import_checkpoint(file, home / "model")
    return home / "model"


def places(tree, above=()):
    for key, value in tree.items():
        yield (*above, key)
        if isinstance(value, dict) and key not in FREE:
            yield from places(value, (*above, key))


def test_no_value_of_a_record_ends_in_a_raw_error(model):
    """Each value in turn is something else: the model opens and generates, or one line says what cannot be."""
    good = (model / "alphaflow.json").read_text()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for place in places(json.loads(good)):
        for value in VALUES:
            record = copy.deepcopy(json.loads(good))
            inner = record
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            (model / "alphaflow.json").write_text(json.dumps(record))
            try:
                af.load(model).samples(1)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 1500
    (model / "alphaflow.json").write_text(good)
    assert refused > 150 and af.load(model).samples(1).shape == (1, 4, 8, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize(
    "place, value, message",
    [
        (("network", "settings", "depth"), 10**9, "depth 1000000000 cannot be"),
        (("network", "settings", "depth"), 90_000, "depth 90000 is more than the .* tensors of its weights"),
        (("network", "settings", "heads"), 1.5, r"the network's heads 1\.5 cannot be"),
        (("network", "settings", "input_size"), 1 << 20, "positions|can be placed|makes samples of|cannot be"),
        (("data", "latents", "divisor"), [1.0, 0.0, 1.0, 1.0], "latents' divisor"),
        (("data", "class_names"), ["a"], "class_names"),
        (("guides",), [0.8, 0.2], "guides"),
    ],
)
def test_what_cannot_be_is_named(place, value, message, model):
    good = (model / "alphaflow.json").read_text()
    record = json.loads(good)
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        (model / "alphaflow.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match=message):
            af.load(model)
    finally:
        (model / "alphaflow.json").write_text(good)


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{", b"\x00\xff", b"[" * 200_000, b'{"format": "alphaflow model 1"}', b" " * (1 << 26)],
)
def test_a_record_that_is_none(text, model):
    good = (model / "alphaflow.json").read_text()
    try:
        (model / "alphaflow.json").write_bytes(text)
        with pytest.raises(UserError, match=r"alphaflow\.json"):
            af.load(model)
    finally:
        (model / "alphaflow.json").write_text(good)
