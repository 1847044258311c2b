"""Links of README.md, CHANGELOG.md and docs/: each names a file, and a section, that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_layout import ALLOWED

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def text(page: Path) -> str:
    return CODE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the sections of a page."""
    titles = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere. Links to other sites are not checked."""
    found = []
    for link in LINK.findall(text(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_sections(page: Path) -> None:
    assert not broken(page)


def test_a_link_to_a_missing_file_or_section_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Other\n\n## A section, `named`\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#a-section-named) [b](https://example.org/x) [c](gone.md) [d](other.md#gone) [e](#nowhere)\n")

    assert broken(page) == ["gone.md", "other.md#gone", "#nowhere"]


PATH = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sh|yaml|md))`")
EXAMPLES = {"web.yaml", "utils.py"}
INTERNAL = [ROOT / "docs" / name for name in ("architecture.md", "internals.md", "testing.md", "style.md")]


@pytest.mark.parametrize("page", INTERNAL, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    """A path is below the repository, the package or a package of the same line or table; a bare name is somewhere in them."""
    known = {
        path.relative_to(ROOT).as_posix()
        for top in ("reconciler", "tests", "docs", "deploy")
        for path in (ROOT / top).rglob("*.*")
    }
    named = set(PATH.findall(page.read_text())) - EXAMPLES

    assert not [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in known)]


def test_the_table_of_packages_is_that_of_the_layout_test() -> None:
    """Each row names the imports, or the row above whose imports it has besides that row's package."""
    documented: dict[str, set[str]] = {}
    for package, imports in re.findall(
        r"^\| `(\w+)` \|.*\|([^|]*)\|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    ):
        names = re.findall(r"`(\w+)`", imports)
        documented[package] = set(names).union(*(documented[name] for name in names if imports.strip().startswith("as")))

    assert documented == ALLOWED


def test_readme_links_every_page() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall((ROOT / "README.md").read_text())}

    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked
