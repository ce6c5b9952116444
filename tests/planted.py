"""Secrets planted wherever a run can meet one, and a search for them in all that it writes and shows.

    python -m tests.planted [FOLDER]      runs it all in a folder, and shows a table of what was searched

Each secret is looked for as it is, as addresses and JSON write it, and in base64 at every offset.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import yaml

#: Where each secret is planted.
SECRETS = {
    "HF_TOKEN": "hub-env/0815 a+b",
    "WANDB_API_KEY": "wandb-env-4711",
    "AWS_SECRET_ACCESS_KEY": "aws/env+key/2718",
    "LAB_DB_PASSWORD": 'db"env-password-3141',
    "comet_api_key in the YAML": "comet yaml key 1618",
    "swanlab_lark_webhook_url in the YAML": "https://bots.example/hook/1414-abcd",
    "a key from ${WANDB_API_KEY}": "wandb-env-4711",
    "password in datasets.path": "pa%24s-url-5772",
    "signature in datasets.path": "signed-url-query-0690",
    "signature that a server sends on to": "redirect-signature-1732",
    "password in base_model": "model-url-6626",
    "--hub-token VALUE": "argv-hub-token-2236",
    "swanlab_api_key=VALUE": "argv swanlab key 2449",
    "token file of the hub": "hf_filetokenfiletokenfile26457",
    ".netrc": "netrc-password-3162",
    "raised by the user's function": "ghp_raisedraisedraisedraised3316",
}


@dataclass
class Outcome:
    """What was run, how it ended, and where a secret was found."""

    statuses: dict[str, int] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    num_files: int = 0
    num_bytes: int = 0
    found: list[str] = field(default_factory=list)


def spell(secret: str) -> set[bytes]:
    """All the ways in which a secret is looked for."""
    texts = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    texts |= {repr(secret)[1:-1], secret.encode("utf-16-le").decode("latin-1")}
    raw = secret.encode()
    for shift in range(3):
        # Less the characters that its neighbours have a part in
        coded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
        texts.add(coded[(0, 2, 3)[shift] : -1].decode())
    return {text.encode("latin-1", "replace") for text in texts}


def search(data: bytes, where: str) -> list[str]:
    """Which secrets are in it."""
    return [
        f"{name} in {where}" for name, secret in SECRETS.items() if any(way in data for way in spell(secret))
    ]


class _Handler(BaseHTTPRequestHandler):
    rows: bytes = b""

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        if name == "rows.jsonl":
            self._answer(200, self.rows)
        elif name == "moved":
            place = f"/404?X-Amz-Signature={SECRETS['signature that a server sends on to']}"
            self._answer(302, b"", Location=place)
        else:
            self._answer(int(name), b"no")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body)), "ETag": '"1"'}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: it would show what was asked for."""


@contextmanager
def serve(rows: bytes) -> Iterator[str]:
    """A web server on this machine: `/rows.jsonl`, `/moved`, and `/404` and the like; yields `host:port`."""
    handler = type("Handler", (_Handler,), {"rows": rows})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_FUNCTION = """
class Odd(dict):
    def __contains__(self, name):
        raise LookupError({secret!r})


def fails(row):
    raise RuntimeError({secret!r} + " https://me:{password}@host/a")


def is_odd(row):
    return Odd(row) if row["number"] > 9 else {{"text": row["text"]}}
"""


