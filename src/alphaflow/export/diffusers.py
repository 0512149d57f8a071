"""A pipeline of diffusers: a folder with weights, and code that runs without alphaflow.

An adapted flow network goes back into its own class instead: see `diffusers_flow`.

model_index.json                  which classes
pipeline.py                       FlowMapPipeline
transformer/flow_map_network.py   the network: alphaflow's source in one file; its config and weights beside it
scheduler/                        diffusers' own FlowMapEulerDiscreteScheduler, by its settings alone, or for
                                  the other methods FlowMapScheduler in flow_map_scheduler.py
vae/                              of a model on latents: the autoencoder
"""

import ast
import json
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UserError
from ..files import beside, write_text
from ..models.adapted import AdaptedFlow
from ..runs import model_folder
from ..runs.checkpoint import write_tensors
from . import diffusers_flow
from .card import quoted, write_card
from .model import Model

PACKAGE = Path(__file__).parents[1]
HERE = PACKAGE / "export" / "pipeline"
SOURCES = (
    "errors.py",
    "models/embeddings.py",
    "models/dit.py",
    "models/video_dit.py",
    "models/improved_dit.py",
    "models/unet.py",
    "models/wrappers.py",
    "export/pipeline/network.py",
)
"""The parts of flow_map_network.py, each after those that it needs."""

OWN, DIFFUSERS = ("flow_map_scheduler", "FlowMapScheduler"), ("diffusers", "FlowMapEulerDiscreteScheduler")
"""Where a scheduler comes from, and its class. diffusers 0.42.1 has the latter."""

KINDS = ("dit", "video-dit", "unet", "improved-dit")
"""The networks in it; `network.KINDS` has their classes."""


def write(model: Model, out: Path, method: str = "ode") -> str:
    """Write it.

    method: what its scheduler does. "ode" is the plain map, which diffusers' own scheduler steps along; the others
        bring ours.

    Raises:
        UserError: the model makes points, or its autoencoder cannot be loaded; the folder cannot be written.
    """
    generator = model.generator
    if isinstance(generator.net, AdaptedFlow):
        return diffusers_flow.write(model, generator.net, out)
    if generator.kind == "points":
        raise UserError(
            "a diffusers pipeline makes pictures, and this model makes points: choose another --format"
        )
    kind = model.record.network["name"]
    if kind not in KINDS:
        raise UserError(
            f"the pipeline's code knows {', '.join(KINDS)}, and this is {kind}: choose another --format"
        )
    network = out / "transformer"
    write_text(network / "flow_map_network.py", bundle())
    write_text(network / "config.json", _json(_network_config(model)))
    weights = {f"net.{name}": one for name, one in generator.net.state_dict().items()}
    try:
        with beside(network / "diffusion_pytorch_model.safetensors") as temporary:
            write_tensors(temporary, weights, {"format": "pt"})
        if generator.decoder:
            generator.decoder.vae.net.save_pretrained(out / "vae")
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another place") from None
    scheduler = OWN if method != "ode" else DIFFUSERS
    settings = {"method": method} if method != "ode" else {"num_train_timesteps": 1000, "shift": 1.0}
    if method != "ode":
        write_text(out / "scheduler" / "flow_map_scheduler.py", (HERE / "scheduler.py").read_text())
    write_text(out / "scheduler" / "scheduler_config.json", _json({"_class_name": scheduler[1], **settings}))
    write_text(out / "pipeline.py", (HERE / "pipeline.py").read_text())
    vae = generator.decoder.vae if generator.decoder else None
    write_text(out / "model_index.json", _json(_index(vae.class_name if vae else None, scheduler)))
    model.make_folder(out)
    write_card(model, out, _usage(model, out, method), library="diffusers")
    whose = "its own" if method != "ode" else "diffusers'"
    return (
        f"{out}: a pipeline of its own code, with {whose} {scheduler[1]}; open it with "
        "DiffusionPipeline.from_pretrained as its README.md shows"
    )


def bundle() -> str:
    """Return the source of `SOURCES` in one file, without their imports from alphaflow.

    Raises:
        AssertionError: two of them define the same name at their top.
    """
    imports: dict[str, set[str]] = {}
    bodies, names = [], set()
    for path in SOURCES:
        source = (PACKAGE / path).read_text()
        tree, lines = ast.parse(source), source.splitlines()
        drop = _lines_of(tree.body[0])  # the docstring becomes a comment
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                drop |= _lines_of(node)
                _note_imports(node, imports)
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                assert node.name not in names, f"{path} defines {node.name}, which another file does too"
                names.add(node.name)
        comment = "\n".join(f"# {line}".rstrip() for line in (ast.get_docstring(tree) or "").splitlines())
        kept = "\n".join(line for number, line in enumerate(lines, 1) if number not in drop).strip("\n")
        bodies.append(f"# alphaflow/{path}\n#\n{comment}\n\n\n{kept}\n")
    plain = [f"import {one}" for one in sorted(imports.pop("", set()))]
    froms = [f"from {module} import {', '.join(sorted(ones))}" for module, ones in sorted(imports.items())]
    head = f'"""The network, from the source of alphaflow {__version__} (Apache-2.0)."""'
    return "\n\n".join(["\n".join([head, "", *plain, *froms]) + "\n", *bodies])


def _lines_of(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _note_imports(node: ast.Import | ast.ImportFrom, imports: dict[str, set[str]]) -> None:
    """Add what it imports, by module ("" for plain imports), but not from alphaflow."""
    module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
    if not module.startswith("alphaflow"):
        names = {alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in node.names}
        imports.setdefault(module, set()).update(names)


def _index(vae: str | None, scheduler: tuple[str, str]) -> dict[str, Any]:
    return {
        "_class_name": ["pipeline", "FlowMapPipeline"],
        "transformer": ["flow_map_network", "FlowMapNetwork"],
        "scheduler": list(scheduler),
        "vae": ["diffusers", vae] if vae else [None, None],
    }


def _network_config(model: Model) -> dict[str, Any]:
    described, data = model_folder.describe_network(model.generator.net), model.record.data
    latents = data.get("latents", {})
    vae = model.generator.decoder.vae if model.generator.decoder else None
    return {
        "_class_name": "FlowMapNetwork",
        "network": described["name"],
        "settings": described["settings"],
        "predicts": described["predicts"],
        "shape": list(data["shape"]),
        "num_classes": data["num_classes"],
        "class_names": list(data["class_names"]),
        "guides": list(model.generator.guides) if model.generator.guides else None,
        "scales": list(model.generator.scales) if model.generator.scales else None,
        "intervals": model.generator.intervals,
        "latent_divisor": latents.get("divisor"),
        "latent_offset": latents.get("offset"),
        "vae_frames": vae.frames if vae else False,
        "vae_black": vae.black if vae else -1.0,
        "vae_options": vae.options if vae else {},
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _usage(model: Model, out: Path, method: str) -> str:
    words = "class_labels=[0, 1]" if model.generator.num_classes else "num_images=2"
    files = "pipeline.py and flow_map_network.py" + ", and flow_map_scheduler.py" * (method != "ode")
    return f"""\
import torch
from diffusers import DiffusionPipeline

# trust_remote_code: the folder's own code is run, {files}. Read it first.
folder = {quoted(out.name)}
pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
images = pipe({words}, num_inference_steps=1, generator=torch.manual_seed(0)).images
"""
