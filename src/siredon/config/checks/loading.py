"""How weights and tokenizer are read, and what may be changed of them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from siredon.config.model_folder import PICKLE_FIX, find_place, list_ggufs, list_pickles, read_model_config
from siredon.config.rope import KEYS, KINDS, SHARED, changes_positions, read_rope
from siredon.config.rule import Finding, Rule
from siredon.config.sections.distributed import DeepspeedSection, FsdpSection
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.placement import PlacementSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.registry import suggest


def _check_package(model: ModelSection) -> Iterator[Finding]:
    """A GGUF file is read with the package gguf."""
    place = _find_place(model)
    if place is not None and place.gguf_file and importlib.util.find_spec("gguf") is None:
        yield Finding(
            "base_model",
            f"`base_model: {model.base_model}` is a GGUF file, and the package gguf is not installed",
            "Install it: `pip install 'siredon[gguf]'`.",
        )


def _check_files(model: ModelSection) -> Iterator[Finding]:
    """A folder without `config.json` holds one GGUF file.

    Of several, the one to read is named by its path.  A file in parts (`-00001-of-00003.gguf`) is joined first.
    """
    place = _find_place(model)
    if place is None:
        return
    folder = Path(place.folder)
    files = list_ggufs(folder)
    if place.gguf_file is None and len(files) > 1:
        shown = ", ".join(files[:3])
        yield Finding(
            "base_model",
            f"{model.base_model} holds {len(files)} GGUF files and no config.json",
            f"Name one of them: `base_model: {folder / files[0]}`; there are {shown}.",
            value=model.base_model,
        )
    elif place.gguf_file is not None and folder.is_dir() and not (folder / place.gguf_file).is_file():
        there = suggest(place.gguf_file, [path.name for path in folder.glob("*.gguf")])
        yield Finding(
            "base_model",
            f"{folder} holds no file {place.gguf_file}",
            f"{there}Name a file that is there.",
            value=model.base_model,
        )


def _check_pickles(model: ModelSection) -> Iterator[Finding]:
    """Weights come from safetensors, unless pickles are asked for.

    A pickle (`pytorch_model.bin`) is a program that builds its tensors when it is read.  With `allow_pickle: true` it
    is read in the mode of PyTorch that builds tensors and runs nothing else.
    """
    place = _find_place(model)
    if place is None or model.allow_pickle or model.reinit_weights:
        return
    files = list_pickles(Path(place.folder))
    if files:
        yield Finding(
            "base_model",
            f"{model.base_model} has its weights in pickle files only: {files[0]}",
            PICKLE_FIX,
            value=model.base_model,
        )


def _check_code(model: ModelSection) -> Iterator[Finding]:
    """The code of a model is in transformers, or it comes with the weights and is trusted.

    Such code runs with your rights while the model is loaded.  Read it first.
    """
    config = read_model_config(model)
    kind = config.get("model_type") if config else None
    known = _known_types()
    if config is None or model.trust_remote_code or not known or kind in known or kind is None:
        return
    has_code = isinstance(config.get("auto_map"), Mapping)
    yield Finding(
        "base_model",
        f"{model.base_model} is of type {kind}, which the installed transformers does not have"
        + (": its Python code comes with its weights" if has_code else ""),
        "Read that code, then set `trust_remote_code: true`."
        if has_code
        else f"{suggest(str(kind), known)}Install a transformers that has it: `pip install -U transformers`.",
        value=model.base_model,
    )


def _check_rope(model: ModelSection) -> Iterator[Finding]:
    """Rotary positions are scaled in a way that exists, by settings that it takes.

    The base frequency of the model stays, unless `rope_theta` sets another.  `yarn`, `llama3` and `longrope` scale from
    the positions that the model has, unless `original_max_position_embeddings` says otherwise.  A model with
    several kinds of positions takes a mapping for each.
    """
    if not changes_positions(model.overrides):
        return
    name = next(key for key in KEYS if model.overrides.get(key) is not None)
    given = read_rope(model.overrides)
    nested = [part for part in given.values() if isinstance(part, Mapping)]
    for settings in nested or [given]:
        for message, fix in _find_rope_problems(settings):
            yield Finding(f"model_config.{name}", message, fix)


def _find_rope_problems(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind = settings.get("rope_type", settings.get("type"))
    if kind is None and set(settings) <= set(SHARED):
        return  # the base frequency alone
    if kind not in KINDS:
        what = "does not say `rope_type`" if kind is None else f"has `rope_type: {kind}`, which is none"
        yield f"`rope_scaling` {what}", f"{suggest(str(kind), KINDS)}There are {', '.join(KINDS)}."
        return
    needed, more = KINDS[kind]
    for name in needed:
        if name not in settings:
            yield (
                f"`rope_type: {kind}` needs `{name}`",
                f"Add it, as in `{{rope_type: {kind}, {name}: ...}}`.",
            )
    for name in settings:
        if name not in (*needed, *more, *SHARED):
            takes = ", ".join((*needed, *more)) or "nothing"
            yield (
                f"`rope_type: {kind}` has no `{name}`",
                f"{suggest(name, (*needed, *more))}It takes {takes}.",
            )
    factor = settings.get("factor")
    if factor is not None and (
        isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor < 1
    ):
        yield (
            f"`factor: {factor}` of `rope_type: {kind}` is no number of 1 or more",
            "Write `factor: 2.0`, say.",
        )
    start = settings.get("original_max_position_embeddings")
    if start is not None and (type(start) is not int or start < 1):
        yield f"`original_max_position_embeddings: {start}` is no number of positions", "Write `4096`, say."


#: Argument of `from_pretrained` -> the key that sets it.
_OTHERS = {
    "config": "model_config",
    "dtype": "bf16",
    "torch_dtype": "bf16",
    "attn_implementation": "attn_implementation",
    "experts_implementation": "experts_implementation",
    "trust_remote_code": "trust_remote_code",
    "revision": "model_revision",
    "device_map": "device_map",
    "max_memory": "max_memory",
    "use_safetensors": "allow_pickle",
    "weights_only": "allow_pickle",
    "gguf_file": "base_model",
    "pretrained_model_name_or_path": "base_model",
    "quantization_config": "load_in_4bit",
    "load_in_4bit": "load_in_4bit",
    "load_in_8bit": "load_in_8bit",
    "use_kernels": "use_kernels",
    "tp_plan": "tensor_parallel_size",
    "tp_size": "tensor_parallel_size",
}
#: Those that nothing else sets.
_FREE = (
    "cache_dir",
    "disable_mmap",
    "force_download",
    "ignore_mismatched_sizes",
    "key_mapping",
    "local_files_only",
    "proxies",
    "subfolder",
    "token",
    "variant",
)


def _check_arguments(model: ModelSection) -> Iterator[Finding]:
    """An argument in `model_kwargs` has no key of its own.

    Set in two places, one of the two would be passed over.
    """
    for name in model.model_kwargs:
        if name in _OTHERS:
            yield Finding(
                f"model_kwargs.{name}",
                f"`model_kwargs: {name}` has a key of its own: `{_OTHERS[name]}`",
                f"Set `{_OTHERS[name]}`, and remove it here.",
            )


def _check_known_arguments(model: ModelSection) -> Iterator[Finding]:
    """An argument in `model_kwargs` is one of `from_pretrained`.

    Any other is a setting of the model's config, which is changed by `model_config`.  A model with code of its own may
    take more, so with `trust_remote_code` they are passed on.
    """
    for name in model.model_kwargs:
        if name not in _FREE and name not in _OTHERS and not model.trust_remote_code:
            yield Finding(
                f"model_kwargs.{name}",
                f"`model_kwargs: {name}` is no argument for loading weights",
                f"{suggest(name, _FREE)}Settings of the model go into `model_config`; here are "
                f"{', '.join(f'`{free}`' for free in _FREE)}.",
            )


def _check_renaming(tokenizer: TokenizerSection) -> Iterator[Finding]:
    """A reserved token gets a text of its own.

    Two tokens cannot have one text, and no token has none.
    """
    seen: dict[str, int] = {}
    for index, text in tokenizer.added_tokens_overrides.items():
        fault = ""
        if index < 0:
            fault = f"`added_tokens_overrides`: {index} is no id of a token"
        elif not text.strip() or text != text.strip():
            fault = f"`added_tokens_overrides`: {text!r} is empty, or has blanks at an end"
        elif text in seen:
            fault = f"`added_tokens_overrides` gives {seen[text]} and {index} the same text {text!r}"
        elif text in tokenizer.tokens:
            fault = f"`tokens` adds {text!r}, and `added_tokens_overrides` gives it to {index}"
        seen[text] = index
        if fault:
            yield Finding("added_tokens_overrides", fault, "Write `id: text`, each id and each text once.")


def _check_tokens(tokenizer: TokenizerSection) -> Iterator[Finding]:
    """A token that is added is a text, once.

    Blanks at its ends would be part of it.
    """
    for index, token in enumerate(tokenizer.tokens):
        if not token.strip():
            yield Finding("tokens", f"`tokens`: {token!r} is no text", "Remove it.")
        elif token in tokenizer.tokens[:index]:
            yield Finding("tokens", f"`tokens` names {token!r} twice", "Remove one of the two.", "warning")


def _check_ids(embedding: EmbeddingSection) -> Iterator[Finding]:
    """Ids in `fix_untrained_tokens` are ids of tokens, from 0 on."""
    for index in embedding.fixed_ids:
        if index < 0:
            yield Finding("fix_untrained_tokens", f"{index} is no id of a token", "Name ids from 0 on.")


def _check_placement(
    placement: PlacementSection, fsdp: FsdpSection, deepspeed: DeepspeedSection
) -> Iterator[Finding]:
    """Weights are laid out by `device_map`, or sharded by FSDP or DeepSpeed.

    Both decide where a weight lies.
    """
    if not placement.spread_by:
        return
    shards = "deepspeed" if deepspeed.deepspeed else "fsdp_config" if fsdp.fsdp_config or fsdp.fsdp else ""
    if shards:
        yield Finding(
            placement.spread_by,
            f"`{placement.spread_by}` and `{shards}` exclude each other",
            f"Remove `{placement.spread_by}`.",
        )


def _check_bits(model: ModelSection, quantization: QuantizationSection) -> Iterator[Finding]:
    """The weights of a GGUF file are not rounded a second time.

    They are unpacked when the file is read, and rounding them again would add the errors of both formats.
    """
    place = _find_place(model)
    if place is None or place.gguf_file is None:
        return
    for name, is_on in (
        ("load_in_4bit", quantization.load_in_4bit),
        ("load_in_8bit", quantization.load_in_8bit),
    ):
        if is_on:
            yield Finding(
                name,
                f"`{name}` with a GGUF file rounds weights a second time",
                "Name the model's folder of safetensors, or remove the key.",
            )


def _find_place(model: ModelSection) -> Any:
    try:
        return find_place(model.base_model)
    except (OSError, ValueError, RuntimeError):  # no path, or the home of nobody
        return None


def _known_types() -> set[str]:
    """Model types of the installed transformers, read off its source; empty if it is another kind of source."""
    spec = importlib.util.find_spec("transformers")
    found: set[str] = set()
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder, "models", "auto").glob("*auto*.py"):
            found |= set(re.findall(r'\("([\w.-]+)", "\w+Config"\)', path.read_text(encoding="utf-8")))
    return found if "llama" in found else set()


_MODEL = "learning_rate: 1e-4\ndatasets:\n  - path: rows.jsonl\n    type: alpaca"
_SCALED = "model_config:\n  rope_scaling:\n    rope_type: "

RULES = (
    Rule(
        "SD0501",
        _check_package,
        wrong=f"base_model: models/tiny.gguf\n{_MODEL}",
        right=f"base_model: some/model\n{_MODEL}",
        portable=False,
    ),
    Rule(
        "SD0502",
        _check_files,
        wrong=f"base_model: models/two_files\n{_MODEL}",
        right=f"base_model: models/two_files/model.Q4_K_M.gguf\n{_MODEL}",
        portable=False,
    ),
    Rule(
        "SD0503",
        _check_pickles,
        wrong=f"base_model: models/old\n{_MODEL}",
        right=f"base_model: models/old\nallow_pickle: true\n{_MODEL}",
        portable=False,
    ),
    Rule(
        "SD0504",
        _check_code,
        wrong=f"base_model: models/strange\n{_MODEL}",
        right=f"base_model: models/strange\ntrust_remote_code: true\n{_MODEL}",
        portable=False,
    ),
    Rule("SD0505", _check_rope, wrong=f"{_SCALED}yarn", right=f"{_SCALED}yarn\n    factor: 4.0"),
    Rule(
        "SD0506",
        _check_arguments,
        wrong="model_kwargs:\n  torch_dtype: bfloat16",
        right="bf16: true",
    ),
    Rule(
        "SD0507",
        _check_known_arguments,
        wrong="model_kwargs:\n  sliding_window: 4096",
        right="model_config:\n  sliding_window: 4096",
    ),
    Rule(
        "SD0508",
        _check_renaming,
        wrong="added_tokens_overrides:\n  128002: <think>\n  128003: <think>",
        right="added_tokens_overrides:\n  128002: <think>\n  128003: </think>",
    ),
    Rule("SD0509", _check_tokens, wrong='tokens: ["<think>", ""]', right='tokens: ["<think>", "</think>"]'),
    Rule("SD0510", _check_ids, wrong="fix_untrained_tokens: [-1]", right="fix_untrained_tokens: [128002]"),
    Rule(
        "SD0511",
        _check_placement,
        wrong="device_map: auto\ndeepspeed: zero3.json",
        right="deepspeed: zero3.json",
    ),
    Rule(
        "SD0512",
        _check_bits,
        wrong=f"base_model: models/tiny.gguf\nload_in_4bit: true\n{_MODEL}",
        right=f"base_model: models/tiny.gguf\nload_in_4bit: false\n{_MODEL}",
        portable=False,
    ),
)
