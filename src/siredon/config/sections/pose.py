"""Positions with gaps."""

from __future__ import annotations

from siredon.config.fields import Bool, Int, Section, planned


class PoseSection(Section):
    """PoSE: positions with gaps, so that short rows teach long ones."""

    use_pose: Bool | None = planned("Leave gaps in the positions.")
    pose_split_on_token_ids: tuple[Int, ...] | None = planned("Token ids after which a gap may come.")
    pose_max_context_len: Int | None = planned("Context length to be learned, in tokens.")
    pose_num_chunks: Int | None = planned("Pieces of a row between gaps.")
