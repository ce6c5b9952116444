"""The loss and its gradients are those of the slow truth, whatever the batch, the accumulation and the packing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.steps import (
    CPU,
    build_steps_trainer,
    largest_difference,
    random_samples,
    take_step,
    true_step,
)

from siredon.config.sections.packing import PackingSection
from siredon.data.pack import Packs, build_packs, keep_single
from siredon.data.types import Sample


def pack_samples(samples: Sequence[Sample], capacity: int) -> Packs:
    lengths = np.array([len(sample.input_ids) for sample in samples])
    return build_packs(lengths, capacity, PackingSection())


# Rows of very unequal length, and of 3 to 90 targets.
UNEQUAL = random_samples([(100, 90), (12, 3), (40, 35), (9, 8), (64, 5), (17, 16), (80, 41), (30, 3)])


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 8), (2, 4), (8, 1)])
def test_accumulation_gives_the_gradients_of_the_whole_batch(
    write_config: Any, micro: int, accumulation: int
):
    truth, wanted = true_step(build_model(), UNEQUAL)
    loss, got = take_step(
        build_model(),
        UNEQUAL,
        [[index] for index in range(8)],
        write_config,
        micro_batch_size=micro,
        gradient_accumulation_steps=accumulation,
    )
    assert loss == pytest.approx(truth, abs=1e-6)
    assert largest_difference(got, wanted) < 1e-5


def test_a_last_step_with_fewer_batches_is_divided_by_its_own_targets(write_config: Any):
    three = UNEQUAL[:3]
    truth, wanted = true_step(build_model(), three)
    loss, got = take_step(build_model(), three, [[0], [1], [2]], write_config, gradient_accumulation_steps=8)
    assert loss == pytest.approx(truth, abs=1e-6)
    assert largest_difference(got, wanted) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("micro", "flatten"), [(1, False), (2, False), (2, True)])
def test_packed_loss_and_gradients_equal_unpacked_ones(
    write_config: Any, attention: str, micro: int, flatten: bool
):
    packs = pack_samples(UNEQUAL, 128)
    assert any(len(pack) > 1 for pack in packs)
    truth, wanted = true_step(build_model(), UNEQUAL)
    model = build_model()
    model.set_attn_implementation(attention)
    loss, got = take_step(
        model,
        UNEQUAL,
        packs,
        write_config,
        pad_to=128,
        flatten=flatten,
        micro_batch_size=micro,
        gradient_accumulation_steps=-(-len(packs) // micro),
    )
    assert loss == pytest.approx(truth, abs=1e-6)
    assert largest_difference(got, wanted) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("micro", [2, 3, 8])
def test_a_flattened_batch_has_the_loss_and_gradients_of_its_rows(
    write_config: Any, attention: str, micro: int
):
    truth, wanted = true_step(build_model(), UNEQUAL)
    model = build_model()
    model.set_attn_implementation(attention)
    loss, got = take_step(
        model,
        UNEQUAL,
        [[index] for index in range(8)],
        write_config,
        flatten=True,
        micro_batch_size=micro,
        gradient_accumulation_steps=-(-8 // micro),
    )
    assert loss == pytest.approx(truth, abs=1e-6)
    assert largest_difference(got, wanted) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_changed_token_of_a_neighbour_changes_nothing_at_all(attention: str):
    from siredon.data.collate import Collator

    model = build_model().eval()
    model.set_attn_implementation(attention)
    first, second = random_samples([(20, 10), (15, 10)])
    outputs = []
    for change in (0, 1):
        first.input_ids[7] += change
        batch = Collator(0, 48)([(first, second)])
        logits = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits
        outputs.append(logits[0, 20:35].detach())
    assert torch.equal(outputs[0], outputs[1])
    alone = model(input_ids=torch.from_numpy(second.input_ids.astype("int64"))[None], use_cache=False).logits[
        0
    ]
    assert (outputs[0] - alone).abs().max() < 1e-5


def test_a_batch_without_any_target_has_zero_loss_and_zero_gradients(write_config: Any):
    samples = random_samples([(10, 0), (6, 0)])
    loss, got = take_step(build_model(), samples, [[0], [1]], write_config, micro_batch_size=2)
    assert loss == 0.0
    assert all(torch.count_nonzero(value) == 0 for value in got.values())


def test_a_model_that_cannot_select_logits_has_the_same_loss(
    write_config: Any, monkeypatch: pytest.MonkeyPatch
):
    from tests.unit.train import steps

    monkeypatch.setattr(steps, "takes_logits_to_keep", lambda model: False)
    truth, wanted = true_step(build_model(), UNEQUAL)
    loss, got = take_step(
        build_model(), UNEQUAL, [[i] for i in range(8)], write_config, gradient_accumulation_steps=8
    )
    assert loss == pytest.approx(truth, abs=1e-6)
    assert largest_difference(got, wanted) < 1e-5


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_recomputed_activations_give_the_same_gradients(write_config: Any, reentrant: bool, adapter: bool):
    from siredon.config.sections.adapter import AdapterSection
    from siredon.config.sections.memory import MemorySection
    from siredon.model.adapt import attach_adapter_
    from siredon.model.recompute import recompute_activations_

    results = []
    for on in (False, True):
        model = build_model()
        options = {"use_reentrant": reentrant}
        memory = MemorySection(gradient_checkpointing=on, gradient_checkpointing_kwargs=options)
        recompute_activations_(model, memory)
        if adapter:
            section = AdapterSection(adapter="lora", lora_r=4, lora_alpha=8, lora_target_linear=True)
            model = attach_adapter_(model, section, seed=1)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
        results.append(
            take_step(model, UNEQUAL[:4], [[0], [1], [2], [3]], write_config, gradient_accumulation_steps=4)
        )
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    assert largest_difference(results[1][1], results[0][1]) < 1e-6


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("selects", [False, True])
def test_the_validation_loss_is_the_mean_over_all_targets(
    write_config: Any, batch_size: int, packed: bool, flatten: bool, selects: bool
):
    from siredon.config.load import load_config
    from siredon.data.collate import Collator, PackDataset
    from siredon.data.table import build_table
    from siredon.model.precision import Precision
    from siredon.train.arguments import build_arguments, count_steps
    from siredon.train.trainer import SiredonTrainer

    config, _ = load_config(str(write_config(eval_batch_size=batch_size)))
    model = build_model().train()
    samples = [*UNEQUAL, *random_samples([(12, 0), (1, 0)], seed=1)]
    packs = pack_samples(samples, 128) if packed else keep_single(len(samples))
    trainer = SiredonTrainer(
        selects_logits=selects,
        model=model,
        args=build_arguments(config, count_steps(config, 8), Precision(torch.float32, None, False), CPU),
        eval_dataset=PackDataset(build_table(samples), packs),
        data_collator=Collator(0, flatten=flatten),
    )
    truth, _ = true_step(build_model(), UNEQUAL)
    before = torch.get_rng_state()
    output = trainer.evaluation_loop(trainer.get_eval_dataloader(), "eval")
    assert output.metrics["eval_loss"] == pytest.approx(truth, abs=1e-6)
    assert output.num_samples == len(packs)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training


@pytest.mark.parametrize("selects", [False, True])
def test_each_pack_of_a_flattened_batch_has_its_own_loss(selects: bool):
    samples = [*UNEQUAL, *random_samples([(12, 0), (2, 1)], seed=1)]
    packs = [tuple(samples[:2]), (), *((sample,) for sample in samples[2:])]
    found = []
    for flatten in (False, True):
        trainer = build_steps_trainer(build_model(), flatten=flatten)
        trainer.selects_logits = selects
        with torch.no_grad():
            found.append(
                trainer._sum_rows(trainer.model, trainer._prepare_inputs(trainer.data_collator(packs)))
            )
    assert found[0][1].tolist() == found[1][1].tolist()
    assert found[0][0].tolist() == pytest.approx(found[1][0].tolist(), abs=1e-4)
