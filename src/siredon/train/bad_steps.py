"""Which optimizer steps are bad: no number, or far above the steps before.  Told on the device, without asking it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from siredon.config.sections.bad_steps import BadStepSection

#: A code is the sum of these.
LOSS, GRADIENT, LOSS_SPIKE, GRADIENT_SPIKE = 1, 2, 4, 8
_WORDS = {
    LOSS: "the loss is no finite number",
    GRADIENT: "the gradient is not finite",
    LOSS_SPIKE: "the loss is a spike",
    GRADIENT_SPIKE: "the norm of the gradient is a spike",
}
#: A spike is also so many deviations above the median: ordinary noise is not, however small the median.
_DEVIATIONS = 8.0
#: The median of absolute deviations times this is the standard deviation, where noise is normal.
_PER_MAD = 1.4826


class Judge:
    """Tells bad steps from good ones, and remembers the good ones.

    A spike is above `factor` times the median of the last `window` good steps, and more than 8 robust standard
    deviations (1.4826 times the median absolute deviation) above it.  Nothing is a spike before half of the window is
    filled.  Of an even number of values, the median is the lower one of the two in the middle.

    Args:
        section: Factors and window.
        device: Where losses are.
    """

    def __init__(self, section: BadStepSection, device: torch.device) -> None:
        self.looks_for_spikes = section.looks_for_spikes
        factors = [factor or float("inf") for factor in (section.spike_factor, section.grad_spike_factor)]
        self._factors = torch.tensor(factors, device=device)
        self._not_finite = torch.tensor([LOSS, GRADIENT], device=device)
        self._spikes = torch.tensor([LOSS_SPIKE, GRADIENT_SPIKE], device=device)
        #: Loss and norm of the last good steps, the newest at the end, [2, window]; NaN where there is none yet.
        self.recent = torch.full((2, section.spike_window), float("nan"), device=device)

    def judge_(self, loss: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """The code of a step, a scalar on the device; 0 for a good one, which is remembered.

        Args:
            loss: Of the step, over all ranks; a scalar.
            norm: Of its gradient, before clipping; a scalar.
        """
        values = torch.stack([loss.detach().float(), norm.detach().float()])
        finite = values.isfinite()
        code = ((~finite) * self._not_finite).sum()
        if not self.looks_for_spikes:
            return code
        code = code + ((finite & (values > self.bound())) * self._spikes).sum()
        moved = torch.cat([self.recent[:, 1:], values[:, None]], dim=1)
        self.recent = torch.where(code == 0, moved, self.recent)
        return code

    def bound(self) -> torch.Tensor:
        """What loss and norm of the next step must not exceed, [2]; infinite where that is not known yet."""
        filled = (~self.recent.isnan()).sum(dim=1, keepdim=True)
        median = _find_median(self.recent, filled)
        mad = _find_median((self.recent - median).abs(), filled)
        found = torch.maximum(self._factors * median[:, 0], (median + _DEVIATIONS * _PER_MAD * mad)[:, 0])
        is_known = (filled[:, 0] * 2 >= self.recent.shape[1]) & self._factors.isfinite()
        return torch.where(is_known, found, float("inf"))

    def restore_(self, recent: list[list[float]]) -> None:
        """Goes on from what a checkpoint remembers, if its window is as long."""
        kept = torch.tensor(recent, device=self.recent.device)
        if kept.shape == self.recent.shape:
            self.recent = kept


def _find_median(values: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
    """The lower median of each row, [2, 1].  By sorting, which puts NaN last and gives the same each time."""
    ordered = values.sort(dim=1).values
    return ordered.gather(1, (filled - 1).clamp(min=0) // 2)


def describe_code(code: int) -> str:
    """Why a step is bad, in words."""
    return " and ".join(_list_words(code))


def _list_words(code: int) -> Iterator[str]:
    for bit, words in _WORDS.items():
        if code & bit:
            yield words
