"""What is said of the formats of pairs, where it stands: keys that they do not read, other templates, empty prompts."""

from __future__ import annotations

import pytest
from tests.unit.config.texts import MODEL, accept, check

from siredon.config.sections.data import DatasetEntry
from siredon.config.shelves import JUDGED_FORMATS, PREFERENCE_FORMATS
from siredon.registry import Shelf

ENTRY = "datasets:\n  - path: pairs.jsonl\n    type: "


def find(kind: str, added: str = "", top: str = "rl: dpo\n") -> list[tuple[str, str, str]]:
    text = MODEL + top + ENTRY + kind + "\n" + added
    return [(found.code, found.key, found.severity) for found in check("", text).diagnostics]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("chatml.intel", "field_messages", "talk"),
        ("chat_template.argilla_chat", "field_messages", "talk"),
        ("zephyr.nectar", "field_chosen", "good"),
        ("passthrough.default", "field_messages", "talk"),
        ("passthrough", "chat_template", "chatml"),
        ("passthrough", "train_on_eos", "last"),
        ("chat_template.default", "field", "text"),
        ("{prompt_format: '{prompt}'}", "field_chosen", "good"),
    ],
)
def test_a_key_that_the_format_does_not_read_is_told(kind: str, key: str, value: str):
    assert find(kind, f"    {key}: {value}\n") == [("SD0636", f"datasets.0.{key}", "warning")]


def test_several_such_keys_are_told_once():
    text = MODEL + "rl: dpo\n" + ENTRY + "passthrough\n    field: a\n    field_messages: b\n"
    (found,) = check("", text).diagnostics
    assert found.message == (
        "`datasets.0.field` and `datasets.0.field_messages` have no effect with `type: passthrough`"
    )


@pytest.mark.parametrize(
    ("kind", "added"),
    [
        ("chatml.intel", "    field_chosen: good\n    field_tools: calls\n    drop_system_message: true\n"),
        ("chatml.ultra", "    roles: {assistant: [gpt]}\n    split: train\n    shuffle: true\n"),
        ("chatml.intel", "    chat_template: chatml\n"),
        ("chat_template.default", "    field_messages: talk\n    chat_template: qwen3\n"),
        ("passthrough", "    field_chosen: good\n    field_rejected: bad\n"),
        ("{prompt_format: '{system} {prompt}', field_system: rules}", ""),
        ("conversations", "    field_messages: talk\n"),
    ],
)
def test_what_a_format_reads_is_accepted(kind: str, added: str):
    accept("", MODEL + "rl: dpo\n" + ENTRY + kind + "\n" + added)


def test_another_template_than_that_of_the_type():
    entry = "    chat_template: qwen3\n"
    assert find("chatml.intel", entry) == [("SD0637", "datasets.0.chat_template", "error")]
    written = "    chat_template_jinja: a.jinja\n"
    assert find("llama3.ultra", written) == [("SD0637", "datasets.0.chat_template_jinja", "error")]
    assert find("chatml.intel", top="rl: dpo\nchat_template: qwen3\n") == [
        ("SD0637", "chat_template", "warning")
    ]
    assert find("chatml.intel", top="rl: dpo\nchat_template: chatml\n") == []
    other = "  - path: more.jsonl\n    type: chat_template.default\n"
    assert find("chatml.intel", other, "rl: dpo\nchat_template: qwen3\n") == []


def test_keys_of_a_prompt_belong_to_the_method():
    kind = "{prompt_format: '{prompt}', field_instruction: ask, format: '{instruction}'}"
    assert find(kind) == [("SD0638", "datasets.0.type.field_instruction", "warning")]
    assert find("{field_chosen: good, field_output: x}", top="") == [
        ("SD0638", "datasets.0.type.field_chosen", "warning")
    ]
    assert find("{field_instruction: ask}", top="") == []


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("{prompt_format: 'Q: '}", "prompt_format"),
        ("{chosen_format: '</s>'}", "chosen_format"),
        ("{rejected_format: '</s>'}", "rejected_format"),
        ("{field_system: rules}", "field_system"),
        ("{system_prompt: Be brief.}", "system_prompt"),
    ],
)
def test_a_format_has_a_place_for_what_it_is_about(kind: str, key: str):
    assert find(kind) == [("SD0639", f"datasets.0.type.{key}", "error")]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("prompt_format", "{prompt}{chosen}"),
        ("chosen_format", "{rejected}"),
        ("rejected_format", "{}"),
        ("prompt_format", "{prompt} {"),
    ],
)
def test_an_unknown_place_is_told_where_it_stands(key: str, text: str):
    found = find(f"{{{key}: '{text}'}}")
    assert ("SD0005", f"datasets.0.type.{key}", "error") in found


@pytest.mark.parametrize("kind", ["user_defined", "user_defined.default"])
def test_the_word_for_a_mapping_is_not_enough(kind: str):
    (found,) = check("rl: dpo\n", MODEL + ENTRY + kind + "\n").diagnostics
    assert (found.code, found.message) == ("SD0630", f"`type: {kind}` does not say what the prompt is")


def test_a_slip_is_corrected_and_a_function_shown_the_way():
    (slip,) = check("rl: dpo\n", MODEL + ENTRY + "chatml.intell\n").diagnostics
    assert slip.fix.startswith("Did you mean `chatml.intel`?")
    assert slip.edit is not None
    (function,) = check("rl: dpo\n", MODEL + ENTRY + "my_rows.read\n").diagnostics
    assert "`input_transform`" in function.fix


