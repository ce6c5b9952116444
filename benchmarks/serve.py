"""`siredon serve` under load: concurrent streams, cancelled clients, malformed, gigantic and slow ones, all at once.

python benchmarks/serve.py FOLDER [--clients 8] [--requests 5] [--output benchmarks/results/serve_cpu_DATE.md]

FOLDER is what `siredon serve` takes.  The same load of ordinary clients is run alone first, so that what the others do
to it is a ratio of one run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from report import write_report


@dataclass
class Load:
    """What happened to the requests of one run."""

    first: list[float] = field(default_factory=list)
    tokens: int = 0
    done: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def body(model: str, **more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "Give me one tip for sleeping well."}]
    return {
        "model": model,
        "messages": messages,
        "max_tokens": 24,
        "temperature": 0.7,
        "stream": True,
        **more,
    }


def stream(url: str, model: str, load: Load, *, leave: bool = False) -> None:
    """One client that reads its stream, or leaves after the first words."""
    began = time.perf_counter()
    asked = body(model, stream_options={"include_usage": True})
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=300) as reply:
        if reply.status_code != 200:
            load.errors[str(reply.status_code)] += 1
            return
        seen = False
        for line in reply.iter_lines():
            if '"content":"' in line and '"content":""' not in line and not seen:
                seen = True
                load.first.append(time.perf_counter() - began)
                if leave:
                    return
            if '"completion_tokens":' in line:
                load.tokens += int(line.partition('"completion_tokens":')[2].partition(",")[0])
                load.done += 1


def ordinary(url: str, model: str, options: argparse.Namespace) -> Load:
    load = Load()
    began = time.perf_counter()

    def work() -> None:
        for _ in range(options.requests):
            stream(url, model, load)

    threads = [threading.Thread(target=work) for _ in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - began
    return load


def attack(url: str, model: str, over: threading.Event, counts: Counter[str]) -> None:
    """Clients that leave, that are wrong, that are too large, and that do not read."""
    host, port = url.removeprefix("http://").split(":")
    idle = []
    while not over.is_set():
        stream(url, model, Load(), leave=True)
        counts["cancelled streams"] += 1
        for wrong in (b"{", b'{"model": 1}', b"[" * 10_000):
            reply = httpx.post(
                f"{url}/v1/chat/completions", content=wrong, headers={"content-type": "application/json"}
            )
            counts[f"malformed, status {reply.status_code}"] += 1
        try:
            reply = httpx.post(
                f"{url}/v1/completions", content=b" " * 2**23, headers={"content-type": "application/json"}
            )
            counts[f"gigantic, status {reply.status_code}"] += 1
        except httpx.TransportError:
            counts["gigantic, connection ended"] += 1
        slow = socket.create_connection((host, int(port)))
        content = httpx.Request("POST", url, json=body(model)).content
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        slow.sendall(head.encode() + content)
        idle.append(slow)
        counts["streams that nobody reads"] += 1
        over.wait(1)
    for slow in idle:
        slow.close()


def row(name: str, load: Load) -> str:
    cuts = statistics.quantiles(load.first, n=20) if len(load.first) > 1 else [0.0] * 19
    errors = ", ".join(f"{count}x {status}" for status, count in load.errors.items()) or "none"
    return (
        f"| {name} | {load.done} | {load.done / load.seconds:.2f} | {load.tokens / load.seconds:.1f} "
        f"| {cuts[9]:.2f} | {cuts[18]:.2f} | {errors} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "siredon", "serve", options.folder, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        url = f"http://127.0.0.1:{port}"
        try:
            write_report(measure(url, options), options.output)
        finally:
            child.terminate()


def measure(url: str, options: argparse.Namespace) -> list[str]:
    for _ in range(600):
        try:
            models = httpx.get(f"{url}/v1/models").json()
            break
        except httpx.TransportError:
            time.sleep(0.5)
    model = models["data"][0]["id"]
    stream(url, model, Load())
    alone = ordinary(url, model, options)
    over, counts = threading.Event(), Counter[str]()
    attacker = threading.Thread(target=attack, args=(url, model, over, counts))
    attacker.start()
    attacked = ordinary(url, model, options)
    over.set()
    attacker.join()
    health = httpx.get(f"{url}/health").status_code
    python = platform.python_version()
    ratio = attacked.tokens / attacked.seconds / (alone.tokens / alone.seconds)
    others = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return [
        "# `siredon serve` under load",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {python}. "
        f"Engine `transformers`; {options.clients} clients at once, "
        f"{options.requests} streams each, of 24 tokens at most, of {model}.",
        "",
        "| load | answers | answers/s | tokens/s | first token, p50 s | p95 s | errors |",
        "|---|---|---|---|---|---|---|",
        row("ordinary clients alone", alone),
        row("the same, among the others", attacked),
        "",
        f"Tokens per second among the others, of alone: {ratio:.2f}.",
        f"The others: {others}. Health after it: {health}.",
    ]


if __name__ == "__main__":
    main()
