"""Colours for a report on a terminal; `typer.echo` takes them out again where there is none."""

from __future__ import annotations

import os
import re

import typer

_HEAD = re.compile(r"^(.+:\d+:\d+): (error|warning) (SD\d{4}): (.*)$")
_CARET = re.compile(r"^( +\| *\t*)(\^)$")
_FIX = re.compile(r"^(      = fix:)(.*)$")


def paint_report(text: str) -> str:
    """The text of `show_report` with colours; as it is where `NO_COLOR` is set."""
    if os.environ.get("NO_COLOR"):
        return text
    return "\n".join(_paint_line(line) for line in text.split("\n"))


def _paint_line(line: str) -> str:
    if head := _HEAD.match(line):
        place, severity, code, message = head.groups()
        colour = typer.colors.RED if severity == "error" else typer.colors.YELLOW
        return f"{typer.style(place, bold=True)}: {typer.style(f'{severity} {code}', fg=colour, bold=True)}: {message}"
    if caret := _CARET.match(line):
        return caret[1] + typer.style(caret[2], fg=typer.colors.RED, bold=True)
    if fix := _FIX.match(line):
        return typer.style(fix[1], fg=typer.colors.CYAN) + fix[2]
    return line
