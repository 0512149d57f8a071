"""The files of a diagnosis."""

from pathlib import Path

from .plots import draw_all
from .record import Diagnosis, read_all


def write(diagnosis: Diagnosis, folder: Path, *, figures: bool = True) -> list[Path]:
    """Write `step-00000600.json` and `.csv`, and `figures` of all steps that the folder holds.

    Returns:
        the files.

    Raises:
        UserError: they can't be written.
    """
    files = [folder / f"step-{diagnosis.step:08d}{ending}" for ending in (".json", ".csv")]
    diagnosis.write(files[0])
    diagnosis.write_csv(files[1])
    return [*files, *(draw_all(read_all(folder), folder) if figures else ())]
