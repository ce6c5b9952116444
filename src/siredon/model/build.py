"""The whole stage, in order: config and weights -> a model ready to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.log import note
from siredon.model.adapt import attach_adapter_
from siredon.model.attention import check_attention
from siredon.model.embeddings import warn_of_frozen_tokens
from siredon.model.float8 import use_float8_products_
from siredon.model.freezing import choose_trained_
from siredon.model.fuse import fuse_
from siredon.model.install import Installed
from siredon.model.load import Source, count_parameters, load_model, set_stop_tokens_
from siredon.model.memory import trade_memory_
from siredon.model.new_tokens import find_new_tokens
from siredon.model.noise import leave_dropout_out_
from siredon.model.precision import Precision, set_formats_, warn_of_rounding
from siredon.model.quantized import check_trainable, keep_from_ranks_
from siredon.model.rounding import round_in_training_


@dataclass(frozen=True)
class Built:
    """A model ready to train.

    Args:
        model: The module to train: an adapter of PEFT around `base`, or `base` itself.
        base: The model of transformers.
        kernels: The fused kernels on it.
    """

    model: Any
    base: Any
    kernels: Installed


def build_model(
    config: Config, tokenizer: Any, stop_ids: tuple[int, ...], precision: Precision, hardware: Hardware
) -> Built:
    """Loads the weights, and prepares what is trained of them.

    Args:
        config: The whole config.
        tokenizer: The vocabulary must cover it.
        stop_ids: Tokens on which the trained model will stop.
        precision: Number formats.
        hardware: What it runs on.

    Raises:
        ModelError: The model cannot be built as the config asks.
    """
    seed = config.batch.seed
    attention = check_attention(config.attention, precision, hardware)
    # 1. Weights
    base = load_model(Source.of(config, places=True), precision.weights, tokenizer, hardware, seed=seed)
    set_stop_tokens_(base, stop_ids)
    # 2. What is trained
    check_trainable(base, config.adapter)
    choose_trained_(base, config.freezing, hardware)
    use_float8_products_(base, config.precision, hardware)
    model = attach_adapter_(base, config.adapter, seed=seed)
    preference = config.preference
    if preference.compares or preference.is_unpaired or preference.judges:
        # A reward is the difference of two passes: it would be that of their dropout
        leave_dropout_out_(model)
    keep_from_ranks_(model)
    warn_of_frozen_tokens(base, find_new_tokens(config.tokenizer, config.model, tokenizer))
    # 3. Number formats of what is trained, and of norms
    formats = set_formats_(model, base, config.precision, precision)
    rounding = config.quantization.qat
    if rounding is not None:
        round_in_training_(base, rounding)
    # 4. What became of it
    warn_of_rounding(precision, has_adapter=config.adapter.adapter is not None)
    note(f"model: {count_parameters(model).describe()}, {precision.describe()}, on {hardware.describe()}")
    note(f"attention: {attention}" + (f"; {formats}" if formats else ""))
    # 5. Fused kernels
    kernels = fuse_(base, config, hardware)
    # 6. What is recomputed, parked and compiled
    trade_memory_(model, base, config, hardware)
    return Built(model, base, kernels)
