"""The number formats of a GGUF file, and how far a weight in each may be from what it was."""

from __future__ import annotations

from dataclasses import dataclass

from siredon.registry import suggest

#: Written with the package `gguf` alone.
PLAIN = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
#: Written by llama.cpp, which chooses a format for each tensor.
MIXED = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k")
DEFAULT = "f16"


@dataclass(frozen=True)
class Bound:
    """What is still called the same model.

    Args:
        weights: Largest relative error of a tensor, in the Frobenius norm.
        logits: Largest relative error of the logits of a text, in the Frobenius norm, their mean taken off.
            Two models that have nothing in common are at 1.4.
    """

    weights: float
    logits: float


#: By the format of a tensor, as the file names it.  A block format's error is about that of a normal distribution
#: rounded to as many levels, which is near what trained weights have, and half as much again.
BOUNDS = {
    "F32": Bound(1e-6, 1e-3),
    "F16": Bound(1e-3, 0.02),
    "BF16": Bound(4e-3, 0.1),
    "Q8_0": Bound(0.01, 0.15),
    "Q6_K": Bound(0.03, 0.3),
    "Q5_1": Bound(0.05, 0.5),
    "Q5_0": Bound(0.06, 0.5),
    "Q5_K": Bound(0.06, 0.5),
    "Q4_1": Bound(0.11, 0.8),
    "Q4_0": Bound(0.13, 0.8),
    "Q4_K": Bound(0.12, 0.8),
    "IQ4_NL": Bound(0.13, 0.8),
    "Q3_K": Bound(0.25, 1.0),
    "Q2_K": Bound(0.5, 1.2),
}


def explain_type(word: str) -> str:
    """What to say of a type that is none."""
    return f"{suggest(word, (*PLAIN, *MIXED))}Known: {', '.join((*PLAIN, *MIXED))}."
