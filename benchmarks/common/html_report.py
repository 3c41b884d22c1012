"""A page beside each report: the same text, its pictures inside, its tables to be sorted.

Run ``python -m benchmarks.html_report`` to make the page of every report anew from what is there; a
test holds each against its report.
"""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
import re
import struct
import sys
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

HERE = Path(__file__).parent
RESULTS = HERE / "results"

#: Pixels of our pictures to each of the page's, of which there are 96 to the inch.
_SHARPNESS = 130 / 96
_PNG = b"\x89PNG\r\n\x1a\n"


def write_report(folder: Path, text: str) -> None:
    """Writes ``report.md`` and ``report.html`` into a folder where the report's pictures are.

    :param text: in Markdown, its title first.
    :raises ValueError: in one line, where there is no title, or a picture is missing.
    """
    made = page(text, folder)
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(made)


def page(text: str, folder: Path) -> str:
    """The report as one HTML file that needs no other.

    :param text: in Markdown, its title first.
    :param folder: where its pictures are, as PNG.
    :raises ValueError: in one line, where there is no title, or a picture is missing.
    """
    markdown = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = markdown.parse(text)
    if not tokens or tokens[0].tag != "h1":
        begin = text.strip().partition("\n")[0][:40]
        raise ValueError(
            f"Expected a report that begins with its title; got '{begin}'. Put '# …' before it."
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
    """HTML of Markdown; a method for each kind of token that is not rendered as usual."""

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """The picture itself, in a button that enlarges it."""
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
        """A long call may be broken where an argument begins."""
        return f"<code>{escape(tokens[idx].content).replace('(', '(<wbr>')}</code>"

    def heading_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        """With a name for the contents to refer to."""
        if tokens[idx].tag == "h2":
            tokens[idx].attrSet("id", _name(tokens[idx + 1]))
        return self.renderToken(tokens, idx, options, env)

    def link_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        """From page to page, where the report refers to another report."""
        href = str(tokens[idx].attrs["href"])
        tokens[idx].attrSet("href", re.sub(r"(^|/)report\.md(?=#|$)", r"\1report.html", href))
        return self.renderToken(tokens, idx, options, env)

    def table_open(self, *_: object) -> str:
        """In a box of its own, which scrolls sideways."""
        return '<div class="table"><table>\n'

    def table_close(self, *_: object) -> str:
        """The end of table and box."""
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A header is a button that sorts."""
        tokens[idx].attrSet("scope", "col")
        label = "" if tokens[idx + 1].content else ' aria-label="first column"'
        return self.renderToken(tokens, idx, options, env) + f'<button type="button"{label}>'

    def th_close(self, *_: object) -> str:
        """The end of button and header."""
        return "</button></th>\n"


def _picture(file: Path) -> bytes:
    """What a PNG file holds."""
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
    """Links to the sections, where there are several."""
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
    """The words of a heading, without marks."""
    return "".join(child.content for child in heading.children or [])


def _name(heading: Token) -> str:
    """The words of a heading as a link can have them."""
    return re.sub(r"\W+", "-", _plain(heading).lower()).strip("-")


def main() -> int:
    """Makes all pages anew; returns the exit status."""
    for file in sorted(RESULTS.glob("*/report.md")):
        try:
            made = page(file.read_text(), file.parent)
        except ValueError as error:
            print(f"html_report: {error}", file=sys.stderr)
            return 2
        (file.parent / "report.html").write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
