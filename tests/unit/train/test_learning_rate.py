"""Every schedule is the curve that its formula says, at every optimizer step of the run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.steps import CPU, random_samples

from siredon.config.load import load_config
from siredon.config.schedule_settings import SETTINGS
from siredon.config.sections.optimizer import Schedule, ScheduleSection
from siredon.config.shelves import SCHEDULES
from siredon.data.collate import Collator, PackDataset
from siredon.data.table import build_table
from siredon.errors import TrainingError
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import build_arguments, build_schedule, count_steps
from siredon.train.learning_rate import ScheduleBuilder, continue_curve_
from siredon.train.trainer import SiredonTrainer

PEAK = 0.02
Curve = Callable[[int], float]


def build(words: dict[str, Any], num_steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """An optimizer with two groups, the second at half the rate, and its schedule."""
    first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([{"params": [first]}, {"params": [second], "lr": PEAK / 2}], lr=PEAK)
    section = ScheduleSection.model_validate(words)
    return optimizer, ScheduleBuilder(section, PEAK).build(optimizer, num_steps)


def rates_of(words: dict[str, Any], num_steps: int) -> list[list[float]]:
    """The learning rates with which each optimizer step is made, group by group."""
    optimizer, scheduler = build(words, num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


# The truth, written without the code: a part of the peak at step t, with warm-up w and n steps


def warmed(w: int, after: Curve, bend: float = 1.0) -> Curve:
    return lambda t: (t / w) ** bend if t < w else after(t)


def falling_cosine(w: int, n: int, waves: float = 0.5, floor: float = 0.0) -> Curve:
    return lambda t: floor + (1 - floor) * (1 + math.cos(2 * math.pi * waves * (t - w) / (n - w))) / 2


def rex(w: int, n: int, floor: float = 0.0) -> Curve:
    def left(t: int) -> float:
        return (n - t) / (n - w)

    return lambda t: floor + (1 - floor) * left(t) / (0.5 + 0.5 * left(t))


def stable(w: int, s: int, d: int, floor: float = 0.0) -> Curve:
    def after(t: int) -> float:
        if t < w + s:
            return 1.0
        return floor + (1 - floor) * (1 - (t - w - s) / d) if t < w + s + d else floor

    return after


def one_cycle(w: int, n: int) -> Curve:
    low, last = 1 / 25, 1 / 25 / 1e4

    def between(a: float, b: float, part: float) -> float:
        return b + (a - b) * (1 + math.cos(math.pi * part)) / 2

    return lambda t: between(low, 1, t / (w - 1)) if t <= w - 1 else between(1, last, (t - w + 1) / (n - w))


def restarted(curve: Curve, period: int, warmup: int, anneal: int) -> Curve:
    def part(t: int) -> float:
        since = t % period
        if t >= period and since < warmup:
            return since / warmup
        return min(1.0, (period - since) / anneal)

    return lambda t: curve(t) * (0.001 + 0.999 * part(t))


def kwargs(word: str, **settings: Any) -> dict[str, Any]:
    return {"lr_scheduler": word, "lr_scheduler_kwargs": settings}


W, N = 4, 20
#: Name of a case -> the YAML, the truth, and its golden values at steps 0, 2, 4, 11 and 19.
CASES: dict[str, tuple[dict[str, Any], Curve, list[float]]] = {
    "constant": (kwargs("constant"), lambda t: 1.0, [1, 1, 1, 1, 1]),
    "constant_with_warmup": (kwargs("constant_with_warmup"), warmed(W, lambda t: 1.0), [0, 0.5, 1, 1, 1]),
    "linear": (kwargs("linear"), warmed(W, lambda t: (N - t) / (N - W)), [0, 0.5, 1, 0.5625, 0.0625]),
    "cosine": (kwargs("cosine"), warmed(W, falling_cosine(W, N)), [0, 0.5, 1, 0.597545, 0.009607]),
    "cosine, floor": (
        {"lr_scheduler": "cosine", "cosine_min_lr_ratio": 0.1},
        warmed(W, falling_cosine(W, N, floor=0.1)),
        [0, 0.5, 1, 0.637791, 0.108646],
    ),
    "cosine, flat end, parabola": (
        {
            "lr_scheduler": "cosine",
            "cosine_min_lr_ratio": 0.2,
            "cosine_constant_lr_ratio": 0.6,
            "lr_quadratic_warmup": True,
        },
        warmed(W, lambda t: falling_cosine(W, 12, floor=0.2)(min(t, 12)), bend=2),
        [0, 0.25, 1, 0.230448, 0.2],
    ),
    "cosine, waves": (
        kwargs("cosine", num_cycles=1.5),
        warmed(W, falling_cosine(W, N, 1.5)),
        [0, 0.5, 1, 0.222215, 0.084265],
    ),
    "cosine_with_restarts": (
        kwargs("cosine_with_restarts", num_cycles=2),
        warmed(W, lambda t: (1 + math.cos(math.pi * ((2 * (t - W) / (N - W)) % 1))) / 2),
        [0, 0.5, 1, 0.03806, 0.03806],
    ),
    "cosine_with_min_lr": (
        kwargs("cosine_with_min_lr", min_lr="2e-3"),
        warmed(W, falling_cosine(W, N, floor=0.1)),
        [0, 0.5, 1, 0.637791, 0.108646],
    ),
    "cosine_warmup_with_min_lr": (
        kwargs("cosine_warmup_with_min_lr", min_lr_rate=0.1),
        lambda t: (t + 1) / W if t < W else falling_cosine(W, N, floor=0.1)(t + 1),
        [0.25, 0.75, 0.991353, 0.55, 0.1],
    ),
    "cosine_warmup_with_min_lr, start": (
        kwargs("cosine_warmup_with_min_lr", min_lr_rate=0.1, warmup_lr_rate=0.4),
        lambda t: 0.4 + 0.6 * t / (W - 1) if t < W else falling_cosine(W, N, floor=0.1)(t + 1),
        [0.4, 0.8, 0.991353, 0.55, 0.1],
    ),
    "polynomial": (
        kwargs("polynomial", power=2, lr_end=1e-3),
        warmed(W, lambda t: 0.05 + 0.95 * ((N - t) / (N - W)) ** 2),
        [0, 0.5, 1, 0.350586, 0.053711],
    ),
    "inverse_sqrt": (
        kwargs("inverse_sqrt", timescale=5),
        warmed(W, lambda t: 1 / math.sqrt((t - W + 5) / 5)),
        [0, 0.5, 1, 0.645497, 0.5],
    ),
    "rex": (kwargs("rex"), warmed(W, rex(W, N)), [0, 0.5, 1, 0.72, 0.117647]),
    "rex, floor": (kwargs("rex", min_lr=2e-3), warmed(W, rex(W, N, 0.1)), [0, 0.5, 1, 0.748, 0.205882]),
    "warmup_stable_decay": (
        kwargs("warmup_stable_decay", num_decay_steps=6, decay_type="linear", min_lr_ratio=0.1),
        # Its warm-up begins at the floor, too
        lambda t: 0.1 + 0.9 * t / W if t < W else stable(W, N - W - 6, 6, 0.1)(t),
        [0.1, 0.55, 1, 1, 0.25],
    ),
    "one_cycle": (kwargs("one_cycle"), one_cycle(W, N), [0.04, 0.76, 0.990393, 0.500002, 4e-6]),
    "cosine, jagged": (
        {
            "lr_scheduler": "cosine",
            "jagged_restart_steps": 6,
            "jagged_restart_warmup_steps": 2,
            "jagged_restart_anneal_steps": 2,
        },
        restarted(warmed(W, falling_cosine(W, N)), 6, 2, 2),
        [0, 0.5, 1, 0.299071, 0.004808],
    ),
    "one_cycle, jagged": (
        {
            "lr_scheduler": "one_cycle",
            "jagged_restart_steps": 6,
            "jagged_restart_warmup_steps": 2,
            "jagged_restart_anneal_steps": 2,
        },
        restarted(one_cycle(W, N), 6, 2, 2),
        [0.04, 0.76, 0.990393, 0.250252, 2.002e-6],
    ),
}
PLATEAU = "reduce_lr_on_plateau"


def test_every_word_has_a_part_settings_and_a_curve_here():
    words = set(get_args(Schedule))
    assert words == set(SCHEDULES.names()) == set(SETTINGS)
    assert words == {words["lr_scheduler"] for words, _, _ in CASES.values()} | {PLATEAU}


@pytest.mark.parametrize("name", CASES)
def test_every_schedule_is_its_formula_and_its_golden_curve(name: str):
    words, truth, golden = CASES[name]
    rates = rates_of({"warmup_steps": W, **words}, N)
    assert [rate for rate, _ in rates] == pytest.approx(
        [PEAK * truth(t) for t in range(N)], rel=1e-12, abs=1e-15
    )
    assert [rates[t][0] / PEAK for t in (0, 2, 4, 11, 19)] == pytest.approx(golden, abs=1e-6)
    # A group with a peak of its own has the same curve
    assert [half / PEAK * 2 for _, half in rates] == pytest.approx([truth(t) for t in range(N)], rel=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (1, 1), (3, 3), (1, 7), (0, 2)])
def test_no_length_of_run_or_warmup_is_too_short(name: str, warmup: int, steps: int):
    words = {**CASES[name][0], "warmup_steps": warmup}
    if words["lr_scheduler"] == "warmup_stable_decay":
        words["lr_scheduler_kwargs"] = {"num_decay_steps": 0}
    rates = rates_of(words, steps)
    assert all(math.isfinite(rate) and 0 <= rate <= PEAK * (1 + 1e-12) for pair in rates for rate in pair)


@pytest.mark.parametrize("name", CASES)
def test_a_saved_schedule_goes_on_exactly(name: str):
    words = {"warmup_steps": W, **CASES[name][0]}
    whole = rates_of(words, N)
    optimizer, scheduler = build(words, N)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    kept = {"schedule": scheduler.state_dict(), "optimizer": optimizer.state_dict()}
    optimizer, scheduler = build(words, N)
    optimizer.load_state_dict(kept["optimizer"])
    scheduler.load_state_dict(kept["schedule"])
    rest = []
    for _ in range(7, N):
        rest.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rest == whole[7:]


@pytest.mark.parametrize("name", CASES)
def test_a_saved_schedule_goes_on_in_a_run_of_another_length(name: str):
    words = {"warmup_steps": W, **CASES[name][0]}
    if words["lr_scheduler"] == "one_cycle":
        return  # Refused: it ends after its steps
    optimizer, scheduler = build(words, N)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    kept = {"schedule": scheduler.state_dict(), "optimizer": optimizer.state_dict()}
    for length in (14, 2 * N):
        optimizer, scheduler = build(words, length)
        optimizer.load_state_dict(kept["optimizer"])
        scheduler.load_state_dict(kept["schedule"])
        continue_curve_(scheduler)
        rest = []
        for _ in range(7, length):
            rest.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        assert rest == rates_of(words, length)[7:]


@pytest.mark.parametrize("name", CASES)
def test_the_rate_of_a_step_can_be_asked_for(name: str):
    words = {"warmup_steps": W, **CASES[name][0]}
    if words["lr_scheduler"] == "one_cycle":
        return
    builder = ScheduleBuilder(ScheduleSection.model_validate(words), PEAK)
    wanted = [rate for rate, _ in rates_of(words, N)]
    assert [builder.rate_at(N, t) for t in range(N)] == pytest.approx(wanted, rel=1e-12)


def test_a_plateau_lowers_the_rate_by_what_is_validated():
    optimizer, scheduler = build(kwargs(PLATEAU, factor=0.5, patience=1, threshold=0), N)
    rates = []
    for value in (3.0, 2.0, 2.0, 2.0, 1.0, 1.5, 1.5):
        scheduler.step(value)
        rates.append(optimizer.param_groups[0]["lr"] / PEAK)
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    section = ScheduleSection.model_validate({"lr_scheduler": PLATEAU})
    assert ScheduleBuilder(section, PEAK, falls=False).build(optimizer, N).mode == "max"


@pytest.mark.parametrize("word", [word for word in SETTINGS if word != PLATEAU])
def test_the_settings_that_a_check_knows_are_those_of_the_part(word: str):
    samples = {"a number": 0.5, "a whole number": 1, "true or false": False}
    needed = {"num_decay_steps": 1} if word == "warmup_stable_decay" else {}
    for name, setting in SETTINGS[word].items():
        value = setting.kind[0] if isinstance(setting.kind, tuple) else samples[setting.kind]
        value = max(value, setting.least) if name.endswith("div_factor") else value
        assert not setting.find_wrong(value)
        rates_of(kwargs(word, **{**needed, name: value}), N)
    with pytest.raises(TypeError):
        rates_of(kwargs(word, **needed, no_such_setting=1), N)


def test_the_settings_of_a_plateau_are_those_of_torch():
    names = set(inspect.signature(torch.optim.lr_scheduler.ReduceLROnPlateau).parameters)
    assert names - {"optimizer"} == set(SETTINGS[PLATEAU])


def test_a_run_too_short_for_its_decay_says_so():
    with pytest.raises(
        TrainingError, match=r"20 optimizer steps, and warm-up \(4\) and decay \(18\) take 22"
    ):
        rates_of({"warmup_steps": 4, **kwargs("warmup_stable_decay", num_decay_steps=18)}, N)


def test_one_cycle_moves_momentum_only_where_there_is_any():
    parameter = torch.nn.Parameter(torch.zeros(2))
    section = ScheduleSection.model_validate({"lr_scheduler": "one_cycle", "warmup_steps": 4})
    adam = torch.optim.AdamW([parameter], lr=PEAK)
    ScheduleBuilder(section, PEAK).build(adam, N)
    assert adam.param_groups[0]["betas"] == (0.95, 0.999)
    ScheduleBuilder(section, PEAK).build(torch.optim.Adagrad([parameter], lr=PEAK), N)


# The real trainer


PLAIN = Precision(torch.float32, None, False)


def train_rows(
    write_config: Any,
    num_rows: int,
    callbacks: Any = (),
    prepare: Any = None,
    machine: tuple[Hardware, Precision] = (CPU, PLAIN),
    **keys: Any,
) -> Any:
    """The trainer after a run on rows of a few tokens."""
    hardware, precision = machine
    config, _ = load_config(str(write_config(**{"max_steps": ..., "save_strategy": "no", **keys})))
    model = build_model()
    dataset = PackDataset(build_table(random_samples([(6, 4)] * num_rows)), [[i] for i in range(num_rows)])
    trainer = SiredonTrainer(
        selects_logits=takes_logits_to_keep(model),
        schedule=build_schedule(config),
        model=model,
        args=build_arguments(config, count_steps(config, num_rows), precision, hardware),
        train_dataset=dataset,
        data_collator=Collator(0),
        callbacks=list(callbacks),
    )
    if prepare:
        prepare(trainer)
    trainer.train()
    return trainer


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("warmup", [{"warmup_steps": 2}, {"warmup_ratio": 0.25}])
@pytest.mark.parametrize(("word", "truth"), [("rex", warmed(2, rex(2, 8))), ("one_cycle", one_cycle(2, 8))])
def test_the_rate_advances_once_per_optimizer_step(
    write_config: Any, accumulation: int, warmup: dict[str, Any], word: str, truth: Curve
):
    # Two epochs of rows that do not fill the last window of accumulation
    rows = 4 if accumulation == 1 else 14
    keys = {"gradient_accumulation_steps": accumulation, "num_epochs": 2, "lr_scheduler": word, **warmup}
    trainer = train_rows(write_config, rows, **keys)
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates == pytest.approx([1e-3 * truth(t) for t in range(8)], rel=1e-12)


def test_a_step_that_loss_scaling_skips_does_not_advance_it(write_config: Any):
    from transformers import TrainerCallback

    class Overflow(TrainerCallback):
        """Makes the gradients of the third step infinite, as an overflow of fp16 does."""

        def on_substep_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 2:
                next(model.parameters()).grad.fill_(math.inf)

    def scale_losses(trainer: Any) -> None:
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)

    trainer = train_rows(
        write_config,
        12,
        [Overflow()],
        scale_losses,
        gradient_accumulation_steps=2,
        lr_scheduler="linear",
        warmup_steps=0,
        max_grad_norm=0,
    )
    rates = [row["learning_rate"] * 1e3 for row in trainer.state.log_history if "learning_rate" in row]
    assert rates == pytest.approx([1, 5 / 6, 4 / 6, 4 / 6, 3 / 6, 2 / 6])
