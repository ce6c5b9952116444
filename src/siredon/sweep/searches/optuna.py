"""`--sweep-search optuna`: each trial is chosen from the losses of those before it.

Source: the tree-structured Parzen estimator of Bergstra et al., "Algorithms for Hyper-Parameter Optimization",
2011, as Optuna builds it.
"""

from __future__ import annotations

from typing import Any

from siredon.config.layers import Setting
from siredon.errors import SiredonError
from siredon.sweep.search import Search
from siredon.sweep.space import Choices, Range, Space
from siredon.sweep.trial import Trial


def build_optuna(space: Space, num_runs: int, seed: int) -> Search:
    """A search that is the same for the same seed and the same losses.

    Raises:
        SiredonError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise SiredonError(
            "--sweep-search optuna: optuna is not installed", "pip install 'siredon[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed))
    return OptunaSearch(space, num_runs, study)


class OptunaSearch(Search):
    """Asks an Optuna study.  Known beforehand are only the ends: each value of each key, in some trial.

    Args:
        space: What is swept.
        num_runs: How many trials to ask for.
        study: The study, without a trial so far.
    """

    def __init__(self, space: Space, num_runs: int, study: Any) -> None:
        super().__init__(_corner_trials(space))
        self._space, self._study, self._num_runs = space, study, num_runs
        self._current: Any = None

    @property
    def num_trials(self) -> int:
        """How many trials there are to ask for."""
        return self._num_runs

    def tell(self, loss: float | None) -> None:
        """How the trial asked for last went."""
        if loss is None:
            from optuna.trial import TrialState

            self._study.tell(self._current, state=TrialState.FAIL)
        else:
            self._study.tell(self._current, loss)

    def _choose(self, number: int) -> Trial:
        self._current = self._study.ask()
        chosen = [setting for axis in self._space.axes for setting in _suggest(self._current, axis)]
        return Trial(number, tuple(chosen))


def _suggest(trial: Any, axis: Choices | Range) -> tuple[Setting, ...]:
    if isinstance(axis, Choices):
        return axis.options[trial.suggest_categorical(axis.name, list(range(len(axis.options))))]
    if axis.num_steps is not None:
        return (axis.set_step(trial.suggest_int(axis.name, 0, axis.num_steps)),)
    if axis.is_whole:
        return (axis.set_value(trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)),)
    return (axis.set_value(trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)),)


def _corner_trials(space: Space) -> list[Trial]:
    """As many trials as the longest axis has values; together they have every value once or more."""
    values = [
        axis.options
        if isinstance(axis, Choices)
        else ((axis.set_value(axis.low),), (axis.set_value(axis.high),))
        for axis in space.axes
    ]
    longest = max((len(options) for options in values), default=0)
    return [
        Trial(
            index + 1,
            tuple(setting for options in values for setting in options[min(index, len(options) - 1)]),
        )
        for index in range(longest)
    ]


SEARCH = build_optuna
