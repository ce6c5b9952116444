"""Rows about whole runs, checkpoints and artifacts fail, by their figure, with the bug planted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from siredon import pipeline, release
from siredon.data import prompt
from siredon.data.match import MatchedTable
from siredon.data.types import IGNORE
from siredon.export import merge, merge_stage
from siredon.export.merge_shards import ShardMerge
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell
from siredon.selftest.table import ROWS, try_cell
from siredon.train import checkpoint, kto_trainer, publish, reference, reward_trainer, step_trainer
from siredon.train.pair_trainer import PairTrainer
from siredon.train.reward_trainer import RewardTrainer
from siredon.train.trainer import SiredonTrainer


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(verbs=(pipeline.train, release.merge_unchecked)) as built:
        yield built


def find_failures(rig: Rig, name: str, cell: Cell) -> set[str]:
    """The figures of a row that are too large; it is not enough that a run breaks."""
    rig.forget()
    finding = try_cell(rig, ROWS.load(name), cell)
    assert not finding.error
    assert not finding.skipped_because
    return {measure.what for measure in finding.measures if not measure.passed}


RESUMED = Cell(case="lora, mid-epoch", packed=True)


def test_random_numbers_that_a_run_does_not_take_up(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SiredonTrainer, "_load_rng_state", lambda self, folder: None)
    failed = find_failures(rig, "resume", RESUMED)
    assert {"weights", "optimizer.pt of checkpoint-8", "log lines that differ"} <= failed


def test_an_optimizer_that_forgets(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SiredonTrainer, "_load_optimizer_and_scheduler", lambda self, folder: None)
    failed = find_failures(rig, "resume", RESUMED)
    assert {"weights", "optimizer.pt of checkpoint-8", "scheduler.pt of checkpoint-8"} <= failed
    assert "steps without a log line" not in failed


def test_a_checkpoint_whose_bytes_nobody_looks_at(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "find_fault", lambda folder, by_hash=False: publish.find_fault(folder))
    assert find_failures(rig, "torn_checkpoint", Cell(case="adapter")) == {
        "torn checkpoints taken, one bit changed",
        "runs that do not go on from the whole one before, one bit changed",
    }


def test_a_checkpoint_without_a_manifest_that_is_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "find_flaw", checkpoint._missing)
    assert find_failures(rig, "torn_checkpoint", Cell(case="adapter")) >= {
        "torn checkpoints taken, file cut short",
        "unfinished checkpoints taken",
    }


def test_the_newest_checkpoint_or_none(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = checkpoint.list_checkpoints
    monkeypatch.setattr(checkpoint, "list_checkpoints", lambda output: plain(output)[-1:])
    failed = find_failures(rig, "torn_checkpoint", Cell(case="adapter"))
    assert "runs that do not go on from the whole one before, file missing" in failed
    assert "torn checkpoints taken, file missing" not in failed


def change_adapter(monkeypatch: pytest.MonkeyPatch, change: Any, place: Any = merge_stage) -> None:
    """Merges another adapter than was trained; `place` is the module that reads it."""
    plain = place.load_adapter

    def read(base: Any, folder: Path) -> Any:
        model = plain(base, folder)
        change(model)
        return model

    monkeypatch.setattr(place, "load_adapter", read)


@pytest.mark.parametrize("case", ["rslora", "dora"])
def test_a_merge_with_the_scale_of_another_kind(rig: Rig, monkeypatch: pytest.MonkeyPatch, case: str):
    from peft.tuners.lora import LoraLayer

    def scale(model: Any) -> None:
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.scaling = {name: value / 2 for name, value in module.scaling.items()}

    change_adapter(monkeypatch, scale)
    failed = find_failures(rig, "merge", Cell(case=case))
    assert {"merged weights against the formula", "logits, merged against adapter"} == failed


def test_a_merge_that_leaves_a_layer_out(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    def forget(model: Any) -> None:
        for name, weight in model.named_parameters():
            if "layers.1.mlp.up_proj.lora_B" in name:
                weight.data.zero_()

    change_adapter(monkeypatch, forget)
    assert "targets that the adapter did not change" in find_failures(rig, "merge", Cell(case="lora"))


def test_new_rows_that_are_not_merged(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    def forget(model: Any) -> None:
        for name, weight in model.named_parameters():
            if "embed_tokens.modules_to_save" in name:
                weight.data[-2:] = weight.data[:-2].mean(dim=0)

    change_adapter(monkeypatch, forget)
    assert {
        "trained rows that are not in the merged model",
        "logits, merged against adapter",
    } <= find_failures(rig, "new_tokens", Cell(case="untied"))


def test_new_rows_without_a_start(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = SiredonTrainer.training_step

    def freeze(self: Any, model: Any, *args: Any, **options: Any) -> Any:
        loss = plain(self, model, *args, **options)
        for name, weight in model.named_parameters():
            if weight.grad is not None and "modules_to_save" in name:
                weight.grad[-2:] = 0
        return loss

    monkeypatch.setattr(SiredonTrainer, "training_step", freeze)
    assert "new rows that did not move" in find_failures(rig, "new_tokens", Cell(case="tied"))


def test_an_adapter_that_is_saved_with_its_base(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = SiredonTrainer.save_model

    def save(self: Any, folder: str, **options: Any) -> None:
        plain(self, folder, **options)
        torch.save(self.model.state_dict(), Path(folder) / "pytorch_model.bin")

    monkeypatch.setattr(SiredonTrainer, "save_model", save)
    failed = find_failures(rig, "adapter_checkpoint", Cell(accumulation=2))
    assert failed == {"files of weights too many or too few"}


def test_an_adapter_that_is_saved_in_part(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    from safetensors.torch import load_file, save_file

    plain = SiredonTrainer.save_model

    def save(self: Any, folder: str, **options: Any) -> None:
        plain(self, folder, **options)
        path = Path(folder) / "adapter_model.safetensors"
        tensors = load_file(path)
        del tensors[min(tensors)]
        save_file(tensors, path)

    monkeypatch.setattr(SiredonTrainer, "save_model", save)
    failed = find_failures(rig, "adapter_checkpoint", Cell(accumulation=2))
    assert {"tensors too many or too few", "saved tensors against those of rank 0"} <= failed


@pytest.mark.parametrize("case", ["model", "merged adapter"])
def test_a_tokenizer_that_is_saved_without_its_template(rig: Rig, monkeypatch: pytest.MonkeyPatch, case: str):
    monkeypatch.setattr(prompt, "set_template_", lambda *args: None)
    assert {
        "chat template lost or changed",
        "answers that do not end, or are not those of training",
    } == find_failures(rig, "export", Cell(case=case))


def test_stop_tokens_that_are_not_saved(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("siredon.model.build.set_stop_tokens_", lambda model, ids: None)
    assert {
        "stop tokens that the generation config lacks",
        "answers that do not end, or are not those of training",
    } == find_failures(rig, "export", Cell(case="merged adapter"))


def test_a_merge_in_16_bits(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = ShardMerge.write

    def narrow(self: Any, folder: Path, dtype: Any) -> None:
        plain(self, folder, torch.bfloat16)

    monkeypatch.setattr(ShardMerge, "write", narrow)
    assert "weights of another number format" in find_failures(rig, "export", Cell(case="merged adapter"))


def test_a_reference_that_is_the_base_though_the_adapter_begins_with_something(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reference, "_starts_as_base", lambda trainer: True)
    failed = find_failures(rig, "dpo_reference", Cell(case="continued adapter"))
    assert {"loss of the first step against ln 2", "rewards of the first step"} <= failed
    assert find_failures(rig, "dpo_reference", Cell(case="new adapter")) == set()


def test_a_reference_that_moves_with_the_policy(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reference.StartWeights, "standing_in", lambda self: nullcontext())
    assert "reward lacking at the last step" in find_failures(rig, "dpo_reference", Cell(case="whole model"))


def test_prompts_that_are_counted_among_the_answers(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = PairTrainer._sum_samples

    def score(self: Any, model: Any, inputs: Any, **options: Any) -> Any:
        labels = torch.where(inputs["position_ids"] > 0, inputs["input_ids"], IGNORE)
        return plain(self, model, {**inputs, "labels": labels}, **options)

    monkeypatch.setattr(PairTrainer, "_sum_samples", score)
    for case in ("one by one", "packed"):
        assert find_failures(rig, "log_probs", Cell(case=case)) == {"logps/chosen", "logps/rejected"}


def test_answers_that_are_matched_with_themselves(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = MatchedTable.take

    def take(self: Any, index: int) -> Any:
        own, other = plain(self, index)
        return own, replace(own, is_mismatched=True, reference=other.reference)

    monkeypatch.setattr(MatchedTable, "take", take)
    failed = find_failures(rig, "kto_pairs", Cell(case="good and bad"))
    assert failed == {f"answers matched with themselves, {size} at once" for size in (1, 2, 3)}


def test_a_divergence_that_is_let_below_zero(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kto_trainer, "estimate_kl", lambda sums: sums[0] / sums[1].clamp(min=1) - 1)
    failed = find_failures(rig, "kto_pairs", Cell(case="all good"))
    assert {"divergence below 0, 1 at once", "first loss against one half, 1 at once"} <= failed


#: What the model in memory was measured to give, of a run whose weights stay as they are.
SCORED = {
    f"{name} {of}"
    for name in ("loss", "rewards/chosen", "rewards/rejected")
    for of in ("of training", "by the model that is saved")
}


def test_scores_of_the_token_before_the_last(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = RewardTrainer.score_samples

    def score(self: Any, model: Any, inputs: Any) -> Any:
        return plain(self, model, {**inputs, "samples": inputs["samples"].roll(-1, 1)})

    monkeypatch.setattr(RewardTrainer, "score_samples", score)
    for case in ("one by one", "padded", "packed"):
        assert find_failures(rig, "reward_model", Cell(case=case)) >= SCORED


def test_scores_of_the_end_of_the_row(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    def score(self: Any, model: Any, inputs: Any) -> Any:
        scores, samples = self.run_model(model, inputs).float(), inputs["samples"]
        ends = torch.stack([(samples == number).any(1) for number in range(len(inputs["packs"]))])
        return (ends * scores[None, :, -1, 0]).sum(1)

    monkeypatch.setattr(RewardTrainer, "score_samples", score)
    for case in ("padded", "packed"):
        assert find_failures(rig, "reward_model", Cell(case=case)) >= SCORED


def test_a_margin_that_nobody_reads(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = reward_trainer.reward_loss
    monkeypatch.setattr(
        reward_trainer, "reward_loss", lambda *scores, **keys: plain(*scores, **keys | {"margin": None})
    )
    found = find_failures(rig, "reward_model", Cell(case="packed"))
    assert found == {"loss of training", "loss by the model that is saved"}


def test_a_head_of_scores_that_is_drawn_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    def redraw(model: Any) -> None:
        for name, weight in model.named_parameters():
            if "score" in name:
                torch.nn.init.normal_(weight, std=0.02)

    change_adapter(monkeypatch, redraw, merge)
    for name in ("reward_model", "process_reward_model"):
        assert "loss by the model that is saved" in find_failures(rig, name, Cell(case="adapter"))


def test_labels_of_steps_that_are_shifted(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = step_trainer.process_reward_loss
    monkeypatch.setattr(
        step_trainer, "process_reward_loss", lambda logits, labels: plain(logits[:, :-1], labels[:, 1:])
    )
    for case in ("one by one", "padded", "packed"):
        assert find_failures(rig, "process_reward_model", Cell(case=case)) == {"loss of training"}
