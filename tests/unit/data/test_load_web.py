"""Files from a real web server on this machine: whole, missing, slow, cut off, busy, and secret."""

from __future__ import annotations

import gzip
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from siredon.config.sections.data import DatasetEntry
from siredon.data import web
from siredon.data.load import Source, fingerprint_entry, fingerprint_hub, load_rows
from siredon.errors import DataError
from siredon.redaction import strip_addresses

ROWS = [{"n": number} for number in range(2_000)]
BODY = "\n".join(map(json.dumps, ROWS)).encode()


@dataclass
class Site:
    """What the server holds, how it behaves, and what it was asked."""

    url: str = ""
    bodies: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    passwords: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        parts = urlsplit(unquote(self.path))
        self.site.asked.append((self.command, parts.path))
        self.site.passwords.append(self.headers["Authorization"])
        if parts.path.startswith("/slow"):
            time.sleep(0.4)  # The client has gone
        elif parts.path.startswith("/get-only") and not with_body:
            self.send_error(405)
        elif self.site.failures and with_body:
            self.send_error(self.site.failures.pop(0))
        elif parts.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.site.headers[parts.path]["Location"])
            self.end_headers()
        elif parts.path not in self.site.bodies:
            self.send_error(404)
        else:
            self.send_body(parts.path, with_body=with_body)

    def send_body(self, path: str, *, with_body: bool) -> None:
        body = self.site.bodies[path]
        headers = {"Content-Length": str(len(body)), **self.site.headers.get(path, {})}
        self.send_response(200)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def site(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(web, "PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(web, "TIMEOUT_SECONDS", 0.2)
    site = Site(f"http://127.0.0.1:{server.server_address[1]}", {"/rows.jsonl": BODY})
    monkeypatch.setattr(Handler, "site", site, raising=False)
    return site


def load(url: str, **keys: Any) -> Source:
    return load_rows(entry(url, **keys))


def entry(url: str, **keys: Any) -> DatasetEntry:
    return DatasetEntry.model_validate({"path": url, "type": "alpaca", **keys})


def test_a_file_is_downloaded_and_read(site: Site):
    source = load(f"{site.url}/rows.jsonl", split="train[:10]")
    assert list(source.rows) == ROWS[:10]
    assert source.place(3) == f"{site.url}/rows.jsonl: row 4"
    assert site.asked == [("GET", "/rows.jsonl")]


def test_endings_compression_and_archives_are_those_of_the_address(site: Site):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("train.jsonl", BODY)
        archive.writestr("test.jsonl", '{"n": -1}')
    site.bodies |= {
        "/a.jsonl.gz": gzip.compress(BODY),
        "/b.zip": packed.getvalue(),
        "/c d.csv": b"n\n1\n",
        "/e": BODY,
    }
    site.headers["/e"] = {"Content-Encoding": "gzip"}
    site.bodies["/e"] = gzip.compress(BODY)
    assert list(load(f"{site.url}/a.jsonl.gz").rows) == ROWS
    assert list(load(f"{site.url}/b.zip", split="test").rows) == [{"n": -1}]
    assert list(load(f"{site.url}/c%20d.csv?download=true").rows) == [{"n": "1"}]
    assert list(load(f"{site.url}/e").rows) == ROWS
    assert list(load("json", data_files=[f"{site.url}/rows.jsonl", f"{site.url}/e"]).rows) == ROWS * 2


@pytest.mark.parametrize(
    ("failures", "num_asked"), [([503], 2), ([500, 429], 3), ([502, 504, 503], 3), ([404], 1), ([403], 1)]
)
def test_a_server_that_fails_for_now_is_asked_again(site: Site, failures: list[int], num_asked: int):
    site.failures = list(failures)
    if len(failures) == num_asked:
        with pytest.raises(DataError, match=rf"rows\.jsonl: .*\(status {failures[-1]}\)"):
            load(f"{site.url}/rows.jsonl")
    else:
        assert len(load(f"{site.url}/rows.jsonl").rows) == 2_000
    assert len(site.asked) == num_asked


def test_a_missing_file_is_said_to_be_missing(site: Site):
    with pytest.raises(
        DataError, match=r"no\.jsonl: there is no such file on the server \(status 404\)"
    ) as error:
        load(f"{site.url}/no.jsonl")
    assert error.value.fix == "Check the address."
    assert "Traceback" not in str(error.value)


def test_a_slow_server_is_given_up(site: Site):
    with pytest.raises(DataError, match=r"127\.0\.0\.1:\d+ did not answer within 0\.2 seconds"):
        load(f"{site.url}/slow.jsonl")
    assert len(site.asked) == 3


def test_a_server_that_is_not_there_is_named(site: Site, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        DataError, match=r"127\.0\.0\.1:1 cannot be reached \(\[Errno 111\] Connection refused\)"
    ):
        load("http://127.0.0.1:1/rows.jsonl")
    with pytest.raises(DataError, match=r"there is no host no-such-host\.invalid, or no network"):
        load("https://no-such-host.invalid/rows.jsonl")


def test_a_download_that_stops_halfway_is_no_data_set(site: Site):
    site.headers["/rows.jsonl"] = {"Content-Length": str(len(BODY) + 7)}
    with pytest.raises(DataError, match="the download stopped 7 bytes before its end"):
        load(f"{site.url}/rows.jsonl")


def test_a_file_that_does_not_fit_is_not_downloaded(site: Site):
    site.headers["/rows.jsonl"] = {"Content-Length": str(10**17)}
    with pytest.raises(DataError, match=r"rows\.jsonl: 100,000\.0 TB do not fit into"):
        load(f"{site.url}/rows.jsonl")
    assert len(site.asked) == 1


def test_a_server_that_does_not_say_how_much_it_sends_is_read_to_the_end(site: Site):
    site.headers["/rows.jsonl"] = {"Content-Length": ""}
    assert len(load(f"{site.url}/rows.jsonl").rows) == 2_000


def test_a_web_page_is_no_data(site: Site):
    site.bodies["/page.jsonl"] = b"<html>"
    site.headers["/page.jsonl"] = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(DataError, match="a web page, not a data file"):
        load(f"{site.url}/page.jsonl")


@pytest.mark.parametrize(
    ("page", "raw"),
    [
        (
            "https://huggingface.co/datasets/a/b/blob/main/c.jsonl",
            "https://huggingface.co/datasets/a/b/resolve/main/c.jsonl",
        ),
        ("https://github.com/a/b/blob/main/c.jsonl", "https://raw.githubusercontent.com/a/b/main/c.jsonl"),
    ],
)
def test_the_address_of_the_file_behind_a_page_is_told(page: str, raw: str):
    with pytest.raises(DataError) as error:
        web.WebStore(page)._check_kind("text/html")
    assert error.value.fix == f"Write {raw}."


def test_it_follows_to_web_addresses_only(site: Site):
    site.headers["/moved.jsonl"] = {"Location": f"{site.url}/rows.jsonl"}
    assert len(load(f"{site.url}/moved.jsonl").rows) == 2_000
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        site.headers["/moved.jsonl"] = {"Location": target}
        with pytest.raises(DataError, match=r"leads on to (an address of ftp|where it is not followed)"):
            load(f"{site.url}/moved.jsonl")
    request = web.urllib.request.Request("https://a/b")
    with pytest.raises(OSError, match="leads on to an address of http"):
        web._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, "http://a/b")


@pytest.mark.parametrize(
    "place", ["127.0.0.1:8080", "[::1]", "169.254.169.254", "10.0.0.7", "192.168.1.1", "0"]
)
def test_a_server_outside_does_not_lead_to_one_inside(place: str):
    for start in ("8.8.8.8", "[2001:4860:4860::8888]"):
        request = web.urllib.request.Request(f"http://{start}/b")
        with pytest.raises(OSError, match="leads on from the internet to an address of this network"):
            web._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, f"http://{place}/a")
        followed = web._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, "http://9.9.9.9/a")
        assert followed.full_url == "http://9.9.9.9/a"
    inside = web.urllib.request.Request("http://10.1.1.1/b")  # The user's own
    assert (
        web._Redirects().redirect_request(inside, io.BytesIO(), 302, "", {}, f"http://{place}/a") is not None
    )


