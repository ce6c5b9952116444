"""Output folder, checkpoints, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator

from siredon.config.fields import Bool, Float, Int, Section, Str, key, planned, read_no

Strategy = Annotated[Literal["no", "steps", "epoch", "best"], BeforeValidator(read_no)]

#: How the names of metrics end of which the lowest is the best: the third is the rate of edits.
FALLING = ("loss", "perplexity", "ter")


class DynamicCheckpoint(Section):
    """`dynamic_checkpoint:`, a checkpoint whenever somebody asks for one."""

    enabled: Bool = key("Look for a request while training.", False)
    check_interval: Int = key("Optimizer steps between two looks.", 10, ge=1)
    trigger_file_path: Str = key(
        "File in `output_dir` whose appearance is the request; default `axolotl_checkpoint.save`.", ""
    )

    @property
    def file_name(self) -> str:
        """The file, in `output_dir` unless it says another folder."""
        return self.trigger_file_path or "axolotl_checkpoint.save"


class CheckpointSection(Section):
    """When a checkpoint is written, how many are kept, where a run goes on."""

    output_dir: Str = key("Folder for everything that the run writes.", "./model-out")
    save_strategy: Strategy | None = key(
        "`steps`, `epoch`, `best` or `no`; default `epoch`, or `steps` when a number of steps is set.",
        None,
        derived="strategy",
    )
    save_steps: Float | None = key("Steps between checkpoints, or a fraction of the run below 1.", None, gt=0)
    saves_per_epoch: Int | None = key("Checkpoints per epoch; 0 writes none.", None, ge=0)
    save_total_limit: Int = key(
        "Whole checkpoints kept; the oldest go first, never the newest or the best.", 4, ge=1
    )
    save_first_step: Bool = key("A checkpoint after the first step, to find a full disk early.", False)
    save_only_model: Bool = key("Leave out what resuming needs.", False)
    metric_for_best_model: Str | None = key(
        "Metric that says which checkpoint is the best; default `eval_loss`.", None, derived="best_metric"
    )
    resume_from_checkpoint: Str | None = key("Checkpoint folder from which the run goes on.", None)
    auto_resume_from_checkpoints: Bool = key("Go on from the last checkpoint in `output_dir`, if any.", False)
    save_safetensors: Bool = planned("Write weights as safetensors; nothing else is written.", True)
    save_in_background: Bool | None = key(
        "Write checkpoints while training goes on, from a copy in RAM; default on a GPU.", None
    )
    load_best_model_at_end: Bool = key(
        "End with the best checkpoint, not the last; `early_stopping_patience` asks for it too.", False
    )
    greater_is_better: Bool | None = key(
        "Whether `metric_for_best_model` should rise; default false for losses, perplexity and TER, else true.",
        None,
        derived="rises",
    )
    dynamic_checkpoint: DynamicCheckpoint | None = key("A checkpoint on request, by a file.", None)

    @property
    def strategy(self) -> Strategy:
        """When a checkpoint is written."""
        if self.saves_per_epoch == 0:
            return "no"
        by_steps = self.save_steps is not None or self.saves_per_epoch is not None
        return self.save_strategy or ("steps" if by_steps else "epoch")

    @property
    def best_metric(self) -> str:
        """Metric that says which checkpoint is the best, by its name in `metrics.jsonl`."""
        return f"eval_{(self.metric_for_best_model or 'loss').removeprefix('eval_')}"

    @property
    def rises(self) -> bool:
        """Whether a higher metric is the better one."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        return not self.best_metric.endswith(FALLING)

    @property
    def output_folder(self) -> Path:
        """`output_dir`, with `~` resolved."""
        return Path(self.output_dir).expanduser()
