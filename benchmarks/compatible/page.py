"""docs/compatibility.md, from the record."""

from typing import Any


def write(rows: list[dict[str, Any]]) -> str:
    return ""
