"""Models that judge: what they are trained on, and what does not go with them."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.checks.streaming import find_stream_key
from siredon.config.idle import find_idle_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.evaluation import EvaluationSection, LmEvalSection
from siredon.config.sections.freezing import LisaSection, ReloraSection
from siredon.config.sections.generation import GenerationSection
from siredon.config.sections.kernels import LigerSection
from siredon.config.sections.logging import LoggingSection
from siredon.config.sections.loss import LossSection
from siredon.config.sections.preference import PreferenceSection, RewardSection
from siredon.config.sections.streaming import StreamingSection
from siredon.config.shelves import split_type

_STEPS, _PAIRS = "stepwise_supervised", "bradley_terry"


def _check_types(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """Rows with steps are for `process_reward_model`, and those of `bradley_terry` for `reward_model`.

    The former have a label for each step.  A margin between answers is part of the loss of a reward model alone.
    """
    by_steps, by_pairs = bool(preference.process_reward_model), bool(preference.reward_model)
    if by_steps and (by_pairs or preference.rl):
        return  # SD0252 refuses them beside each other
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            written = entry.type if isinstance(entry.type, str) else "user_defined"
            head, _, _ = split_type(written)
            key = f"{list_name}.{index}.type"
            if by_steps and head != _STEPS:
                message = (
                    f"`type: {written}` has no steps, which `process_reward_model: true` learns to judge"
                )
                yield Finding(key, message, f"Use `type: {_STEPS}`.", value=written)
            elif head == _STEPS and not by_steps:
                message = f"`type: {written}` has labels of steps, which `process_reward_model: true` learns"
                yield Finding(key, message, "Add `process_reward_model: true`.", value=written)
            elif head == _PAIRS and not by_pairs:
                message = f"`type: {written}` has pairs for `reward_model: true`"
                other = preference.switch if preference.compares else "rl: dpo"
                fix = f"Add `reward_model: true`; with `{other}` use `type: chat_template.default`."
                yield Finding(key, message, fix, value=written)
            if head != _STEPS:
                names = ("step_separator", "max_completion_length", "train_on_last_step_only")
                yield from find_idle_keys(entry, names, f"`type: {_STEPS}`", f"{list_name}.{index}.")


def _check_steps(
    preference: PreferenceSection,
    reward: RewardSection,
    streaming: StreamingSection,
    data: DataSection,
) -> Iterator[Finding]:
    """A step is right or wrong, and is judged at its end alone.

    The rows are prepared before training.  Of pairs SD0632 says so.
    """
    if not preference.process_reward_model:
        return
    if reward.num_labels not in (None, 2):
        message = (
            f"`process_reward_model` learns right and wrong, but `num_labels: {reward.num_labels}` is set"
        )
        yield Finding("num_labels", message, "Remove `num_labels`, or write `num_labels: 2`.")
    cause = find_stream_key(streaming)
    if cause:
        message = f"`{cause}` does not work with `process_reward_model: true`"
        yield Finding(cause, message, "Name the data as `datasets`, without streaming.")
    if data.train_on_inputs:
        message = (
            "`train_on_inputs: true` does not work with `process_reward_model: true`: no step is in a prompt"
        )
        yield Finding("train_on_inputs", message, "Remove `train_on_inputs`.")


def _check_loss(preference: PreferenceSection, loss: LossSection, liger: LigerSection) -> Iterator[Finding]:
    """A model that judges has no loss over words.

    Its head has one output or two, so there are no logits of a vocabulary that could be computed in chunks.
    """
    if not preference.judges:
        return
    found = {
        "chunked_cross_entropy": loss.chunked_cross_entropy,
        "cut_cross_entropy": loss.cut_cross_entropy,
        "chunked_cross_entropy_num_chunks": loss.chunked_cross_entropy_num_chunks is not None,
        "liger_fused_linear_cross_entropy": liger.liger_fused_linear_cross_entropy,
    }
    for name, is_on in found.items():
        if is_on:
            message = f"`{name}` has no place in `{preference.switch}`: there is no loss over words"
            yield Finding(name, message, f"Remove `{name}`.")


def _check_words(
    preference: PreferenceSection,
    generation: GenerationSection,
    evaluation: EvaluationSection,
    lm_eval: LmEvalSection,
) -> Iterator[Finding]:
    """A model that judges writes nothing, at validations as elsewhere."""
    if not preference.judges:
        return
    found = {
        "generate_samples": generation.generate_samples,
        "eval_table_size": bool(evaluation.eval_table_size),
        "do_causal_lm_eval": evaluation.do_causal_lm_eval,
        "lm_eval_tasks": bool(lm_eval.lm_eval_tasks),
    }
    for name, is_on in found.items():
        if is_on:
            message = f"`{name}` lets the model write, and one of `{preference.switch}` gives scores only"
            yield Finding(name, message, f"Remove `{name}`.")


def _check_training(
    preference: PreferenceSection,
    adapter: AdapterSection,
    relora: ReloraSection,
    lisa: LisaSection,
    embedding: EmbeddingSection,
    logging: LoggingSection,
) -> Iterator[Finding]:
    """What changes a model on the way has not been tried with a head of scores, and is refused.

    ReLoRA begins its adapter anew and LISA changes which blocks are trained.  Noise on embeddings moves scores, which
    are compared.  PEFT has LLaMA-Adapter for models that write only.  Of pairs SD0633 says most of it.
    """
    found = {
        "relora": bool(relora.relora) and not preference.compares,
        "lisa_n_layers": lisa.lisa_n_layers is not None and not preference.compares,
        "neftune_noise_alpha": embedding.neftune_noise_alpha is not None and not preference.compares,
        "log_source_loss": logging.log_source_loss and not preference.compares,
        "adapter": adapter.adapter == "llama-adapter",
    }
    for name, is_on in found.items():
        if preference.judges and is_on:
            shown = f"adapter: {adapter.adapter}" if name == "adapter" else name
            message = f"`{shown}` does not work with `{preference.switch}`"
            yield Finding(name, message, "Use `adapter: lora`." if name == "adapter" else f"Remove `{name}`.")


_ROWS = "datasets:\n  - path: rows.jsonl\n    type: "
_JUDGE = f"reward_model: true\n{_ROWS}bradley_terry.chat_template\n"
_STEP_JUDGE = f"process_reward_model: true\n{_ROWS}stepwise_supervised\n"
RULES = (
    Rule(
        "SD0690",
        _check_types,
        wrong=_STEP_JUDGE.replace("process_reward_model: true\n", ""),
        right=_STEP_JUDGE,
    ),
    Rule("SD0691", _check_steps, wrong=_STEP_JUDGE + "num_labels: 3", right=_STEP_JUDGE + "num_labels: 2"),
    Rule("SD0692", _check_loss, wrong=_JUDGE + "chunked_cross_entropy: true", right=_JUDGE),
    Rule(
        "SD0693",
        _check_words,
        wrong=_JUDGE + "val_set_size: 0.1\ngenerate_samples: true",
        right=_JUDGE + "val_set_size: 0.1",
    ),
    Rule(
        "SD0694",
        _check_training,
        wrong=_STEP_JUDGE + "neftune_noise_alpha: 5",
        right=_STEP_JUDGE,
    ),
)
