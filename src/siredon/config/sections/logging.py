"""What is logged, and how often."""

from __future__ import annotations

from siredon.config.fields import Bool, Int, Section, key


class LoggingSection(Section):
    """Log lines."""

    logging_steps: Int | None = key(
        "Optimizer steps between log lines; default 0.5 % of the run, 1 to 10.", None, ge=1
    )
    use_tensorboard: Bool = key("Write TensorBoard files too.", False)
    log_source_loss: Bool = key("Log the loss of each data set by itself too, as `loss/<its name>`.", False)
    include_tokens_per_second: Bool | None = key(
        "Log how many input tokens have been trained on, as `num_tokens`; their rate is always logged.", None
    )
    include_tkps: Bool = key(
        "Log the rate of learned tokens per second and device, as `learned_tokens_per_second_per_device`.",
        True,
    )

    def num_logging_steps(self, num_steps: int) -> int:
        """Optimizer steps between log lines for a run of `num_steps`."""
        return self.logging_steps or max(1, min(10, round(0.005 * num_steps)))


class ProfilerSection(Section):
    """A record of time and memory over some steps."""

    profiler_steps: Int | None = key(
        "Optimizer steps whose operations are recorded, into `output_dir/profile`.", None, ge=1
    )
    profiler_steps_start: Int = key("Optimizer steps before the record begins.", 0, ge=0)
