"""How rows become batches."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import find_useless_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.loader import LoaderSection
from siredon.config.sections.packing import PackingSection


def _check_size(batch: BatchSection) -> Iterator[Finding]:
    """The size of an optimizer step is said once.

    `batch_size` is the number of sequences per step; `gradient_accumulation_steps` makes it from
    `micro_batch_size` and the number of GPUs.
    """
    if batch.batch_size is not None and "gradient_accumulation_steps" in batch.model_fields_set:
        yield Finding(
            "batch_size",
            "`batch_size` and `gradient_accumulation_steps` exclude each other",
            "Keep one of them; `gradient_accumulation_steps` is the usual one.",
        )


def _check_multiple(batch: BatchSection) -> Iterator[Finding]:
    """`batch_size` is a multiple of `micro_batch_size`.

    A step is made of whole micro-batches.  An error, where Axolotl silently takes a smaller batch.
    """
    size, micro = batch.batch_size, batch.micro_batch_size
    if size is not None and size % micro:
        yield Finding(
            "batch_size",
            f"`batch_size: {size}` is no multiple of `micro_batch_size: {micro}`",
            f"Write `batch_size: {max(size // micro, 1) * micro}`, or choose another `micro_batch_size`.",
        )


def _check_padding(packing: PackingSection) -> Iterator[Finding]:
    """Packed batches are padded to `sequence_len`.

    Packs are nearly full, so padding costs little; without it every batch has a size of its own, and the
    memory that a run needs shows only at the largest.  `pad_to_multiple_of` is for batches that are padded to
    their longest row.
    """
    if packing.pads_fully:
        why = "where batches are padded to `sequence_len`"
        yield from find_useless_keys(packing, ("pad_to_multiple_of",), why)
    if packing.sample_packing and packing.pad_to_sequence_len is False:
        yield Finding(
            "pad_to_sequence_len",
            "with `pad_to_sequence_len: false`, packed batches differ in size, and so does the memory they take",
            "Remove `pad_to_sequence_len`: packing pads by default.",
            "warning",
        )


def _check_order(packing: PackingSection, data: DataSection) -> Iterator[Finding]:
    """Rows that keep their order are neither grouped nor shuffled.

    `curriculum_sampling` promises the order of the data.
    """
    if not packing.curriculum_sampling:
        return
    if packing.group_by_length:
        yield Finding(
            "group_by_length",
            "`curriculum_sampling` keeps the order of the rows, `group_by_length` changes it",
            "Remove one of them.",
        )
    asked = data.model_fields_set & {"shuffle_merged_datasets", "shuffle_before_merging_datasets"}
    for name, shuffles in data.model_dump(include=asked).items():
        if shuffles:
            yield Finding(
                name,
                f"`curriculum_sampling` keeps the order of the rows, `{name}: true` changes it",
                f"Set `{name}: false`, or remove `curriculum_sampling`.",
                "warning",
            )


def _check_grouping(packing: PackingSection) -> Iterator[Finding]:
    """Rows are packed, or grouped by length.

    A packer looks for rows that fill a pack together, whatever their length.
    """
    if packing.sample_packing and packing.group_by_length:
        yield Finding(
            "group_by_length",
            "`group_by_length` has no effect with `sample_packing: true`",
            "Remove `group_by_length`.",
            "warning",
        )


def _check_prefetching(loader: LoaderSection) -> Iterator[Finding]:
    """Batches are prefetched by processes of their own.

    PyTorch refuses `dataloader_prefetch_factor` where the run itself fetches its batches.
    """
    if loader.dataloader_prefetch_factor is not None and not loader.dataloader_num_workers:
        yield Finding(
            "dataloader_prefetch_factor",
            "`dataloader_prefetch_factor` needs `dataloader_num_workers` of 1 or more",
            "Add `dataloader_num_workers: 2`, for example, or remove the key.",
        )


RULES = (
    Rule(
        "SD0214",
        _check_size,
        wrong="batch_size: 32\ngradient_accumulation_steps: 4",
        right="micro_batch_size: 8\ngradient_accumulation_steps: 4",
    ),
    Rule(
        "SD0215",
        _check_multiple,
        wrong="batch_size: 10\nmicro_batch_size: 4",
        right="batch_size: 12\nmicro_batch_size: 4",
    ),
    Rule(
        "SD0216",
        _check_padding,
        wrong="sample_packing: true\npad_to_sequence_len: false",
        right="sample_packing: true\npad_to_sequence_len: true",
    ),
    Rule(
        "SD0217",
        _check_order,
        wrong="curriculum_sampling: true\ngroup_by_length: true",
        right="curriculum_sampling: true\nshuffle_merged_datasets: false",
    ),
    Rule(
        "SD0218",
        _check_grouping,
        wrong="sample_packing: true\ngroup_by_length: true",
        right="sample_packing: false\ngroup_by_length: true",
    ),
    Rule(
        "SD0219",
        _check_prefetching,
        wrong="dataloader_prefetch_factor: 4",
        right="dataloader_prefetch_factor: 4\ndataloader_num_workers: 2",
    ),
)
