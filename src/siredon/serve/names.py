"""What the models of a server are called."""

from __future__ import annotations

from pathlib import Path

from siredon.config.schema import Config
from siredon.errors import ModelError
from siredon.serve.wanted import Wanted


def name_models(config: Config, wanted: Wanted) -> list[str]:
    """What the models of a server are called: the tuned one, more adapters, and at last the base.

    Raises:
        ModelError: Two of them have one name, or there is no adapter beside which others could be.
    """
    if wanted.adapters and not config.writes_adapter:
        raise ModelError(
            "`--adapter` needs a base beneath it: what is served is a whole model",
            "Name the folder of one of the adapters in place of it.",
        )
    names = [wanted.name or config.checkpoint.output_folder.resolve().name]
    names += [name for name, _ in wanted.adapters]
    base = config.model.base_model
    if config.writes_adapter:
        names.append(Path(base).expanduser().name if Path(base).expanduser().exists() else base)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ModelError(
            f"two of the served models are called `{twice}`", "Name the tuned one with `--name`."
        )
    return names
