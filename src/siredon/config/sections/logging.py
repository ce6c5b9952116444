"""What is logged, and how often."""

from __future__ import annotations

from siredon.config.fields import Bool, Int, Section, key, planned


class LoggingSection(Section):
    """Log lines."""

    logging_steps: Int | None = key(
        "Optimizer steps between log lines; default 0.5 % of the run, 1 to 10.", None, ge=1
    )
    use_tensorboard: Bool = key("Write TensorBoard files too.", False)
    log_source_loss: Bool = key("Log the loss of each data set by itself too, as `loss/<its name>`.", False)
    include_tokens_per_second: Bool | None = planned("Count input tokens and log their rate, per second.")
    include_tkps: Bool = planned("Log the rate of learned tokens, per second and GPU.", True)

    def num_logging_steps(self, num_steps: int) -> int:
        """Optimizer steps between log lines for a run of `num_steps`."""
        return self.logging_steps or max(1, min(10, round(0.005 * num_steps)))


class ProfilerSection(Section):
    """A record of GPU memory over some steps."""

    profiler_steps: Int | None = planned("Optimizer steps that are recorded.")
    profiler_steps_start: Int = planned("Optimizer step with which the record begins.", 0)
