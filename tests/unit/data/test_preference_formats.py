"""Every format of pairs: a real row -> exact ids and labels of both sides, from text that is written out here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT, SHARED_DATA, build_tokenizer
from tests.unit.data.test_preferences import preparation_of

from siredon.config.sections.data import DatasetEntry
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import KNOWN_PREFERENCE_FORMATS, PREFERENCE_FORMATS, pair_types
from siredon.data.choose import choose_format
from siredon.data.dialogue import build_dialogue
from siredon.data.inspect import Choice, inspect_data
from siredon.data.pair_rows import EMPTY
from siredon.data.prepare import prepare_data
from siredon.data.template import set_template_
from siredon.data.types import IGNORE, LeftOut, Preference, ReadOptions, RowError, Text
from siredon.errors import DataError

YES, NO = "Yes, it is.", " No, not at all.\n"
ANSWERS = {"chosen": YES, "rejected": NO}
ASKED, RULES = "Is the sea salty?", "Be brief."
TALK = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": ASKED},
]


def whole(answer: str, talk: list[dict[str, str]] = TALK) -> list[dict[str, str]]:
    return [*talk, {"role": "assistant", "content": answer}]


def chatml(*turns: tuple[str, str]) -> str:
    return (
        "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"
    )


def llama3(*turns: tuple[str, str]) -> str:
    said = [f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in turns]
    return "<s>" + "".join(said) + "<|start_header_id|>assistant<|end_header_id|>\n\n"


SYSTEM, USER = ("system", RULES), ("user", ASKED)
TURNS = (("user", "Hi."), ("assistant", "Hello!"), USER)
ONE_TURN = whole(YES, TALK[2:]), whole(NO, TALK[2:])
#: Layout -> a row of it, and its turns.
ROWS: dict[str, tuple[dict[str, Any], tuple[tuple[str, str], ...]]] = {
    "default": (
        {"system": RULES, "instruction": ASKED, "chosen_response": YES, "rejected_response": NO},
        (SYSTEM, USER),
    ),
    "argilla": ({"prompt": ASKED, "input": "other", **ANSWERS}, (USER,)),
    "argilla_chat": ({"chosen": whole(YES), "rejected": whole(NO)}, TURNS),
    "icr": ({"system": RULES, "input": ASKED, **ANSWERS, "instruction": "not read"}, (SYSTEM, USER)),
    "intel": ({"system": "", "question": ASKED, **ANSWERS}, (USER,)),
    "prompt_pairs": ({"system": None, "prompt": ASKED, **ANSWERS}, (USER,)),
    "ultra": (
        {
            "system": RULES,
            "prompt": ASKED,
            "chosen": ONE_TURN[0],
            "rejected": ONE_TURN[1],
            "messages": ONE_TURN[0],
        },
        (SYSTEM, USER),
    ),
}
NECTAR = {
    "prompt": f"\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: {ASKED}\n\nAssistant: ",
    "answers": [
        {"answer": "Perhaps.", "model": "a", "rank": 3.0},
        {"answer": NO, "model": "b", "rank": 2.0},
        {"answer": YES, "model": "c", "rank": 1.0},
    ],
}
ZEPHYR = (
    "<s><|system|>\n</s>\n<|user|>\nHi.</s>\n<|assistant|>\nHello!</s>\n"
    f"<|user|>\n{ASKED}</s>\n<|assistant|>\n"
)


@pytest.fixture(scope="module")
def llama_tokenizer() -> Any:
    return build_tokenizer(bos="<s>", eos="<|eot_id|>", add_bos=True)


@pytest.fixture(scope="module")
def zephyr_tokenizer() -> Any:
    return build_tokenizer(bos="<s>", eos="</s>", add_bos=True)


def pairs_of(rows: list[dict[str, Any]], kind: Any, tokenizer: Any, tmp_path: Path, **keys: Any) -> Any:
    found = prepare_data(
        preparation_of(rows, tokenizer, tmp_path, datasets=entries(rows, tmp_path, kind, **keys)),
        PackingSection(),
    )
    return [found.train[number] for number in range(len(found.train))]  # type: ignore[arg-type, index]


def entries(rows: list[dict[str, Any]], tmp_path: Path, kind: Any, **keys: Any) -> list[dict[str, Any]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"path": str(path), "type": kind, **keys}]


def check_pair(pair: Any, tokenizer: Any, prompt: str, answers: tuple[str, str], tail: str = "") -> None:
    """Ids of both sides are those of the text, and what is learned is the answer with its stop token."""
    for sample, answer in zip(pair, answers, strict=True):
        ids = tokenizer(prompt + answer + tail, add_special_tokens=False).input_ids
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        learned = tokenizer(answer, add_special_tokens=False).input_ids
        assert sample.input_ids.tolist() == ids
        labels = [IGNORE] * start + learned
        assert sample.labels.tolist() == labels + [IGNORE] * (len(ids) - len(labels))
        assert sample.labels[start + len(learned) - 1] == tokenizer.eos_token_id


@pytest.mark.parametrize("layout", list(ROWS))
def test_the_words_of_chatml(tokenizer: Any, tmp_path: Path, layout: str):
    row, turns = ROWS[layout]
    (pair,) = pairs_of([row], f"chatml.{layout}", tokenizer, tmp_path)
    check_pair(pair, tokenizer, chatml(*turns), (f"{YES}<|im_end|>", f"{NO}<|im_end|>"), "\n")


@pytest.mark.parametrize("layout", list(ROWS))
def test_the_words_of_llama3(llama_tokenizer: Any, tmp_path: Path, layout: str):
    """Its template trims what is said, and begins with the first token."""
    row, turns = ROWS[layout]
    (pair,) = pairs_of([row], f"llama3.{layout}", llama_tokenizer, tmp_path)
    check_pair(pair, llama_tokenizer, llama3(*turns), (f"{YES}<|eot_id|>", f"{NO.strip()}<|eot_id|>"))


@pytest.mark.parametrize("layout", [name for name in ROWS if name not in ("default", "argilla")])
def test_the_same_columns_in_the_words_of_any_template(llama_tokenizer: Any, tmp_path: Path, layout: str):
    row, turns = ROWS[layout]
    kind = f"chat_template.{layout}"
    (pair,) = pairs_of([row], kind, llama_tokenizer, tmp_path, chat_template="llama3")
    check_pair(pair, llama_tokenizer, llama3(*turns), (f"{YES}<|eot_id|>", f"{NO.strip()}<|eot_id|>"))


def test_orpos_rows(tokenizer: Any, tmp_path: Path):
    """`chat_template.argilla`: whole conversations, and a column of the system's words."""
    row = {"system": RULES, "chosen": whole(YES), "rejected": whole(NO)}
    (pair,) = pairs_of([row], "chat_template.argilla", tokenizer, tmp_path)
    check_pair(pair, tokenizer, chatml(SYSTEM, *TURNS), (f"{YES}<|im_end|>", f"{NO}<|im_end|>"), "\n")


