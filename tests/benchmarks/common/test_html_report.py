import html
from html.parser import HTMLParser
import json
from pathlib import Path
import re
import shutil
import subprocess

import pytest

from benchmarks.common import html_report
from benchmarks.common.html_report import RESULTS, main, page, write_report

REPORT = """# A report of *figures*

See [another](../other/report.md#part), [this](report.md), [figures](figures.json).

## Figures

| | figure | words |
| :-- | --: | --: |
| a | −3.14 | ELBO(10) |
| b | – | ELBO(9) |
| c | **0.0006 … 0.0012 ± 0.0004** | – |
| d | 22.690 ± 0.015 | IWELBO |
| e | -1.9e+23 … 3.9e+11 | – … – |
| f | 12 % | 3 |
| g | **5 of 5 diverged** | a <b> & c |
| h | 5.1 + 32 | – |

## A picture

![Curves of "a" & b](a%20picture.png)

## Code

`ReverseKL(marginal=SUMO(num_particles=11, stopping_time=ReciprocalTail(knee=80, decay=0.0)))`
"""

PICTURE = RESULTS / "speed" / "draws.png"
REPORTS = {file.parent.name: file for file in sorted(RESULTS.glob("*/report.md"))}


@pytest.fixture(scope="module")
def pages():
    """The page of every committed report."""
    return {name: page(file.read_text(), file.parent) for name, file in REPORTS.items()}


@pytest.fixture
def folder(tmp_path):
    """A folder with the report's picture."""
    shutil.copy(PICTURE, tmp_path / "a picture.png")
    return tmp_path


class Elements(HTMLParser):
    """The tags of a page with their attributes; fails if they are not nested."""

    def __init__(self, text):
        super().__init__()
        self.found, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "wbr"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_report_and_page_are_written_side_by_side(folder):
    write_report(folder, REPORT)
    assert (folder / "report.md").read_text() == REPORT
    assert (folder / "report.html").read_text() == page(REPORT, folder)


def test_page_has_title_contents_tables_and_pictures(folder):
    text = page(REPORT, folder)
    assert "<title>A report of figures</title>" in text
    elements = Elements(text)
    assert [each["id"] for each in elements.named("h2")] == ["figures", "a-picture", "code"]
    links = [each["href"] for each in elements.named("a")]
    beside = ["../other/report.html#part", "report.html", "figures.json"]
    assert links == ["#figures", "#a-picture", "#code", *beside]
    assert len(elements.named("table")) == 1
    assert [each["scope"] for each in elements.named("th")] == 3 * ["col"]
    assert '<td style="text-align:right"><strong>5 of 5 diverged</strong></td>' in text
    assert "a &lt;b&gt; &amp; c" in text
    (picture,) = elements.named("img")
    assert picture["alt"] == 'Curves of "a" & b'
    assert picture["src"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert (picture["width"], picture["height"]) == ("614", "403")


def test_page_loads_nothing_from_outside(folder):
    text = without_pictures(page(REPORT, folder))
    assert "http" not in text.replace("http-equiv", "")
    assert not re.search(r"url\(|@import|\bimport\b|fetch\(", text)


def without_pictures(text):
    """The page without base64, which may contain any word."""
    return re.sub(r"(?<=base64,)[^\"]+", "", text)


BAD_REPORTS = {
    "no_title": ("Some text.\n", "starts with its title; got 'Some text.'. Put"),
    "nothing": ("", "starts with its title; got ''"),
    "no_picture": ("# A\n\n![b](b.png)\n", "picture 'b.png' in"),
    "network": ("# A\n\n![b](http://b.org/b.png)\n", "picture 'b.png' in"),
    "no_png": ("# A\n\n![b](b.txt)\n", "a picture in PNG; got"),
}


@pytest.mark.parametrize("text, message", BAD_REPORTS.values(), ids=BAD_REPORTS.keys())
def test_invalid_report_is_refused_in_one_line(text, message, tmp_path):
    (tmp_path / "b.txt").write_text("b")
    with pytest.raises(ValueError) as error:
        write_report(tmp_path, text)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["b.txt"]


def test_command_writes_every_page(folder, monkeypatch, capsys):
    monkeypatch.setattr(html_report, "RESULTS", folder.parent)
    (folder / "report.md").write_text(REPORT)
    assert main() == 0
    assert (folder / "report.html").read_text() == page(REPORT, folder)
    (folder / "a picture.png").unlink()
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("html_report: Expected the report's picture 'a picture.png'")


@pytest.mark.parametrize("name", REPORTS)
def test_pages_have_every_table_and_picture_of_their_reports(name, pages):
    file, text = REPORTS[name], pages[name]
    elements = Elements(text)
    names = [each["id"] for each in elements.named("h2")]
    assert len(set(names)) == len(names)
    assert len(elements.named("table")) == file.read_text().count("| :--") > 0
    assert len(elements.named("img")) == file.read_text().count("![")
    for link in elements.named("a"):
        beside, _, name = link["href"].partition("#")
        linked = file.parent / beside.replace("report.html", "report.md")
        assert linked.exists() if beside else name in names


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(BROWSERS)}")

