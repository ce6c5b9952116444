"""`plugins:` of Axolotl: each integration stands for keys, or for a part that is always on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from siredon.config.report import NOT_BUILT, Report
from siredon.config.schema import KeyInfo, key_homes
from siredon.registry import suggest

PLUGINS = "plugins"
_PREFIX = "axolotl.integrations."


@dataclass(frozen=True)
class Integration:
    """What naming an integration means.

    Args:
        sets: Keys that it sets where the file does not.
        part: A key of the part that it switches on by itself; empty if its keys do that.
    """

    sets: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""


#: Folder of the integration -> what it means.
INTEGRATIONS = {
    "cut_cross_entropy": Integration({"cut_cross_entropy": True}),
    "densemixer": Integration({"dense_mixer": True}),
    "diffusion": Integration(part="diffusion"),
    "expert_parallel": Integration(),
    "grokfast": Integration({"grokfast": True}),
    "hatchery": Integration(part="hatchery"),
    "kd": Integration(),
    "kernels": Integration(),
    "liger": Integration(),
    "llm_compressor": Integration(),
    "lm_eval": Integration(),
    "mora": Integration(part="mora"),
    "nemo_gym": Integration({"nemo_gym_enabled": True}),
    "spectrum": Integration({"spectrum_top_fraction": 0.5}),
    "swanlab": Integration({"use_swanlab": True}),
}


def apply_plugins(values: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """The values, and those that the plugins named in them set."""
    result = dict(values)
    named = values.get(PLUGINS)
    paths = [named] if isinstance(named, str) else named
    for index, path in enumerate(paths if isinstance(paths, list) else ()):
        if not isinstance(path, str):
            continue  # The type of the key says so
        where = (PLUGINS,) if isinstance(named, str) else (PLUGINS, index)
        integration = INTEGRATIONS.get(_folder_of(path))
        if integration is None:
            _report_unknown(path, where, report)
            continue
        if integration.part and _part(integration).status == "planned":
            message = f"the integration `{path}` is known but not built yet"
            report.error(
                NOT_BUILT, where, message, "Remove it, or run this file with Axolotl.", at_value=True
            )
        for name, value in integration.sets.items():
            if result.get(name) is None:
                result[name] = value
                report.move((name,), where)
    return result


def _part(integration: Integration) -> KeyInfo:
    return key_homes()[integration.part]


def _folder_of(path: str) -> str:
    """`axolotl.integrations.liger.LigerPlugin` -> `liger`."""
    return path.removeprefix(_PREFIX).partition(".")[0] if path.startswith(_PREFIX) else ""


def _report_unknown(path: str, where: tuple[str | int, ...], report: Report) -> None:
    if path.startswith(_PREFIX):
        known = ", ".join(f"`{name}`" for name in INTEGRATIONS)
        fix = f"{suggest(_folder_of(path), INTEGRATIONS)}Known: {known}."
    else:
        fix = (
            "Remove it: Siredon cannot run plugins written for Axolotl. Formats and templates of your own come "
            "with a package, by the entry points `siredon.formats` and `siredon.templates`."
        )
    report.error("SD0016", where, f"`{path}` is no plugin that Siredon knows", fix, at_value=True)
