"""Kinds of adapters: what each of them takes, and what its settings need."""

from __future__ import annotations

import importlib.util
import os.path
import re
from collections.abc import Iterator
from typing import Any

from siredon.config.idle import keys_asking, keys_but, list_keys
from siredon.config.peft_options import (
    NESTED,
    OPTIONS,
    OWN_KEYS,
    OWN_KEYS_OF_LORA,
    REFUSED,
    SET_BY_RUN,
    STARTS,
    UNBUILT_STARTS,
)
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection, is_pattern
from siredon.config.sections.quantization import QuantizationSection
from siredon.config.sections.streaming import StreamingSection
from siredon.registry import find_clear, suggest

#: What every adapter has.
_OF_ALL = (
    "adapter",
    "lora_target_modules",
    "lora_target_linear",
    "lora_exclude_modules",
    "lora_modules_to_save",
    "lora_model_dir",
    "lora_frozen_dirs",
    "lora_on_cpu",
    "merge_method",
    "mora",
    "loraplus_lr_embedding",
    "peft_layers_to_transform",
    "peft_layers_pattern",
    "peft",
    "peft_autocast_adapter_dtype",
)
_OF_LORA = keys_but(AdapterSection, *_OF_ALL)
_OF_LAYERS = (
    "lora_target_modules",
    "lora_target_linear",
    "lora_exclude_modules",
    "lora_modules_to_save",
    "peft_layers_to_transform",
    "peft_layers_pattern",
)
#: Keys of LoRA -> what other adapters call it in `peft:`.
_OTHER_NAMES = {"lora_r": ("r",), "lora_alpha": ("alpha",), "lora_dropout": ("module_dropout",)}


def _check_keys(adapter: AdapterSection) -> Iterator[Finding]:
    """Keys of LoRA come with LoRA.

    Other adapters have settings of their own, in `peft:`.  `llama-adapter` is in the attention of the last blocks: it
    is not told in which layers.
    """
    if adapter.adapter is None or adapter.is_lora:
        return
    wrong = keys_asking(adapter, _OF_LORA)
    if adapter.adapter == "llama-adapter":
        wrong += keys_asking(adapter, _OF_LAYERS)
    for name in wrong:
        there = [word for word in _OTHER_NAMES.get(name, ()) if word in OPTIONS.get(adapter.adapter, ())]
        fix = f"Write `peft: {{{there[0]}: ...}}` in place of it." if there else "Remove the key."
        yield Finding(name, f"`{name}` has no effect with `adapter: {adapter.adapter}`", fix)


def _check_options(adapter: AdapterSection) -> Iterator[Finding]:
    """`peft:` holds settings of PEFT's class for the adapter.

    What a key of its own is for stands there and not in `peft:`.
    """
    if not adapter.peft:
        return
    if adapter.adapter is None:
        yield Finding(
            "peft", "`peft` has no effect without `adapter`", "Add `adapter: lora`, or remove the key."
        )
        return
    known = OPTIONS.get(adapter.adapter, ())
    own = OWN_KEYS | (OWN_KEYS_OF_LORA if adapter.is_lora else {})
    for name, value in adapter.peft.items():
        if name in known:
            yield from _check_nested(name, value)
        else:
            yield _blame_option(name, adapter.adapter, own)


def _blame_option(name: str, word: str, own: dict[str, str]) -> Finding:
    path, known = f"peft.{name}", OPTIONS.get(word, ())
    if name in own:
        return Finding(
            path, f"`peft: {name}` is the key `{own[name]}`", f"Write `{own[name]}` in place of it."
        )
    if name in SET_BY_RUN or name in REFUSED:
        why = "the run sets it" if name in SET_BY_RUN else REFUSED[name]
        return Finding(path, f"`peft: {name}` cannot be set: {why}", "Remove it.")
    fix = f"{suggest(name, (*known, *own))}It takes: {', '.join(f'`{other}`' for other in known)}."
    return Finding(path, f"`peft: {name}` is no setting of `adapter: {word}`", fix)


