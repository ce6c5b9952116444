"""Which policies for bad steps go with what else is set."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import find_idle_keys, find_useless_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.bad_steps import BadStepSection
from siredon.config.sections.checkpoint import CheckpointSection
from siredon.config.sections.optimizer import OptimizerSection


def _check_skip(bad_steps: BadStepSection, optimizer: OptimizerSection) -> Iterator[Finding]:
    """A step can be skipped where the update comes after the backward pass.

    An optimizer that updates weights during the backward pass has changed some of them before the gradient of the
    others is known.  `on_bad_step: rollback` goes back to the weights of a checkpoint instead.
    """
    if bad_steps.on_bad_step == "skip" and optimizer.updates_in_backward:
        yield Finding(
            "on_bad_step",
            "`on_bad_step: skip` cannot undo an update that was made during the backward pass",
            "Write `on_bad_step: rollback`, or use an optimizer that steps after the backward pass.",
        )


def _check_rollback(bad_steps: BadStepSection, checkpoint: CheckpointSection) -> Iterator[Finding]:
    """A rollback needs checkpoints from which a run can go on.

    `save_strategy: no` writes none, and `save_only_model: true` leaves out the optimizer.
    """
    if bad_steps.on_bad_step != "rollback":
        return
    if checkpoint.strategy == "no" or checkpoint.save_only_model:
        cause = "save_only_model: true" if checkpoint.save_only_model else "save_strategy: no"
        yield Finding(
            "on_bad_step",
            f"`on_bad_step: rollback` has no checkpoint to go back to with `{cause}`",
            "Write `save_steps: 100` and keep the optimizer's state, or write `on_bad_step: skip`.",
        )


_SPIKE_KEYS = ("spike_factor", "grad_spike_factor", "spike_window")


def _check_idle(bad_steps: BadStepSection) -> Iterator[Finding]:
    """Settings of bad steps come with a policy that uses them.

    `bad_step_limit` counts what `skip` and `rollback` do, `bad_step_window` belongs to `rollback`, and `spike_window`
    to `spike_factor` or `grad_spike_factor`.  With `ignore` nothing is looked at.
    """
    policy = bad_steps.on_bad_step
    if policy not in ("skip", "rollback"):
        needs = "`on_bad_step: skip` or `on_bad_step: rollback`"
        yield from find_idle_keys(bad_steps, ("bad_step_limit",), needs)
    if policy != "rollback":
        yield from find_idle_keys(bad_steps, ("bad_step_window",), "`on_bad_step: rollback`")
    if policy == "ignore":
        yield from find_useless_keys(bad_steps, _SPIKE_KEYS, "with `on_bad_step: ignore`")
    elif not bad_steps.looks_for_spikes:
        yield from find_idle_keys(bad_steps, ("spike_window",), "`spike_factor` or `grad_spike_factor`")


RULES = (
    Rule(
        "SD0790",
        _check_skip,
        wrong="on_bad_step: skip\noptimizer: adamw_torch\noptimizer_in_backward: true",
        right="on_bad_step: skip\noptimizer: adamw_torch",
    ),
    Rule(
        "SD0791",
        _check_rollback,
        wrong="on_bad_step: rollback\nsave_strategy: 'no'",
        right="on_bad_step: rollback\nsave_steps: 100",
    ),
    Rule(
        "SD0792",
        _check_idle,
        wrong="spike_window: 100",
        right="spike_factor: 3\nspike_window: 100",
    ),
)
