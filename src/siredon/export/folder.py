"""Folders that other verbs make of a run: whole or not there, and with the record of the run in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siredon.config.artifact import RECORD
from siredon.export.card import try_card
from siredon.train.publish import open_draft, publish


@contextmanager
def written_beside(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`; at the end it is on the disk, with a card and a manifest, in place of `folder`.

    Nothing is left of it if the block raises, and `folder` is as it was.  What a kill leaves has a name that begins
    with `.writing-`, and goes with the next call.
    """
    draft = open_draft(folder)
    try:
        yield draft
        try_card(folder, draft)
        publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def copy_record(run: Path, folder: Path) -> None:
    """Puts the record of a run beside what was made of it, so that every verb knows how the model is asked.

    Args:
        run: `output_dir` of the run, or a folder that has its record already.
        folder: Where it goes.
    """
    if (run / RECORD).is_file():
        shutil.copyfile(run / RECORD, folder / RECORD)
