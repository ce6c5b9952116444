"""`siredon serve CONFIG|FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.log import note
from siredon.serve.wanted import Address, Limits, Wanted
from siredon.train.interrupt import QUIT

_USUAL = Limits()

ApiKey = Annotated[
    str,
    typer.Option(
        envvar="SIREDON_API_KEY",
        show_default=False,
        show_envvar=True,
        help="What clients must send. Other users of this machine can read it on the command line.",
    ),
]
VllmEnv = Annotated[
    Path | None,
    typer.Option(help="Environment in which vLLM is.", show_default="`.vllm-env`, or `vllm` on the PATH"),
]


def serve(  # noqa: PLR0913 - one for each option
    words: Target = None,
    engine: Annotated[
        str, typer.Option(help="`transformers`, in this process; or `vllm`, in an environment of its own.")
    ] = "transformers",
    host: Annotated[str, typer.Option(help="Address on which it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 takes a free one.")] = 8000,
    api_key: ApiKey = "",
    name: Annotated[
        str, typer.Option(help="What the tuned model is called.", show_default="its folder")
    ] = "",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER", help="One more adapter of the same base; may be given several times."
        ),
    ] = None,
    vllm_env: VllmEnv = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = _USUAL.max_tokens,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt.", show_default="what the model takes")
    ] = None,
    max_answers: Annotated[int, typer.Option(min=1, help="Largest `n`.")] = _USUAL.max_answers,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Longest request.")] = _USUAL.max_body_bytes,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Requests that may wait for the model; more get status 503.")
    ] = _USUAL.max_waiting,
    timeout_seconds: Annotated[
        float, typer.Option(min=0.1, help="Longest time from a request to the end of its answer.")
    ] = _USUAL.timeout_seconds,
) -> None:
    """Serve the model that CONFIG trained, in the way of OpenAI's API."""
    limits = Limits(
        max_body_bytes=max_body_bytes,
        max_prompt_tokens=max_prompt_tokens,
        max_tokens=max_tokens,
        max_answers=max_answers,
        max_waiting=max_waiting,
        timeout_seconds=timeout_seconds,
    )
    adapters = tuple(read_adapter(text) for text in adapter or ())
    checked = read_target(words)
    from siredon import release

    try:
        release.serve(checked, Wanted(engine, name, adapters, Address(host, port, api_key), limits, vllm_env))
    except KeyboardInterrupt:
        note("")  # Behind the ^C
        raise typer.Exit(QUIT) from None


def read_adapter(text: str) -> tuple[str, Path]:
    """`NAME=FOLDER` -> its two halves.

    Raises:
        typer.BadParameter: A half is missing.
    """
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise typer.BadParameter(f"`{text}` is not NAME=FOLDER", param_hint="--adapter")
    return name, Path(folder)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(serve)
