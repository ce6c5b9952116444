"""A file on a web server: `https://` and `http://`."""

from __future__ import annotations

import base64
import hashlib
import http.client
import ipaddress
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from siredon.data.file_rows import TextFile
from siredon.data.scratch import Scratch, report_full_disk
from siredon.data.store import Store, copy_hashed
from siredon.errors import DataError
from siredon.redaction import redact, strip_addresses

#: Seconds that a server may take to connect, or between two pieces of an answer.
TIMEOUT_SECONDS = 30.0
#: Seconds before each further try.
PAUSES_SECONDS = (1.0, 4.0)
#: A server that is busy or fails for now.
_PASSING = {429, 500, 502, 503, 504}
_ANSWERS = {
    401: (
        "the server asks who you are",
        "Download the file and give its place, or for a hub data set its id.",
    ),
    403: (
        "the server refuses access",
        "Sign the address anew if it has expired, or download the file yourself.",
    ),
    404: ("there is no such file on the server", "Check the address."),
    410: ("the file is no longer on the server", "Check the address."),
}
_FAILED = ("the server failed", "Try again later, or check the address.")
_ELSEWHERE = ("the server leads on to where it is not followed", "Check the address.")
_Answer = TypeVar("_Answer")


class WebStore(Store):
    """One file on a web server."""

    is_folder = False

    def __init__(self, url: str) -> None:
        self.label = strip_addresses(url)
        self.names = [PurePosixPath(unquote(urlsplit(url).path)).name or "file"]
        self._url, self.digests = url, {}

    def fetch(self, name: str) -> TextFile:
        """The file, downloaded.

        Raises:
            DataError: The server has none, does not answer, or stops halfway; it does not fit on the disk.
        """
        scratch = Scratch()
        target = scratch.new_file(name)
        self._try(lambda: self._download(target, scratch))
        return TextFile(target, self.label, scratch)

    def fetch_all(self) -> tuple[Path, Scratch | None]:
        """The one file, in a folder of its own."""
        file = self.fetch(self.names[0])
        return file.path.parent, file.scratch

    def fingerprint(self, names: Sequence[str]) -> str | None:
        """Of what the server says about the file: its mark (`ETag`), or its date and size."""
        try:
            with self._open("HEAD") as answer:
                head = answer.headers
        except urllib.error.HTTPError as error:
            error.close()
            return None  # Some servers answer to GET only
        except (OSError, http.client.HTTPException):
            return None  # `fetch` finds out what is wrong
        mark = head["ETag"] or (head["Last-Modified"] and head["Content-Length"] and head["Last-Modified"])
        if not mark:
            return None
        return hashlib.sha256(repr([self.label, mark, head["Content-Length"]]).encode()).hexdigest()

    def _download(self, target: Path, scratch: Scratch) -> None:
        with self._open("GET") as answer:
            self._check_kind(answer.headers.get_content_type())
            expected = int(answer.headers["Content-Length"] or 0)
            scratch.check_room(expected, self.label)
            with report_full_disk(self.label):
                received, self.digests[target.name] = copy_hashed(answer, target)
        if received < expected:
            raise http.client.IncompleteRead(b"", expected - received)

    def _open(self, method: str) -> Any:
        parts = urlsplit(self._url)
        user, _, host = parts.netloc.rpartition("@")
        request = urllib.request.Request(  # noqa: S310  only https and http come here
            urlunsplit((parts.scheme, host, parts.path, parts.query, "")),
            method=method,
            headers={"User-Agent": "siredon", "Accept-Encoding": "identity"},
        )
        if user:
            word = base64.b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {word}")
        opener = urllib.request.build_opener(_Redirects)
        return opener.open(request, timeout=TIMEOUT_SECONDS)

    def _check_kind(self, kind: str) -> None:
        if kind != "text/html":
            return
        raw = re.sub(r"(huggingface\.co/datasets/.*?)/blob/", r"\1/resolve/", self.label)
        raw = re.sub(r"//github\.com/([^/]+/[^/]+)/blob/", r"//raw.githubusercontent.com/\1/", raw)
        fix = f"Write {raw}" if raw != self.label else "Give the address of the file itself"
        raise DataError(f"{self.label}: a web page, not a data file", f"{fix}.")

    def _try(self, action: Callable[[], _Answer]) -> _Answer:
        """Does it, again if the server fails for now."""
        for pause in (*PAUSES_SECONDS, None):
            try:
                return action()
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                if pause is None or not _may_pass(error):
                    raise self._blame(error) from None  # Its text may hold the address
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _blame(self, error: Exception) -> DataError:
        if isinstance(error, urllib.error.HTTPError):
            what, fix = _ANSWERS.get(error.code, _FAILED if error.code >= 400 else _ELSEWHERE)
            return DataError(f"{self.label}: {what} (status {error.code})", fix)
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        host = urlsplit(self.label).netloc
        if isinstance(reason, TimeoutError):
            what = f"{host} did not answer within {TIMEOUT_SECONDS:g} seconds"
        elif isinstance(reason, socket.gaierror):
            what = f"there is no host {host}, or no network"
        elif isinstance(reason, ssl.SSLCertVerificationError):
            what = f"the certificate of {host} is not valid ({reason.verify_message})"
        elif isinstance(reason, http.client.IncompleteRead):
            what = f"the download stopped {reason.expected:,} bytes before its end"
        else:
            what = f"{host} cannot be reached ({redact(str(reason)) or type(reason).__name__})"
        return DataError(f"{self.label}: {what}", "Check the address and the network.")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to web addresses only, and never from a safe one to one that is not, nor from outside to inside."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request to follow with.

        Raises:
            HTTPError: It leads elsewhere.
        """
        scheme = urlsplit(newurl).scheme
        if scheme not in ("https", "http") or (req.type == "https" and scheme == "http"):
            fp.close()
            raise urllib.error.URLError(f"it leads on to an address of {scheme}")
        if _is_private(newurl) and not _is_private(req.full_url):
            fp.close()
            raise urllib.error.URLError("it leads on from the internet to an address of this network")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_private(url: str) -> bool:
    """Whether a host is this machine or one of its network, where a stranger's server has nothing to ask for."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None)
        return any(not ipaddress.ip_address(str(place[0])).is_global for *_, place in found)
    except (OSError, ValueError):  # There is no such host, which the request will find out
        return False


def _may_pass(error: Exception) -> bool:
    """Whether another try may help."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return not isinstance(reason, (socket.gaierror, ssl.SSLError, str))
