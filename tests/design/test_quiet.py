"""Every verb quiets the libraries before it imports what loads them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

from tests.conftest import ROOT

MAPS = ("pipeline", "release")
#: Verbs that load no such library themselves; an engine of `serve` quiets for itself.
SILENT = {"card", "push", "serve", "sweep", "vllm_serve"}
STAGES = ("data", "evaluate", "export", "model", "selftest", "serve", "sweep", "train")


def walk_verbs() -> Iterator[tuple[str, list[ast.stmt]]]:
    """Names of the functions of the map, and what they do behind their docstring."""
    for name in MAPS:
        tree = ast.parse((ROOT / "src/siredon" / f"{name}.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield node.name, node.body[1:]


def list_imports(body: list[ast.stmt]) -> list[str]:
    return [
        node.module
        for part in body
        for node in ast.walk(part)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[1] in STAGES
    ]


def test_libraries_are_quieted_before_they_are_imported():
    loud = [
        name
        for name, body in walk_verbs()
        if list_imports(body)
        and name not in SILENT
        and [ast.unparse(part) for part in body[:2]]
        != ["from siredon.model.quiet import quiet_libraries", "quiet_libraries()"]
    ]
    assert loud == []


def test_verbs_that_quiet_nothing_load_nothing():
    modules = {module for name, body in walk_verbs() if name in SILENT for module in list_imports(body)}
    assert len(modules) > 3
    script = f"import sys, {', '.join(sorted(modules))}; print([name for name in "
    script += "('peft', 'torchao', 'bitsandbytes') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
