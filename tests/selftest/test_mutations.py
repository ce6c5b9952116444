"""Every row fails, by its figures, with the bug planted that it is about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.data.collate import Collator
from siredon.data.types import IGNORE
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell
from siredon.selftest.table import ROWS, try_cell
from siredon.train import losses
from siredon.train.learning_rate import ScheduleBuilder
from siredon.train.trainer import SiredonTrainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


@pytest.fixture
def rig(built: Rig) -> Rig:
    """A rig that has run no trial without the bug, and not with another one."""
    built.forget()
    return built


def find_failures(rig: Rig, name: str, cell: Cell) -> list[str]:
    """The figures of a row that are too large; it is not enough that a trial breaks."""
    finding = try_cell(rig, ROWS.load(name), cell)
    assert not finding.error
    return [measure.what for measure in finding.measures if not measure.passed]


def test_a_loss_that_is_divided_by_the_targets_of_each_micro_batch(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = SiredonTrainer.compute_loss

    def divide(self: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        count = (inputs["labels"] != IGNORE).sum() * self.args.gradient_accumulation_steps
        return plain(self, model, inputs, num_items_in_batch=count)

    monkeypatch.setattr(SiredonTrainer, "compute_loss", divide)
    failed = find_failures(rig, "accumulation", Cell(accumulation=4))
    assert {"loss", "gradients", "logged grad_norm"} <= set(failed)


@pytest.mark.long
def test_ranks_that_are_averaged_and_draw_alike(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with Rig(worker="tests.selftest.mutations.ranks") as rig:
        failed = find_failures(rig, "ranks", Cell(num_ranks=2))
        assert {f"{what} on rank {rank}" for what in ("gradients", "loss") for rank in (0, 1)} & set(failed)
        assert "gradients of 5 targets against 1 on rank 0" in failed
        failed = find_failures(rig, "dropout", Cell(num_ranks=2))
        assert failed == ["masks of ranks 0 and 1 alike"]


def let_all_packs_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the check out by which a run with such a bug would end before it begins."""
    monkeypatch.setattr("siredon.train.equip.check_isolation", lambda *args: None)


