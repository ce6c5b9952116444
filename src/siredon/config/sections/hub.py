"""The Hugging Face hub."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Section, Str, key, planned


class HubSection(Section):
    """What is uploaded."""

    hub_model_id: Str | None = key(
        "Repository that receives the model: `owner/name`, or a name in your own account.", None
    )
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] = key(
        "What is uploaded: the result at the `end`; at `every_save` the weights too; with them the last "
        "`checkpoint`, or `all_checkpoints`.",
        "every_save",
    )
    hub_revision: Str | None = key("Branch that receives it, made if it is not there; default `main`.", None)
    hub_private_repo: Bool = key(
        "Make the repository private where it is not there yet; with false a public one is made or used.",
        True,
    )
    push_dataset_to_hub: Str | None = planned("Repository that receives the prepared data.")
    hf_use_auth_token: Bool | None = planned("Show your hub token when data is fetched or uploaded.")
