"""How rows are put together into batches."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, key, planned


class PackingSection(Section):
    """Several rows in one sequence, and padding."""

    sample_packing: Bool = key("Pack several rows into one sequence, isolated from each other.", False)
    eval_sample_packing: Bool | None = key(
        "The same for validation rows; default `sample_packing`.", None, derived="pack_eval"
    )
    pad_to_sequence_len: Bool | None = key(
        "Pad every batch to `sequence_len`; default only when packing.", None, derived="pads_fully"
    )
    sample_packing_group_size: Int = key(
        "Rows among which the packer looks for a fit: all of them, unless there are more.", 100_000, ge=1
    )
    sample_packing_bin_size: Int | None = key("Most rows in one pack; default no limit.", None, ge=1)
    sample_packing_sequentially: Bool | None = key(
        "Fill packs in the order of the rows; default `curriculum_sampling`.", None, derived="packs_in_order"
    )
    sample_packing_mp_start_method: Literal["fork", "spawn", "forkserver"] | None = planned(
        "How processes that pack are started."
    )
    sample_packing_eff_est: Float | None = planned("Known fill of the packs, 0 to 1, to count steps at once.")
    multipack_real_batches: Bool | None = key(
        "Packs are rows of a batch; false lays them end to end; default as the attention needs it.",
        None,
        derived="Config.batches_packs",
    )
    pad_to_multiple_of: Int | None = key(
        "Padded lengths are multiples of this, in tokens; default 8.", None, ge=1
    )
    batch_flattening: Bool | Literal["auto"] | None = key(
        "Lay the rows of a batch end to end, unpadded; `auto` does it where attention needs no mask for it.",
        None,
    )
    group_by_length: Bool | None = key("Rows of like length share a batch.", None)
    curriculum_sampling: Bool | None = key("Keep the order of the rows; nothing is shuffled.", None)

    @property
    def pack_eval(self) -> bool:
        """Whether validation rows are packed."""
        return self.sample_packing if self.eval_sample_packing is None else self.eval_sample_packing

    @property
    def packs_in_order(self) -> bool:
        """Whether packs are filled in the order of the rows."""
        asked = self.sample_packing_sequentially
        return bool(self.curriculum_sampling) if asked is None else asked

    @property
    def pads_fully(self) -> bool:
        """Whether every batch has the full `sequence_len`."""
        return self.sample_packing if self.pad_to_sequence_len is None else self.pad_to_sequence_len
