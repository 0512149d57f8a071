"""The pages of public names: `make docs` checks their links; here, that nothing is missing from them."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import alphaflow

API = Path(__file__).parent.parent / "docs" / "api"
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
MODULES = [name for page in sorted(API.glob("*.md")) for name in DIRECTIVE.findall(page.read_text())]


def test_every_name_of_the_package_itself_is_on_a_page():
    listed = dict(re.findall(r"\[`af\.(\w+)`\]\[([\w.]+)\]", (API / "README.md").read_text()))
    assert set(listed) == set(alphaflow.__all__) - {"__version__"}
    for name, place in listed.items():
        assert place in MODULES or place.rpartition(".")[0] in MODULES, name


@pytest.mark.parametrize("name", MODULES)
def test_public_classes_and_functions_say_what_they_are(name):
    module = import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", [word for word in vars(module) if not word.startswith("_")]):
        value = getattr(module, public)
        ours = getattr(value, "__module__", "").startswith("alphaflow")
        if ours and (inspect.isclass(value) or inspect.isfunction(value)):
            made = value.__doc__ is None or value.__doc__.startswith(f"{public}(")  # what dataclass writes itself
            fields = inspect.getsource(value) if inspect.isclass(value) else ""
            by_fields = re.search(r'^    (# |""")', fields, re.MULTILINE)
            assert not made or by_fields, f"{name}.{public} needs a docstring"
