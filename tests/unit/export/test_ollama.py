"""A Modelfile says what went into it, and its template renders what the model's own does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from siredon.data.templates.chatml import TEMPLATE as CHATML
from siredon.errors import ModelError
from siredon.export.go_template import FORMS, find_form, render_go
from siredon.export.modelfile import Modelfile, read_modelfile, write_modelfile

SYSTEM = {"role": "system", "content": "S"}
TALK = (
    {"role": "user", "content": "A"},
    {"role": "assistant", "content": "B"},
    {"role": "user", "content": "C"},
)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            "chatml",
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("mistral_v2v3", "[INST] A[/INST] B</s>[INST] C[/INST]"),
        ("mistral_v3_tekken", "[INST]A[/INST]B</s>[INST]C[/INST]"),
    ],
)
def test_a_form_renders_as_go_does(form: str, expected: str):
    assert render_go(FORMS[form], TALK) == expected


def test_branches_and_what_is_unknown():
    form = (
        '<{{ range .Messages }}{{ if eq .Role "system" }}s{{ .Content }}'
        '{{ else if eq .Role "user" }}u{{ else }}x{{ end }};{{ end }}>'
    )
    assert render_go(form, [SYSTEM, *TALK]) == "<sS;u;x;u;>"
    with pytest.raises(ValueError, match="not known here"):
        render_go("{{ range .Messages }}{{ .Thinking }}{{ end }}", TALK)
    with pytest.raises(ValueError, match="without its end"):
        render_go("{{ range .Messages }}{{ .Role }}", TALK)


def test_the_form_is_found_by_what_it_renders(tokenizer: Any):
    assert find_form(tokenizer, CHATML.source, adds_bos=False) == (FORMS["chatml"], "")

    named = (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are Siredon.<|im_end|>\n' }}{% endif %}"
        + CHATML.source
    )
    assert find_form(tokenizer, named, adds_bos=False) == (FORMS["chatml"], "You are Siredon.")

    llama = (
        "{{ '<s>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
        "+ message['content'] + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    )
    from tests.conftest import build_tokenizer

    begun = build_tokenizer(bos="<s>", eos="<|eot_id|>", add_bos=True)
    assert find_form(begun, llama, adds_bos=True) == (FORMS["llama3"], "")
    assert find_form(begun, llama, adds_bos=False) == ("<s>" + FORMS["llama3"], "")

    odd = CHATML.source.replace("<|im_end|>", "<|eot_id|>")
    with pytest.raises(ModelError, match="no Go template is known here"):
        find_form(tokenizer, odd, adds_bos=False)
    with pytest.raises(ModelError, match="no chat template"):
        find_form(tokenizer, "", adds_bos=False)


def test_a_modelfile_is_read_as_it_was_written():
    said = Modelfile("tiny-q8_0.gguf", FORMS["chatml"], ("<|im_end|>", "</s>"), 'Be "brief".\nAlways.')
    text = write_modelfile(said)
    assert text.startswith("FROM ./tiny-q8_0.gguf\nTEMPLATE ")
    assert read_modelfile(text) == said
    assert read_modelfile(write_modelfile(replace(said, system=""))) == replace(said, system="")
    with pytest.raises(ModelError, match="not understood: 'ADAPTER x'"):
        read_modelfile(text + "ADAPTER x\n")
    with pytest.raises(ModelError, match="cannot hold a text"):
        write_modelfile(replace(said, system='Say """.'))
