"""The learning rate over the run."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import find_idle_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.optimizer import ScheduleSection


def _check_warmup(schedule: ScheduleSection, batch: BatchSection) -> Iterator[Finding]:
    """The run is longer than its warm-up.

    Otherwise it ends before the learning rate has reached its peak.
    """
    steps, end = schedule.warmup_steps, batch.max_steps
    if steps is not None and end is not None and steps > end:
        yield Finding(
            "warmup_steps",
            f"the run ends after `max_steps: {end}`, within its warm-up of {steps} steps",
            f"Lower `warmup_steps` under {end}, or raise `max_steps`.",
            "warning",
        )


def _check_flat(schedule: ScheduleSection) -> Iterator[Finding]:
    """A schedule that warms up is chosen where warm-up is asked for.

    `constant` and `reduce_lr_on_plateau` begin at the peak.
    """
    if schedule.lr_scheduler not in ("constant", "reduce_lr_on_plateau"):
        return
    for name, value in (("warmup_steps", schedule.warmup_steps), ("warmup_ratio", schedule.warmup_ratio)):
        if value:
            yield Finding(
                name,
                f"`{name}` has no effect with `lr_scheduler: {schedule.lr_scheduler}`, which does not warm up",
                f"Write `lr_scheduler: constant_with_warmup`, for example, or remove `{name}`.",
                "warning",
            )


def _check_cosine(schedule: ScheduleSection) -> Iterator[Finding]:
    """Settings of the cosine come with `lr_scheduler: cosine`, and a flat end with its height.

    `cosine_constant_lr_ratio` says where the learning rate stops falling, `cosine_min_lr_ratio` how low it is
    then.
    """
    names = ("cosine_min_lr_ratio", "cosine_constant_lr_ratio", "lr_quadratic_warmup")
    if schedule.lr_scheduler != "cosine":
        yield from find_idle_keys(schedule, names, "`lr_scheduler: cosine`")
    elif schedule.cosine_min_lr_ratio is None:
        yield from find_idle_keys(schedule, ("cosine_constant_lr_ratio",), "`cosine_min_lr_ratio`")


def _check_restarts(schedule: ScheduleSection) -> Iterator[Finding]:
    """Warm-up and decay around restarts come with restarts."""
    if schedule.jagged_restart_steps is None:
        names = ("jagged_restart_warmup_steps", "jagged_restart_anneal_steps")
        yield from find_idle_keys(schedule, names, "`jagged_restart_steps`")


#: Warm-up and decay of a restart when the file sets neither.
_WARMUP, _DECAY = 10, 1


def _check_room(schedule: ScheduleSection) -> Iterator[Finding]:
    """Between two restarts there is room for warm-up and decay.

    They take 10 steps and 1 step where the file does not say.
    """
    period = schedule.jagged_restart_steps
    warmup, decay = schedule.jagged_restart_warmup_steps, schedule.jagged_restart_anneal_steps
    taken = (_WARMUP if warmup is None else warmup) + (_DECAY if decay is None else decay)
    if period is not None and taken > period:
        yield Finding(
            "jagged_restart_steps",
            f"restarts come every {period} steps, but warm-up and decay take {taken}",
            f"Raise `jagged_restart_steps` over {taken}, or shorten `jagged_restart_warmup_steps`.",
            "warning",
        )


#: Schedule of transformers -> settings of which it needs exactly one.
_NEEDED = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}


def _check_settings(schedule: ScheduleSection) -> Iterator[Finding]:
    """A schedule has the settings without which it has no shape.

    `cosine_with_min_lr` and `cosine_warmup_with_min_lr` need `min_lr` or `min_lr_rate`, and
    `warmup_stable_decay` needs `num_decay_steps`, in `lr_scheduler_kwargs`.
    """
    names = _NEEDED.get(schedule.lr_scheduler, ())
    given = [name for name in names if schedule.lr_scheduler_kwargs.get(name) is not None]
    shown = " or ".join(f"`{name}`" for name in names)
    if names and not given:
        yield Finding(
            "lr_scheduler",
            f"`lr_scheduler: {schedule.lr_scheduler}` needs {shown} in `lr_scheduler_kwargs`",
            f"Add {shown} to `lr_scheduler_kwargs`.",
        )
    elif len(given) > 1:
        yield Finding(f"lr_scheduler_kwargs.{given[-1]}", f"{shown}: both are set", "Keep one of them.")


RULES = (
    Rule(
        "SD0220",
        _check_warmup,
        wrong="warmup_steps: 200\nmax_steps: 100",
        right="warmup_steps: 10\nmax_steps: 100",
    ),
    Rule(
        "SD0221",
        _check_flat,
        wrong="lr_scheduler: constant\nwarmup_ratio: 0.1",
        right="lr_scheduler: constant_with_warmup\nwarmup_ratio: 0.1",
    ),
    Rule(
        "SD0222",
        _check_cosine,
        wrong="lr_scheduler: linear\ncosine_min_lr_ratio: 0.1",
        right="lr_scheduler: cosine\ncosine_min_lr_ratio: 0.1",
    ),
    Rule(
        "SD0223",
        _check_restarts,
        wrong="jagged_restart_warmup_steps: 20",
        right="jagged_restart_warmup_steps: 20\njagged_restart_steps: 200",
    ),
    Rule(
        "SD0224",
        _check_room,
        wrong="jagged_restart_steps: 20\njagged_restart_warmup_steps: 50",
        right="jagged_restart_steps: 200\njagged_restart_warmup_steps: 50",
    ),
    Rule(
        "SD0225",
        _check_settings,
        wrong="lr_scheduler: warmup_stable_decay",
        right="lr_scheduler: warmup_stable_decay\nlr_scheduler_kwargs:\n  num_decay_steps: 100",
    ),
)
