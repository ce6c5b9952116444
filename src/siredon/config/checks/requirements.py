"""Keys that need other keys, and names that must exist on a shelf."""

from __future__ import annotations

import importlib.util
import os.path
from collections.abc import Iterator, Sequence

from siredon.config.format_choice import check_choice
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.checkpoint import CheckpointSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.evaluation import EvaluationSection
from siredon.config.sections.logging import LoggingSection
from siredon.config.sections.preference import PreferenceSection
from siredon.config.sections.streaming import StreamingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import KNOWN_TEMPLATES, TEMPLATES
from siredon.registry import find_clear, suggest


def _check_datasets(data: DataSection, streaming: StreamingSection) -> Iterator[Finding]:
    """There is something to train on."""
    if not data.datasets and not streaming.pretraining_dataset:
        yield Finding(
            "datasets",
            "`datasets` is required: there is nothing to train on",
            "Add `datasets:` with a path and a type.",
        )


def _check_types(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """A data set's `type` is a format that is built.

    A format is a file in `data/formats/`, or comes with an installed package by the entry-point group
    `siredon.formats`; a variant of it stands behind a dot or a colon.  Any other dotted path is that of a function of
    your own, which takes a row; a mapping is a prompt of your own.  Methods that compare or judge answers have
    other formats.
    """
    if preference.compares or preference.is_unpaired:
        return
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            yield from check_choice(f"{list_name}.{index}.type", entry.type)


_LORA_KEYS = {
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_target_linear",
    "lora_modules_to_save",
}


def _blame_name(key: tuple[str, str], what: str, built: Sequence[str], *, known: bool) -> Finding:
    """A key whose value is no part of a shelf: one of the reference that is not built, or a slip."""
    name, value = key
    shown = f"`{name.rpartition('.')[2]}: {value}`"
    return Finding(
        name,
        f"{shown} is known but not built yet" if known else f"{shown} is no {what} that is built",
        f"{'' if known else suggest(value, built)}Built: {', '.join(f'`{word}`' for word in built)}.",
        value=value,
        replacement=None if known else find_clear(value, built),
    )


def _check_adapter(adapter: AdapterSection) -> Iterator[Finding]:
    """An adapter knows its rank, its scale and its layers, and its settings come with `adapter`.

    LoRA's rank and alpha have no default that is right for every model.  Without `adapter`, settings of LoRA
    would be passed over and every weight trained.  An adapter that is trained on (`lora_model_dir`) has its own.
    """
    if adapter.adapter is None:
        idle = [name for name in type(adapter).model_fields if name in adapter.model_fields_set & _LORA_KEYS]
        for name in idle[:1]:
            yield Finding(
                name,
                f"`{name}` has no effect without `adapter`: every weight would be trained",
                "Add `adapter: lora`, or remove the key.",
                "warning",
            )
    if adapter.adapter in (None, "llama-adapter") or adapter.lora_model_dir is not None:
        return
    for name in ("lora_r", "lora_alpha") if adapter.is_lora else ():
        if name not in adapter.model_fields_set:
            yield Finding(
                "adapter", f"`adapter: {adapter.adapter}` needs `{name}`", f"Add `{name}: 16`, for example."
            )
    targets = (adapter.lora_target_modules, adapter.lora_target_linear, adapter.lora_target_parameters)
    if not any(targets):
        yield Finding(
            "adapter",
            f"`adapter: {adapter.adapter}` needs to know which layers it adapts",
            "Add `lora_target_linear: true`, or `lora_target_modules: [q_proj, v_proj]`.",
        )


def _check_validation(data: DataSection, evaluation: EvaluationSection) -> Iterator[Finding]:
    """What says when to validate comes with rows to validate on.

    `evals_per_epoch` alone is a warning: Axolotl takes it so, and many files leave it in.  `do_bench_eval` brings its
    own questions.
    """
    if data.has_validation or evaluation.do_bench_eval:
        return
    cadence = (
        ("eval_steps", evaluation.eval_steps),
        ("evals_per_epoch", evaluation.evals_per_epoch),
        ("eval_strategy", evaluation.eval_strategy),
    )
    for name, value in cadence:
        if value not in (None, "no", 0):
            yield Finding(
                name,
                f"`{name}` is set, but there are no validation rows",
                "Add `val_set_size: 0.05` or `test_datasets`, or remove the key.",
                "warning" if name == "evals_per_epoch" else "error",
            )


def _check_best(checkpoint: CheckpointSection, data: DataSection) -> Iterator[Finding]:
    """Saving the best checkpoint takes validation rows to judge by."""
    if checkpoint.save_strategy == "best" and not data.has_validation:
        yield Finding(
            "save_strategy",
            "`save_strategy: best` needs validation rows",
            "Add `val_set_size: 0.05` or `test_datasets`.",
        )


def _check_template(data: DataSection, tokenizer: TokenizerSection) -> Iterator[Finding]:
    """A chat template is one that is built, the tokenizer's own, or written out.

    `tokenizer_default_fallback_qwen3` is the tokenizer's own, or `qwen3` where it has none; `jinja` is the one in
    `chat_template_jinja`.
    """
    names = TEMPLATES.names()
    known = ("tokenizer_default", "jinja", *names)
    asked = [("chat_template", tokenizer.chat_template)]
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        asked += [(f"{list_name}.{i}.chat_template", entry.chat_template) for i, entry in enumerate(entries)]
    for name, value in asked:
        inner = (value or "").removeprefix("tokenizer_default_fallback_")
        if value is not None and value not in known and (inner == value or inner not in names):
            yield _blame_name((name, value), "template", known, known=inner in KNOWN_TEMPLATES)


def _check_resume(checkpoint: CheckpointSection) -> Iterator[Finding]:
    """The checkpoint to go on from is one.

    A checkpoint folder holds `trainer_state.json`, which is written with it.
    """
    folder = checkpoint.resume_from_checkpoint
    # os.path, as pathlib raises for names that are too long and for the home of nobody
    if folder and not os.path.isfile(os.path.join(os.path.expanduser(folder), "trainer_state.json")):
        yield Finding(
            "resume_from_checkpoint",
            f"`{folder}` is no checkpoint: it holds no trainer_state.json",
            "Name a `checkpoint-N` folder, or use `auto_resume_from_checkpoints: true`.",
        )


def _check_steps(checkpoint: CheckpointSection, evaluation: EvaluationSection) -> Iterator[Finding]:
    """A strategy of steps says how many."""
    if (
        checkpoint.save_strategy == "steps"
        and checkpoint.save_steps is None
        and checkpoint.saves_per_epoch is None
    ):
        yield Finding(
            "save_strategy",
            "`save_strategy: steps` does not say how many",
            "Add `save_steps: 500`, for example.",
        )
    if (
        evaluation.eval_strategy == "steps"
        and evaluation.eval_steps is None
        and evaluation.evals_per_epoch is None
    ):
        yield Finding(
            "eval_strategy",
            "`eval_strategy: steps` does not say how many",
            "Add `eval_steps: 100`, for example.",
        )


def _check_packages(logging: LoggingSection) -> Iterator[Finding]:
    """A tracker's package is installed."""
    if logging.use_tensorboard and importlib.util.find_spec("tensorboard") is None:
        yield Finding(
            "use_tensorboard",
            "`use_tensorboard: true` needs the package tensorboard, which is not installed",
            "Install it: `pip install 'siredon[trackers]'`.",
        )


_LORA = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true"

RULES = (
    Rule(
        "SD0151",
        _check_datasets,
        wrong="base_model: some/model\nlearning_rate: 1e-4",
        right="datasets:\n  - path: rows.jsonl\n    type: alpaca",
    ),
    Rule(
        "SD0152",
        _check_types,
        wrong="datasets:\n  - path: rows.jsonl\n    type: alpace",
        right="datasets:\n  - path: rows.jsonl\n    type: alpaca",
    ),
    Rule("SD0153", _check_adapter, wrong="adapter: lora\nlora_r: 16\nlora_alpha: 32", right=_LORA),
    Rule(
        "SD0154",
        _check_validation,
        wrong="evals_per_epoch: 1",
        right="evals_per_epoch: 1\nval_set_size: 0.05",
    ),
    Rule("SD0155", _check_best, wrong="save_strategy: best", right="save_strategy: best\nval_set_size: 0.05"),
    Rule("SD0156", _check_template, wrong="chat_template: chatmll", right="chat_template: chatml"),
    Rule(
        "SD0157",
        _check_resume,
        wrong="resume_from_checkpoint: no/such/folder",
        right="auto_resume_from_checkpoints: true",
    ),
    Rule("SD0158", _check_steps, wrong="save_strategy: steps", right="save_strategy: steps\nsave_steps: 500"),
    Rule(
        "SD0159",
        _check_packages,
        wrong="use_tensorboard: true",
        right="use_tensorboard: false",
        portable=False,
    ),
)
