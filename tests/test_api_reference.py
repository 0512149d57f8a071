"""docs/api/ is what the docstrings say."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
PAGES = SCRIPTS.parent / "docs" / "api"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_the_pages_are_up_to_date():
    words = [sys.executable, str(SCRIPTS / "api_reference.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_page_that_is_out_of_date_is_named(monkeypatch, tmp_path, capsys):
    reference = import_module("api_reference")
    monkeypatch.setattr(reference, "OUT", tmp_path)
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    page = tmp_path / "models.md"
    page.write_text(page.read_text().replace("adaLN-zero", "adaLN-one"))
    (tmp_path / "forgotten.md").write_text("of a module that is gone")
    assert reference.main(["--check"]) == 1
    assert "docs/api/models.md" in (said := capsys.readouterr().err) and "docs/api/forgotten.md" in said
    assert reference.main([]) == 0
    assert not (tmp_path / "forgotten.md").exists() and "adaLN-zero" in page.read_text()


def test_what_is_listed_is_there_and_says_what_it_is():
    reference = import_module("api_reference")
    for _, modules in reference.PAGES.values():
        for name in modules:
            there = import_module(f"alphaflow.{name}")
            for entry in reference.Module(name).entries():
                assert hasattr(there, entry.name), f"alphaflow.{name}.{entry.name}"
                explained = entry.text or "\n        # " in entry.code
                assert explained, f"alphaflow.{entry.module}.{entry.name} needs a docstring"


def test_every_name_of_the_package_itself_is_in_the_index():
    import alphaflow

    index = (PAGES / "README.md").read_text()
    missing = [name for name in alphaflow.__all__ if name != "__version__" and f"`af.{name}`" not in index]
    assert not missing


def test_links_of_the_index_lead_somewhere():
    links = re.findall(r"\((\w+\.md)#([\w.]+)\)", (PAGES / "README.md").read_text())
    assert len(links) > 100
    for page, anchor in links:
        assert f'<a id="{anchor}"></a>' in (PAGES / page).read_text(), f"{page}#{anchor}"


def test_docstrings_become_markdown():
    text = """Say it. The shape is (B, *shape), with 0 < t; `a < b` is code.

    x = y²   +  1
    z = 3

x: the first, over
    two lines. y, z: the others.

Note: no name of the function, hence no item.

Args:
    kind: one of
        near    next to it
        far     not so

Raises:
    ValueError: when it does not fit.
"""
    flow = import_module("api_markdown").flow
    assert (
        flow(text, {"x", "y", "z", "kind"})
        == r"""Say it. The shape is (B, \*shape), with 0 &lt; t; `a < b` is code.

```text
x = y²   +  1
z = 3
```

- `x`: the first, over
  two lines.
- `y, z`: the others.

Note: no name of the function, hence no item.

**Args**

- `kind`: one of

  ```text
  near    next to it
  far     not so
  ```

**Raises**

- `ValueError`: when it does not fit."""
    )


def test_signatures_are_written_as_in_the_source():
    reference = import_module("api_reference")
    entries = {entry.name: entry for entry in reference.Module("sampling").entries()}
    assert entries["jump"].code == (
        "jump(\n    net: Network,\n    z: Tensor,\n    t: float | Tensor,\n    r: float | Tensor,\n"
        "    y: Tensor | None = None,\n) -> Tensor"
    )
    assert entries["grid"].code == (
        "grid(nfe: int, *, start: float = 1.0, midpoint: float | None = None) -> tuple[float, ...]"
    )
