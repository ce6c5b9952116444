"""What decides how a run comes out: program, packages, machine, environment, data, weights."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import siredon
from siredon import __version__
from siredon.config.schema import Config
from siredon.data.prepare import Preparation, Prepared
from siredon.distributed.ranks import num_ranks
from siredon.environment import LIBRARIES, find_version
from siredon.hardware import Hardware, describe_libraries
from siredon.redaction import is_secret_variable, redact, redact_values, strip_addresses
from siredon.train.fingerprint import fingerprint_reference, fingerprint_weights

#: Packages that a run may compute with, besides those that every installation has.
_OPTIONAL = (
    "bitsandbytes",
    "torchao",
    "triton",
    "xformers",
    "flash-attn",
    "flash-attn-3",
    "kernels",
    "gguf",
    "schedulefree",
    "torch-optimi",
    "pytorch-optimizer",
)
#: Beginnings of the names of variables that libraries which compute look at.
_VARIABLES = (
    *("OMP_", "MKL_", "KMP_", "CUBLAS_", "CUDA_", "CUDNN_", "PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "NCCL_"),
    *("FLASH_ATTENTION_", "XFORMERS_", "TRITON_", "ACCELERATE_", "HF_", "TRANSFORMERS_", "NVIDIA_TF32_"),
)
_NAMES = ("GOMP_SPINCOUNT", "PYTHONHASHSEED", "TOKENIZERS_PARALLELISM", "ATEN_CPU_CAPABILITY")
#: What is set along the way, by torchrun, Accelerate or PyTorch.
_FLEETING = (
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "PYTORCH_ENABLE_MPS_FALLBACK",
)


@dataclass(frozen=True)
class Run:
    """What a run is made of.

    Args:
        config: The whole config.
        tokenizer: With its special tokens.
        prepared: The data.
        hardware: The machine.
    """

    config: Config
    tokenizer: Any
    prepared: Prepared
    hardware: Hardware


def gather_facts(run: Run) -> dict[str, Any]:
    """All of it, as JSON values."""
    return {**describe_machine(run.config, run.hardware), "data": describe_data(run)}


def describe_machine(config: Config, hardware: Hardware) -> dict[str, Any]:
    """All but the data, without loading a model."""
    import torch

    return {
        "siredon": __version__,
        "given": redact_values(config.given),
        "versions": describe_versions(),
        "hardware": {**asdict(hardware), "num_threads": torch.get_num_threads()},
        "num_ranks": num_ranks(),
        "weights": fingerprint_weights(config.model, config.adapter)
        | fingerprint_reference(config.reference_to_load, config.reference),
        "code": {
            "siredon": describe_checkout(Path(siredon.__file__).parent, "__init__.py"),
            "folder": describe_checkout(Path.cwd()),
        },
        "environment": describe_variables(),
    }


def list_hidden(config: Config) -> list[str]:
    """The keys, dotted, whose texts are not in `given` as they were set, since they hold a secret."""
    given = config.given
    shown = dict(walk_texts(redact_values(given)))
    return [name for name, text in walk_texts(given) if shown[name] != text]


def walk_texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The texts in a JSON value, each with its dotted name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk_texts(item, f"{name}.{key}" if name else str(key))


def describe_data(run: Run) -> dict[str, Any]:
    """The samples as a whole, and what they are made of."""
    config, prepared = run.config, run.prepared
    texts = [text.as_dataset() for text in config.streaming.texts]
    entries = [*texts, *config.data.datasets, *config.data.test_datasets]
    names = [f"{index + 1}: {strip_addresses(entry.path)}" for index, entry in enumerate(entries)]
    preparation = Preparation(run.tokenizer, config.tokenizer, config.data, config.batch.seed)
    return {
        "fingerprint": prepared.fingerprint,
        "sources": dict(zip(names, prepared.contents, strict=True)),
        "tokenizer": preparation.tokenizer_content,
    }


def describe_versions() -> dict[str, str]:
    """Package -> version, of those that are installed and take part."""
    found = {name: find_version(name) for name in (*LIBRARIES, *_OPTIONAL)}
    installed = {name: version for name, version in found.items() if version}
    return {"python": platform.python_version(), **installed, **describe_libraries()}


def describe_variables() -> dict[str, str]:
    """Variables of the environment that may change how a run comes out, without secrets."""
    return {
        name: redact(value)
        for name, value in sorted(os.environ.items())
        if (name.startswith(_VARIABLES) or name in _NAMES)
        and not name.startswith(_FLEETING)
        and not is_secret_variable(name)
    }


def describe_checkout(folder: Path, file: str = "") -> dict[str, str] | None:
    """Commit of the git checkout that a folder is in, the folder's tree in it, and a hash of what was changed since.

    None where there is no checkout.  Files that git does not know are in the hash by their names only.

    Args:
        folder: The folder; what is beside it does not count.
        file: A file in it that must be of the checkout, as in an environment that lies in the checkout of another.
    """
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if commit is None or (file and _ask_git(folder, "ls-files", "--error-unmatch", file) is None):
        return None
    tree = _ask_git(folder, "rev-parse", "HEAD:./") or b""
    diff = _ask_git(folder, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--", ".")
    strange = _ask_git(folder, "ls-files", "--others", "--exclude-standard")
    changes = "not known"  # git took too long
    if diff is not None and strange is not None:
        changes = hashlib.sha256(diff + b"\0" + strange).hexdigest()[:16] if diff or strange else ""
    return {"commit": commit.decode().strip(), "tree": tree.decode().strip(), "changes": changes}


def _ask_git(folder: Path, *words: str) -> bytes | None:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
