"""samples.jsonl: how the model goes on with some validation rows, at each validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.config.sections.generation import GenerationSection
from siredon.log import note
from siredon.train.callbacks.metrics import keep_lines
from siredon.train.continuation import continue_ids, first_samples, undisturbed
from siredon.train.trainer import SiredonTrainer


class SampleWriter(TrainerCallback):
    """Gives the model the beginning of the first validation rows, and writes down how it goes on.

    Each validation draws with the run's seed and its own step: a run that goes on writes what it would have written.

    Args:
        trainer: Model and rows.
        tokenizer: Of the model.
        section: How many, how much is given, how tokens are chosen.
        path: The file.
    """

    def __init__(
        self, trainer: SiredonTrainer, tokenizer: Any, section: GenerationSection, path: Path
    ) -> None:
        self.trainer = trainer
        self.tokenizer = tokenizer
        self.section = section
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keeps what was written up to the step from which the run goes on."""
        if state.is_world_process_zero:
            keep_lines(self.path, state.global_step)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Writes and shows the samples."""
        if not state.is_world_process_zero:
            return
        samples = first_samples(self.trainer.eval_dataset, self.section.num_generation_samples)
        with undisturbed(self.trainer, args.seed + state.global_step) as model, self.path.open("a") as stream:
            for number, sample in samples:
                ids = [int(token) for token in sample.input_ids]
                given = max(1, int(self.section.generation_prompt_ratio * len(ids)))
                written = continue_ids(model, ids[:given], self._options)
                row = {
                    "step": state.global_step,
                    "row": number,
                    "given": self.tokenizer.decode(ids[:given]),
                    "written": self.tokenizer.decode(written),
                    "expected": self.tokenizer.decode(ids[given:]),
                }
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                note(f"sample, row {number}: ...{row['given'][-60:]!r} -> {row['written']!r}")

    @property
    def _options(self) -> dict[str, Any]:
        section = self.section
        options = {
            "max_new_tokens": section.generation_max_new_tokens,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        if not section.generation_do_sample:
            return {**options, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {
            **options,
            "do_sample": True,
            "temperature": section.generation_temperature,
            "top_p": section.generation_top_p or 1.0,
            # 0 is all tokens; left out, transformers would take the 50 likeliest.
            "top_k": section.generation_top_k or 0,
        }
