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

from alphaflow.errors import UserError, choose, missing

from .base import SUFFIXES, Names, digest_of
from .cache import key_of, stamp_of
from .captions import caption_in, caption_key
from .classes import NONE, Labelled, few, from_values, shown, word_of
from .decoding import other_format

PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc")
_IMAGE_COLUMNS = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo")
_LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "cls", "fine_label")
_GROUPS = 4  # Parquet row groups that are held at once


def need_pyarrow() -> ModuleType:
    """Return the package pyarrow; raise a `UserError` that says how to get it if it is missing."""
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise missing("Parquet and Arrow files need pyarrow", "tables") from None
    return pyarrow


class Rows(Protocol):
    """The rows of a table, as `Table` needs them."""

    @property
    def schema(self) -> Any:
        """The schema, of pyarrow."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def column(self, name: str) -> list[Any]:
        """Return all values of a column."""

    def value(self, index: int, name: str) -> Any:
        """Return one value of a column."""

    def place(self, index: int) -> str:
        """Return what messages call a row."""


class Table:
    """The images of one column of a table: bytes of encoded files, `{bytes, path}` as Hugging Face keeps them, or
    paths relative to the table.

    Args:
        rows: the table.
        address: what messages call it.
        folder: the folder that paths in it are relative to; `None` if it may not hold any.
        labels: the column of labels; `None`: the one that Hugging Face declares a ClassLabel, or else the first
            named label, class, or the like; "none" for no labels. Class names are those of the ClassLabel, or else
            the values that occur.
        files: names and sizes of the files that the table came from, for the digest.
        stamp: see `Source`.
        passed_over: what of the address is not in `rows`, in words.

    Raises:
        UserError: the table has no rows, no column of images or several, or no such column of labels; or a row has
            no label.
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
        passed_over: Sequence[str] = (),
    ) -> None:
        self.address, self.stamp, self.passed_over = address, stamp, tuple(passed_over)
        self._rows, self._folder = rows, folder
        self._features = _features(rows.schema)
        self._column = self._image_column()
        if not len(rows):
            raise UserError(f"{address} is a table without rows: give one with images")
        self.labels, self.class_names, self.origin, unseen = self._classes(labels)
        self.passed_over += unseen
        sizes = np.array([*files.values(), len(rows)], np.int64)
        self.digest = digest_of(Names([*files, self._column]), sizes, self.labels, self.class_names)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return self._rows.place(index)

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        value = self._rows.value(index, self._column)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return other_format(value)  # Hugging Face's library writes TIFF for palettes, CMYK and 16 bits
        if not value:
            raise OSError("the row holds no image")
        if self._folder is None:
            raise OSError(f"the row holds a path, {value}, and no image")
        folder = self._folder.resolve()
        path = (folder / value).resolve()
        if not path.is_relative_to(folder) or path.suffix.lower() not in SUFFIXES:
            raise OSError(f"the path {value} is no image below {folder}")
        return path.read_bytes()

    def captions(self) -> list[str] | None:
        """Return the captions in a column that is named so; see `captions_of`."""
        name = caption_key([name for name in self._rows.schema.names if name != self._column])
        return None if name is None else [caption_in(value) for value in self._rows.column(name)]

    def _image_column(self) -> str:
        columns = image_columns(self._rows.schema)
        declared = [name for name in columns if self._features.get(name, {}).get("_type") == "Image"]
        named = [name for name in columns if name.lower() in _IMAGE_COLUMNS]
        for some in (declared, named, columns):
            if len(some) == 1:
                return some[0]
        if columns:
            raise UserError(
                f"{self.address} has several columns of images ({', '.join(columns)}): write a table with one "
                "of them, or call it image"
            )
        raise UserError(
            f"{self.address} has no column of encoded images among {', '.join(self._rows.schema.names)}: it needs "
            "one of bytes, or of paths named image"
        )

    def _classes(self, labels: str | None) -> Labelled:
        names = self._rows.schema.names
        if labels == NONE:
            return Labelled()
        if labels is None:
            declared = [name for name in names if self._features.get(name, {}).get("_type") == "ClassLabel"]
            plain = {name.lower(): name for name in reversed(names) if name != self._column}
            usual = [name if name in names else plain[name] for name in _LABEL_COLUMNS if name in plain]
            if not (len(declared) == 1 or usual):
                others = [name for name in names if name != self._column]
                sentence = f"no column of labels among {few(others, 8)}: --data.labels COLUMN takes one"
                return Labelled(passed_over=(sentence,) if others else ())
            labels = declared[0] if len(declared) == 1 else usual[0]
        else:
            choose(f"column of {self.address}", labels, names)
        values = self._rows.column(labels)
        class_names = self._features.get(labels, {}).get("names")
        texts = [word_of(value) for value in values]
        wrong = [
            k
            for k, (value, text) in enumerate(zip(values, texts))
            if text is None or (class_names and not (isinstance(value, int) and 0 <= value < len(class_names)))
        ]
        if wrong:
            raise UserError(
                f"{self.address}: column {labels} holds {values[wrong[0]]!r} in {self._rows.place(wrong[0])}, "
                f"which is no label ({len(wrong)} such rows): name another column, or none"
            )
        if class_names:
            return Labelled(
                np.array(values, np.int64), tuple(map(shown, class_names)), f"labels from the column {labels}"
            )
        return from_values(texts, self.address, f"the column {labels}", self.name)


def image_columns(schema: Any) -> list[str]:
    """Return the columns that could hold images: of bytes, of `{bytes, path}`, or of paths under a telling
    name."""
    import pyarrow as pa

    columns = []
    for field in schema:
        kind = field.type
        encoded = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        nested = pa.types.is_struct(kind) and {"bytes", "path"} & {inner.name for inner in kind}
        text = (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and field.name in (
            *_IMAGE_COLUMNS,
            "path",
            "file_name",
        )
        if encoded or nested or text:
            columns.append(field.name)
    return columns


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's library has noted about the columns."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: kind for name, kind in noted.items() if isinstance(kind, dict)}


def without_images(path: Path) -> bool:
    """Return whether a Parquet file is a table of something else, such as the addresses from which images were
    fetched."""
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        return True
    try:
        return not image_columns(parquet.read_schema(path))
    except (OSError, ArrowException):
        return False


def open_tables(
    paths: Sequence[Path], *, address: str, labels: str | None, passed_over: Sequence[str] = ()
) -> Table:
    """Open the rows of Parquet or Arrow files, one after the other.

    passed_over: other files of the address, in words.
    """
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
            passed_over=passed_over,
        )
    except OSError as error:
        raise UserError(f"cannot read {address}: {error}") from None
    except pa.ArrowException as error:
        for path in paths:
            if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
                raise UserError(
                    f"{path} is a pointer of Git LFS, not the table: git lfs pull fetches it"
                ) from None
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
    """A pyarrow table, mapped from a file or in memory, of which any row can be read at once."""

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
    """Parquet files, unpacked one row group at a time: quick in order, slow in any other.

    Data sets are decoded or encoded in order, once, so no copy that allows any order is made.
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
