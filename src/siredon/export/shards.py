"""A model folder written anew, one shard in memory at a time, and compared with the one that it was made of."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from siredon.errors import ModelError
from siredon.export.round_trip import TEXTS, Check, compare_ids, encode
from siredon.export.source import Source, locate_weights, read_weights

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(KB|MB|GB)", re.IGNORECASE)
#: What belongs to a model beside its weights; a run's folder holds much else.
_REST = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json"),
    "video_preprocessor_config.json",
)


def parse_bytes(text: str) -> int:
    """`5GB` -> 5,000,000,000.

    Raises:
        ModelError: No size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ModelError(f"--max-shard-size {text}: no size", "Write for instance `500MB` or `5GB`.")
    return max(1, int(float(match[1]) * _UNITS[match[2].upper()]))


def write_shards(source: Source, folder: Path, dtype: torch.dtype | None, max_bytes: int) -> int:
    """Writes the weights; a tensor that is larger than a shard has one of its own.

    Args:
        source: What is written.
        folder: Where.
        dtype: Of numbers with a fraction; None leaves each as it is.
        max_bytes: Of a file.

    Returns:
        Files.
    """
    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    num_bytes = total = 0
    for name, weight in read_weights(source.folder):
        weight = convert(name, weight, dtype)
        if held and num_bytes + weight.nbytes > max_bytes:
            _save(folder, shards, held)
            held, num_bytes = {}, 0
        held[name] = weight
        num_bytes += weight.nbytes
        total += weight.nbytes
    _save(folder, shards, held)
    _name_shards(folder, shards, total)
    return len(shards)


def convert(name: str, weight: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor in another format.

    Raises:
        ModelError: A value that the format cannot hold.
    """
    if dtype is None or not weight.is_floating_point():
        return weight
    converted = weight.to(dtype)
    if bool((converted.isinf() & weight.isfinite()).any()):
        raise ModelError(f"{name} holds values that f16 cannot hold", "Use `--type bf16`.")
    return converted


def _save(folder: Path, shards: list[list[str]], held: dict[str, torch.Tensor]) -> None:
    save_file(held, str(folder / f"part-{len(shards)}.safetensors"), metadata={"format": "pt"})
    shards.append(list(held))


def _name_shards(folder: Path, shards: list[list[str]], num_bytes: int) -> None:
    """Gives the files the names by which transformers finds them."""
    if len(shards) == 1:
        (folder / "part-0.safetensors").rename(folder / "model.safetensors")
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"part-{number}.safetensors").rename(folder / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": num_bytes}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def copy_rest(source: Source, folder: Path, dtype: torch.dtype | None) -> None:
    """Config, tokenizer and code; the config says the new format."""
    for path in source.folder.iterdir():
        if path.name in _REST or (source.trusts_code and path.suffix == ".py"):
            shutil.copyfile(path, folder / path.name)
    if dtype is None:
        return
    config = source.read_config()
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def compare_weights(source: Source, folder: Path, dtype: torch.dtype | None) -> list[Check]:
    """Every tensor bit for bit, the tokenizer, and what transformers makes of the folder."""
    back = Source(folder, folder, source.trusts_code)
    places = locate_weights(folder)
    names = sorted(locate_weights(source.folder))
    odd = [f"{name} is missing" for name in names if name not in places]
    for name, weight in read_weights(source.folder):
        if name in places:
            with safe_open(str(places[name]), framework="pt") as stream:
                if not _is_same(stream.get_tensor(name), convert(name, weight, dtype)):
                    odd.append(f"{name} has other bits")
    tokenizer, reader = source.load_tokenizer(), back.load_tokenizer()
    rounded = " once rounded" if dtype else ""
    same_template = tokenizer.chat_template == reader.chat_template
    return [
        Check("weights", odd[0] if odd else f"{len(names)} tensors, the same bits{rounded}", "all", not odd),
        compare_ids("token ids", tokenizer, TEXTS, lambda text: encode(reader, text)),
        Check(
            "chat template", "the same text" if same_template else "another text", "the same", same_template
        ),
        _load(back),
    ]


def _is_same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    same_kind = ours.dtype == theirs.dtype and ours.shape == theirs.shape
    return same_kind and torch.equal(ours.view(-1).view(torch.uint8), theirs.reshape(-1).view(torch.uint8))


def _load(back: Source) -> Check:
    """Whether transformers finds every weight that it wants."""
    from transformers import AutoModelForCausalLM

    _, found = AutoModelForCausalLM.from_pretrained(
        str(back.folder), dtype="auto", trust_remote_code=back.trusts_code, output_loading_info=True
    )
    missing = sorted(found["missing_keys"])
    return Check(
        "transformers",
        f"{missing[0]} is missing" if missing else "loads it, no weight missing",
        "whole",
        not missing,
    )
