"""How far two models are apart, against the formula over all logits at once in fp64."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.conftest import build_model

from siredon.evaluate.agreement import compare_logits, compute_logits, store_logits


def test_figures_are_those_of_the_formula(tmp_path: Path):
    first, second = build_model(seed=0).eval(), build_model(seed=1).eval()
    samples = [list(range(5, 105)), [7, 8, 9]]
    store_logits(first, samples, tmp_path)
    found = compare_logits(tmp_path, second, samples)
    one, two = (
        torch.cat([compute_logits(model, sample) for sample in samples]).double() for model in (first, second)
    )
    p, q = one.softmax(-1), two.softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    assert found.num_tokens == 103
    wanted = (float(x) for x in ((one - two).abs().max(), (one - two).abs().mean(), kl.mean(), kl.max()))
    for figure, value in zip(
        (found.max_error, found.mean_error, found.kl, found.max_kl), wanted, strict=True
    ):
        assert abs(figure - value) < 1e-9 * max(value, 1)
    assert found.same_token == float((one.argmax(-1) == two.argmax(-1)).double().mean())
    same = compare_logits(tmp_path, first, samples)
    assert (same.max_error, same.kl, same.same_token) == (0.0, 0.0, 1.0)
    # A model that says nothing but NaN agrees with none
    with torch.no_grad():
        second.lm_head.weight.fill_(torch.nan)
    broken = compare_logits(tmp_path, second, samples)
    assert broken.kl == broken.max_error == float("inf")
