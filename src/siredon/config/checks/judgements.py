"""Learning from judged answers, and what does not go with it."""

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
from siredon.config.shelves import JUDGED_FORMATS, KNOWN_JUDGED_FORMATS, split_type
from siredon.registry import find_clear, suggest

#: Columns of a judged answer.
_COLUMNS = ("field_completion", "field_label")


def _check_formats(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """A data set of judged answers has a format that reads them.

    Its rows hold a prompt, one answer and whether it is good.
    """
    if not preference.is_unpaired:
        return
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            written = "user_defined" if isinstance(entry.type, PromptFormat) else entry.type
            yield from _check_format(
                f"{list_name}.{index}.type", written, isinstance(entry.type, PromptFormat)
            )


def _check_format(key: str, written: str, is_mapping: bool) -> Iterator[Finding]:
    head, mark, variant = split_type(written)
    parts = {name: JUDGED_FORMATS.load(name) for name in JUDGED_FORMATS.names()}
    variants = {name: () if callable(part) else tuple(part.variants) for name, part in parts.items()}
    if (
        head in variants
        and (is_mapping or head != "user_defined")
        and (not mark or variant in variants[head])
    ):
        return
    known = [name + (f".{word}" if word else "") for name, words in variants.items() for word in ("", *words)]
    unbuilt = head in KNOWN_JUDGED_FORMATS and head not in variants
    message = "is known but not built yet" if unbuilt else "is no format of rows with a judged answer"
    if written == "user_defined" and not unbuilt:
        message = "does not say where prompt, answer and judgement are"
    yield Finding(
        key,
        f"`type: {written}` {message}",
        f"{'' if unbuilt else suggest(written, known)}Built: {', '.join(f'`{word}`' for word in known)}.",
        value=written,
        replacement=None if unbuilt else find_clear(written, known),
    )


def _check_sources(
    preference: PreferenceSection, streaming: StreamingSection, data: DataSection
) -> Iterator[Finding]:
    """Judged answers are prepared before training, and they alone are learned.

    Each prompt is also put before the answer of another row, so all rows must be there.  A judgement is one of the
    answer: a prompt is neither good nor bad.
    """
    cause = find_stream_key(streaming)
    if preference.is_unpaired and cause:
        yield Finding(
            cause,
            f"`{cause}` does not work with `rl: {preference.rl}`",
            "Name the data as `datasets`, without streaming.",
        )
    if preference.is_unpaired and data.train_on_inputs:
        yield Finding(
            "train_on_inputs",
            f"`train_on_inputs: true` does not work with `rl: {preference.rl}`: answers are judged, not prompts",
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

    ReLoRA changes the base on the way and LISA what is trained.  Noise on embeddings would be taken for a change of the
    model.  A loss of answers is not one of tokens, which is what the loss of each data set is made of.
    """
    if preference.is_unpaired:
        yield from find_moving(preference.switch, relora, lisa, embedding, logging)


def _check_dropout(preference: PreferenceSection, adapter: AdapterSection) -> Iterator[Finding]:
    """Models that are compared have no dropout.

    A reward is a difference of two passes through a model: with dropout it would be one of their noise.
    """
    if preference.is_unpaired:
        yield from find_dropout(preference.switch, adapter)


def _check_columns(preference: PreferenceSection, data: DataSection) -> Iterator[Finding]:
    """Columns of a judged answer are for methods that learn from judgements."""
    if preference.is_unpaired:
        return
    why, fix = "without `rl: kto`", "Add `rl: kto`, or remove the key."
    if not preference.is_supervised:
        why, fix = f"with `{preference.switch}`", "Remove the key."
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            where = f"{list_name}.{index}"
            written = [(f"{where}.{name}", name) for name in _COLUMNS if name in entry.model_fields_set]
            if isinstance(entry.type, PromptFormat) and not preference.compares:
                own = (*_COLUMNS, "completion_format")
                written += [
                    (f"{where}.type.{name}", name) for name in own if name in entry.type.model_fields_set
                ]
            for place, name in written:
                yield Finding(place, f"`{name}` has no effect {why}", fix, "warning")


_JUDGED = "rl: kto\ndatasets:\n  - path: judged.jsonl\n    type: "
_GOOD = _JUDGED + "chat_template.default\n"
_LORA = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true"
RULES = (
    Rule("SD0670", _check_formats, wrong=_JUDGED + "alpaca", right=_GOOD),
    Rule("SD0671", _check_sources, wrong=_GOOD + "train_on_inputs: true", right=_GOOD),
    Rule("SD0672", _check_policy, wrong=_GOOD + "neftune_noise_alpha: 5", right=_GOOD),
    Rule("SD0673", _check_dropout, wrong=_GOOD + _LORA + "\nlora_dropout: 0.1", right=_GOOD + _LORA),
    Rule(
        "SD0674",
        _check_columns,
        wrong=_GOOD.replace("rl: kto\n", "").replace(".default", "") + "    field_label: good",
        right=_GOOD + "    field_label: good",
    ),
)
