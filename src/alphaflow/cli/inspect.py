"""`alphaflow inspect`."""

from pathlib import Path

from ..errors import UserError
from . import Parser


def run(words: list[str]) -> None:
    """Say what a set of latents is, and show some of it."""
    parser = Parser(
        prog="alphaflow inspect",
        description="Print the fingerprint of a set of latents, after checking its files.",
    )
    parser.add_argument("set", type=Path, help="the folder of the set, as `alphaflow encode` made it")
    parser.add_argument("--grid", type=Path, metavar="FILE.png", help="decode some latents into a picture")
    parser.add_argument("--count", type=int, default=64, help="how many, spread over the set (64)")
    parser.add_argument("--vae", help="where the autoencoder is, if not where it was")
    parser.add_argument("--device", default="cpu", help="of the autoencoder: cpu (the default) or cuda")
    known = parser.parse_args(words)
    if known.count < 1:
        raise UserError(f"--count {known.count} must be at least 1", status=2)

    import numpy as np
    import torch

    from ..data import Latents
    from ..decoder import decoder_of
    from ..figures import write_samples
    from ..pixels import to_uint8
    from ..training.devices import choose_device

    data = Latents(known.set)
    print(data.manifest.text())
    if known.grid is None:
        return
    decode = decoder_of(data, choose_device(known.device), known.vae)
    rows = torch.from_numpy(np.linspace(0, len(data) - 1, min(known.count, len(data))).round().astype(np.int64))
    write_samples(to_uint8(decode(data.batch(rows)[0])), rows.numpy(), known.grid)
    print(known.grid)
