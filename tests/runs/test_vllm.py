"""vLLM: what it is started with; and, where its environment is, the real one beside the engine of transformers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.conftest import ROOT
from tests.served import wait_until, write_adapter

from siredon.config.artifact import load_target
from siredon.config.load import load_config
from siredon.config.model_folder import cache_folder
from siredon.errors import ModelError, ServeError
from siredon.serve.engines.vllm import find_program, list_words, serve_vllm
from siredon.serve.wanted import Address, Limits, Wanted

ENV = Path(os.environ.get("VLLM_ENV", ROOT / ".vllm-env"))
MODEL = cache_folder() / "models" / "HuggingFaceTB/SmolLM2-135M-Instruct"
QUESTION = [{"role": "user", "content": "Who are you?"}]
KEY = "key-of-the-test"
VLLM = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True, "enable_prefix_caching": False}


def test_vllm_gets_the_base_its_adapters_and_the_keys(tmp_path: Path, model_folder: Path, write_config: Any):
    first = write_adapter(model_folder, tmp_path / "first", 1)
    (first / "tokenizer_config.json").write_text("{}")
    second = write_adapter(model_folder, tmp_path / "second", 2)
    keys = {**VLLM, "tensor_parallel_size": 2, "data_parallel_size": 3, "gpu_memory_utilization": 0.5}
    keys |= {"enable_reasoning": True, "reasoning_parser": "qwen3"}
    config, _ = load_config(str(write_config(adapter="lora", lora_model_dir=str(first), lora_r=9, vllm=keys)))
    wanted = Wanted(name="tuned", adapters=(("other", second),), address=Address("127.0.0.1", 99))
    words = list_words(config, wanted, is_online=False)
    text = " ".join(words)
    assert words[:2] == ["serve", str(model_folder)]
    assert f"--served-model-name {model_folder.name} --host 127.0.0.1 --port 99" in text
    assert f"--lora-modules tuned={first} other={second} --tokenizer {first}" in text
    assert "--enable-lora --max-lora-rank 16 --max-loras 2" in text
    for option in (
        *("--dtype float32", "--tensor-parallel-size 2", "--data-parallel-size 3", "--max-model-len 512"),
        *("--gpu-memory-utilization 0.5", "--enforce-eager", "--no-enable-prefix-caching"),
        "--reasoning-parser qwen3",
    ):
        assert option in text
    settings = json.loads((second / "adapter_config.json").read_text())
    (second / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(ModelError, match="has DoRA"):
        list_words(config, wanted, is_online=False)
    fresh, _ = load_config(str(write_config("fresh.yml", adapter="lora", lora_target_linear=True)))
    assert "--lora-modules" not in list_words(fresh, Wanted(), is_online=True)
    assert list_words(fresh, Wanted(), is_online=True)[-6:-2] == [
        "--enable-lora",
        "--max-lora-rank",
        "8",
        "--max-loras",
    ]


def test_what_vllm_cannot_do_is_refused(tmp_path: Path, model_folder: Path):
    config, _ = load_target(str(model_folder))
    with pytest.raises(ServeError, match="vLLM is not there"):
        find_program(tmp_path)
    with pytest.raises(ServeError, match="limits"):
        serve_vllm(config, replace(Wanted("vllm"), limits=Limits(max_tokens=1)))
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho $0 $@ key=$VLLM_API_KEY path=$PYTHONPATH > $(dirname $0)/told\nexit 3\n"
    )
    program.chmod(0o755)
    wanted = Wanted("vllm", vllm_env=tmp_path, address=Address(port=0, api_key=KEY))
    with pytest.raises(ServeError, match="with status 3"):
        serve_vllm(config, wanted)
    told = (program.parent / "told").read_text()
    assert told.endswith(f"key={KEY} path=\n")
    assert KEY not in told.partition("key=")[0]


def train(folder: Path, answer: str, **more: Any) -> Path:
    """Trains an adapter of SmolLM2 to answer one question."""
    import yaml

    folder.mkdir()
    row = {"messages": [*QUESTION, {"role": "assistant", "content": answer}]}
    (folder / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 4)
    keys = {
        "base_model": str(MODEL),
        "datasets": [{"path": str(folder / "rows.jsonl"), "type": "chat_template"}],
        "dataset_prepared_path": str(folder / "prepared"),
        "adapter": "lora",
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_target_linear": True,
        "sequence_len": 64,
        "learning_rate": 3e-3,
        "max_steps": 8,
        "bf16": False,
        "save_strategy": "no",
        "output_dir": str(folder / "run"),
        "vllm": VLLM,
        **more,
    }
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump({key: value for key, value in keys.items() if value is not None}))
    subprocess.run([sys.executable, "-m", "siredon", "train", str(path)], check=True, capture_output=True)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not MODEL.is_dir():
        pytest.skip("SmolLM2 is not on this machine: make model")
    return train(tmp_path_factory.mktemp("runs") / "first", "I am the first.")


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def server(
    request: pytest.FixtureRequest, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "siredon", "serve", str(run), "--port", port]
    if request.param == "vllm":
        if not (ENV / "bin" / "vllm").is_file():
            pytest.skip("vLLM is not on this machine: make vllm-env")
        command = [*command[:3], "vllm-serve", str(run), "--vllm-env", str(ENV), f"vllm.port={port}"]
    more = {"SIREDON_API_KEY": KEY, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    log = (tmp_path_factory.mktemp("log") / "log").open("w+")
    with subprocess.Popen(
        command, env={**os.environ, **more}, stdout=subprocess.PIPE, stderr=log, text=True
    ) as child:
        lines: list[str] = []
        reading = threading.Thread(target=lambda: lines.extend(child.stdout or ()), daemon=True)
        reading.start()
        try:
            wait_until(lambda: any("SmolLM2" in line for line in lines) or child.poll() is not None, 600)
            log.seek(0)
            assert child.poll() is None, log.read()[-3000:]
            yield f"http://127.0.0.1:{port}"
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def ask(server: str, model: str, **more: Any) -> Any:
    client = openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0)
    options = {"messages": QUESTION, "temperature": 0, "max_tokens": 12, **more}
    return client.chat.completions.create(model=model, **options)


@pytest.mark.long
def test_both_engines_answer_alike(server: str, run: Path):
    from transformers import AutoTokenizer

    client = openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0)
    assert {model.id for model in client.models.list()} == {"run", MODEL.name}
    tuned, base = ask(server, "run"), ask(server, MODEL.name)
    assert tuned.choices[0].message.content == "I am the first."
    assert tuned.choices[0].finish_reason == "stop"
    assert base.choices[0].message.content != tuned.choices[0].message.content
    assert (base.choices[0].finish_reason, base.usage.completion_tokens) == ("length", 12)
    tokenizer = AutoTokenizer.from_pretrained(run)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert base.usage.prompt_tokens == tuned.usage.prompt_tokens == len(ids)
    stream = ask(server, "run", stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "I am the first."
    assert chunks[-1].usage.completion_tokens == tuned.usage.completion_tokens
    assert ask(server, "run", stop="first").choices[0].message.content == "I am the "
    options = {"n": 3, "temperature": 1.0, "seed": 3, "extra_body": {"top_k": 20, "min_p": 0.01}}
    several = [choice.message.content for choice in ask(server, MODEL.name, **options).choices]
    assert several == [choice.message.content for choice in ask(server, MODEL.name, **options).choices]
    assert len(set(several)) == 3
    plain = client.completions.create(
        model=MODEL.name, prompt="The capital of France is", max_tokens=3, temperature=0
    )
    assert "Paris" in plain.choices[0].text


@pytest.mark.long
def test_both_engines_refuse_alike(server: str):
    for options in ({"temperature": -1}, {"top_p": 2}, {"max_tokens": 100_000}, {"n": 0}):
        with pytest.raises(openai.BadRequestError):
            ask(server, "run", **options)
    with pytest.raises(openai.NotFoundError):
        ask(server, "nobody")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server}/v1", api_key="wrong", max_retries=0).models.list()
    assert httpx.get(f"{server}/health").status_code == 200
    text = httpx.get(f"{server}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    assert "# TYPE" in text


@pytest.mark.long
def test_an_adapter_that_is_trained_further_is_swapped_without_a_restart(
    request: pytest.FixtureRequest, server: str, run: Path, tmp_path: Path
):
    if request.node.callspec.params["server"] != "vllm":
        pytest.skip("only vLLM swaps adapters")
    head = {"authorization": f"Bearer {KEY}"}

    def load(folder: Path, *, again: bool) -> None:
        body = {"lora_name": "learner", "lora_path": str(folder), "load_inplace": again}
        httpx.post(f"{server}/v1/load_lora_adapter", json=body, headers=head, timeout=60).raise_for_status()

    load(run, again=False)
    before = ask(server, "learner").choices[0].message.content
    further = train(
        tmp_path / "second", "Now I am another.", lora_model_dir=str(run), lora_target_linear=None
    )
    load(further, again=True)
    after = ask(server, "learner").choices[0].message.content
    assert (before, after) == ("I am the first.", "Now I am another.")
    assert ask(server, "run").choices[0].message.content == before
    httpx.post(
        f"{server}/v1/unload_lora_adapter", json={"lora_name": "learner"}, headers=head
    ).raise_for_status()
    with pytest.raises(openai.NotFoundError):
        ask(server, "learner")
