"""Whether weights that are stored in few bits are what the file takes them for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from siredon.config.rule import Finding
from siredon.config.sections.quantization import QuantizationSection

#: How the weights are stored -> the keys that may stand in the file beside them.
_METHODS = {
    "gptq": ("gptq",),
    "mxfp4": ("model_quantization_config",),
    "fp8": ("model_quantization_config",),
    "torchao": ("load_in_torchao",),
}
_CLASSES = {"Mxfp4Config": "mxfp4", "FineGrainedFP8Config": "fp8"}

_OURS = "pip install 'siredon[quantization]'"
_GPTQ = "pip install gptqmodel optimum"
#: A key, or how weights are stored -> the packages that it takes, and how they are installed.
_PACKAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "load_in_4bit": (("bitsandbytes", _OURS),),
    "load_in_8bit": (("bitsandbytes", _OURS),),
    "bitsandbytes": (("bitsandbytes", _OURS),),
    "load_in_torchao": (("torchao", _OURS),),
    "torchao": (("torchao", _OURS),),
    "qat": (("torchao", _OURS),),
    "quantization": (("torchao", _OURS),),
    "gptq": (("gptqmodel", _GPTQ), ("optimum", _GPTQ)),
    "awq": (("gptqmodel", "pip install gptqmodel"),),
    "compressed-tensors": (("compressed_tensors", _OURS),),
}


def find_lacking(name: str) -> Iterator[tuple[str, str]]:
    """The packages that are not installed, with the command that installs each.

    Args:
        name: A key, or how weights are stored.
    """
    for package, install in _PACKAGES.get(name, ()):
        if importlib.util.find_spec(package) is None:
            yield package, install


def find_contradiction(section: QuantizationSection, stored: Mapping[str, Any]) -> Finding | None:
    """What the file says of the weights that their own config contradicts; None if there is nothing.

    Args:
        section: What the file says.
        stored: `quantization_config` of the model's `config.json`; empty for whole weights.
    """
    if not section.ways:
        return None
    way = section.ways[0]
    method = str(stored.get("quant_method", "")).lower()
    if not method:
        if way not in ("gptq", "model_quantization_config"):
            return None
        message = f"`{way}` is for weights that are stored in few bits, and these are whole"
        return Finding(
            way, message, "Round them as they are read: `load_in_4bit: true`, with `adapter: qlora`."
        )
    allowed = _METHODS.get(method, ())
    if method == "bitsandbytes":
        allowed = ("load_in_4bit",) if stored.get("load_in_4bit") else ("load_in_8bit",)
    named = section.model_quantization_config
    if way in allowed and (named is None or _CLASSES[named] == method):
        return None
    fix = f"Write `{_suggest(method, allowed)}`, or name whole weights." if allowed else f"Remove `{way}`."
    return Finding(
        way, f"the weights are stored in few bits already, by {method}: not what `{way}` says", fix
    )


def _suggest(method: str, allowed: tuple[str, ...]) -> str:
    classes = {method: name for name, method in _CLASSES.items()}
    if method in classes:
        return f"model_quantization_config: {classes[method]}"
    return f"{allowed[0]}: true" if method != "torchao" else "load_in_torchao: int8"
