"""`alphaflow stats`."""

from pathlib import Path

from ..errors import UserError
from . import Parser


def run(words: list[str]) -> None:
    """Write the reference statistics of a source of images."""
    parser = Parser(prog="alphaflow stats", description="Keep what a detector sees in images.")
    parser.add_argument("source", metavar="SRC", help="the images: a folder, an archive, …, or digits")
    parser.add_argument("out", metavar="OUT.npz", type=Path, help="the file to write")
    parser.add_argument("--detector", required=True, help="inception dinov2 clip clip-l digits")
    parser.add_argument("--detector-path", type=Path, help="its file, or a folder with it (the cache)")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (256)")
    parser.add_argument("--crop", choices=("lanczos", "box"), default="lanczos", help="lanczos, or box as ADM's")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    known = parser.parse_args(words)
    if known.out.suffix != ".npz":
        raise UserError(f"{known.out} is no .npz: call the file {known.out.with_suffix('.npz')}", status=2)

    from ..metrics import load_detector
    from ..stats import reference_of
    from ..training.devices import choose_device

    detector = load_detector(known.detector, path=known.detector_path, device=choose_device(known.device))
    reference = reference_of(known.source, detector, size=known.size, crop=known.crop)
    reference.write(known.out)
    found = reference.statistics
    print(f"{known.out}: {found.count} images, {len(found.mean)} features of {found.detector}")
