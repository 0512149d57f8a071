"""What every format is made from: a model opened for export, and what is known of it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from .. import portable, results
from ..errors import UserError
from ..generate import Generator, load
from ..interop import hub
from ..portable import ModelRecord
from ..training.config import to_dict
from ..training.run import RunFolder, versions


@dataclass(frozen=True)
class Model:
    """name: for titles, the source's folder. generator: on the CPU. record: what goes into alphaflow.json."""

    name: str
    generator: Generator
    record: ModelRecord

    def make_folder(self, out: Path) -> None:
        """Make `out`, with `model.json`: the record, for formats that have no other place for it.

        Raises:
            UserError: it cannot be written to.
        """
        results.write_text(out / "model.json", json.dumps(dataclasses.asdict(self.record), indent=2) + "\n")

    def told(self, scale: float | None) -> "Model":
        """For a graph of z, r, t and y: a network that takes guidance as an input, told this scale for good.

        Raises:
            UserError: there is no scale for such a network, one that it does not know, or one for another network.
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
        UserError: as `alphaflow.load`.
    """
    generator = load(source, ema=ema, vae=vae)
    name = source.resolve().name
    if hub.is_address(source) or portable.is_model(source):
        record = portable.read_record(portable.folder_of(source))
        data = _now_at(record.data, vae)
        return Model(name, generator, dataclasses.replace(record, data=data, licence=licence or record.licence))
    folder = RunFolder(source)
    run = folder.read_record()
    settings, data = to_dict(folder.read_config()), dict(run["data"])
    settings["init"] = _last(settings["init"])
    settings["data"] |= {key: _last(settings["data"][key]) for key in ("path", "labels")}
    if "latents" in data:
        data["latents"] = {**data["latents"], "address": _last(data["latents"]["address"])}
    record = ModelRecord(
        network=portable.describe_network(generator.net),
        data=_now_at(data, vae),
        step=generator.step,
        weights=generator.weights,
        guides=generator.guides,
        scales=generator.scales,
        intervals=generator.intervals,
        origin={"settings": settings, "git": run.get("git"), "trained with": run.get("versions", {})},
        metrics=_metrics(folder),
        licence=licence,
        versions=versions(),
    )
    return Model(name, generator, record)


def _last(path: str) -> str:
    """The last part of a path on this machine; other addresses are no secret of it."""
    return path if "://" in path else Path(path).name


def _now_at(data: dict[str, Any], vae: str | None) -> dict[str, Any]:
    """The record of the data, with the autoencoder's new place if it has moved."""
    if not vae or "latents" not in data:
        return data
    return {**data, "latents": {**data["latents"], "vae_name": vae}}


def _metrics(folder: RunFolder) -> dict[str, Any]:
    try:
        found = results.read(folder.evaluation_file)
    except ValueError as error:
        raise UserError(
            f"cannot read {folder.evaluation_file} ({error}): run `alphaflow evaluate {folder.path}` again"
        ) from None
    return {**found, "run": _last(str(found.get("run", "")))} if found else {}