@pytest.mark.parametrize("kind", ["zephyr.nectar", "zephyr"])
def test_the_best_of_ranked_answers_in_the_words_of_zephyr(zephyr_tokenizer: Any, tmp_path: Path, kind: str):
    (pair,) = pairs_of([NECTAR], kind, zephyr_tokenizer, tmp_path)
    check_pair(pair, zephyr_tokenizer, ZEPHYR, (f"{YES}</s>", f"{NO}</s>"), "\n")
    plain = {**NECTAR, "prompt": ASKED}
    (pair,) = pairs_of([plain], kind, zephyr_tokenizer, tmp_path)
    prompt = f"<s><|system|>\n</s>\n<|user|>\n{ASKED}</s>\n<|assistant|>\n"
    check_pair(pair, zephyr_tokenizer, prompt, (f"{YES}</s>", f"{NO}</s>"), "\n")


@pytest.mark.parametrize("kind", ["passthrough.default", "passthrough"])
def test_texts_as_they_stand(zephyr_tokenizer: Any, tokenizer: Any, tmp_path: Path, kind: str):
    row = {"prompt": f"Q: {ASKED}\nA:", **ANSWERS}
    (pair,) = pairs_of([row], kind, zephyr_tokenizer, tmp_path)
    check_pair(pair, zephyr_tokenizer, f"<s>Q: {ASKED}\nA:", (f"{YES}</s>", f"{NO}</s>"))
    own = {"prompt": f"<s>{ASKED}", "chosen": f"{YES}</s>", "rejected": f"{NO}</s>"}
    (pair,) = pairs_of([own], kind, zephyr_tokenizer, tmp_path)
    check_pair(pair, zephyr_tokenizer, f"<s>{ASKED}", (f"{YES}</s>", f"{NO}</s>"))
    (pair,) = pairs_of([row], kind, tokenizer, tmp_path)
    check_pair(pair, tokenizer, f"Q: {ASKED}\nA:", (f"{YES}<|im_end|>", f"{NO}<|im_end|>"))


