"""What follows from each difference between a run and the checkpoint that it goes on from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from siredon.config.load import load_config
from siredon.config.resume_kinds import collect_compared
from siredon.config.schema import Config
from siredon.train.resume_rules import Identity, compare_runs

FACTS = {
    "data": "rows",
    "num_ranks": 1,
    "train_data": "training rows",
    "model": "weights",
    "num_steps": 100,
    "num_packs": 400,
    "formats": "fp32",
    "device": "a CPU",
    "versions": {"torch": "2.13.0", "numpy": "2.0"},
}
DONE = 40
LORA = {"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_target_linear": True}


class Comparison:
    """A run, and what it was when it wrote its checkpoint."""

    def __init__(self, write_config: Any, **keys: Any) -> None:
        self.write_config = write_config
        self.keys = keys
        self.then = json.loads(json.dumps(asdict(self.identify(self.load()))))

    def load(self, **changes: Any) -> Config:
        return load_config(str(self.write_config(**{**self.keys, **changes})))[0]

    def identify(self, config: Config, **facts: Any) -> Identity:
        batch = config.batch
        sizes = {
            "micro_batch_size": batch.micro_batch_size,
            "gradient_accumulation_steps": batch.gradient_accumulation_steps,
            "seed": batch.seed,
        }
        return Identity(**{**FACTS, **sizes, "keys": collect_compared(config), **facts})

    def found(self, facts: dict[str, Any] | None = None, **changes: Any) -> list[str]:
        """The differences as they are shown, of a run with other facts or other keys."""
        config = self.load(**changes)
        return [
            str(found)
            for found in compare_runs(self.then, self.identify(config, **(facts or {})), config, DONE)
        ]

    def verdicts(self, facts: dict[str, Any] | None = None, **changes: Any) -> dict[str, str]:
        config = self.load(**changes)
        found = compare_runs(self.then, self.identify(config, **(facts or {})), config, DONE)
        return {difference.name: difference.verdict for difference in found}


@pytest.fixture
def run(write_config: Any) -> Comparison:
    return Comparison(write_config)


def test_the_same_run_is_silent(run: Comparison):
    assert run.found() == []


def test_what_does_not_touch_training_is_silent(run: Comparison):
    free = {"logging_steps": 7, "save_steps": 5, "save_total_limit": 9, "output_dir": "elsewhere"}
    free |= {"dataloader_num_workers": 2, "eval_batch_size": 3, "dataset_prepared_path": "elsewhere"}
    assert run.found(**free) == []


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"optimizer": "adamw_8bit"}, "optimizer: adamw_torch_fused -> adamw_8bit (refused"),
        ({"lr_scheduler": "cosine"}, "lr_scheduler: linear -> cosine (refused"),
        ({"warmup_steps": 9}, "warmup_steps: unset -> 9 (refused"),
        ({"weight_decay": 0.1}, "weight_decay: 0.0 -> 0.1 (refused"),
        (LORA, "adapter: unset -> lora (refused"),
        ({"max_grad_norm": 0.5}, "max_grad_norm: unset -> 0.5 (refused"),
    ],
)
def test_what_decides_training_is_refused(run: Comparison, change: dict[str, Any], shown: str):
    found = run.found(**change)
    assert any(line.startswith(shown) for line in found), found


def test_the_shape_of_an_adapter_is_refused(write_config: Any):
    assert Comparison(write_config, **LORA).verdicts(lora_r=4) == {"lora_r": "refused"}


def test_other_facts_are_refused_or_warned_of(run: Comparison):
    assert run.verdicts({"seed": 43}) == {"seed": "refused"}
    assert run.verdicts({"model": "others"}) == {"base_model": "refused"}
    assert run.verdicts({"formats": "bf16"}) == {"number formats": "refused"}
    assert run.verdicts({"device": "a GPU"}) == {"device": "warned"}
    # A library that is not there, or was not, is not compared
    assert run.found({"versions": {"torch": "2.14.0", "peft": "1"}}) == [
        "torch: 2.13.0 -> 2.14.0 (warned: another version may round otherwise)"
    ]


def test_a_model_that_was_moved_is_the_same_model(run: Comparison, tokenizer: Any, tmp_path: Any):
    assert run.found(base_model=str(tmp_path / "copy")) == []


def test_other_rows_are_refused_with_the_keys_that_say_why(run: Comparison):
    facts = {"data": "others", "train_data": "others too"}
    assert run.verdicts(facts, sequence_len=128) == {"data": "refused", "sequence_len": "refused"}


def test_other_validation_rows_are_warned_of_unless_they_decide_the_learning_rate(write_config: Any):
    facts = {"data": "others"}
    plain = Comparison(write_config)
    assert plain.verdicts(facts) == {"validation rows": "warned"}
    plateau = Comparison(write_config, lr_scheduler="reduce_lr_on_plateau", val_set_size=4)
    assert plateau.verdicts(facts) == {"data": "refused"}
    assert plateau.verdicts(eval_steps=3) == {"eval_steps": "refused"}
    assert plain.verdicts(eval_steps=3, val_set_size=4) == {}


def test_what_decides_by_metrics_and_what_rounds_is_warned_of(run: Comparison):
    assert run.verdicts(gradient_checkpointing=True) == {"gradient_checkpointing": "warned"}
    changes = {"val_set_size": 4, "eval_steps": 2, "save_steps": 2, "early_stopping_patience": 3}
    assert run.verdicts(**changes) == {"early_stopping_patience": "warned"}


def test_the_learning_rate_is_told_at_the_start_or_refused_where_the_shape_needs_it(write_config: Any):
    assert Comparison(write_config).found(learning_rate=5e-3) == []
    polynomial = Comparison(write_config, lr_scheduler="polynomial")
    assert polynomial.verdicts(learning_rate=5e-3) == {"learning_rate": "refused"}


class TestLength:
    def test_a_curve_that_stays_is_allowed(self, write_config: Any):
        run = Comparison(write_config, lr_scheduler="constant", max_steps=100)
        assert run.verdicts({"num_steps": 300}, max_steps=300) == {"optimizer steps": "allowed"}

    def test_a_curve_that_stretches_is_warned_of_with_both_rates(self, write_config: Any):
        run = Comparison(write_config, max_steps=100, warmup_steps=0)
        # The checkpoint goes on with its own peak, whatever the file says
        run.then["peak"] = 1e-3
        (line,) = run.found({"num_steps": 200}, max_steps=200, learning_rate=5e-3)
        assert line.startswith("optimizer steps: 100 -> 200 (warned: the learning rate of step 41 was to be")
        assert "was to be 0.0006 and is 0.0008" in line

    def test_a_curve_that_differs_later_is_warned_of_there(self, write_config: Any):
        words = {"lr_scheduler": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 20}}
        run = Comparison(write_config, max_steps=100, **words)
        (line,) = run.found({"num_steps": 200}, max_steps=200)
        assert int(line.split("rate of step ")[1].split()[0]) in range(81, 85)

    def test_one_cycle_has_no_other_length(self, write_config: Any):
        run = Comparison(write_config, max_steps=100, lr_scheduler="one_cycle")
        assert run.verdicts({"num_steps": 200}, max_steps=200) == {"optimizer steps": "refused"}

    def test_a_run_that_has_its_steps_behind_it_is_not_compared(self, write_config: Any):
        run = Comparison(write_config, max_steps=100)
        assert run.found({"num_steps": DONE}, max_steps=DONE) == []


class TestBatches:
    @pytest.fixture
    def run(self, write_config: Any) -> Comparison:
        return Comparison(write_config, micro_batch_size=2, gradient_accumulation_steps=4)

    def test_the_same_sequences_in_a_step_are_warned_of(self, run: Comparison):
        changes = {"micro_batch_size": 4, "gradient_accumulation_steps": 1}
        assert set(run.verdicts({"num_ranks": 2}, **changes).values()) == {"warned"}
        (line,) = run.found({"num_ranks": 2, "num_packs": 401}, gradient_accumulation_steps=2)[1:]
        assert line.startswith("gradient_accumulation_steps: 4 -> 2 (warned: a step has the same 8 sequences")

    def test_others_are_refused_with_the_sizes_that_are_accepted(self, run: Comparison):
        (line,) = run.found({"num_ranks": 2})
        assert line.startswith("num_ranks: 1 -> 2 (refused: a step would have 16 sequences and not 8")
        assert "2 process(es) accepted: micro_batch_size 2 with gradient_accumulation_steps 2, or" in line
        (line,) = run.found({"num_ranks": 3})
        assert "no batch size gives that with 3 processes" in line

    def test_rows_grouped_by_length_keep_the_rows_of_a_pass(self, write_config: Any):
        run = Comparison(
            write_config, group_by_length=True, micro_batch_size=2, gradient_accumulation_steps=4
        )
        changes = {"micro_batch_size": 1, "gradient_accumulation_steps": 8}
        (line, _) = run.found(**changes)
        assert "sort rows into other batches" in line
        assert line.endswith("accepted: micro_batch_size 2 with gradient_accumulation_steps 4)")
        halved = {"micro_batch_size": 1, "gradient_accumulation_steps": 4}
        assert set(run.verdicts({"num_ranks": 2}, **halved).values()) == {"warned"}
        assert set(run.verdicts({"num_ranks": 2, "num_packs": 401}, **halved).values()) == {"refused"}


class TestOldCheckpoints:
    """Those that know only data, batch and seed."""

    @pytest.fixture
    def run(self, write_config: Any) -> Comparison:
        run = Comparison(write_config)
        names = ("data", "num_ranks", "micro_batch_size", "gradient_accumulation_steps", "seed")
        run.then = {name: run.then[name] for name in names}
        return run

    def test_the_same_run_is_silent_and_keys_are_not_compared(self, run: Comparison):
        assert run.found() == []
        assert run.found(weight_decay=0.1) == []

    def test_what_they_know_is_compared(self, run: Comparison):
        assert run.verdicts({"data": "others"}) == {"data": "refused"}
        assert run.verdicts({"seed": 43}) == {"seed": "refused"}
        assert run.verdicts(gradient_accumulation_steps=1) == {"gradient_accumulation_steps": "refused"}


def test_a_key_that_a_checkpoint_does_not_know_had_its_default(run: Comparison):
    del run.then["keys"]["weight_decay"]
    assert run.found() == []
    assert run.verdicts(weight_decay=0.1) == {"weight_decay": "refused"}
