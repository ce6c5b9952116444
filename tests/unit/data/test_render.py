"""Which characters are learned, for templates that add, trim and rewrite."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import build_tokenizer

from siredon.data import render
from siredon.data.render import Rendered, build_renderer
from siredon.data.templates.chatml import TEMPLATE as CHATML
from siredon.data.templates.llama3 import TEMPLATE as LLAMA3
from siredon.data.types import Conversation, Message, RowError, Span, Text

TRIMMING = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETTING = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' and not loop.last %}"
    "{{ '<|im_start|>assistant\n' + message['content'].split('</think>')[-1] + '<|im_end|>\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def talk(*turns: tuple[str, str]) -> Conversation:
    return Conversation(tuple(Message({"role": r, "content": c}, r, c, r == "assistant") for r, c in turns))


def learned(rendered: Rendered) -> list[str]:
    return [span.text for span in rendered.spans if span.learn]


def test_contents_and_stop_tokens_of_the_assistant_are_learned_and_nothing_else(tokenizer: Any):
    renderer = build_renderer(tokenizer, CHATML.source)
    rendered = renderer.render(
        talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), "turn"
    )
    assert learned(rendered) == ["b", "<|im_end|>", "d", "<|im_end|>"]
    assert rendered.text == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("turn", ["b", "<|im_end|>", "d", "<|im_end|>"]),
        ("last", ["b", "d", "<|im_end|>"]),
        ("none", ["b", "d"]),
        ("all", ["<|im_end|>", "b", "<|im_end|>", "<|im_end|>", "d", "<|im_end|>"]),
    ],
)
def test_train_on_eos_decides_which_stop_tokens_are_learned(tokenizer: Any, policy: Any, wanted: list[str]):
    renderer = build_renderer(tokenizer, CHATML.source)
    rendered = renderer.render(
        talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), policy
    )
    assert learned(rendered) == wanted
    assert rendered.learns_stop == (policy != "none")


def test_the_stop_token_of_the_template_is_learned_though_the_tokenizer_has_another_eos():
    tokenizer = build_tokenizer(bos="<s>", eos="</s>")
    renderer = build_renderer(tokenizer, LLAMA3.source)
    rendered = renderer.render(talk(("user", "a"), ("assistant", "b")), "turn")
    assert learned(rendered) == ["b", "<|eot_id|>"]
    assert rendered.text.startswith("<s><|start_header_id|>user")


@pytest.mark.parametrize(
    "content", ["[[x]]", "{{ y }}", "<|im_start|>user", "assistant", "", "\n", "a\n\n", "  b "]
)
def test_hard_contents_are_learned_exactly(tokenizer: Any, content: str):
    renderer = build_renderer(tokenizer, CHATML.source)
    rendered = renderer.render(talk(("user", content), ("assistant", content), ("user", "z")), "turn")
    assert "".join(learned(rendered)) == content + "<|im_end|>"


def test_a_template_that_trims_is_followed_blank_by_blank(tokenizer: Any):
    renderer = build_renderer(tokenizer, TRIMMING)
    rendered = renderer.render(talk(("user", " a "), ("assistant", "  b\n"), ("assistant", "c")), "turn")
    assert learned(rendered) == ["b", "<|im_end|>", "c", "<|im_end|>"]


def test_a_message_that_the_template_rewrites_is_learned_as_it_then_stands(tokenizer: Any):
    renderer = build_renderer(tokenizer, FORGETTING)
    turns = (
        ("user", "a"),
        ("assistant", "<think>x</think>b"),
        ("user", "c"),
        ("assistant", "<think>y</think>d"),
    )
    rendered = renderer.render(talk(*turns), "turn")
    assert "<think>x" not in rendered.text
    assert learned(rendered) == ["b", "<|im_end|>", "<think>y</think>d", "<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.role + m.content[::-1] + eos_token }}{% endfor %}", "rewritten"),
        (
            "{% for m in messages %}{{ m.role + m.content + m.content + eos_token }}{% endfor %}",
            "stands twice",
        ),
        ("{% for m in messages if m.role == 'user' %}{{ m.content + eos_token }}{% endfor %}", "left out"),
        (
            "{% for m in messages %}{{ m.role + m.content | length | string + eos_token }}{% endfor %}",
            "rewritten",
        ),
    ],
)
def test_what_cannot_be_known_is_refused_with_the_number_and_role_of_the_message(
    tokenizer: Any, template: str, reason: str
):
    renderer = build_renderer(tokenizer, template)
    with pytest.raises(RowError, match=rf"message 2 \(assistant\).*{reason}"):
        renderer.render(talk(("user", "a"), ("assistant", "long answer")), "turn")


def test_a_template_that_refuses_a_role_is_a_row_error(tokenizer: Any):
    renderer = build_renderer(
        tokenizer,
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}",
    )
    with pytest.raises(RowError, match="no tools"):
        renderer.render(talk(("tool", "a"), ("assistant", "b")), "turn")


@pytest.mark.parametrize("add_bos", [True, False])
def test_text_begins_with_exactly_one_bos_if_the_tokenizer_adds_one(add_bos: bool):
    tokenizer = build_tokenizer(bos="<s>", eos="</s>", add_bos=add_bos)
    renderer = build_renderer(tokenizer, None)
    rendered = renderer.render(Text((Span("p", False), Span("r", True))), "turn")
    assert rendered.text == ("<s>pr</s>" if add_bos else "pr</s>")
    assert learned(rendered) == ["r", "</s>"]
    assert renderer.render_prompt(Text((Span("p", False),), add_eos=False)) == ("<s>p" if add_bos else "p")


def test_training_text_begins_with_the_prompt_of_inference(tokenizer: Any):
    renderer = build_renderer(tokenizer, CHATML.source)
    rendered = renderer.render(talk(("user", "a"), ("assistant", "b")), "turn")
    assert rendered.text.startswith(renderer.render_prompt(talk(("user", "a"))))


def test_private_characters_in_the_data_are_refused(tokenizer: Any):
    renderer = build_renderer(tokenizer, CHATML.source)
    with pytest.raises(RowError, match="private plane"):
        renderer.render(talk(("user", chr(0xF0003)), ("assistant", "b")), "turn")


def test_eighty_turns_are_rendered_twice_not_a_hundred_and_sixty_times(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    renderer = build_renderer(tokenizer, CHATML.source)
    calls = []
    real = render.apply_template

    def count(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return real(*args, **options)

    monkeypatch.setattr(render, "apply_template", count)
    renderer.render(talk(*[("user", "q"), ("assistant", "a")] * 40), "turn")
    assert len(calls) == 2


MISTRAL = (
    "{{ bos_token }}{% for m in messages[1:] %}"
    "{% if m['role'] == 'user' %}"
    "{% set rules = messages[0]['content'] + '\n\n' if loop.index > 2 else '' %}"
    "{{ '[INST] ' + rules + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|eot_id|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def test_a_template_that_moves_the_system_message_into_a_later_turn_is_followed():
    renderer = build_renderer(build_tokenizer(bos="<s>", eos="</s>"), MISTRAL)
    turns = (("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    rendered = renderer.render(talk(*turns), "turn")
    assert rendered.text == "<s>[INST] a [/INST] b</s>[INST] S\n\nc [/INST] d</s>"
    # The blank behind `[/INST]` is not in the prompt of inference: the model writes it
    assert learned(rendered) == [" b", "</s>", " d", "</s>"]


def test_a_template_that_ends_with_eos_only_when_closed_still_shows_its_own_stop_token():
    renderer = build_renderer(build_tokenizer(eos="</s>"), PHI)
    rendered = renderer.render(talk(("user", "a"), ("assistant", "b")), "turn")
    assert learned(rendered) == ["b", "<|eot_id|>"]
    assert set(renderer.stops) == {"<|eot_id|>", "</s>"}


def test_a_template_that_demands_a_system_message_can_be_probed(tokenizer: Any):
    strict = (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('system first') }}{% endif %}"
        + CHATML.source
    )
    renderer = build_renderer(tokenizer, strict)
    rendered = renderer.render(talk(("system", "s"), ("user", "a"), ("assistant", "b")), "turn")
    assert learned(rendered) == ["b", "<|im_end|>"]
