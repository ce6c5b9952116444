"""An application -> a port, until the process is told to end."""

from __future__ import annotations

import importlib.util
import socket
from dataclasses import replace
from typing import Any

from siredon.errors import ServeError
from siredon.log import show, warn
from siredon.serve.load import Models
from siredon.serve.wanted import Address

#: Most connections at once; more are told to come again.
_MAX_CONNECTIONS = 1000
_END_SECONDS = 5


def check_address(address: Address) -> None:
    """Warns of a server that everybody may ask, and refuses what cannot be started, before a model is loaded.

    Raises:
        ServeError: A package is missing, or the port is taken.
    """
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ServeError(
            f"{' and '.join(missing)} is not installed", "Install it: `pip install 'siredon[serve]'`."
        )
    open_socket(address).close()
    warn_of_strangers(address)


def warn_of_strangers(address: Address) -> None:
    """Warns of a server that everybody may ask."""
    if not address.is_local and not address.api_key:
        warn(
            f"everybody who reaches {address.host} can use this server\n"
            "  fix: Set the variable SIREDON_API_KEY, or listen on 127.0.0.1, which is the default."
        )


def open_socket(address: Address) -> socket.socket:
    """A socket on which nothing listens yet.

    Raises:
        ServeError: The address is none of this machine's, or taken.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((address.host, address.port))
    except (OSError, OverflowError) as error:
        opened.close()
        raise ServeError(
            f"cannot listen on {address.host}:{address.port}: {error}",
            "Name another one with `--port` or `--host`.",
        ) from None
    return opened


def run_app(app: Any, address: Address, models: Models) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        app: An application of ASGI.
        address: Where.
        models: What it serves, to be shown.
    """
    import uvicorn

    listening = open_socket(address)
    show(f"serving on http://{replace(address, port=listening.getsockname()[1]).shown}/v1")
    for name in models.engines:
        show(f"  model: {name}")
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_END_SECONDS,
        server_header=False,
    )
    uvicorn.Server(settings).run(sockets=[listening])
