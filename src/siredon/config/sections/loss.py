"""The loss, and when it ends a run."""

from __future__ import annotations

from siredon.config.duration import Duration
from siredon.config.fields import Bool, Float, Int, Section, key, planned


class LossSection(Section):
    """How the loss is computed."""

    cut_cross_entropy: Bool | None = key(
        "Another name for `chunked_cross_entropy: true`; Apple's kernel is not used.", None
    )
    chunked_cross_entropy: Bool | None = key(
        "Cross-entropy from hidden states and the head's weights, some rows at a time, so that the logits never exist "
        "together; default: on a GPU where the model's head allows it.",
        None,
    )
    chunked_cross_entropy_num_chunks: Int | None = key(
        "Pieces per batch; default: pieces of about 256 MiB of logits, with 1,024 to 4,096 rows.", None, ge=1
    )
    flash_attn_cross_entropy: Bool | None = planned("Cross-entropy by the kernel of flash-attn.")
    use_eaft: Bool | None = planned("EAFT: tokens weigh by how unsure the model is.")
    eaft_alpha: Float = planned("EAFT: exponent of the entropy.", 1.0)
    eaft_k: Int = planned("EAFT: most likely tokens that the entropy is taken over.", 20)


class StoppingSection(Section):
    """What ends a run before its time."""

    early_stopping_patience: Int | None = key(
        "Validations in a row without a better result, after which the run ends.", None, ge=1
    )
    loss_watchdog_threshold: Float | None = key(
        "Training loss of an optimizer step above which it counts as failed; NaN counts too.", None, gt=0
    )
    loss_watchdog_patience: Int | None = key(
        "Failed steps in a row that end the run, with an error; default 3.", None, ge=1, derived="patience"
    )
    max_time: Duration | None = key(
        "Time after which the run saves everything and ends, to go on later: `11h30m`, `90s`, `1:30:00`, seconds.",
        None,
        gt=0,
    )
    stall_timeout: Duration | None = key(
        "Time without a finished step, from the second on, after which the run shows its stacks and ends; 0 never; "
        "default 20 times the slowest recent step, at least 10 minutes.",
        None,
        ge=0,
    )

    @property
    def patience(self) -> int:
        """Failed steps in a row that end the run."""
        return 3 if self.loss_watchdog_patience is None else self.loss_watchdog_patience
