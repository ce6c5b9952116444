from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
MAX_PROBES_PER_1000_LINES = 2
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "core", "misc", "manager", "base"}
Found = list[str]


def long_files(path: Path, text: str) -> Found:
    """Files over the limit."""
    lines = len(text.splitlines())
    return [f"{path}: {lines} lines"] if lines > MAX_FILE_LINES else []


def long_functions(path: Path, text: str) -> Found:
    """Functions over the limit, from `def` to the last line."""
    functions = (
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    lengths = ((node, (node.end_lineno or 0) - node.lineno + 1) for node in functions)
    return [f"{path}: {node.name} has {lines} lines" for node, lines in lengths if lines > MAX_FUNCTION_LINES]


def silent_excepts(path: Path, text: str) -> Found:
    """Handlers that do nothing at all."""
    handlers = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ExceptHandler))
    return [f"{path}:{node.lineno}" for node in handlers if all(_does_nothing(step) for step in node.body)]


def _does_nothing(step: ast.stmt) -> bool:
    return isinstance(step, (ast.Pass, ast.Continue)) or (
        isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)
    )


def calls_of(text: str, names: set[str]) -> Iterator[ast.Call]:
    """Calls of builtins by their plain name; `model.eval()` is none."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def run_code(path: Path, text: str) -> Found:
    """Text that is run as code, or code that is read as text."""
    read = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr == "getsource"
    ]
    return [
        f"{path}:{node.lineno}" for node in [*calls_of(text, {"exec", "eval", "compile", "getsource"}), *read]
    ]


def prints(path: Path, text: str) -> Found:
    """What is said around `log.py`."""
    return [f"{path}:{node.lineno}" for node in calls_of(text, {"print"})]


def device_names(path: Path, text: str) -> Found:
    """`cuda` anywhere but in the one file that may say it, and in the name of a setting of Inductor."""
    if path.name == "hardware.py":
        return []
    lines = enumerate(text.replace("triton.cudagraphs", "").splitlines(), 1)
    return [f"{path}:{number}" for number, line in lines if "cuda" in line]


def banned_names(path: Path, text: str) -> Found:
    """Files and folders whose name says nothing."""
    del text
    return [str(path)] if BANNED_NAMES & {part.removesuffix(".py") for part in path.parts} else []


RULES: list[Callable[[Path, str], Found]] = [
    long_files,
    long_functions,
    silent_excepts,
    run_code,
    prints,
    device_names,
    banned_names,
]
#: For each rule a file that breaks it, and one at its edge that does not.
BROKEN = {
    "long_files": ("a.py", "x = 1\n" * 601, "x = 1\n" * 600),
    "long_functions": ("a.py", "def f():\n" + "    x = 1\n" * 80, "def f():\n" + "    x = 1\n" * 79),
    "silent_excepts": (
        "a.py",
        "try:\n    x = 1\nexcept ValueError:\n    pass\n",
        "try:\n    x = 1\nexcept ValueError:\n    x = 2\n",
    ),
    "run_code": ("a.py", "eval('1')\n", "model.eval()\n"),
    "prints": ("a.py", "print('x')\n", "console.print('x')\n"),
    "device_names": ("model/a.py", "device = 'cuda:0'\n", "x = 'triton.cudagraphs'\n"),
    "banned_names": ("model/utils/a.py", "", ""),
}


def read_source(source: Path) -> dict[Path, str]:
    return {path.relative_to(source): path.read_text() for path in sorted(source.rglob("*.py"))}


def num_probes(text: str) -> int:
    """Calls of getattr and hasattr."""
    return len(list(calls_of(text, {"getattr", "hasattr"})))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Callable[[Path, str], Found], source: Path):
    files = read_source(source)
    assert len(files) > 50
    assert [found for path, text in files.items() for found in rule(path, text)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_finds_what_breaks_it_and_only_that(rule: Callable[[Path, str], Found]):
    name, broken, kept = BROKEN[rule.__name__]
    assert rule(Path(name), broken)
    assert not rule(Path(name.replace("utils", "data")), kept)


def test_attributes_are_seldom_asked_for_by_name(source: Path):
    texts = read_source(source).values()
    num_lines = sum(len(text.splitlines()) for text in texts)
    assert sum(num_probes(text) for text in texts) <= MAX_PROBES_PER_1000_LINES * num_lines / 1000
    assert num_probes("getattr(x, 'a')\nhasattr(x, 'a')\nx.getattr('a')\n") == 2


def test_folders_have_names_that_say_something_too(source: Path):
    folders = {part for path in read_source(source) for part in path.parts[:-1]}
    assert not folders & BANNED_NAMES
    assert {"config", "data", "model", "train"} <= folders