def test_a_default_system_message_needs_a_template():
    system = "rl: dpo\ndefault_system_message: Be brief.\n"
    assert [code for code, _, _ in find("passthrough", top=system)] == find_codes("alpaca")
    assert find("chatml.intel", top=system) == []


def find_codes(kind: str) -> list[str]:
    return [code for code, _, _ in find(kind, top="default_system_message: Be brief.\n")]


JUDGED, SCORED, STEPPED = "rl: kto\n", "reward_model: true\n", "process_reward_model: true\n"


@pytest.mark.parametrize(
    ("top", "kind", "key", "value"),
    [
        (JUDGED, "chat_template.default", "field_chosen", "good"),
        (JUDGED, "chat_template.argilla_chat", "field_messages", "talk"),
        (JUDGED, "llama3.intel", "field_messages", "talk"),
        (JUDGED, "chatml", "field", "text"),
        (JUDGED, "{prompt_format: '{prompt}'}", "field_label", "good"),
        (SCORED, "bradley_terry.argilla_chat", "field_messages", "talk"),
        (SCORED, "bradley_terry.chat_template", "field", "text"),
        (STEPPED, "stepwise_supervised", "field_messages", "talk"),
        (STEPPED, "stepwise_supervised", "chat_template", "chatml"),
    ],
)
def test_a_key_that_a_format_of_another_shelf_does_not_read_is_told(
    top: str, kind: str, key: str, value: str
):
    assert find(kind, f"    {key}: {value}\n", top) == [("SD0636", f"datasets.0.{key}", "warning")]


@pytest.mark.parametrize(
    ("top", "kind", "added"),
    [
        (
            JUDGED,
            "chat_template",
            "    field_messages: talk\n    field_completion: said\n    chat_template: qwen3\n",
        ),
        (JUDGED, "chatml.argilla_chat", "    field_completion: talk\n    field_label: good\n"),
        (JUDGED, "llama3.intel", "    chat_template: llama3\n    roles: {assistant: [gpt]}\n"),
        (
            JUDGED,
            "{field_completion: said, field_label: good, prompt_format: '{prompt}'}",
            "    split: train\n",
        ),
        (SCORED, "bradley_terry.chat_template", "    field_messages: talk\n    field_chosen: good\n"),
        (SCORED, "bradley_terry.argilla_chat", "    field_chosen: good\n    chat_template: qwen3\n"),
        (STEPPED, "stepwise_supervised", "    step_separator: ' '\n    max_completion_length: 9\n"),
        ("", "chat_template", "    field_messages: talk\n"),
    ],
)
def test_what_a_format_of_another_shelf_reads_is_accepted(top: str, kind: str, added: str):
    assert find(kind, added, top) == []


def test_a_prompt_of_judged_answers_has_their_keys_and_places():
    written = "{prompt_format: '{prompt}', field_chosen: good, field_instruction: ask}"
    text = MODEL + JUDGED + ENTRY + written + "\n"
    (found,) = check("", text).diagnostics
    assert (found.code, found.message) == (
        "SD0638",
        "`datasets.0.type.field_instruction` and `datasets.0.type.field_chosen` have no effect with `rl: kto`",
    )
    assert find("{completion_format: '</s>'}", top=JUDGED) == [
        ("SD0639", "datasets.0.type.completion_format", "error")
    ]


def test_another_template_than_that_of_the_type_of_judged_answers():
    assert find("chatml.intel", "    chat_template: qwen3\n", JUDGED) == [
        ("SD0637", "datasets.0.chat_template", "error")
    ]


@pytest.mark.parametrize("shelf", [PREFERENCE_FORMATS, JUDGED_FORMATS], ids=["pairs", "judged"])
def test_every_format_of_judged_answers_says_what_it_reads(shelf: Shelf):
    for name in shelf.names():
        part = shelf.load(name)
        for format_ in () if callable(part) else (part, *part.variants.values()):
            assert format_.reads is not None, name
            assert set(format_.reads) <= set(DatasetEntry.model_fields)


@pytest.mark.parametrize(
    ("top", "kind", "added", "code", "message", "fix"),
    [
        (
            "rl: orpo\n",
            "chat_template.default",
            "precompute_ref_log_probs: true\n",
            "SD0315",
            "`precompute_ref_log_probs` has no effect with `rl: orpo`",
            "Remove the key.",
        ),
        (
            "rl: simpo\nrl_beta: 2\n",
            "chat_template.default",
            "dpo_loss_type: [sigmoid]\n",
            "SD0316",
            "`dpo_loss_type` needs `rl: dpo`, and the method is `rl: simpo`",
            "Set `rl: dpo`, or remove what is for it.",
        ),
        (
            "rl: ipo\n",
            "chat_template.default",
            "    field_label: good\n",
            "SD0674",
            "`field_label` has no effect with `rl: ipo`",
            "Remove the key.",
        ),
        (
            STEPPED,
            "stepwise_supervised",
            "    field_chosen: good\n",
            "SD0636",
            "`datasets.0.field_chosen` has no effect with `type: stepwise_supervised`",
            "Remove the key.",
        ),
        (
            "rl: ipo\n",
            "bradley_terry.chat_template",
            "",
            "SD0690",
            "`type: bradley_terry.chat_template` has pairs for `reward_model: true`",
            "Add `reward_model: true`; with `rl: ipo` use `type: chat_template.default`.",
        ),
    ],
)
def test_a_message_names_the_method_of_the_file(
    top: str, kind: str, added: str, code: str, message: str, fix: str
):
    (found,) = check("", MODEL + top + ENTRY + kind + "\n" + added).diagnostics
    assert (found.code, found.message, found.fix) == (code, message, fix)