def _check_nested(name: str, value: Any) -> Iterator[Finding]:
    inside = NESTED.get(name)
    if inside is None:
        return
    if not isinstance(value, dict):
        yield Finding(
            f"peft.{name}", f"`peft: {name}` is a mapping", f"Write `{name}: {{{inside[0]}: ...}}`."
        )
        return
    for word in value:
        if word not in inside:
            listed = ", ".join(f"`{other}`" for other in inside)
            yield Finding(
                f"peft.{name}.{word}",
                f"`{word}` is no setting of `peft: {name}`",
                f"{suggest(word, inside)}It takes: {listed}.",
            )


def _check_start(adapter: AdapterSection) -> Iterator[Finding]:
    """`peft_init_lora_weights` is a start that is built, and the rest of LoRA allows it.

    `true` is the plain start: A random, B zero.  `false` starts both at random.
    """
    name, start = "peft_init_lora_weights", adapter.peft_init_lora_weights
    if isinstance(start, str) and not (start in STARTS or re.fullmatch(r"pissa_niter_\d+", start)):
        yield _blame_start(start)
        return
    ranks = [adapter.lora_r or 0, *(adapter.lora_rank_pattern or {}).values()]
    odd = [rank for rank in ranks if rank % 2]
    if start == "orthogonal" and odd:
        yield Finding("lora_r", f"`{name}: orthogonal` needs even ranks, not {odd[0]}", "Use an even number.")
    if adapter.start not in ("", "gaussian") and adapter.lora_target_parameters:
        message = f"`{name}: {start}` does not work with `lora_target_parameters`"
        yield Finding(name, message, "Remove one of them, or use `gaussian`.")
    if adapter.start in ("eva", "mica") and adapter.peft_use_dora:
        yield Finding(name, f"`{name}: {start}` does not work with `peft_use_dora`", "Remove one of them.")
    if start != "eva" and "eva_config" in adapter.peft:
        yield Finding(
            "peft.eva_config", f"`peft: eva_config` needs `{name}: eva`", "Add it, or remove the setting."
        )


def _blame_start(start: str) -> Finding:
    known = ", ".join(f"`{word}`" for word in (*STARTS, "pissa_niter_16"))
    name = "peft_init_lora_weights"
    if start == "loftq":
        return Finding(
            name, f"`{name}: loftq` is set by its settings", "Write `peft: {loftq_config: {loftq_bits: 4}}`."
        )
    if start in UNBUILT_STARTS:
        return Finding(name, f"`{name}: {start}` is known but not built yet", f"Built: {known}.", value=start)
    return Finding(
        name,
        f"`{name}: {start}` is no start of LoRA",
        f"{suggest(start, STARTS)}Built: {known}.",
        value=start,
        replacement=find_clear(start, STARTS),
    )


def _check_twice(adapter: AdapterSection) -> Iterator[Finding]:
    """A layer has an adapter, or is trained in full, or some of its rows are: one of them."""
    for index, name in enumerate(adapter.lora_target_modules):
        if name in adapter.lora_modules_to_save:
            yield Finding(
                f"lora_target_modules.{index}",
                f"`{name}` is in `lora_target_modules` and in `lora_modules_to_save`",
                "Name it in one of them.",
            )
    tokens = adapter.peft_trainable_token_indices
    saved = [name for name in adapter.lora_modules_to_save if "embed" in name or name in ("wte", "lm_head")]
    if tokens and saved:
        yield Finding(
            "peft_trainable_token_indices",
            f"`lora_modules_to_save: [{saved[0]}]` trains every row, those of `peft_trainable_token_indices` too",
            "Keep one of them.",
        )


def _check_folders(adapter: AdapterSection) -> Iterator[Finding]:
    """Adapters to train on, or to lie below the trained one, are in their folders.

    An adapter folder holds `adapter_config.json`.
    """
    asked = [("lora_model_dir", adapter.lora_model_dir)] if adapter.lora_model_dir is not None else []
    asked += [(f"lora_frozen_dirs.{i}", name) for i, name in enumerate(adapter.lora_frozen_dirs)]
    for name, folder in asked:
        if not os.path.isfile(os.path.join(os.path.expanduser(folder or ""), "adapter_config.json")):
            yield Finding(
                name,
                f"`{folder}` is no adapter: it holds no adapter_config.json",
                "Name a folder that `siredon train` wrote an adapter to.",
            )


