"""The learning rate over the run."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import find_idle_keys, keys_set
from siredon.config.rule import Finding, Rule
from siredon.config.schedule_settings import SETTINGS
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.optimizer import OptimizerSection, ScheduleSection, read_number
from siredon.registry import find_clear, suggest


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


def _check_room(schedule: ScheduleSection) -> Iterator[Finding]:
    """Between two restarts there is room for warm-up and decay.

    They take 10 steps and 1 step where the file does not say.
    """
    period = schedule.jagged_restart_steps
    taken = schedule.num_restart_warmup_steps + schedule.num_restart_anneal_steps
    if period is not None and taken > period:
        yield Finding(
            "jagged_restart_steps",
            f"restarts come every {period} steps, but warm-up and decay take {taken}",
            f"Raise `jagged_restart_steps` over {taken}, or shorten `jagged_restart_warmup_steps`.",
            "warning",
        )


#: Two ways to say how low the learning rate goes.
_FLOORS = ("min_lr", "min_lr_rate")
#: Schedule -> settings of which it needs exactly one.
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
    given = [name for name in names or _FLOORS if schedule.lr_scheduler_kwargs.get(name) is not None]
    shown = " or ".join(f"`{name}`" for name in names)
    if names and not given:
        yield Finding(
            "lr_scheduler",
            f"`lr_scheduler: {schedule.lr_scheduler}` needs {shown} in `lr_scheduler_kwargs`",
            f"Add {shown} to `lr_scheduler_kwargs`.",
        )
    elif len(given) > 1:
        both = " and ".join(f"`{name}`" for name in given)
        yield Finding(f"lr_scheduler_kwargs.{given[-1]}", f"{both} are both set", "Keep one of them.")


def _check_names(schedule: ScheduleSection) -> Iterator[Finding]:
    """`lr_scheduler_kwargs` holds settings that the schedule has.

    Each schedule has its own; `constant`, `constant_with_warmup` and `linear` have none.
    """
    known = SETTINGS[schedule.lr_scheduler]
    for name in schedule.lr_scheduler_kwargs:
        if name not in known:
            listed = f"It has {', '.join(f'`{word}`' for word in known)}." if known else "It has none."
            yield Finding(
                f"lr_scheduler_kwargs.{name}",
                f"`lr_scheduler: {schedule.lr_scheduler}` has no setting `{name}`",
                suggest(name, known) + listed,
            )


def _check_values(schedule: ScheduleSection) -> Iterator[Finding]:
    """A setting of the schedule has a value that it can have."""
    known = SETTINGS[schedule.lr_scheduler]
    for name, value in schedule.lr_scheduler_kwargs.items():
        wanted = known[name].find_wrong(value) if name in known else ""
        if wanted:
            kind = known[name].kind
            words = kind if isinstance(kind, tuple) else ()
            yield Finding(
                f"lr_scheduler_kwargs.{name}",
                f"`{name}: {value}` is not {wanted}",
                f"Write {wanted}.",
                value=str(value),
                replacement=find_clear(str(value), words),
            )


def _check_floor(schedule: ScheduleSection, optimizer: OptimizerSection) -> Iterator[Finding]:
    """The lowest learning rate is below the peak.

    `min_lr` and `lr_end` are learning rates, not parts of one.
    """
    for name in ("min_lr", "lr_end"):
        value = read_number(schedule.lr_scheduler_kwargs.get(name))
        if isinstance(value, (int, float)) and value >= optimizer.learning_rate:
            yield Finding(
                f"lr_scheduler_kwargs.{name}",
                f"`{name}: {value:g}` is not below `learning_rate: {optimizer.learning_rate:g}`",
                f"Lower `{name}`: it is a learning rate, not a part of one.",
            )


def _check_jagged(schedule: ScheduleSection) -> Iterator[Finding]:
    """Restarts come in a schedule that goes by steps.

    `reduce_lr_on_plateau` goes by validations, and keeps no rate to which a restart could bring it back.
    """
    if schedule.lr_scheduler == "reduce_lr_on_plateau" and schedule.jagged_restart_steps is not None:
        yield Finding(
            "jagged_restart_steps",
            "`jagged_restart_steps` cannot restart `lr_scheduler: reduce_lr_on_plateau`",
            "Choose another `lr_scheduler`, such as `cosine`, or remove `jagged_restart_steps`.",
        )


def _check_cycle(schedule: ScheduleSection, optimizer: OptimizerSection) -> Iterator[Finding]:
    """`one_cycle` sets what other keys ask for, and they are left out.

    It moves the first beta of Adam between `base_momentum` and `max_momentum`, unless `cycle_momentum: false`; and
    `pct_start` is its warm-up.
    """
    if schedule.lr_scheduler != "one_cycle":
        return
    if schedule.lr_scheduler_kwargs.get("cycle_momentum") is not False:
        for name in keys_set(optimizer, ("adam_beta1",)):
            yield Finding(
                name,
                f"`{name}` has no effect with `lr_scheduler: one_cycle`, which moves it from 0.95 to 0.85 and back",
                f"Remove `{name}`, or add `cycle_momentum: false` to `lr_scheduler_kwargs`.",
                "warning",
            )
    if schedule.lr_scheduler_kwargs.get("pct_start") is not None:
        for name in keys_set(schedule, ("warmup_steps", "warmup_ratio")):
            yield Finding(
                name,
                f"`{name}` has no effect beside `pct_start`, the warm-up of `one_cycle`",
                f"Remove `{name}`, or `pct_start`.",
                "warning",
            )


def _check_decay(schedule: ScheduleSection, batch: BatchSection) -> Iterator[Finding]:
    """The run has room for warm-up and decay of `warmup_stable_decay`."""
    decay, end = schedule.lr_scheduler_kwargs.get("num_decay_steps"), batch.max_steps
    if schedule.lr_scheduler != "warmup_stable_decay" or end is None or not isinstance(decay, int):
        return
    stable = schedule.lr_scheduler_kwargs.get("num_stable_steps")
    warmup = schedule.num_warmup_steps(end)
    if stable is None and warmup + decay > end:
        yield Finding(
            "lr_scheduler_kwargs.num_decay_steps",
            f"warm-up ({warmup}) and decay ({decay}) take {warmup + decay} steps, and `max_steps` is {end}",
            f"Lower `num_decay_steps` to at most {max(0, end - warmup)}, or raise `max_steps`.",
        )


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
    Rule(
        "SD0650",
        _check_names,
        wrong="lr_scheduler_kwargs:\n  num_cycle: 2",
        right="lr_scheduler_kwargs:\n  num_cycles: 2",
    ),
    Rule(
        "SD0651",
        _check_values,
        wrong="lr_scheduler: one_cycle\nlr_scheduler_kwargs:\n  pct_start: 30",
        right="lr_scheduler: one_cycle\nlr_scheduler_kwargs:\n  pct_start: 0.3",
    ),
    Rule(
        "SD0652",
        _check_floor,
        wrong="lr_scheduler: polynomial\nlr_scheduler_kwargs:\n  lr_end: 0.1",
        right="lr_scheduler: polynomial\nlr_scheduler_kwargs:\n  lr_end: 0.00001",
    ),
    Rule(
        "SD0653",
        _check_jagged,
        wrong="val_set_size: 0.1\nlr_scheduler: reduce_lr_on_plateau\njagged_restart_steps: 200",
        right="val_set_size: 0.1\nlr_scheduler: cosine\njagged_restart_steps: 200",
    ),
    Rule(
        "SD0654",
        _check_cycle,
        wrong="lr_scheduler: one_cycle\nadam_beta1: 0.9",
        right="lr_scheduler: one_cycle\nadam_beta1: 0.9\nlr_scheduler_kwargs:\n  cycle_momentum: false",
    ),
    Rule(
        "SD0655",
        _check_decay,
        wrong="max_steps: 100\nlr_scheduler: warmup_stable_decay\nlr_scheduler_kwargs:\n  num_decay_steps: 200",
        right="max_steps: 100\nlr_scheduler: warmup_stable_decay\nlr_scheduler_kwargs:\n  num_decay_steps: 20",
    ),
)
