"""What becomes of an optimizer step whose loss or gradient is no number, or far above those before it."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Float, Int, Section, key

Policy = Literal["stop", "skip", "rollback", "ignore"]


class BadStepSection(Section):
    """Bad steps: how they are told, and what follows."""

    on_bad_step: Policy | None = key(
        "At a step whose loss or gradient is NaN or infinite, or a spike: `stop`, `skip`, `rollback` or `ignore`.",
        None,
        derived="Config.bad_step_policy",
    )
    bad_step_limit: Int = key(
        "Bad steps skipped, or rollbacks made, in the whole run; one more ends it.", 5, ge=1
    )
    bad_step_window: Int = key("Steps passed over by a rollback: the bad one, and those before it.", 1, ge=1)
    spike_factor: Float | None = key(
        "Loss of a step, in medians of the recent ones, above which it is a spike; 3 is a good value.",
        None,
        gt=1,
    )
    grad_spike_factor: Float | None = key(
        "Norm of a step's gradient, in medians of the recent ones, above which it is a spike.", None, gt=1
    )
    spike_window: Int = key("Good steps before a step that it is compared with.", 64, ge=8)

    @property
    def looks_for_spikes(self) -> bool:
        """Whether a step can be bad whose numbers are finite."""
        return self.spike_factor is not None or self.grad_spike_factor is not None
