"""Learning from a teacher's probabilities."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, planned


class DistillationSection(Section):
    """A student, and a teacher from the data or behind an address."""

    kd_trainer: Bool | None = planned("Learn the teacher's probabilities.")
    kd_alpha: Float | None = planned("Weight of the teacher.")
    kd_ce_alpha: Float | None = planned("Weight of plain cross-entropy beside it.")
    kd_temperature: Float | None = planned("Temperature of both probabilities.")
    kd_temperature_min: Float | None = planned("Lowest temperature, where it falls over the run.")
    kd_beta: Float = planned("Mix of forward (0) and reverse (1) divergence.", 0.0)
    kd_normalize_topk: Bool | None = planned("The teacher's best tokens sum to 1.")
    kd_online_server_base_url: Str | None = planned("Address of a teacher asked while training.")
    kd_online_server: Literal["vllm", "sglang"] = planned("What serves that teacher.", "vllm")
    kd_online_topk: Int | None = planned("Tokens per position that are asked for.")
    kd_online_timeout: Int = planned("Longest wait for a reply, in seconds.", 120)
