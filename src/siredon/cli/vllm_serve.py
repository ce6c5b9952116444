"""`siredon vllm-serve CONFIG|FOLDER`."""

from __future__ import annotations

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.cli.serve import ApiKey, VllmEnv
from siredon.log import note
from siredon.train.interrupt import QUIT


def vllm_serve(words: Target = None, api_key: ApiKey = "", vllm_env: VllmEnv = None) -> None:
    """Start vLLM by the keys of `vllm:`, with adapters that can be swapped while it runs."""
    checked = read_target(words)
    from siredon import release
    from siredon.serve.wanted import Address, Wanted

    options = checked.serving.vllm
    address = Address(options.host, options.port, api_key) if options else Address(api_key=api_key)
    try:
        release.vllm_serve(checked, Wanted("vllm", address=address, vllm_env=vllm_env))
    except KeyboardInterrupt:
        note("")  # Behind the ^C
        raise typer.Exit(QUIT) from None


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("vllm-serve", context_settings=OPEN)(vllm_serve)
