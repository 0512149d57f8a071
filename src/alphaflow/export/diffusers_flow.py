"""An adapted flow network back in its own class: a folder that plain diffusers opens, with what makes it a flow
map beside it.

transformer/           config.json and diffusion_pytorch_model.safetensors of the class that it came from
flow_map.safetensors   what is told beside it: the time adapter, and the condition's table or encoder
model.json             the record: class, adapter, samples
"""

import json
from pathlib import Path

from ..errors import UserError
from ..files import beside, write_text
from ..models.adapted import AdaptedFlow
from ..runs.checkpoint import write_tensors
from .card import quoted, write_card
from .model import Model

WITHIN = "net."
"""How the names of the network's own weights begin in an `AdaptedFlow`."""
BESIDE = "flow_map.safetensors"


def write(model: Model, flow: AdaptedFlow, out: Path) -> str:
    """Write the folder; see `diffusers.write`.

    Raises:
        UserError: the folder cannot be written; or plain diffusers would compute something else.
    """
    if flow.adapter == "gate":
        raise UserError(
            "the adapter gate has a second embedding of the time, also at r = t, and a "
            f"{flow.config['class_name']} has one: leave --format diffusers out",
            status=2,
        )
    weights = flow.state_dict()
    own = {name.removeprefix(WITHIN): one for name, one in weights.items() if name.startswith(WITHIN)}
    rest = {name: one for name, one in weights.items() if not name.startswith(WITHIN)}
    config = {"_class_name": flow.config["class_name"], **flow.network}
    write_text(out / "transformer" / "config.json", json.dumps(config, indent=2) + "\n")
    try:
        with beside(out / "transformer" / "diffusion_pytorch_model.safetensors") as temporary:
            write_tensors(temporary, own, {"format": "pt"})
        with beside(out / BESIDE) as temporary:
            write_tensors(temporary, rest, {"format": "pt"})
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another place") from None
    model.make_folder(out)
    write_card(model, out, _usage(flow, out), library="diffusers")
    return (
        f"{out}: transformer/ is a {flow.config['class_name']} of diffusers, which answers the velocity u(z, t, t)"
    )


def _usage(flow: AdaptedFlow, out: Path) -> str:
    name = flow.config["class_name"]
    return f"""\
from diffusers import {name}

# It answers u(z, t, t), the velocity. For jumps from t to r it is told r (adapter {flow.adapter!r}), and its
# conditions by flow_map.safetensors: alphaflow does so with what --format safetensors writes.
net = {name}.from_pretrained({quoted(out.name)}, subfolder="transformer")
"""
