"""The loss from hidden states, in chunks, is the loss over logits: in the trainer, and against fp64."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.conftest import build_model
from tests.unit.config.texts import accept
from tests.unit.train import steps
from tests.unit.train.steps import CPU, largest_difference, random_samples, take_step, true_step
from tests.unit.train.test_trainer import UNEQUAL, pack_samples

from siredon.config.load import load_config
from siredon.data.types import IGNORE
from siredon.hardware import GPU, Hardware
from siredon.model.head import Head, find_head
from siredon.train.chunked_loss import ChunkedLoss, asks_for_chunks, choose_loss_
from siredon.train.trainer import SiredonTrainer

HEAD = "model.embed_tokens.weight"
SINGLES = [[index] for index in range(8)]


class ChunkedTrainer(SiredonTrainer):
    """Computes its loss in chunks, whatever the config says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        head = find_head(model, lambda: run(self.model))
        assert isinstance(head, Head), head
        self.chunked = ChunkedLoss(head, num_chunks=3)


def run(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.arange(3, 9)[None], use_cache=False).logits
    return logits


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SiredonTrainer", ChunkedTrainer)


def add_lora(model: Any, **changes: Any) -> Any:
    from siredon.config.sections.adapter import AdapterSection
    from siredon.model.adapt import attach_adapter_

    section = AdapterSection(
        **{"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True, **changes}
    )
    model = attach_adapter_(model, section, seed=1)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("micro", "flatten"), [(1, False), (4, False), (4, True)])
def test_loss_and_gradients_are_those_of_fp64(write_config: Any, tied: bool, micro: int, flatten: bool):
    truth, wanted = true_step(build_model(tied=tied), UNEQUAL)
    loss, got = take_step(
        build_model(tied=tied),
        UNEQUAL,
        SINGLES,
        write_config,
        flatten=flatten,
        micro_batch_size=micro,
        gradient_accumulation_steps=8 // micro,
    )
    assert loss == pytest.approx(truth, abs=1e-6)
    assert largest_difference(got, wanted) < 1e-5


@pytest.mark.usefixtures("chunked")
def test_packed_loss_and_gradients_are_those_of_fp64(write_config: Any):
    truth, wanted = true_step(build_model(), UNEQUAL)
    packs = pack_samples(UNEQUAL, 128)
    loss, got = take_step(
        build_model(),
        UNEQUAL,
        packs,
        write_config,
        pad_to=128,
        gradient_accumulation_steps=len(packs),
    )
    assert loss == pytest.approx(truth, abs=1e-6)
    assert largest_difference(got, wanted) < 1e-5


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("modules", [[], ["lm_head"]], ids=["frozen head", "trained copy of the head"])
def test_an_adapter_has_the_gradients_of_fp64(write_config: Any, modules: list[str]):
    def build() -> Any:
        return add_lora(build_model(tied=False), lora_modules_to_save=modules)

    truth, wanted = true_step(build(), UNEQUAL[:4])
    loss, got = take_step(build(), UNEQUAL[:4], SINGLES[:4], write_config, gradient_accumulation_steps=4)
    assert loss == pytest.approx(truth, abs=1e-6)
    assert largest_difference(got, wanted) < 1e-5
    assert any("lm_head" in name for name in got) == bool(modules)


@pytest.mark.usefixtures("chunked")
def test_a_batch_without_any_target_has_zero_loss_and_zero_gradients(write_config: Any):
    samples = random_samples([(10, 0), (6, 0)])
    loss, got = take_step(build_model(), samples, SINGLES[:2], write_config, micro_batch_size=2)
    assert loss == 0.0
    assert all(torch.count_nonzero(value) == 0 for value in got.values())


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("flatten", [False, True])
def test_each_pack_has_the_validation_loss_that_logits_give(flatten: bool, monkeypatch: pytest.MonkeyPatch):
    samples = [*UNEQUAL, *random_samples([(12, 0), (2, 1)], seed=1)]
    packs = [tuple(samples[:2]), (), *((sample,) for sample in samples[2:])]
    trainer = steps.build_steps_trainer(build_model(), flatten=flatten)
    inputs = trainer._prepare_inputs(trainer.data_collator(packs))
    found = []
    for one in (trainer.chunked, None):
        trainer.chunked = one
        with torch.no_grad():
            found.append(trainer._sum_rows(trainer.model, inputs))
    assert found[0][1].tolist() == found[1][1].tolist()
    assert found[0][0].tolist() == pytest.approx(found[1][0].tolist(), rel=1e-6)


