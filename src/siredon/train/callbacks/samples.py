"""samples.jsonl: how the model goes on with some validation rows, at each validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siredon.config.sections.generation import GenerationSection
from siredon.data.types import Sample
from siredon.log import note
from siredon.train.continuation import GREEDY, RowWriter, continue_ids
from siredon.train.trainer import SiredonTrainer


class SampleWriter(RowWriter):
    """Gives the model the beginning of the first validation rows, and writes down how it goes on.

    Args:
        trainer: Model and rows.
        tokenizer: Of the model.
        section: How many, how much is given, how tokens are chosen.
        path: The file.
    """

    def __init__(
        self, trainer: SiredonTrainer, tokenizer: Any, section: GenerationSection, path: Path
    ) -> None:
        super().__init__(trainer, tokenizer, section.num_generation_samples, path)
        self.section = section

    def build_row(self, model: Any, number: int, sample: Sample) -> dict[str, str]:
        """One sample, which is shown too."""
        ids = [int(token) for token in sample.input_ids]
        given = max(1, int(self.section.generation_prompt_ratio * len(ids)))
        row = {
            "given": self.tokenizer.decode(ids[:given]),
            "written": self.tokenizer.decode(continue_ids(model, ids[:given], self._options)),
            "expected": self.tokenizer.decode(ids[given:]),
        }
        note(f"sample, row {number}: ...{row['given'][-60:]!r} -> {row['written']!r}")
        return row

    @property
    def _options(self) -> dict[str, Any]:
        section = self.section
        options = {
            "max_new_tokens": section.generation_max_new_tokens,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        if not section.generation_do_sample:
            return {**options, **GREEDY}
        return {
            **options,
            "do_sample": True,
            "temperature": section.generation_temperature,
            "top_p": section.generation_top_p or 1.0,
            # 0 is all tokens; left out, transformers would take the 50 likeliest.
            "top_k": section.generation_top_k or 0,
        }
