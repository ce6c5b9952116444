"""A model folder as one GGUF file."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from siredon.errors import ModelError
from siredon.export.gguf_model import Family, add_config, choose_type, find_family, read_tensors, round_to
from siredon.export.gguf_quantize import find_quantizer
from siredon.export.gguf_types import DEFAULT, MIXED, PLAIN, explain_type
from siredon.export.gguf_vocab import add_vocabulary
from siredon.export.source import Source
from siredon.log import note


def check_type(word: str | None) -> str:
    """The type that is written.

    Raises:
        ModelError: The package `gguf` is missing, or there is no such type, or nothing here that writes it.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("GGUF needs the package `gguf`", "pip install 'siredon[gguf]'")
    word = (word or DEFAULT).lower()
    if word not in (*PLAIN, *MIXED):
        raise ModelError(f"--type {word}: no type of GGUF that is written here", explain_type(word))
    if word in MIXED:
        find_quantizer(word)
    return word


def write_gguf(source: Source, word: str, path: Path) -> None:
    """Writes a file.

    Args:
        source: Whole weights.
        word: The type, as `check_type` has seen it.
        path: Where it is written.

    Raises:
        ModelError: A family, a tokenizer or a value that GGUF, or this type, cannot hold.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(source.folder), trust_remote_code=source.trusts_code)
    family = find_family(config, source.folder)
    if word not in MIXED:
        _write(source, word, path, config, family)
        return
    quantize = find_quantizer(word)
    whole = path.with_name(f"{path.name}.whole")
    try:
        _write(source, "bf16" if config.dtype is torch.bfloat16 else "f32", whole, config, family)
        quantize(whole, path)
    finally:
        whole.unlink(missing_ok=True)


def _write(source: Source, word: str, path: Path, config: Any, family: Family) -> None:
    import gguf

    tokenizer = source.load_tokenizer()
    writer = gguf.GGUFWriter(str(path), family.architecture)
    try:
        writer.add_type("model")
        writer.add_name(source.name)
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if word == "f32" else f"MOSTLY_{word.upper()}"])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_config(writer, config, family)
        add_vocabulary(writer, tokenizer, config.vocab_size, source.read_stop_ids(tokenizer))
        kinds = {}
        for name, weight in read_tensors(source.folder, config, family):
            kinds[name] = choose_type(name, tuple(weight.shape), word)
            _announce(writer, name, tuple(weight.shape), kinds[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        # Read a second time, so that never more than one tensor is in memory
        for name, weight in read_tensors(source.folder, config, family):
            writer.write_tensor_data(round_to(name, weight, kinds[name]))
    finally:
        writer.close()
    _say_kinds(kinds, word)


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: Any) -> None:
    import gguf
    import numpy as np

    plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
    if kind in plain:
        dtype = np.dtype(plain[kind])
        writer.add_tensor_info(name, shape, dtype, math.prod(shape) * dtype.itemsize)
        return
    packed = gguf.quant_shape_to_byte_shape(shape, kind)
    writer.add_tensor_info(name, packed, np.dtype(np.uint8), math.prod(packed), raw_dtype=kind)


def _say_kinds(kinds: dict[str, Any], word: str) -> None:
    """Says which matrices are not in the format that was asked for."""
    others = Counter(kind.name.lower() for kind in kinds.values() if kind.name not in ("F32", word.upper()))
    for kind, number in others.items():
        why = "embeddings and head" if kind == "q8_0" else "their rows are no whole number of blocks"
        note(f"{number} of {len(kinds)} tensors are in {kind}: {why}")