@pytest.mark.usefixtures("chunked")
def test_sources_have_the_losses_that_logits_give():
    trainer = steps.build_steps_trainer(build_model(), flatten=True)
    trainer._sources = ("a", "b")
    inputs = trainer._prepare_inputs(trainer.data_collator([(UNEQUAL[0], UNEQUAL[2]), (UNEQUAL[3],)]))
    inputs["sources"] = torch.arange(inputs["labels"].shape[1])[None] % 2
    sums = []
    for one in (trainer.chunked, None):
        trainer.chunked = one
        trainer._sums["by_source"] = torch.zeros(2, 2, dtype=torch.float64)
        loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=1)
        sums.append(trainer._sums["by_source"])
        assert trainer._sums["by_source"][0].sum().item() == pytest.approx(loss.item(), rel=1e-5)
    assert sums[0][0].tolist() == pytest.approx(sums[1][0].tolist(), abs=1e-4)
    assert sums[0][1].tolist() == sums[1][1].tolist()


@pytest.mark.parametrize("accelerated", [False, True], ids=["ours", "of accelerate"])
def test_under_autocast_the_head_multiplies_in_the_format_of_autocast(
    accelerated: bool, monkeypatch: pytest.MonkeyPatch
):
    model = build_model()
    if accelerated:  # Which opens it inside the forward pass, and so around the head only
        plain = model.forward
        monkeypatch.setattr(
            model, "forward", torch.autocast("cpu", dtype=torch.bfloat16)(plain), raising=False
        )
    trainer = steps.build_steps_trainer(model)
    trainer._autocast = None if accelerated else torch.bfloat16
    inputs = trainer._prepare_inputs(trainer.data_collator([(UNEQUAL[0],)]))
    truth, wanted = true_step(build_model(), UNEQUAL[:1])
    losses, errors = [], []
    for one in (ChunkedLoss(Head(model.lm_head, torch.bfloat16)), None):
        trainer.chunked = one
        model.zero_grad()
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=90)
        loss.backward()
        losses.append(loss.item())
        errors.append(largest_difference({"head": model.lm_head.weight.grad}, {"head": wanted[HEAD]}))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(truth, rel=1e-2)
    assert errors[0] <= 1.5 * errors[1]


@pytest.mark.usefixtures("chunked")
def test_the_number_of_targets_is_known_for_the_batches_of_a_step_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
):
    trainer = steps.build_steps_trainer(build_model())
    batches = [trainer.data_collator([(sample,)]) for sample in UNEQUAL[:3]]
    given, _ = trainer.get_batch_samples(iter(batches), 3, torch.device("cpu"))
    known = []
    monkeypatch.setattr(
        ChunkedLoss,
        "measure",
        lambda self, run, targets, num=None: known.append(num) or (torch.zeros(()), torch.zeros(1)),
    )
    for batch in (*given, trainer.data_collator([(UNEQUAL[3],)])):
        trainer._measure(trainer.model, trainer._prepare_inputs(batch))
    assert known == [*(sample.num_targets for sample in UNEQUAL[:3]), None]
    assert known[0] == (given[0]["labels"] != IGNORE).sum()


# Which heads can be used


def build_family(name: str, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "initializer_range": 0.5,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes, **changes)).eval()


