"""The page of a report from its template, and the tables of figures in it. All text that goes in is escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..evaluation.results import setting_words
from .captions import MEANINGS, METRICS
from .plots import sheet


def setting(result: Mapping[str, Any]) -> str:
    """How samples were made, as in `1 NFE`. result: of evaluation.json."""
    return setting_words(result, unsaid="ode")


def page(**parts: Any) -> str:
    """Return the whole document. parts: what report.html.jinja names."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["sheet"] = sheet
    return environment.get_template("report.html.jinja").render(parts)


def score_table(scores: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of evaluation.json: the head, and rows of title, meaning and values. results: the columns."""
    rows, halves = [], scores["halves"]
    distance = scores.get("distance", "frechet")
    titles = METRICS if distance == "frechet" else {**METRICS, "frechet": f"{distance} ↓"}
    for name in dict.fromkeys([*halves, *(name for result in results for name in result["figures"])]):
        values = [*(result["figures"].get(name) for result in results), *([halves.get(name)] if halves else [])]
        rows.append((titles.get(name, name), MEANINGS.get(name, ""), values))
    head = ["Metric", *(setting(result) for result in results), *(["Real halves"] if halves else [])]
    return {"head": head, "rows": rows}


def copies(scores: Mapping[str, Any]) -> str:
    """Return the two figures about memorising by setting, in words; nothing where they were not measured."""
    halves = scores["halves"]
    if "copies" not in halves:
        return ""
    settings = [*((setting(r), r["figures"]) for r in scores["results"]), ("real ones among themselves", halves)]
    return "; ".join(f"{name}: {f['neighbour']:.3f}, {100 * f['copies']:.1f} %" for name, f in settings)
