"""The chat as a page: the real Gradio, asked by its own client."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_model

from siredon.config.load import load_config
from siredon.data.types import RowError
from siredon.errors import ServeError
from siredon.serve.engines.transformers import Engine
from siredon.serve.page import check_page, read_history, stream_answer
from siredon.serve.phrasing import build_phrasing
from siredon.serve.sampling import Sampling
from siredon.serve.talk import Side, Talk, begin_talk


@pytest.fixture
def begin(tokenizer: Any, write_config: Callable[..., Path]) -> Callable[[], Talk]:
    config, _ = load_config(str(write_config()))
    engine = Engine(build_model().eval(), tokenizer, (2,))
    return lambda: begin_talk({"m": engine}, build_phrasing(config, tokenizer), Sampling(8), "")


def test_an_answer_is_streamed_and_ends_when_nobody_listens(begin: Callable[[], Talk]):
    talk = begin()
    *_, whole = stream_answer(talk, "Who are you?", ValueError)
    assert whole["m"] == talk.main.messages[-1]["content"]
    other = begin()
    other.sampling = Sampling(400)
    stream = stream_answer(other, "Who are you?", ValueError)
    first = next(stream)
    stream.close()
    assert other.main.answer
    assert other.main.answer.reason == "cancelled"
    assert other.main.messages[-1]["content"].startswith(first["m"])
    with pytest.raises(ValueError, match="and the model reads 512"):
        list(stream_answer(begin(), "sea " * 600, ValueError))

    def fail(*rest: object) -> None:
        raise RowError("the template refuses it")

    broken = begin()
    broken.ask = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="refuses it"):
        list(stream_answer(broken, "a", ValueError))


def test_history_is_read_in_both_spellings():
    parts = [{"type": "text", "text": "a"}, {"type": "file", "file": {}}, {"type": "text", "text": "b"}]
    assert read_history([{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]) == [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c"},
    ]


def test_a_page_that_others_reach_is_warned_of(
    write_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    if importlib.util.find_spec("gradio") is None:
        with pytest.raises(ServeError, match=r"pip install 'siredon\[gradio\]'"):
            check_page(load_config(str(write_config()))[0].serving)
        return
    for keys, said in (
        ({}, ""),
        ({"gradio_share": True}, "the page is public"),
        ({"gradio_server_name": "0.0.0.0"}, "everybody who reaches 0.0.0.0"),
    ):
        check_page(load_config(str(write_config(**keys)))[0].serving)
        assert (said in capsys.readouterr().err) if said else not capsys.readouterr().err


#: In a process of its own, as the client leaves sockets and event loops to the garbage collection.
CLIENT = """
import json, sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
said = [client.predict(q, "Be kind.", 0.0, 1.0, 8, api_name="/chat") for q in sys.argv[2:]]
print(json.dumps(said))
"""
#: The same of two models; what the first one has said is handed on.
CLIENT_OF_TWO = """
import json, sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
said, beside = [], []
for question in sys.argv[2:]:
    answer, beside = client.predict(question, "Be kind.", 0.0, 1.0, 8, beside, api_name="/chat")
    said.append(answer)
    for message in beside:  # As a browser sends it
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
print(json.dumps([said, beside]))
"""
QUESTIONS = ("Who are you?", "What is the sea?")


@pytest.mark.long
def test_the_page_answers_several_turns(
    model_folder: Path, write_config: Callable[..., Path], begin: Callable[[], Talk]
):
    pytest.importorskip("gradio")
    path = write_config(gradio_title="Axolotl pond", gradio_max_new_tokens=8, output_dir=str(model_folder))
    found = ask_page([str(path)], CLIENT)
    truth = begin()
    ask_all(truth)
    assert [_read(said) for said in found] == list_answers(truth.main)


@pytest.mark.long
def test_the_page_shows_base_and_tuned_model_side_by_side(
    model_folder: Path, tokenizer: Any, write_config: Callable[..., Path], tmp_path: Path
):
    pytest.importorskip("gradio")
    build_model(seed=1).save_pretrained(tmp_path / "out")
    tokenizer.save_pretrained(tmp_path / "out")
    path = write_config(gradio_title="Axolotl pond")
    found, beside = ask_page([str(path), "--compare"], CLIENT_OF_TWO)
    engines = {
        "base model": Engine(build_model().eval(), tokenizer, (2,)),
        "tuned model": Engine(build_model(seed=1).eval(), tokenizer, (2,)),
    }
    config, _ = load_config(str(path))
    truth = begin_talk(engines, build_phrasing(config, tokenizer), Sampling(8), "")
    ask_all(truth)
    assert [_read(said) for said in found] == list_answers(truth.main)
    assert read_history(beside) == truth.sides[0].messages
    assert list_answers(truth.main) != list_answers(truth.sides[0])


def ask_all(talk: Talk) -> None:
    talk.system = "Be kind."
    for question in QUESTIONS:
        talk.ask(question, lambda name, text: None, lambda: None)


def list_answers(side: Side) -> list[str]:
    return [message["content"] for message in side.messages if message["role"] == "assistant"]


def ask_page(words: list[str], client: str) -> Any:
    """What a client of Gradio's hears from the page; the page ends with Ctrl-C."""
    command = [sys.executable, "-m", "siredon", "chat", *words, "--gradio"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            line = server.stdout.readline()
            assert line.startswith("page: http://127.0.0.1:")
            address = line.split()[1]
            page = urllib.request.urlopen(address, timeout=60).read().decode()
            assert "Axolotl pond" in page
            assert "fonts.googleapis.com/css" not in page
            done = subprocess.run(
                [sys.executable, "-c", client, address, *QUESTIONS],
                capture_output=True,
                text=True,
                timeout=150,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 0
        finally:
            server.kill()
    return json.loads(done.stdout)


def _read(said: Any) -> str:
    return said if isinstance(said, str) else "".join(part["text"] for part in said)
