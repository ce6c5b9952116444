"""Learning from judged answers."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, StrList, key
from siredon.config.shelves import FORMATS, JUDGED_FORMATS, PREFERENCE_FORMATS
from siredon.registry import Shelf

Method = Literal["dpo", "ipo", "kto", "orpo", "simpo", "grpo", "gdpo", "ebft"]

#: Methods whose rows hold a better and a worse answer.
PAIR_METHODS = ("dpo", "ipo", "simpo", "orpo")

#: What is measured of pairs, as means over them.  A reward is the log-probability of an answer over that of the
#: reference model, times `rl_beta`; without a reference model, its mean log-probability per token, times that.
PAIR_MEASURES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
    "lengths/chosen",
    "lengths/rejected",
    # Whether the longer answer is the better one, and whether it has the higher reward: a half where they are alike
    "lengths/longer_chosen",
    "rewards/longer_preferred",
)
#: What is measured beside it where there is a reference model: the log-probability of a token over that by it.
REFERENCE_MEASURES = ("logps/token_ratios",)
#: What `log_entropy` adds: means over the tokens of an answer, as means over answers.
ENTROPY_MEASURES = ("entropy/chosen", "entropy/rejected")
#: What `log_kl` adds, in the same way.
DIVERGENCE_MEASURES = ("kl/chosen", "kl/rejected")
#: What is measured of pairs by a reward model: means over them, and the lowest and the highest score of all answers.
SCORE_MEASURES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "rewards/mean",
    "rewards/min",
    "rewards/max",
)
#: What is measured of steps, over all of them.
STEP_MEASURES = ("accuracies", "right/found", "wrong/found")

#: What is measured of judged answers: means over those that are good (chosen) and those that are bad (rejected), how
#: many there were, and the divergence that rewards are held against.
JUDGED_MEASURES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
    "lengths/chosen",
    "lengths/rejected",
    "count/chosen",
    "count/rejected",
    "kl",
)


class PreferenceSection(Section):
    """The method, and the settings of those that need no new answers."""

    rl: Method | None = key(
        "Method of learning from preferences or rewards; none is supervised.",
        None,
        planned_values=("grpo", "gdpo", "ebft"),
    )
    rl_beta: Float | None = key(
        "Pull towards the reference model (DPO, IPO, KTO, SimPO); default 0.1.", None, gt=0
    )
    dpo_loss_type: StrList | None = key(
        "Losses over pairs that are added up, by TRL's names; default `sigmoid`.", None
    )
    dpo_loss_weights: tuple[Float, ...] | None = key("Weight of each of them; default 1.", None)
    dpo_label_smoothing: Float | None = key(
        "Fraction of the judgements taken to be wrong, below a half (cDPO); default 0.", None
    )
    reward_model: Bool | None = key("Learn one score per answer, from pairs (Bradley-Terry).", None)
    process_reward_model: Bool | None = key("Learn whether each step of an answer is right.", None)
    dpo_use_weighting: Bool | None = key(
        "Pairs count by how likely the model is to write them itself (WPO).", None
    )
    dpo_use_liger_kernel: Bool | None = key(
        "Another name for `chunked_cross_entropy: true`; Liger's kernel is not used.", None
    )
    dpo_padding_free: Bool | None = key(
        "Lay all pairs of a batch end to end in one row, without padding between them.", None
    )
    precompute_ref_log_probs: Bool | None = key(
        "Run the reference model once, before training, and keep its log-probabilities with the prepared data.",
        None,
    )
    log_entropy: Bool | None = key(
        "Log how unsure the policy is of its next token, over the tokens of both answers of a pair.", None
    )
    log_kl: Bool | None = key(
        "Log how far the policy is from the reference model in what it expects at each token of both answers.",
        None,
    )
    orpo_alpha: Float | None = key("Weight of the odds ratio (ORPO); default 0.1.", None, gt=0)
    simpo_gamma: Float | None = key(
        "Lead that better answers should have, in rewards (SimPO); default 0.5.", None, ge=0
    )
    cpo_alpha: Float | None = key("Weight of imitating the better answer (SimPO); default 1.", None, ge=0)
    kto_desirable_weight: Float | None = key("Weight of good answers (KTO); default 1.", None, gt=0)
    kto_undesirable_weight: Float | None = key("Weight of bad answers (KTO); default 1.", None, gt=0)

    @property
    def compares(self) -> bool:
        """Whether rows hold a better and a worse answer."""
        return self.rl in PAIR_METHODS or bool(self.reward_model)

    @property
    def judges(self) -> bool:
        """Whether the model gives scores, and writes nothing."""
        return bool(self.reward_model or self.process_reward_model)

    @property
    def method(self) -> str:
        """The method by its name on the shelf `train/methods`."""
        if self.reward_model:
            return "reward_model"
        return "process_reward_model" if self.process_reward_model else self.rl or "sft"

    @property
    def switch(self) -> str:
        """The line of the file that chooses the method, for messages."""
        return f"{self.method}: true" if self.judges else f"rl: {self.rl}"

    @property
    def is_supervised(self) -> bool:
        """Whether the file chooses no method: then the answers of the data are learned."""
        return self.method == "sft"

    @property
    def is_unpaired(self) -> bool:
        """Whether rows hold one answer, and whether it is good."""
        return self.rl == "kto"

    @property
    def formats(self) -> Shelf:
        """The shelf of the formats that `type:` names."""
        if self.is_unpaired:
            return JUDGED_FORMATS
        return PREFERENCE_FORMATS if self.compares else FORMATS

    @property
    def measured(self) -> tuple[str, ...]:
        """What validations measure, before the answers that a model writes."""
        if self.is_unpaired:
            return ("loss", *JUDGED_MEASURES)
        if self.process_reward_model:
            return ("loss", *STEP_MEASURES)
        if self.reward_model:
            return ("loss", *SCORE_MEASURES)
        if not self.compares:
            return ("loss", "perplexity")
        return (
            "loss",
            *PAIR_MEASURES,
            *(REFERENCE_MEASURES if self.has_reference else ()),
            *(ENTROPY_MEASURES if self.log_entropy else ()),
            *(DIVERGENCE_MEASURES if self.log_kl else ()),
        )

    @property
    def has_reference(self) -> bool:
        """Whether the policy is compared with a reference model; of the losses over pairs `sft` alone is not."""
        return self.rl in ("ipo", "kto") or (self.rl == "dpo" and set(self.pair_losses) != {"sft"})

    @property
    def beta(self) -> float:
        """Pull towards the reference model."""
        return 0.1 if self.rl_beta is None else self.rl_beta

    @property
    def pair_losses(self) -> tuple[str, ...]:
        """Losses over pairs that are added up."""
        return ("ipo",) if self.rl == "ipo" else self.dpo_loss_type or ("sigmoid",)

    @property
    def pair_weights(self) -> tuple[float, ...]:
        """Weight of each loss."""
        return self.dpo_loss_weights or (1.0,) * len(self.pair_losses)


class RewardSection(Section):
    """Models that judge."""

    center_rewards_coefficient: Float | None = key(
        "Weight that keeps the scores around zero (`reward_model`).", None, ge=0
    )
    num_labels: Int | None = key(
        "Outputs of the head: 1 for scores, which is the default of `reward_model`, and 2 for steps.",
        None,
        ge=1,
    )
