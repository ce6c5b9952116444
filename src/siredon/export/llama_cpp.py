"""A GGUF file as llama.cpp itself reads it, through llama-cpp-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siredon.export.round_trip import Answers, Check, compare_ids, list_texts


def check_with_llama_cpp(path: Path, tokenizer: Any, answers: Answers) -> list[Check]:
    """Ids of the same texts, and the likeliest tokens behind the same prompt.

    The answer is only shown: llama.cpp rounds what passes between layers, so two tokens that are about as likely may
    change places.
    """
    from llama_cpp import Llama

    model = Llama(str(path), n_ctx=len(answers.ids) + 8, n_gpu_layers=0, verbose=False)
    try:
        said = list(answers.ids[answers.num_prompt :])
        prompt = list(answers.ids[: answers.num_prompt])
        found: list[int] = []
        for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            found.append(int(token))
            if len(found) >= len(said):
                break
        ids = compare_ids(
            "llama.cpp: token ids",
            tokenizer,
            list_texts(tokenizer),
            lambda text: list(model.tokenize(text.encode(), add_bos=False, special=True)),
        )
    finally:
        model.close()
    same = next((n for n, (a, b) in enumerate(zip(said, found, strict=False)) if a != b), len(said))
    return [ids, Check("llama.cpp: greedy answer", f"the first {same} of {len(said)} tokens the same")]
