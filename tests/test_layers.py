"""Imports only go back along the way of the data, and there is no circle between packages."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "alphaflow"

ORDER = (
    *("errors", "npy", "pixels", "rng", "condition", "path"),
    *("files", "fetched", "devices", "processes", "progress"),
    *("derivatives", "models", "data", "metrics", "method", "encoding", "generation", "runs", "parallel"),
    *("evaluation", "diagnostics", "observers", "training", "costs", "reports"),
    *("export", "runtimes", "importing", "demo", "recipes", "cli", "__main__"),
)
"""Along the way of the data. A module may import its own package and those before it."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def modules() -> dict[str, Path]:
    """All modules by their dotted names below the package, without its own `__init__`: that one only names where
    things are, and loads them on use."""
    return {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, at its top or inside its functions, as dotted names below the package."""
    here = ["alphaflow", *path.relative_to(PACKAGE).parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # a name from a package may be a module of it, or a thing in its __init__
                inner = f"{name}.{alias.name}"
                place = PACKAGE.joinpath(*inner.split(".")[1:])
                found.add(inner if place.is_dir() or place.with_suffix(".py").is_file() else name)
    return {name.removeprefix("alphaflow.") for name in found if name.startswith("alphaflow.")}


def top(name: str) -> str:
    return name.split(".")[0]


def test_every_module_has_its_place():
    unknown = sorted({top(name) for name in modules()} - set(ORDER))
    assert not unknown, f"put {', '.join(unknown)} into the order of {Path(__file__).name} and CONTRIBUTING.md"
    assert not set(ORDER) - {top(name) for name in modules()}


def test_imports_only_go_back_to_what_comes_before():
    place = {name: number for number, name in enumerate(ORDER)}
    wrong = [
        f"{source} imports {target}"
        for source, path in modules().items()
        for target in sorted(imports_of(path))
        if place.get(top(target), -1) > place[top(source)]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_list_is_the_one_that_contributors_read():
    text = (PACKAGE.parents[1] / "CONTRIBUTING.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = [re.sub(r"[/`]|\.py", "", name) for row in rows for name in row.replace(",", " ").split()]
    assert named == [name for name in ORDER if name != "__main__"]


def test_no_modules_import_each_other_in_a_circle():
    edges = {name: imports_of(path) for name, path in modules().items()}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(edges.get(module, ())):
                walk(target, (*path, module))
            done.add(module)

    for module in edges:
        walk(module, ())


def test_the_scanner_sees_every_form_of_import(tmp_path, monkeypatch):
    """So that the tests above cannot pass by blindness."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    file = tmp_path / "models" / "dit.py"
    file.parent.mkdir()
    for name in ("recipes", "rng", "models/mlp"):
        (tmp_path / name).with_suffix(".py").touch()
    file.write_text(
        "import torch, alphaflow.training.loop\nfrom alphaflow.cli import main\nfrom alphaflow import recipes\n"
        "from .. import rng, __version__\nfrom ..errors import choose\nfrom .unet import UNet\n"
        "from . import mlp, DiT\n"
        "def late():\n    from ..report import write\n"
    )
    within = {"models.unet", "models.mlp", "models"}
    assert imports_of(file) == {"training.loop", "cli", "recipes", "rng", "errors", "report", *within}
    assert name_of(file) == "models.dit"


def test_what_comes_first_loads_alone():
    """The rule again, seen from a running interpreter."""
    names = ORDER[: ORDER.index("data")]
    code = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module('alphaflow.' + name)\n"
        f"loaded = {{name.split('.')[1] for name in sys.modules if name.startswith('alphaflow.')}}\n"
        f"assert loaded == set({names!r}), loaded"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "statement", ["import alphaflow", "from alphaflow import UserError", "dir(__import__('alphaflow'))"]
)
def test_importing_the_package_does_not_import_torch(statement):
    code = f"{statement}\nimport sys\nassert not {{'torch', 'numpy', 'scipy'}} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_names_for_type_checkers_are_the_names_that_load():
    """`__init__` lists every public name twice: under TYPE_CHECKING and in the table of homes."""
    import alphaflow

    checked = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            checked |= {alias.name: "." + node.module if node.module else "" for alias in node.names}
    assert checked == alphaflow._HOME
    assert set(alphaflow.__all__) == {*checked, "__version__"}


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import alphaflow

    with pytest.raises(AttributeError, match="no attribute 'AlphaFlows'"):
        _ = alphaflow.AlphaFlows


def test_sampling_does_not_load_what_only_many_processes_need():
    """Half a second of every start."""
    words = "import sys, alphaflow; alphaflow.load; sys.exit('torch.distributed.fsdp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
