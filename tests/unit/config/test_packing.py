"""What follows from the keys of packing and of attention together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from siredon.config.load import load_config
from siredon.config.schema import Config
from siredon.config.sections.attention import AttentionSection


def config_of(tmp_path: Path, text: str, attention: str = "sdpa") -> Config:
    path = tmp_path / "config.yml"
    path.write_text(
        "base_model: some/model\nlearning_rate: 1e-4\ndatasets:\n  - path: rows.jsonl\n    type: alpaca\n"
        + text
    )
    config, _ = load_config(str(path))
    section = AttentionSection.model_construct(attn_implementation=attention)
    return config.model_copy(update={"attention": section})


PACKED = "sample_packing: true\n"
FLAT = "micro_batch_size: 2\nbatch_flattening: "


@pytest.mark.parametrize(
    ("text", "attention", "flattens"),
    [
        ("", "sdpa", False),
        ("", "flash_attention_2", False),
        (FLAT + "true\n", "sdpa", True),
        (FLAT + "false\n", "flash_attention_2", False),
        (FLAT + "auto\n", "sdpa", False),
        (FLAT + "auto\n", "flash_attention_2", True),
        (FLAT + "auto\n", "kernels-community/flash-attn", True),
        (PACKED, "sdpa", False),
        (PACKED, "flash_attention_3", True),
        (PACKED + "multipack_real_batches: false\n", "sdpa", True),
        (PACKED + "multipack_real_batches: true\n", "flash_attention_3", False),
        ("eval_sample_packing: true\nval_set_size: 0.1\n", "flash_attention_2", True),
    ],
)
def test_a_batch_is_one_row_where_it_is_asked_for_or_attention_needs_it(
    tmp_path: Path, text: str, attention: str, flattens: bool
):
    config = config_of(tmp_path, text, attention)
    assert config.flattens_batches is flattens
    assert config.batches_packs is not flattens


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("", False),
        ("val_set_size: 0.1\n", False),
        (PACKED, True),
        ("val_set_size: 0.1\neval_sample_packing: true\n", True),
        ("eval_sample_packing: true\n", False),
        (FLAT + "true\n", True),
        (FLAT + "auto\n", False),
    ],
)
def test_isolation_matters_where_rows_share_a_sequence(tmp_path: Path, text: str, shares: bool):
    assert config_of(tmp_path, text).shares_sequences is shares


@pytest.mark.parametrize(
    ("keys", "in_order"),
    [
        ({}, False),
        ({"curriculum_sampling": True}, True),
        ({"curriculum_sampling": True, "sample_packing_sequentially": False}, False),
        ({"sample_packing_sequentially": True}, True),
    ],
)
def test_packs_keep_the_order_of_the_rows_where_the_rows_keep_theirs(keys: dict[str, Any], in_order: bool):
    from siredon.config.sections.packing import PackingSection

    assert PackingSection(**keys).packs_in_order is in_order
