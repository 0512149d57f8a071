"""docs/compatibility.md, from the record."""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

HEAD = """\
# What works with what

Written by [`benchmarks/compatibility.py`](../benchmarks/compatibility.py) from
[what it ran](../benchmarks/results/compatibility.jsonl): tiny networks with random weights, on a CPU. It runs
what the
record has not yet (`make compatibility`: part of it); what is not here has not been run.
"""

INTRO = {
    "networks": """\
`way` is what `auto` takes (fused, forward, reverse, difference; [du/dt](derivative.md) says what they are). Errors
are relative, ‖a − b‖ / ‖b‖: b is u and du/dt by extrapolated central differences, and the gradient of a step by a
second pass, all in float64. Under bfloat16 autocast the way is the same. `checkpoints`, `half frozen` and `in two`
are errors of the gradient with the network's own checkpointing (non-reentrant; –: it has none), with every second
weight frozen, and accumulated over two halves of the batch. Networks that know one time are told t − r by a shift
and scale of their input's channels. Times are what the library's pipelines give: most multiply them by 1000, which
costs float32 about 1e-5 of du/dt.
""",
    "autoencoders": """\
`encoded`: latents that `alphaflow encode` stored, which are float16, against diffusers' own. `decoded`:
pictures of
the same latents against its own `decode`. `scaled, decoded`: from what a pipeline hands its network, back to
pictures.
""",
    "runtimes": """\
Relative errors of samples of networks with random weights, against torch in float32. `unasked` is OpenVINO
compiled
without a word about precision: `told` is what it then says it computes in.
""",
    "schedulers": """\
Relative errors against `alphaflow.sample` with the same noise and network. FlowMatchEulerDiscreteScheduler is
compared
with `--method euler`, FlowMapEulerDiscreteScheduler with `ode`.
""",
}
FAILED = "not supported"


def write(rows: list[Row]) -> str:
    """The page."""
    parts = [HEAD]
    for group, (title, table) in TABLES.items():
        chosen = [row for row in rows if row["group"] == group]
        if not chosen:
            continue
        parts.append(f"## {title}\n")
        parts.append(INTRO[group])
        parts.append(f"{source(chosen)}\n")
        whole = [row for row in chosen if "failed" not in row]
        parts.append(table(whole))
        missing = [f"- {row['name']}: {FAILED} ({row['failed']})" for row in chosen if "failed" in row]
        parts += ["\n".join(missing) + "\n"] if missing else []
    return "\n".join(parts).rstrip() + "\n"


def source(rows: list[Row]) -> str:
    """Versions and dates."""
    versions = sorted({", ".join(f"{name} {number}" for name, number in row["versions"].items()) for row in rows})
    dates = sorted({row["date"] for row in rows})
    return f"{len(rows)} rows; {'; '.join(versions)}; {' – '.join(dict.fromkeys([dates[0], dates[-1]]))}."


def number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return "0" if value == 0 else f"**{value:.2g}**" if value > 0.1 else f"{value:.0e}".replace("e-0", "e-")
    return str(value)


def table(columns: dict[str, Callable[[Row], Any]]) -> Callable[[list[Row]], str]:
    """A table with a line a row."""

    def made(rows: list[Row]) -> str:
        lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(number(column(row)) for column in columns.values())} |" for row in rows]
        return "\n".join(lines) + "\n"

    return made


def cell(part: str, name: str) -> Callable[[Row], Any]:
    def found(row: Row) -> Any:
        value = row.get(part)
        return value.get(name) if isinstance(value, dict) else "error" if isinstance(value, str) else None

    return found


