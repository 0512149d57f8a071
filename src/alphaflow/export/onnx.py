"""A folder with model.onnx."""

from pathlib import Path
from typing import Any

from .card import conditions, quoted, write_card
from .model import Model
from .network_to_onnx import write_onnx
from .quantised import write_int8

FILE = "model.onnx"


def write(model: Model, out: Path, *, int8: bool = False) -> str:
    """Write it, and compare it with the network. int8: with weights of eight bits; see `quantised`."""
    model.make_folder(out)
    generator = model.generator
    form: dict[str, Any] = {"shape": generator.shape, "num_classes": generator.told}
    if int8:
        error = write_int8(generator.net, out / FILE, **form)
        said = f"weights of 8 bits, differs from torch by {100 * error:.2g} % (root mean square)"
    else:
        said = f"differs from torch by {write_onnx(generator.net, out / FILE, **form):.1g} at most"
    labels = ', "y": y' if generator.told else ""
    classes = conditions(model, "np.arange(rows)", "np.array({}, np.int64)")
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
    write_card(model, out, f"# {FILE}: {said}\n{usage}" if int8 else usage)
    return f"{out / FILE}: {said}"
