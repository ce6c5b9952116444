"""Our examples, damaged in every way we can think of: a config or located problems, never a traceback.

`SIREDON_FUZZ=10000 pytest tests/unit/config/test_fuzz.py` runs as many attacks.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from tests.conftest import ROOT
from typer.testing import CliRunner

from siredon.cli.app import app
from siredon.config.diagnostics import COMMAND_LINE, show_github, show_json, show_text, sort_diagnostics
from siredon.config.document import KeyPath, parse_document, read_document
from siredon.config.fields import Section, nested_section
from siredon.config.fix import fix_file
from siredon.config.layers import read_layers
from siredon.config.load import Checked, check_config
from siredon.config.names import INERT, REMOVED, RENAMED
from siredon.config.overrides import split_words
from siredon.config.schema import Config, KeyInfo, find_key, key_homes, read_fields

NUM_ATTACKS = int(os.environ.get("SIREDON_FUZZ", "1100"))
MAX_MEMORY = 300 * 2**20


@dataclass(frozen=True)
class Example:
    """A file of ours.

    Args:
        path: Where it is, from the folder of the examples.
        text: What it holds.
        keys: Its keys, as paths.
    """

    path: Path
    text: str
    keys: tuple[KeyPath, ...] = field(repr=False)


def find_examples() -> list[Example]:
    """Every example that is a configuration; a sweep has no model of its own."""
    found = []
    for path in sorted((ROOT / "examples").rglob("*.y*ml")):
        if "base_model" in read_layers(str(path)).values:
            document = read_document(str(path))
            keys = tuple(path for path in document.keys if isinstance(path[-1], str) and find_key(path))
            found.append(Example(path.relative_to(ROOT / "examples"), document.text, keys))
    return found


def fields_of(section: type[Section]) -> Mapping[str, KeyInfo]:
    """The keys of a mapping; those of `Config` are the top level."""
    return key_homes() if section is Config else read_fields(section, "")


def all_names(section: type[Section] = Config) -> set[str]:
    """The names of keys at any depth."""
    names: set[str] = set()
    for name, info in fields_of(section).items():
        inner = nested_section(info.field.annotation)
        names |= {name} | (all_names(inner) if inner else set())
    return names


EXAMPLES = find_examples()
TOP = sorted(key_homes())
OLD = {name.rpartition(".")[2] for name in (*RENAMED, *REMOVED, *INERT)}
KNOWN = all_names() | OLD


# What stands in place of a value, a line, a word

PIECES = [
    *(
        "",
        "~",
        "null",
        "true",
        "no",
        "yes",
        "0",
        "-1",
        "1.5",
        "1e309",
        "-1e-400",
        ".nan",
        "-.inf",
        "0x1F",
        "1_0",
    ),
    *(
        "9" * 30,
        "9" * 5000,
        "x" * 3000,
        "'",
        '"',
        "''",
        "'null'",
        "[]",
        "{}",
        "[null]",
        "[[]]",
        "[1, a, {b: c}]",
    ),
    *(
        "{a: 1}",
        "{0: 0}",
        "{a: 1, a: 2}",
        "{? [a] : b}",
        "*x",
        "*missing",
        "&x 1",
        "&x [*x]",
        "<<",
        "!!int x",
        "!x y",
    ),
    *(
        "!!python/object/apply:os.system [exit]",
        "!!binary x",
        "!!set {a}",
        "!!float '1'",
        "|",
        ">",
        "|\n    a",
        "%",
        "@",
    ),
    *(
        "`",
        "?",
        ":",
        "-",
        "- a",
        "a: b",
        "a: b: c",
        "# c",
        "${MISSING}",
        "${MISSING:-1}",
        "'${MISSING:-1}'",
        "$${A}",
    ),
    *(
        "${PATH}",
        "2024-01-31",
        "1:30",
        "\t",
        "\t- a",
        "\x00",
        "\x1b",
        "\x85",
        "\u2028",
        "\ufeff",
        "é漢",
        "\U0001f600",
    ),
    *(
        "~/x",
        "~nobody/x",
        "/",
        "../..",
        "a/b",
        "\\",
        '"\\x00"',
        '"\\ud800"',
        "[" * 20 + "]" * 20,
        "[" * 60 + "]" * 60,
    ),
    *(
        "{a: " * 60 + "}" * 60,
        "[" * 3000,
        "{" * 3000,
        "- " * 60 + "a",
        "auto",
        "lora",
        "alpaca",
        "cosine",
        "sdpa",
    ),
]
INCLUDES = [
    "base.yml",
    "missing.yml",
    "attacked.yml",
    "../smollm2/attacked.yml",
    "[base.yml, base.yml]",
    ".",
    "/dev/zero",
]
STEPS = ["0", "1", "7", "007", "path", "type", "x", "²", "", "9" * 30, "-1", "a-b"]

pieces = some.sampled_from(PIECES) | some.text(max_size=8)
positions = some.integers(0, 10**6)
examples = some.sampled_from(EXAMPLES)
top_names = some.sampled_from(TOP)
any_names = some.sampled_from(sorted(KNOWN))


@some.composite
def misspelt(draw: some.DrawFn, names: some.SearchStrategy[str]) -> str:
    """A name with a letter more, less, doubled, exchanged or in the other case; known nowhere."""
    name = draw(names)
    at = draw(some.integers(0, len(name) - 1))
    letter = draw(some.sampled_from(["", "x", "_", "9", name[at] * 2, name[at].swapcase(), name[at - 1]]))
    changed = (name[:at] + letter + name[at + 1 :]).lstrip("_0123456789")
    return f"{changed}_x" if changed in KNOWN or len(changed) < 2 else changed


# Attacks on the text.  Each takes a position, a piece and a name, and what it makes need not be YAML

Damage = Callable[[str, int, str, str], str]


def pick_line(text: str, at: int) -> tuple[list[str], int]:
    lines = text.splitlines(keepends=True) or [""]
    return lines, at % len(lines)


def set_value(text: str, at: int, piece: str, _: str) -> str:
    """Another value for a key that is there: of a wrong kind, nothing, nested deeply."""
    lines, row = pick_line(text, at)
    head, colon, _ = lines[row].partition(":")
    lines[row] = f"{head}{colon} {piece}\n"
    return "".join(lines)


def add_key(text: str, _: int, piece: str, name: str) -> str:
    return f"{text}\n{name}: {piece}\n"


def add_inside(text: str, at: int, piece: str, name: str) -> str:
    """A key as a neighbour of another, at its depth."""
    lines, row = pick_line(text, at)
    indent = len(lines[row]) - len(lines[row].lstrip())
    lines.insert(row, f"{' ' * indent}{name}: {piece}\n")
    return "".join(lines)


def repeat_line(text: str, at: int, _: str, __: str) -> str:
    lines, row = pick_line(text, at)
    return "".join([*lines[:row], lines[row], *lines[row:]])


def drop_line(text: str, at: int, _: str, __: str) -> str:
    lines, row = pick_line(text, at)
    return "".join(lines[:row] + lines[row + 1 :])


def move_line(text: str, at: int, _: str, __: str) -> str:
    lines, row = pick_line(text, at)
    line = lines.pop(row)
    lines.insert(at // 7 % (len(lines) + 1), line)
    return "".join(lines)


def indent_line(text: str, at: int, _: str, __: str) -> str:
    lines, row = pick_line(text, at)
    lines[row] = [" ", "\t", "    \t", "- "][at % 4] + lines[row]
    return "".join(lines)


def insert_piece(text: str, at: int, piece: str, _: str) -> str:
    at %= len(text) + 1
    return text[:at] + piece + text[at:]


def cut_text(text: str, at: int, _: str, __: str) -> str:
    return text[: at % (len(text) + 1)]


def swap_letters(text: str, at: int, _: str, __: str) -> str:
    at %= len(text) + 1
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


def indent_all(text: str, at: int, _: str, name: str) -> str:
    return f"{name}:\n" * (at % 2) + textwrap.indent(text, ["  ", "- ", "\t", "# "][at % 4])


def set_line_ends(text: str, at: int, _: str, __: str) -> str:
    return text.replace("\n", ["\r\n", "\r", "\x85", "\n\n"][at % 4])


def add_aliases(text: str, at: int, piece: str, name: str) -> str:
    """An anchor, and aliases that multiply, or that merge, or that name themselves."""
    width, depth = at % 9 + 1, at // 9 % 9 + 1
    lines = [f"{name}: &a0 {{x: {piece}}}"]
    form = ["[{}]", "{{<<: [{}]}}"][at % 2]
    lines += [f"b{i}: &a{i} {form.format(', '.join([f'*a{i - 1}'] * width))}" for i in range(1, depth)]
    return f"{text}\n" + "\n".join(lines) + f"\n<<: *a{at % (depth + 1)}\n"


def nest_deeply(text: str, at: int, piece: str, name: str) -> str:
    depth = at % 80
    return (
        f"{text}\n{name}:\n"
        + "".join(f"{' ' * (i + 1)}{name}:\n" for i in range(depth))
        + " " * (depth + 2)
        + piece
    )


def include_file(text: str, at: int, _: str, __: str) -> str:
    return f"{text}\ninclude: {INCLUDES[at % len(INCLUDES)]}\n"


def add_document(text: str, at: int, piece: str, _: str) -> str:
    return f"{text}{['---', '...', '%YAML 1.1', '? '][at % 4]}\n{piece}\n"


DAMAGES: list[Damage] = [
    *(
        set_value,
        set_value,
        set_value,
        add_key,
        add_key,
        add_inside,
        repeat_line,
        drop_line,
        move_line,
        indent_line,
    ),
    *(
        insert_piece,
        insert_piece,
        cut_text,
        swap_letters,
        indent_all,
        set_line_ends,
        add_aliases,
        nest_deeply,
    ),
    *(include_file, add_document),
]


@dataclass(frozen=True)
class Attack:
    """What is tried.

    Args:
        example: The file that is damaged.
        raw: What it holds then.
        words: The command line behind it.
        expects: Code, key and file of a problem that must be found; none if anything may be.
    """

    example: Path
    raw: bytes = field(repr=False)
    words: tuple[str, ...] = ()
    expects: tuple[str, str, str] | None = None


@some.composite
def damaged(draw: some.DrawFn) -> Attack:
    """One to four damages, one over another."""
    example = draw(examples)
    text = example.text
    damages = some.tuples(some.sampled_from(DAMAGES), positions, pieces, any_names)
    for damage, at, piece, name in draw(some.lists(damages, min_size=1, max_size=4)):
        text = damage(text, at, piece, name)
    return Attack(example.path, text.encode("utf-8", "surrogatepass"))


@some.composite
def misspelt_in_file(draw: some.DrawFn) -> Attack:
    """A key of the file, at any depth, under a name that nobody knows."""
    example = draw(examples)
    path = draw(some.sampled_from(example.keys))
    wrong = draw(misspelt(some.just(str(path[-1]))))
    lines = example.text.splitlines(keepends=True)
    row, column = parse_document("", example.text).keys[path]
    line = lines[row - 1]
    assert line[column - 1 :].startswith(str(path[-1]))
    lines[row - 1] = line[: column - 1] + wrong + line[column - 1 + len(str(path[-1])) :]
    expects = ("SD0003", ".".join(map(str, (*path[:-1], wrong))), "attacked.yml")
    return Attack(example.path, "".join(lines).encode(), expects=expects)


@some.composite
def unknown_in_file(draw: some.DrawFn) -> Attack:
    """A key more, that nobody knows, with a value that is YAML; at the top or in the first entry of a list."""
    example = draw(examples)
    wrong = draw(misspelt(any_names))
    value = draw(some.sampled_from(["", "null", "false", "1", "text", "[]", "{}", "[a]", "{a: 1}", "'x'"]))
    entry = re.search(r"^(\w+):\n( +)- ", example.text, re.MULTILINE)
    if entry and draw(some.booleans()):
        text = f"{example.text[: entry.end()]}{wrong}: {value}\n{entry[2]}  {example.text[entry.end() :]}"
        return Attack(
            example.path, text.encode(), expects=("SD0003", f"{entry[1]}.0.{wrong}", "attacked.yml")
        )
    return Attack(
        example.path, f"{wrong}: {value}\n{example.text}".encode(), expects=("SD0003", wrong, "attacked.yml")
    )


@some.composite
def twice_in_file(draw: some.DrawFn) -> Attack:
    """A key of the top level that stands there again."""
    example = draw(examples)
    name = str(draw(some.sampled_from([path[0] for path in example.keys if len(path) == 1])))
    value = draw(some.sampled_from(["", "1", "text", "[]", "{}"]))
    text = f"{example.text}\n{name}: {value}\n"
    return Attack(example.path, text.encode(), expects=("SD0002", name, "attacked.yml"))


@some.composite
def junk(draw: some.DrawFn) -> Attack:
    """Bytes that are no text, in the middle of one that is."""
    example = draw(examples)
    raw = example.text.encode()
    at = draw(some.integers(0, len(raw)))
    return Attack(
        example.path,
        raw[:at] + draw(some.binary(min_size=1, max_size=40)) + raw[at + draw(some.integers(0, 9)) :],
    )


@some.composite
def setting_words(draw: some.DrawFn, names: some.SearchStrategy[str]) -> list[str]:
    """A setting in one of its forms, or something like it."""
    name = ".".join([draw(names), *draw(some.lists(some.sampled_from(STEPS), max_size=2))])
    value = draw(pieces).replace("\x00", "")
    name = draw(some.sampled_from([name, name, name.replace("_", "-")]))
    forms = [
        [f"{name}={value}"],
        [f"--{name}={value}"],
        [f"--{name}", value],
        [f"--{name}"],
        [f"--no-{name}"],
        [value],
    ]
    return draw(some.sampled_from(forms))


@some.composite
def worded(draw: some.DrawFn) -> Attack:
    """An example as it is, or with one damage, under settings."""
    example = draw(examples)
    text = example.text
    if draw(some.integers(0, 3)) == 0:
        text = draw(some.sampled_from(DAMAGES))(text, draw(positions), draw(pieces), draw(any_names))
    words = draw(some.lists(setting_words(top_names | any_names), min_size=1, max_size=4))
    return Attack(
        example.path,
        text.encode("utf-8", "surrogatepass"),
        tuple(word for setting in words for word in setting),
    )


@some.composite
def misspelt_word(draw: some.DrawFn) -> Attack:
    """A setting of a key that nobody knows."""
    example = draw(examples)
    wrong = draw(misspelt(top_names))
    value = draw(some.sampled_from(["1", "true", "x", "[1]", "{a: 1}", "null", ""]))
    forms = [
        (f"{wrong}={value}",),
        (f"--{wrong}={value}",),
        (f"--{wrong.replace('_', '-')}", value),
        (f"--{wrong}",),
    ]
    words = draw(some.sampled_from(forms))
    return Attack(example.path, example.text.encode(), words, ("SD0003", wrong, COMMAND_LINE))


attacks = some.one_of(
    damaged(),
    damaged(),
    misspelt_in_file(),
    unknown_in_file(),
    twice_in_file(),
    junk(),
    worded(),
    misspelt_word(),
)


# What holds of every outcome


def hold(checked: Checked) -> None:
    problems = checked.diagnostics
    document = checked.report.document
    assert (checked.config is None) == any(problem.severity == "error" for problem in problems)
    assert problems == sort_diagnostics(problems, document.path)
    for problem in problems:
        assert re.fullmatch(r"SD\d{4}", problem.code)
        assert problem.severity in ("error", "warning")
        assert problem.message.strip()
        assert problem.fix.strip()
        assert problem.path
        assert 1 <= problem.place.line <= len(problem.text.splitlines()) + 1
        assert problem.place.column >= 1
    assert (show_text(problems) == "") == (problems == ())
    assert len(json.loads(show_json(problems))) == len(problems)
    assert len(show_github(problems).splitlines()) >= len(problems)
    if checked.config is not None:
        assert unknown_keys(document.values, Config) == []


def unknown_keys(values: dict[str, object], section: type[Section]) -> list[str]:
    """The names in a mapping, and in the sections inside it, that no table has: there may be none in a config."""
    found = []
    fields = fields_of(section)
    for name, value in values.items():
        if name not in fields and name not in OLD:
            found.append(name)
        inner = nested_section(fields[name].field.annotation) if name in fields else None
        for entry in value if isinstance(value, list) else [value]:
            if inner and isinstance(entry, dict):
                found += unknown_keys(entry, inner)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, to be damaged."""
    folder = tmp_path_factory.mktemp("fuzz")
    for example in EXAMPLES:
        target = folder / example.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples" / example.path, target)
        (target.parent / "base.yml").write_text("seed: 3\nspecial_tokens: {pad_token: x}\nlerning_rate:\n")
    return folder


