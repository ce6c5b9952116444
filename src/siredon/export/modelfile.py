"""Ollama's Modelfile: written, and read again.

Source: https://docs.ollama.com/modelfile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from siredon.errors import ModelError

_QUOTES = '"""'
_LINE = re.compile(
    r'(FROM|TEMPLATE|SYSTEM|PARAMETER stop) (?:"""(.*?)"""|"([^"\n]*)"|([^"\n]+))\n', re.DOTALL
)


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says.

    Args:
        weights: The GGUF file, from the folder of the Modelfile.
        template: How a conversation is rendered, in Go's language.
        stops: Texts that end an answer.
        system: The system message of a conversation that has none; empty for none.
    """

    weights: str
    template: str
    stops: tuple[str, ...]
    system: str = ""


def write_modelfile(modelfile: Modelfile) -> str:
    """Its text.

    Raises:
        ModelError: Three quotes in a row, which no Modelfile can hold, or one in a stop.
    """
    for text in (modelfile.template, modelfile.system):
        if _QUOTES in text or text.endswith('"'):
            raise ModelError(
                f"a Modelfile cannot hold a text with {_QUOTES} in it, or a quote at its end: {text!r}", ""
            )
    if any('"' in stop or "\n" in stop for stop in modelfile.stops):
        raise ModelError(f"a Modelfile cannot hold these stops: {modelfile.stops}", "Use `--format gguf`.")
    lines = [f"FROM ./{modelfile.weights}", f"TEMPLATE {_QUOTES}{modelfile.template}{_QUOTES}"]
    if modelfile.system:
        lines.append(f"SYSTEM {_QUOTES}{modelfile.system}{_QUOTES}")
    lines += [f'PARAMETER stop "{stop}"' for stop in modelfile.stops]
    return "\n".join(lines) + "\n"


def read_modelfile(text: str) -> Modelfile:
    """What a text of `write_modelfile` says.

    Raises:
        ModelError: A line that is none of a Modelfile.
    """
    said: dict[str, list[str]] = {"FROM": [], "TEMPLATE": [], "SYSTEM": [], "PARAMETER stop": []}
    place = 0
    while place < len(text):
        line = _LINE.match(text, place)
        if line is None:
            raise ModelError(f"Modelfile: not understood: {text[place:].splitlines()[0]!r}", "")
        said[line[1]].append(next(value for value in line.groups()[1:] if value is not None))
        place = line.end()
    return Modelfile(
        said["FROM"][0].removeprefix("./"),
        said["TEMPLATE"][0],
        tuple(said["PARAMETER stop"]),
        next(iter(said["SYSTEM"]), ""),
    )
