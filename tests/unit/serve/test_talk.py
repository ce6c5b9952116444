"""A conversation that keeps what was read says what a model says that reads everything anew, each turn."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_model
from tests.families import build_family

from siredon.config.load import load_config
from siredon.errors import DataError
from siredon.serve.command import COMMANDS, run_command
from siredon.serve.conversation import Voice, count_shared
from siredon.serve.engines.transformers import Engine
from siredon.serve.phrasing import build_phrasing, find_open_thought, find_switch
from siredon.serve.sampling import Sampling
from siredon.serve.screen import Printer
from siredon.serve.settings import SETTINGS, change_setting
from siredon.serve.talk import Side, Talk, begin_talk

SHORT = Sampling(max_new_tokens=12)
#: As Qwen3's: thoughts of earlier turns are left out, and a variable switches them.
FORGETFUL = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and '</think>' in message.content %}"
    "{{ message.content.split('</think>')[1] }}{% else %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}{% endif %}"
)


def talk_to(
    model: Any, tokenizer: Any, write_config: Any, sampling: Sampling = SHORT, **changes: Any
) -> Talk:
    config, _ = load_config(str(write_config(**changes)))
    engine = Engine(model.eval(), tokenizer, (2,))
    return Talk([Side("model", Voice(engine))], build_phrasing(config, tokenizer), sampling)


def truth(talk: Talk, num_messages: int) -> str:
    """What the model says with nothing in its memory."""
    prompt = talk.phrasing.render(talk.full(talk.main)[:num_messages], talk.thinking)
    begun = find_open_thought(prompt)
    return begun + Voice(talk.main.voice.engine).answer(prompt, talk.sampling).text


def ask(talk: Talk, question: str) -> int:
    """Asks, compares with the truth, and returns the number of tokens that were not read again."""
    pieces: list[str] = []
    talk.ask(question, lambda name, text: pieces.append(text), lambda: None)
    check(talk, pieces)
    assert talk.main.answer
    return talk.main.answer.num_known


def check(talk: Talk, pieces: list[str]) -> None:
    said = talk.main.messages[-1]["content"]
    assert "".join(pieces) == said
    assert said == truth(talk, len(talk.full(talk.main)) - 1)


@pytest.mark.parametrize("name", ["llama", "gemma3", "falcon_h1"])
def test_every_turn_says_what_a_fresh_model_says(name: str, tokenizer: Any, write_config: Any):
    talk = talk_to(build_family(name), tokenizer, write_config)
    assert ask(talk, "Who are you?") == 0
    known = [ask(talk, "And what is the sea?"), ask(talk, "Why is it blue, do you know?")]
    run_command(talk, "undo")
    assert talk.questions == ["Who are you?", "And what is the sea?"]
    known.append(ask(talk, "Why salty?"))
    pieces: list[str] = []
    talk.retry(lambda name, text: pieces.append(text), lambda: None)
    check(talk, pieces)
    assert len(talk.questions) == 3
    run_command(talk, "system You are terse.")
    ask(talk, "Is that so?")
    run_command(talk, "new")
    known.append(ask(talk, "Who are you?"))
    if name == "llama":
        # The whole prompt of the turn before, and from the first word on after what was taken back
        assert min(known) > 10
    assert not talk.saved


def test_a_window_goes_on_from_what_was_read_where_nothing_is_taken_back(tokenizer: Any, write_config: Any):
    letters = set(tokenizer.convert_tokens_to_ids(["q", "x", "z", "j"]))  # no two of them are one token
    others = [token for token in range(512) if token not in letters]
    sampling = replace(SHORT, generation_kwargs={"suppress_tokens": others})
    talk = talk_to(build_family("gemma3"), tokenizer, write_config, sampling)
    known = [
        ask(talk, question) for question in ("Who are you?", "What is the sea?", "Why is it blue?", "Is it?")
    ]
    assert known[3] > known[2] > known[1] > 12
    assert known[3] > 64  # the window
    run_command(talk, "undo")
    assert ask(talk, "Why not?") == 0


def test_random_numbers_follow_the_seed_whatever_was_read_before(tokenizer: Any, write_config: Any):
    sampling = Sampling(12, temperature=1.5, top_p=0.9, top_k=40, min_p=0.01, repetition_penalty=1.2, seed=3)
    talk = talk_to(build_model(), tokenizer, write_config, sampling)
    for question in ("Who are you?", "Why?"):
        ask(talk, question)
    first = talk.main.messages[-1]
    talk.sampling = replace(sampling, seed=4)
    talk.retry(lambda name, text: None, lambda: None)
    assert talk.main.messages[-1] != first


def test_a_template_that_strips_thoughts_reads_the_turn_anew(tokenizer: Any, write_config: Any):
    changes = {"chat_template": "jinja", "chat_template_jinja": FORGETFUL}
    talk = talk_to(build_model(), tokenizer, write_config, **changes)
    ask(talk, "Who are you?")
    talk.main.messages[-1]["content"] = "<think>a long thought of many words</think>I am."
    assert "long thought" not in talk.phrasing.render(talk.full(talk.main))
    ask(talk, "Why?")
    assert run_command(talk, "think").text == "Thinking: default (`enable_thinking` of the chat template)."
    run_command(talk, "think on")
    ask(talk, "What now?")
    assert talk.main.messages[-1]["content"].startswith("<think>\n")
    with pytest.raises(DataError, match="is `on`, `off` or `default`"):
        run_command(talk, "think hard")
    plain = talk_to(build_model(), tokenizer, write_config)
    with pytest.raises(DataError, match="has no switch for thinking"):
        run_command(plain, "think on")
    assert find_switch("{{ message.thinking }}{{ message['thinking'] }}") == ""
    assert find_switch("{% if thinking %}") == "thinking"


def test_what_fails_leaves_the_conversation_as_it_was(tokenizer: Any, write_config: Any):
    talk = talk_to(build_model(), tokenizer, write_config)
    ask(talk, "Who are you?")
    before = list(talk.main.messages)
    with pytest.raises(DataError, match=r"the prompt has .* tokens, and the model reads 512"):
        talk.ask("sea " * 600, lambda name, text: None, lambda: None)

    def quit_at_once(name: str, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.ask("Why?", quit_at_once, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        talk.retry(quit_at_once, lambda: None)
    assert talk.main.messages == before
    talk.ask("Why?", lambda name, text: None, lambda: "cancelled")
    assert talk.main.answer
    assert (talk.main.answer.reason, talk.main.answer.num_tokens) == ("cancelled", 1)
    ask(talk, "What then?")


def test_a_format_without_turns_is_asked_one_question_at_a_time(
    tokenizer: Any, write_config: Any, tmp_path: Path
):
    talk = talk_to(
        build_model(), tokenizer, write_config, datasets=[{"path": str(tmp_path), "type": "alpaca"}]
    )
    ask(talk, "Who are you?")
    ask(talk, "Why?")
    assert "Who are you" not in talk.phrasing.render(talk.full(talk.main)[:-1])
    with pytest.raises(DataError, match=r"no place in `type: alpaca`"):
        run_command(talk, "system Be terse.")


def test_a_saved_conversation_is_training_data(tokenizer: Any, write_config: Any, tmp_path: Path):
    from siredon import pipeline

    talk = talk_to(build_model(), tokenizer, write_config)
    path = tmp_path / "talks.jsonl"
    path.write_text('{"messages": []}')  # no line feed at its end
    for command in ("save", f"save {path}"):
        with pytest.raises(DataError):
            run_command(talk, command)
    talk.system = "Be kind."
    ask(talk, 'Wer bist du? ö "x"')
    run_command(talk, f"save {path}")
    ask(talk, "Why?")
    run_command(talk, f"save {path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"messages": []}, {"messages": talk.full(talk.main)}]
    run_command(talk, "new")
    ask(talk, "Who?")
    run_command(talk, f"save {path}")
    assert len(path.read_text().splitlines()) == 3
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    config, _ = load_config(str(write_config(datasets=[{"path": str(path), "type": "chat_template"}])))
    pipeline.preprocess(config)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("temprature 1", r"`temprature` is no setting\n.*Did you mean `temperature`"),
        ("temperature -1", r"cannot be `-1`\n  fix: Give a number from 0 to 100"),
        ("top_p 1.5", "Give a number from 0 to 1"),
        ("top_k 1.5", "Give a whole number, 0 or more"),
        ("max_new_tokens 0", "1 or more"),
        ("min_p nan", "cannot be `nan`"),
        ("seed many", "or `off`"),
        ("stop", "needs a text"),
        ('stop "x', "Give a text"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_way_out(words: str, problem: str):
    name, _, text = words.partition(" ")
    with pytest.raises(DataError, match=problem):
        change_setting(Sampling(), name, text)


def test_settings_and_commands(tokenizer: Any, write_config: Any):
    talk = talk_to(build_model(), tokenizer, write_config)
    values = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}
    values |= {"max_new_tokens": 5, "seed": 7}
    assert set(values) == set(SETTINGS)
    for name, value in values.items():
        assert run_command(talk, f"set {name} {value}").text == f"{name} = {value}"
    assert run_command(talk, 'set stop "\\n"').text == 'stop = "\\n"'
    assert talk.sampling == Sampling(**values, stop=("\n",))  # type: ignore[arg-type]
    run_command(talk, "set seed off")
    run_command(talk, "set stop=off")
    assert (talk.sampling.seed, talk.sampling.stop) == (None, ())
    assert "top_p = 0.9" in run_command(talk, "set").text
    shown = run_command(talk, "help").text
    assert all(f"/{name}" in shown for name in COMMANDS.names())
    assert "Did you mean `/retry`?" in run_command(talk, "rety").text
    for command in ("undo", "retry"):
        with pytest.raises(DataError, match="nothing was asked"):
            run_command(talk, command)
    run_command(talk, "set temperature 0")
    ask(talk, "Who?")
    assert run_command(talk, "retry").then == "retry"
    assert run_command(talk, "history").text.startswith("user: Who?\nassistant: ")
    assert "turns: 1" in run_command(talk, "status").text
    assert run_command(talk, "quit").then == "quit"


def test_stop_texts_end_an_answer_and_are_not_shown(tokenizer: Any, write_config: Any):
    talk = talk_to(build_model(), tokenizer, write_config)
    ask(talk, "Who are you?")
    said = talk.main.messages[-1]["content"]
    cut = said[4:6]
    talk.sampling = replace(talk.sampling, stop=(cut,))
    pieces: list[str] = []
    talk.retry(lambda name, text: pieces.append(text), lambda: None)
    assert "".join(pieces) == talk.main.messages[-1]["content"] == said[: said.index(cut)]
    assert talk.main.answer
    assert talk.main.answer.reason == "stop"


def test_two_sides_are_asked_the_same_and_keep_answers_of_their_own(tokenizer: Any, write_config: Any):
    from peft import LoraConfig, get_peft_model

    config, _ = load_config(str(write_config()))
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(build_model(), settings).eval()
    tuned = Engine(adapted, tokenizer, (2,), adapter="on")
    engines = {"base": replace(tuned, adapter="off"), "tuned": tuned}
    talk = begin_talk(engines, build_phrasing(config, tokenizer), SHORT, "")
    plain = talk_to(build_model(), tokenizer, write_config)
    for question in ("Who are you?", "What is the sea?"):
        talk.ask(question, lambda name, text: None, lambda: None)
        ask(plain, question)
        assert talk.main.messages[-1]["content"] == truth(talk, len(talk.main.messages) - 1)
    assert talk.sides[0].messages == plain.main.messages != talk.main.messages
    assert min(side.answer.num_known for side in talk.sides if side.answer) > 10
    assert run_command(talk, "history").text.startswith("[base]\nuser: Who are you?")
    run_command(talk, "undo")
    assert [len(side.messages) for side in talk.sides] == [2, 2]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_thoughts_are_dim_on_a_terminal_and_nothing_moves_its_cursor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = "<think>a <b></think>c <thin \x1b[2J <think>d"
    shown = "\x1b[2m<think>a <b></think>\x1b[0mc <thin \u241b[2J \x1b[2m<think>d\x1b[0m\n"
    for size in (1, 3, len(text)):
        screen = Screen()
        printer = Printer(screen)
        for start in range(0, len(text), size):
            printer.feed(text[start : start + size])
        printer.end()
        assert screen.getvalue() == shown
    plain = io.StringIO()
    Printer(plain).feed(text)
    assert plain.getvalue() == text
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    Printer(screen).feed(text)
    assert "\x1b" not in screen.getvalue()


def test_count_shared():
    assert [count_shared([1, 2, 3], other) for other in ([], [1, 2], [1, 5, 3], [1, 2, 3, 4])] == [0, 2, 1, 3]