# Secrets


def test_user_and_password_go_to_the_server_and_nowhere_else(site: Site, server: ThreadingHTTPServer):
    secret = site.url.replace("//", "//me:s%40cret@")
    source = load(f"{secret}/rows.jsonl?token=hidden")
    assert site.passwords == ["Basic bWU6c0BjcmV0"]
    assert source.name == f"{site.url}/rows.jsonl"
    # Another host, though this machine too
    site.passwords.clear()
    site.headers["/moved.jsonl"] = {"Location": f"http://localhost:{server.server_address[1]}/rows.jsonl"}
    load(f"{secret}/moved.jsonl")
    assert site.passwords == ["Basic bWU6c0BjcmV0", None]


@pytest.mark.parametrize(
    "path", ["no.jsonl", "bad.jsonl", "slow.jsonl", "cut.jsonl", "what", "empty.jsonl", "page"]
)
def test_no_message_holds_a_secret(site: Site, path: str):
    site.bodies |= {"/bad.jsonl": b"{", "/cut.jsonl": BODY, "/what": b"x", "/empty.jsonl": b"", "/page": b"x"}
    site.headers["/cut.jsonl"] = {"Content-Length": "999999"}
    site.headers["/page"] = {"Content-Type": "text/html"}
    with pytest.raises(DataError) as error:
        list(load(f"{site.url.replace('//', '//me:s3cret@')}/{path}?sig=s3cret#s3cret").rows)
    assert "s3cret" not in str(error.value)
    assert path in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a:b@c.d/e?f=g#h", "https://c.d/e"),
        ("https://token@c.d/e", "https://c.d/e"),
        ("see https://a:b@c.d/e?f=g, or s3://k:s@b/c", "see https://c.d/e or s3://b/c"),
        ("https://c.d:80/e@f", "https://c.d:80/e@f"),
        ("me@host.org", "me@host.org"),
        ("oci://bucket@space/e?f", "oci://bucket@space/e"),
        ("oci://me:me@space/e", "oci://space/e"),
        ("data/what?.jsonl", "data/what?.jsonl"),
    ],
)
def test_addresses_are_shown_without_secrets(text: str, shown: str):
    assert strip_addresses(text) == shown


