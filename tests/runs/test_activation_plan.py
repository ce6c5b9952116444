"""`gradient_checkpointing: auto`: the run is the one without it, bit for bit, whatever the plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_out_of_memory import Shortage
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of
from tests.runs.test_watching import same, untimed

from siredon import pipeline
from siredon.errors import TrainingError
from siredon.train import activation_plan

KEYS = {**LORA, "lora_dropout": 0.2, "max_steps": 4, "micro_batch_size": 2, "save_strategy": "no"}
AUTO = {**KEYS, "gradient_checkpointing": "auto"}


def test_a_run_with_a_plan_is_the_run_without(
    write_config: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    pipeline.train(config_of(write_config("a.yml", **KEYS, output_dir=str(tmp_path / "plain"))))
    assert "gradient_checkpointing auto" not in capsys.readouterr().err
    read_memory = activation_plan.read_memory
    for count, limit, what in ((0, None, "no layer"), (2, 1, "every layer")):
        if limit is not None:
            monkeypatch.setattr(
                activation_plan, "read_memory", lambda hardware: replace(read_memory(hardware), limit=1)
            )
        out = tmp_path / f"planned-{count}"
        pipeline.train(config_of(write_config("b.yml", **AUTO, output_dir=str(out))))
        said = capsys.readouterr().err
        assert f"memory: gradient_checkpointing auto: {what} recomputed; the longest batch, 2 x " in said
        assert "(estimated from what its layers keep)" in said
        assert ("memory may run out in the longest batch" in said) == (limit is not None)
        assert same(tmp_path / "plain", out)
        assert untimed(tmp_path / "plain") == untimed(out)
        chosen = json.loads((out / "run.json").read_text())["gradient_checkpointing"]
        assert chosen == {"recomputed_layers": count, "num_layers": 2, "keep_attention": 0, "offloads": False}


def test_a_plan_that_is_tried_anyway_is_not_chosen_by_resident_memory(write_config: Any, capsys: Any):
    pipeline.train(config_of(write_config(**AUTO, probe_longest_batch=True)))
    said = capsys.readouterr().err
    assert "(estimated from what its layers keep)" in said
    assert "longest batch: 2 x " in said


def test_a_plan_that_runs_out_all_the_same_is_told_of_recomputing_every_layer(
    write_config: Any, monkeypatch: pytest.MonkeyPatch
):
    config = config_of(write_config(**AUTO))
    with monkeypatch.context() as patch:
        counted = Shortage(patch, at=-1)
        pipeline.train(config)
    steps = 4 * 2
    with monkeypatch.context() as patch:
        Shortage(patch, at=counted.calls - steps + 3)
        with pytest.raises(TrainingError) as caught:
            pipeline.train(config)
    assert "a batch of step 2" in str(caught.value)
    assert "gradient_checkpointing: true  #" in str(caught.value)


def test_compiled_layers_have_a_plan(write_config: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    torch.compiler.reset()
    keys = {**AUTO, "max_steps": 1, "torch_compile": True, "torch_compile_backend": "eager"}
    calls: list[int] = []
    count = activation_plan.count_sizes

    def count_without_compiling(*args: Any) -> Any:
        sizes = count(*args)
        calls.append(sum(torch._dynamo.utils.counters["frames"].values()))
        return sizes

    monkeypatch.setattr(activation_plan, "count_sizes", count_without_compiling)
    before = sum(torch._dynamo.utils.counters["frames"].values())
    pipeline.train(config_of(write_config(**keys)))
    assert calls == [before], "counting compiles nothing"
    assert sum(torch._dynamo.utils.counters["frames"].values()) > before, "training does"
    said = capsys.readouterr().err
    assert "gradient_checkpointing auto: no layer recomputed" in said
    assert "2 layers compiled by eager" in said


@pytest.mark.long
def test_ranks_have_one_plan(write_config: Any, tmp_path: Path):
    for name, keys in (("plain", KEYS), ("planned", AUTO)):
        said = train_on_two_ranks(write_config(f"{name}.yml", **keys, output_dir=str(tmp_path / name)))
        assert said.count("gradient_checkpointing auto: no layer recomputed") == (name == "planned")
    assert same(tmp_path / "plain", tmp_path / "planned")