def test_text_that_writes_its_own_template_is_not_warned_of(tokenizer: Any, tmp_path: Path):
    row = {"prompt": chatml(USER), "chosen": f"{YES}<|im_end|>", "rejected": f"{NO}<|im_end|>"}
    found = prepare_data(preparation_of([row], tokenizer, tmp_path, type="passthrough"), PackingSection())
    assert found.counts[0].specials == {}
    assert not [line for line in found.warnings if "special" in line or "stop" in line]


def test_a_prompt_of_your_own(zephyr_tokenizer: Any, tmp_path: Path):
    kind = {
        "field_prompt": "ask",
        "field_system": "rules",
        "field_chosen": "good",
        "field_rejected": "bad",
        "prompt_format": "{system}Q: {prompt}\nA:",
        "system_format": "[{system}] ",
        "chosen_format": " {chosen}!",
        "rejected_format": " {rejected}?",
    }
    rows = [
        {"ask": ASKED, "rules": RULES, "good": YES, "bad": NO},
        {"ask": ASKED, "rules": None, "good": YES, "bad": NO},
    ]
    pairs = pairs_of(rows, kind, zephyr_tokenizer, tmp_path)
    for pair, begin in zip(pairs, (f"<s>[{RULES}] ", "<s>"), strict=True):
        check_pair(pair, zephyr_tokenizer, f"{begin}Q: {ASKED}\nA:", (f" {YES}!</s>", f" {NO}?</s>"))


def test_both_answers_of_your_own_prompt_end_alike_and_once(zephyr_tokenizer: Any, tmp_path: Path):
    row = {"prompt": ASKED, "chosen": YES, "rejected": "No."}
    kind = {"chosen_format": "{chosen}</s>", "prompt_format": "<s>{prompt}\n"}
    (pair,) = pairs_of([row], kind, zephyr_tokenizer, tmp_path)
    check_pair(pair, zephyr_tokenizer, f"<s>{ASKED}\n", (f"{YES}</s>", "No.</s>"))
    with pytest.raises(DataError, match="does not say what the prompt is"):
        PREFERENCE_FORMATS.load("user_defined")(entry_of("user_defined"))


@pytest.mark.parametrize("kind", ["conversations", "sharegpt", "chat_template.default"])
def test_pairs_of_llama_factory(tokenizer: Any, tmp_path: Path, kind: str):
    """The first rows of a real file, in ShareGPT's words."""
    file = SHARED_DATA / "dpo_en_demo.json"
    if not file.is_file():
        pytest.skip("the shared data is not here")
    rows = json.loads(file.read_text())[:20]
    keys = {"field_messages": "conversations"} if kind.startswith("chat") else {}
    found = prepare_data(
        preparation_of(
            rows,
            tokenizer,
            tmp_path,
            datasets=entries(rows, tmp_path, kind, **keys),
            sequence_len=4096,
        ),
        PackingSection(),
    )
    names = {"human": "user", "gpt": "assistant", "system": "system"}
    assert len(found.train) == 20  # type: ignore[arg-type]
    for number, row in enumerate(rows):
        turns = [(names[message["from"]], message["value"]) for message in row["conversations"]]
        answers = tuple(f"{row[side]['value']}<|im_end|>" for side in ("chosen", "rejected"))
        check_pair(found.train[number], tokenizer, chatml(*turns), answers, "\n")  # type: ignore[index, arg-type]


# What the layouts can carry


def entry_of(kind: Any, **keys: Any) -> DatasetEntry:
    return DatasetEntry.model_validate({"path": "x", "type": kind, **keys})


