"""The chat as a page in a browser, by Gradio."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from siredon.config.sections.serving import ServingSection
from siredon.data.types import RowError
from siredon.errors import ServeError, SiredonError
from siredon.log import show, warn
from siredon.serve.settings import SETTINGS
from siredon.serve.talk import Message, Side, Talk

_HERE = "127.0.0.1"
_LONGEST = 8192
_HEIGHT = "70vh"


def check_page(section: ServingSection) -> None:
    """Refuses a page that cannot be shown, and warns of one that everybody may use, before a model is loaded.

    Raises:
        ServeError: A package is missing.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ServeError("gradio is not installed", "Install it: `pip install 'siredon[gradio]'`.")
    name = section.gradio_server_name or _HERE
    if section.gradio_share:
        warn("the page is public: `gradio_share: true` reaches it through Gradio's servers")
    elif not name.startswith("127.") and name != "localhost":
        warn(f"everybody who reaches {name} can use this page: `gradio_server_name` may be left out")


def show_page(talk: Talk, section: ServingSection) -> None:
    """Shows the page until Ctrl-C.  Without settings only this machine reaches it.

    Args:
        talk: Whom it talks to, and how; each visitor has a conversation of their own.
        section: Title, address, and the settings that the page begins with.
    """
    import gradio

    page = build_page(talk, section)
    # Fonts of the machine: the theme's own ones come from another server
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    _, address, public = page.launch(
        server_name=section.gradio_server_name or _HERE,
        server_port=section.gradio_server_port,
        share=bool(section.gradio_share),
        theme=theme,
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    show(f"page: {public or address}")
    page.block_thread()


def build_page(talk: Talk, section: ServingSection) -> Any:
    """The page: a `gradio.ChatInterface`; of two models with what the first one says beside it."""
    import gradio

    if len(talk.sides) == 1:
        return _build_chat(talk, section)
    with gradio.Blocks(title=section.gradio_title or talk.main.name, analytics_enabled=False) as page:
        with gradio.Row():
            with gradio.Column():
                beside = gradio.Chatbot(height=_HEIGHT, label=talk.sides[0].name)
            with gradio.Column():
                chat = _build_chat(talk, section, beside)
        chat.chatbot.clear(list, outputs=beside)
    return page


def _build_chat(talk: Talk, section: ServingSection, beside: Any = None) -> Any:
    import gradio

    def answer(
        question: str,
        history: Sequence[Any],
        system: str,
        temperature: float,
        top_p: float,
        max_tokens: float,
        *others: Sequence[Any],
    ) -> Iterator[Any]:
        sampling = replace(
            talk.sampling, temperature=temperature, top_p=top_p, max_new_tokens=int(max_tokens)
        )
        # What is taken back on the page is taken back of one model's words: the other's are as many
        heard = [read_history(other)[: len(history)] for other in (*others, history)]
        sides = [
            Side(side.name, side.voice, list(said)) for side, said in zip(talk.sides, heard, strict=True)
        ]
        mine = Talk(sides, talk.phrasing, sampling, system, talk.thinking)
        for said in stream_answer(
            mine, question, lambda problem: gradio.Error(problem, print_exception=False)
        ):
            asked = {"role": "user", "content": question}
            shown = [
                [*heard[0], asked, {"role": "assistant", "content": said[sides[0].name]}] for _ in others
            ]
            yield (said[talk.main.name], *shown) if others else said[talk.main.name]

    others = [] if beside is None else [beside]
    temperature, longest = section.gradio_temperature, section.gradio_max_new_tokens
    return gradio.ChatInterface(
        answer,
        title=section.gradio_title or talk.main.name,
        chatbot=gradio.Chatbot(height=_HEIGHT, label=talk.main.name, show_label=beside is not None),
        additional_inputs_accordion=gradio.Accordion("Settings", open=False),
        additional_inputs=[
            gradio.Textbox(talk.system, label="System message", interactive=talk.phrasing.keeps_turns),
            gradio.Slider(
                0,
                2,
                value=talk.sampling.temperature if temperature is None else temperature,
                label="temperature",
                info=SETTINGS["temperature"].about,
            ),
            gradio.Slider(0, 1, value=talk.sampling.top_p, label="top_p", info=SETTINGS["top_p"].about),
            gradio.Slider(
                1,
                max(_LONGEST, longest or 0, talk.sampling.max_new_tokens),
                value=longest or talk.sampling.max_new_tokens,
                step=1,
                label="max_new_tokens",
                info=SETTINGS["max_new_tokens"].about,
            ),
            *others,
        ],
        additional_outputs=others,
        concurrency_limit=1,  # One model, and what it has read
        api_name="chat",
        flagging_mode="never",
        analytics_enabled=False,
    )


def stream_answer(talk: Talk, question: str, refuse: Callable[[str], Exception]) -> Iterator[dict[str, str]]:
    """What each model has said so far, each time there is more; it stops when nobody listens any longer.

    Args:
        talk: The conversation.
        question: What is asked.
        refuse: What is raised for a question that cannot be asked.
    """
    pieces: SimpleQueue[tuple[str, str] | Exception | None] = SimpleQueue()
    left = threading.Event()

    def work() -> None:
        try:
            talk.ask(question, lambda *said: pieces.put(said), lambda: "cancelled" if left.is_set() else None)
        except Exception as error:  # noqa: BLE001 - raised again where it is heard
            pieces.put(error)
        finally:
            pieces.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    said = {side.name: "" for side in talk.sides}
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, (SiredonError, RowError)):
                raise refuse(str(piece))
            if isinstance(piece, Exception):
                raise piece
            name, text = piece
            said[name] += text
            yield dict(said)
    finally:
        left.set()
        thread.join()


def read_history(history: Sequence[Any]) -> list[Message]:
    """Gradio's messages -> plain ones: a content may be a text or a list of parts."""
    return [{"role": str(item["role"]), "content": _read_content(item["content"])} for item in history]


def _read_content(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part["text"]) for part in content if part["type"] == "text")
