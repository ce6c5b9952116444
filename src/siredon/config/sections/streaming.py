"""Text that is read while training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, key, planned
from siredon.config.sections.data import DatasetEntry


class PretrainingEntry(Section):
    """One entry of `pretraining_dataset:`."""

    path: Str = key(
        "Local file or folder, address (`https://`, `s3://`, `gs://`, `az://`, `oci://`), or hub id."
    )
    name: Str | None = key("Configuration of a hub data set.", None)
    split: Str = key("Split that is read.", "train")
    text_column: Str = key("Column of the text.", "text")
    type: Literal["pretrain", "completion"] = key(
        "Format of the rows; both words mean plain text.", "pretrain"
    )
    data_files: StrList | None = key("Files inside the folder or hub data set.", None)
    skip: Int | None = key("Rows at the start that are never read.", None, ge=0)
    max_samples: Int | None = key("Rows that are used at most: the first ones after `skip`.", None, ge=1)
    weight: Float | None = key(
        "Rows drawn from this source, relative to the others; default by its number of rows.", None, gt=0
    )
    repeat: Bool = key("Begin again when all rows are read; false ends this source there.", True)
    trust_remote_code: Bool = planned("Allow Python code that comes with the data to run.", False)

    def as_dataset(self) -> DatasetEntry:
        """The same source as an entry of `datasets:` would name it."""
        return DatasetEntry(
            path=self.path,
            type=self.type,
            split=self.split,
            name=(self.name,) if self.name else (),
            data_files=self.data_files or (),
            field=self.text_column,
        )


def _read_entries(value: object) -> object:
    """A path alone, or a path among the entries, is an entry with nothing but that path."""
    if isinstance(value, str):
        return [{"path": value}]
    if isinstance(value, (list, tuple)):
        return [{"path": item} if isinstance(item, str) else item for item in value]
    return value


_ENTRIES = BeforeValidator(_read_entries, json_schema_input_type=Str | tuple[PretrainingEntry | Str, ...])


class StreamingSection(Section):
    """Rows that are read and tokenized as training needs them."""

    pretraining_dataset: Annotated[tuple[PretrainingEntry, ...], _ENTRIES] | None = key(
        "Plain text, streamed: entries, or one path; needs `max_steps`.", None
    )
    streaming: Bool | None = key("Do not prepare `datasets` ahead; needs `max_steps`.", None)
    streaming_multipack_buffer_size: Int = key(
        "Rows that are read ahead, shuffled, and packed together.", 10_000, ge=1
    )
    pretrain_multipack_attn: Bool = key("Rows in one pack do not see each other.", True)
    pretraining_sample_concatenation: Bool | None = key("Join texts to full sequences, unpacked.", None)

    @property
    def streams(self) -> bool:
        """Whether training rows are streamed."""
        return bool(self.pretraining_dataset or self.streaming)

    @property
    def texts(self) -> tuple[PretrainingEntry, ...]:
        """The sources of plain text."""
        return self.pretraining_dataset or ()
