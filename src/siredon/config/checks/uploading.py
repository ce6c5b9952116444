"""What is uploaded to the hub while a run trains."""

from __future__ import annotations

import re
from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.checkpoint import CheckpointSection
from siredon.config.sections.hub import HubSection

#: A name as the hub takes it: no dot or dash at its ends, none twice.
_NAME = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"(?:{_NAME}/)?{_NAME}", re.ASCII)


def _check_name(hub: HubSection) -> Iterator[Finding]:
    """A repository has a name that the hub takes.

    `owner/name`, or a name alone in the account that the token is of: letters, digits, `-`, `_` and `.`, at most 96,
    no `--` or `..`, and neither `-` nor `.` at the ends; and not `.git`.
    """
    name = hub.hub_model_id
    if name is not None and (not _REPO.fullmatch(name) or name.endswith(".git")):
        yield Finding(
            "hub_model_id",
            f"`hub_model_id: {name}` is no name of a repository",
            "Write `owner/name`, without an address before it.",
            value=name,
        )


def _check_state(hub: HubSection, checkpoint: CheckpointSection) -> Iterator[Finding]:
    """Checkpoints that are uploaded to go on from hold what that takes.

    With `save_only_model` they hold the weights alone, which `hub_strategy: every_save` uploads too.
    """
    if (
        hub.hub_model_id
        and hub.hub_strategy in ("checkpoint", "all_checkpoints")
        and checkpoint.save_only_model
    ):
        yield Finding(
            "save_only_model",
            f"no run can go on from what `hub_strategy: {hub.hub_strategy}` uploads with `save_only_model: true`",
            "Remove `save_only_model`, or write `hub_strategy: every_save`.",
            "warning",
        )


RULES = (
    Rule(
        "SD0880",
        _check_name,
        wrong="hub_model_id: https://huggingface.co/user/model",
        right="hub_model_id: user/model",
    ),
    Rule(
        "SD0881",
        _check_state,
        wrong="hub_model_id: user/model\nhub_strategy: checkpoint\nsave_only_model: true",
        right="hub_model_id: user/model\nhub_strategy: every_save\nsave_only_model: true",
    ),
)
