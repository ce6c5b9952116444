"""Weights stored in FP8 blocks or in MXFP4, read as whole ones, a tensor at a time.

An FP8 weight lies beside the scales of its blocks, `NAME_scale_inv`.  A stack of experts in MXFP4 is two tensors:
`NAME_blocks`, of 4-bit floats, two a byte, and `NAME_scales`, of exponents of 2, plus 127, one for each 32 numbers.

Sources: the model cards of DeepSeek-V3 (FP8) and gpt-oss (MXFP4); OCP Microscaling Formats (MX) 1.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from siredon.errors import ModelError
from siredon.export.tensor_files import Shards, read_tensor

#: How weights are stored -> what is added to the name of a weight for its numbers, and for its scales.
PARTS = {"fp8": ("", "_scale_inv"), "mxfp4": ("_blocks", "_scales")}
_EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
#: What is added to an exponent of 2 that is stored in a byte.
_BIAS = 127


class WidenedShards(Shards):
    """The tensors of a model as they are in memory once they are widened.

    Args:
        files: Its safetensors.
        method: How they are stored: a key of `PARTS`.
        block: Rows and columns of a block in FP8.
        dtype: The format in which training reads them.
    """

    def __init__(
        self, files: Iterable[Path], method: str, block: tuple[int, int], dtype: torch.dtype
    ) -> None:
        super().__init__(files)
        self._block, self._dtype = block, dtype
        self._method = method
        numbers, scales = PARTS[method]
        #: Name of a weight -> the files of its two parts.
        self._parts: dict[str, tuple[Path, Path]] = {}
        for part in [*self]:
            name = part.removesuffix(numbers)
            if part == f"{name}{numbers}" and f"{name}{scales}" in self:
                self._join(name)

    def _join(self, name: str) -> None:
        """Puts a weight in the place of its parts."""
        numbers, scales = (f"{name}{part}" for part in PARTS[self._method])
        self._parts[name] = self._files.pop(numbers), self._files.pop(scales)
        shape = self.shapes.pop(numbers)
        del self.shapes[scales]
        if self._method == "mxfp4":
            experts, outputs, groups, num_bytes = shape
            shape = (experts, 2 * groups * num_bytes, outputs)
        self._files[name], self.shapes[name] = self._parts[name][0], shape

    def read(self, name: str) -> torch.Tensor:
        """A tensor as training has it; one that is stored in few bits in fp32.

        Raises:
            ModelError: It is stored in another way than the others.
        """
        if name not in self._parts:
            whole: torch.Tensor = super().read(name)
            return whole.to(self._dtype) if whole.is_floating_point() else whole
        places = zip(self._parts[name], PARTS[self._method], strict=True)
        numbers, scales = (read_tensor(file, f"{name}{part}") for file, part in places)
        if self._method == "mxfp4":
            from transformers.integrations.mxfp4 import convert_moe_packed_tensors

            weight: torch.Tensor = convert_moe_packed_tensors(numbers, scales, dtype=torch.float32)
        elif numbers.dtype in _EIGHT_BITS:
            weight = widen_blocks(numbers, scales, self._block)
        else:
            raise ModelError(
                f"base_model: {name} is stored as {numbers.dtype}, and not in 8-bit floats as the model's config says",
                "Let transformers read the whole model: `merge_method: legacy`.",
            )
        return weight.to(self._dtype).float()


def widen_blocks(numbers: torch.Tensor, scales: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Numbers times the scale of their block, in fp32.

    Args:
        numbers: In 8 bits, shape [..., rows, columns].
        scales: Shape [..., blocks of rows, blocks of columns], or one for all; bytes are exponents of 2, plus 127.
        block: Rows and columns of a block; those at the end may be smaller.
    """
    factors = (scales.float() - _BIAS).exp2() if scales.dtype == torch.uint8 else scales.float()
    if factors.numel() > 1:
        rows, columns = numbers.shape[-2:]
        factors = factors.repeat_interleave(block[0], -2)[..., :rows, :]
        factors = factors.repeat_interleave(block[1], -1)[..., :columns]
    return numbers.float() * factors
