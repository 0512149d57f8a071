"""What every format is made from: a model opened for export, and what is known of it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        return Model(name, generator, dataclasses.replace(record, licence=licence or record.licence))
    folder = RunFolder(source)
    run = folder.read_record()
    settings, data = to_dict(folder.read_config()), dict(run["data"])
    settings["data"]["path"] = Path(settings["data"]["path"]).name
    settings["init"] = Path(settings["init"]).name
    if "latents" in data:
        data["latents"] = {**data["latents"], "address": Path(str(data["latents"]["address"])).name}
    record = ModelRecord(
        network=portable.describe_network(generator.net),
        data=data,
        step=generator.step,
        weights=generator.weights,
        origin={"settings": settings, "git": run.get("git"), "trained with": run.get("versions", {})},
        metrics=_metrics(folder),
        licence=licence,
        versions=versions(),
    )
    return Model(name, generator, record)


def _metrics(folder: RunFolder) -> dict[str, Any]:
    try:
        found = results.read(folder.evaluation_file)
    except ValueError as error:
        raise UserError(
            f"cannot read {folder.evaluation_file} ({error}): run `alphaflow evaluate {folder.path}` again"
        ) from None
    return {**found, "run": Path(str(found.get("run", ""))).name} if found else {}
