"""Labels under every chat template: the model learns what follows the prompt of inference, and to stop."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.conftest import build_tokenizer

from siredon.config.shelves import TEMPLATES
from siredon.data.render import Rendered, Renderer, build_renderer
from siredon.data.types import Conversation, Message, RowError

SPECIALS = re.compile(r"<[^<>\n ]{2,40}>|\[/?[A-Z_]{3,}\]|<\|[^|]+\|>")
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place.",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string", "description": "A town."}},
                "required": ["place"],
            },
        },
    },
)
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"place": "Oslo"}},
}
#: Templates that by their published format show no tools, no calls, or no reasoning.
NO_TOOLS = {
    *("alpaca", "aya", "cohere", "deepseek_v2", "exaone", "gemma", "gemma3", "gemma3n", "llama3", "llava"),
    *("metharme", "mistral_v1", "phi_3", "phi_35", "qwen2_vl"),
}


@pytest.fixture(scope="module")
def renderers() -> dict[str, Renderer]:
    """One renderer a template; its tokenizer knows the template's special tokens."""
    found = {}
    for name in TEMPLATES.names():
        source = TEMPLATES.load(name).source
        words = sorted(set(SPECIALS.findall(source.replace("\\n", "\n"))) - {"<think>", "</think>"})
        tokenizer = build_tokenizer(bos="<s>", eos=_find_eos(name))
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [word for word in words if "'" not in word]}
        )
        found[name] = build_renderer(tokenizer, source)
    return found


def _find_eos(name: str) -> str:
    ends = {
        "chatml": "<|im_end|>",
        "llama": "<|eot_id|>",
        "gemma4": "<turn|>",
        "gemma": "<end_of_turn>",
        "qwen": "<|im_end|>",
        "phi": "<|end|>",
        "command": "<|END_OF_TURN_TOKEN|>",
        "cohere": "<|END_OF_TURN_TOKEN|>",
        "aya": "<|END_OF_TURN_TOKEN|>",
        "exaone": "[|endofturn|]",
        "falcon": "<|im_end|>",
        "nemotron": "<|im_end|>",
        "deepseek": "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "llama4": "<|eot|>",
    }
    return next((ends[word] for word in sorted(ends, key=len, reverse=True) if name.startswith(word)), "</s>")


def message(role: str, content: str, **more: Any) -> Message:
    return Message({"role": role, "content": content, **more}, role, content, role == "assistant")


def learned(rendered: Rendered) -> str:
    return "".join(span.text for span in rendered.spans if span.learn)


def after_prompt(renderer: Renderer, talk: Conversation, rendered: Rendered) -> str | None:
    """What follows the prompt of inference; None where the template shows earlier turns otherwise then."""
    prompt = renderer.render_prompt(Conversation(talk.messages[:-1], talk.tools))
    return rendered.text[len(prompt) :] if rendered.text.startswith(prompt) else None


@pytest.mark.parametrize("name", TEMPLATES.names())
@pytest.mark.parametrize(
    "answer", ["It rains.", "x [INST] {{ y }} <|im_start|>user\nassistant", "a\n\nb", "1"]
)
def test_one_answer_is_learned_from_the_prompt_of_inference_to_its_stop_token(
    renderers: dict[str, Renderer], name: str, answer: str
):
    renderer = renderers[name]
    talk = Conversation((message("user", "What about Oslo?"), message("assistant", answer)))
    rendered = renderer.render(talk)
    rest = after_prompt(renderer, talk, rendered)
    text = learned(rendered)
    assert answer in text
    assert rest is None or rest.startswith(text) or text.startswith("<think>")
    if name != "llava":  # whose published format ends no turn
        assert rendered.learns_stop
        assert text.endswith(tuple(renderer.stops))
    assert "What about" not in text


@pytest.mark.parametrize("name", TEMPLATES.names())
def test_of_several_turns_all_answers_and_no_question_is_learned(renderers: dict[str, Renderer], name: str):
    talk = Conversation(
        tuple(message(role, f"{role} says {number}") for number in range(4) for role in ("user", "assistant"))
    )
    rendered = renderers[name].render(talk)
    text = learned(rendered)
    for number in range(4):
        assert f"assistant says {number}" in text
        assert f"user says {number}" not in text
    none = renderers[name].render(talk, "none")
    assert learned(none).count("assistant says") == 4
    if name != "llava":
        assert len(learned(none)) < len(text)


@pytest.mark.parametrize("name", TEMPLATES.names())
def test_tool_calls_are_learned_with_all_that_is_around_them_or_refused(
    renderers: dict[str, Renderer], name: str
):
    talk = Conversation(
        (
            message("user", "What about Oslo?"),
            message("assistant", "", tool_calls=[CALL]),
            message("tool", '{"sky": "grey"}', name="get_weather", tool_call_id="abcdefghi"),
            message("assistant", "It is grey."),
        ),
        TOOLS,
    )
    if name in (*NO_TOOLS, "falcon_h1") or renderers[name].probed.hides_tools:
        with pytest.raises(RowError, match=r"tools|refuses|left out"):
            renderers[name].render(talk)
        return
    rendered = renderers[name].render(talk)
    text = learned(rendered)
    assert "get_weather" in text
    assert "Oslo" in text
    assert "It is grey." in text
    assert "What about" not in text
    assert "sky" not in text
    assert "A town" not in text


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5", "nemotron_h"])
def test_reasoning_is_learned_where_the_template_shows_it(renderers: dict[str, Renderer], name: str):
    talk = Conversation(
        (
            message("user", "a"),
            message("assistant", "first", reasoning_content="early thought"),
            message("user", "b"),
            message("assistant", "second", reasoning_content="late thought"),
        )
    )
    text = learned(renderers[name].render(talk))
    assert "late thought" in text
    assert "</think>" in text
    assert "first" in text
    assert "early thought" not in text  # the template leaves it out of earlier turns


def test_reasoning_that_a_template_never_shows_is_refused(renderers: dict[str, Renderer]):
    talk = Conversation((message("user", "a"), message("assistant", "b", reasoning_content="thought")))
    with pytest.raises(RowError, match="reasoning"):
        renderers["llama3"].render(talk)


def test_a_tool_result_that_looks_like_json_is_left_alone(renderers: dict[str, Renderer]):
    talk = Conversation(
        (
            message("user", "a"),
            message("assistant", "", tool_calls=[CALL]),
            message("tool", '{"x": [1, 2]}', name="get_weather", tool_call_id="abcdefghi"),
            message("assistant", "done"),
        ),
        TOOLS,
    )
    rendered = renderers["mistral_v3_tekken"].render(talk)
    assert learned(rendered).endswith("done</s>")
