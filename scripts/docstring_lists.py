"""A griffe extension: paragraphs of `name: meaning`, several on a line where they are short, become sections.

loss: scalar with gradient. per_sample: weighted losses (B,), detached.
"""

import re
from typing import Any

import griffe

_SECTIONS = ("Args:", "Attributes:", "Raises:")
_ITEM = re.compile(r"^([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): ")
_NAMES = re.compile(r"^    \w+(?:, \w+)+: ", re.MULTILINE)
_COLUMNS = re.compile(r"(?:^ +\S.*\S {3,}\S.*\n(?:^ {20,}\S.*\n)*){2,}", re.MULTILINE)
_STAR = re.compile(r"(?<=[ (\[])\*(?=\w)")


class NamedParagraphs(griffe.Extension):
    """Rewrites docstrings before griffe parses them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Puts `Args:` or `Attributes:` above paragraphs that begin with names of the object's own."""
        if obj.docstring is not None:
            known, title = _names(obj)
            parts = re.split(r"\n\s*\n", obj.docstring.value)
            obj.docstring.value = "\n\n".join(_paragraph(part, known, title) for part in parts)


def _names(obj: griffe.Object) -> tuple[set[str], str]:
    """What the object's own names are, and the section that explains them."""
    if isinstance(obj, griffe.Function):
        return {parameter.name for parameter in obj.parameters}, "Args"
    if isinstance(obj, griffe.Class):
        begin = obj.members.get("__init__")
        arguments = {p.name for p in begin.parameters} if isinstance(begin, griffe.Function) else set()
        return {*obj.members, *arguments}, "Attributes"
    return set(), ""


def _paragraph(text: str, known: set[str], title: str) -> str:
    """A paragraph without signs that Markdown would take for its own, as a section if it names something."""
    if text.startswith(" "):
        return text  # a formula or a table, as it is set
    pieces = re.split(r"(`[^`]*`)", text)
    text = "".join(p if p.startswith("`") else _STAR.sub(r"\\*", p.replace("<", "&lt;")) for p in pieces)
    if text.startswith(_SECTIONS):
        return _set(text)
    if not _begins(text, known):
        return text
    name = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    text = re.sub(rf"(?<=[.;]) (?=(?:{name})(?:, (?:{name}))*: )", "\n", text)
    # What goes on below an item is indented there, or not: griffe wants it so.
    deep = [
        line if _begins(line, known) or line.startswith("    ") else f"    {line}" for line in text.split("\n")
    ]
    return _set("\n".join([f"{title}:", *(f"    {line}" for line in deep)]))


def _begins(line: str, known: set[str]) -> bool:
    item = _ITEM.match(line)
    return item is not None and set(item[1].split(", ")) <= known


def _set(section: str) -> str:
    """Columns within an item become a block; names stay together, or griffe takes the second for a type."""
    deeper = re.compile("^(?=.)", re.MULTILINE)
    section = _COLUMNS.sub(lambda m: "\n" + deeper.sub("    ", m[0]) + "\n", section + "\n")
    return _NAMES.sub(lambda m: m[0].replace(", ", ",\N{NO-BREAK SPACE}"), section)
