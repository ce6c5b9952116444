"""On a GPU: a plan is measured, fits with what there is, and leaves the losses as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.hardware import limit_memory, probe_hardware, read_memory, release_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]

MIB = 2**20
KEYS = {
    "datasets": [{"path": "_synthetic", "type": "_synthetic", "length": 128, "sequence_length": 256}],
    "excess_length_strategy": "truncate",
    "micro_batch_size": 64,
    "gradient_accumulation_steps": 2,
    "max_steps": 2,
    "num_epochs": 2,
    "save_strategy": "no",
    "tf32": False,
}
AUTO = {**KEYS, "gradient_checkpointing": "auto"}


@pytest.fixture
def leave() -> Iterator[Callable[[int], int]]:
    """Leaves this process so many bytes more than it holds, and tells its limit; afterwards it has the whole GPU."""
    hardware = probe_hardware()

    def leave_little(room: int) -> int:
        release_memory(hardware)
        limit_memory(hardware, (torch.cuda.memory_reserved() + room) / read_memory(hardware).total)
        return read_memory(hardware).limit

    yield leave_little
    limit_memory(hardware, 1.0)
    release_memory(hardware)


def write_model(folder: Path, tokenizer: Any, *, num_layers: int, feed: int) -> str:
    """A Llama whose layers keep far more than its head does."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=feed,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def losses_of(folder: Path) -> list[float]:
    from tests.runs.test_train import metrics_of

    return [row["loss"] for row in metrics_of(folder) if "loss" in row]


def chosen_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["gradient_checkpointing"]
    return found


def test_layers_are_recomputed_as_memory_asks(
    write_config: Any, tmp_path: Path, tokenizer: Any, leave: Callable[[int], int], capsys: Any
):
    from tests.runs.test_train import config_of

    from siredon import pipeline

    # A layer keeps about 400 MiB of a batch: all of them over 3 GiB
    keys = {"base_model": write_model(tmp_path / "model", tokenizer, num_layers=8, feed=1024)}
    plain = write_config("a.yml", **KEYS, **keys, output_dir=str(tmp_path / "plain"))
    pipeline.train(config_of(plain))
    capsys.readouterr()

    pipeline.train(config_of(write_config("b.yml", **AUTO, **keys, output_dir=str(tmp_path / "free"))))
    said = capsys.readouterr().err
    assert re.search(r"memory: gradient_checkpointing auto: no layer recomputed; .* GiB \(measured\)", said)
    assert chosen_in(tmp_path / "free")["recomputed_layers"] == 0

    limit = leave(2048 * MIB)
    pipeline.train(config_of(write_config("c.yml", **AUTO, **keys, output_dir=str(tmp_path / "tight"))))
    taken = torch.cuda.max_memory_allocated()
    said = capsys.readouterr().err
    assert re.search(
        r"auto: \d of 8 layers recomputed(, but for attention.*)?; the longest batch, 64 x 256 tokens, takes ",
        said,
    )
    assert "out of memory" not in said
    chosen = chosen_in(tmp_path / "tight")
    assert 1 <= chosen["recomputed_layers"] <= 7
    assert not chosen["offloads"]
    assert taken <= limit
    # One layer fewer would not have fit
    assert taken > limit - 2 * 512 * MIB

    expected = losses_of(tmp_path / "plain")
    assert len(expected) == 2
    for name in ("free", "tight"):
        assert losses_of(tmp_path / name) == pytest.approx(expected, abs=1e-5), name


def test_what_is_kept_waits_in_ram_where_recomputing_is_not_enough(
    write_config: Any, tmp_path: Path, tokenizer: Any, leave: Callable[[int], int], capsys: Any
):
    from tests.runs.test_train import config_of

    from siredon import pipeline

    # Weights, gradients and AdamW's state take 4 x 85 MiB, inputs of layers 48 x 16 MiB, and one layer that runs again,
    # with the rest, about 350 MiB: 1,330 in all at the peak, and some 700 with the inputs elsewhere
    keys = {"base_model": write_model(tmp_path / "model", tokenizer, num_layers=48, feed=256)}
    keys |= {"gradient_accumulation_steps": 1, "max_steps": 1}
    plain = write_config("a.yml", **{**KEYS, **keys}, output_dir=str(tmp_path / "plain"))
    pipeline.train(config_of(plain))
    capsys.readouterr()
    leave(1100 * MIB)
    pipeline.train(config_of(write_config("b.yml", **{**AUTO, **keys}, output_dir=str(tmp_path / "tight"))))
    assert "every layer recomputed, what is kept waits in pinned RAM;" in capsys.readouterr().err
    assert chosen_in(tmp_path / "tight") == {
        "recomputed_layers": 48,
        "num_layers": 48,
        "keep_attention": 0,
        "offloads": True,
    }
    assert losses_of(tmp_path / "tight") == pytest.approx(losses_of(tmp_path / "plain"), abs=1e-5)
