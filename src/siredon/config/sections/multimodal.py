"""Images, sound and video beside text."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import Bool, Int, Section, Str, planned


class RoleBoundary(Section):
    """One entry of `role_boundaries:`, the text around a turn of one role."""

    role: Str | None = planned("Role of the turn.")
    start: Str | None = planned("Text before it.")
    end: Str | None = planned("Text after it; `eos_token` and `none` are allowed.")
    include_start: Bool = planned("Learn the text before it.", False)
    include_end: Bool = planned("Learn the text after it.", True)


class MultimodalSection(Section):
    """The processor of a multimodal model, and its images."""

    processor_type: Str | None = planned("Class of transformers that reads media; makes the run multimodal.")
    processor_kwargs: dict[str, Any] | None = planned("More arguments for loading it.")
    image_size: Int | tuple[Int, Int] | None = planned("Size of images in pixels: side, or width and height.")
    image_resize_algorithm: Literal["bilinear", "bicubic", "lanczos"] | None = planned(
        "Interpolation of images whose size changes."
    )
    role_boundaries: tuple[RoleBoundary, ...] | None = planned("Text around the turns; default by the model.")
    freeze_mm_modules: Bool | None = planned("Train nothing that reads images or sound.")
