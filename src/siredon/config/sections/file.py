"""How a file is put together, and code of others."""

from __future__ import annotations

from siredon.config.fields import Bool, Section, Str, StrList, planned, resolved


class FileSection(Section):
    """How this file is put together with others, and with the command line."""

    include: StrList = resolved(
        "Files whose keys hold where this one sets none; paths from the folder of this file.", ()
    )
    strict: Bool = resolved("The command line may change only keys that the file sets.", False)
    plugins: StrList = resolved(
        "Axolotl's integrations, by their dotted paths; each switches on the part of the same meaning.", ()
    )


class PluginSection(Section):
    """Code that is loaded with the run."""

    trainer_cls: Str | None = planned("Dotted path of a trainer to use instead.")