#: Presses every button, and posts the result.
PROBE = """<script>
addEventListener("load", () => {
  const root = document.documentElement;
  const overflow = () => root.scrollWidth - root.clientWidth;
  const cells = (table, i) => [...table.tBodies[0].rows].map((row) => row.cells[i].innerText);
  const pressed = (table, header, i) => {
    header.querySelector("button").click();
    return [header.getAttribute("aria-sort"), cells(table, i)];
  };
  const found = { name: location.pathname, width: innerWidth, overflow: overflow() };
  found.tables = [...document.querySelectorAll("table")].map((table) =>
    [...table.querySelectorAll("th")].map((header, i) => ({
      written: cells(table, i),
      pressed: [1, 2, 3].map(() => pressed(table, header, i)),
    }))
  );
  found.pictures = [...document.images].map((picture) => {
    const { naturalWidth, width } = picture;
    picture.parentElement.click();
    return [naturalWidth, width, picture.width];
  });
  found.overflow_of_enlarged = overflow();
  found.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
  parent.postMessage(found, "*");
});
</script>
"""

#: A browser window cannot be as narrow as a phone; a frame can.
PHONES = """<!doctype html>
<link rel="icon" href="data:,">
<pre></pre>
<script>
const found = [];
onmessage = (event) => {
  found.push(event.data);
  document.querySelector("pre").textContent = JSON.stringify(found);
};
</script>
"""


def opened(pages, tmp_path):
    """What a browser reports on each page at a phone's width, and the lines of its console."""
    frames = ""
    for name, text in pages.items():
        (tmp_path / f"{name}.html").write_text(text.replace("</body>", f"{PROBE}</body>"))
        frames += f'<iframe src="{name}.html" width="390" height="844" style="border: 0"></iframe>'
    (tmp_path / "phones.html").write_text(PHONES + frames)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    options += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--dump-dom", (tmp_path / "phones.html").as_uri()]
    ended = subprocess.run(
        [BROWSER, *options], capture_output=True, text=True, timeout=120, check=True
    )
    posted = html.unescape(ended.stdout.partition("<pre>")[2].partition("</pre>")[0])
    found = {Path(each["name"]).stem: each for each in json.loads(posted)}
    assert found.keys() == pages.keys()
    return found, [line for line in ended.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def seen(tmp_path_factory, pages):
    """What a browser reports on all pages and a test page."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(PICTURE, folder / "a picture.png")
    return opened({"test_page": page(REPORT, folder), **pages}, folder)


@in_browser
def test_a_browser_shows_every_page_on_a_phone_without_errors(seen):
    found, console = seen
    assert console == []
    for name, of_page in found.items():
        assert of_page["width"] == 390
        assert of_page["overflow"] == of_page["overflow_of_enlarged"] == 0, name
        assert of_page["fetched"] == []
        for pixels, width, enlarged in of_page["pictures"]:
            assert 0 < width < 390 < enlarged <= pixels


@in_browser
@pytest.mark.parametrize("name", REPORTS)
def test_a_browser_shows_every_picture_and_sorts_every_table(name, seen):
    report, of_page = REPORTS[name].read_text(), seen[0][name]
    assert len(of_page["pictures"]) == report.count("![")
    assert len(of_page["tables"]) == report.count("| :--")
    for column in (column for table in of_page["tables"] for column in table):
        (up, ascending), (down, descending), (none, again) = column["pressed"]
        assert (up, down, none) == ("ascending", "descending", None)
        assert again == column["written"]
        assert sorted(ascending) == sorted(descending) == sorted(again)
        assert figures(ascending) == sorted(figures(ascending))
        assert figures(descending) == sorted(figures(descending), reverse=True)


def figures(cells):
    """The first number of each cell that starts with one and has no words outside parentheses."""
    bare = [re.sub(r"\(.*\)$", "", cell) for cell in cells]
    plain = [cell.replace("−", "-") for cell in bare if not re.search(r"[^\W\de_]", cell)]
    return [float(found[0]) for cell in plain if (found := re.match(r"-?\d[\d.]*(e\+\d+)?", cell))]


@in_browser
def test_numbers_sort_before_words_and_missing_values_last(seen):
    ((letters, numbers, words),) = seen[0]["test_page"]["tables"]
    assert letters["pressed"][1][1] == list("hgfedcba")
    in_order = ["-1.9e+23 … 3.9e+11", "−3.14", "0.0006 … 0.0012 ± 0.0004", "5.1 + 32"]
    in_order += ["12 %", "22.690 ± 0.015", "5 of 5 diverged"]
    assert numbers["pressed"][0][1] == [*in_order, "–"]
    assert numbers["pressed"][1][1] == [*in_order[::-1], "–"]
    in_order = ["3", "a <b> & c", "ELBO(9)", "ELBO(10)", "IWELBO"]
    assert words["pressed"][0][1] == [*in_order, "–", "– … –", "–"]
    assert words["pressed"][1][1] == [*in_order[::-1], "–", "– … –", "–"]


@in_browser
def test_a_browser_reports_errors_of_a_broken_page(folder):
    address = "http://127.0.0.1:49151/a.png"
    outside = f'<img src="{address}"><div style="width: 500px">wide</div></main>'
    blocked = page(REPORT, folder).replace("</main>", outside)
    pages = {
        "blocked": blocked.replace("for (const table of", "missing(); for (const table of"),
        "let_through": blocked.replace('http-equiv="Content-Security-Policy"', ""),
    }
    found, console = opened(pages, folder)
    for complaint in ("missing is not defined", "Content Security Policy"):
        assert any(complaint in line for line in console), console
    assert found["let_through"]["fetched"] == [address]
    assert found["blocked"]["tables"][0][0]["pressed"][0][0] is None
    for broken in found.values():
        assert broken["pictures"][-1][0] == 0 < broken["overflow"]
