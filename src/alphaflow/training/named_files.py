"""Whether the files and folders that a run's settings name are there, before data are read or anything is built.

What shows only together with the data (another shape, other classes) is found where both are open.
"""

from pathlib import Path

from ..data.sources.label_files import is_label_file, split_columns
from ..encoding.vae import check_name
from ..errors import UserError
from ..metrics.reference import read_reference
from ..runs import model_folder
from ..runs.checkpoint import last_step, newest
from ..runs.config import Config, MonitorConfig
from ..runs.data_paths import refuse_missing_data
from ..runs.folder import RunFolder
from .warm_start import check_init

_MOVED = "; where it has moved, add --distill.teacher PLACE to --resume"


def check_named_files(config: Config, *, goes_on: bool = False) -> None:
    """Refuse settings that name files or folders which are not there, or are of another kind.

    Args:
        goes_on: of a run that there is already, which has begun from what `init` names long ago.

    Raises:
        UserError: says which setting, what is there instead, and what to give.
    """
    refuse_missing_data(config.data, moved=goes_on)
    _check_labels(config.data.labels)
    if config.init and not goes_on:
        check_init(config.init, config.model)
    if config.distill.teacher:
        _check_teacher(config.distill.teacher, _MOVED if goes_on else "")
    if config.monitor.every:
        _check_monitor(config.monitor)


def _check_labels(labels: str) -> None:
    """Whether labels that come from a table have one. Other words name columns, arrays or values."""
    if not is_label_file(labels):
        return
    file = split_columns(labels)[0]
    if not Path(file).is_file():
        what = "is a folder" if Path(file).is_dir() else "is not there"
        raise UserError(f"--data.labels {file} {what}: give the table that holds the labels, or FILE.csv#COLUMN")


def _check_teacher(place: str, moved: str) -> None:
    where = f"--distill.teacher {place}"
    if Path(place).is_file():
        raise UserError(f"{where} is a file: `alphaflow import {place} MODEL`, then give MODEL{moved}", status=2)
    try:
        path = model_folder.folder_of(place)  # of the hub: fetched once, and kept
        if model_folder.is_model(path):
            model_folder.read_record(path)
            return
        run = RunFolder(path)
        run.read_config()
        if last_step(run.checkpoints) is None:
            newest(run.checkpoints)  # says so
    except UserError as error:
        raise UserError(f"{where}: {error}{moved}", status=error.status) from None


def _check_monitor(settings: MonitorConfig) -> None:
    try:
        if settings.reference:
            read_reference(settings.reference)
        if settings.vae:
            check_name(settings.vae)
    except UserError as error:
        raise UserError(f"monitor: {error}", status=error.status) from None