# Fingerprints


def test_the_mark_of_the_server_is_the_fingerprint(site: Site):
    site.headers["/rows.jsonl"] = {"ETag": '"one"'}
    first = fingerprint_entry(entry(f"{site.url}/rows.jsonl"))
    assert first == fingerprint_entry(entry(f"{site.url}/rows.jsonl"))
    assert {method for method, _ in site.asked} == {"HEAD"}
    site.headers["/rows.jsonl"] = {"ETag": '"two"'}
    assert fingerprint_entry(entry(f"{site.url}/rows.jsonl")) != first


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, True),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "Content-Length": ""}, False),
        ({}, False),
    ],
)
def test_without_a_mark_date_and_size_are_and_else_the_bytes(
    site: Site, headers: dict[str, str], known: bool
):
    site.headers["/rows.jsonl"] = headers
    assert (fingerprint_entry(entry(f"{site.url}/rows.jsonl")) is not None) is known
    first = fingerprint_hub(load(f"{site.url}/rows.jsonl"))
    assert first == fingerprint_hub(load(f"{site.url}/rows.jsonl"))
    site.bodies["/rows.jsonl"] = BODY.replace(b"7", b"8")
    assert fingerprint_hub(load(f"{site.url}/rows.jsonl")) != first


def test_a_server_that_answers_to_get_only_is_read(site: Site):
    site.bodies["/get-only.jsonl"] = BODY
    assert fingerprint_entry(entry(f"{site.url}/get-only.jsonl")) is None
    assert len(load(f"{site.url}/get-only.jsonl").rows) == 2_000


def test_an_address_of_an_unknown_kind_is_refused():
    with pytest.raises(
        DataError, match=r"^ftp://host/rows\.jsonl: addresses of ftp:// are not read"
    ) as error:
        load("ftp://me:s3cret@host/rows.jsonl")
    assert "s3://" in error.value.fix
