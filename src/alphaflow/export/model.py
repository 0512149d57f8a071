"""A model opened for export, and what is known of it: every format is made from that."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from ..errors import UserError
from ..evaluation import results
from ..generation.generator import Generator
from ..runs import hub, model_folder
from ..runs.build import stated
from ..runs.config import to_dict
from ..runs.folder import RunFolder, versions
from ..runs.loading import load
from ..runs.model_folder import ModelRecord


@dataclass(frozen=True)
class Model:
    """A model to export."""

    name: str
    """Its name in titles, the source's folder."""
    generator: Generator
    """The generator, on the CPU."""
    record: ModelRecord
    """The contents of alphaflow.json."""

    def make_folder(self, out: Path) -> None:
        """Make `out`, with `model.json`: the record, for formats that have no other place for it.

        Raises:
            UserError: the folder cannot be written to.
        """
        results.write_text(out / "model.json", json.dumps(dataclasses.asdict(self.record), indent=2) + "\n")

    def with_guidance(self, scale: float | None) -> "Model":
        """Return the model for a graph of z, r, t and y: a network that takes guidance as an input gets this scale
        for good.

        Raises:
            UserError: such a network has no scale or one that it does not support, or a scale is given for another
                network.
        """
        generator = self.generator
        if generator.scales is None:
            if scale is None:
                return self
            raise UserError(f"guidance {scale:g}: this network takes none as an input: leave it out", status=2)
        if scale is None:
            least, largest = generator.scales
            raise UserError(
                "this network takes guidance as an input, which a graph of z, r, t and y has not: say the scale "
                f"that it holds for good, --guidance {least:g} … {largest:g}",
                status=2,
            )
        fixed = cast(nn.Module, generator.guided(scale))
        generator = dataclasses.replace(generator, net=fixed, guides=None, scales=None, intervals=False)
        weights = f"{self.record.weights}, told guidance {scale:g}"
        record = dataclasses.replace(self.record, weights=weights, guides=None, scales=None, intervals=False)
        return dataclasses.replace(self, generator=generator, record=record)


def open_model(source: Path, ema: float | None = None, vae: str | None = None, licence: str = "") -> Model:
    """Open a run or a model's folder on the CPU.

    Paths of this machine are cut to their last part in what is recorded, for exports get published; only the
    autoencoder's stays whole, since decoding needs it.

    Raises:
        UserError: as `alphaflow.load`; the model makes samples that are not finite.
    """
    generator = load(source, ema=ema, vae=vae)
    generator.check()
    name = source.resolve().name
    if hub.is_address(source) or model_folder.is_model(source):
        record = model_folder.read_record(model_folder.folder_of(source))
        data = _now_at(record.data, vae)
        return Model(name, generator, dataclasses.replace(record, data=data, licence=licence or record.licence))
    folder = RunFolder(source)
    run = folder.read_record()
    settings, data = to_dict(folder.read_config()), dict(run["data"])
    data["class_names"] = list(generator.class_names)  # as they can be written anywhere
    settings["init"] = _last(settings["init"])
    settings["data"] |= {key: _last(settings["data"][key]) for key in ("path", "labels", "captions")}
    if "latents" in data:
        data["latents"] = {**data["latents"], "address": _last(data["latents"]["address"])}
    record = ModelRecord(
        network=model_folder.describe_network(generator.net),
        data=_now_at(data, vae),
        step=generator.step,
        weights=generator.weights,
        guides=generator.guides,
        scales=generator.scales,
        intervals=generator.intervals,
        origin={
            "settings": settings,
            "objective": stated(run),
            "git": run.get("git"),
            "trained with": run.get("versions", {}),
        },
        metrics=_metrics(folder),
        licence=licence,
        versions=versions(),
    )
    return Model(name, generator, record)


def _last(path: str) -> str:
    """Return the last part of a path on this machine; other addresses are no secret of it."""
    return path if "://" in path else Path(path).name


def _now_at(data: dict[str, Any], vae: str | None) -> dict[str, Any]:
    """Return the record of the data, with the autoencoder's new place if it has moved."""
    if not vae or "latents" not in data:
        return data
    return {**data, "latents": {**data["latents"], "vae_name": vae}}


def _metrics(folder: RunFolder) -> dict[str, Any]:
    try:
        record = results.read(folder.evaluation_file)
    except ValueError as error:
        raise UserError(
            f"cannot read {folder.evaluation_file} ({error}): run `alphaflow evaluate {folder.path}` again"
        ) from None
    return {**record, "run": _last(str(record.get("run", "")))} if record else {}
