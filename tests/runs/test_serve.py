"""The server, over a real port, by the official client: its answers are those of plain transformers and PEFT."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from tests.runs.test_evaluate import target_of
from tests.served import Served, serving, slowed, wait_until, write_adapter

from siredon.config.artifact import load_target
from siredon.hardware import probe_cpu
from siredon.serve.load import Models, load_models
from siredon.serve.wanted import Address, Limits, Wanted

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(model_folder, folder / name, seed)
        for seed, name in enumerate(("first", "second"), 1)
    }


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> Models:
    # Some processors multiply bfloat16, and are then given a model in it
    config = target_of(folders["first"], bf16="false")
    return load_models(config, probe_cpu(), Wanted(adapters=(("second", folders["second"]),)))


@pytest.fixture(scope="module")
def served(models: Models) -> Iterator[Served]:
    with serving(models, Wanted(limits=Limits(max_waiting=64, max_tokens=400))) as running:
        yield running


@pytest.fixture(scope="module")
def oracle(folders: dict[str, Path], model_folder: Path) -> dict[str, Any]:
    """Name of a model -> the same by plain transformers and PEFT, loaded for itself."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(model_folder).eval()

    tuned = {name: PeftModel.from_pretrained(load(), str(folder)).eval() for name, folder in folders.items()}
    return {**tuned, model_folder.name: load()}


@torch.no_grad()
def go_on(model: Any, ids: list[int], num_tokens: int) -> list[int]:
    """The likeliest tokens, each by a pass over the whole text."""
    new: list[int] = []
    for _ in range(num_tokens):
        logits = model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1]
        new.append(int(logits.argmax()))
        if new[-1] == 2:  # <|im_end|>
            break
    return new


def render(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )


def test_each_model_answers_as_it_does_by_itself(served: Served, oracle: dict[str, Any], tokenizer: Any):
    client = served.client()
    assert [model.id for model in client.models.list()] == list(oracle)
    ids = render(tokenizer, ASKED)
    answers = {}
    for name in [*oracle, *reversed(oracle)]:  # Switching back and forth leaves nothing behind
        reply = client.chat.completions.create(model=name, messages=ASKED, **GREEDY)
        new = go_on(oracle[name], ids, 12)
        answers[name] = reply.choices[0].message.content
        assert answers[name] == tokenizer.decode(new, skip_special_tokens=True)
        assert reply.choices[0].finish_reason == ("stop" if new[-1] == 2 else "length")
        assert reply.usage.prompt_tokens == len(ids)
        assert reply.usage.completion_tokens == len(new)
        assert reply.usage.total_tokens == len(ids) + len(new)
    assert len(set(answers.values())) == len(oracle)


