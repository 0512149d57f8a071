"""A model's folder: weights, record and model card."""

from pathlib import Path

from ..runs import model_folder
from .card import quoted, write_card
from .model import Model

_CALL = "images = generator(labels=[0, 1], nfe=1, seed=0)  # uint8 (2, H, W, C), or videos (2, T, H, W, C)"


def write(model: Model, out: Path) -> str:
    """Write it; `alphaflow.load(out)` generates the same samples."""
    model_folder.write_model(out, model.record, model.generator.net.state_dict())
    vocabulary = model.generator.vocabulary
    shown = quoted(vocabulary.examples[0]) if vocabulary else ""
    prompted = f"images = generator(prompts=[{shown}], nfe=1, seed=0)" if vocabulary else ""
    call = "points = generator.samples(64)" if model.generator.kind == "points" else prompted or _CALL
    usage = f"""\
import alphaflow as af  # pip install alphaflow

generator = af.load({quoted(out.name)})
{call}
"""
    write_card(model, out, usage)
    return f"{out}: {model_folder.WEIGHTS}, {model_folder.RECORD}, README.md; open it with alphaflow.load"
