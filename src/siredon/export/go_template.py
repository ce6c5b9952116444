"""Chat templates in the language of Ollama's Modelfile, which is that of Go's `text/template`.

Which form a tokenizer's own template has is found by trial: the form that renders the same text is the one.
Source: https://pkg.go.dev/text/template, https://docs.ollama.com/modelfile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from siredon.errors import ModelError

#: The forms, by the name of the template that they are known under.
FORMS = {
    "chatml": (
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    ),
    "llama3": (
        "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral_v1": (
        '{{ range .Messages }}{{ if eq .Role "user" }}[INST] {{ .Content }} [/INST]'
        '{{ else if eq .Role "assistant" }}{{ .Content }}</s>{{ end }}{{ end }}'
    ),
    "mistral_v2v3": (
        '{{ range .Messages }}{{ if eq .Role "user" }}[INST] {{ .Content }}[/INST]'
        '{{ else if eq .Role "assistant" }} {{ .Content }}</s>{{ end }}{{ end }}'
    ),
    "mistral_v3_tekken": (
        '{{ range .Messages }}{{ if eq .Role "user" }}[INST]{{ .Content }}[/INST]'
        '{{ else if eq .Role "assistant" }}{{ .Content }}</s>{{ end }}{{ end }}'
    ),
    "zephyr": "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}<|assistant|>\n",
}
_SYSTEM = {"role": "system", "content": "Be brief."}
_USER = {"role": "user", "content": "What is 2 + 2?"}
_REPLY = {"role": "assistant", "content": "Four."}
_AGAIN = {"role": "user", "content": "And 3 + 3?\nIn words."}
_MARK = "@@system@@"
_ACTION = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_CONDITION = re.compile(r'(?:else )?if eq \.Role "(\w+)"')


def find_form(tokenizer: Any, template: str, *, adds_bos: bool) -> tuple[str, str]:
    """The Go template that renders what the tokenizer's own renders, and the system message that it puts in by itself.

    Args:
        tokenizer: Renders its own.
        template: Its chat template.
        adds_bos: Whether the engine puts the token that begins a text before it: the Go template then has none.

    Raises:
        ModelError: None of the forms does.
    """
    if not template:
        raise ModelError(
            "--format ollama: the tokenizer has no chat template, so nothing says how the model is asked",
            "Use `--format gguf`, and write a Modelfile with a TEMPLATE of your own.",
        )
    bos = tokenizer.bos_token or ""
    system = _find_default_system(tokenizer, template)
    for form in (*FORMS.values(), *[bos + form for form in FORMS.values() if bos and not adds_bos]):
        if _is_same(tokenizer, template, form, bos if adds_bos else "", system):
            return form, system
    raise ModelError(
        f"--format ollama: no Go template is known here that renders what the model's own chat template does; tried: "
        f"{', '.join(FORMS)}",
        "Use `--format gguf`, and write a Modelfile with a TEMPLATE of your own.",
    )


def _is_same(tokenizer: Any, template: str, form: str, bos: str, system: str) -> bool:
    """Whether both render the same for one turn and for several, with a system message where the template takes one."""
    talks = [[_USER], [_USER, _REPLY, _AGAIN]]
    if _render(tokenizer, template, [_SYSTEM, _USER]):
        talks += [[_SYSTEM, _USER], [_SYSTEM, _USER, _REPLY, _AGAIN]]
    for talk in talks:
        asked = talk if talk[0]["role"] == "system" or not system else [{**_SYSTEM, "content": system}, *talk]
        if render_go(form, asked) != _render(tokenizer, template, talk).removeprefix(bos):
            return False
    return True


def _find_default_system(tokenizer: Any, template: str) -> str:
    """The system message that a template puts in where there is none; empty if it does not."""
    plain = _render(tokenizer, template, [_USER])
    before, _, after = _render(tokenizer, template, [{**_SYSTEM, "content": _MARK}, _USER]).partition(_MARK)
    is_same = bool(after) and plain.startswith(before) and plain.endswith(after)
    return (
        plain[len(before) : len(plain) - len(after)] if is_same and len(plain) > len(before + after) else ""
    )


def _render(tokenizer: Any, template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """What the tokenizer's template makes of a conversation; empty if it refuses it."""
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
            )
        )
    except TemplateError:
        return ""


def render_go(form: str, messages: Sequence[Mapping[str, str]]) -> str:
    """A Go template over `.Messages`, of those that the forms here are made of.

    Known are `range .Messages`, `if eq .Role "..."`, `else if`, `else`, `end`, `.Role` and `.Content`.

    Raises:
        ValueError: Anything else.
    """
    head, found, rest = form.partition("{{ range .Messages }}")
    if not found:
        return form
    body, tail = _split_at_end(rest)
    return head + "".join(_render_message(body, message) for message in messages) + tail


def _split_at_end(text: str) -> tuple[str, str]:
    """What a block holds, and what comes behind its `{{ end }}`."""
    depth = 1
    for action in _ACTION.finditer(text):
        word = action[1]
        depth += word.startswith(("if ", "range ")) - (word == "end")
        if depth == 0:
            return text[: action.start()], text[action.end() :]
    raise ValueError("a block without its end")


def _render_message(body: str, message: Mapping[str, str]) -> str:
    parts: list[str] = []
    shown, done, place = True, False, 0
    for action in _ACTION.finditer(body):
        if shown:
            parts.append(body[place : action.start()])
        word, place = action[1], action.end()
        condition = _CONDITION.fullmatch(word)
        if condition:
            done = done and word.startswith("else ")
            shown = not done and message["role"] == condition[1]
            done = done or shown
        elif word == "else":
            shown, done = not done, True
        elif word == "end":
            shown, done = True, False
        elif word not in (".Role", ".Content"):
            raise ValueError(f"not known here: {word}")
        elif shown:
            parts.append(message[word[1:].lower()])
    return "".join(parts) + (body[place:] if shown else "")
