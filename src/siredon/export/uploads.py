"""Uploads while a run trains: a thread of its own sends what is published, and no step waits for it or fails by it."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siredon.config.schema import Config
from siredon.config.sections.hub import HubSection
from siredon.errors import CheckpointError, SiredonError, UnreachableError
from siredon.export.card import read_card
from siredon.export.contents import CARD, Item, check_secrets, list_contents, list_files
from siredon.export.hub import Repository, find_repository
from siredon.export.push import choose_target, collect
from siredon.export.push_wanted import Push
from siredon.log import is_main_process, note, show, warn
from siredon.train.publish import DRAFT, PREFIX

#: Where the last checkpoint lies in the repository, as transformers has it.
_LAST = "last-checkpoint"


class Uploads:
    """What is sent of one run, and what became of it.

    Args:
        section: Where to, and what.
        output: `output_dir`.
        repository: The repository; None where it could not be reached yet.
    """

    def __init__(self, section: HubSection, output: Path, repository: Repository | None = None) -> None:
        self.num_failures = 0
        self._section, self._output, self._repository = section, output, repository
        self._lock = threading.Lock()
        self._waiting: list[Path] = []
        self._failed: list[Path] = []
        self._thread: threading.Thread | None = None

    def published(self, checkpoint: Path) -> None:
        """Takes note of a checkpoint that is in its place; returns at once.

        Of those that wait, only the newest is sent, unless all are asked for.
        """
        if self._section.hub_strategy == "end":
            return
        with self._lock:
            self._waiting = [*self._failed, *self._waiting] if self._wants_all else []
            self._failed = []
            self._waiting.append(checkpoint)
            if self._thread is None:
                # A daemon: a run that is told to end does not wait for the network
                self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Waits for what is being sent, sends what could not be, and the result; a failure is a warning."""
        if thread := self._thread:
            note("waiting for the upload of the last checkpoint")
            thread.join()
        waiting, self._failed = self._failed, []
        for checkpoint in waiting if self._wants_all else []:
            self._try(checkpoint)
        try:
            repository = self._find()
            contents = collect(self._output, repository.name)
            check_secrets(contents.items)
            for text in contents.warnings:
                warn(text)
            commit = repository.send(contents.items, "End of training")
        except (SiredonError, OSError) as error:
            warn(
                f"the result of the run is not on the hub: {error}\n  to send it: siredon push {self._output}"
            )
        else:
            show(f"uploaded:  {commit}")
        if self._failed:
            names = ", ".join(path.name for path in self._failed)
            warn(f"not on the hub: {names}; {self.num_failures} uploads have failed")
        elif self.num_failures:
            note(f"{self.num_failures} uploads failed while the run went on; what they held was sent later")

    def abandon(self) -> None:
        """Says what is cut off; nothing is waited for."""
        with self._lock:
            is_cut = self._thread is not None
            self._waiting = []
        if is_cut:
            note("an upload to the hub is cut off; the run that goes on sends what is newest then")

    @property
    def _wants_all(self) -> bool:
        return self._section.hub_strategy == "all_checkpoints"

    def _find(self) -> Repository:
        if self._repository is None:
            repository = find_repository(choose_target(self._section, Push()))
            repository.prepare()
            self._repository = repository
        return self._repository

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                checkpoint = self._waiting.pop(0)
            self._try(checkpoint)

    def _try(self, checkpoint: Path) -> None:
        try:
            with _held(checkpoint) as files:
                self._send(checkpoint, files)
        except (SiredonError, OSError) as error:
            with self._lock:
                self.num_failures += 1
                self._failed.append(checkpoint)
            warn(
                f"{checkpoint.name} could not be uploaded, and the run goes on (failure {self.num_failures}): {error}"
            )

    def _send(self, checkpoint: Path, files: Path) -> None:
        """The weights where others look for them, with a card; what a run goes on from, if it is asked for."""
        from siredon.model.adapter_folder import without_start
        from siredon.model.relora import RELORA

        repository = self._find()
        items: list[Item] = []
        with without_start(files) as plain:
            if not (files / RELORA).is_file():  # There the weights mean nothing without what is beside them
                items = [Item(CARD, read_card(self._output, repository.name).encode())]
                items += list_contents(files, plain).items
            if self._section.hub_strategy in ("checkpoint", "all_checkpoints"):
                items += list_files(files, checkpoint.name if self._wants_all else _LAST)
            check_secrets(items)
            if items:
                repository.send(items, f"Step {checkpoint.name.removeprefix(PREFIX)}", in_turn=True)


@contextmanager
def open_uploads(config: Config) -> Iterator[Uploads | None]:
    """The uploads of a run, if it is to have any; token, rights and repository are tried before it begins.

    Raises:
        HubError: The hub refuses, and would refuse at the end of the run too.
    """
    if not config.hub.hub_model_id or not is_main_process():
        yield None
        return
    target = choose_target(config.hub, Push())
    repository: Repository | None = None
    try:
        repository = find_repository(target)
        description = repository.description
        repository.prepare()
        note(f"uploads: to {description}")
    except UnreachableError as error:
        repository = None
        warn(f"uploads: {error}\n  the run begins, and tries again at every save")
    uploads = Uploads(config.hub, config.checkpoint.output_folder, repository)
    try:
        yield uploads
    except BaseException:
        uploads.abandon()
        raise


@contextmanager
def _held(checkpoint: Path) -> Iterator[Path]:
    """The files of a checkpoint, which may be deleted meanwhile: links to them, where the disk has links.

    Raises:
        CheckpointError: It was deleted before.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"{checkpoint.name} was deleted before its turn came",
            "Write a higher `save_total_limit`, or save less often.",
        )
    folder = Path(tempfile.mkdtemp(prefix=f"{DRAFT}upload-", dir=checkpoint.parent))
    try:
        for path in (path for path in checkpoint.rglob("*") if path.is_file()):
            place = folder / path.relative_to(checkpoint)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, place)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        yield checkpoint
        return
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
