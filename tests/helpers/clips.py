"""Small video files, written on the spot."""

import struct
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def colour(k: int) -> tuple[int, int, int]:
    """The colour of the k-th frame: far enough from its neighbours' to be told after lossy coding."""
    return (40 + 8 * (k % 24), 200 - 7 * (k % 24), 60 + 50 * (k % 4))


def write_clip(
    path: Path, frames: int, rate: int = 10, size: tuple[int, int] = (64, 48), seam: bool = False
) -> Path:
    """A video of single-coloured frames, each of `colour`; size is (width, height).

    seam: the left and the right eighth are black and white, which a central square of 4 : 3 leaves out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 6
        for k in range(frames):
            pixels = np.empty((height, width, 3), np.uint8)
            pixels[:] = colour(k)
            if seam:
                pixels[:, : width // 8], pixels[:, -width // 8 :] = 0, 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(clip: NDArray[np.uint8]) -> list[int]:
    """Which frame of a written video each frame of (T, H, W, 3) is, by its middle pixels."""
    side = clip.shape[1]
    middle = clip[:, side // 3 : -side // 3, side // 3 : -side // 3].reshape(len(clip), -1, 3).mean(1)
    known = np.array([colour(k) for k in range(24)], np.float64)
    return [int(np.abs(known - one).sum(1).argmin()) for one in middle]


def write_pixels(
    path: Path,
    pixels: NDArray[np.uint8],
    *,
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    aspect: int | None = None,
    rate: int = 10,
) -> Path:
    """A video of RGB or RGBA frames (T, H, W, 3 or 4), nothing lost. aspect: width of a pixel over its height."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = pix_fmt
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for frame in pixels:
            form = "rgba" if frame.shape[2] == 4 else "rgb24"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=form)))
        container.mux(stream.encode())
    return path


def turned(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """The same .mov or .mp4 beside it, with (a, b, c, d) as display matrix in its track's header."""
    content = bytearray(path.read_bytes())
    at = content.find(b"tkhd") + 44
    entries = [round(entry * 65536) for entry in (a, b, c, d)]
    matrix = struct.pack(">9i", entries[0], entries[1], 0, entries[2], entries[3], 0, 0, 0, 1 << 30)
    content[at : at + 36] = matrix
    made = path.with_name(f"turned-{path.name}")
    made.write_bytes(content)
    return made


def cut(path: Path, before: int, after: int, unit: int = 1024) -> Path:
    """The same .mp4 beside it, whose edit list leaves out frames at both ends, of `unit` time units each."""
    content = bytearray(path.read_bytes())
    at = content.find(b"elst") + 4
    version, count, lasts, start, rate = struct.unpack(">IIIiI", content[at : at + 20])
    each = 1000 * unit // 10240
    entry = struct.pack(">IIIiI", version, count, lasts - (before + after) * each, start + before * unit, rate)
    content[at : at + 20] = entry
    made = path.with_name(f"cut-{path.name}")
    made.write_bytes(content)
    return made
