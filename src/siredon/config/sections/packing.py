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
    sample_packing_group_size: Int = planned("Rows among which the packer looks for a fit.", 100_000)
    sample_packing_bin_size: Int = planned("Most rows in one pack.", 200)
    sample_packing_sequentially: Bool | None = planned("Fill packs in the order of the rows.")
    sample_packing_mp_start_method: Literal["fork", "spawn", "forkserver"] | None = planned(
        "How processes that pack are started."
    )
    sample_packing_eff_est: Float | None = planned("Known fill of the packs, 0 to 1, to count steps at once.")
    multipack_real_batches: Bool | None = planned("Packs are rows of a batch, not laid end to end.")
    pad_to_multiple_of: Int | None = planned("Padded lengths are multiples of this, in tokens; default 64.")
    batch_flattening: Bool | Literal["auto"] | None = planned("Lay the rows of a batch end to end, unpadded.")
    group_by_length: Bool | None = planned("Rows of like length share a batch.")
    curriculum_sampling: Bool | None = planned("Keep the order of the rows; nothing is shuffled.")

    @property
    def pack_eval(self) -> bool:
        """Whether validation rows are packed."""
        return self.sample_packing if self.eval_sample_packing is None else self.eval_sample_packing

    @property
    def pads_fully(self) -> bool:
        """Whether every batch has the full `sequence_len`."""
        return self.sample_packing if self.pad_to_sequence_len is None else self.pad_to_sequence_len
