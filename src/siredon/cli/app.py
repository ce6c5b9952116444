"""`siredon`: the commands put together, and what happens to their errors."""

from __future__ import annotations

import os
import shlex
import sys
import traceback

import typer

from siredon import __version__
from siredon.cli import (
    cache,
    card,
    chat,
    check,
    config,
    config_schema,
    env,
    evaluate,
    examples,
    explain,
    export,
    inference,
    inspect,
    kernels,
    lm_eval,
    merge_lora,
    merge_sharded_fsdp_weights,
    preprocess,
    push,
    quantize,
    reproduce,
    selftest,
    serve,
    train,
    vllm_serve,
)
from siredon.cli.paint import paint_report
from siredon.distributed.ranks import num_ranks
from siredon.errors import ConfigError, Interrupted, SiredonError, explain_lost_process
from siredon.log import note
from siredon.redaction import MASK, redact
from siredon.train.interrupt import RESUME_ME

app = typer.Typer(
    name="siredon",
    help="Fine-tune language models from one YAML file, the one that Axolotl users already have.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    check,
    explain,
    config,
    preprocess,
    inspect,
    cache,
    kernels,
    train,
    reproduce,
    evaluate,
    lm_eval,
    inference,
    chat,
    merge_lora,
    merge_sharded_fsdp_weights,
    quantize,
    export,
    card,
    push,
    serve,
    vllm_serve,
    config_schema,
    examples,
    selftest,
    env,
)
for command in COMMANDS:
    command.register(app)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"siredon {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Options before the command."""


def main() -> None:
    """Runs the command line; a `SiredonError` is shown without a traceback; every error exits with status 1.

    A run that was interrupted and can go on exits with status 75.
    """
    # What is written is nobody's to change but the user's and their group's; a stricter mask stays
    os.umask(os.umask(0o077) | 0o002)
    try:
        app()
    except Interrupted as interrupted:
        note(f"{interrupted}\n  to go on: {_repeat_command(interrupted.setting)}")
        sys.exit(RESUME_ME)
    except ConfigError as error:
        typer.echo(paint_report(redact(error.message)), err=True)
        sys.exit(1)
    except SiredonError as error:
        typer.echo(redact(f"error: {error}"), err=True)
        sys.exit(1)
    except OSError as error:  # A full disk, a folder that cannot be written, stdout closed
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(redact(f"error: {where}{error.strerror or error}"), err=True)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001  the last place where a secret can be taken out of a traceback
        lost = explain_lost_process(error)
        typer.echo(redact(f"error: {lost}") if lost else show_crash(error), err=True)
        sys.exit(1)


def show_crash(error: Exception) -> str:
    """An error that nobody foresaw: its traceback without secrets, and what to do with it."""
    trace = redact("".join(traceback.format_exception(error)).rstrip())
    return (
        f"{trace}\n\nerror: this is a mistake in siredon, or in code that it calls, such as a function of yours\n"
        f"  fix: Report it with the text above and what `siredon env` says (what is known to be secret is {MASK})."
    )


def _repeat_command(setting: str) -> str:
    """What to type to go on."""
    if num_ranks() > 1:
        return f"the same torchrun command{f' with `{setting}`' if setting else ''}"
    return f"siredon {shlex.join([*sys.argv[1:], *([setting] if setting else [])])}"