def write_files(folder: Path, model: Path, host: str) -> dict[str, Path]:
    """The configurations, and a module with the user's functions."""
    secret = {name: quote(value, safe="%") for name, value in SECRETS.items()}
    where = f"http://me:{secret['password in datasets.path']}@{host}"
    query = f"?X-Amz-Signature={secret['signature in datasets.path']}&sig=x"
    raised = f"{SECRETS['raised by the user' + chr(39) + 's function']} {SECRETS['HF_TOKEN']}"
    text = _FUNCTION.format(secret=raised, password=SECRETS["password in datasets.path"])
    (folder / "planted_functions.py").write_text(text)
    rows = [{"number": number, "text": f"row {number} of a lake"} for number in range(20)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    good: dict[str, Any] = {
        "base_model": str(model),
        "datasets": [{"path": f"{where}/rows.jsonl{query}", "type": "completion", "field": "text"}],
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "out"),
        "sequence_len": 64,
        "micro_batch_size": 1,
        "max_steps": 2,
        "save_steps": 1,
        "learning_rate": 1e-3,
        "lr_scheduler": "constant",
        "adapter": "lora",
        "lora_target_linear": True,
        "lora_r": 4,
        "lora_alpha": 8,
        "bf16": False,
        "val_set_size": 0.2,
    }
    try:
        import tensorboard  # noqa: F401

        good["use_tensorboard"] = True
    except ModuleNotFoundError:
        pass
    files = {"good": good}
    files["broken"] = good | {
        "comet_api_key": secret["comet_api_key in the YAML"],
        "swanlab_lark_webhook_url": SECRETS["swanlab_lark_webhook_url in the YAML"],
        "swanlab_api_key": "${WANDB_API_KEY}",
        "lora_rr": f"https://me:{secret['password in base_model']}@host/a",
        "base_model": f"https://me:{secret['password in base_model']}@host/model",
    }
    for status in ("401", "403", "404", "500", "moved"):
        files[status] = good | {"datasets": [{"path": f"{where}/{status}{query}", "type": "completion"}]}
    local = {"path": str(folder / "rows.jsonl"), "type": "completion", "field": "text"}
    files["raises"] = good | {"datasets": [local | {"input_transform": "planted_functions.fails"}]}
    crash = {"val_set_size": 0, "output_dir": str(folder / "crashed"), "streaming": True}
    files["crash"] = (
        good
        | crash
        | {
            "datasets": [{"path": local["path"], "type": "planted_functions.is_odd"}],
            "max_steps": 30,
        }
    )
    files["nowhere"] = good | {"base_model": f"https://me:{secret['password in base_model']}@host/model"}
    paths = {name: folder / f"{name}.yml" for name in files}
    for name, values in files.items():
        paths[name].write_text(
            yaml.safe_dump({key: value for key, value in values.items() if value is not None})
        )
    return paths


def list_commands(paths: dict[str, Path], folder: Path) -> dict[str, list[str]]:
    """What is run, in order: a name for each, and its words."""
    file = {name: str(path) for name, path in paths.items()}
    token = ["--hub-token", SECRETS["--hub-token VALUE"]]
    setting = [f"swanlab_api_key={SECRETS['swanlab_api_key=VALUE']}"]
    password = SECRETS["password in datasets.path"]
    return {
        "check, with errors": ["check", file["broken"], *token, *setting],
        "check --format json": ["check", file["broken"], *token, *setting, "--format", "json"],
        "check --format github": ["check", file["broken"], f"--hub-token={token[1]}", "--format", "github"],
        "check --fix": ["check", file["broken"], "--fix", "--diff"],
        "usage: a word too many": ["check", file["good"], f"https://me:{password}@host/a"],
        "usage: no number": ["inspect", file["good"], "--rows", SECRETS["HF_TOKEN"]],
        "config show": ["config", "show", file["good"]],
        "config show --format json": ["config", "show", file["good"], "--format", "json"],
        "config diff": ["config", "diff", file["good"], file["404"]],
        "env": ["env"],
        "preprocess": ["preprocess", file["good"]],
        "inspect --html": ["inspect", file["good"], "--html", str(folder / "page.html")],
        "inspect --json": ["inspect", file["good"], "--json"],
        "train": ["train", file["good"]],
        "train, resumed": ["train", file["good"], "--max-steps", "3", "--auto-resume-from-checkpoints"],
        "inference": ["inference", file["good"], "--prompt", "a", "--max-new-tokens", "4"],
        "merge-lora": ["merge-lora", file["good"]],
        **{f"source: {name}": ["preprocess", file[name]] for name in ("401", "403", "404", "500", "moved")},
        "source: no server": [
            "preprocess",
            file["good"],
            "datasets.0.path=http://me:" + password + "@127.0.0.1:1/a",
        ],
        "a function raises": ["preprocess", file["raises"]],
        "a crash while training": ["train", file["crash"]],
        "no such model": ["train", file["nowhere"]],
    }


