"""Which model, and how its weights are read."""

from __future__ import annotations

from typing import Any

from siredon.config.fields import Bool, Section, Str, key


class ModelSection(Section):
    """The base model: a hub id or a local folder, its class and its configuration."""

    base_model: Str = key("Hub id, local folder or GGUF file of the weights.")
    base_model_config: Str | None = key(
        "Hub id or folder of the model's config; default `base_model`.", None, derived="config_path"
    )
    model_type: Str = key(
        "Class of transformers that loads the weights.", "AutoModelForCausalLM", name="model_type"
    )
    revision: Str | None = key("Branch, tag or commit on the hub.", None, name="model_revision")
    overrides: dict[str, Any] = key(
        "Settings of the model's own config to change before it is built.", {}, name="model_config"
    )
    trust_remote_code: Bool = key("Allow Python code that comes with the weights to run.", False)
    reinit_weights: Bool = key("Random weights from the config instead of the trained ones.", False)
    allow_pickle: Bool = key("Read weights from `.bin` files where there are no safetensors.", False)
    cls_model_config: Str = key("Class of transformers that reads the config.", "AutoConfig")
    model_kwargs: dict[str, Any] = key("More arguments for loading the weights.", {})

    @property
    def config_path(self) -> str:
        """Where the model's config is read from."""
        return self.base_model_config or self.base_model