@pytest.mark.parametrize(
    ("name", "changes", "softcap", "scale"),
    [
        ("llama", {}, 0.0, 1.0),
        ("gemma2", {"final_logit_softcapping": 5.0}, 5.0, 1.0),
        ("cohere", {"logit_scale": 0.25}, 0.0, 0.25),
        ("granite", {"logits_scaling": 8.0}, 0.0, 1 / 8),
    ],
)
def test_what_is_done_behind_the_head_is_found_and_left_out(
    name: str, changes: dict[str, Any], softcap: float, scale: float
):
    model = build_family(name, **changes)
    head = find_head(model, lambda: run(model))
    assert isinstance(head, Head), head
    assert (head.softcap, head.scale) == (softcap, scale)
    ids, targets = torch.arange(3, 9)[None], torch.arange(4, 10)[None]
    exact = torch.nn.functional.cross_entropy(run(model)[0], targets[0], reduction="sum")
    wanted = torch.autograd.grad(exact, model.get_input_embeddings().weight)[0]
    total, losses = ChunkedLoss(head).measure(lambda: model(input_ids=ids, use_cache=False), targets)
    found = torch.autograd.grad(total, model.get_input_embeddings().weight)[0]
    assert total.item() == pytest.approx(exact.item(), rel=1e-5)
    assert losses.sum().item() == pytest.approx(exact.item(), rel=1e-5)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    # And the model is as it was
    assert "forward" not in vars(head.layer)
    assert run(model).shape == (1, 6, 64)


def with_another_head(change: Callable[[Any], Any]) -> Any:
    model = build_model(tied=False)
    change(model)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            lambda: add_lora(build_model(tied=False), lora_target_modules=["lm_head"]),
            "the head is a Linear, not",
        ),
        (
            lambda: with_another_head(lambda m: m.lm_head.register_forward_hook(lambda *_: None)),
            "something else has changed",
        ),
        (
            lambda: with_another_head(
                lambda m: setattr(m, "lm_head", torch.nn.Sequential(torch.nn.Linear(64, 512)))
            ),
            "the head is a Sequential",
        ),
    ],
    ids=["adapter", "hook", "several layers"],
)
def test_a_head_that_does_something_else_is_left_alone(model: Callable[[], Any], reason: str):
    built = model()
    base = built.get_base_model() if hasattr(built, "get_base_model") else built
    found = find_head(base, lambda: run(built))
    assert isinstance(found, str)
    assert reason in found


def test_logits_that_something_unknown_happens_to_are_left_to_the_model():
    model = build_model()
    assert find_head(model, lambda: run(model).sigmoid()) == (
        "the model does something to its logits that is not known here"
    )
    assert isinstance(find_head(model, lambda: run(model)[..., :100]), str)


@pytest.mark.parametrize(
    ("keys", "device", "is_chunked"),
    [
        ({}, "cpu", False),
        ({}, GPU, True),
        ({"chunked_cross_entropy": False}, GPU, False),
        ({"chunked_cross_entropy": True}, "cpu", True),
        ({"cut_cross_entropy": True}, "cpu", True),
        ({"liger_fused_linear_cross_entropy": True}, "cpu", True),
    ],
)
def test_the_file_decides_and_the_device_where_it_does_not(
    write_config: Any,
    keys: dict[str, Any],
    device: Any,
    is_chunked: bool,
    capsys: pytest.CaptureFixture[str],
):
    config, _ = load_config(str(write_config(sequence_len=300, **keys)))
    trainer = steps.build_steps_trainer(build_model())
    choose_loss_(trainer, trainer.model, config, Hardware(device, "test", 1, False, False, 1))
    assert (trainer.chunked is not None) == is_chunked
    line = "loss: chunked linear cross-entropy, 384 rows at a time"
    assert (line in capsys.readouterr().err) == is_chunked


def test_what_cannot_be_done_is_said(write_config: Any, capsys: pytest.CaptureFixture[str]):
    model = add_lora(build_model(tied=False), lora_target_modules=["lm_head"])
    trainer = steps.build_steps_trainer(model)
    config, _ = load_config(str(write_config(chunked_cross_entropy=True)))
    choose_loss_(trainer, model.get_base_model(), config, CPU)
    assert trainer.chunked is None
    assert "warning: loss: cross-entropy over logits, because the head is" in capsys.readouterr().err


def test_the_number_of_chunks_is_that_of_the_file():
    head = Head(torch.nn.Linear(4, 9), torch.float32)
    assert [ChunkedLoss(head, 4).chunk_rows(rows) for rows in (100, 101, 3, 0)] == [25, 26, 1, 1]
    assert ChunkedLoss(head).chunk_rows(100) is None


@pytest.mark.parametrize("value", [True, False, None])
def test_the_name_for_pairs_asks_for_chunks(value: bool | None):
    text = f"rl: dpo\ndpo_use_liger_kernel: {json.dumps(value)}\n"
    assert asks_for_chunks(accept(text)) == (True if value else None)