def _check_continued(adapter: AdapterSection) -> Iterator[Finding]:
    """An adapter that is trained on keeps what it is.

    Its start values, layers and patterns are its own: they are read with it.
    """
    if adapter.lora_model_dir is None:
        return
    names = (
        "peft_init_lora_weights",
        "lora_rank_pattern",
        "lora_alpha_pattern",
        "peft_layer_replication",
        "peft_trainable_token_indices",
        "lora_fan_in_fan_out",
        "peft_ensure_weight_tying",
        "peft",
    )
    for name in keys_asking(adapter, names):
        yield Finding(
            name,
            f"`{name}` has no effect with `lora_model_dir`: the adapter there has its own",
            "Remove the key.",
        )


def _check_blocks(adapter: AdapterSection) -> Iterator[Finding]:
    """A stack of replicated blocks has its adapter on layers named by the end of their names.

    The blocks have new numbers, which patterns, numbers of blocks and exclusions do not know.
    """
    if not adapter.peft_layer_replication:
        return
    wrong = keys_asking(
        adapter, ("peft_layers_to_transform", "lora_exclude_modules", "lora_target_parameters")
    )
    wrong += tuple("lora_target_modules" for name in adapter.named_targets if is_pattern(name))[:1]
    if adapter.targets_linear and adapter.named_targets:
        wrong += ("lora_target_modules",)
    if wrong:
        yield Finding(
            wrong[0],
            f"{list_keys(wrong)} cannot be used with `peft_layer_replication`",
            "Use `lora_target_linear: true`, or plain names in `lora_target_modules`.",
        )


def _check_rounding(adapter: AdapterSection) -> Iterator[Finding]:
    """LoftQ rounds linear layers to 4 bits, and starts plain LoRA.

    The length that DoRA learns would be that of the weights before.
    """
    if not adapter.rounds_base or not adapter.is_lora:
        return
    name, settings = "peft.loftq_config", adapter.peft["loftq_config"]
    if isinstance(settings, dict):
        bits, turns = settings.get("loftq_bits", 4), settings.get("loftq_iter", 1)
        if bits != 4:
            yield Finding(f"{name}.loftq_bits", f"`loftq_bits: {bits}` is not built", "Built: `4`.")
        if turns != 1:
            message = (
                f"`loftq_iter: {turns}` is not built: the base would be none that can be loaded in 4 bits"
            )
            yield Finding(f"{name}.loftq_iter", message, "Write `1`, or remove it.")
    for other in keys_asking(adapter, ("peft_use_dora", "lora_target_parameters")):
        yield Finding(other, f"`{other}` does not work with `peft: loftq_config`", "Remove one of them.")


def _check_packages(adapter: AdapterSection) -> Iterator[Finding]:
    """What rounds weights for LoftQ is installed: bitsandbytes."""
    if adapter.rounds_base and importlib.util.find_spec("bitsandbytes") is None:
        yield Finding(
            "peft.loftq_config",
            "`peft: loftq_config` needs the package bitsandbytes, which is not installed",
            "Install it: `pip install 'siredon[quantization]'`.",
        )


def _check_stream(adapter: AdapterSection, streaming: StreamingSection) -> Iterator[Finding]:
    """EVA looks at the first batches before it trains on them: they are not read from a stream.

    A stream is read once, and what was looked at would be passed over.
    """
    if adapter.start == "eva" and streaming.streams:
        message = "`peft_init_lora_weights: eva` does not work with rows that are read while training"
        yield Finding("peft_init_lora_weights", message, "Prepare the rows ahead, or use another start.")


_OF_FEW_BITS = ("load_in_4bit", "load_in_8bit", "gptq", "load_in_torchao", "model_quantization_config")