def networks(rows: list[Row]) -> str:
    """The table, what was passed over and why, and what to do about cells that are far off."""
    columns = {"network": lambda row: row["name"], "way": lambda row: row["way"]}
    columns |= {f"{name}, float32": cell("float32", name) for name in ("u", "du/dt", "gradient")}
    columns |= {f"{name}, bfloat16": cell("bfloat16", name) for name in ("u", "du/dt", "gradient")}
    columns |= {"checkpoints": cell("checkpointing", "gradient"), "half frozen": cell("frozen", "gradient")}
    columns |= {"in two": cell("accumulated", "gradient")}
    why = [f"- {row['name']}: {row['way']}; {row['why'].replace('|', '/')}" for row in rows if row["why"]]
    errors = [
        f"- {row['name']}, {part}: {value.replace('|', '/')}"
        for row in rows
        for part, value in row.items()
        if part in CELLS and isinstance(value, str)
    ]
    text = table(columns)(rows)
    text += f"\nOf {len(rows)} networks, " + ", ".join(
        f"{sum(row['way'] == way for row in rows)} go by `{way}`"
        for way in ("fused", "forward", "reverse", "difference")
    )
    text += ". Why not by a cheaper one:\n\n" + "\n".join(why) + "\n"
    if errors:
        text += "\nCells that stopped with an error:\n\n" + "\n".join(errors) + "\n"
    return text + INSTEAD


CELLS = ("float32", "bfloat16", "checkpointing", "frozen", "accumulated")
INSTEAD = """
What is far off (bold), and what to do:

- **Flux, Chroma, LongCat-Image, Ovis-Image, Qwen-Image under autocast**: they cast the time to the type of the
  embedded tokens, bfloat16 there, and the first four then multiply it by 1000; du/dt is that at another time. The
  columns are of the way that float32 takes; under autocast `auto` refuses Flux in one line. Let its input layer
  give float32: `net.x_embedder.register_forward_hook(lambda module, args, out: out.float())` (Flux: du/dt off by
  6e-3 then, instead of 0.69; `findings/flux-time-under-autocast.sh`).
- **HiDream** in `eval()`: its experts leave the graph, and differences are too coarse for times × 1000, so that
  `auto` refuses it. Its experts have a gradient in `train()`.
- **Kandinsky 3** in bfloat16: u itself is off; use float32.
"""

TABLES: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
    "networks": ("Networks × ways to take du/dt", networks),
    "autoencoders": (
        "Autoencoders of diffusers",
        table(
            {
                "class": lambda row: row["name"],
                "rank": lambda row: row["rank"],
                "channels": lambda row: row["channels"],
                "compression": lambda row: row["compression"],
                "a Gaussian": lambda row: "yes" if row["variance"] else "no",
                "its makers' scale": lambda row: row["scale"],
                "encoded": lambda row: row["encoded"],
                "decoded": lambda row: row["decoded"],
                "scaled, decoded": lambda row: row.get("scaled, decoded"),
            }
        ),
    ),
    "runtimes": (
        "Runtimes × precisions",
        table(
            {
                "network, runtime": lambda row: row["name"],
                "one step": lambda row: row["one step"],
                "four steps": lambda row: row["four steps"],
                "told": lambda row: row.get("told"),
            }
        ),
    ),
    "schedulers": (
        "In diffusers: our exports, and its own schedulers",
        lambda rows: schedulers(rows),
    ),
}


def schedulers(rows: list[Row]) -> str:
    """Two tables: our pipelines, and its schedulers on our network."""
    ours = [row for row in rows if row["name"].startswith("export")]
    theirs = [row for row in rows if row not in ours]
    ways = [f"{method}, {steps}" for method in ("ode", "consistency", "euler") for steps in (1, 4)]
    first = table({"": lambda row: row["name"]} | {way: cell_of(way) for way in ways})(ours)
    second = table(
        {"": lambda row: row["name"]}
        | {f"{steps} steps" if steps != "1" else "1 step": cell_of(steps) for steps in ("1", "2", "4")}
        | {"its times of 2": lambda row: ", ".join(map(str, row["times of 2"]))}
    )(theirs)
    return f"{first}\n{second}\n{SIGMAS}"


def cell_of(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


SIGMAS = """\
Asked for a number of steps, FlowMatchEulerDiscreteScheduler ends at 0.001 instead of stepping evenly, so that
the last of
them does next to nothing: hand it the times, `sigmas=[1 - k / n for k in range(n)]`, and no shift. It passes
u(z, t, t)
alone; our export's own scheduler takes jumps.
"""
