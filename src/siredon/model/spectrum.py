"""Spectrum: which matrices are worth training, by the signal-to-noise ratio of their singular values.

Source: Hartford et al., "Spectrum: Targeted Training on Signal to Noise Ratio", 2024,
https://arxiv.org/abs/2406.06623.  The ratios are measured on the weights at hand, so that any model can be
trained so; they are kept in the user cache under a hash of those weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from siredon.config.model_folder import cache_folder
from siredon.hardware import Hardware
from siredon.log import note

#: Interquartile range of a normal distribution, in standard deviations.
_NORMAL_IQR = 1.349
_NUMBER = re.compile(r"\.\d+\.")
#: Goes up when the same weights would give other ratios.
_VERSION = 1


def measure_ratio(matrix: torch.Tensor) -> float:
    """Signal-to-noise ratio of a matrix, over its largest singular value.

    Singular values above `s * (1 + sqrt(n / m))`, with `n <= m` the sizes of the matrix, are signal, the others
    noise; the ratio is the sum of the one over the sum of the other.  That edge is the one of Marchenko and Pastur
    (1967), and `s` is, as the authors of Spectrum have it, the spread of the singular values themselves:
    interquartile range over 1.349.  So it ranks matrices of one shape, and says nothing by itself.

    Args:
        matrix: Of shape [n, m], or [E, n, m] for a stack of experts, whose mean it then is.

    Returns:
        The ratio; infinite if nothing is noise.
    """
    if matrix.ndim > 2:
        stack = matrix.reshape(-1, *matrix.shape[-2:])
        return sum(measure_ratio(part) for part in stack) / len(stack)
    values = torch.linalg.svdvals(matrix.float()).double().cpu()
    low, high = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    shape = sorted(matrix.shape)
    threshold = (high - low) / _NORMAL_IQR * (1 + math.sqrt(shape[0] / shape[1]))
    signal, noise = float(values[values > threshold].sum()), float(values[values <= threshold].sum())
    return signal / noise / float(values.max()) if noise else math.inf


def find_strong_matrices(base: Any, fraction: float, hardware: Hardware) -> list[torch.nn.Parameter]:
    """What Spectrum trains: of each kind of matrix the `fraction` with the highest ratios, at least one.

    A kind is what differs only in the number of its block.  Matrices that exist once, embeddings and head, are
    always trained; norms, biases and other vectors never, as they have no spectrum.

    Args:
        base: A model of transformers.
        fraction: Above 0, at most 1.
        hardware: Where singular values are computed.
    """
    matrices = {name: weight for name, weight in base.named_parameters() if _is_matrix(weight)}
    ranked = {name: weight for name, weight in matrices.items() if _NUMBER.search(name)}
    ratios = _measure_once(ranked, hardware)
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in ranked:
        kinds[_NUMBER.sub(".*.", name)].append(name)
    chosen = [name for name in matrices if name not in ranked]
    for kind, names in kinds.items():
        order = sorted(names, key=lambda name: -ratios[name])
        best = order[: max(1, int(fraction * len(order)))]
        numbers = ", ".join(sorted((_numbers_of(name) for name in best), key=_natural))
        note(
            f"Spectrum: {kind}: {len(best)} of {len(names)} trained ({numbers}), "
            f"ratio {ratios[order[0]]:.3g} to {ratios[order[-1]]:.3g}"
        )
        chosen += best
    return [matrices[name] for name in chosen]


def _is_matrix(weight: torch.Tensor) -> bool:
    """Whether it has singular values to compare: a convolution over single channels has one each."""
    return weight.ndim in (2, 3) and min(weight.shape[-2:]) > 1


def _numbers_of(name: str) -> str:
    return ".".join(part[1:-1] for part in _NUMBER.findall(name))


def _natural(numbers: str) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers.split("."))


def _measure_once(matrices: Mapping[str, torch.Tensor], hardware: Hardware) -> dict[str, float]:
    """The ratio of each matrix, from the user cache if these very weights were measured before."""
    from filelock import FileLock

    path = cache_folder() / "spectrum" / f"{_hash_weights(matrices)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of several ranks one measures and the others wait: two GPUs might rank near ties differently.
    with FileLock(f"{path}.lock"):
        if path.is_file():
            found: dict[str, float] = json.loads(path.read_text())
            return found
        note(f"Spectrum: measuring {len(matrices):,} matrices, once for these weights")
        ratios = {
            name: measure_ratio(weight.detach().to(hardware.device)) for name, weight in matrices.items()
        }
        _write(path, ratios)
    return ratios


def _write(path: Path, ratios: Mapping[str, float]) -> None:
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(ratios, indent=1))
    os.replace(beside, path)


def _hash_weights(matrices: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(f"spectrum {_VERSION}".encode())
    for name, weight in matrices.items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
