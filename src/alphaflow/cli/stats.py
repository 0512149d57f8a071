"""`alphaflow stats`."""

from pathlib import Path

from ..errors import UserError, choose
from ..runs.conditions import DETECTORS
from . import Parser
from .words import check_writable, count, number, options_called


def run(words: list[str]) -> None:
    """Write the reference statistics of a source of images or videos.

    Under torchrun the processes share the work; the first of them writes and speaks.
    """
    parser = Parser(prog="alphaflow stats", description="Keep what a detector sees in images, or in videos.")
    parser.add_argument(
        "source", metavar="SRC", help="the images: a folder, an archive, …, digits or fashion; or videos"
    )
    parser.add_argument("out", metavar="OUT.npz", type=Path, help="the file to write")
    parser.add_argument(
        "--detector", required=True, help="inception dinov2 clip clip-l digits fashion; i3d for videos"
    )
    parser.add_argument("--detector-path", type=Path, help="its file, or a folder with it (the cache)")
    parser.add_argument("--size", type=count(1, 16384), help="side of the pictures in pixels (256)")
    parser.add_argument("--crop", choices=("lanczos", "box"), help="of images: lanczos (usual), or box as ADM's")
    parser.add_argument("--frames", type=count(1, 4096), help="of a video (16)")
    parser.add_argument(
        "--rate", type=number(float, above=0, high=1000), help="frames a second that are taken of a video (8)"
    )
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    known = parser.parse_args(words)
    choose("detector", known.detector, DETECTORS, status=2)
    if known.out.suffix != ".npz":
        raise UserError(f"{known.out} is no .npz: call the file {known.out.with_suffix('.npz')}", status=2)

    check_writable("OUT", known.out)

    from ..devices import choose_device
    from ..evaluation.reference_statistics import reference_of
    from ..metrics import load_detector
    from ..parallel.parallel import Parallel
    from ..parallel.share import Share

    parallel = Parallel()
    share = Share(parallel)
    device = parallel.device(choose_device(known.device))
    detector = load_detector(known.detector, path=known.detector_path, device=device)
    with options_called({"--data.path ": "", "; to train on them as classes, add --data.labels folders": ""}):
        reference = reference_of(
            known.source,
            detector,
            size=known.size,
            crop=known.crop,
            frames=known.frames,
            rate=known.rate,
            share=share,
        )
    if not share.main:
        return
    reference.write(known.out)
    found = reference.statistics
    unit = "videos" if detector.video else "images"
    print(f"{known.out}: {found.count} {unit}, {len(found.mean)} features of {found.detector}")
