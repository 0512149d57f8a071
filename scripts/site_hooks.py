"""Hooks of mkdocs.yml: pages outside docs/ join the site, and links between the two are rewritten and checked.

A file of the repository keeps its path: below docs/ it is the site's own, elsewhere it lies in repository/.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages outside docs/, and every file that a page there or here links to."""
    inside = [ROOT / "docs" / file.src_uri for file in files.documentation_pages()]
    linked = {place for page in (*inside, *map(ROOT.joinpath, PAGES)) for place in _linked(page)}
    for place in sorted({*PAGES, *(uri for uri in linked if not uri.startswith("docs/"))}):
        if (ROOT / place).is_file():
            files.append(File.generated(config, _on_site(place), abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    place = here.removeprefix("repository/") if here.startswith("repository/") else f"docs/{here}"
    folder = posixpath.dirname(place)

    def moved(link: re.Match[str]) -> str:
        target = _on_site(posixpath.normpath(posixpath.join(folder, link[1])))
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    return _LINK.sub(moved, markdown)


def _linked(page: Path) -> set[str]:
    folder = page.parent.relative_to(ROOT)
    return {posixpath.normpath(folder / target) for target in _LINK.findall(page.read_text())}


def _on_site(place: str) -> str:
    return place.removeprefix("docs/") if place.startswith("docs/") else f"repository/{place}"
