"""A request -> its answers: through the line, piece by piece or all at once, for as long as somebody waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from siredon.data.types import RowError
from siredon.errors import DataError
from siredon.serve.asked import Asked, ChatAsked, RequestError, Room, TextAsked, read_sampling, usual_tokens
from siredon.serve.engines.transformers import Engine
from siredon.serve.line import Done, Event, Failed, Job, Line, LineFullError
from siredon.serve.load import Models
from siredon.serve.metrics import Metrics
from siredon.serve.replies import END, Shape, error_body, event
from siredon.serve.wanted import Limits
from siredon.serve.watch import Piece

_GRACE_SECONDS = 0.5
#: A client that is gone gets no answer; the status is for the metrics, as nginx counts it.
_GONE = 499


@dataclass(frozen=True)
class Answering:
    """What answers, and what it may take.

    Args:
        models: The models.
        line: Where requests wait for them.
        limits: What a request may ask.
        metrics: What is counted.
    """

    models: Models
    line: Line
    limits: Limits
    metrics: Metrics

    async def ask(self, asked: Asked, began: float) -> Waiting:
        """Puts a request into the line.

        Args:
            asked: The request; its model is one that is served.
            began: When it came, on the clock of `time.monotonic`.

        Raises:
            RequestError: The prompt cannot be rendered, something is too long, or the line is full.
        """
        engine = self.models.engines[asked.model]
        prompt = await asyncio.to_thread(self._read_prompt, asked, engine)
        room = Room(
            self.limits, self.models.max_positions, "messages" if isinstance(asked, ChatAsked) else "prompt"
        )
        length = room.fit(asked.limit, usual_tokens(asked, self.limits), len(prompt))
        sampling = read_sampling(asked, self.limits, length, self.models.defaults)
        shape = Shape(asked.model, isinstance(asked, ChatAsked), len(prompt))
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def on_event(happened: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, happened)

        job = Job(engine, prompt, sampling, began + self.limits.timeout_seconds, on_event)
        waiting = Waiting(job, events, shape, self, began, _wants_usage(asked))
        try:
            self.line.join(job)
        except LineFullError:
            message = f"{self.line.max_waiting} requests are waiting already: try again in a moment"
            raise RequestError(message, 503, code="queue_full") from None
        self.metrics.count("siredon_prompt_tokens_total", len(prompt))
        return waiting

    def _read_prompt(self, asked: Asked, engine: Engine) -> list[int]:
        if isinstance(asked, ChatAsked):
            try:
                return engine.encode(self.models.render(asked.messages))
            except (RowError, DataError) as error:
                raise RequestError(str(error), param="messages") from None
        assert isinstance(asked, TextAsked)
        prompt = asked.prompt
        if isinstance(prompt, str):
            return engine.encode(prompt, whole=False)
        texts = [part for part in prompt if isinstance(part, str)]
        if texts:
            return engine.encode(texts[0], whole=False)
        ids = [part for part in prompt if isinstance(part, int)]
        largest = engine.model.get_input_embeddings().weight.shape[0] - 1
        if any(token > largest for token in ids):
            raise RequestError(f"a token is larger than {largest}, the last one", param="prompt")
        return ids


@dataclass
class Waiting:
    """A client that waits for the answers to its request.

    Args:
        job: What it waits for.
        events: What happens to that.
        shape: How the answers are written.
        answering: Line and metrics.
        began: When the request came.
        with_usage: Whether a stream ends with the number of tokens.
    """

    job: Job
    events: asyncio.Queue[Event]
    shape: Shape
    answering: Answering
    began: float
    with_usage: bool
    _has_begun: bool = field(default=False)
    _reason: str = field(default="cancelled")
    _has_ended: bool = field(default=False)

    async def stream(self) -> AsyncIterator[str]:
        """The answers as events, each as soon as it is there; an error is an event too, as the status is sent."""
        for opening in self.shape.opening(self.job.sampling.n, with_usage=self.with_usage):
            yield opening
        try:
            async for happened in self._follow():
                if isinstance(happened, Piece):
                    yield self.shape.piece(happened, with_usage=self.with_usage)
                elif self.with_usage:
                    yield self.shape.usage(happened.num_tokens)
        except RequestError as error:
            yield event(error_body(error))
        yield END

    async def collect(self, request: Request) -> dict[str, Any]:
        """The answers in one body.

        Raises:
            RequestError: They took too long, the model failed, or the client is gone.
        """
        gone = asyncio.create_task(_wait_until_gone(request))
        whole = asyncio.create_task(self._collect())
        try:
            await asyncio.wait((gone, whole), return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                raise RequestError("the client is gone", _GONE)
            return whole.result()
        finally:
            gone.cancel()
            whole.cancel()
            self.end()

    def end(self) -> None:
        """Takes the job out of the line, if it is not done, and counts it."""
        if self._has_ended:
            return
        self._has_ended = True
        metrics = self.answering.metrics
        self.answering.line.leave(self.job)
        metrics.time("siredon_request_seconds", time.monotonic() - self.began)
        if self._reason:
            metrics.count("siredon_failed_answers_total", reason=self._reason)

    async def _collect(self) -> dict[str, Any]:
        texts = [""] * self.job.sampling.n
        reasons = [""] * self.job.sampling.n
        num_tokens = 0
        async for happened in self._follow():
            if isinstance(happened, Piece):
                texts[happened.index] += happened.text
                reasons[happened.index] = happened.reason or ""
            else:
                num_tokens = happened.num_tokens
        return self.shape.whole(texts, reasons, num_tokens)

    async def _follow(self) -> AsyncIterator[Piece | Done]:
        """What happens, up to the end.

        Raises:
            RequestError: It took too long, or the model failed.
        """
        while True:
            happened = await self._next()
            if isinstance(happened, Failed):
                self._reason = "failed"
                raise RequestError(happened.message, 500)
            if isinstance(happened, Done):
                self._reason = ""
                self.answering.metrics.count("siredon_generated_tokens_total", happened.num_tokens)
            elif happened.reason == "timeout":
                raise self._time_out()
            yield happened
            if isinstance(happened, Done):
                return

    def _time_out(self) -> RequestError:
        self._reason = "timeout"
        return RequestError("the answer took too long", 504, code="timeout")

    async def _next(self) -> Event:
        try:
            # The line's thread looks at the deadline itself, but not while another job is before this one
            async with asyncio.timeout(max(self.job.deadline - time.monotonic(), 0) + _GRACE_SECONDS):
                happened = await self.events.get()
        except TimeoutError:
            raise self._time_out() from None
        if not self._has_begun and isinstance(happened, Piece):
            self._has_begun = True
            self.answering.metrics.time("siredon_first_token_seconds", time.monotonic() - self.began)
        return happened


class Metered:
    """Counts what is answered, by route and status.

    Args:
        app: What answers.
        metrics: Where it is counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            if scope["type"] == "http":
                route = scope.get("route")
                path = str(route.path) if route is not None else "other"
                self.metrics.count("siredon_requests_total", route=path, status=str(status))


def _wants_usage(asked: Asked) -> bool:
    return bool(asked.stream_options and asked.stream_options.include_usage)


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
