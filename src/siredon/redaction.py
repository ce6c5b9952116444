"""Secrets in text, and how they are kept out of it.

Everything that is shown or written for people and programs goes through `redact` or `redact_values`.  A secret is
known by its shape (a token of a hub, user and password of an address, the query of a signed one), by the name that
it has (`comet_api_key: ...`, `--hub-token ...`), by the variable of the environment that holds it (`HF_TOKEN`), or
because a key of the configuration that is declared secret had it (`learn_secrets`).  What has no such mark cannot
be told from other text.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

#: Stands where a secret was.
MASK = "***"
#: Characters of a value that is looked for anywhere in a text; a shorter one would mask ordinary words.
MIN_CHARS = 6

_NAME = (
    r"(?:api_?key|(?:access|account|private|signing|storage)_?key(?:_?id)?|client_?secret|secret(?:_?key)?"
    r"|secret_?access_?key|passw(?:or)?d|passphrase|(?:auth|access|api|hub|hf|session|sas|bearer|refresh)_?token"
    r"|connection_?string|webhook_?url)"
)
_SECRET_NAME = re.compile(rf"(?:^|.*[_.]){_NAME}$", re.IGNORECASE)
#: In an environment `..._TOKEN` is a secret; in a configuration `eos_token` is none.
_SECRET_VARIABLE = re.compile(r"(?:^|.*_)(?:TOKEN|SECRET|PASSWORD|PAT)$", re.IGNORECASE)
_WORDS = r"(?!(?:true|false|yes|no|on|off|null|none)\b|\$\{|\*\*\*)"
_ASSIGNED = re.compile(
    rf"(?<![A-Za-z0-9])({_NAME.replace('_?', '[_-]?')}['\"]?\s*[:=]\s*){_WORDS}"
    r"(\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&'\"})\]`]+)",
    re.IGNORECASE,
)
_LINE = re.compile(r"^(\s*(?:-\s+)*['\"]?([\w.-]+)['\"]?\s*:\s+)(?=\S)" + _WORDS + r".*$", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{30,}|sk-(?=[\w-]*\d)[\w-]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{4,})"
)
_HEADER = re.compile(
    r"(\bauthorization['\"]?\s*[:=]\s*['\"]?)[^'\"\n]+|(\bbearer\s+)[\w+/=.~-]{16,}", re.IGNORECASE
)
_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]*)://([^\s/?#'\"]*@)?([^\s?#'\"]*)([?#][^\s'\"]*)?", re.IGNORECASE)
#: An address whose password holds what should have been written as `%2F`, `%3F` or `%23`.
_LOOSE = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/?#'\":@]*:(?!\d+(?:[/?#]|$))[^\s'\"@]*@", re.IGNORECASE)

#: Of text that others will read: a secret has so many characters at least where it stands by itself, or after a name.
_MIN_CHARS_ALONE, _MIN_CHARS_NAMED = 12, 8
_QUOTES = "\"'"
# What the configurations of this process declared secret.  Kept for the process: a traceback at its end may hold it.
_LEARNED: set[str] = set()


def redact(text: str) -> str:
    """Text in which each secret that can be known is `***`; of an address, scheme, host and path stay."""
    known = _known_values()
    if known:
        text = _match_values(frozenset(known)).sub(MASK, text)
    if "://" in text:
        text = _LOOSE.sub(rf"\1{MASK}@", text)
        text = _ADDRESS.sub(_mask_address, text)
    text = _HEADER.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    return _SHAPES.sub(MASK, _ASSIGNED.sub(rf"\1{MASK}", text))


def find_secrets(text: str, *, by_name: bool = True) -> Iterator[int]:
    """The lines, from 1, of a text that others will read, in which a secret stands.

    Where `redact` masks what may be one, this finds what is hardly anything else: a vocabulary or code that goes by
    its side holds words such as `password`.

    Args:
        text: What is to be published.
        by_name: Look at `name: value` too; of no use in a vocabulary.
    """
    values = frozenset(value for value in _known_values() if len(value) >= _MIN_CHARS_ALONE)
    known = _match_values(values) if values else None
    for number, line in enumerate(text.splitlines(), 1):
        if (
            _SHAPES.search(line)
            or (known is not None and known.search(line))
            or any(_has_password(found[2]) for found in _ADDRESS.finditer(line))
            or (by_name and any(_is_telling(found[2]) for found in _ASSIGNED.finditer(line)))
        ):
            yield number


def redact_line(line: str) -> str:
    """A line of YAML: after a key with the name of a secret, all of it is masked."""
    found = _LINE.match(line)
    if found and is_secret_name(found[2]):
        line = found[1] + MASK
    return redact(line)


def redact_values(value: Any, name: str = "") -> Any:
    """A value as JSON holds it, without secrets: text under the name of a secret, and secrets in other text.

    Args:
        value: Mappings, lists and scalars; what is none of them is left as it is.
        name: The key that it stands under.
    """
    if isinstance(value, dict):
        return {key: redact_values(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_values(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return MASK if value and is_secret_name(name) else redact(value)


def redact_command(words: Sequence[str]) -> list[str]:
    """A command line without secrets: `--hub-token VALUE`, `comet_api_key=VALUE`, addresses."""
    shown: list[str] = []
    after = ""
    for word in words:
        name, equals, value = word.partition("=")
        if is_secret_name(after) and not word.startswith("--"):
            shown.append(MASK)
        elif equals and value and is_secret_name(name):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(redact(word))
        after = word.removeprefix("--") if word.startswith("--") and not equals else ""
    return shown


def strip_addresses(text: str) -> str:
    """Text without what may be secret in its addresses, and without a sign of it: user, password, query, fragment."""
    return _ADDRESS.sub(lambda found: f"{found[1]}://{_place_in(found)}{found[3]}", text)


def is_secret_name(name: str) -> bool:
    """Whether a key or option of this name holds a secret: `comet_api_key`, `--hub-token`, not `eos_token`."""
    return _SECRET_NAME.match(name.lstrip("-").replace("-", "_")) is not None


@lru_cache(maxsize=1024)
def is_secret_variable(name: str) -> bool:
    """Whether a variable of the environment holds a secret: `HF_TOKEN`, `NCCL_PASSWORD`, not `HF_HOME`."""
    return bool(_SECRET_VARIABLE.match(name) or _SECRET_NAME.match(name))


def learn_secrets(values: Any, declared: Collection[str] = ()) -> None:
    """Remembers the secrets of a configuration, so that `redact` finds them in any text of this process.

    Args:
        values: What the file came to, as mappings, lists and scalars.
        declared: Keys that are declared secret.
    """
    for name, text in _walk(values, ""):
        if name in declared or is_secret_name(name):
            _learn([text])
        elif "://" in text:
            _learn(_secrets_of_address(text))


def _learn(texts: Iterable[str]) -> None:
    _LEARNED.update(text for text in texts if len(text) >= MIN_CHARS)


def _walk(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The texts in a value, each with the nearest key above it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _walk(item, name)
    elif isinstance(value, str):
        yield name, value


def _secrets_of_address(text: str) -> Iterator[str]:
    """The password of an address, and what a signed one says of who signed it."""
    try:
        parts = urlsplit(text)
    except ValueError:  # `http://[`
        return
    _, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    if colon:
        yield from (password, unquote(password))
    for _, value in parse_qsl(parts.query):
        if len(value) > 2 * MIN_CHARS:  # `download=true` is in many texts
            yield value


def _has_password(user: str | None) -> bool:
    return ":" in (user or "") and MASK not in (user or "")


def _is_telling(value: str) -> bool:
    """Whether a value looks like a secret, and not like a word or a name in code."""
    text = value.strip(_QUOTES)
    return len(text) >= _MIN_CHARS_NAMED and any(map(str.isdigit, text)) and any(map(str.isalpha, text))


def _known_values() -> set[str]:
    values = (os.environ.get(name, "") for name in os.environ if is_secret_variable(name))
    return {value for value in values if len(value) > MIN_CHARS} | _LEARNED


@lru_cache(maxsize=8)
def _match_values(values: frozenset[str]) -> re.Pattern[str]:
    """Matches each value, as it is and as addresses, headers, JSON and Python write it; the longest first."""
    spelled: set[str] = set()
    for value in values:
        spelled |= {value, quote(value), quote(value, safe=""), quote_plus(value)}
        spelled |= {json.dumps(value)[1:-1], repr(value)[1:-1]}
        spelled.add(base64.b64encode(value.encode()).decode().rstrip("="))
    return re.compile("|".join(map(re.escape, sorted(spelled, key=lambda text: (-len(text), text)))))


def _mask_address(found: re.Match[str]) -> str:
    user, place, rest = found[2] or "", _place_in(found), found[4] or ""
    who = f"{MASK}@" if user and not place else place
    if len(rest) > 1 and (rest[0] == "?" or "=" in rest):
        rest = rest[0] + MASK
    return f"{found[1]}://{who}{found[3]}{rest}"


def _place_in(found: re.Match[str]) -> str:
    """`oci://bucket@namespace` and `abfs://container@account` say where, not who."""
    user = found[2] or ""
    return "" if ":" in user or found[1].lower() in ("https", "http", "ftp") else user
