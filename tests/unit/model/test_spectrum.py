from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon.hardware import Hardware
from siredon.model.spectrum import find_strong_matrices, measure_ratio

CPU = Hardware("cpu", "a CPU", 1, False, False, 1)


def matrix_of(values: list[float], width: int) -> torch.Tensor:
    """A matrix with these singular values, turned at random."""
    chance = torch.Generator().manual_seed(3)
    size = len(values)
    left = torch.linalg.qr(torch.randn(size, size, generator=chance, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(width, width, generator=chance, dtype=torch.float64)).Q
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right[:size]


@pytest.mark.parametrize("turned", [False, True])
def test_the_ratio_of_a_case_computed_by_hand(turned: bool):
    # Quartiles of 1..5 and 40 are 2.25 and 4.75; the spread is 2.5 / 1.349, the threshold that times
    # 1 + sqrt(6 / 24) = 1.5, which is 2.78: signal 3 + 4 + 5 + 40 = 52, noise 1 + 2 = 3.
    matrix = matrix_of([40.0, 5.0, 4.0, 3.0, 2.0, 1.0], 24)
    expected = 52 / 3 / 40
    assert measure_ratio((matrix.T if turned else matrix).float()) == pytest.approx(expected, rel=1e-5)
    # bfloat16 weights: as exact as they are
    assert measure_ratio(matrix.bfloat16()) == pytest.approx(expected, rel=0.02)


def test_a_stack_of_experts_has_the_mean_of_its_ratios():
    one, two = matrix_of([9.0, 2.0, 1.5, 1.0], 8), matrix_of([5.0, 4.0, 0.5, 0.25], 8)
    both = measure_ratio(torch.stack([one, two]))
    assert both == pytest.approx((measure_ratio(one) + measure_ratio(two)) / 2)


def test_without_noise_the_ratio_is_infinite():
    assert measure_ratio(torch.eye(4)) == math.inf


@pytest.fixture
def model() -> Any:
    return build_model(tied=False)


def test_of_each_kind_the_strongest_are_chosen_with_all_that_exists_once(
    model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("SIREDON_CACHE", str(tmp_path))
    names = {id(weight): name for name, weight in model.named_parameters()}
    chosen = {names[id(weight)] for weight in find_strong_matrices(model, 0.5, CPU)}
    ratios = {
        name: measure_ratio(weight)
        for name, weight in model.state_dict().items()
        if ".layers." in name and weight.ndim == 2
    }
    pairs = [(name, name.replace(".0.", ".1.")) for name in ratios if ".0." in name]
    best = {max(pair, key=lambda name: ratios[name]) for pair in pairs}
    assert chosen == {"model.embed_tokens.weight", "lm_head.weight", *best}
    assert {name.split(".")[2] for name in best} == {"0", "1"}
    assert len(find_strong_matrices(model, 0.01, CPU)) == 9
    assert len(find_strong_matrices(model, 1.0, CPU)) == 16


def test_ratios_are_of_these_very_weights(
    model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
):
    monkeypatch.setenv("SIREDON_CACHE", str(tmp_path))
    find_strong_matrices(model, 0.5, CPU)
    find_strong_matrices(model, 0.9, CPU)
    assert capsys.readouterr().err.count("measuring 14") == 1
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] += 1e-3
    find_strong_matrices(model, 0.5, CPU)
    assert capsys.readouterr().err.count("measuring 14") == 1
    assert len(list((tmp_path / "spectrum").glob("*.json"))) == 2
