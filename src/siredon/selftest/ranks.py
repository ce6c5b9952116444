"""Several processes that run trials together, as `torchrun` would start them; kept from one trial to the next."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from siredon.errors import TrainingError
from siredon.selftest.trial import Outcome, Trial
from siredon.selftest.worker import read_outcome

#: Seconds that ranks may take for one trial, the import of their libraries included.
_PATIENCE_SECONDS = 240.0
_POLL_SECONDS = 0.02


class RankGroup:
    """Starts the processes at once, and lets them import while others work.

    Args:
        num_ranks: How many.
        folder: Where trials are run.
        device: `cpu` or `gpu`.
        worker: Module that each of them runs.
    """

    def __init__(self, num_ranks: int, folder: Path, device: str, worker: str) -> None:
        self.num_ranks = num_ranks
        self.folder = folder
        self._num_trials = 0
        self._logs = [folder / f"rank-{rank}-of-{num_ranks}.log" for rank in range(num_ranks)]
        port = _find_port()
        command = [sys.executable, "-m", worker, str(folder), device]
        self._processes = []
        for rank, log in enumerate(self._logs):
            with log.open("w") as stream:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=stream,
                        stderr=stream,
                        text=True,
                        env=_environment(rank, num_ranks, port),
                    )
                )

    def run(self, trial: Trial, output: Path) -> list[Outcome]:
        """What each rank saw of a trial, by rank.

        Raises:
            TrainingError: A rank failed, or they wait for each other.
        """
        self._num_trials += 1
        answer = self.folder / f"outcome-{self.num_ranks}-{self._num_trials}"
        request = {"trial": trial.to_json(), "output": str(output), "answer": str(answer)}
        for process in self._processes:
            assert process.stdin is not None
            if process.poll() is None:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
        answers = [Path(f"{answer}-{rank}") for rank in range(self.num_ranks)]
        self._await(answers)
        return [read_outcome(path) for path in answers]

    def _await(self, answers: list[Path]) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not all(path.is_file() for path in answers):
            for rank, process in enumerate(self._processes):
                if process.poll() is not None and not answers[rank].is_file():
                    self.close()
                    raise TrainingError(f"rank {rank} of {self.num_ranks} failed: {self._last_words(rank)}")
            if time.monotonic() > end:
                self.close()
                raise TrainingError(f"{self.num_ranks} ranks have waited for each other for too long")
            time.sleep(_POLL_SECONDS)

    def _last_words(self, rank: int) -> str:
        lines = [line.strip() for line in self._logs[rank].read_text(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "it left no message")

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()


def _environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
