"""How tasks are named."""

from __future__ import annotations

import pytest

from siredon.errors import DataError
from siredon.evaluate.tasks import group_tasks


def test_tasks_with_as_many_examples_go_together():
    found = group_tasks(["arc_easy:5", "hellaswag", "mmlu:5", "tasks/own.yaml", "x:0"])
    assert found == {5: ["arc_easy", "mmlu"], None: ["hellaswag", "tasks/own.yaml"], 0: ["x"]}
    with pytest.raises(DataError, match="no task is named"):
        group_tasks([])