def test_a_stream_is_the_same_answer_in_pieces(served: Served, tokenizer: Any):
    client = served.client()
    whole = client.chat.completions.create(model="first", messages=ASKED, **GREEDY)
    stream = client.chat.completions.create(
        model="first", messages=ASKED, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert len([text for text in texts if text]) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    plain = client.completions.create(model="first", prompt="The sea", stream=True, **GREEDY)
    text = "".join(chunk.choices[0].text for chunk in plain)
    assert text == client.completions.create(model="first", prompt="The sea", **GREEDY).choices[0].text
    ids = tokenizer("The sea").input_ids
    assert text == client.completions.create(model="first", prompt=ids, **GREEDY).choices[0].text


def test_a_stop_text_ends_the_answer_before_it(served: Served):
    client = served.client()
    options = {"model": "first", "messages": ASKED, "temperature": 0, "max_tokens": 24}
    text = client.chat.completions.create(**options).choices[0].message.content
    for start, end in ((5, 7), (6, 12), (11, 12)):
        stop = text[start:end]
        cut = text[: text.index(stop)]
        reply = client.chat.completions.create(stop=[stop, "never said"], **options)
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (cut, "stop")
        stream = client.chat.completions.create(stop=stop, stream=True, **options)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == cut


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ({"top_k": 3}, lambda p: p >= p.topk(3).values[-1]),
        ({"top_p": 0.2}, lambda p: p.cumsum(0) - p < 0.2),
        ({"min_p": 0.5}, lambda p: p >= 0.5 * p.max()),
        ({"temperature": 0.2, "top_k": 2}, lambda p: p >= p.topk(2).values[-1]),
        ({"generation_kwargs": {"suppress_tokens": list(range(3, 300))}}, None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_sampling_keeps_to_what_is_asked(
    served: Served, oracle: dict[str, Any], tokenizer: Any, setting: dict[str, Any], kept: Any
):
    ids = render(tokenizer, ASKED)
    with torch.no_grad():
        logits = oracle["first"](input_ids=torch.tensor([ids])).logits[0, -1].double()
    order = logits.softmax(0).argsort(descending=True)
    probabilities = logits.softmax(0)[order]
    allowed = set(range(300, 512)) | {0, 1, 2} if kept is None else set(order[kept(probabilities)].tolist())
    seen = set()
    for seed in range(6):
        extra = {"top_k": 0, **setting}
        reply = served.client().chat.completions.create(
            model="first", messages=ASKED, n=8, max_tokens=1, seed=seed, extra_body=extra
        )
        seen |= {choice.message.content for choice in reply.choices}
    texts = {tokenizer.decode([token], skip_special_tokens=True) for token in allowed}
    assert seen <= texts
    assert len(seen) > 1


def test_a_seed_makes_the_same_answers_again_and_n_different_ones(served: Served):
    client = served.client()

    def ask(seed: int, **more: Any) -> list[str]:
        options = {"model": "second", "messages": ASKED, "max_tokens": 10, "temperature": 1.0, "seed": seed}
        return [
            choice.message.content for choice in client.chat.completions.create(**options, **more).choices
        ]

    assert ask(5, n=4) == ask(5, n=4) != ask(6, n=4)
    assert len(set(ask(5, n=4))) == 4
    pieces = ["", "", "", ""]
    options = {"model": "second", "messages": ASKED, "max_tokens": 10, "temperature": 1.0, "seed": 5}
    for chunk in client.chat.completions.create(n=4, stream=True, **options):
        pieces[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert pieces == ask(5, n=4)
    penalty = {"repetition_penalty": 50.0}
    reply = client.chat.completions.create(
        model="second", messages=ASKED, temperature=0, max_tokens=30, extra_body=penalty
    )
    plain = client.chat.completions.create(model="second", messages=ASKED, temperature=0, max_tokens=30)
    assert reply.choices[0].message.content != plain.choices[0].message.content


CHAT = {"model": "first", "messages": ASKED, "max_tokens": 2}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"[" * 100_000, 400, None),
        ({**CHAT, "temperature": "hot"}, 400, "temperature"),
        ({**CHAT, "temperature": -1}, 400, "temperature"),
        (
            b'{"model": "first", "messages": [{"role": "user", "content": "?"}], "temperature": NaN}',
            400,
            "temperature",
        ),
        ({**CHAT, "top_p": 0}, 400, "top_p"),
        ({**CHAT, "min_p": 2}, 400, "min_p"),
        ({**CHAT, "n": 0}, 400, "n"),
        ({**CHAT, "n": 9}, 400, "n"),
        ({**CHAT, "n": 2, "temperature": 0}, 400, "n"),
        ({**CHAT, "max_tokens": 401}, 400, "max_tokens"),
        ({**CHAT, "max_tokens": True}, 400, "max_tokens"),
        ({**CHAT, "stop": ""}, 400, "stop"),
        ({**CHAT, "typical": 1}, 400, "typical"),
        ({**CHAT, "generation_kwargs": {"num_beams": 3}}, 400, "generation_kwargs.num_beams"),
        ({**CHAT, "frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({**CHAT, "tools": []}, 400, "tools"),
        ({**CHAT, "messages": []}, 400, "messages"),
        ({**CHAT, "messages": [{"role": "pirate", "content": "?"}]}, 400, "messages"),
        ({**CHAT, "messages": [{"role": "user"}]}, 400, "messages"),
        ({**CHAT, "messages": [{"role": "user", "content": "\ud800"}]}, 400, None),
        ({**CHAT, "messages": [{"role": "user", "content": "word " * 2000}]}, 400, "messages"),
        ({**CHAT, "model": "gpt-9"}, 404, "model"),
        ({"model": "first"}, 400, "messages"),
    ],
)
def test_what_is_wrong_is_refused_with_the_field_named(
    served: Served, body: Any, status: int, param: str | None
):
    given, reply, _ = served.post("/v1/chat/completions", body)
    assert (given, reply["error"]["param"]) == (status, param), reply
    assert reply["error"]["message"]


def test_neutral_values_of_what_is_not_built_are_taken(served: Served):
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "user": "me",
        "logprobs": False,
    }
    status, reply, _ = served.post(
        "/v1/chat/completions", {**CHAT, **neutral, "response_format": {"type": "text"}}
    )
    assert status == 200, reply


def test_strange_requests_are_refused_in_the_same_shape(served: Served):
    bodies = {
        "/v1/completions": ({"model": "first", "prompt": [100_000]}, 400),
        "/v1/completions?": ({"model": "first", "prompt": ["a", "b"]}, 400),
        "/v1/completions??": ({"model": "first", "prompt": ""}, 400),
        "/v1/embeddings": ({}, 404),
    }
    for path, (body, expected) in bodies.items():
        status, reply, _ = served.post(path.rstrip("?"), body)
        assert (status, "message" in reply["error"]) == (expected, True)
    assert served.post("/v1/chat/completions", CHAT, **{"content-type": "text/plain"})[0] == 415
    assert served.get("/v1/models", host="evil.example").status_code == 403
    status, reply, _ = served.post("/v1/chat/completions", b" " * (4 * 2**20 + 1))
    assert (status, reply["error"]["type"]) == (413, "invalid_request_error")


def test_a_gigantic_body_without_a_length_is_cut_off(served: Served):
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sent:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        sent.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(200):
                sent.sendall(b"100000\r\n" + b"x" * 2**20 + b"\r\n")
            told = sent.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            told = b"HTTP/1.1 413"
    assert told.startswith(b"HTTP/1.1 413")
    assert served.get("/health").json() == {"status": "ok"}


def test_only_who_has_the_key_is_answered(models: Models, capsys: pytest.CaptureFixture[str]):
    key = "k" * 20
    with serving(models, Wanted(address=Address(api_key=key))) as locked:
        for wrong in ("none", key[:-1], key + "k", "\u00e9"):
            status = locked.post("/v1/completions", {}, authorization=f"Bearer {wrong}".encode())[0]
            assert status == 401
        with pytest.raises(openai.AuthenticationError):
            locked.client(api_key="other").models.list()
        assert len(list(locked.client(api_key=key).models.list())) == 3
        assert locked.get("/metrics").status_code == 401
        assert locked.get("/health").status_code == 200
    assert key not in capsys.readouterr().err + repr(Address(api_key=key))


def test_a_client_that_leaves_ends_its_answer(served: Served, models: Models):
    client = served.client()
    done = served.metric("siredon_generated_tokens_total")
    gone = served.metric('siredon_failed_answers_total{reason="cancelled"}')
    options = {"model": "first", "prompt": "The sea", "max_tokens": 400, "temperature": 0}
    with slowed(models, 0.05):
        for chunk in client.completions.create(
            stream=True, extra_body={"generation_kwargs": {"min_new_tokens": 400}}, **options
        ):
            assert chunk
            break
        client.close()
        with pytest.raises(openai.APITimeoutError):
            served.client(timeout=0.3).completions.create(
                extra_body={"generation_kwargs": {"min_new_tokens": 400}}, **options
            )
        wait_until(lambda: served.line.num_running == 0 and served.line.num_waiting == 0, 15)
    assert served.metric('siredon_failed_answers_total{reason="cancelled"}') == gone + 2
    assert served.metric("siredon_generated_tokens_total") == done


def test_a_full_line_and_a_long_answer_are_told(models: Models):
    limits = Limits(max_waiting=1, timeout_seconds=0.5, max_tokens=400)
    body = {
        "model": "first",
        "prompt": "The sea",
        "max_tokens": 400,
        "generation_kwargs": {"min_new_tokens": 400},
    }
    with serving(models, Wanted(limits=limits)) as served, slowed(models, 0.05):
        replies: list[Any] = []
        threads = [
            threading.Thread(target=lambda: replies.append(served.post("/v1/completions", body)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = sorted(reply[0] for reply in replies)
        assert set(statuses) == {503, 504}
        assert statuses.count(503) >= 3
        full = next(reply for reply in replies if reply[0] == 503)
        assert (full[1]["error"]["code"], full[2]["retry-after"]) == ("queue_full", "1")
        with pytest.raises(openai.APIError, match="too long"):
            list(
                served.client().completions.create(
                    model="first",
                    prompt="The sea",
                    stream=True,
                    max_tokens=400,
                    extra_body={"generation_kwargs": {"min_new_tokens": 400}},
                )
            )
        wait_until(lambda: served.line.num_running == 0)
        assert served.client().completions.create(model="first", prompt="The", max_tokens=2).choices


def test_a_slow_reader_keeps_nobody_waiting(served: Served):
    host, port = served.url.removeprefix("http://").split(":")
    more = {"max_tokens": 150, "n": 8, "seed": 0, "generation_kwargs": {"min_new_tokens": 150}}
    body = json.dumps({"model": "first", "prompt": "The sea", "stream": True, **more}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)  # Nobody reads what comes
        reply = served.client().chat.completions.create(model="second", messages=ASKED, **GREEDY)
        assert reply.choices[0].message.content
        slow.settimeout(30)
        text = b""
        while b"[DONE]" not in text:
            text += slow.recv(2**16)
    assert text.count(b'"finish_reason":"length"') == 8


def test_a_model_that_fails_ends_one_request(
    served: Served, models: Models, capsys: pytest.CaptureFixture[str]
):
    def fail(*_: Any) -> None:
        raise ValueError("broken layer")

    handle = models.engines["first"].model.get_input_embeddings().register_forward_hook(fail)
    try:
        status, reply, _ = served.post("/v1/chat/completions", CHAT)
    finally:
        handle.remove()
    assert (status, reply["error"]["type"]) == (500, "server_error")
    assert "broken layer" not in reply["error"]["message"]
    assert "broken layer" in capsys.readouterr().err
    assert served.post("/v1/chat/completions", CHAT)[0] == 200


def test_metrics_are_in_the_format_of_prometheus(served: Served):
    assert (
        served.post("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "?"}]})[0]
        == 200
    )
    text = served.get("/metrics").text
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.]+')
    names = set()
    for line in text.splitlines():
        if not line.startswith("# "):
            assert sample.fullmatch(line), line
            names.add(re.split(r"[{ ]", line)[0])
    assert text.endswith("\n")
    buckets = [
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("siredon_request_seconds_bucket")
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == served.metric("siredon_request_seconds_count") > 0
    assert served.metric('siredon_requests_total{route="/v1/chat/completions",status="200"}') > 0
    assert {"siredon_requests_waiting", "siredon_requests_running", "siredon_prompt_tokens_total"} <= names


def test_one_question_is_asked_as_in_training_and_no_more(write_config: Any, models: Models):
    from siredon.config.load import load_config
    from siredon.data.dialogue import build_dialogue
    from siredon.data.prompt import build_prompting
    from siredon.data.types import RowError

    for kind in ("alpaca", "chat_template"):
        path = write_config(datasets=[{"path": "rows.jsonl", "type": kind}])
        config, _ = load_config(str(path))
        tokenizer = next(iter(models.engines.values())).tokenizer
        render = build_dialogue(config.first_dataset, config.tokenizer, tokenizer)
        prompting = build_prompting(config.first_dataset, config.tokenizer, tokenizer)
        assert render([{"role": "user", "content": "Hi"}]) == prompting.render("Hi")
        if kind == "alpaca":
            with pytest.raises(RowError, match="one question at a time"):
                render(ASKED)


@pytest.mark.parametrize("method", ["int8", "int4", "nf4", "llm_int8"])
def test_weights_in_few_bits_answer_as_plain_transformers_has_them(
    model_folder: Path, tmp_path: Path, tokenizer: Any, method: str
):
    from transformers import AutoModelForCausalLM

    from siredon import release
    from siredon.export.quantize_wanted import Quantize

    few = tmp_path / f"few-{method}"
    release.quantize(load_target(str(model_folder))[0], Quantize(method, output=few, verify=False))
    ids = render(tokenizer, ASKED)
    new = go_on(AutoModelForCausalLM.from_pretrained(few).eval(), ids, 12)
    with serving(load_models(target_of(few, bf16="false"), probe_cpu(), Wanted()), Wanted()) as running:
        client = running.client()
        assert [model.id for model in client.models.list()] == [few.name]
        reply = client.chat.completions.create(model=few.name, messages=ASKED, **GREEDY)
        stream = client.chat.completions.create(model=few.name, messages=ASKED, stream=True, **GREEDY)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert reply.choices[0].message.content == tokenizer.decode(new, skip_special_tokens=True)
    assert "".join(pieces) == reply.choices[0].message.content
    assert reply.usage.completion_tokens == len(new)


def test_two_models_of_one_name_are_refused(folders: dict[str, Path]):
    from siredon.errors import ModelError
    from siredon.serve.names import name_models

    config, _ = load_target(str(folders["first"]))
    with pytest.raises(ModelError, match="two of the served models"):
        name_models(config, replace(Wanted(), adapters=(("first", folders["second"]),)))
