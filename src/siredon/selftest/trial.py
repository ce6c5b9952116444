"""A trial: a small run, through the stages of `siredon train` in their order, and what was seen of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.config.load import load_config
from siredon.config.schema import Config
from siredon.data.prepare import Prepared
from siredon.data.prepare_run import prepare_run
from siredon.data.prompt import build_prompting
from siredon.distributed.ranks import rank
from siredon.hardware import Hardware
from siredon.model.build import build_model
from siredon.model.precision import resolve_precision
from siredon.model.tokenizer import load_tokenizer
from siredon.selftest.row import Cell
from siredon.selftest.tiny import ROWS, SEQUENCE_LEN, build_samples, write_rows
from siredon.train.arguments import count_steps
from siredon.train.equip import Parts
from siredon.train.interrupt import Interruption
from siredon.train.methods.sft import METHOD
from siredon.train.record import identify_run
from siredon.train.trainer import SiredonTrainer


@dataclass(frozen=True)
class Trial:
    """What is trained, and how.

    Args:
        cell: Attention, packing, accumulation and ranks.
        micro: `micro_batch_size`.
        rows: (tokens, learned tokens) of each row, in the order in which they are trained on.
        kind: Kind of model, one of `tiny.KINDS`.
        keys: Further keys of the YAML, as JSON.
        is_plain: The model's forward pass takes nothing beside ids and positions.
        at_step: Optimizer step whose gradients are kept; the last one where it is 0.
    """

    cell: Cell
    micro: int = 1
    rows: tuple[tuple[int, int], ...] = ROWS
    kind: str = "llama"
    keys: str = "{}"
    is_plain: bool = False
    at_step: int = 0

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Trial:
        """From another process."""
        values = json.loads(text)
        rows = tuple((tokens, learned) for tokens, learned in values.pop("rows"))
        return cls(cell=Cell(**values.pop("cell")), rows=rows, **values)


@dataclass(frozen=True)
class Place:
    """Where trials are run.

    Args:
        folder: Models, prepared data and what runs write.
        hardware: The device.
    """

    folder: Path
    hardware: Hardware


@dataclass
class Outcome:
    """What was seen of a trial on one rank.

    Args:
        losses: Logged training losses, by optimizer step.
        norms: Logged lengths of the gradient.
        rates: Logged learning rates.
        eval_losses: Logged validation losses.
        final_rate: The learning rate after the last step.
        num_targets: Targets that were counted.
        num_tokens: Tokens that were counted.
        gradients: Those with which the optimizer made the step that was asked for.
        gradient_types: Number formats of them.
        weights: What was trained, after the last step.
        masks: What the first layer with dropout let through, at each forward pass in training.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    eval_losses: list[float] = field(default_factory=list)
    final_rate: float = 0.0
    num_targets: int = 0
    num_tokens: int = 0
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    gradient_types: list[str] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    masks: list[torch.Tensor] = field(default_factory=list)


