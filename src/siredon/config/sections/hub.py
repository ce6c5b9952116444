"""The Hugging Face hub."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Section, Str, planned


class HubSection(Section):
    """What is uploaded."""

    hub_model_id: Str | None = planned("Repository that receives the model.")
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] | None = planned(
        "What is uploaded, and when."
    )
    hub_revision: Str | None = planned("Branch that receives it.")
    push_dataset_to_hub: Str | None = planned("Repository that receives the prepared data.")
    hf_use_auth_token: Bool | None = planned("Show your hub token when data is fetched or uploaded.")
