"""How rows with judged answers are read, and what of their entry is read with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.config.idle import find_useless_keys, keys_but
from siredon.config.rule import Finding, Rule
from siredon.config.sections.data import DataSection, DatasetEntry, PromptFormat, SourceEntry
from siredon.config.sections.preference import PreferenceSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import FORMATS, find_variant
from siredon.registry import Shelf

#: Keys for rows of another kind -> the rule that speaks of them: SD0674, and SD0690.
_JUDGED = ("field_completion", "field_label")
_STEPS = ("step_separator", "max_completion_length", "train_on_last_step_only")
#: Keys of an entry that say how its rows are read, and no more.
_ROW_KEYS = keys_but(DatasetEntry, "type", *SourceEntry.model_fields)
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
_JUDGED_KEYS = ("field_prompt", "field_completion", "field_label", "prompt_format", "completion_format")


def _entries(data: DataSection) -> Iterator[tuple[str, DatasetEntry]]:
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        for index, entry in enumerate(entries):
            yield f"{list_name}.{index}", entry


def _format_of(entry: DatasetEntry, shelf: Shelf) -> tuple[str, Any]:
    """How `type` is written, and its format; None for one that is none."""
    if isinstance(entry.type, PromptFormat):
        return "`type` as a mapping", shelf.load("user_defined")(entry)
    return f"`type: {entry.type}`", find_variant(shelf, entry.type)


def _check_entry_keys(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """A key of a data set of judged answers is one that its format reads.

    A format that reads columns of fixed names takes no `field_messages`, and one without a chat template none of the
    keys about messages.  Such a key would change nothing.  It holds for pairs, for answers that are good or
    bad, and for answers in steps.
    """
    told = () if preference.is_unpaired else _JUDGED
    for place, entry in _entries(data):
        shown, part = _format_of(entry, preference.formats)
        if part is None or part.reads is None:
            continue
        idle = [name for name in _ROW_KEYS if name not in (*part.reads, *told, *_STEPS)]
        if part.template is not None:
            idle = [name for name in idle if name not in ("chat_template", "chat_template_jinja")]
        yield from find_useless_keys(entry, idle, f"with {shown}", prefix=f"{place}.")


def _check_templates(
    data: DataSection, preference: PreferenceSection, tokenizer: TokenizerSection
) -> Iterator[Finding]:
    """A format that names a template is not given another one.

    `chatml.intel` is in the words of ChatML.  The same columns in the words of any template are read by
    `chat_template.intel`.
    """
    named = False
    last = None
    for place, entry in _entries(data):
        shown, part = _format_of(entry, preference.formats)
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

    Supervised rows have an instruction and an output, pairs a prompt and two answers, judged answers a prompt, an
    answer and a label.
    """
    if preference.compares:
        idle, why = keys_but(PromptFormat, *_SHARED, *_PAIR_KEYS), "for pairs of answers"
    elif preference.is_unpaired:
        idle, why = keys_but(PromptFormat, *_SHARED, *_JUDGED_KEYS), f"with `{preference.switch}`"
    elif preference.formats is FORMATS and not preference.rl:
        # Of those for judged answers SD0674 speaks
        idle, why = _PAIR_KEYS, "without a method that compares answers, such as `rl: dpo`"
    else:
        return
    for place, entry in _entries(data):
        if isinstance(entry.type, PromptFormat):
            yield from find_useless_keys(entry.type, idle, why, prefix=f"{place}.type.")


def _check_places(data: DataSection, preference: PreferenceSection) -> Iterator[Finding]:
    """A format of your own has a place for what it is about.

    `prompt_format` without `{prompt}` would ask the same of every row, and an answer without its place would be the
    same in all of them.  A column of system texts that is named is shown.
    """
    if preference.compares:
        answers: tuple[tuple[str, str], ...] = (("chosen_format", "chosen"), ("rejected_format", "rejected"))
    elif preference.is_unpaired:
        answers = (("completion_format", "completion"),)
    else:
        return
    for place, entry in _entries(data):
        form = entry.type
        if not isinstance(form, PromptFormat):
            continue
        for name, word in (("prompt_format", "prompt"), *answers):
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