def _check_whole(adapter: AdapterSection, quantization: QuantizationSection) -> Iterator[Finding]:
    """What changes the base before training begins needs whole weights.

    Weights in few bits would be rounded a second time: by starts that take a part of the weight (`pissa`, `olora`), and
    by adapters that are added to the base (`lora_frozen_dirs`).  `mica` and `orthogonal` compute with the weight.
    """
    ways = keys_asking(quantization, _OF_FEW_BITS)
    if not ways:
        return
    if adapter.start in ("pissa", "olora", "mica", "orthogonal"):
        message = (
            f"`peft_init_lora_weights: {adapter.peft_init_lora_weights}` needs whole weights, not `{ways[0]}`"
        )
        yield Finding("peft_init_lora_weights", message, f"Use `gaussian` or `eva`, or remove `{ways[0]}`.")
    if adapter.lora_frozen_dirs:
        message = f"`lora_frozen_dirs` needs whole weights, not `{ways[0]}`"
        yield Finding("lora_frozen_dirs", message, f"Merge them into the base first, or remove `{ways[0]}`.")


def _check_prompts(adapter: AdapterSection) -> Iterator[Finding]:
    """`adapter: llama-adapter` knows how long its prompts are and in how many blocks."""
    if adapter.adapter != "llama-adapter" or adapter.lora_model_dir is not None:
        return
    for name, number in (("adapter_len", 10), ("adapter_layers", 30)):
        if name not in adapter.peft:
            yield Finding(
                "adapter",
                f"`adapter: llama-adapter` needs `peft: {name}`",
                f"Add `peft: {{{name}: {number}}}`, for example.",
            )


_LORA = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n"
_OFT = "adapter: oft\nlora_target_linear: true\n"

RULES = (
    Rule(
        "SD0530", _check_keys, wrong=_OFT + "lora_r: 16", right=_OFT + "peft:\n  r: 16\n  oft_block_size: 0"
    ),
    Rule(
        "SD0531",
        _check_options,
        wrong=_OFT + "peft:\n  oft_blocksize: 32",
        right=_OFT + "peft:\n  oft_block_size: 32",
    ),
    Rule(
        "SD0532",
        _check_start,
        wrong=_LORA + "peft_init_lora_weights: pisa",
        right=_LORA + "peft_init_lora_weights: pissa",
    ),
    Rule(
        "SD0533",
        _check_twice,
        wrong=_LORA + "lora_target_modules: [q_proj, lm_head]\nlora_modules_to_save: [lm_head]",
        right=_LORA + "lora_modules_to_save: [lm_head]",
    ),
    Rule(
        "SD0534",
        _check_folders,
        wrong=_LORA + "lora_frozen_dirs: [no/such/folder]",
        right=_LORA,
    ),
    Rule(
        "SD0535",
        _check_continued,
        wrong=_LORA + "lora_model_dir: outputs/first\npeft_init_lora_weights: pissa",
        right=_LORA + "peft_init_lora_weights: pissa",
        portable=False,
    ),
    Rule(
        "SD0536",
        _check_blocks,
        wrong=_LORA + "peft_layer_replication: [[0, 16], [8, 24]]\npeft_layers_to_transform: [0]",
        right=_LORA + "peft_layer_replication: [[0, 16], [8, 24]]",
    ),
    Rule(
        "SD0537",
        _check_prompts,
        wrong="adapter: llama-adapter\npeft:\n  adapter_len: 10",
        right="adapter: llama-adapter\npeft:\n  adapter_len: 10\n  adapter_layers: 30",
    ),
    Rule(
        "SD0538",
        _check_rounding,
        wrong=_LORA + "peft:\n  loftq_config:\n    loftq_bits: 8",
        right=_LORA + "peft:\n  loftq_config:\n    loftq_bits: 4",
    ),
    Rule(
        "SD0539",
        _check_packages,
        wrong=_LORA + "peft:\n  loftq_config:\n    loftq_bits: 4",
        right=_LORA,
        portable=False,
    ),
    Rule(
        "SD0540",
        _check_stream,
        wrong=_LORA + "peft_init_lora_weights: eva\nstreaming: true\nmax_steps: 100",
        right=_LORA + "peft_init_lora_weights: eva",
    ),
    Rule(
        "SD0541",
        _check_whole,
        wrong=_LORA + "load_in_8bit: true\npeft_init_lora_weights: olora",
        right=_LORA + "load_in_8bit: true\npeft_init_lora_weights: gaussian",
    ),
)