def make(attack: Attack, folder: Path) -> Checked:
    """Carries an attack out, from the file and the words of the command line on."""
    path = folder / attack.example.parent / "attacked.yml"
    path.write_bytes(attack.raw)
    _, layer = split_words([str(path), *attack.words])
    return check_config(str(path), [layer])


def test_our_examples_are_among_those_that_are_attacked(folder: Path):
    assert Path("smollm2/identity-lora-cpu.yml") in [example.path for example in EXAMPLES]
    for example in EXAMPLES:
        checked = make(Attack(example.path, example.text.encode()), folder)
        hold(checked)
        assert checked.config is not None


@pytest.mark.long
def test_no_attack_gets_through(folder: Path):
    count = {"all": 0, "refused": 0, "expected": 0}

    @settings(
        max_examples=NUM_ATTACKS,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(attacks)
    def attack_once(attack: Attack) -> None:
        checked = make(attack, folder)
        hold(checked)
        if attack.expects:
            assert checked.config is None
            found = {(problem.code, problem.key, Path(problem.path).name) for problem in checked.diagnostics}
            assert attack.expects in found
        count["all"] += 1
        count["refused"] += checked.config is None
        count["expected"] += attack.expects is not None

    attack_once()
    assert count["all"] >= min(NUM_ATTACKS, 1000)
    # Most attacks must do harm, and some must be none, or this would try nothing
    assert count["all"] // 2 < count["refused"] < count["all"]
    assert count["expected"] > count["all"] // 10


@settings(
    max_examples=max(60, NUM_ATTACKS // 20), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(attack=damaged() | misspelt_in_file() | twice_in_file() | junk())
def test_no_attacked_file_is_made_worse_by_fixing_it(folder: Path, attack: Attack):
    before = make(attack, folder)
    path = folder / attack.example.parent / "attacked.yml"
    changes = fix_file(str(path))
    assert bool(changes) == (path.read_bytes() != attack.raw)
    after = check_config(str(path))
    hold(after)
    assert after.report.document.whole == before.report.document.whole
    if before.config is not None:
        assert after.config == before.config


# Files of another kind, and of any size


@pytest.mark.parametrize(
    "name", ["missing.yml", ".", "/", "", "/dev/null", "/proc/self/mem", "x" * 5000, "a/../../b.yml", "-"]
)
@pytest.mark.parametrize(
    "words", [[], ["--seed", "1", "datasets.3.path=x"], ["--fix"], ["--format", "json"]], ids=" ".join
)
def test_what_is_no_file_is_a_problem_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["check", "--", name] if not words else ["check", name, *words])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert ("SD0008" in result.stdout) != ("SD0001" in result.stdout)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_that_somebody_writes_into_is_read(tmp_path: Path):
    pipe = tmp_path / "pipe.yml"
    os.mkfifo(pipe)
    text = (ROOT / "examples" / EXAMPLES[0].path).read_text()
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    checked = check_config(str(pipe))
    writer.join()
    hold(checked)
    assert checked.report.document.text == text


LARGE = """
import json, os, re, sys, time
from siredon.config.diagnostics import show_text
from siredon.config.load import check_config
from siredon.config.overrides import split_words

MB = 2**20
LINE = 999_000
deep = "[" * 39 + "]" * 39
bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\\n" for i in range(1, 40)
)
merges = "a0: &a0 {x: 1}\\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\\n" for i in range(1, 40)
)
wide = "a: &a [" + "x," * 20_000 + "]\\n" + "".join(f"b{i}: *a\\n" for i in range(1000))
files = {
    "10 MB of lines": b"learning_rate: 1\\n" * (10 * MB // 17),
    "10 MB in a line": b"learning_rate: " + b"1" * 10 * MB,
    "10 MB of nothing": b"\\n" * 10 * MB,
    "10 MB of zeros": bytes(10 * MB),
    "10 MB of noise": os.urandom(10 * MB),
    "10 MB of brackets": b"[" * 10 * MB,
    "1 MB in a word": "base_model: " + "x" * LINE,
    "1 MB of dots": "base_model: " + "a." * (LINE // 2),
    "1 MB of comment": "#" * LINE + "\\nseed: x",
    "1 MB of a key": "x" * LINE + ": 1",
    "as many keys as may be": "".join(f"k{i}: 1\\n" for i in range(29_000)),
    "1 MB of keys": "".join(f"k{i}: 1\\n" for i in range(90_000)),
    "1 MB of one key": "seed: 1\\n" * (LINE // 8),
    "as many entries as may be": "datasets:\\n" + "- 1\\n" * 29_000,
    "1 MB of entries": "datasets:\\n" + "- 1\\n" * 99_000,
    "as many words as may be": "lora_target_modules: [" + "x," * 29_000 + "]",
    "1 MB of words": "lora_target_modules: [" + "x," * 99_000 + "]",
    "1 MB of depth": "model_config: [" + f"{deep}," * (LINE // 90) + "]",
    "1 MB of variables": "base_model: " + "${A}" * (LINE // 4),
    "1 MB of anchors": "".join(f"a{i}: &a{i} 1\\n" for i in range(29_000)),
    "1 MB of missing files": "include: [" + "x.yml," * 29_000 + "]",
    "1 MB of plugins": "plugins: [" + "x.y," * 29_000 + "]",
    "aliases": bomb,
    "merges": merges,
    "wide aliases": wide,
    "large parts": "include: [" + ", ".join(["part.yml"] * 50) + "]",
}
with open("part.yml", "w") as file:
    file.write("model_config:\\n" + "".join(f"  k{i}: 1\\n" for i in range(20_000)))
_, layer = split_words(["config.yml", "seed=" + "[" * 100_000, "base_model=" + "x" * 1_000_000])
for name, content in files.items():
    with open("config.yml", "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    start = time.perf_counter()
    checked = check_config("config.yml", [layer] if name == "aliases" else [])
    assert len(show_text(checked.diagnostics)) > 20 and checked.config is None
    # What the system counts for a child includes what its parent held before
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    row = [name, time.perf_counter() - start, peak]
    print(json.dumps(row))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_of_any_size_takes_bounded_memory_and_time(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", LARGE], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 26
    for name, seconds, memory in rows:
        assert memory < MAX_MEMORY, f"{name}: {memory / 2**20:.0f} MB"
        assert seconds < 30, f"{name}: {seconds:.1f} s"