def read(row: dict[str, Any], kind: Any, **keys: Any) -> Preference:
    entry = entry_of(kind, **keys)
    found = choose_format(entry, PREFERENCE_FORMATS).read(row, ReadOptions(entry, False, eos="<|im_end|>"))
    assert isinstance(found, Preference)
    return found


@pytest.mark.parametrize("template", ["chatml", "chat_template"])
def test_turns_tools_and_thinking_in_columns(tokenizer: Any, tmp_path: Path, template: str):
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {"at": "sea"}}]}
    row = {
        "prompt": TALK,
        "system": RULES,
        "chosen": [call, {"role": "tool", "content": "salty"}, {"role": "assistant", "content": YES}],
        "rejected": {"role": "assistant", "content": NO},
    }
    (pair,) = pairs_of([row], f"{template}.prompt_pairs", tokenizer, tmp_path)
    before = chatml(SYSTEM, *TURNS)
    called = '<tool_call>\n{"name": "look", "arguments": {"at": "sea"}}\n</tool_call><|im_end|>'
    between = "\n<|im_start|>tool\nsalty<|im_end|>\n<|im_start|>assistant\n"
    texts = [before, called, between, f"{YES}<|im_end|>", "\n"]
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert pair[0].input_ids.tolist() == [value for part in ids for value in part]
    learned = [value if place in (1, 3) else IGNORE for place, part in enumerate(ids) for value in part]
    assert pair[0].labels.tolist() == learned
    check_pair(pair[1:], tokenizer, before, (f"{NO}<|im_end|>",), "\n")  # type: ignore[arg-type]


def test_tools_and_reasoning_reach_the_template(tokenizer: Any, tmp_path: Path):
    tools = [{"name": "look", "parameters": {"type": "object", "properties": {}}}]
    row = {"prompt": ASKED, "tools": tools, "chosen": f"<think>Hm.</think>{YES}", "rejected": NO}
    found = read(row, "chat_template.prompt_pairs", split_thinking=True)
    assert found.chosen.tools == found.rejected.tools  # type: ignore[union-attr]
    assert found.chosen.tools is not None  # type: ignore[union-attr]
    assert found.chosen.messages[-1].properties["reasoning_content"] == "Hm."  # type: ignore[union-attr]
    with pytest.raises(DataError, match="tools, which the chat template does not show"):
        pairs_of([row], "chatml.prompt_pairs", tokenizer, tmp_path)


def test_names_of_the_entry_come_first():
    row = {"prompt": ASKED, "good": YES, "bad": NO, "chosen": 1, "rejected": 2}
    found = read(row, "chatml.default", field_chosen="good", field_rejected="bad")
    assert [side.messages[-1].content for side in (found.chosen, found.rejected)] == [YES, NO]  # type: ignore[union-attr]
    dropped = read({**row, "system": RULES, **ANSWERS}, "chatml.default", drop_system_message=True)
    assert dropped.chosen.messages[0].role == "user"  # type: ignore[union-attr]


# Rows that cannot be used

PROMPT = {"prompt": ASKED, **ANSWERS}


