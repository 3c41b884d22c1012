import pytest

from benchmarks.common import documents


@pytest.mark.parametrize("document", documents.existing())
def test_the_tables_of_documents_are_those_of_the_results(document):
    text = (documents.ROOT / document).read_text()
    assert documents.filled_in(document) == text, "run python -m benchmarks.common.documents"


@pytest.fixture
def readme(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    return tmp_path / "README.md"


def test_blocks_are_replaced_and_other_text_is_kept(readme, monkeypatch):
    monkeypatch.setitem(documents.DOCUMENTS, "README.md", {"a": lambda folder: f"in {folder.name}"})
    readme.write_text("1\n<!-- begin a -->\nold\n<!-- end a -->\n2\n")
    documents.main()
    expected = f"1\n<!-- begin a -->\nin {readme.parent.name}\n<!-- end a -->\n2\n"
    assert readme.read_text() == documents.filled_in("README.md") == expected


def test_unknown_blocks_are_refused(readme):
    readme.write_text("<!-- begin funel -->\n<!-- end funel -->\n")
    with pytest.raises(ValueError, match="got 'funel'"):
        documents.filled_in("README.md")


@pytest.mark.parametrize(
    "document, name",
    [(document, name) for document, blocks in documents.DOCUMENTS.items() for name in blocks],
)
def test_every_block_has_a_table_and_links_to_existing_pictures(document, name):
    folder = (documents.ROOT / document).parent
    text = documents.DOCUMENTS[document][name](folder)
    assert "| :--" in text and "ran away" not in text
    for picture in text.split("](")[1:]:
        file = picture.partition(")")[0]
        # docs/ may not exist, so that the path cannot be opened as it is.
        assert (documents.ROOT / file.removeprefix("../")).exists()


def test_the_readme_has_short_tables():
    blocks = documents.DOCUMENTS["README.md"]
    funnel, price = (blocks[name](documents.ROOT) for name in ("funnel", "price"))
    assert funnel.count("![") == 1
    assert "| 1 % quantile of v (exact −3.14) | seconds to train |" in funnel
    assert all(line.count("|") == 5 for line in funnel.splitlines()[2:])
    assert 3 <= len(price.splitlines()) <= 6
