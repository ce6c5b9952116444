"""The rig that rows are tried on: models, rows, processes, and what was found already."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from siredon.selftest.device import choose_hardware
from siredon.selftest.ranks import RankGroup
from siredon.selftest.row import Cell
from siredon.selftest.tiny import ROWS, build_samples, count_sequences, write_model
from siredon.selftest.trial import Bench, Outcome, Place, Trial, open_bench, run_trial, write_data
from siredon.selftest.truth import Truth, find_truth

if TYPE_CHECKING:
    from siredon.selftest.whole import Verbs


class Rig:
    """Runs trials in a temporary folder; a trial that was run is not run again.

    Args:
        device: `cpu` or `gpu`.
        worker: Module that each of several ranks runs.
        verbs: What trains and what merges; rows that need a whole run could not run without them.

    Raises:
        TrainingError: There is no such device.
    """

    def __init__(
        self,
        device: str = "cpu",
        worker: str = "siredon.selftest.worker",
        verbs: Verbs | None = None,
    ) -> None:
        self.verbs = verbs
        self.device = device
        # Every training ends with a garbage collection: it need not look through what libraries hold for good
        gc.freeze()
        self.hardware = choose_hardware(device)
        self._worker = worker
        self._temporary = TemporaryDirectory(prefix="siredon-selftest-")
        self.folder = Path(self._temporary.name)
        self._place = Place(self.folder, self.hardware)
        self._num_trials = 0
        self._groups: dict[int, RankGroup] = {}
        self._outcomes: dict[Trial, list[Outcome]] = {}
        self._truths: dict[tuple[str, tuple[tuple[int, int], ...]], Truth] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and removes the folder."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()
        self._temporary.cleanup()

    def forget(self) -> None:
        """Lets every trial be run anew."""
        self._outcomes.clear()

    def explain_missing(self, cell: Cell) -> str:
        """Why a cell cannot run on this device; empty if it can."""
        from siredon.config.attentions import NEEDS

        if cell.num_ranks > 1 and self.hardware.is_gpu and self.hardware.num_devices < cell.num_ranks:
            return f"{cell.num_ranks} ranks need {cell.num_ranks} GPUs; there is {self.hardware.num_devices}"
        if cell.attention in NEEDS and not self.hardware.is_gpu:
            return f"{cell.attention} has no backward pass on a CPU"
        return ""

    def start_ranks(self, num_ranks: int) -> RankGroup:
        """The processes of so many ranks; started when they are first asked for."""
        if num_ranks not in self._groups:
            self._groups[num_ranks] = RankGroup(num_ranks, self.folder, self.device, self._worker)
        return self._groups[num_ranks]

    def run(self, trial: Trial) -> list[Outcome]:
        """What each rank saw of a trial.

        Raises:
            SiredonError: It could not be run.
        """
        if trial not in self._outcomes:
            with self._prepare(trial) as output:
                self._outcomes[trial] = self._run(trial, output)
        return self._outcomes[trial]

    def run_anew(self, trial: Trial) -> list[Outcome]:
        """The same of another run of it.

        Raises:
            SiredonError: It could not be run.
        """
        with self._prepare(trial) as output:
            return self._run(trial, output)

    @contextmanager
    def run_kept(self, trial: Trial) -> Iterator[Path]:
        """Runs a trial, and keeps what it wrote until the end of the context; the outcome is that of `run`.

        Raises:
            SiredonError: It could not be run.
        """
        with self._prepare(trial) as output:
            self._outcomes[trial] = self._run(trial, output)
            yield output

    def _run(self, trial: Trial, output: Path) -> list[Outcome]:
        num_ranks = trial.cell.num_ranks
        if num_ranks == 1:
            return [run_trial(trial, self._place, output)]
        try:
            return self.start_ranks(num_ranks).run(trial, output)
        except Exception:
            self._groups.pop(num_ranks).close()  # One of them is no more: the next trial gets others
            raise

    @contextmanager
    def open(self, trial: Trial) -> Iterator[Bench]:
        """A trial that is ready to run, in this process."""
        with self._prepare(trial) as output, open_bench(trial, self._place, output) as bench:
            yield bench

    def truth(self, rows: Sequence[tuple[int, int]] = ROWS, kind: str = "llama") -> Truth:
        """What a step over rows must come to."""
        key = (kind, tuple(rows))
        if key not in self._truths:
            self._truths[key] = find_truth(self.write_model(kind), build_samples(rows))
        return self._truths[key]

    def write_model(self, kind: str) -> Path:
        """The folder of a model, written when it is first asked for."""
        folder = self.folder / "models" / kind
        if not folder.is_dir():
            folder.mkdir(parents=True)
            write_model(kind, folder)
        return folder

    def make_folder(self, what: str) -> Path:
        """A new folder."""
        self._num_trials += 1
        folder = self.folder / f"{what}-{self._num_trials}"
        folder.mkdir()
        return folder

    @contextmanager
    def _prepare(self, trial: Trial) -> Iterator[Path]:
        """The output folder of a trial, after all is written that several ranks read."""
        self.write_model(trial.kind)
        write_data(self.folder, trial.rows)
        output = self.make_folder("out")
        try:
            yield output
        finally:
            shutil.rmtree(output, ignore_errors=True)


def one_step(cell: Cell, rows: Sequence[tuple[int, int]] = ROWS, kind: str = "llama", **keys: Any) -> Trial:
    """A trial whose one optimizer step has all rows, each once."""
    num_sequences = count_sequences(rows, packed=cell.packed)
    micro = -(-num_sequences // (cell.accumulation * cell.num_ranks))
    return Trial(cell, micro, tuple(rows), kind, json.dumps(keys))
