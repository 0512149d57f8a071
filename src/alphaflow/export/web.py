"""A folder with a page that runs the network in the browser, from any static server."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text
from .model import Model
from .network_to_onnx import write_onnx
from .onnxruntime_web import vendor

LARGEST = 500_000_000
"""Bytes of weights that a page may ask a browser to load; a tab has some 4 GB, and the runtime copies them."""

COLUMNS = 10
CELLS = 60


def write(model: Model, out: Path) -> str:
    """Write the page, the network as ONNX, and onnxruntime-web.

    Raises:
        UserError: the model does not make images, or is too large for a browser; see `write_onnx`, `vendor`.
    """
    generator = model.generator
    if generator.kind != "image" or generator.shape[0] not in (1, 3):
        what = f"{generator.kind.removesuffix('s')}s of {' × '.join(map(str, generator.shape))}"
        raise UserError(f"the web page shows images of 1 or 3 channels, not {what}: try `alphaflow demo`")
    size = sum(one.numel() * one.element_size() for one in generator.net.parameters())
    if size > LARGEST:
        raise UserError(
            f"{size / 1e9:.1f} GB of weights are too much for a browser (at most {LARGEST / 1e9:g} GB): "
            "show this model with `alphaflow demo`"
        )
    model.make_folder(out)
    for one in resources.files(__package__).joinpath("page").iterdir():
        with resources.as_file(one) as file:
            shutil.copyfile(file, out / one.name)
    vendor(out / "ort")
    difference = write_onnx(generator.net, out / "model.onnx", shape=generator.shape, num_classes=generator.told)
    write_text(out / "page.json", json.dumps(_facts(model, size), indent=1) + "\n")
    return f"{out}: serve it, for instance with `python -m http.server -d {out}`; differs by {difference:.1g}"


def _facts(model: Model, size: int) -> dict[str, Any]:
    """Return what the page needs to know, beside model.json, which is for people and other programs."""
    generator = model.generator
    words = generator.vocabulary
    columns = min(len(words.examples) if words else generator.num_classes, COLUMNS) or COLUMNS
    side = max(generator.shape[1:])
    rows = max(1, (CELLS if side <= 32 else CELLS // 2 if side <= 64 else COLUMNS) // columns)
    return {
        "name": model.name,
        "shape": list(generator.shape),
        "num_classes": generator.num_classes,
        "class_names": list(generator.class_names),
        "vocabulary": words.record() if words else None,
        "parameters": sum(weight.numel() for weight in generator.net.parameters()),
        "bytes": size,
        "step": generator.step,
        "columns": columns,
        "rows": rows,
    }