def change_positions(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    plain = Collator.__call__

    def collate(self: Any, packs: Any) -> Any:
        batch = plain(self, packs)
        batch["position_ids"] = change(batch["position_ids"])
        return batch

    monkeypatch.setattr(Collator, "__call__", collate)
    let_all_packs_train(monkeypatch)


def test_positions_that_go_on_from_document_to_document(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    change_positions(monkeypatch, lambda ids: torch.arange(ids.shape[1]).expand_as(ids))
    failed = find_failures(rig, "isolation", Cell(packed=True))
    for kind in ("llama", "mistral", "gemma3_text"):
        assert {f"{kind}: logits moved by changed neighbours", f"{kind}: gradient at neighbours"} <= set(
            failed
        )


def test_a_mask_of_ones_that_is_given_to_the_model(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = SiredonTrainer.run_model

    def mask(self: Any, model: Any, inputs: Any, **options: Any) -> Any:
        return plain(self, model, inputs, attention_mask=inputs.get("attention_mask"), **options)

    monkeypatch.setattr(SiredonTrainer, "run_model", mask)
    failed = find_failures(rig, "isolation", Cell(packed=True))
    assert "llama: logits moved by a mask of ones in the batch" in failed


def test_positions_that_count_from_1(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    change_positions(monkeypatch, lambda ids: ids + 1)
    failed = find_failures(rig, "positions", Cell())
    assert "gradients, gpt2 in full length" in failed
    assert not any("llama" in what for what in failed)  # only distances matter to rotary positions


def test_a_label_at_the_first_token_of_a_document(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = Collator.__call__

    def label(self: Any, packs: Any) -> Any:
        batch = plain(self, packs)
        starts = (batch["position_ids"] == 0) & (batch["input_ids"] != 0)
        batch["labels"][starts] = batch["input_ids"][starts]
        return batch

    monkeypatch.setattr(Collator, "__call__", label)
    let_all_packs_train(monkeypatch)
    assert {"gradients", "targets counted"} <= set(find_failures(rig, "boundary_labels", Cell(packed=True)))


def test_a_validation_loss_that_is_a_mean_of_means(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = SiredonTrainer._sum_rows

    def average(self: Any, model: Any, inputs: Any) -> Any:
        sums, targets = plain(self, model, inputs)
        return sums / targets.clamp(min=1), targets.clamp(max=1)

    monkeypatch.setattr(SiredonTrainer, "_sum_rows", average)
    failed = find_failures(rig, "evaluation", Cell())
    assert {"validation loss, batch size 1", "validation loss, batch size 7"} <= set(failed)
    assert "weights changed by validating" not in failed


def test_a_validation_that_draws_random_numbers(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = SiredonTrainer.evaluation_loop

    def draw(self: Any, *args: Any, **options: Any) -> Any:
        torch.rand(1)
        return plain(self, *args, **options)

    monkeypatch.setattr(SiredonTrainer, "evaluation_loop", draw)
    assert find_failures(rig, "evaluation", Cell()) == ["weights changed by validating"]


def test_a_schedule_that_is_stretched_over_micro_batches(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = ScheduleBuilder.build
    monkeypatch.setattr(
        ScheduleBuilder, "build", lambda self, optimizer, num_steps: plain(self, optimizer, 4 * num_steps)
    )
    assert set(find_failures(rig, "schedule", Cell(accumulation=4))) == {
        "learning rate of a step",
        "learning rate after the last step",
    }


def test_dropout_that_is_drawn_anew_for_layers_that_are_recomputed(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    from siredon.model import memory

    plain = memory.recompute_activations_

    def forget(model: Any, section: Any, *args: Any, **keys: Any) -> str:
        options = {**section.gradient_checkpointing_kwargs, "preserve_rng_state": False}
        changed = section.model_copy(update={"gradient_checkpointing_kwargs": options})
        return plain(model, changed, *args, **keys)

    monkeypatch.setattr(memory, "recompute_activations_", forget)
    failed = find_failures(rig, "recompute", Cell())
    assert {
        "gradients of an adapter, recomputed",
        "gradients of an adapter, recomputed, reentrant",
        "gradients of an adapter, recomputed, kept on disk",
    } == set(failed)


def test_masked_rows_that_count_as_targets(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = losses._chunk_sum
    monkeypatch.setattr(losses, "_chunk_sum", lambda logits, targets: plain(logits, targets.clamp(min=0)))
    failed = find_failures(rig, "loss_path", Cell(packed=True))
    assert {"gradient of 17 rows in pieces of 16", "gradients of capped logits"} <= set(failed)


def test_a_gradient_that_is_clipped_after_each_micro_batch(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = SiredonTrainer.training_step

    def clip(self: Any, model: Any, *args: Any, **options: Any) -> Any:
        loss = plain(self, model, *args, **options)
        if self.args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
        return loss

    monkeypatch.setattr(SiredonTrainer, "training_step", clip)
    assert "clipped gradients" in find_failures(rig, "clipping", Cell(accumulation=4))


def test_an_adapter_that_is_trained_in_16_bits(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    from siredon.model import build
    from siredon.model.precision import cast_trained_

    plain = build.attach_adapter_

    def attach(*args: Any, **options: Any) -> Any:
        model = plain(*args, **options)
        cast_trained_(model, torch.bfloat16)
        return model

    monkeypatch.setattr(build, "attach_adapter_", attach)
    failed = find_failures(rig, "clipping", Cell(accumulation=4))
    assert "number formats of gradients beside fp32, with bf16" in failed


def test_dropout_that_begins_anew_with_each_micro_batch(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = SiredonTrainer.training_step

    def seed(self: Any, *args: Any, **options: Any) -> Any:
        torch.manual_seed(self.args.seed)
        return plain(self, *args, **options)

    monkeypatch.setattr(SiredonTrainer, "training_step", seed)
    assert find_failures(rig, "dropout", Cell(accumulation=4)) == ["masks of micro-batches alike on rank 0"]
