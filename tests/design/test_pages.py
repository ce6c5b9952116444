"""The generated pages: current, whole, and made of nothing but the schema, the rules and the shelves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.conftest import ROOT

from siredon.cli.pages import build_pages, write_pages
from siredon.config.codes import all_pages
from siredon.config.entries import all_names, find_entry
from siredon.config.names import INERT, REMOVED, RENAMED
from siredon.config.pages import slug
from siredon.config.schema import key_homes
from siredon.config.shelves import JUDGED_FORMATS, PREFERENCE_FORMATS, variants_of
from siredon.registry import Shelf

PAGES = build_pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str):
    written = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
    assert written == PAGES[name], "run `make docs`"


def test_there_is_no_other_page_in_the_folder():
    assert {path.name for path in (ROOT / "docs/reference").iterdir()} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_says_so(name: str):
    assert PAGES[name].startswith("<!-- Generated from the source by `make docs`")
    assert "This page is generated from the source" in PAGES[name].partition("\n## ")[0]


def test_every_key_stands_once_on_its_page():
    text = PAGES["configuration.md"]
    anchors = re.findall(r"^#### `(.+)`$", text, re.MULTILINE)
    anchors += re.findall(r'<a id="[^"]+"></a>`([^`]+)`', text)
    assert sorted(anchors) == sorted(all_names())
    assert set(key_homes()) <= set(anchors)
    assert len({slug(name) for name in anchors}) == len(anchors)


def test_every_old_name_stands_on_its_page():
    text = PAGES["configuration.md"]
    for name in (*RENAMED, *REMOVED, *INERT):
        assert re.search(rf"^\| `{re.escape(name)}(: true)?` \|", text, re.MULTILINE), name


def test_every_code_has_a_section_with_its_examples():
    parts = re.split(r"^### ", PAGES["rules.md"], flags=re.MULTILINE)[1:]
    sections = {part.partition("\n")[0]: part for part in parts}
    assert list(dict.fromkeys(sorted(sections))) == [page.code for page in all_pages()]
    for page in all_pages():
        assert page.title in sections[page.code]
        if page.wrong and page.portable:
            assert f" {page.code}: " in sections[page.code], page.code
        if page.right:
            assert page.right.splitlines()[0] in sections[page.code]


def test_a_key_and_a_rule_name_each_other():
    entry = find_entry("warmup_ratio")
    assert entry is not None
    assert "SD0101" in entry.codes
    (part,) = re.findall(r"^### SD0101$(.*?)^### ", PAGES["rules.md"], re.MULTILINE | re.DOTALL)
    assert "(configuration.md#warmup_ratio)" in part


def test_the_counts_of_the_support_page_are_those_of_the_schema():
    works = sum(info.status == "works" for info in key_homes().values())
    row = re.search(r"^\| all keys \| (\d+) \| (\d+) \|$", PAGES["support.md"], re.MULTILINE)
    assert row is not None
    assert int(row[1]) + int(row[2]) == len(all_names())
    assert int(row[1]) >= works


def test_pages_are_written_only_where_they_differ(tmp_path: Path):
    assert {path.name for path in write_pages(tmp_path)} == set(PAGES)
    assert write_pages(tmp_path) == []
    (tmp_path / "rules.md").write_text("old")
    assert [path.name for path in write_pages(tmp_path)] == ["rules.md"]


def _missing_types(text: str, shelf: Shelf) -> list[str]:
    """Formats of a shelf that no line of a text names with all their variants behind them."""
    wanted = [
        f"`{name}`" + "".join(f".*`\\.{word}`" for word in variants_of(shelf, name))
        for name in shelf.names()
        if name != "user_defined"  # The mapping, which has no name
    ]
    return [name for name in wanted if not re.search(name, text)]


@pytest.mark.parametrize("shelf", [PREFERENCE_FORMATS, JUDGED_FORMATS], ids=["pairs", "judged"])
def test_the_formats_of_judged_answers_are_listed_with_their_variants(shelf: Shelf):
    assert _missing_types((ROOT / "docs/formats.md").read_text(), shelf) == []
    assert _missing_types(PAGES["support.md"], shelf) == []
    assert _missing_types("`chatml` (`.argilla`)", shelf)
