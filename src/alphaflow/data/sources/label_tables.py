"""The rows of a table of labels: CSV in its dialects, text with blanks, or JSON by lines."""

import csv
import io
import json
from pathlib import Path

from alphaflow.errors import UserError

from .base import SUFFIXES
from .classes import word_of

FILES = set(
    "file filename file_name filepath file_path path image image_path image_name img name picture photo".split()
)
IDS = {"image_id", "imageid", "id"}
NO_WORD = "\0"
"""The beginning of a cell that is neither a word nor a whole number, but another value of JSON."""
_LARGEST = 1 << 28

Rows = list[list[str]]


def read_table(file: Path) -> tuple[list[str] | None, Rows]:
    """Read a table: the header, where it is one for sure, and the rows, all of one length.

    Raises:
        UserError: the file is missing or no text, or a row has more cells than the first.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"labels {file} are refused: {file.stat().st_size} bytes are too many")
        return table_of(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"cannot read labels from {file} ({error.strerror}): give a CSV file") from None


def table_of(data: bytes, file: Path) -> tuple[list[str] | None, Rows]:
    """Return header and rows, as `read_table`, from the bytes of a file, which messages call `file`."""
    text = _text(data, file)
    if file.name.lower().endswith(".jsonl"):
        return _of_json(text, file)
    lines = io.StringIO(text, newline="")
    numbered = [(k, line) for k, line in enumerate(lines, 1) if line.strip()]
    mark = ""
    if numbered and numbered[0][1].lower().startswith("sep=") and len(numbered[0][1].rstrip("\r\n")) == 5:
        mark = numbered.pop(0)[1][4]  # Excel's own first line
    plain = [line.rstrip("\r\n") for _, line in numbered]
    first = [line for line in plain[:50] if not line.startswith("#")]
    mark = mark or _separator(first)
    if not any(mark in line for line in first):
        header, rows = _of_blanks(plain)
    else:
        header, rows = None, _of_marks(file, numbered, mark)
    if not rows or min(map(len, rows)) < 2:
        raise UserError(f"{file} has a row with fewer than two columns: it must name a file and a label in each")
    width = max(map(len, rows))
    if header is not None and len(header) != width:
        header = None
    return header, [row + [""] * (width - len(row)) for row in rows]


def _text(data: bytes, file: Path) -> str:
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # Excel's "Unicode text"
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"cannot read labels from {file} (it is not UTF-8 text): give a CSV file") from None


def _of_json(text: str, file: Path) -> tuple[list[str], Rows]:
    """Return columns and rows of JSON by lines, an object in each."""
    objects: list[dict[str, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise UserError(
                f'{file}: line {number} is no object of JSON such as {{"file_name": "1.png", "label": 0}}'
            )
        objects.append({key: _cell(value) for key, value in content.items()})
    header = list(dict.fromkeys(key for row in objects for key in row))
    if len(header) < 2:
        raise UserError(f"{file} has a row with fewer than two columns: it must name a file and a label in each")
    return header, [[row.get(key, "") for key in header] for row in objects]


def _cell(value: object) -> str:
    if value is None:
        return ""
    word = word_of(value)
    return NO_WORD + json.dumps(value) if word is None else word


def _of_marks(file: Path, numbered: list[tuple[int, str]], mark: str) -> Rows:
    """Return rows with a mark between their cells.

    The first says how many cells there are; a remark may hold it.
    """
    kept: list[tuple[int, str]] = []
    remarks, quotes = [], 0
    for k, line in numbered:
        if line.startswith("#") and quotes % 2 == 0 and not _names_image(line, mark):
            remarks.append(line.lstrip("#").strip().split(mark))
        else:
            kept.append((k, line))
            quotes += line.count('"')
    reader = csv.reader((line for _, line in kept), delimiter=mark)
    try:
        rows = [(int(reader.line_num), row) for row in reader if row]
    except csv.Error as error:
        most = csv.field_size_limit()
        problem = f"a cell of more than {most:,} characters" if "field larger" in str(error) else str(error)
        raise UserError(f"cannot read labels from {file} ({problem}): give a CSV file of labels") from None
    if not rows:
        return []
    header = next((words for words in remarks if words[0].strip().lower() in FILES | IDS), None)
    if header is not None and len(header) == len(rows[0][1]):
        rows.insert(0, (1, header))
    width = len(rows[0][1])
    if mark == "\t" and width > 1 and all(len(row) == width + 1 for _, row in rows[1:]) and len(rows) > 1:
        rows[0][1].insert(0, "")  # R gives the column of row names no name
        width += 1
    for number, row in rows:
        if any(cell.strip() for cell in row[width:]):
            raise UserError(
                f"{file} has {len(row)} cells in line {kept[number - 1][0]}, and {width} in its first: put quotes "
                f"about a cell that holds {mark!r}"
            )
    return [row[:width] for _, row in rows]


def _names_image(line: str, mark: str) -> bool:
    return line.partition(mark)[0].strip().lower().endswith(SUFFIXES)


def _separator(lines: list[str]) -> str:
    """Return the mark that stands equally often in all lines, or else is the most frequent in the first.

    It is a comma where there is none.
    """
    for mark in "\t;,|":
        if lines and min(line.count(mark) for line in lines) == max(line.count(mark) for line in lines) > 0:
            return mark
    return max(",;\t|", key=(lines or [""])[0].count)


def _of_blanks(lines: list[str]) -> tuple[list[str] | None, Rows]:
    """Return header and rows of columns with blanks between them.

    A header may stand in a remark, or lack the name of its first column.
    """
    remarks = [line.lstrip("#").split() for line in lines if line.startswith("#")]
    rows = [line.split() for line in lines if not line.startswith("#")]
    if rows and len(rows[0]) == 1 and rows[0][0].isdigit():  # CelebA begins with the number of images
        rows = rows[1:]
    if len(rows) > 1 and len(rows[1]) > 2 and len(rows[0]) == len(rows[1]) - 1:
        return ["", *rows[0]], rows[1:]
    if rows and len({len(row) for row in rows}) > 1 and all(len(row) > 1 for row in rows):  # blanks in the names
        rows = [line.rsplit(None, 1) for line in lines if not line.startswith("#")]
    header = next((words for words in remarks if words and words[0].lower() in FILES | IDS), None)
    if header is not None and rows and len(header) > len(rows[0]):
        header = header[: len(rows[0])]
    return header, rows
