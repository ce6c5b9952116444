"""Is what was written the same model?  Answers of the source and of what was read back, compared and shown."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from siredon.errors import ModelError
from siredon.evaluate.agreement import measure_agreement
from siredon.log import show

#: What every tokenizer is asked: words, figures, white space, scripts, contractions, code.
TEXTS = (
    "The capital of France is Paris.",
    "I've 3 apples, 42 pears and 1234567 grapes; they're worth $1,024.50!",
    "  two  blanks\n\n\tand a tab, then\r\n   three lines.   \n",
    "Zażółć gęślą jaźń, привет мир, 你好世界, こんにちは, 안녕, مرحبا, 🚀🦙",
    "def f(x):\n    return x**2 + 1  # CamelCase_snake_case\n",
    "WE'LL see: don't, DON'T, it's, 'tis ------ ======",
)
MESSAGES = ({"role": "user", "content": "Tell me about the sea, in three sentences."},)
_MAX_TOKENS = 24
#: Of several hundred reserved tokens one is like the other.
_MAX_ADDED = 64
#: Two tokens are a tie if they are no further apart than this many errors of a logit.  The difference of two logits is
#: off by 1.4 errors, so this is near three standard deviations of it.
_NEAR = 4.0


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Args:
        name: What is compared.
        found: What came out, in words.
        bound: What is allowed, in words; empty for what is only shown.
        passed: Whether it is.
    """

    name: str
    found: str
    bound: str = ""
    passed: bool = True


@dataclass(frozen=True)
class Answers:
    """What a model says.

    Args:
        ids: The prompt and its continuation, the likeliest token each time.
        num_prompt: Of those, how many are the prompt.
        logits: fp32 `(tokens, vocabulary)`, for the ids of each text and of `ids`.
    """

    ids: tuple[int, ...]
    num_prompt: int
    logits: tuple[torch.Tensor, ...]


def list_texts(tokenizer: Any) -> tuple[str, ...]:
    """Texts, and the tokens that were added to the vocabulary, each between words and blanks."""
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    return (*TEXTS, *[f"a {token} b{token}c" for token, _ in added[:_MAX_ADDED]])


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text, special tokens in it included and none added."""
    return [int(token) for token in tokenizer(text, add_special_tokens=False).input_ids]


def render(tokenizer: Any, template: str) -> str:
    """A short conversation under a template; plain text if there is none."""
    if not template:
        return TEXTS[0]
    return str(
        tokenizer.apply_chat_template(
            list(MESSAGES), chat_template=template, tokenize=False, add_generation_prompt=True
        )
    )


def ask(
    model: Any, prompt: Sequence[int], texts: Iterable[Sequence[int]], answer: Answers | None = None
) -> Answers:
    """Lets a model go on from a prompt, and say how likely it finds every token of that and of some texts.

    Args:
        model: A model of transformers, in fp32.
        prompt: Ids.
        texts: Ids.
        answer: What another model said: this one is asked about the same tokens.
    """
    with torch.inference_mode():
        ids = list(answer.ids) if answer else _go_on(model, list(prompt))
        asked = [ids, *[list(text) for text in texts if text]]
        logits = tuple(model(torch.tensor([tokens]), use_cache=False).logits[0].float() for tokens in asked)
    return Answers(tuple(ids), len(prompt), logits)


def _go_on(model: Any, prompt: list[int]) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=_MAX_TOKENS,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=0,
    )
    return [int(token) for token in output[0]]


def compare_answers(source: Answers, back: Answers, bound: float) -> list[Check]:
    """Logits and the likeliest tokens.

    The error is that of the logits, their mean over the vocabulary taken off, relative to their size, over all tokens;
    KL is `sum p (log p - log q)` per token, in nats, of the source's p and the q of what was read back.

    Args:
        source: What the source said.
        back: What the other says to the same tokens.
        bound: Largest relative error.
    """
    ours, theirs = torch.cat(source.logits), torch.cat(back.logits)[:, : source.logits[0].shape[1]]
    error = measure_error(ours - ours.mean(-1, keepdim=True), theirs - theirs.mean(-1, keepdim=True))
    agreement = measure_agreement(ours, theirs)
    said = slice(source.num_prompt - 1, len(source.ids) - 1)
    ours, theirs = ours[said], theirs[said]
    differences = (theirs - theirs.mean(-1, keepdim=True)) - (ours - ours.mean(-1, keepdim=True))
    return [
        Check("logits", f"relative error {error:.2g}", f"<= {bound:g}", error <= bound),
        Check("  largest difference", f"{agreement.max_error:.2g}"),
        Check(
            "  KL divergence",
            f"mean {agreement.kl:.2g}, most {agreement.max_kl:.2g} nats a token",
        ),
        compare_greedy("greedy answer", ours, theirs.argmax(-1), compute_size(differences)),
    ]


def compare_greedy(name: str, logits: torch.Tensor, found: torch.Tensor, error: float) -> Check:
    """The likeliest token at each place of an answer, by one model and by another.

    They may differ where the first finds both about as likely: less than `_NEAR` times `error` apart.  All further
    tokens are asked for behind the first model's own answer, so one tie does not hide what comes after it.

    Args:
        name: What the line is called.
        logits: fp32 `(tokens, vocabulary)`, of the first model.
        found: int64 `(tokens,)`, the likeliest of the second.
        error: How far a logit of the second is off, root mean square.
    """
    behind = logits.max(-1).values - logits.gather(-1, found[:, None])[:, 0]
    num_same, farthest, near = int((behind == 0).sum()), behind.max().item(), _NEAR * error
    text = f"{num_same} of {len(found)} tokens the same"
    if num_same < len(found):
        text += f", the rest {farthest:.2g} behind"
    return Check(name, text, f"ties within {near:.2g}" if near else "all", farthest <= near)


def compute_size(values: torch.Tensor) -> float:
    """The root of the mean square; not a number counts as infinite."""
    size = values.double().square().mean().sqrt().item()
    return float("inf") if math.isnan(size) else size


def measure_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """`||theirs - ours|| / ||ours||`; not a number counts as infinite."""
    size = ours.double().norm().item()
    difference = (theirs.double() - ours.double()).norm().item()
    error = difference / size if size else difference
    return float("inf") if math.isnan(error) else error


def compare_ids(name: str, tokenizer: Any, texts: Iterable[str], other: Callable[[str], list[int]]) -> Check:
    """The ids of every text under the tokenizer of the source, and under another."""
    texts = tuple(texts)
    odd = [text for text in texts if encode(tokenizer, text) != other(text)]
    found = f"{len(texts) - len(odd)} of {len(texts)} texts the same" + (f", not {odd[0]!r}" if odd else "")
    return Check(name, found, "all", not odd)


def show_checks(title: str, checks: Sequence[Check]) -> None:
    """Writes the table.

    Raises:
        ModelError: A check has failed.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("read back", "found", "allowed", ""):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(
            check.name,
            check.found,
            check.bound,
            "" if not check.bound else "ok" if check.passed else "FAILED",
        )
    stream = io.StringIO()
    Console(file=stream, width=110, color_system=None).print(table)
    show("\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines()))
    failed = [check.name.strip() for check in checks if not check.passed]
    if failed:
        raise ModelError(
            f"{title} is not the model that went in: {', '.join(failed)}; nothing is left of it",
            "Use a type with more bits, or report it: the table above says what differs.",
        )