@pytest.mark.parametrize(
    ("kind", "row", "problem"),
    [
        ("chatml.intel", PROMPT, "no column `question`; it has `prompt`"),
        ("chatml.default", {"ask": ASKED, **ANSWERS}, "no column `prompt` or `input` or `question`"),
        (
            "chatml.default",
            {"input": "1 2", "instruction": "Add.", **ANSWERS},
            "`input` and `instruction`: which",
        ),
        ("chatml.icr", {"input": ASKED, "chosen": YES}, "no column `rejected`"),
        ("chatml.prompt_pairs", {**PROMPT, "prompt": 3}, "column `prompt` holds int"),
        ("chatml.prompt_pairs", {**PROMPT, "prompt": None}, "column `prompt` holds NoneType"),
        ("chatml.prompt_pairs", {**PROMPT, "prompt": " "}, "column `prompt` is empty"),
        ("chatml.prompt_pairs", {**PROMPT, "system": 3}, "column `system` holds int"),
        ("llama3.prompt_pairs", {**PROMPT, "chosen": 3}, "neither a text nor messages"),
        ("chatml.prompt_pairs", {**PROMPT, "chosen": whole(YES)}, "which is no answer"),
        (
            "chatml.argilla_chat",
            {"chosen": whole(YES), "rejected": whole(NO, TALK[2:])},
            "no prompt that both",
        ),
        ("chatml.ultra", {"prompt": "Why?", "chosen": whole(YES), "rejected": whole(NO)}, "another question"),
        ("chatml.ultra", PROMPT, "no JSON"),
        ("zephyr.nectar", {"prompt": ASKED, "answers": []}, "no list of two answers"),
        ("zephyr.nectar", {"prompt": ASKED}, "no column `answers`"),
        ("zephyr.nectar", {**NECTAR, "prompt": ""}, "column `prompt` is empty"),
        (
            "zephyr.nectar",
            {"prompt": ASKED, "answers": [{"answer": YES}] * 2},
            "answer 1 has no number in `rank`",
        ),
        (
            "zephyr.nectar",
            {"prompt": ASKED, "answers": [{"rank": 1}] * 2},
            "answer 1 has no text in `answer`",
        ),
        (
            "zephyr.nectar",
            {**NECTAR, "prompt": "\n\nHuman: a\n\nHuman: b\n\nAssistant:"},
            "do not take turns",
        ),
        ("passthrough", {"prompt": ASKED, "chosen": YES}, "no column `rejected`"),
        ("passthrough", {**PROMPT, "chosen": whole(YES)}, r"holds list, not text \(messages are"),
        ("passthrough", {**PROMPT, "prompt": whole(YES)}, "column `prompt` holds list, not text"),
        ({"field_prompt": "ask"}, PROMPT, "no column `ask`"),
        ({"field_system": "rules"}, PROMPT, "no column `rules`"),
        ({"field_chosen": "good"}, PROMPT, "no column `good`"),
        ({"prompt_format": "{system}{prompt}"}, {**PROMPT, "system": 3}, "column `system` holds int"),
        ("conversations", PROMPT, "no column `conversations`"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(kind: Any, row: dict[str, Any], problem: str):
    with pytest.raises(RowError, match=problem) as found:
        read(row, kind)
    assert not isinstance(found.value, LeftOut)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("chatml.prompt_pairs", {**PROMPT, "rejected": ""}),
        ("llama3.ultra", {"chosen": whole(YES), "rejected": whole(" ")}),
        ("passthrough", {**PROMPT, "chosen": "\n"}),
        ({"prompt_format": "{prompt} "}, {**PROMPT, "rejected": " "}),
        ("zephyr.nectar", {**NECTAR, "answers": [{"answer": "", "rank": 1}, {"answer": "b", "rank": 2}]}),
    ],
)
def test_an_empty_answer_leaves_its_row_out(kind: Any, row: dict[str, Any]):
    with pytest.raises(LeftOut, match=EMPTY):
        read(row, kind)


def test_answers_of_one_rank_are_no_pair():
    with pytest.raises(LeftOut, match="same rank"):
        read(
            {**NECTAR, "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 1.0}]}, "zephyr.nectar"
        )


def test_a_bad_row_is_told_with_its_place(tokenizer: Any, tmp_path: Path):
    with pytest.raises(DataError, match=r"rows\.jsonl.* 2 .*no column `question`"):
        pairs_of([{"question": ASKED, **ANSWERS}, PROMPT], "chatml.intel", tokenizer, tmp_path)


# The shelf as a whole

#: The types of the reference for methods over pairs.
REFERENCE = {
    "chat_template": ("default", "argilla_chat", "argilla"),
    "chatml": ("default", "argilla_chat", "icr", "intel", "prompt_pairs", "ultra"),
    "llama3": ("default", "argilla_chat", "icr", "intel", "prompt_pairs", "ultra"),
    "zephyr": ("nectar",),
    "passthrough": ("default",),
}


def test_every_type_of_the_reference_is_there():
    assert {f"{name}.{word}" for name, words in REFERENCE.items() for word in words} <= set(pair_types())
    assert set(KNOWN_PREFERENCE_FORMATS) <= set(PREFERENCE_FORMATS.names())
    assert choose_format(entry_of({"prompt_format": "{prompt}"}), PREFERENCE_FORMATS).ends


@pytest.mark.parametrize("kind", [kind for kind in pair_types() if kind.partition(".")[0] in REFERENCE])
def test_every_type_says_what_it_reads_of_its_entry(kind: str):
    part = choose_format(entry_of(kind), PREFERENCE_FORMATS)
    assert part.reads is not None
    assert set(part.reads) <= set(DatasetEntry.model_fields)


def test_the_model_is_asked_as_it_was_trained(zephyr_tokenizer: Any, tokenizer: Any):
    asked = [{"role": "user", "content": ASKED}]
    for kind, one, expected in (
        ("zephyr.nectar", zephyr_tokenizer, f"<s><|system|>\n</s>\n<|user|>\n{ASKED}</s>\n<|assistant|>\n"),
        ("chatml.intel", tokenizer, chatml(USER)),
        ("chatml.intel", zephyr_tokenizer, "<s>" + chatml(USER)),
        ("passthrough", zephyr_tokenizer, f"<s>{ASKED}"),
        ({"prompt_format": "Q: {prompt}\n"}, tokenizer, f"Q: {ASKED}\n"),
    ):
        entry = entry_of(kind)
        assert build_dialogue(entry, TokenizerSection(), one, PREFERENCE_FORMATS)(asked) == expected
        if kind in ("zephyr.nectar", "chatml.intel"):
            saved = build_tokenizer(bos=one.bos_token, eos=one.eos_token, add_bos=one is zephyr_tokenizer)
            set_template_(saved, [entry], TokenizerSection(), PREFERENCE_FORMATS)
            shown = saved.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            assert shown == expected


def test_zephyr_has_no_tools(zephyr_tokenizer: Any):
    entry = entry_of("zephyr.nectar")
    render = build_dialogue(entry, TokenizerSection(), zephyr_tokenizer, PREFERENCE_FORMATS)
    with pytest.raises(RowError, match="no tool calls"):
        render([{"role": "tool", "content": "x"}])
    assert render([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]).startswith(
        "<s><|system|>\na</s>\n<|user|>\nb</s>\n"
    )


def test_inspect_shows_both_sides(tokenizer: Any, tmp_path: Path):
    rows = [{"question": ASKED, **ANSWERS}]
    preparation = preparation_of(rows, tokenizer, tmp_path, type="chatml.intel")
    seen = inspect_data(preparation, PackingSection(), Choice(num_rows=1))
    texts = ["".join(p.text for p in sample.pieces if p.learned) for sample in seen.rows[0].samples]
    assert texts == [f"{YES}<|im_end|>", f"{NO}<|im_end|>"]


def test_a_function_of_the_users_makes_rows_of_a_layout(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_pairs.py").write_text(
        "def turn(row):\n    return {'prompt': row['a'], 'chosen': row['b'], 'rejected': row['c']}\n"
    )
    rows = [{"a": ASKED, "b": YES, "c": NO}]
    (pair,) = pairs_of(rows, "chatml.prompt_pairs", tokenizer, tmp_path, input_transform="my_pairs.turn")
    check_pair(pair, tokenizer, chatml(USER), (f"{YES}<|im_end|>", f"{NO}<|im_end|>"), "\n")


#: Types of the rows that the page shows, in their order.
SHOWN = (
    "chat_template.default",
    "conversations",
    "chatml.argilla_chat",
    "chatml.ultra",
    "chatml.icr",
    "chatml.intel",
    "chatml.prompt_pairs",
    "llama3.default",
    "zephyr.nectar",
    "passthrough.default",
)


def test_the_rows_of_the_page_are_read():
    page = (ROOT / "docs/preference.md").read_text()
    rows = page.partition("Rows, in the order of the table")[2].partition("```json\n")[2].partition("```")[0]
    for kind, line in zip(SHOWN, rows.splitlines(), strict=True):
        found = read(json.loads(line), kind)
        for side, answer in ((found.chosen, "Yes."), (found.rejected, "No.")):
            if isinstance(side, Text):
                assert side.spans[-1].text.strip().startswith(answer)
            else:
                assert (side.messages[-1].content, side.messages[-2].content) == (answer, ASKED)
