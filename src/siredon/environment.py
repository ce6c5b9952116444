"""What a bug report needs to know: versions, devices, optional parts.  No secrets, no names of people or folders."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata

from siredon.hardware import describe_devices

#: Libraries that every installation has, the heaviest first.
LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "pydantic",
    "PyYAML",
    "typer",
)
#: Extra of the package -> what it unlocks.
EXTRAS = {
    "gguf": "models in GGUF files, such as the one of the quickstart",
    "quantization": "weights in few bits, `qat` and `fp8`",
    "optimizers": "optimizers that PyTorch and transformers lack",
    "kernels": "attention kernels of the hub, `attn_implementation: owner/name`",
    "trackers": "`use_tensorboard: true`",
    "sweep": "`train --sweep-search optuna`",
    "evaluate": "`evaluate --metric`: ROUGE, chrF, BLEU, TER",
    "lm-eval": "`lm-eval`, and `lm_eval_tasks`",
    "gradio": "`chat --gradio` and `inference --gradio`",
    "serve": "`serve`",
    "llamacpp": "k-quants in GGUF files, and llama.cpp's own look at an export",
    "onnx": "`export --format onnx`",
    "s3": "data sets at `s3://`",
    "gs": "data sets at `gs://`",
    "az": "data sets at `az://` and `abfs://`",
    "oci": "data sets at `oci://`",
    "docs": "building this documentation",
    "test": "running the tests",
    "lint": "checking the code",
    "dev": "all that working on Siredon takes",
}
#: Variables that change what a run does, and tell nothing else.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "WORLD_SIZE",
    "OMP_NUM_THREADS",
    "GOMP_SPINCOUNT",
    "HF_HUB_OFFLINE",
    "TOKENIZERS_PARALLELISM",
)


@dataclass(frozen=True)
class Part:
    """An extra: whether everything it asks for is installed, what is missing, and what it unlocks."""

    name: str
    installed: bool
    missing: tuple[str, ...]
    unlocks: str


@dataclass(frozen=True)
class Environment:
    """Versions, devices, optional parts and variables of this process."""

    siredon: str
    python: str
    system: str
    devices: dict[str, str]
    libraries: dict[str, str]
    parts: tuple[Part, ...]
    variables: dict[str, str]


def describe_environment() -> Environment:
    """Looks at this process and its machine.  Imports torch."""
    return Environment(
        siredon=metadata.version("siredon"),
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        devices=describe_devices(),
        libraries={name: find_version(name) or "not installed" for name in LIBRARIES},
        parts=find_parts(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def find_version(name: str) -> str:
    """The installed version of a package; empty if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def find_parts() -> tuple[Part, ...]:
    """The extras that the package declares, in its order."""
    declared: dict[str, list[str]] = {}
    for line in metadata.requires("siredon") or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        name = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
        if extra and name:
            inner = re.search(r"\[(.+)\]", requirement)
            packages = [f"[{part}]" for part in inner[1].split(",")] if inner else [name[0]]
            declared.setdefault(extra[1], []).extend(packages)
    return tuple(_part(name, declared) for name in declared)


def _part(name: str, declared: dict[str, list[str]]) -> Part:
    missing = tuple(package for package in _packages(name, declared) if not find_version(package))
    return Part(name, not missing, missing, EXTRAS.get(name, ""))


def _packages(name: str, declared: dict[str, list[str]]) -> list[str]:
    """The packages of an extra, with those of the extras inside it."""
    found: list[str] = []
    for package in declared.get(name, ()):
        found += _packages(package[1:-1].strip(), declared) if package.startswith("[") else [package]
    return found


def show_environment(environment: Environment) -> str:
    """For people, and for a bug report."""
    rows = [
        ("siredon", environment.siredon),
        ("python", environment.python),
        ("system", environment.system),
        *environment.devices.items(),
    ]
    lines = _align(rows)
    lines += ["", "libraries", *_align(environment.libraries.items())]
    lines += ["", "optional parts: pip install 'siredon[NAME]'"]
    parts = []
    for part in environment.parts:
        state = "installed" if part.installed else f"not installed (lacks {', '.join(part.missing)})"
        parts.append((part.name, f"{state}: {part.unlocks}"))
    lines += _align(parts)
    if environment.variables:
        lines += ["", "environment variables", *_align(environment.variables.items())]
    return "\n".join(lines)


def show_environment_json(environment: Environment) -> str:
    """For programs."""
    return json.dumps(asdict(environment), indent=2)


def _align(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {value}" for name, value in rows]
