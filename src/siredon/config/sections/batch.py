"""How much is trained: batch, epochs, steps, seed."""

from __future__ import annotations

from siredon.config.fields import Bool, Float, Int, Section, key, planned


class BatchSection(Section):
    """Batch sizes and the length of the run."""

    micro_batch_size: Int = key("Sequences per device in one forward pass.", 1, ge=1)
    gradient_accumulation_steps: Int = key("Forward passes per optimizer step.", 1, ge=1)
    eval_batch_size: Int | None = key(
        "Sequences per device in validation; default `micro_batch_size`.",
        None,
        ge=1,
        derived="eval_size",
    )
    num_epochs: Float = key("Passes over the data.", 1.0, gt=0)
    max_steps: Int | None = key("Optimizer steps; wins over `num_epochs`.", None, ge=1)
    seed: Int = key("Seed of every random choice.", 42, ge=0, le=2**32 - 1)
    deterministic: Bool = key(
        "Only kernels that give the same bits each time, on a GPU too; a step that has none stops the run.",
        False,
    )
    batch_size: Int | None = planned("Sequences per optimizer step, over all devices.")
    auto_find_batch_size: Bool | None = planned("Halve the batch and start again when memory runs out.")

    @property
    def eval_size(self) -> int:
        """Sequences per device in validation."""
        return self.eval_batch_size or self.micro_batch_size
