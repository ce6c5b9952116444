"""Learning from pairs of answers, and what does not go with it."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.checks.streaming import find_stream_key
from siredon.config.compared import find_dropout, find_moving
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.data import DataSection, PromptFormat
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.freezing import LisaSection, ReloraSection
from siredon.config.sections.logging import LoggingSection
from siredon.config.sections.preference import PreferenceSection
from siredon.config.sections.streaming import StreamingSection
from siredon.config.shelves import (
    KNOWN_PREFERENCE_FORMATS,
    PREFERENCE_FORMATS,
    find_variant,
    split_type,
    variants_of,
)
from siredon.registry import find_clear, suggest


def _check_formats(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """A data set of pairs has a format that reads pairs.

    Its rows hold a prompt, a better and a worse answer.  The formats of supervised data read one answer.
    """
    if not preference.compares:
        return
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            if not isinstance(entry.type, PromptFormat):
                yield from _check_format(f"{list_name}.{index}.type", entry.type)


def _check_format(key: str, written: str) -> Iterator[Finding]:
    if find_variant(PREFERENCE_FORMATS, written) is not None:
        return
    if written in ("user_defined", "user_defined.default"):
        fix = 'Give `type` a mapping: `type: {field_prompt: question, prompt_format: "Q: {prompt}\\nA: "}`.'
        yield Finding(key, f"`type: {written}` does not say what the prompt is", fix, value=written)
        return
    head, mark, _ = split_type(written)
    built = PREFERENCE_FORMATS.names()
    known = [
        name + (f".{word}" if word else "")
        for name in built
        for word in ("", *variants_of(PREFERENCE_FORMATS, name))
    ]
    is_known = head in KNOWN_PREFERENCE_FORMATS and head not in built
    # A dotted path may be meant as a function
    way_out = "A function of your own is `input_transform`. " if mark == "." and head not in built else ""
    yield Finding(
        key,
        f"`type: {written}` is known but not built yet"
        if is_known
        else f"`type: {written}` is no format of rows with two answers",
        f"{'' if is_known else suggest(written, known)}{way_out}"
        f"Built: {', '.join(f'`{word}`' for word in known)}.",
        value=written,
        replacement=None if is_known else find_clear(written, known),
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
    if preference.compares:
        yield from find_moving(preference.switch, relora, lisa, embedding, logging)


def _check_dropout(preference: PreferenceSection, adapter: AdapterSection) -> Iterator[Finding]:
    """Models that are compared have no dropout.

    A reward is a difference of two passes through a model: with dropout it would be one of their noise.
    """
    if preference.compares:
        yield from find_dropout(preference.switch, adapter)


def _check_columns(preference: PreferenceSection, data: DataSection) -> Iterator[Finding]:
    """Columns of two answers are for methods that compare them."""
    if not preference.is_supervised:
        return  # SD0636 says what the formats of other methods read
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
