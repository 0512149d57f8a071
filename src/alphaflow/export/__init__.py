"""Handing a trained model on, in other people's formats: `alphaflow export`.

Each format is a module with `write(model, out)`, which fills a folder and returns a line for the person who asked.
`FORMATS` says what each is; this module loads nothing heavy, so that `--help` answers at once.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from ..errors import UserError, choose
from ..runs import hub
from .placing import check_place, place

FORMATS: Mapping[str, str] = {
    "safetensors": "weights and a record of what they are, which alphaflow.load opens",
    "diffusers": "a pipeline that diffusers runs, by its own code in the folder",
    "onnx": "model.onnx: u(z, r, t, y) with a free batch, for onnxruntime and others",
    "program": "model.pt2: the same as a torch.export program, which torch alone runs",
    "web": "a page that generates in the browser, and all it needs, for any static server",
}
"""Name of the format, and of its module here -> what it is."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "safetensors": ("README.md", "alphaflow.json", "model.safetensors"),
    "diffusers": ("README.md", "model_index.json", "model.json", "pipeline.py", "flow_map.safetensors"),
    "onnx": ("README.md", "model.json", "model.onnx"),
    "program": ("README.md", "model.json", "model.pt2"),
    "web": (
        *("index.html", "app.js", "style.css", "worker.js", "noise.js", "words.js"),
        *("model.json", "model.onnx", "page.json"),
    ),
}
"""Names of the files at the top of each format's folder."""

GRAPHS = ("onnx", "program", "web")
"""Formats that hold the network as a graph of z, r, t and y, without its Python."""


def export(
    source: str | Path,
    out: str | Path,
    format: str = "safetensors",
    *,
    ema: float | None = None,
    vae: str | None = None,
    licence: str = "",
    guidance: float | None = None,
    push: str = "",
    private: bool = False,
    int8: bool = False,
    method: str = "ode",
) -> str:
    """Write the model of a run, or of a model's folder, to the folder `out` in one of `FORMATS`.

    Args:
        source: what `alphaflow.load` opens.
        ema, vae: see there.
        out: made if need be; files of an earlier export are replaced, and others left alone: see `placing`.
        guidance: for a graph of a network that takes guidance as an input: the scale that it gets for good.
        licence: of the weights, an SPDX name such as "apache-2.0", for the model card.
        method: for diffusers: what the pipeline's scheduler does, one of those of `alphaflow.sample`. "ode" takes
            diffusers' own scheduler, the others bring ours.
        int8: for ONNX: weights of eight bits; see `quantised`.
        push: OWNER/NAME on the Hugging Face hub, where the folder is published, or kept `private`.

    Returns:
        A line that says what was made.

    Raises:
        UserError: there is no such format; `source` cannot be opened; `out` cannot be written or is no place for
            it; the format does not suit this model, or needs a package that is not there; `out` holds files of
            these names that no export made; guidance does not suit the format or the model, or is missing.
    """
    choose("format", format, FORMATS, status=2)
    _check_options(format, guidance, int8, method)
    source, out = Path(source), Path(out)
    if out.suffix in (".onnx", ".pt2", ".safetensors", ".html"):
        raise UserError(f"{out} is where the folder would be: give a name without {out.suffix}", status=2)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder", status=2)
    if push:
        _check_push(out, push)
    if (out / "config.yaml").exists() or out.resolve() == source.resolve():
        raise UserError(f"{out} holds a run or the model itself: export to another folder", status=2)
    check_place(out, NAMES[format])
    from ..encoding.vae import weights_hash
    from .model import open_model

    model = open_model(source, ema, vae, licence)
    adapted = model.record.network["name"] == "adapted"
    if adapted and format in GRAPHS:
        raise UserError(
            f"{source} is an adapted network of diffusers, of which no graph is made: choose --format safetensors "
            "or diffusers",
            status=2,
        )
    if model.generator.vocabulary and format == "diffusers" and not adapted:
        raise UserError(
            f"{source} is told in words, which the pipeline is not: choose safetensors, {', '.join(GRAPHS)}",
            status=2,
        )
    weights = weights_hash(model.generator.net)
    if format in GRAPHS:
        model = model.with_guidance(guidance)
    options: dict[str, object] = {"int8": True} if int8 else {}
    if format == "diffusers":
        options["method"] = method
    write = import_module(f".{format}", __name__).write
    said = place(out, lambda folder: write(model, folder, **options), weights)
    if push:
        said += f"\n{hub.push(out, push, private=private)}"
    return said


def _check_options(format: str, guidance: float | None, int8: bool, method: str) -> None:
    """Refuse what does not go with the format."""
    if guidance is not None and format not in GRAPHS:
        raise UserError(
            f"guidance {guidance:g} goes with {', '.join(GRAPHS)}: where {format} is opened, a network that takes "
            "guidance still takes it; leave --guidance out",
            status=2,
        )
    choose("method", method, ("ode", "consistency", "euler"), status=2)
    if method != "ode" and format != "diffusers":
        raise UserError(
            f"--method {method} goes with --format diffusers, whose scheduler it chooses, and this is {format}: "
            "leave it out",
            status=2,
        )
    if int8 and format != "onnx":
        raise UserError(f"--int8 goes with --format onnx, and this is {format}: leave it out", status=2)


def _check_push(out: Path, repo: str) -> None:
    """Check, before any work, that the words are right, and that nothing but an export would be published."""
    hub.check_name(repo)
    before = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if before and not {"alphaflow.json", "model.json"} & set(before):
        raise UserError(f"{out} holds {before[0]}, which would be published: push from an empty folder", status=2)
