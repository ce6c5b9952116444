from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.design.reads import Read, Tree


def unread_keys(source: Path) -> set[Read]:
    """Keys declared to work that nothing outside `config/` reads."""
    tree = Tree(source)
    return tree.declared("key") - tree.reads()


def read_plans(source: Path) -> set[Read]:
    """Keys declared to be unbuilt that something reads."""
    tree = Tree(source)
    return tree.declared("planned") & tree.reads()


# The source


def test_every_key_that_works_is_read_by_the_code_it_steers(source: Path):
    assert unread_keys(source) == set()


def test_no_key_that_is_planned_is_read_already(source: Path):
    assert read_plans(source) == set()


def test_every_key_that_reading_the_file_uses_up_is_named_there(source: Path):
    names = {name for _, name in Tree(source).declared("resolved")}
    readers = [source / "config" / name for name in ("layers.py", "plugins.py")]
    constants = {
        node.value
        for path in readers
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
    }
    assert names
    assert names <= constants


def test_the_scan_sees_every_key(source: Path):
    from siredon.config.schema import key_homes

    tree = Tree(source)
    for words, status in ((("key", "resolved"), "works"), (("planned",), "planned")):
        attributes = {attribute for word in words for _, attribute in tree.declared(word)}
        assert {info.attribute for info in key_homes().values() if info.status == status} <= attributes


# The scan: a small tree that has a key for each way of reading one

SECTIONS = """
class Entry(Section):
    path: Str = key("A.")
    name: Str | None = key("B.", None)
    type: Str = key("C.")
    roles: dict[Str, StrList] = key("D.", {})
    later: Str | None = planned("E.")

class Tokens(Section):
    first: Str | None = key("F.", None)
    last: Str | None = key("G.", None)

class ThingSection(Section):
    entries: tuple[Entry, ...] = key("H.", ())
    tokens: Tokens = key("I.", Tokens())
    size: Int = key("J.", 1)
    scale: Float = key("K.", 1.0)
    speed: Float = planned("L.", 1.0)

    @property
    def doubled(self) -> int:
        return 2 * self.size

    def scaled(self, value: float) -> float:
        return self.scale * value
"""

SCHEMA = """
class Config(Section):
    thing: ThingSection

    @property
    def is_big(self) -> bool:
        return self.thing.size > 9
"""

#: Reads every key once.
CODE = """
@dataclass
class Job:
    thing: ThingSection
    number: int = 0

def run(job: Job, config: Config) -> None:
    for index, entry in enumerate(job.thing.entries):
        show(entry.path, index)
    names = [entry.name for entry in sorted(config.thing.entries)]
    first = config.thing.entries[0]
    show(first.type, names)
    show(pick(config.thing).roles)
    show(job.thing.doubled, job.thing.scaled(2.0))
    chosen = config.thing.tokens
    show({name: value for name, value in chosen.model_dump().items()})

def pick(thing: ThingSection) -> Entry:
    return thing.entries[-1]
"""


def write_tree(folder: Path, code: str, sections: str = SECTIONS) -> Path:
    for name, text in (
        ("config/sections/thing.py", sections),
        ("config/schema.py", SCHEMA),
        (
            "config/checks/rules.py",
            "def check(thing: ThingSection) -> None:\n    show(thing.size, thing.speed)\n",
        ),
        ("train/run.py", code),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_tree_whose_keys_are_all_read_passes(tmp_path: Path):
    write_tree(tmp_path, CODE)
    assert unread_keys(tmp_path) == set()
    assert read_plans(tmp_path) == set()


@pytest.mark.parametrize(
    ("read", "instead", "unread"),
    [
        ("entry.path", "job.number", ("Entry", "path")),
        ("entry.name", "other.name", ("Entry", "name")),
        ("first.type", "index.type", ("Entry", "type")),
        ("pick(config.thing).roles", "guess(config.thing).roles", ("Entry", "roles")),
        ("job.thing.doubled", "job.thing", ("ThingSection", "size")),
        ("job.thing.scaled(2.0)", "job.number", ("ThingSection", "scale")),
        ("chosen.model_dump()", "chosen.model_dump(exclude={'last'})", ("Tokens", "last")),
        ("chosen = config.thing.tokens", "chosen = Tokens", ("ThingSection", "tokens")),
    ],
)
def test_a_key_that_is_no_longer_read_is_found(tmp_path: Path, read: str, instead: str, unread: Read):
    assert CODE.count(read) == 1
    write_tree(tmp_path, CODE.replace(read, instead))
    assert unread in unread_keys(tmp_path)


@pytest.mark.parametrize("name", ["path", "name", "number", "brand_new"])
def test_a_new_key_that_nothing_reads_is_found_whatever_its_name(tmp_path: Path, name: str):
    write_tree(
        tmp_path, CODE, SECTIONS.replace("    size: Int", f'    {name}: Int = key("New.", 1)\n    size: Int')
    )
    assert unread_keys(tmp_path) == {("ThingSection", name)}


def test_a_new_section_that_nothing_reads_is_found(tmp_path: Path):
    write_tree(tmp_path, CODE, SECTIONS + '\nclass IdleSection(Section):\n    path: Str = key("Idle.", "")\n')
    assert unread_keys(tmp_path) == {("IdleSection", "path")}


def test_a_check_or_a_record_is_no_use_of_a_key(tmp_path: Path):
    dump = CODE.replace("chosen.model_dump()", 'chosen.model_dump(mode="json")').replace(
        "job.thing.doubled, ", ""
    )
    write_tree(tmp_path, dump)
    assert unread_keys(tmp_path) == {("Tokens", "first"), ("Tokens", "last"), ("ThingSection", "size")}


def test_writing_an_attribute_is_no_use_of_a_key(tmp_path: Path):
    write_tree(tmp_path, CODE.replace("show(entry.path, index)", "entry.path = index"))
    assert unread_keys(tmp_path) == {("Entry", "path")}


@pytest.mark.parametrize("read", ["job.thing.speed", "first.later", "pick(job.thing).later"])
def test_a_planned_key_that_is_read_is_found(tmp_path: Path, read: str):
    write_tree(tmp_path, CODE.replace("show(first.type, names)", f"show(first.type, {read})"))
    assert {attribute for _, attribute in read_plans(tmp_path)} == {read.rpartition(".")[2]}


def test_a_key_without_use_in_the_real_source_is_found(source: Path, tmp_path: Path):
    for path in source.rglob("*.py"):
        copy = tmp_path / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    batch = tmp_path / "config/sections/batch.py"
    batch.write_text(
        batch.read_text().replace("    seed: Int", '    path: Int = key("No use.", 1)\n    seed: Int')
    )
    assert unread_keys(tmp_path) == {("BatchSection", "path")}
