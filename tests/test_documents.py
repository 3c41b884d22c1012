"""The documents: links lead somewhere, code blocks run, the front page stays short."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
import re
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token
import pytest

import numpyro_sumo

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
REPORTS = sorted((ROOT / "benchmarks" / "results").glob("*/report.md"))
MOST_WORDS = 900


@cache
def tokens_of(page: Path) -> list[Token]:
    """The page's Markdown tokens, those inside paragraphs and table cells included."""
    blocks = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    return [token for block in blocks for token in (block, *(block.children or []))]


def relative_targets(page: Path) -> Iterator[tuple[str, str]]:
    """Path and anchor of each link and picture on a page that leads into the repository."""
    for token in tokens_of(page):
        target = token.attrs.get("href") or token.attrs.get("src")
        if target and not re.match(r"[a-z]+:", str(target)):
            path, _, anchor = unquote(str(target)).partition("#")
            yield path, anchor


@cache
def anchors_of(page: Path) -> set[str]:
    """Anchors of the page's headings, as GitHub makes them."""
    tokens = tokens_of(page)
    headings = [
        "".join(part.content for part in inline.children or [])
        for opening, inline in zip(tokens, tokens[1:])
        if opening.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [*PAGES, *REPORTS], ids=name_of)
def test_relative_links_lead_to_files_that_exist(page):
    missing = [path for path, _ in relative_targets(page) if not (page.parent / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, *REPORTS], ids=name_of)
def test_anchors_lead_to_headings_that_exist(page):
    missing = []
    for path, anchor in relative_targets(page):
        target = (page.parent / path).resolve() if path else page
        if anchor and target.exists() and anchor not in anchors_of(target):
            missing.append(f"{path}#{anchor}")
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_blocks_are_doctests_or_marked_as_text(page):
    for token in tokens_of(page):
        if token.type == "fence":
            is_doctest = token.info == "python" and token.content.startswith(">>>")
            assert is_doctest or token.info == "text", token.content


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= MOST_WORDS


def test_the_readme_leads_to_every_page():
    linked = {(ROOT / path).resolve() for path, _ in relative_targets(README)}
    assert linked >= set((ROOT / "docs").glob("*.md"))


def test_the_citation_names_the_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {numpyro_sumo.__version__}\n" in citation
