"""Keys that need other keys, and names that must exist on a shelf."""

from __future__ import annotations

import importlib.util
import os.path
from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.checkpoint import CheckpointSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.evaluation import EvaluationSection
from siredon.config.sections.logging import LoggingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import FORMATS, TEMPLATES
from siredon.registry import suggest


def _check_datasets(data: DataSection) -> Iterator[Finding]:
    if not data.datasets:
        yield Finding(
            "datasets",
            "`datasets` is required: there is nothing to train on",
            "Add `datasets:` with a path and a type.",
        )


def _check_types(data: DataSection) -> Iterator[Finding]:
    names = FORMATS.names()
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            if entry.type not in names:
                yield Finding(
                    f"{list_name}.{index}.type",
                    f"`type: {entry.type}` is no format that is built",
                    f"{suggest(entry.type, names)}Built: {', '.join(f'`{name}`' for name in names)}.",
                )


_LORA_KEYS = {
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_target_linear",
    "lora_modules_to_save",
}


def _check_adapter(adapter: AdapterSection) -> Iterator[Finding]:
    if adapter.adapter is None:
        idle = [name for name in type(adapter).model_fields if name in adapter.model_fields_set & _LORA_KEYS]
        for name in idle[:1]:
            yield Finding(
                name,
                f"`{name}` has no effect without `adapter`: every weight would be trained",
                "Add `adapter: lora`, or remove the key.",
                "warning",
            )
    if adapter.adapter != "lora":
        return
    for name in ("lora_r", "lora_alpha"):
        if name not in adapter.model_fields_set:
            yield Finding(
                "adapter", f"`adapter: {adapter.adapter}` needs `{name}`", f"Add `{name}: 16`, for example."
            )
    if not adapter.lora_target_modules and not adapter.lora_target_linear:
        yield Finding(
            "adapter",
            f"`adapter: {adapter.adapter}` needs to know which layers it adapts",
            "Add `lora_target_linear: true`, or `lora_target_modules: [q_proj, v_proj]`.",
        )


def _check_validation(data: DataSection, evaluation: EvaluationSection) -> Iterator[Finding]:
    if data.has_validation:
        return
    cadence = (
        ("eval_steps", evaluation.eval_steps),
        ("evals_per_epoch", evaluation.evals_per_epoch),
        ("eval_strategy", evaluation.eval_strategy),
    )
    for name, value in cadence:
        if value is not None and value != "no":
            yield Finding(
                name,
                f"`{name}` is set, but there are no validation rows",
                "Add `val_set_size: 0.05` or `test_datasets`, or remove the key.",
            )


def _check_best(checkpoint: CheckpointSection, data: DataSection) -> Iterator[Finding]:
    if checkpoint.save_strategy == "best" and not data.has_validation:
        yield Finding(
            "save_strategy",
            "`save_strategy: best` needs validation rows",
            "Add `val_set_size: 0.05` or `test_datasets`.",
        )


def _check_template(data: DataSection, tokenizer: TokenizerSection) -> Iterator[Finding]:
    known = ("tokenizer_default", *TEMPLATES.names())
    asked = [("chat_template", tokenizer.chat_template)]
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        asked += [(f"{list_name}.{i}.chat_template", entry.chat_template) for i, entry in enumerate(entries)]
    for name, value in asked:
        if value is not None and value not in known:
            yield Finding(
                name,
                f"`chat_template: {value}` is no template that is built",
                f"{suggest(value, known)}Built: {', '.join(f'`{word}`' for word in known)}.",
            )


def _check_resume(checkpoint: CheckpointSection) -> Iterator[Finding]:
    folder = checkpoint.resume_from_checkpoint
    # os.path, as pathlib raises for names that are too long and for the home of nobody
    if folder and not os.path.isfile(os.path.join(os.path.expanduser(folder), "trainer_state.json")):
        yield Finding(
            "resume_from_checkpoint",
            f"`{folder}` is no checkpoint: it holds no trainer_state.json",
            "Name a `checkpoint-N` folder, or use `auto_resume_from_checkpoints: true`.",
        )


def _check_steps(checkpoint: CheckpointSection, evaluation: EvaluationSection) -> Iterator[Finding]:
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
    if logging.use_tensorboard and importlib.util.find_spec("tensorboard") is None:
        yield Finding(
            "use_tensorboard",
            "`use_tensorboard: true` needs the package tensorboard, which is not installed",
            "Install it: `pip install 'siredon[trackers]'`.",
        )


RULES = (
    Rule("SD0151", ("data",), _check_datasets),
    Rule("SD0152", ("data",), _check_types),
    Rule("SD0153", ("adapter",), _check_adapter),
    Rule("SD0154", ("data", "evaluation"), _check_validation),
    Rule("SD0155", ("checkpoint", "data"), _check_best),
    Rule("SD0156", ("data", "tokenizer"), _check_template),
    Rule("SD0157", ("checkpoint",), _check_resume),
    Rule("SD0158", ("checkpoint", "evaluation"), _check_steps),
    Rule("SD0159", ("logging",), _check_packages),
)
