"""The model that a policy is compared with, where that is not the policy itself at its start."""

from __future__ import annotations

from siredon.config.fields import Section, Str, key


class ReferenceSection(Section):
    """A reference model of your own; without these keys it is the policy at its start."""

    reference_model: Str | None = key(
        "Hub id or folder of a second model that the policy is compared with; default the policy at its start.",
        None,
    )
    reference_revision: Str | None = key("Its branch, tag or commit on the hub.", None)
    reference_adapter: Str | None = key(
        "Folder of an adapter over `reference_model`, or over `base_model`, to compare with.", None
    )

    @property
    def is_chosen(self) -> bool:
        """Whether the file says which model it is."""
        return self.reference_model is not None or self.reference_adapter is not None
