"""What is done about memory that runs out, and what must not be done for it."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.compile import CompileSection
from siredon.config.sections.memory import MemorySection
from siredon.config.sections.optimizer import OptimizerSection


def _check_retry(memory: MemorySection, optimizer: OptimizerSection) -> Iterator[Finding]:
    """A step that is made again has left the weights alone.

    Where weights are updated in the backward pass, some have moved when memory runs out in it: the step cannot be made
    again, nor can a checkpoint of the step before it be written.
    """
    if memory.on_out_of_memory == "retry" and optimizer.updates_in_backward:
        yield Finding(
            "on_out_of_memory",
            "`on_out_of_memory: retry` does not work where weights are updated in the backward pass",
            "Write `on_out_of_memory: stop`, or choose an optimizer that steps after the backward pass.",
        )


def _check_probe(
    memory: MemorySection, optimizer: OptimizerSection, compile: CompileSection
) -> Iterator[Finding]:
    """A batch that is only tried changes nothing.

    Where weights are updated in the backward pass, trying would update them.  Compiled layers are compiled for the
    shapes that come first: those of the tried batch would change what is compiled for the others.
    """
    if memory.probe_longest_batch is not True:
        return
    if optimizer.updates_in_backward:
        yield Finding(
            "probe_longest_batch",
            "`probe_longest_batch: true` does not work where weights are updated in the backward pass",
            "Remove `probe_longest_batch`: `auto` leaves such runs alone.",
        )
    if compile.torch_compile:
        yield Finding(
            "probe_longest_batch",
            "`probe_longest_batch: true` does not work with `torch_compile`",
            "Remove `probe_longest_batch`: `auto` leaves such runs alone.",
        )


RULES = (
    Rule(
        "SD0800",
        _check_retry,
        wrong="on_out_of_memory: retry\noptimizer: adalomo\nmax_grad_norm: 0",
        right="on_out_of_memory: stop\noptimizer: adalomo\nmax_grad_norm: 0",
    ),
    Rule(
        "SD0801",
        _check_probe,
        wrong="probe_longest_batch: true\ntorch_compile: true",
        right="probe_longest_batch: auto\ntorch_compile: true",
    ),
)
