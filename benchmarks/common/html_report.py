"""HTML pages of reports: one self-contained file with pictures and sortable tables.

Run ``python -m benchmarks.common.html_report`` to write the page of every report in
``benchmarks/results``. Pages are not committed.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
import re
import struct
import sys
from typing import Any
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from benchmarks.common.plots import DOTS_PER_INCH
from benchmarks.common.results import RESULTS, write_json, written_whole

HERE = Path(__file__).parent

#: Pixels of a picture per pixel of the page, which has 96 per inch.
_SHARPNESS = DOTS_PER_INCH / 96
_PNG = b"\x89PNG\r\n\x1a\n"


def write_report(folder: Path, text: str) -> None:
    """Write ``report.md`` and ``report.html`` into the folder that holds the report's pictures.

    :param text: the report in Markdown, starting with its title.
    :raises ValueError: if the title or a picture is missing; one line.
    """
    html = page(text, folder)
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(html)


def write_results(
    file: Path,
    results: dict[str, Any],
    report: Callable[[dict[str, Any]], str],
    draw_pictures: Callable[[Path], None] | None = None,
) -> None:
    """Write results as JSON with their pictures and report beside it, all files or none.

    :param draw_pictures: draws the report's pictures into a folder.
    """
    with written_whole(file.parent) as folder:
        write_json(folder / file.name, results)
        if draw_pictures is not None:
            draw_pictures(folder)
        write_report(folder, report(results))


def page(text: str, folder: Path) -> str:
    """The report as one self-contained HTML file.

    :param text: the report in Markdown, starting with its title.
    :param folder: holds its pictures, as PNG.
    :raises ValueError: if the title or a picture is missing; one line.
    """
    markdown = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = markdown.parse(text)
    if not tokens or tokens[0].tag != "h1":
        start = text.strip().partition("\n")[0][:40]
        raise ValueError(
            f"Expected a report that starts with its title; got '{start}'. Put '# …' before it."
        )
    render = lambda part: markdown.renderer.render(part, markdown.options, {"folder": folder})
    heading, rest = tokens[:3], tokens[3:]
    return f"""<!doctype html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(_plain(heading[1]))}</title>
<link rel="icon" href="data:,">
<style>
{(HERE / "html_report.css").read_text()}</style>
</head>
<body>
<main>
{render(heading)}{_contents(rest)}{render(rest)}</main>
<script type="module">
{(HERE / "html_report.js").read_text()}</script>
</body>
</html>
"""


class _Renderer(RendererHTML):
    """Renders Markdown as HTML; one method for each kind of token that is rendered differently."""

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """The picture as base64, in a button that enlarges it."""
        token = tokens[idx]
        data = _picture(env["folder"] / unquote(str(token.attrs["src"])))
        width, height = (round(size / _SHARPNESS) for size in struct.unpack(">2I", data[16:24]))
        alt = escape(self.renderInlineAsText(token.children, options, env))
        return (
            '<button class="picture" type="button" aria-expanded="false">'
            f'<img alt="{alt}" width="{width}" height="{height}" '
            f'src="data:image/png;base64,{b64encode(data).decode()}"></button>'
        )

    def code_inline(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        """Inline code that may be wrapped after an opening parenthesis."""
        return f"<code>{escape(tokens[idx].content).replace('(', '(<wbr>')}</code>"

    def heading_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        """A section heading with an id, to which the table of contents links."""
        if tokens[idx].tag == "h2":
            tokens[idx].attrSet("id", _name(tokens[idx + 1]))
        return self.renderToken(tokens, idx, options, env)

    def link_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        """A link to another report.md becomes a link to its page."""
        href = str(tokens[idx].attrs["href"])
        tokens[idx].attrSet("href", re.sub(r"(^|/)report\.md(?=#|$)", r"\1report.html", href))
        return self.renderToken(tokens, idx, options, env)

    def table_open(self, *_: object) -> str:
        """A table in a box that scrolls horizontally."""
        return '<div class="table"><table>\n'

    def table_close(self, *_: object) -> str:
        """The end of the table and its box."""
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A header cell with a button that sorts the column."""
        tokens[idx].attrSet("scope", "col")
        label = "" if tokens[idx + 1].content else ' aria-label="first column"'
        return self.renderToken(tokens, idx, options, env) + f'<button type="button"{label}>'

    def th_close(self, *_: object) -> str:
        """The end of the button and the header cell."""
        return "</button></th>\n"


def _picture(file: Path) -> bytes:
    """The bytes of a PNG file."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(
            f"Expected the report's picture '{file.name}' in '{file.parent}'; got none "
            f"({error.strerror}). Draw it before the report is written."
        ) from None
    if not data.startswith(_PNG):
        raise ValueError(f"Expected a picture in PNG; got '{file}'. Save it as PNG.")
    return data


def _contents(tokens: Sequence[Token]) -> str:
    """A table of contents, for a report with three sections or more."""
    headings = [tokens[i + 1] for i, token in enumerate(tokens) if _opens_section(token)]
    if len(headings) < 3:
        return ""
    links = "\n".join(
        f'<li><a href="#{_name(heading)}">{escape(_plain(heading))}</a></li>'
        for heading in headings
    )
    return f'<nav aria-label="Contents"><ul>\n{links}\n</ul></nav>\n'


def _opens_section(token: Token) -> bool:
    return token.type == "heading_open" and token.tag == "h2"


def _plain(heading: Token) -> str:
    """The text of a heading without markup."""
    return "".join(child.content for child in heading.children or [])


def _name(heading: Token) -> str:
    """The id of a heading: its words in lower case, joined by hyphens."""
    return re.sub(r"\W+", "-", _plain(heading).lower()).strip("-")


def main() -> int:
    """Write the page of every report; return the exit status."""
    for file in sorted(RESULTS.glob("*/report.md")):
        try:
            html = page(file.read_text(), file.parent)
        except ValueError as error:
            print(f"html_report: {error}", file=sys.stderr)
            return 2
        file.with_suffix(".html").write_text(html)
    return 0


if __name__ == "__main__":
    sys.exit(main())
