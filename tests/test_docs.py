"""Links of README.md, CHANGELOG.md and docs/: each names a file, and a section, that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


def test_readme_links_every_page() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall((ROOT / "README.md").read_text())}

    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked
