"""Images in the rows of Parquet and Arrow files, of Hugging Face's data sets above all."""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError, choose

from .base import SUFFIXES, Names, digest_of
from .cache import key_of, stamp_of
from .classes import NONE, Classes, by_value

PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc")
_IMAGE_COLUMNS = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo")
_LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "cls", "fine_label")
_GROUPS = 4  # Parquet row groups that are held at once


def need_pyarrow() -> ModuleType:
    """The package pyarrow, or a `UserError` that says how to get it."""
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise UserError("Parquet and Arrow files need pyarrow: pip install 'alphaflow[tables]'") from None
    return pyarrow


class Rows(Protocol):
    """What `Table` needs of a table."""

    @property
    def schema(self) -> Any:
        """A pyarrow schema."""

    def __len__(self) -> int:
        """Number of rows."""

    def column(self, name: str) -> list[Any]:
        """All values of a column."""

    def value(self, index: int, name: str) -> Any:
        """One value."""

    def place(self, index: int) -> str:
        """What to call a row."""


class Table:
    """The images of one column of a table: bytes of encoded files, `{bytes, path}` as Hugging Face keeps them, or
    paths relative to the table.

    Args:
        rows: the table.
        address: what to call it.
        folder: what paths in it are relative to; `None` if it may not hold any.
        labels: the column of labels; `None`: the one that is a ClassLabel by Hugging Face's account, or else
        the first
            named label, class, or the like; "none" for no labels. Class names are those of the ClassLabel, or
            else the values that occur.
        files: names and sizes of the files it came from, for the digest.
        stamp: see `Source`.

    Raises:
        UserError: no column of images, or several; no such column of labels; a row without a label.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        address: str,
        folder: Path | None,
        labels: str | None,
        files: dict[str, int],
        stamp: str,
    ) -> None:
        self.address, self.stamp = address, stamp
        self._rows, self._folder = rows, folder
        self._features = _features(rows.schema)
        self._column = self._image_column()
        self.labels, self.class_names = self._classes(labels)
        sizes = np.array([*files.values(), len(rows)], np.int64)
        self.digest = digest_of(Names([*files, self._column]), sizes, self.labels, self.class_names)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return self._rows.place(index)

    def read(self, index: int) -> bytes:
        value = self._rows.value(index, self._column)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if not value:
            raise OSError("the row holds no image")
        if self._folder is None:
            raise OSError(f"the row holds a path, {value}, and no image")
        folder = self._folder.resolve()
        path = (folder / value).resolve()
        if not path.is_relative_to(folder) or path.suffix.lower() not in SUFFIXES:
            raise OSError(f"the path {value} is no image below {folder}")
        return path.read_bytes()

    def _image_column(self) -> str:
        import pyarrow as pa

        found = []
        for field in self._rows.schema:
            kind = field.type
            encoded = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
            nested = pa.types.is_struct(kind) and {"bytes", "path"} & {inner.name for inner in kind}
            text = (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and field.name in (
                *_IMAGE_COLUMNS,
                "path",
                "file_name",
            )
            if encoded or nested or text:
                found.append(field.name)
        declared = [name for name in found if self._features.get(name, {}).get("_type") == "Image"]
        named = [name for name in found if name.lower() in _IMAGE_COLUMNS]
        for some in (declared, named, found):
            if len(some) == 1:
                return some[0]
        if found:
            raise UserError(
                f"{self.address} has several columns of images ({', '.join(found)}): write a table with one "
                f"of them, "
                "or call it image"
            )
        raise UserError(
            f"{self.address} has no column of encoded images among {', '.join(self._rows.schema.names)}: it needs "
            "one of bytes, or of paths named image"
        )

    def _classes(self, labels: str | None) -> Classes:
        names = self._rows.schema.names
        if labels == NONE:
            return None, ()
        if labels is None:
            declared = [name for name in names if self._features.get(name, {}).get("_type") == "ClassLabel"]
            usual = [name for name in _LABEL_COLUMNS if name in names and name != self._column]
            if not (len(declared) == 1 or usual):
                return None, ()
            labels = declared[0] if len(declared) == 1 else usual[0]
        else:
            choose(f"column of {self.address}", labels, names)
        values = self._rows.column(labels)
        known = self._features.get(labels, {}).get("names")
        wrong = [
            k
            for k, value in enumerate(values)
            if isinstance(value, bool)
            or not isinstance(value, (int, str))
            or (known and not (isinstance(value, int) and 0 <= value < len(known)))
        ]
        if wrong:
            raise UserError(
                f"{self.address}: column {labels} holds {values[wrong[0]]!r} in {self._rows.place(wrong[0])}, "
                f"which is "
                f"no label ({len(wrong)} such rows): name another column, or none"
            )
        return (np.array(values, np.int64), tuple(known)) if known else by_value(values)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face's library has noted about the columns."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: kind for name, kind in noted.items() if isinstance(kind, dict)}


def open_tables(paths: Sequence[Path], *, address: str, labels: str | None) -> Table:
    """The rows of Parquet or Arrow files, one after the other."""
    need_pyarrow()
    import pyarrow as pa

    try:
        rows = ParquetRows(paths) if paths[0].suffix.lower() in PARQUET else ArrowRows(_map(paths), paths[0])
        return Table(
            rows,
            address=address,
            folder=paths[0].parent,
            labels=labels,
            files={path.name: path.stat().st_size for path in paths},
            stamp=key_of(*(number for path in paths for number in stamp_of(path))),
        )
    except OSError as error:
        raise UserError(f"cannot read {address}: {error}") from None
    except pa.ArrowException as error:
        raise UserError(f"{address} is no whole table ({error}): fetch or write it anew") from None


def _map(paths: Sequence[Path]) -> Any:
    import pyarrow as pa

    tables = []
    for path in paths:
        file = pa.memory_map(str(path))
        try:
            tables.append(pa.ipc.open_file(file).read_all())
        except pa.ArrowInvalid:
            file.seek(0)
            tables.append(pa.ipc.open_stream(file).read_all())
    return pa.concat_tables(tables)


class ArrowRows:
    """A pyarrow table, mapped from a file or in memory: any row at once."""

    def __init__(self, table: Any, path: Path | str, schema: Any = None) -> None:
        self.table, self.path, self.schema = table, path, schema or table.schema

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> list[Any]:
        return self.table.column(name).to_pylist()

    def value(self, index: int, name: str) -> Any:
        return self.table.column(name)[index].as_py()

    def place(self, index: int) -> str:
        return f"row {index} of {self.path}"


class ParquetRows:
    """Parquet files, of which a row group at a time is unpacked: quick in order, slow in any other.

    The data sets are decoded or encoded in order, once, so that no copy that allows any order is made.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        from pyarrow import parquet

        self.paths = list(paths)
        self.files = [parquet.ParquetFile(path, memory_map=True) for path in paths]
        self.schema = self.files[0].schema_arrow
        for path, file in zip(paths, self.files):
            if file.schema_arrow.names != self.schema.names:
                raise UserError(f"{path} has other columns than {paths[0]}: give files of one table")
        self.groups = [
            (k, group) for k, file in enumerate(self.files) for group in range(file.metadata.num_row_groups)
        ]
        counts = [self.files[k].metadata.row_group(group).num_rows for k, group in self.groups]
        self.ends: NDArray[np.int64] = np.cumsum(counts, dtype=np.int64)
        first = np.cumsum([0, *(file.metadata.num_rows for file in self.files)])
        self.first: list[int] = first.tolist()
        self._held: OrderedDict[tuple[int, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def column(self, name: str) -> list[Any]:
        values: list[Any] = []
        for file in self.files:
            values += file.read([name]).column(name).to_pylist()
        return values

    def value(self, index: int, name: str) -> Any:
        at = int(np.searchsorted(self.ends, index, side="right"))
        with self._lock:
            group = self._held.pop((at, name), None)
            if group is None:
                k, number = self.groups[at]
                group = self.files[k].read_row_group(number, [name]).column(name)
            self._held[at, name] = group
            while len(self._held) > _GROUPS:
                self._held.popitem(last=False)
        return group[index - int(self.ends[at])].as_py()  # counted from the group's end

    def place(self, index: int) -> str:
        k = int(np.searchsorted(self.first, index, side="right")) - 1
        return f"row {index - self.first[k]} of {self.paths[k]}"
