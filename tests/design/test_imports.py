from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.conftest import ROOT

#: Imports each module when all that it imports is loaded, so that its own lines alone run, and tells what changed.
#: The packages of others that the source imports are loaded before: they are slow, and not ours to judge.
PROBE = """
import importlib, json, logging, os, sys, traceback, warnings

package, names, foreign = json.load(sys.stdin)
warnings.simplefilter("ignore")
for module, name in foreign:
    loaded = importlib.import_module(module)
    if name and not hasattr(loaded, name):
        importlib.import_module(f"{module}.{name}")

def loaded():
    return {name for name in sys.modules if name.partition(".")[0] == package}

def state():
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "log handlers": [str(handler) for handler in logging.getLogger().handlers],
        "log level": logging.getLogger().level,
        "warning filters": len(warnings.filters),
        "excepthook": str(sys.excepthook),
    }

def look(name):
    before, there = state(), loaded()
    try:
        importlib.import_module(name)
    except BaseException:
        return traceback.format_exc()
    after = state()
    changed = [key for key in before if before[key] != after[key]]
    return changed + sorted(loaded() - there - {name})

assert not loaded()
for name in names:
    sys.stdout.write(json.dumps([name, look(name)]) + "\\n")
"""


def module_names(source: Path) -> list[str]:
    """Every module of the package, dotted."""
    paths = (path.relative_to(source.parent).with_suffix("") for path in sorted(source.rglob("*.py")))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return [name for name in names if not name.endswith("__main__")]


def foreign_imports(source: Path) -> list[tuple[str, str]]:
    """What the modules import from elsewhere when they are imported: module and name."""
    found: set[tuple[str, str]] = set()
    for path in source.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {(alias.name, "") for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {(node.module, alias.name) for alias in node.names}
    return sorted(pair for pair in found if pair[0].partition(".")[0] not in (source.name, "__future__"))


def imports_within(source: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that are loaded before its own lines run."""
    names = module_names(source)
    paths = dict(zip(names, (p for p in sorted(source.rglob("*.py")) if p.stem != "__main__"), strict=True))
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        wanted = {name.rpartition(".")[0]}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = wanted & set(names)
    return found


def probe(source: Path) -> dict[str, str | list[str]]:
    """Module -> what its import changed, or loaded besides, or the traceback if it cannot be imported alone."""
    sorter = TopologicalSorter(imports_within(source))
    try:
        names = list(sorter.static_order())
    except CycleError as error:
        return dict.fromkeys(error.args[1], f"circular import: {' -> '.join(error.args[1])}")
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps([source.name, names, foreign_imports(source)]),
        cwd=ROOT,
        # Not this process's environment, which an import may have changed before
        env={"PATH": os.defpath, "HOME": str(Path.home()), "PYTHONPATH": str(source.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def imports_of(text: str) -> list[ast.stmt]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]


def write_toy(folder: Path, modules: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text + "\n")
    return folder


def test_every_module_imports_alone_and_changes_nothing(source: Path):
    found = probe(source)
    assert set(found) == set(module_names(source))
    assert {name: changed for name, changed in found.items() if changed} == {}


def test_an_import_with_an_effect_is_found(tmp_path: Path):
    toy = {
        "__init__": "",
        "still": "X = 1",
        "loud": "import os\nos.environ['TOY'] = '1'",
        "logs": "import logging\nlogging.basicConfig()",
        "hidden": "import importlib\nimportlib.import_module('toy.still')",
        "broken": "import toy.nothing",
    }
    found = probe(write_toy(tmp_path / "toy", toy))
    assert found["toy"] == []
    assert found["toy.loud"] == ["environment"]
    assert found["toy.logs"] == ["log handlers"]
    assert "ModuleNotFoundError" in found["toy.broken"]
    # Which of the two comes first is open: what loads the other one unseen is found if it does.
    assert found["toy.hidden"] in ([], ["toy.still"])


def test_a_circle_of_imports_is_found(tmp_path: Path):
    toy = {"__init__": "", "one": "from toy.two import Y\nX = 1", "two": "from toy.one import X\nY = 1"}
    found = probe(write_toy(tmp_path / "toy", toy))
    assert "circular import" in found["toy.one"]


def test_the_first_file_of_a_folder_imports_nothing_and_says_what_the_folder_is(source: Path):
    paths = [path for path in source.rglob("__init__.py") if path.parent != source]
    assert len(paths) > 10
    for path in paths:
        module = ast.parse(path.read_text())
        assert ast.get_docstring(module), path
        assert len(module.body) == 1, path
    assert imports_of((source / "__init__.py").read_text()) == []
