"""`/status`: model, settings, and what was read."""

from __future__ import annotations

from siredon.serve.command import Command, Reply
from siredon.serve.conversation import Answer
from siredon.serve.settings import describe_settings
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """What is talked to, with which settings, and what the newest answers took."""
    del rest
    lines = [f"turns: {len(talk.questions)}"]
    lines += [f"system message: {talk.system}"] if talk.system else []
    lines.append(", ".join(f"{name} {value}" for name, value in describe_settings(talk.sampling)))
    for side in talk.sides:
        if side.answer:
            lines.append(f"{side.name}: {describe_answer(side.answer)}")
    return Reply("\n".join(lines))


def describe_answer(answer: Answer) -> str:
    """What an answer took."""
    rate = f", {answer.num_tokens / answer.seconds:.1f} tokens/s" if answer.seconds > 0 else ""
    return (
        f"{answer.num_tokens:,} tokens in {answer.seconds:.1f} s{rate}; "
        f"the prompt had {answer.num_prompt:,}, of which {answer.num_known:,} were read before"
    )


COMMAND = Command("/status", "Show the settings, and what the newest answer took.", run)
