"""Loss, gradients and rewards of a batch are those of TRL's KTOTrainer, given the same ids."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_model
from tests.unit.train.kto_steps import OPTIONS, matched, random_answers, take_kto_step
from tests.unit.train.pair_steps import changed
from tests.unit.train.steps import largest_difference

ANSWERS = random_answers([(20, 30, True), (7, 40, False), (33, 9, True), (12, 1, False)])
