"""Learning from judged answers."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, StrList, planned

Method = Literal["dpo", "ipo", "kto", "orpo", "simpo", "grpo", "gdpo", "ebft"]


class PreferenceSection(Section):
    """The method, and the settings of those that need no new answers."""

    rl: Method | None = planned("Method of learning from preferences or rewards; none is supervised.")
    rl_beta: Float | None = planned("Pull towards the reference model (DPO, IPO, KTO, SimPO).")
    dpo_loss_type: StrList | None = planned("Losses of TRL that are added up.")
    dpo_loss_weights: tuple[Float, ...] | None = planned("Weight of each of them.")
    dpo_label_smoothing: Float | None = planned("Fraction of the judgements taken to be wrong.")
    dpo_use_weighting: Bool | None = planned("Rows weigh by how likely the model makes them (WPO).")
    dpo_use_liger_kernel: Bool | None = planned("The loss by Liger's kernel.")
    dpo_padding_free: Bool | None = planned("Lay rows end to end, unpadded.")
    precompute_ref_log_probs: Bool | None = planned("Run the reference model once, before training.")
    orpo_alpha: Float | None = planned("Weight of the odds ratio (ORPO).")
    simpo_gamma: Float | None = planned("Lead that good answers should have over bad ones (SimPO).")
    cpo_alpha: Float | None = planned("Weight of imitating the good answer (CPO, SimPO).")
    kto_desirable_weight: Float | None = planned("Weight of good answers (KTO).")
    kto_undesirable_weight: Float | None = planned("Weight of bad answers (KTO).")


class RewardSection(Section):
    """Models that judge."""

    reward_model: Bool | None = planned("Learn one score per answer, from pairs (Bradley-Terry).")
    process_reward_model: Bool | None = planned("Learn whether each step of an answer is right.")
    center_rewards_coefficient: Float | None = planned("Weight that keeps the scores around zero.")
    num_labels: Int | None = planned("Outputs of the head; default 1 for scores, 2 for steps.")
