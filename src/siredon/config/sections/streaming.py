"""Text that is read while training."""

from __future__ import annotations

from siredon.config.fields import Bool, Int, Section, Str, StrList, planned


class PretrainingEntry(Section):
    """One entry of `pretraining_dataset:`."""

    path: Str | None = planned("Local file or folder, or hub id.")
    name: Str | None = planned("Configuration of a hub data set.")
    split: Str = planned("Split that is read.", "train")
    text_column: Str = planned("Column of the text.", "text")
    type: Str = planned("`pretrain` fills windows; `completion` keeps rows apart.", "pretrain")
    data_files: StrList | None = planned("Files inside the folder or hub data set.")
    skip: Int | None = planned("Rows passed over at the start.")
    trust_remote_code: Bool = planned("Allow Python code that comes with the data to run.", False)


class StreamingSection(Section):
    """Rows that are read and tokenized as training needs them."""

    pretraining_dataset: tuple[PretrainingEntry, ...] | None = planned("Plain text; needs `max_steps`.")
    streaming: Bool | None = planned("Do not prepare data ahead; needs `max_steps`.")
    streaming_multipack_buffer_size: Int = planned("Rows read ahead to pack from.", 10_000)
    pretrain_multipack_attn: Bool = planned("Rows in one pack do not see each other.", True)
    pretraining_sample_concatenation: Bool | None = planned("Join texts to full sequences, unpacked.")
