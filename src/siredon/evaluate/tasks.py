"""Which benchmarks are run: names of tasks, each with its number of examples, and where they are described."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siredon.config.sections.evaluation import split_task
from siredon.errors import DataError
from siredon.registry import suggest

#: Names of tasks by the number of examples; None is what the task says itself.
Groups = dict[int | None, list[str]]


def group_tasks(tasks: Sequence[str]) -> Groups:
    """Tasks that get the same number of examples, together: `arc_easy:5` has five.

    Raises:
        DataError: There are none.
    """
    if not tasks:
        raise DataError(
            "no task is named",
            "Add `--task hellaswag`, or `lm_eval_tasks: [hellaswag, arc_easy:5]` to the file.",
        )
    groups: Groups = {}
    for task in tasks:
        name, count = split_task(task)
        groups.setdefault(count, []).append(name)
    return groups


def load_task_list(names: Sequence[str], include: Sequence[Path]) -> Any:
    """The `TaskManager` of lm-evaluation-harness that knows all the tasks.

    Its own list of some ten thousand takes many seconds to read, and is left where the folders have all that is asked.

    Raises:
        DataError: No such folder, or no such task.
    """
    from lm_eval.tasks import TaskManager

    for folder in include:
        if not folder.expanduser().is_dir():
            raise DataError(
                f"--include {folder}: there is no such folder", "Name a folder with task files (*.yaml)."
            )
    folders = [str(folder.expanduser()) for folder in include]
    wanted = [name for name in names if not _is_file(name)]
    own = TaskManager(include_path=folders or None, include_defaults=False)
    if all(own.match_tasks([name]) for name in wanted):
        return own
    known = TaskManager(include_path=folders or None)
    for name in wanted:
        if not known.match_tasks([name]):
            near = suggest(name, known.all_tasks)
            raise DataError(
                f"lm-eval knows no task `{name}`",
                f"{near}Tasks of your own are found by `--include FOLDER`, or by the path of their file.",
            )
    return known


def _is_file(name: str) -> bool:
    """Whether a task is named by its file."""
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()
