"""A server of the tiny model with two adapters, real, on a free port; and clients of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Served:
    """A running server, and what it is made of."""

    url: str
    models: Any
    line: Any
    app: Any

    def client(self, **options: Any) -> Any:
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, body and headers of a raw request."""
        import httpx

        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"content-type": "application/json", **headers}
        reply = httpx.post(f"{self.url}{path}", content=content, headers=head, timeout=60)
        return reply.status_code, reply.json(), dict(reply.headers)

    def get(self, path: str, **headers: str) -> Any:
        import httpx

        return httpx.get(f"{self.url}{path}", headers=headers, timeout=30)

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def write_adapter(base: Path, folder: Path, seed: int) -> Path:
    """An adapter of LoRA with random weights, large enough to change answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(folder)
    return folder


@contextmanager
def serving(models: Any, wanted: Any) -> Iterator[Served]:
    """Runs the server in a thread."""
    import uvicorn

    from siredon.serve.api import build_app
    from siredon.serve.line import Line

    line = Line(wanted.limits.max_waiting)
    app = build_app(models, line, wanted)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield Served(f"http://127.0.0.1:{port}", models, line, app)
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    """Waits for something that must come about; a machine that is busy only makes it later."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


@contextmanager
def slowed(models: Any, seconds: float) -> Iterator[None]:
    """Each token takes a while longer."""
    embeddings = next(iter(models.engines.values())).model.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda *_: time.sleep(seconds))
    try:
        yield
    finally:
        handle.remove()
