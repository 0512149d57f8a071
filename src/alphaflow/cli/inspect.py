"""`alphaflow inspect`."""

from pathlib import Path

from . import Parser
from .words import check_writable, count


def run(words: list[str]) -> None:
    """Say what a set of latents is, and show some of it."""
    parser = Parser(
        prog="alphaflow inspect",
        description="Print the fingerprint of a set of latents, after checking its files.",
    )
    parser.add_argument("set", type=Path, help="the folder of the set, as `alphaflow encode` made it")
    parser.add_argument("--grid", type=Path, metavar="FILE.png", help="decode some latents into a picture")
    parser.add_argument("--count", type=count(), default=64, help="how many, spread over the set (64)")
    parser.add_argument("--vae", help="where the autoencoder is, if not where it was")
    parser.add_argument("--device", default="cpu", help="of the autoencoder: cpu (the default) or cuda")
    known = parser.parse_args(words)
    check_writable("--grid", known.grid)

    import numpy as np
    import torch

    from ..data import Latents
    from ..devices import choose_device
    from ..encoding.decoder import decoder_of
    from ..generation.outputs import ending_of, samples_into
    from ..pixels import to_uint8

    if known.grid is not None:
        ending_of(known.grid, (".npz", ".png"))
    data = Latents(known.set)
    print(data.manifest.text())
    if known.grid is None:
        return
    decode = decoder_of(data.manifest, choose_device(known.device), known.vae)
    rows = torch.from_numpy(np.linspace(0, len(data) - 1, min(known.count, len(data))).round().astype(np.int64))
    pictures = to_uint8(decode(data.batch(rows)[0]))
    with samples_into(known.grid, pictures.shape[1:], rows.numpy()) as write:
        write(pictures)
    print(known.grid)