class Watcher(TrainerCallback):
    """Writes down what happens.

    Args:
        outcome: Where it is written.
        at_step: Optimizer step whose gradients are kept; the last one where it is 0.
    """

    def __init__(self, outcome: Outcome, at_step: int) -> None:
        self.outcome = outcome
        self.at_step = at_step

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Keeps the gradients, as the optimizer gets them."""
        if self.at_step not in (0, state.global_step + 1):
            return
        found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        self.outcome.gradients = {name: grad.detach().cpu().clone() for name, grad in found.items()}
        self.outcome.gradient_types = sorted({str(gradient.dtype) for gradient in found.values()})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Keeps what is logged, as it is logged."""
        kept = {
            "loss": self.outcome.losses,
            "grad_norm": self.outcome.norms,
            "learning_rate": self.outcome.rates,
            "eval_loss": self.outcome.eval_losses,
        }
        for name, values in kept.items():
            if logs and name in logs:
                values.append(float(logs[name]))

    def catch_mask(self, module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        """A forward hook of a dropout layer."""
        if module.training:
            self.outcome.masks.append((output == 0).detach().cpu())


@dataclass(frozen=True)
class Bench:
    """A trial that is ready to run.

    Args:
        trainer: Of the run.
        prepared: Its data.
        watcher: Sees what happens.
    """

    trainer: SiredonTrainer
    prepared: Prepared
    watcher: Watcher

    def run(self) -> Outcome:
        """Trains to the end."""
        self.trainer.train()
        outcome = self.watcher.outcome
        model: Any = self.trainer.model
        outcome.final_rate = float(self.trainer.lr_scheduler.get_last_lr()[0])
        outcome.num_tokens, outcome.num_targets = self.trainer.count_tokens()
        outcome.weights = {
            name: weight.detach().cpu().clone()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }
        return outcome


def run_trial(trial: Trial, place: Place, output: Path) -> Outcome:
    """Runs it in this process, which may be one rank of several.

    Args:
        trial: What is run.
        place: Where.
        output: `output_dir`, the same on all ranks.
    """
    with open_bench(trial, place, output) as bench:
        return bench.run()


@contextmanager
def open_bench(trial: Trial, place: Place, output: Path) -> Iterator[Bench]:
    """Builds what is needed to run a trial; what the stages say is kept off the screen.

    Raises:
        SiredonError: The trial cannot be run here.
    """
    # What is printed is for users of a run; an error is raised.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield _build_bench(trial, place, output)


def _build_bench(trial: Trial, place: Place, output: Path) -> Bench:
    """The stages of `pipeline.train`, in their order."""
    config = _load_trial(trial, place, output)
    has_adapter = config.adapter.adapter is not None
    precision = resolve_precision(config.precision, place.hardware, has_adapter=has_adapter)
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    prepared = prepare_run(config, tokenizer)
    schedule = count_steps(config, prepared.num_packs)
    identity = identify_run(config, prepared)
    stop_ids = build_prompting(config.first_dataset, config.tokenizer, tokenizer).stop_ids
    built = build_model(config, tokenizer, stop_ids, precision, place.hardware)
    if trial.is_plain:
        _forget_extras_(built.base)
    parts = Parts(built.model, built.base, tokenizer, prepared, identity, None, Interruption())
    trainer = METHOD(parts, config, schedule, precision, place.hardware)
    watcher = Watcher(Outcome(), trial.at_step)
    trainer.add_callback(watcher)
    drops = [
        module for module in built.model.modules() if isinstance(module, torch.nn.Dropout) and module.p > 0
    ]
    for module in drops[:1]:
        module.register_forward_hook(watcher.catch_mask)
    return Bench(trainer, prepared, watcher)


def _load_trial(trial: Trial, place: Place, output: Path) -> Config:
    """The config of a trial, by way of a YAML file, as everybody's."""
    cell, folder = trial.cell, place.folder
    keys = {
        "base_model": str(folder / "models" / trial.kind),
        "dataset_prepared_path": str(folder / "prepared"),
        "sequence_len": SEQUENCE_LEN,
        "curriculum_sampling": True,
        "sample_packing": cell.packed,
        "attn_implementation": cell.attention,
        "micro_batch_size": trial.micro,
        "gradient_accumulation_steps": cell.accumulation,
        "max_steps": 1,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler": "constant",
        "max_grad_norm": 0,
        "bf16": False,
        "tf32": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "probe_longest_batch": False,  # its passes would be counted among those of the training
        "output_dir": str(output),
        **json.loads(trial.keys),
    }
    keys["datasets"] = [{"path": str(write_data(folder, trial.rows)), "type": "tokenized"}]
    if keys.pop("validates", False):
        keys["test_datasets"] = keys["datasets"]
    path = output / f"trial-{rank()}.yml"
    path.write_text(json.dumps({name: value for name, value in keys.items() if value is not None}))
    config, _ = load_config(str(path))
    return config


def write_data(folder: Path, rows: tuple[tuple[int, int], ...]) -> Path:
    """The file of these rows, written once, whole."""
    path = folder / "rows" / f"{'-'.join(f'{tokens}x{learned}' for tokens, learned in rows)}.jsonl"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        write_rows(build_samples(rows), path)
    return path


def _forget_extras_(model: Any) -> None:
    """Gives one model a forward pass as simple as those of models that nobody has extended."""
    whole = model.forward

    def forward(
        input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, use_cache: bool = False
    ) -> Any:
        return whole(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)

    model.forward = forward
