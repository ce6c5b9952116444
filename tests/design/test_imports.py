from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

#: Imports each module in a fork of its own, where nothing of the package is loaded yet, and tells what changed.
#: The packages of others that the source imports are loaded before: they are slow, and not ours to judge.
PROBE = """
import importlib, json, logging, os, sys, traceback, warnings

package, names, foreign = json.load(sys.stdin)
warnings.simplefilter("ignore")
for module, name in foreign:
    loaded = importlib.import_module(module)
    if name and not hasattr(loaded, name):
        importlib.import_module(f"{module}.{name}")

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
    before = state()
    try:
        importlib.import_module(name)
    except BaseException:
        return traceback.format_exc()
    after = state()
    return [key for key in before if before[key] != after[key]]

assert not [name for name in sys.modules if name.partition(".")[0] == package]
for name in names:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, json.dumps([name, look(name)]).encode()[:60000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        sys.stdout.write(pipe.read() + "\\n")
    os.waitpid(child, 0)
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


def probe(source: Path) -> dict[str, str | list[str]]:
    """Module -> what its import changed, or the traceback if it cannot be imported alone."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps([source.name, module_names(source), foreign_imports(source)]),
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


needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@needs_fork
def test_every_module_imports_alone_and_changes_nothing(source: Path):
    found = probe(source)
    assert set(found) == set(module_names(source))
    assert {name: changed for name, changed in found.items() if changed} == {}


@needs_fork
def test_an_import_with_an_effect_or_in_a_circle_is_found(tmp_path: Path):
    folder = tmp_path / "toy"
    folder.mkdir()
    for name, text in {
        "__init__": "",
        "still": "X = 1",
        "loud": "import os\nos.environ['TOY'] = '1'",
        "logs": "import logging\nlogging.basicConfig()",
        "one": "from toy.two import Y\nX = 1",
        "two": "from toy.one import X\nY = 1",
    }.items():
        (folder / f"{name}.py").write_text(text + "\n")
    found = probe(folder)
    assert (found["toy"], found["toy.still"]) == ([], [])
    assert found["toy.loud"] == ["environment"]
    assert found["toy.logs"] == ["log handlers"]
    assert "circular import" in found["toy.one"]


def test_the_first_file_of_a_folder_imports_nothing_and_says_what_the_folder_is(source: Path):
    paths = [path for path in source.rglob("__init__.py") if path.parent != source]
    assert len(paths) > 10
    for path in paths:
        module = ast.parse(path.read_text())
        assert ast.get_docstring(module), path
        assert len(module.body) == 1, path
    assert imports_of((source / "__init__.py").read_text()) == []
