"""Docstrings as Markdown: sections and lists of names become lists, indented text keeps its layout."""

import re
from collections.abc import Collection
from textwrap import dedent

SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Yields")
_ITEM = re.compile(r"^([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*):(?: (.*))?$")
_COLUMNS = re.compile(r"\S {2,}\S")  # a line of a table set with spaces


def summary(text: str) -> str:
    """The first paragraph, on one line, for a table."""
    return escape(" ".join(text.strip().split("\n\n")[0].split())).replace("|", r"\|")


def flow(text: str, known: Collection[str] = ()) -> str:
    """A whole docstring; `known` are names that begin items of a list where a colon follows them."""
    return "\n\n".join(_block(block, known) for block in _blocks(text) if block.strip())


def _blocks(text: str) -> list[str]:
    """Paragraphs; a section with its items is one, and so is what is indented, blank lines included."""
    blocks: list[str] = []
    for part in re.split(r"\n\s*\n", dedent(text).strip("\n")):
        previous = blocks[-1] if blocks else ""
        both_indented = part.startswith("  ") and previous.startswith("  ")
        if both_indented or (part.startswith("  ") and _section(previous)):
            blocks[-1] += "\n\n" + part
        else:
            blocks.append(part)
    return blocks


def _section(block: str) -> str | None:
    first = block.split("\n")[0].rstrip()
    return first[:-1] if first.endswith(":") and first[:-1] in SECTIONS else None


def _block(block: str, known: Collection[str]) -> str:
    if name := _section(block):
        body = dedent(block.split("\n", 1)[1]) if "\n" in block else ""
        items = name in ("Args", "Raises", "Attributes")
        return f"**{name}**\n\n" + (_items(body, known) if items else _paragraph(body))
    if block.startswith("  "):
        return f"```text\n{dedent(block)}\n```"
    return _items(block, known) if _begins_item(block, known) else _paragraph(block)


def _begins_item(block: str, known: Collection[str]) -> bool:
    match = _ITEM.match(block.split("\n")[0])
    return match is not None and set(match[1].split(", ")) <= set(known)


def _paragraph(text: str) -> str:
    """Prose, and deeper lines as they are set."""
    out: list[str] = []
    verbatim: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.startswith("  "):
            verbatim.append(line)
            continue
        if verbatim:
            out += ["", "```text", *dedent("\n".join(verbatim)).split("\n"), "```", ""]
            verbatim = []
        out.append(escape(line))
    return "\n".join(out).strip()


def _items(text: str, known: Collection[str]) -> str:
    """`name: what it is`, several on a line if they are known, each with the lines indented below it."""
    if known:
        name = "|".join(sorted(known, key=len, reverse=True))
        text = re.sub(rf"(?<=\.) (?=(?:{name})(?:, (?:{name}))*: )", "\n", text)
    groups: list[list[str]] = []
    for line in text.split("\n"):
        if groups and (line.startswith(" ") or not _ITEM.match(line)):
            groups[-1].append(line)
        else:
            groups.append([line])
    out = []
    for first, *rest in groups:
        match = _ITEM.match(first)
        head = f"- `{match[1]}`: {match[2] or ''}".rstrip() if match else f"- {first}"
        below = dedent("\n".join(rest))
        if sum(bool(_COLUMNS.search(line)) for line in rest) > 1:
            below = re.sub("^(?=.)", "  ", below, flags=re.MULTILINE)  # keep its columns
        body = _paragraph(below).split("\n") if rest else []
        if body and body[0].startswith("```"):
            body.insert(0, "")
        out.append("\n".join([escape(head), *(f"  {line}".rstrip() for line in body)]).rstrip())
    return "\n".join(out)


def escape(text: str) -> str:
    """Signs that Markdown would take for its own, outside `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    for k in range(0, len(parts), 2):
        plain = parts[k].replace("<", "&lt;")
        parts[k] = re.sub(r"(?<=[ (\[])\*(?=\w+[,)\]])", r"\\*", plain)
    return "".join(parts)