def run_all(folder: Path, model: Path, run: Callable[[list[str]], tuple[int, str]]) -> Outcome:
    """Runs every command, and searches what it showed and wrote.

    Args:
        folder: An empty folder, in which all is written.
        model: The folder of a tiny model.
        run: Runs the command line with some words; returns its status, and stdout and stderr.
    """
    outcome = Outcome()
    rows = "\n".join(json.dumps({"text": f"row {number} of a lake"}) for number in range(20)).encode()
    with serve(rows) as host:
        paths = write_files(folder, model, host)
        inputs = {*paths.values(), folder / "planted_functions.py", folder / "home"}
        for name, words in list_commands(paths, folder).items():
            status, shown = run(words)
            outcome.statuses[name], outcome.shown[name] = status, shown
            outcome.found += search(shown.encode(), f"what `{name}` shows")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not inputs & {path, *path.parents} and path.suffix != ".pyc":
            data = path.read_bytes()
            outcome.num_files += 1
            outcome.num_bytes += len(data)
            outcome.found += search(data, str(path.relative_to(folder)))
            outcome.found += search(path.name.encode(), "the name of a file")
    return outcome


def plant(folder: Path) -> dict[str, str]:
    """Variables of the environment for it, and the files of a home folder."""
    home = folder / "home"
    home.mkdir(parents=True)
    (home / "token").write_text(SECRETS["token file of the hub"])
    (home / ".netrc").write_text(f"machine 127.0.0.1 login me password {SECRETS['.netrc']}\n")
    names = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "LAB_DB_PASSWORD")
    return {name: SECRETS[name] for name in names} | {
        "HF_TOKEN_PATH": str(home / "token"),
        "NETRC": str(home / ".netrc"),
    }


def run_here(words: list[str]) -> int:
    """Runs the command line in this process; returns its status."""
    from siredon.cli.app import main

    before, sys.argv = sys.argv, ["siredon", *words]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def _run_captured(words: list[str]) -> tuple[int, str]:
    """The same, with what the process writes to its streams."""
    with tempfile.TemporaryFile() as kept:
        sys.stdout.flush()
        sys.stderr.flush()
        streams = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(kept.fileno(), number)
        try:
            status = run_here(words)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, stream in zip((1, 2), streams, strict=True):
                os.dup2(stream, number)
                os.close(stream)
        kept.seek(0)
        return status, kept.read().decode(errors="replace")


def show_table(outcome: Outcome) -> str:
    """For people."""
    lines = ["| command | status | characters shown |", "|---|---|---|"]
    lines += [
        f"| {name} | {status} | {len(outcome.shown[name]):,} |" for name, status in outcome.statuses.items()
    ]
    lines += [
        "",
        f"{len(SECRETS)} secrets planted, {len(outcome.statuses)} commands, {outcome.num_files} files of "
        f"{outcome.num_bytes:,} bytes searched: {len(outcome.found)} found",
        *outcome.found,
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs it all, with a tiny model of random weights."""
    from tests.conftest import build_model, build_tokenizer

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).absolute()
    os.environ |= plant(folder)
    tokenizer = build_tokenizer()
    build_model(len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    os.chdir(folder)
    outcome = run_all(folder, folder / "model", _run_captured)
    (folder / "shown.json").write_text(json.dumps(outcome.shown, indent=1))
    sys.stdout.write(show_table(outcome) + "\n")
    sys.exit(bool(outcome.found))


if __name__ == "__main__":
    main()
