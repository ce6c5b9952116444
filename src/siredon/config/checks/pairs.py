"""Learning from pairs of answers, and what does not go with it."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.checks.streaming import find_stream_key
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.data import DataSection, PromptFormat
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.freezing import LisaSection, ReloraSection
from siredon.config.sections.logging import LoggingSection
from siredon.config.sections.preference import PreferenceSection
from siredon.config.sections.streaming import StreamingSection
from siredon.config.shelves import KNOWN_PREFERENCE_FORMATS, PREFERENCE_FORMATS, split_type
from siredon.registry import find_clear, suggest

#: Losses that match pairs with others of their step.
_MATCHING = ("aot", "aot_unpaired")


def _check_formats(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """A data set of pairs has a format that reads pairs.

    Its rows hold a prompt, a better and a worse answer.  The formats of supervised data read one answer.
    """
    if not preference.compares:
        return
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            written = "user_defined" if isinstance(entry.type, PromptFormat) else entry.type
            yield from _check_format(f"{list_name}.{index}.type", written)


def _check_format(key: str, written: str) -> Iterator[Finding]:
    head, mark, variant = split_type(written)
    built = PREFERENCE_FORMATS.names()
    known = [
        name + (f".{word}" if word else "")
        for name in built
        for word in ("", *PREFERENCE_FORMATS.load(name).variants)
    ]
    if head in built and (not mark or variant in PREFERENCE_FORMATS.load(head).variants):
        return
    is_known = head in KNOWN_PREFERENCE_FORMATS and head not in built
    yield Finding(
        key,
        f"`type: {written}` is known but not built yet"
        if is_known
        else f"`type: {written}` is no format of rows with two answers",
        f"{'' if is_known else suggest(written, known)}Built: {', '.join(f'`{word}`' for word in known)}.",
        value=written,
        replacement=None if is_known else find_clear(written, known),
    )


def _check_losses(preference: PreferenceSection) -> Iterator[Finding]:
    """The losses of `rl: dpo` look at one pair at a time.

    `aot` and `aot_unpaired` match the pairs of a step with each other: they need the scores of the whole step before
    its first forward pass, which is not built.
    """
    if preference.dpo_use_weighting:
        return  # SD0642 refuses them beside it
    for word in preference.dpo_loss_type or ():
        if word in _MATCHING:
            yield Finding(
                "dpo_loss_type",
                f"`{word}` is known but not built yet: it matches the pairs of a step with each other",
                "Use another loss: `sigmoid` is that of DPO.",
            )


def _check_sources(
    preference: PreferenceSection, streaming: StreamingSection, data: DataSection
) -> Iterator[Finding]:
    """Pairs are prepared before training, and their answers alone are learned.

    Both answers follow one prompt, so what they learn of it would cancel.
    """
    cause = find_stream_key(streaming)
    if preference.compares and cause:
        yield Finding(
            cause,
            f"`{cause}` does not work with `{preference.switch}`",
            "Name the data as `datasets`, without streaming.",
        )
    if preference.compares and data.train_on_inputs:
        yield Finding(
            "train_on_inputs",
            f"`train_on_inputs: true` does not work with `{preference.switch}`: both answers follow the same prompt",
            "Remove `train_on_inputs`.",
        )


def _check_policy(
    preference: PreferenceSection,
    relora: ReloraSection,
    lisa: LisaSection,
    embedding: EmbeddingSection,
    logging: LoggingSection,
) -> Iterator[Finding]:
    """What a policy is compared with is itself at its start, pass by pass.

    ReLoRA changes the base on the way and LISA what is trained, so the start would have to be a model of its own.
    Noise on embeddings would be taken for a change of the model.  A loss of pairs is not one of tokens, which is what
    the loss of each data set is made of.
    """
    if not preference.compares:
        return
    found = {
        "relora": bool(relora.relora),
        "lisa_n_layers": lisa.lisa_n_layers is not None,
        "neftune_noise_alpha": embedding.neftune_noise_alpha is not None,
        "log_source_loss": logging.log_source_loss,
    }
    for name, is_on in found.items():
        if is_on:
            yield Finding(name, f"`{name}` does not work with `{preference.switch}`", f"Remove `{name}`.")


def _check_dropout(preference: PreferenceSection, adapter: AdapterSection) -> Iterator[Finding]:
    """Models that are compared have no dropout.

    A reward is a difference of two passes through a model: with dropout it would be one of their noise.
    """
    if preference.compares and adapter.lora_dropout:
        yield Finding(
            "lora_dropout",
            f"`lora_dropout: {adapter.lora_dropout:g}` has no effect with `{preference.switch}`: "
            "models that are compared have no dropout",
            "Set it to 0, or remove it.",
            "warning",
        )


def _check_columns(preference: PreferenceSection, data: DataSection) -> Iterator[Finding]:
    """Columns of two answers are for methods that compare them."""
    if preference.compares or preference.rl:
        return
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            for name in ("field_chosen", "field_rejected"):
                if name in entry.model_fields_set:
                    yield Finding(
                        f"{list_name}.{index}.{name}",
                        f"`{name}` has no effect without `rl: dpo` or `reward_model: true`",
                        "Add one of them, or remove the key.",
                        "warning",
                    )


_PAIRS = "rl: dpo\ndatasets:\n  - path: pairs.jsonl\n    type: "
_GOOD = _PAIRS + "chat_template.default\n"
RULES = (
    Rule("SD0630", _check_formats, wrong=_PAIRS + "alpaca", right=_GOOD),
    Rule(
        "SD0631",
        _check_losses,
        wrong=_GOOD + "dpo_loss_type: [aot]",
        right=_GOOD + "dpo_loss_type: [sigmoid]",
    ),
    Rule("SD0632", _check_sources, wrong=_GOOD + "train_on_inputs: true", right=_GOOD),
    Rule("SD0633", _check_policy, wrong=_GOOD + "neftune_noise_alpha: 5", right=_GOOD),
    Rule(
        "SD0634",
        _check_dropout,
        wrong=_GOOD + "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\nlora_dropout: 0.1",
        right=_GOOD + "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true",
    ),
    Rule(
        "SD0635",
        _check_columns,
        wrong=_GOOD.replace("rl: dpo\n", "").replace(".default", "") + "    field_chosen: good",
        right=_GOOD + "    field_chosen: good",
    ),
)
