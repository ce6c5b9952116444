"""Row 9: where a template changes earlier turns, each answer is learned once, as it is shown, or the row is refused.

Bugs of record: NeMo RL#2821; Automodel#3024; prime-rl#1334.
"""

from __future__ import annotations

from collections.abc import Iterator

from siredon.errors import DataError
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.talks import (
    Corpus,
    build_chat_tokenizer,
    count_differences,
    list_samples,
    read_plainly,
    read_template,
    show_plainly,
    template_cells,
)

_THOUGHTS, _ANSWERS = (
    ("six sevens", "six and seven", "nothing"),
    ("It is 42.", "That is 13.", "You are welcome."),
)
_QUESTIONS = ("What is 6 times 7?", "And 6 plus 7?", "Thank you!")
_TALK = tuple(
    message
    for question, thought, answer in zip(_QUESTIONS, _THOUGHTS, _ANSWERS, strict=True)
    for message in (
        {"role": "user", "content": question},
        {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{answer}"},
    )
)
#: Templates that change what an answer says, so that what of it is learned cannot be known.
_REWRITING = {
    "cut short": "{{ m.content[:30] if m.role == 'assistant' else m.content }}",
    "twice": "{{ m.content * 2 if m.role == 'assistant' else m.content }}",
    "left out": "{{ '' if m.role == 'assistant' and not loop.last else m.content }}",
}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Every template, and some that rewrite answers."""
    return template_cells(grid) + tuple(Cell(case=f"answers {name}") for name in _REWRITING)


def run(rig: Rig, cell: Cell) -> Finding:
    """Counts each answer, question and thought in what is learned."""
    name = cell.case.removeprefix("answers ")
    return find(_measure_refusal(rig, name) if name in _REWRITING else _measure(rig, name))


def _measure(rig: Rig, name: str) -> Iterator[tuple[str, float, float]]:
    tokenizer = build_chat_tokenizer(read_template(name))
    plain = read_plainly(tokenizer, show_plainly(tokenizer, _TALK))
    source = Corpus(
        tokenizer,
        [{"messages": _TALK}],
        {"type": "chat_template", "train_on_eos": _policy(plain.specials, plain.ids)},
    )
    (sample,) = list_samples(source.prepare(rig))
    yield "tokens that are not those of transformers", count_differences(sample.input_ids, plain.ids), 0.0
    learned = plain.cut(sample.labels)
    for what, words in (("answers", _ANSWERS), ("thoughts that are shown", _THOUGHTS)):
        off = sum(abs(learned.count(word) - plain.text.count(word)) for word in words)
        yield f"{what} not learned once each", float(off), 0.0
    yield "answers not shown once each", float(sum(plain.text.count(word) != 1 for word in _ANSWERS)), 0.0
    yield "questions that are learned", float(sum(learned.count(word) for word in _QUESTIONS)), 0.0
    prompt = show_plainly(tokenizer, _TALK[:-1], add_generation_prompt=True)
    if plain.text.startswith(prompt):
        first = int((plain.starts < len(prompt)).sum())
        answer = sample.labels[first:]
        unlearned = int((answer[: len(_ANSWERS[-1])] != plain.ids[first:][: len(_ANSWERS[-1])]).sum())
        yield "tokens not learned behind the prompt of inference", float(unlearned), 0.0


def _policy(specials: frozenset[int], ids: object) -> str:
    """A format without a token that ends a turn teaches none."""
    return "turn" if specials & set(map(int, ids)) else "none"  # type: ignore[call-overload]


def _measure_refusal(rig: Rig, name: str) -> Iterator[tuple[str, float, float]]:
    body = _REWRITING[name]
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
        + body
        + "{{ '<|im_end|>\\n' }}{% endfor %}"
    )
    tokenizer = build_chat_tokenizer(template)
    try:
        Corpus(tokenizer, [{"messages": _TALK}]).prepare(rig)
        refused = ""
    except DataError as error:
        refused = error.message
    yield "talks taken whose answers are rewritten", float(not refused), 0.0
    yield "refusals that do not name the turn", float("message 2 (assistant)" not in refused), 0.0


ROW = Row(
    number=9,
    proves="Answers are learned once each, as the template shows them; what it rewrites is refused.",
    cells=list_cells,
    run=run,
)
