#!/usr/bin/env bash
# PyAV (FFmpeg): H.264 with B-frames in AVI, as many old data sets of videos keep it, decodes to frames that come in the
# order of display but carry times that do not: frame.pts falls from one frame to the next, and frame k is not the one
# whose time is the k-th. The same stream in MP4 or Matroska has rising times. Whoever picks frames by time (or seeks and
# compares pts) gets a neighbour of the frame that is shown then, without an error; counting decoded frames is right.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import av
import numpy as np

print("av", av.__version__, "libavformat", ".".join(map(str, av.library_versions["libavformat"])))


def decoded(path):
    """Times and numbers of the frames as they come; frame k was written with the grey level 10 k."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(20):
            grey = np.full((48, 64, 3), 10 * k + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    with av.open(path) as container:
        frames = list(container.decode(video=0))
    levels = [float(frame.to_ndarray(format="gray").mean()) for frame in frames]
    order = np.argsort(np.argsort(levels)).tolist()
    return [frame.pts for frame in frames], order


surprised = True
for path in ("a.mp4", "a.mkv", "a.avi"):
    times, order = decoded(path)
    rising = times == sorted(times)
    print(f"{path}: pts {times[:8]} …, rising: {rising}; content in the order of display: {order == sorted(order)}")
    surprised &= order == sorted(order) and rising == (path != "a.avi")
sys.exit(0 if surprised else 1)
PYTHON
