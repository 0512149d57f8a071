"""A folder with model.onnx."""

from pathlib import Path

from .card import quoted, write_card
from .model import Model
from .network_to_onnx import write_onnx

FILE = "model.onnx"


def write(model: Model, out: Path) -> str:
    """Write it, and compare it with the network."""
    model.make_folder(out)
    generator = model.generator
    difference = write_onnx(generator.net, out / FILE, shape=generator.shape, num_classes=generator.num_classes)
    labels = ', "y": y' if generator.num_classes else ""
    classes = (
        f"y = np.arange(rows) % {generator.num_classes}  # int64; {generator.num_classes}: no class\n"
        * bool(labels)
    )
    usage = f"""\
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime reports to its makers otherwise
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({quoted(f"{out.name}/{FILE}")})
rows = 4
z = np.random.default_rng(0).standard_normal((rows, {", ".join(map(str, generator.shape))}), np.float32)
{classes}r, t = np.zeros(rows, np.float32), np.ones(rows, np.float32)
(u,) = session.run(["u"], {{"z": z, "r": r, "t": t{labels}}})
x = z - u  # one step from noise, t = 1, to data, r = 0; in general z - (t - r) u
"""
    write_card(model, out, usage)
    return f"{out / FILE}: differs from torch by {difference:.1g} at most"
