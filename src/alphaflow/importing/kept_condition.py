"""The condition of an adapted network that `export --format diffusers` wrote: it stays when the network is adapted
again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError, one_line
from ..export.diffusers_flow import BESIDE
from ..models.adapted import AdaptedFlow
from ..runs.model_folder import LARGEST, check_names

RECORD = "model.json"
_WITHIN = "condition."


@dataclass(frozen=True)
class KeptCondition:
    """What a network was told, and by which weights."""

    told: Mapping[str, int]
    """`AdaptedFlow`'s num_classes, vocabulary and length."""
    data: dict[str, Any]
    """What the record says of the samples."""
    weights: Mapping[str, Tensor]

    def fill(self, flow: AdaptedFlow, where: Path) -> None:
        """Give a network these weights.

        Raises:
            UserError: they are not its condition's.
        """
        wanted = {name: one for name, one in flow.state_dict().items() if name.startswith(_WITHIN)}
        check_names(str(where / BESIDE), self.weights, wanted)
        flow.load_state_dict(dict(self.weights), strict=False)


def read_condition(folder: Path) -> KeptCondition | None:
    """Return the condition that lies beside the network in an export's folder; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    files = folder / RECORD, folder / BESIDE
    if not all(file.is_file() for file in files):
        return None
    try:
        if files[0].stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        record = json.loads(files[0].read_text())
        settings, data = record["network"]["settings"], dict(record["data"])
        told = {name: int(settings[name]) for name in ("num_classes", "vocabulary", "length")}
        data["shape"] = [int(side) for side in data["shape"]]
        weights = {name: one for name, one in load_file(files[1]).items() if name.startswith(_WITHIN)}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, RecursionError) as error:
        raise UserError(f"cannot read the condition in {folder} ({one_line(error)}): export it again") from None
    return KeptCondition(told, data, weights)
