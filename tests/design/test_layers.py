from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the contract of `folder/pyproject.toml` on `folder/src`."""
    if not LINT_IMPORTS.is_file():
        pytest.fail(f"{LINT_IMPORTS} is missing: pip install -e '.[lint]'")
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path, source: Path) -> Path:
    """The source and the contract, to be broken."""
    shutil.copytree(source, tmp_path / "src/siredon", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def append(folder: Path, module: str, line: str) -> None:
    path = folder / "src/siredon" / module
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{line}\n")


def test_imports_only_point_down():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


def test_the_contract_holds_for_an_untouched_copy(copy: Path):
    assert lint_imports(copy).returncode == 0


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("data/pack.py", "import siredon.cli.app", "siredon.data is not allowed to import siredon.cli"),
        ("data/pack.py", "import siredon.model.load", "siredon.data is not allowed to import siredon.model"),
        ("config/load.py", "import siredon.hardware", None),
        (
            "errors.py",
            "def late():\n    import siredon.log",
            "siredon.errors is not allowed to import siredon.log",
        ),
    ],
    ids=["up", "sideways", "down", "late"],
)
def test_an_import_up_or_sideways_breaks_the_contract(copy: Path, module: str, line: str, broken: str | None):
    append(copy, module, line)
    done = lint_imports(copy)
    assert done.returncode == (1 if broken else 0)
    if broken:
        assert broken in " ".join(done.stdout.split())


def test_a_part_that_has_no_layer_breaks_the_contract(copy: Path):
    append(copy, "somewhere/__init__.py", '"""A stage that nobody placed."""')
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "somewhere" in done.stdout
