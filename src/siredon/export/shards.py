"""A model folder written anew, one shard in memory at a time, and compared with the one that it was made of."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch

from siredon.errors import ModelError
from siredon.export.contents import REST
from siredon.export.round_trip import TEXTS, Check, compare_ids, encode
from siredon.export.source import Source, read_weights
from siredon.export.tensor_files import Shards, ShardWriter, list_shards
from siredon.registry import suggest

#: Words for the formats of weights.
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
#: Numbers that are converted at a time.
_PART_NUMBERS = 2**22
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(KB|MB|GB)", re.IGNORECASE)


def read_dtype(option: str, word: str | None) -> torch.dtype | None:
    """The number format that an option names; None for none.

    Raises:
        ModelError: No format that is written here.
    """
    if word is None:
        return None
    if word not in DTYPES:
        raise ModelError(
            f"{option} {word}: no type of safetensors that is written here",
            f"{suggest(word, DTYPES)}Known: {', '.join(DTYPES)}. `siredon quantize` writes fewer bits.",
        )
    return DTYPES[word]


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
    names = Shards(list_shards(source.folder))
    with ShardWriter(folder, names, max_bytes) as writer:
        for name, weight in read_weights(source.folder):
            writer.write(name, convert(name, weight, dtype))
    return writer.num_files


def convert(name: str, weight: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor in another format.

    Raises:
        ModelError: A value that the format cannot hold.
    """
    if dtype is None or not weight.is_floating_point():
        return weight
    converted = torch.empty(weight.shape, dtype=dtype)
    for begin in range(0, weight.numel(), _PART_NUMBERS):  # As the tests below make copies
        part = weight.reshape(-1)[begin : begin + _PART_NUMBERS]
        rounded = converted.view(-1)[begin : begin + _PART_NUMBERS].copy_(part)
        if bool((rounded.isinf() & part.isfinite()).any()):
            raise ModelError(f"{name} holds values that f16 cannot hold", "Use bf16.")
    return converted


def copy_rest(source: Source, folder: Path, dtype: torch.dtype | None) -> None:
    """Config, tokenizer and code; the config says the new format."""
    for path in source.folder.iterdir():
        if path.name in REST or (source.trusts_code and path.suffix == ".py"):
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
    written = Shards(list_shards(folder))
    names = sorted(Shards(list_shards(source.folder)))
    odd = [f"{name} is missing" for name in names if name not in written]
    for name, weight in read_weights(source.folder):
        if name in written and not _is_same(written.read(name), convert(name, weight, dtype)):
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
