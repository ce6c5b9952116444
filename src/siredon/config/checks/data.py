"""What is read, kept and held out."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.checks.streaming import find_stream_key
from siredon.config.rule import Finding, Rule
from siredon.config.sections.data import DataSection
from siredon.config.sections.hub import HubSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.pose import PoseSection
from siredon.config.sections.streaming import StreamingSection


def _check_upload(hub: HubSection) -> Iterator[Finding]:
    """Prepared data is uploaded with a hub token.

    The hub refuses uploads from nobody; `hf_use_auth_token` lets the run show who you are.
    """
    if hub.push_dataset_to_hub and not hub.hf_use_auth_token:
        yield Finding(
            "push_dataset_to_hub",
            "`push_dataset_to_hub` needs `hf_use_auth_token: true`",
            "Add `hf_use_auth_token: true`.",
        )


def _find_unprepared_key(data: DataSection, streaming: StreamingSection) -> str | None:
    """The key because of which rows are not prepared before training, if any."""
    return find_stream_key(streaming) or ("skip_prepare_dataset" if data.skip_prepare_dataset else None)


def _check_equal_rows(data: DataSection, streaming: StreamingSection) -> Iterator[Finding]:
    """Equal rows are looked for among rows that are prepared ahead.

    `dataset_exact_deduplication` compares every row with all others, so all of them must be there before
    training begins.
    """
    cause = _find_unprepared_key(data, streaming)
    if data.dataset_exact_deduplication and cause:
        yield Finding(
            "dataset_exact_deduplication",
            f"`dataset_exact_deduplication` cannot work with `{cause}`: the rows are not prepared ahead",
            f"Remove `dataset_exact_deduplication`, or `{cause}`.",
        )


def _check_parts(data: DataSection) -> Iterator[Finding]:
    """The part that is used is one of the parts, counted from 0.

    A number without the number of parts would be passed over, and every row trained.
    """
    parts = [("dataset_shard_idx", "dataset_shard_num", data.dataset_shard_idx, data.dataset_shard_num)]
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        parts += [
            (f"{list_name}.{place}.shards_idx", "shards", entry.shards_idx, entry.shards)
            for place, entry in enumerate(entries)
        ]
    for key, count_name, index, count in parts:
        name = key.rpartition(".")[2]
        if index is None:
            continue
        if count is None:
            yield Finding(
                key,
                f"`{name}` chooses one of several parts, but `{count_name}` is not set",
                f"Add `{count_name}: {max(index, 1) + 1}`, for example, or remove `{name}`.",
            )
        elif not 0 <= index < count:
            yield Finding(
                key,
                f"there is no part {index} among {count}: `{name}` counts from 0",
                f"Choose a number from 0 to {count - 1}."
                if count > 0
                else f"Raise `{count_name}` to 2 or more.",
            )


def _check_shortest(data: DataSection) -> Iterator[Finding]:
    """`min_sample_len` is not over `sequence_len`.

    Otherwise every row is too short or too long.
    """
    if data.min_sample_len is not None and data.min_sample_len > data.sequence_len:
        yield Finding(
            "min_sample_len",
            f"`min_sample_len: {data.min_sample_len}` is over `sequence_len: {data.sequence_len}`: "
            "no row could be kept",
            f"Lower `min_sample_len` to {data.sequence_len} or less, or raise `sequence_len`.",
        )


def _check_held_out(data: DataSection) -> Iterator[Finding]:
    """`val_set_size` is a fraction below 1, or a whole number of rows."""
    size = data.val_set_size
    if size > 1 and not size.is_integer():
        yield Finding(
            "val_set_size",
            f"`val_set_size: {size:g}` is neither a fraction below 1 nor a whole number of rows",
            f"Write `val_set_size: {round(size)}` for rows, or a fraction such as 0.05.",
        )


def _check_columns(data: DataSection) -> Iterator[Finding]:
    """Rows that are tokenized while training keep their columns.

    The model takes tokens only, so `remove_unused_columns` would drop the text before it is tokenized.
    """
    if data.skip_prepare_dataset and data.remove_unused_columns:
        yield Finding(
            "remove_unused_columns",
            "`remove_unused_columns: true` drops the text that `skip_prepare_dataset` tokenizes later",
            "Set `remove_unused_columns: false`.",
        )


def _check_prepared(data: DataSection, streaming: StreamingSection, hub: HubSection) -> Iterator[Finding]:
    """Prepared data is written where data is prepared.

    With `streaming`, `pretraining_dataset` or `skip_prepare_dataset` there is nothing to write or to upload.
    """
    cause = _find_unprepared_key(data, streaming)
    asked = (
        ("push_dataset_to_hub", bool(hub.push_dataset_to_hub)),
        ("num_dataset_shards_to_save", data.num_dataset_shards_to_save is not None),
    )
    for name, is_set in asked:
        if cause and is_set:
            yield Finding(
                name,
                f"`{name}` has no effect with `{cause}`: no data is prepared",
                f"Remove `{name}`, or `{cause}`.",
                "warning",
            )


def _check_gaps(data: DataSection, pose: PoseSection) -> Iterator[Finding]:
    """PoSE knows the context length to be learned, and it is at least the length of a row.

    The gaps between positions are drawn from what a row leaves free of that length.
    """
    if not pose.use_pose:
        return
    length = pose.pose_max_context_len
    if length is None:
        yield Finding(
            "use_pose",
            "`use_pose` needs `pose_max_context_len`",
            f"Add `pose_max_context_len: {8 * data.sequence_len}`, for example.",
        )
    elif length < data.sequence_len:
        yield Finding(
            "pose_max_context_len",
            f"`pose_max_context_len: {length}` is under `sequence_len: {data.sequence_len}`: "
            "there is no room for gaps",
            "Raise `pose_max_context_len` over `sequence_len`.",
        )


def _check_weights(data: DataSection) -> Iterator[Finding]:
    """A weight needs data sets that are mixed by weight.

    Data sets that stand one behind the other (`mix_strategy: concatenate`) are used in full, each row once an
    epoch; validation rows of `test_datasets` are never mixed.
    """
    for place, entry in enumerate(data.datasets):
        if "weight" in entry.model_fields_set and not data.is_mixed:
            yield Finding(
                f"datasets.{place}.weight",
                "`weight` has no effect with `mix_strategy: concatenate`: every row is used once",
                "Set `mix_strategy: first_exhausted` or `all_exhausted`, or remove `weight`.",
                "warning",
            )
    for place, entry in enumerate(data.test_datasets):
        if "weight" in entry.model_fields_set:
            yield Finding(
                f"test_datasets.{place}.weight",
                "`weight` has no effect in `test_datasets`: every validation row is used once",
                "Remove `weight`.",
                "warning",
            )


def _check_mixed(data: DataSection) -> Iterator[Finding]:
    """Mixing takes several data sets.

    Of one alone, every epoch has all rows, whatever the strategy.
    """
    if data.is_mixed and len(data.datasets) == 1:
        yield Finding(
            "mix_strategy",
            f"`mix_strategy: {data.mix_strategy}` has no effect with one data set",
            "Add another entry to `datasets`, or remove `mix_strategy`.",
            "warning",
        )


def _check_mixed_order(data: DataSection, packing: PackingSection) -> Iterator[Finding]:
    """Data sets that are mixed by weight have no order to keep.

    `curriculum_sampling` promises the order of the rows; mixing draws them anew for each epoch.
    """
    if data.is_mixed and packing.curriculum_sampling:
        yield Finding(
            "mix_strategy",
            f"`mix_strategy: {data.mix_strategy}` draws rows in random order, `curriculum_sampling` keeps theirs",
            "Remove `curriculum_sampling` or `mix_strategy`.",
        )


_WEIGHTED = (
    "datasets:\n  - path: a.jsonl\n    type: alpaca\n    weight: 3\n  - path: b.jsonl\n    type: alpaca"
)

RULES = (
    Rule(
        "SD0201",
        _check_upload,
        wrong="push_dataset_to_hub: user/prepared",
        right="push_dataset_to_hub: user/prepared\nhf_use_auth_token: true",
    ),
    Rule(
        "SD0202",
        _check_equal_rows,
        wrong="dataset_exact_deduplication: true\nstreaming: true\nmax_steps: 1000",
        right="dataset_exact_deduplication: true",
    ),
    Rule(
        "SD0203",
        _check_parts,
        wrong="dataset_shard_num: 4\ndataset_shard_idx: 4",
        right="dataset_shard_num: 4\ndataset_shard_idx: 3",
    ),
    Rule(
        "SD0204",
        _check_shortest,
        wrong="sequence_len: 1024\nmin_sample_len: 2048",
        right="sequence_len: 1024\nmin_sample_len: 16",
    ),
    Rule("SD0205", _check_held_out, wrong="val_set_size: 1.5", right="val_set_size: 150"),
    Rule(
        "SD0206",
        _check_columns,
        wrong="skip_prepare_dataset: true\nremove_unused_columns: true",
        right="skip_prepare_dataset: true\nremove_unused_columns: false",
    ),
    Rule(
        "SD0207",
        _check_prepared,
        wrong="skip_prepare_dataset: true\nnum_dataset_shards_to_save: 8",
        right="num_dataset_shards_to_save: 8",
    ),
    Rule(
        "SD0208",
        _check_gaps,
        wrong="sequence_len: 2048\nuse_pose: true",
        right="sequence_len: 2048\nuse_pose: true\npose_max_context_len: 16384",
    ),
    Rule(
        "SD0270",
        _check_weights,
        wrong=_WEIGHTED,
        right=f"{_WEIGHTED}\nmix_strategy: first_exhausted",
    ),
    Rule(
        "SD0271",
        _check_mixed,
        wrong="mix_strategy: all_exhausted",
        right=f"{_WEIGHTED}\nmix_strategy: all_exhausted",
    ),
    Rule(
        "SD0272",
        _check_mixed_order,
        wrong=f"{_WEIGHTED}\nmix_strategy: first_exhausted\ncurriculum_sampling: true\n"
        "shuffle_merged_datasets: false",
        right=f"{_WEIGHTED}\nmix_strategy: first_exhausted",
    ),
)
