"""The body of a request -> what is asked, or what is wrong with it, in the words of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from siredon.serve.load import Models
from siredon.serve.sampling import Sampling
from siredon.serve.wanted import Limits

#: The length of a completion where the client names none, as in OpenAI's API.
_COMPLETION_TOKENS = 16
_MAX_STOPS, _MAX_STOP_CHARS = 16, 256
_StopText = Annotated[str, Field(min_length=1, max_length=_MAX_STOP_CHARS)]
_Neutral = Annotated[float, Field(ge=0, le=0)] | None


class RequestError(Exception):
    """A request that is refused.

    Args:
        message: What is wrong, and what would be right.
        status: HTTP status.
        param: The field to blame; empty for none.
        code: A word for programs; empty for none.
    """

    def __init__(self, message: str, status: int = 400, param: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False


class GenerationKwargs(BaseModel):
    """`generation_kwargs`: more settings of `generate` of transformers, each checked."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    typical_p: float | None = Field(None, gt=0, le=1)
    epsilon_cutoff: float | None = Field(None, ge=0, lt=1)
    eta_cutoff: float | None = Field(None, ge=0, lt=1)
    no_repeat_ngram_size: int | None = Field(None, ge=0)
    min_new_tokens: int | None = Field(None, ge=0)
    suppress_tokens: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=1024)
    begin_suppress_tokens: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=1024)


class Asked(BaseModel):
    """What both routes take.  A field that would change the answer, and is not built, is taken at its neutral value."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    max_tokens: int | None = Field(None, ge=1)
    stop: _StopText | Annotated[list[_StopText], Field(max_length=_MAX_STOPS)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    generation_kwargs: GenerationKwargs | None = None
    user: str | None = None
    frequency_penalty: _Neutral = None
    presence_penalty: _Neutral = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def limit(self) -> int | None:
        """The longest answer that the client wants."""
        return self.max_tokens


class ChatAsked(Asked):
    """The body of `/v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: Literal[False] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @property
    def limit(self) -> int | None:
        """The longest answer that the client wants, by its new name or its old one."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TextAsked(Asked):
    """The body of `/v1/completions`."""

    prompt: str | list[Annotated[int, Field(ge=0)]] | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: None = None
    suffix: Literal[""] | None = None


@dataclass(frozen=True)
class Room:
    """How long a prompt and its answer may be, in tokens.

    Args:
        limits: The server's.
        max_positions: The model's; None for no limit.
        field: The field that holds the prompt.
    """

    limits: Limits
    max_positions: int | None
    field: str

    def fit(self, asked: int | None, usual: int, num_prompt: int) -> int:
        """The longest answer.

        Args:
            asked: What the client wants; None for the usual.
            usual: That.
            num_prompt: Tokens of the prompt.

        Raises:
            RequestError: There is no prompt, or it or the answer that is asked for is too long.
        """
        most = self.max_positions or 2**62
        longest = min(self.limits.max_prompt_tokens or most, most - 1)
        if not num_prompt:
            raise RequestError("the prompt is empty", param=self.field)
        if num_prompt > longest:
            message = f"the prompt has {num_prompt} tokens, and may have {longest}"
            raise RequestError(message, param=self.field, code="context_length_exceeded")
        if asked is None:
            return min(usual, self.limits.max_tokens, most - num_prompt)
        if asked > self.limits.max_tokens:
            raise RequestError(
                f"max_tokens is {asked}, and may be {self.limits.max_tokens}", param="max_tokens"
            )
        if num_prompt + asked > most:
            message = f"a prompt of {num_prompt} tokens and an answer of {asked} are more than the {most} of the model"
            raise RequestError(message, param="max_tokens", code="context_length_exceeded")
        return asked


def read_body(body: bytes, kind: type[Asked]) -> Any:
    """Bytes -> what is asked.

    Raises:
        RequestError: It is no JSON, or a field is wrong, unknown or missing.
    """
    try:
        values = json.loads(body)
        if b"\\ud" in body.lower():
            json.dumps(values, ensure_ascii=False).encode()  # Halves of characters are no text
    except (ValueError, RecursionError) as error:
        reason = "half a character" if isinstance(error, UnicodeEncodeError) else error
        raise RequestError(f"the body is no JSON: {reason}") from None
    if not isinstance(values, dict):
        raise RequestError("the body is JSON, and no object")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(error) from None


def read_sampling(asked: Asked, limits: Limits, max_new_tokens: int, defaults: Mapping[str, Any]) -> Sampling:
    """How tokens are chosen: what the client says, or else the model's own settings, or else plain sampling.

    Args:
        asked: The request.
        limits: What it may ask.
        max_new_tokens: Longest answer.
        defaults: The model's own settings.

    Raises:
        RequestError: Too many answers, or several that would all be the same.
    """

    def choose(value: Any, name: str, plain: Any) -> Any:
        return next(x for x in (value, defaults.get(name), plain) if x is not None)

    n = asked.n or 1
    sampling = Sampling(
        max_new_tokens,
        temperature=choose(asked.temperature, "temperature", 1.0),
        top_p=choose(asked.top_p, "top_p", 1.0),
        top_k=max(choose(asked.top_k, "top_k", 0), 0),
        min_p=choose(asked.min_p, "min_p", 0.0),
        repetition_penalty=float(choose(asked.repetition_penalty, "repetition_penalty", 1.0)),
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        seed=asked.seed,
        n=n,
        generation_kwargs=asked.generation_kwargs.model_dump(exclude_none=True)
        if asked.generation_kwargs
        else {},
    )
    if n > limits.max_answers:
        raise RequestError(f"n is {n}, and may be {limits.max_answers}", param="n")
    if n > 1 and sampling.temperature == 0:
        raise RequestError(
            "n answers without randomness are all the same: n must be 1 for temperature 0", param="n"
        )
    return sampling


def usual_tokens(asked: Asked, limits: Limits) -> int:
    """The length of an answer where the client names none."""
    return limits.max_tokens if isinstance(asked, ChatAsked) else _COMPLETION_TOKENS


def check_model(name: str, models: Models) -> None:
    """Refuses a model that is not served.

    Raises:
        RequestError: It is not.
    """
    if name not in models.engines:
        known = ", ".join(models.engines)
        raise RequestError(f"there is no model `{name}` here: {known}", 404, "model", "model_not_found")


def _explain(error: ValidationError) -> RequestError:
    """The first problem of a body, with the field to blame."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in first["loc"]]
    name = next((part for part in place if part), "")
    if first["type"] == "extra_forbidden":
        return RequestError(f"there is no field `{'.'.join(place)}` here", param=".".join(place))
    if first["type"] == "missing":
        return RequestError(f"the field `{name}` is missing", param=name)
    return RequestError(f"`{name}`: {first['msg'][:1].lower()}{first['msg'][1:]}", param=name)
