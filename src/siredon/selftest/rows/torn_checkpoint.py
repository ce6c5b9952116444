"""Row 16: no run goes on from a checkpoint that is not whole: it takes the one before, or says what is wrong.

Bug of record: Automodel#3261.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path

from siredon.config.load import load_config
from siredon.config.schema import Config
from siredon.config.sections.checkpoint import CheckpointSection
from siredon.errors import CheckpointError
from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.whole import LORA
from siredon.train.checkpoint import find_resume_folder
from siredon.train.resume_rules import Identity

_BEFORE, _LAST = "checkpoint-1", "checkpoint-2"
#: Kinds of checkpoints -> keys of the run.
_KINDS = {"adapter": LORA, "model": {}}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Checkpoints of an adapter, and of a whole model."""
    return tuple(Cell(case=case) for case in (("adapter",) if grid.is_quick else _KINDS))


def run(rig: Rig, cell: Cell) -> Finding:
    """Damages every file of a checkpoint in every way, one at a time, and asks where a run would go on."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    trial = one_step(
        Cell(), **{**_KINDS[cell.case], "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    )
    with rig.run_kept(trial) as output:
        config, _ = load_config(str(output / "trial-0.yml"))
        whole = output / _LAST
        yield (
            "whole checkpoints passed over",
            float(_ask(config, output) != whole) + float(_ask_by_name(config, whole) != whole),
            0.0,
        )
        kept = shutil.copytree(whole, rig.make_folder("kept") / "whole")
        files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
        for what, damage in _DAMAGES.items():
            taken, lost = 0, 0
            for file in files:
                damage(whole / file)
                found = _ask(config, output)
                taken += (found == whole) + (_ask_by_name(config, whole) is not None)
                lost += found != output / _BEFORE
                shutil.copy2(kept / file, whole / file)
            yield f"torn checkpoints taken, {what}", float(taken), 0.0
            yield f"runs that do not go on from the whole one before, {what}", float(lost), 0.0
        yield "unfinished checkpoints taken", float(_count_unfinished(config, output, kept, files)), 0.0


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    """One bit, amid the file."""
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(found)


_DAMAGES: dict[str, Callable[[Path], None]] = {
    "file missing": _remove,
    "file cut short": _cut,
    "one bit changed": _flip,
}


def _count_unfinished(config: Config, output: Path, kept: Path, files: list[Path]) -> int:
    """Copies that ended after each file, under the checkpoint's name, and whole ones under that of a draft."""
    taken = 0
    for number in range(len(files)):
        shutil.rmtree(output / _LAST)
        for file in files[:number]:
            (output / _LAST / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(kept / file, output / _LAST / file)
        taken += _ask(config, output) != output / _BEFORE
        (output / _LAST).mkdir(exist_ok=True)
    shutil.rmtree(output / _LAST)
    shutil.copytree(kept, output / f".writing-{_LAST}")
    return taken + (_ask(config, output) != output / _BEFORE)


def _ask(config: Config, output: Path) -> Path | None:
    """The checkpoint with which `auto_resume_from_checkpoints` goes on; None if with none."""
    section = CheckpointSection(output_dir=str(output), auto_resume_from_checkpoints=True)
    return _find(config, section, output)


def _ask_by_name(config: Config, folder: Path) -> Path | None:
    """The checkpoint, where `resume_from_checkpoint` takes it; None where it is refused."""
    section = CheckpointSection(output_dir=str(folder.parent), resume_from_checkpoint=str(folder))
    return _find(config, section, folder.parent)


def _find(config: Config, section: CheckpointSection, output: Path) -> Path | None:
    own = config.model_copy(update={"checkpoint": section})
    facts = json.loads((output / _BEFORE / "siredon.json").read_text())
    with redirect_stderr(io.StringIO()):  # What is passed over is said to users of a run
        try:
            return find_resume_folder(own, Identity(**facts["identity"]))
        except CheckpointError:
            return None


ROW = Row(
    number=16,
    proves="No run goes on from a torn checkpoint: the whole one before it is taken, or the run says what is wrong.",
    cells=list_cells,
    run=run,
)
