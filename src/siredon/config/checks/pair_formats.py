"""How rows with two answers are read, and what of their entry is read with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.config.idle import find_useless_keys, keys_but
from siredon.config.rule import Finding, Rule
from siredon.config.sections.data import DataSection, DatasetEntry, PromptFormat, SourceEntry
from siredon.config.sections.preference import PreferenceSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import PREFERENCE_FORMATS, find_variant

#: Keys for rows with one answer, of which the rules of `rl: kto` speak.
_JUDGED = ("field_completion", "field_label")
#: Keys of an entry that say how its rows are read, and no more.
_ROW_KEYS = keys_but(DatasetEntry, "type", *_JUDGED, *SourceEntry.model_fields)
#: Keys of a mapping with a prompt that every method reads.
_SHARED = ("field_system", "system_prompt", "system_format")
_PAIR_KEYS = (
    "field_prompt",
    "field_chosen",
    "field_rejected",
    "prompt_format",
    "chosen_format",
    "rejected_format",
)
_ANSWER_KEYS = keys_but(PromptFormat, *_SHARED, *_PAIR_KEYS)


def _entries(data: DataSection) -> Iterator[tuple[str, DatasetEntry]]:
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            yield f"{list_name}.{index}", entry


def _format_of(entry: DatasetEntry) -> tuple[str, Any]:
    """How `type` is written, and its format; None for one that is none."""
    if isinstance(entry.type, PromptFormat):
        return "a mapping", None
    return f"`type: {entry.type}`", find_variant(PREFERENCE_FORMATS, entry.type)


def _check_entry_keys(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """A key of a data set of pairs is one that its format reads.

    A format that reads columns of fixed names takes no `field_messages`, and one without a chat template none of the
    keys about messages.  Such a key would change nothing.
    """
    if not preference.compares:
        return
    for place, entry in _entries(data):
        shown, part = _format_of(entry)
        is_mapping = isinstance(entry.type, PromptFormat)
        reads = () if is_mapping else None if part is None else part.reads
        if reads is None:
            continue
        idle = [name for name in _ROW_KEYS if name not in reads]
        if part is not None and part.template is not None:
            idle = [name for name in idle if name not in ("chat_template", "chat_template_jinja")]
        why = f"with `type` as {shown}" if is_mapping else f"with {shown}"
        yield from find_useless_keys(entry, idle, why, prefix=f"{place}.")


def _check_templates(
    data: DataSection, preference: PreferenceSection, tokenizer: TokenizerSection
) -> Iterator[Finding]:
    """A format that names a template is not given another one.

    `chatml.intel` is in the words of ChatML.  The same columns in the words of any template are read by
    `chat_template.intel`.
    """
    if not preference.compares:
        return
    named = False
    last = None
    for place, entry in _entries(data):
        shown, part = _format_of(entry)
        if part is None or part.template is None:
            named = named or (part is not None and part.uses_template)
            continue
        word = str(entry.type).partition(".")[0]
        last = (shown, word)
        for name in ("chat_template", "chat_template_jinja"):
            value = vars(entry)[name]
            if value is not None and (name, value) != ("chat_template", word):
                yield _refuse_template(f"{place}.{name}", name, shown, "error")
    own = tokenizer.chat_template
    if last and not named and own and own != last[1] and not own.startswith("tokenizer_default"):
        yield _refuse_template("chat_template", "chat_template", last[0], "warning")


def _refuse_template(key: str, name: str, shown: str, severity: Any) -> Finding:
    verb = "does not go with" if severity == "error" else "has no effect with"
    return Finding(
        key,
        f"`{name}` {verb} {shown}, which is in the words of a template of its own",
        f"Remove `{name}`, or write `chat_template` in place of what stands before the dot of `type`.",
        severity,
    )


def _check_prompt_keys(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """The keys of a prompt of your own are those of the method.

    Supervised rows have an instruction and an output, pairs a prompt and two answers.
    """
    if preference.rl and not preference.compares:
        return
    idle = _ANSWER_KEYS if preference.compares else _PAIR_KEYS
    why = "for pairs of answers" if preference.compares else "without `rl: dpo`"
    for place, entry in _entries(data):
        if isinstance(entry.type, PromptFormat):
            yield from find_useless_keys(entry.type, idle, why, prefix=f"{place}.type.")


def _check_places(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """A format of your own has a place for what it is about.

    `prompt_format` without `{prompt}` would ask the same of every row, and an answer without its place would be the
    same in all of them.  A column of system texts that is named is shown.
    """
    if not preference.compares:
        return
    wanted = (("prompt_format", "prompt"), ("chosen_format", "chosen"), ("rejected_format", "rejected"))
    for place, entry in _entries(data):
        form = entry.type
        if not isinstance(form, PromptFormat):
            continue
        for name, word in wanted:
            if form.lacks(name, word):
                yield Finding(
                    f"{place}.type.{name}",
                    f"`{name}` has no place for `{{{word}}}`",
                    f"Put `{{{word}}}` into it.",
                )
        for name in ("field_system", "system_prompt"):
            if name in form.model_fields_set and form.lacks("prompt_format", "system"):
                yield Finding(
                    f"{place}.type.{name}",
                    f"`{name}` gives a system text, and `prompt_format` has no place for it",
                    f"Put `{{system}}` into `prompt_format`, or remove `{name}`.",
                )


_ROWS = "rl: dpo\ndatasets:\n  - path: pairs.jsonl\n    type: "
_OWN = _ROWS + '\n      prompt_format: "Q: {prompt}\\nA: "\n'
RULES = (
    Rule(
        "SD0636",
        _check_entry_keys,
        wrong=_ROWS + "chatml.intel\n    field_messages: talk",
        right=_ROWS + "chat_template.default\n    field_messages: talk",
    ),
    Rule(
        "SD0637",
        _check_templates,
        wrong=_ROWS + "chatml.intel\n    chat_template: qwen3",
        right=_ROWS + "chat_template.intel\n    chat_template: qwen3",
    ),
    Rule(
        "SD0638",
        _check_prompt_keys,
        wrong=_OWN + "      field_instruction: question",
        right=_OWN + "      field_prompt: question",
    ),
    Rule(
        "SD0639",
        _check_places,
        wrong=_OWN + '      chosen_format: "</s>"',
        right=_OWN + '      chosen_format: "{chosen}</s>"',
    ),
)
