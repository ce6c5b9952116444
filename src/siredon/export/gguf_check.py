"""Is a GGUF file the model that went in?  Read back by transformers and, where it is installed, by llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siredon.export.gguf_model import arrange, compute_rope_factors, find_family, pair_tensors, read_head_size
from siredon.export.gguf_read import GgufFile, load_back
from siredon.export.gguf_types import BOUNDS
from siredon.export.gguf_vocab import find_frame, read_template
from siredon.export.llama_cpp import check_with_llama_cpp, is_installed
from siredon.export.round_trip import (
    TEXTS,
    Check,
    ask,
    compare_answers,
    compare_ids,
    encode,
    list_texts,
    measure_error,
    render,
)
from siredon.export.source import Source


def check_gguf(source: Source, path: Path) -> list[Check]:
    """What comes out of reading a file back, against the folder that it was made of.

    The two models are in memory in turn, in fp32.
    """
    import torch

    file = GgufFile(path)
    tokenizer = source.load_tokenizer()
    prompt = encode(tokenizer, render(tokenizer, read_template(tokenizer)))
    texts = [encode(tokenizer, text) for text in TEXTS]
    model = source.load_model(torch.float32)
    answers = ask(model, prompt, texts)
    config = model.config
    del model
    back, reader = load_back(file)
    bound = max(BOUNDS[kind].logits for kind in file.types.values())
    read = ask(back, prompt, texts, answers)
    checks = [
        compare_ids("token ids", tokenizer, list_texts(tokenizer), lambda text: encode(reader, text)),
        _compare("chat template", read_template(tokenizer), read_template(reader)),
        _compare_special(source, tokenizer, reader, file),
        _compare_weights(source, config, file),
        _compare_rope(config, back),
        *compare_answers(answers, read, bound),
    ]
    del back
    if is_installed():
        checks += check_with_llama_cpp(path, tokenizer, answers, read, tuple(file.types.values()))
    return checks


def _compare(name: str, ours: str, theirs: str) -> Check:
    found = "none" if not ours and not theirs else "the same text" if ours == theirs else "another text"
    return Check(name, found, "the same", ours == theirs)


def _compare_special(source: Source, tokenizer: Any, reader: Any, file: GgufFile) -> Check:
    """Tokens that begin, end and pad, and whether they are put around a text."""
    ours = (tokenizer.bos_token_id, *source.read_stop_ids(tokenizer)[:2], *find_frame(tokenizer))
    theirs = (
        file.read("tokenizer.ggml.bos_token_id"),
        *[file.read(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")][: len(ours) - 3],
        file.read("tokenizer.ggml.add_bos_token"),
        file.read("tokenizer.ggml.add_eos_token"),
    )
    same = ours == theirs and tokenizer.eos_token_id == reader.eos_token_id
    names = [str(tokenizer.convert_ids_to_tokens(stop)) for stop in source.read_stop_ids(tokenizer)]
    return Check("ends of an answer", ", ".join(names) if same else f"{theirs}, not {ours}", "the same", same)


def _compare_weights(source: Source, config: Any, file: GgufFile) -> Check:
    """The tensor that is worst for its format."""
    family = find_family(config, source.folder)
    worst, found = -1.0, Check("weights", "none", "all", passed=False)
    for name, other, weight in pair_tensors(source.folder, config, family):
        kind = file.types.get(name)
        if kind is None:
            return Check("weights", f"{other} is missing", "all", passed=False)
        bound = BOUNDS[kind].weights
        error = measure_error(arrange(other, weight, config, family).float(), file.read_tensor(name))
        if error / bound > worst:
            worst = error / bound
            text = f"{len(file.types)} tensors, relative error {error:.2g} in {name} ({kind.lower()})"
            found = Check("weights", text, f"<= {bound:g}", error <= bound)
    return found


def _compare_rope(config: Any, back: Any) -> Check:
    """Angles that a head turns by, per position."""
    import torch

    size = read_head_size(config)
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    factors = compute_rope_factors(config)
    ours = plain / (factors.double() if factors is not None else config.rope_parameters.get("factor") or 1.0)
    error = measure_error(ours, back.model.rotary_emb.inv_freq)
    return Check("angles of positions", f"relative error {error:.2g}", "<= 1e-06", error <= 1e-6)
