"""The routes of the server: OpenAI's chat and completions, models, health, metrics."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from siredon.serve.answering import Answering, Metered, Waiting
from siredon.serve.asked import Asked, ChatAsked, RequestError, TextAsked, check_model, read_body
from siredon.serve.line import Line
from siredon.serve.load import Models
from siredon.serve.metrics import Metrics
from siredon.serve.replies import error_body
from siredon.serve.wanted import Wanted

#: Longest wait for the rest of a request whose beginning has come.
_BODY_SECONDS = 30.0
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
#: What `RequestError` says to a client besides: when to come again.
_AGAIN = {"Retry-After": "1"}


def build_app(models: Models, line: Line, wanted: Wanted) -> FastAPI:
    """The server, as an application of ASGI.

    Args:
        models: What answers.
        line: Where requests wait; begins and ends with the application.
        wanted: Key and limits.
    """
    metrics = Metrics(
        {
            "siredon_requests_waiting": lambda: line.num_waiting,
            "siredon_requests_running": lambda: line.num_running,
        }
    )
    answering = Answering(models, line, wanted.limits, metrics)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        line.start()
        yield
        await asyncio.to_thread(line.close)

    app = FastAPI(title="Siredon", lifespan=running, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Metered, metrics=metrics)
    _add_errors(app)
    _add_answers(app, answering, Guard(wanted))
    _add_facts(app, answering, Guard(wanted))
    return app


@dataclass(frozen=True)
class Guard:
    """Who may ask, and how much."""

    wanted: Wanted

    def check(self, request: Request) -> None:
        """Refuses a request without the key, or one that a page in a browser was led to make.

        Raises:
            RequestError: It is one.
        """
        address = self.wanted.address
        host = request.headers.get("host", "").lower()
        if (
            address.is_local
            and host.rpartition(":")[0] not in (*_LOCAL_NAMES, address.host)
            and (host not in (*_LOCAL_NAMES, address.host))
        ):
            raise RequestError("this server is asked by its local name only", 403)
        if not address.api_key:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), address.api_key.encode())
        if kind.lower() != "bearer" or not right:
            raise RequestError("the API key is missing or wrong", 401, code="invalid_api_key")

    async def read(self, request: Request, kind: type[Asked]) -> Any:
        """The body, if it is JSON, right, and not too long.

        Raises:
            RequestError: It is not.
        """
        self.check(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError("the body must be application/json", 415)
        most = self.wanted.limits.max_body_bytes
        told = request.headers.get("content-length", "0")
        body = bytearray()
        too_long = RequestError(f"the body is longer than {most} bytes", 413)
        if told.isdigit() and int(told) > most:
            raise too_long
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise too_long
        except TimeoutError:
            raise RequestError("the rest of the request did not come", 408) from None
        return await asyncio.to_thread(read_body, bytes(body), kind)


class Stream(StreamingResponse):
    """Answers as events, for as long as the client reads them.

    Args:
        waiting: The client.
    """

    def __init__(self, waiting: Waiting) -> None:
        super().__init__(
            waiting.stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
        self.waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them, and ends the answer with the connection."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.waiting.end()


def _add_errors(app: FastAPI) -> None:
    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        again = _AGAIN if error.status == 503 else {}
        # What is left of a body that is refused is not read: the connection ends with it
        close = {"Connection": "close"} if error.status in (408, 413) else {}
        return JSONResponse(error_body(error), error.status, {**again, **close})

    async def unknown(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        wrong = RequestError(str(error.detail), error.status_code)
        return JSONResponse(error_body(wrong), error.status_code, error.headers)

    app.add_exception_handler(RequestError, refuse)
    app.add_exception_handler(HTTPException, unknown)


def _add_answers(app: FastAPI, answering: Answering, guard: Guard) -> None:
    async def answer(request: Request, kind: type[Asked]) -> Response:
        began = time.monotonic()
        asked = await guard.read(request, kind)
        check_model(asked.model, answering.models)
        waiting = await answering.ask(asked, began)
        if asked.stream:
            return Stream(waiting)
        return JSONResponse(await waiting.collect(request))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer(request, ChatAsked)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await answer(request, TextAsked)


def _add_facts(app: FastAPI, answering: Answering, guard: Guard) -> None:
    began = int(time.time())

    def describe(name: str) -> dict[str, Any]:
        length = answering.models.max_positions
        return {
            "id": name,
            "object": "model",
            "created": began,
            "owned_by": "siredon",
            "max_model_len": length,
        }

    @app.get("/v1/models")
    async def list_models(request: Request) -> Response:
        guard.check(request)
        return JSONResponse({"object": "list", "data": [describe(name) for name in answering.models.engines]})

    @app.get("/v1/models/{name:path}")
    async def show_model(request: Request, name: str) -> Response:
        guard.check(request)
        check_model(name, answering.models)
        return JSONResponse(describe(name))

    @app.get("/health")
    async def tell_health() -> Response:
        alive = answering.line.is_alive
        return JSONResponse({"status": "ok" if alive else "the model has stopped"}, 200 if alive else 503)

    @app.get("/metrics")
    async def tell_metrics(request: Request) -> Response:
        guard.check(request)
        return PlainTextResponse(answering.metrics.render(), media_type="text/plain; version=0.0.4")
