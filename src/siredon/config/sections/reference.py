"""The model that a policy is compared with, where that is not the policy itself at its start."""

from __future__ import annotations

from siredon.config.fields import Bool, Section, Str, key


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

    rl_adapter_ref_model: Bool | None = key(
        "Compare with `base_model` as a second model, without any adapter: not with an adapter that is trained on.",
        None,
    )

    @property
    def has_second_model(self) -> bool:
        """Whether it is a model of its own, whatever the policy is."""
        return self.reference_model is not None or bool(self.rl_adapter_ref_model)

    @property
    def is_chosen(self) -> bool:
        """Whether the file says which model it is."""
        return self.has_second_model or self.reference_adapter is not None
