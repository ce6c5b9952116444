"""Settings of the methods that learn from pairs of answers."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.data import DataSection
from siredon.config.sections.loss import LossSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.preference import PreferenceSection


def _check_slope(preference: PreferenceSection) -> Iterator[Finding]:
    """`rl: simpo` says how steep its loss is.

    Without a reference model `rl_beta` holds to nothing: it is what a difference of log-probabilities per token is
    multiplied by.  The default of 0.1 is that of the reference and of DPO, with which hardly anything is learned of the
    difference; the paper takes 2 to 10.
    """
    if preference.rl == "simpo" and preference.rl_beta is None:
        yield Finding(
            "rl",
            "`rl: simpo` without `rl_beta` takes 0.1, with which the two answers are hardly told apart",
            "Set `rl_beta: 2.0`, for example.",
            "warning",
        )


def _check_layout(preference: PreferenceSection, packing: PackingSection) -> Iterator[Finding]:
    """Pairs lie end to end, or each pack in a row of its own, not both.

    `dpo_padding_free: true` says the same as `batch_flattening: true`, and of packed pairs the same as
    `multipack_real_batches: false`.
    """
    if not preference.dpo_padding_free:
        return
    if packing.batch_flattening is False:
        name = "batch_flattening: false"
    elif packing.multipack_real_batches:
        name = "multipack_real_batches: true"
    else:
        return
    yield Finding("dpo_padding_free", f"`dpo_padding_free: true` contradicts `{name}`", "Remove one of them.")


def _check_chunks(preference: PreferenceSection, loss: LossSection) -> Iterator[Finding]:
    """The log-probabilities of answers come from hidden states in chunks, or from whole logits, not both.

    `dpo_use_liger_kernel: true` is another name for `chunked_cross_entropy: true`, which is how pairs are scored anyway
    where the head of the model allows it.
    """
    if preference.dpo_use_liger_kernel and loss.chunked_cross_entropy is False:
        yield Finding(
            "dpo_use_liger_kernel",
            "`dpo_use_liger_kernel: true` contradicts `chunked_cross_entropy: false`",
            "Remove one of them.",
        )


def _check_side(preference: PreferenceSection, data: DataSection) -> Iterator[Finding]:
    """`excess_length_side` says what is cut of a pair, where anything is.

    It is read with `excess_length_strategy: truncate` and a method that compares two answers to a prompt; other rows
    are cut at their end.
    """
    if data.excess_length_side == "response":
        return
    if data.excess_length_strategy != "truncate":
        yield Finding(
            "excess_length_side",
            f"`excess_length_side` has no effect with `excess_length_strategy: {data.excess_length_strategy}`",
            "Set `excess_length_strategy: truncate`, or remove it.",
            "warning",
        )
    elif not preference.compares:
        yield Finding(
            "excess_length_side",
            "`excess_length_side: prompt` is for pairs of answers: other rows are cut at their end",
            "Remove it.",
            "warning",
        )


def _check_divergence(preference: PreferenceSection) -> Iterator[Finding]:
    """The divergence from the reference model needs all that this model expects, and so the model itself.

    Of one that is run ahead (`precompute_ref_log_probs`), log-probabilities of the answers are kept and no more.
    `dpo_loss_type: [sft]` has none.
    """
    if not preference.log_kl or preference.rl not in ("dpo", "ipo"):
        return
    if not preference.has_reference:
        message = "`log_kl: true` needs a reference model, and `dpo_loss_type: [sft]` has none"
        yield Finding("log_kl", message, "Remove it.")
    elif preference.precompute_ref_log_probs:
        yield Finding(
            "log_kl",
            "`log_kl: true` needs the reference model in each step, and `precompute_ref_log_probs` runs it ahead",
            "Remove one of them.",
        )


_PAIRS = "datasets:\n  - path: pairs.jsonl\n    type: chat_template.default\n"
RULES = (
    Rule(
        "SD0660",
        _check_slope,
        wrong=_PAIRS + "rl: simpo",
        right=_PAIRS + "rl: simpo\nrl_beta: 2.0",
    ),
    Rule(
        "SD0661",
        _check_layout,
        wrong=_PAIRS + "rl: dpo\ndpo_padding_free: true\nbatch_flattening: false",
        right=_PAIRS + "rl: dpo\ndpo_padding_free: true",
    ),
    Rule(
        "SD0662",
        _check_chunks,
        wrong=_PAIRS + "rl: dpo\ndpo_use_liger_kernel: true\nchunked_cross_entropy: false",
        right=_PAIRS + "rl: dpo\ndpo_use_liger_kernel: true",
    ),
    Rule(
        "SD0663",
        _check_side,
        wrong=_PAIRS + "rl: dpo\nexcess_length_side: prompt",
        right=_PAIRS + "rl: dpo\nexcess_length_side: prompt\nexcess_length_strategy: truncate",
    ),
    Rule(
        "SD0725",
        _check_divergence,
        wrong=_PAIRS + "rl: dpo\nlog_kl: true\nprecompute_ref_log_probs: true",
        right=_PAIRS + "rl: dpo\nlog_kl: true",
    ),
)
