"""A conversation with one model, or with two at a time: what was said, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from siredon.serve.conversation import Answer, Voice
from siredon.serve.engines.transformers import Engine
from siredon.serve.phrasing import Phrasing, find_open_thought
from siredon.serve.sampling import Sampling
from siredon.serve.watch import Piece, Reason, Watch

Message = dict[str, str]
#: Gets the name of a model and its next words.
OnText = Callable[[str, str], None]


@dataclass
class Side:
    """One of the models that are talked to.

    Args:
        name: What it is called.
        voice: The model.
        messages: Questions and answers, in turn.
        answer: What the newest answer took; None before the first.
    """

    name: str
    voice: Voice
    messages: list[Message] = field(default_factory=list)
    answer: Answer | None = None


@dataclass
class Talk:
    """A conversation.

    Args:
        sides: The models that are talked to, with the same questions.
        phrasing: How messages become a prompt.
        sampling: How tokens are chosen.
        system: The system message; empty for none.
        thinking: Whether the model is to think; None leaves that to the chat template.
        saved: The file that has this conversation already, where it begins in it and where it ends.
    """

    sides: list[Side]
    phrasing: Phrasing
    sampling: Sampling
    system: str = ""
    thinking: bool | None = None
    saved: tuple[Path, int, int] | None = None

    @property
    def main(self) -> Side:
        """The model that all is about: the tuned one, where there are two."""
        return self.sides[-1]

    @property
    def questions(self) -> list[str]:
        """What was asked."""
        return [message["content"] for message in self.main.messages if message["role"] == "user"]

    def full(self, side: Side) -> list[Message]:
        """The messages of a side, behind the system message."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *side.messages]

    def ask(self, question: str, on_text: OnText, find_end: Callable[[], Reason | None]) -> None:
        """Asks every side; what was said until it ends is kept, and nothing of it where it fails.

        Args:
            question: What the user says.
            on_text: Gets the answers piece by piece.
            find_end: Says why an answer is to end now; None to go on.

        Raises:
            RowError: The chat template refuses the conversation.
            DataError: It has become too long.
        """
        before = [list(side.messages) for side in self.sides]
        try:
            for side in self.sides:
                side.messages.append({"role": "user", "content": question})
                self._answer(side, on_text, find_end)
        except BaseException:
            for side, messages in zip(self.sides, before, strict=True):
                side.messages = messages
            raise

    def retry(self, on_text: OnText, find_end: Callable[[], Reason | None]) -> None:
        """Asks the newest question again; the answer to it is kept where that fails."""
        before = [list(side.messages) for side in self.sides]
        question = self.undo()
        assert question is not None
        try:
            self.ask(question, on_text, find_end)
        except BaseException:
            for side, messages in zip(self.sides, before, strict=True):
                side.messages = messages
            raise

    def undo(self) -> str | None:
        """Takes the newest question and its answer back.

        Returns:
            The question; None if nothing was said.
        """
        if not self.main.messages:
            return None
        question = self.main.messages[-2]["content"]
        for side in self.sides:
            del side.messages[-2:]
        return question

    def clear(self) -> None:
        """Forgets what was said, and keeps system message and settings."""
        for side in self.sides:
            side.messages, side.answer = [], None
        self.saved = None

    def _answer(self, side: Side, on_text: OnText, find_end: Callable[[], Reason | None]) -> None:
        prompt = self.phrasing.render(self.full(side), self.thinking)
        begun = find_open_thought(prompt)

        def hand_on(piece: Piece) -> None:
            on_text(side.name, piece.text)

        if begun:
            on_text(side.name, begun)
        side.answer = side.voice.answer(prompt, self.sampling, Watch(hand_on, find_end))
        side.messages.append({"role": "assistant", "content": begun + side.answer.text})


def begin_talk(engines: Mapping[str, Engine], phrasing: Phrasing, sampling: Sampling, system: str) -> Talk:
    """A conversation in which nothing was said yet.

    Args:
        engines: Name of a model -> the model, the one that all is about last.
        phrasing: How messages become a prompt.
        sampling: How tokens are chosen.
        system: The system message; empty for none.

    Raises:
        DataError: A system message, where there is no place for one.
    """
    if system:
        phrasing.check_system()
    sides = [Side(name, Voice(engine)) for name, engine in engines.items()]
    return Talk(sides, phrasing, sampling, system)
