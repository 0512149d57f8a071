"""Write docs/api/ from the docstrings.

    python scripts/api_reference.py            # write
    python scripts/api_reference.py --check    # status 1 if what is there is not what would be written

Sources are read, not imported: the pages do not depend on the machine, and nothing heavy loads. What is public:
the names in `__all__` of packages, and the documented names of single modules that don't begin with an underscore;
of classes, their fields and documented methods.
"""

import argparse
import sys
from pathlib import Path

from api_markdown import flow, summary
from api_sources import Entry, Module

OUT = Path(__file__).parents[1] / "docs" / "api"

PAGES: dict[str, tuple[str, list[str]]] = {
    "objective": (
        "The objective and its family",
        ["objectives", "members", "targets", "derivative", "guidance", "weighting", "steering", "compiled"],
    ),
    "foundations": (
        "Paths, times, schedules, random numbers",
        ["path", "times", "schedules", "rng", "ema", "errors"],
    ),
    "models": ("Networks", ["models"]),
    "sampling": ("Sampling, and trained generators", ["sampling", "generate"]),
    "data": ("Data", ["data"]),
    "metrics": ("Metrics", ["metrics"]),
    "evaluation": (
        "Evaluation, comparison, reports",
        ["evaluate", "results", "comparison", "stats", "report", "plan", "bench"],
    ),
    "encoding": ("Latents", ["encoding", "vae"]),
    "recipes": ("Recipes, settings, and what watches a run", ["recipes", "training.config", "training.observers"]),
    "formats": (
        "Other formats",
        ["importing", "export", "portable", "interop.onnx", "interop.program", "interop.hub"],
    ),
}

NOTE = "<!-- Written by scripts/api_reference.py from the docstrings: change those. -->"
INTRODUCTION = """What the package offers to a program, from the docstrings in its sources. Tensors: B rows, any
trailing shape; a network is `net(z, r, t, y=None) -> u`, as in [the time convention](foundations.md#path)."""


def page(title: str, modules: list[str]) -> str:
    """One page, module by module."""
    parts = [NOTE, f"# {title}", "[All names](README.md)"]
    for name in modules:
        module = Module(name)
        parts += [f'<a id="{name}"></a>\n\n## alphaflow.{name}', flow(module.text)]
        parts += [render(one) for one in module.entries()]
    return "\n\n".join(parts) + "\n"


def render(one: Entry, owner: str = "") -> str:
    """A heading, the code, the docstring; then the same of what is inside."""
    heading = f"#### {owner}.{one.name}" if owner else f'<a id="{one.module}.{one.name}"></a>\n\n### {one.name}'
    parts = [heading, f"```python\n{one.code}\n```"]
    if one.text:
        parts.append(flow(one.text, one.known))
    parts += [render(member, one.name) for member in one.members]
    return "\n\n".join(parts)


def page_of(module: str) -> str:
    """The page that a module is on, by itself or with its package."""
    for name, (_, modules) in PAGES.items():
        if module in modules or module.split(".")[0] in modules:
            return f"{name}.md"
    raise SystemExit(f"alphaflow exports names of alphaflow.{module}, which is on no page: add it to PAGES")


def index() -> str:
    """The names of `alphaflow` itself first, then every page with what is on it."""
    parts = [NOTE, "# API reference", INTRODUCTION, "## Names of `alphaflow` itself"]
    rows = ["| name | |", "|---|---|"]
    for name, home in sorted(Module("").homes().items()):
        if home:
            one = Module(home).definer(name).entry(name)
            text, link = one.text, f"{page_of(one.module)}#{one.module}.{name}"
        else:  # a module
            text, link = Module(name).text, f"{page_of(name)}#{name}"
        rows.append(f"| [`af.{name}`]({link}) | {summary(text)} |")
    parts.append("\n".join(rows))
    for name, (title, modules) in PAGES.items():
        parts.append(f"## [{title}]({name}.md)")
        for module in modules:
            entries = Module(module).entries()
            links = " · ".join(f"[`{one.name}`]({name}.md#{one.module}.{one.name})" for one in entries)
            parts.append(f"**alphaflow.{module}**: {links}")
    return "\n\n".join(parts) + "\n"


def main(words: list[str] | None = None) -> int:
    """Write the pages, or check them; the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/api/ from the docstrings.")
    parser.add_argument("--check", action="store_true", help="only say which pages are out of date")
    check = parser.parse_args(words).check
    wanted = {f"{name}.md": page(title, modules) for name, (title, modules) in PAGES.items()}
    wanted["README.md"] = index()
    there = {path.name: path.read_text() for path in OUT.glob("*.md")}
    stale = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if check:
        for name in stale:
            print(f"docs/api/{name} is out of date: run python scripts/api_reference.py", file=sys.stderr)
        return int(bool(stale))
    OUT.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in wanted:
            (OUT / name).write_text(wanted[name])
        else:
            (OUT / name).unlink()
    print(f"docs/api: {len(wanted)} pages, {len(stale)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
