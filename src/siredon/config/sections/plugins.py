"""Code of others."""

from __future__ import annotations

from siredon.config.fields import Bool, Section, Str, StrList, planned


class PluginSection(Section):
    """Code that is loaded with the run, and how strict the command line is."""

    plugins: StrList | None = planned("Dotted paths of plugin classes.")
    trainer_cls: Str | None = planned("Dotted path of a trainer to use instead.")
    strict: Bool = planned("The command line may change only keys that the file sets.", False)
