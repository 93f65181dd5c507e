"""`blemish data get`: downloads against a server on this machine, archives that mean harm, and the verb as a whole."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import re
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request

import numpy as np
import pytest
from PIL import Image

from blemish.cli import main
from blemish.data import catalog, download, open_dataset
from blemish.data.download import Redirects, RemoteFile
from blemish.data.extraction import Limits, extract
from blemish.errors import BlemishError, DataError, DownloadError, UsageError

CONTENT = random.Random(0).randbytes(700_000)
HALF = len(CONTENT) // 2


class Listening:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.done: list[float] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def progress(self, stage: str, done: float, note: str = "") -> None:
        self.done.append(done)


# A server whose answers can be told in advance.

Step = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files` with Range and If-Range, unless `server.steps` says how to answer next."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append((self.path, dict(self.headers)))
        (self.server.steps.pop(0) if self.server.steps else serve)(self)

    def log_message(self, *_: object) -> None:
        pass

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/data.bin": CONTENT}
        self.etag: str | None = '"one"'
        self.headers: dict[str, str] = {}
        self.steps: list[Step] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()

    def url(self, path: str = "/data.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients hang up here, as they are meant to.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def ranges(self) -> list[tuple[str | None, str | None]]:
        return [(headers.get("Range"), headers.get("If-Range")) for _, headers in self.asked]


def serve(handler: Handler, limit: int | None = None) -> None:
    """Answer as a good server does; but no more than `limit` bytes, if given."""
    content, etag = handler.server.files.get(handler.path), handler.server.etag
    if content is None:
        handler.head(404, Content_Length=0)
        return
    headers: dict[str, Any] = {**handler.server.headers} | ({"ETag": etag} if etag else {})
    known = [tag for tag in (etag, handler.server.headers.get("Last-Modified")) if tag]
    start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if "If-Range" in handler.headers and handler.headers["If-Range"] not in known:
        start = 0
    if start >= len(content) > 0:
        handler.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0, **headers)
        return
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    handler.head(206 if start else 200, Content_Length=len(content) - start, **headers)
    handler.wfile.write(content[start:] if limit is None else content[start : start + limit])


def cut(after: int) -> Step:
    return lambda handler: serve(handler, after)


def answer(status: int, **headers: object) -> Step:
    return lambda handler: handler.head(status, **{"Content_Length": 0, **headers})


def whole(handler: Handler) -> None:
    """As a server that knows no Range."""
    handler.head(200, Content_Length=len(CONTENT))
    handler.wfile.write(CONTENT)


def chunked(content: bytes, end: bytes = b"0\r\n\r\n") -> Step:
    """An answer that does not say how long it will be."""

    def step(handler: Handler) -> None:
        handler.head(200, Transfer_Encoding="chunked", ETag='"one"')
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(content), content) + end)

    return step


def until_closed(handler: Handler) -> None:
    """An answer whose end is the connection's, as before HTTP/1.1."""
    handler.head(200)
    handler.wfile.write(CONTENT)


def stall(after: int) -> Step:
    def step(handler: Handler) -> None:
        serve(handler, after)
        handler.wfile.flush()
        handler.server.released.wait(60)

    return step


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between tries, without waiting; and no proxy."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    waited: list[float] = []
    monkeypatch.setattr(download, "_wait", waited.append)
    return waited


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "data.bin"


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def get(server: Server, path: Path, digest: str | None = None, size: int | None = None, **options: int) -> Listening:
    listening = Listening()
    download.download(RemoteFile(server.url(), digest, size), path, listening, **options)
    return listening


def lies_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# Downloading a file whole.


def test_a_file_is_downloaded_and_its_digest_noted(server: Server, path: Path) -> None:
    heard = get(server, path)
    assert path.read_bytes() == CONTENT
    assert lies_in(path.parent) == {"data.bin", "data.bin.sha256"}
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert path.with_name("data.bin.sha256").read_text() == f"{digest}  data.bin\n"
    assert any(digest in said and "not published; noted here" in said for said in heard.said)
    assert heard.done == sorted(heard.done)
    assert heard.done[-1] == 1
    assert server.asked[0][1]["Accept-Encoding"] == "identity"
    assert server.asked[0][1]["User-Agent"].startswith("blemish/")


@pytest.mark.parametrize("digest", [sha256(CONTENT), f"md5:{hashlib.md5(CONTENT).hexdigest()}"])
def test_a_published_digest_is_compared_with_and_none_is_noted(server: Server, path: Path, digest: str) -> None:
    get(server, path, digest, len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert lies_in(path.parent) == {"data.bin"}


def test_a_wrong_digest_deletes_what_came_and_names_both(server: Server, path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        get(server, path, sha256(b"other"))
    assert sha256(CONTENT) in str(caught.value)
    assert sha256(b"other") in str(caught.value)
    assert lies_in(path.parent) == set()


def test_an_empty_file_is_a_file(server: Server, path: Path) -> None:
    server.files["/data.bin"] = b""
    get(server, path)
    assert path.read_bytes() == b""


def test_what_is_there_is_not_downloaded_again(server: Server, path: Path) -> None:
    for digest in (None, sha256(CONTENT)):
        get(server, path, digest)
        assert len(server.asked) == 1


@pytest.mark.parametrize("digest", [None, sha256(CONTENT)])
def test_what_is_there_and_differs_is_downloaded_anew(server: Server, path: Path, digest: str | None) -> None:
    get(server, path, digest)
    path.write_bytes(CONTENT[:-1] + b"?")
    heard = get(server, path, digest)
    assert path.read_bytes() == CONTENT
    assert len(heard.warned) == 1


def test_a_file_of_unknown_length_is_downloaded(server: Server, path: Path) -> None:
    server.steps = [chunked(CONTENT)]
    get(server, path)
    assert path.read_bytes() == CONTENT


def test_a_file_of_unknown_length_that_is_cut_is_not_taken_for_whole(server: Server, path: Path) -> None:
    server.steps = [chunked(CONTENT[:HALF], end=b"")]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges[1] == (f"bytes={HALF}-", '"one"')


def test_an_end_that_is_only_the_connections_needs_something_to_compare_with(server: Server, path: Path) -> None:
    server.steps = [until_closed] * 3
    with pytest.raises(DownloadError, match="could not be told whether all of it came"):
        get(server, path)
    get(server, path, size=len(CONTENT))
    path.unlink()
    get(server, path, sha256(CONTENT))
    assert path.read_bytes() == CONTENT


# Going on.


def test_a_cut_connection_goes_on_where_it_was(server: Server, path: Path, waits: list[float]) -> None:
    server.steps = [cut(HALF), cut(1000)]
    heard = get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [(None, None), (f"bytes={HALF}-", '"one"'), (f"bytes={HALF + 1000}-", '"one"')]
    assert waits == [1, 2]
    assert any("the connection was cut" in said for said in heard.said)


def interrupt(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, digest: str | None = None) -> bytes:
    """Press Ctrl-C in the middle of a download. What has come."""

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Listening, "progress", pressed)
        with pytest.raises(KeyboardInterrupt):
            get(server, path, digest)
    server.asked.clear()
    came = path.with_name("data.bin.part").read_bytes()
    assert 0 < len(came) < len(CONTENT)
    assert not path.exists()
    return came


def test_ctrl_c_leaves_what_goes_on(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came = interrupt(server, path, monkeypatch)
    heard = get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [(f"bytes={len(came)}-", '"one"')]
    assert any("goes on after" in said for said in heard.said)
    assert lies_in(path.parent) == {"data.bin", "data.bin.sha256"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_killed_download_goes_on(server: Server, path: Path) -> None:
    server.steps = [stall(HALF)]
    code = (
        "import sys, pathlib; from blemish.console import Silent; from blemish.data.download import *; "
        "download(RemoteFile(sys.argv[1]), pathlib.Path(sys.argv[2]), Silent())"
    )
    part = path.with_name("data.bin.part")
    with subprocess.Popen([sys.executable, "-c", code, server.url(), str(path)]) as process:
        while not (part.exists() and part.stat().st_size == HALF):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [(None, None), (f"bytes={HALF}-", '"one"')]


def test_a_server_without_range_starts_again(server: Server, path: Path) -> None:
    server.steps = [cut(HALF), whole]
    heard = get(server, path)
    assert path.read_bytes() == CONTENT
    assert any("starts again" in said for said in heard.said)


@pytest.mark.parametrize("new", [CONTENT[::-1], CONTENT[:HALF], CONTENT[: HALF // 2], CONTENT * 2])
def test_a_file_that_changed_starts_again(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, new: bytes
) -> None:
    interrupt(server, path, monkeypatch)
    server.files["/data.bin"], server.etag = new, '"two"'
    get(server, path)
    assert path.read_bytes() == new


def rest_of(content: bytes, **headers: object) -> Step:
    """As a server that knows Range but not If-Range: the rest of whatever it has."""

    def step(handler: Handler) -> None:
        start = int(handler.headers["Range"][len("bytes=") : -1])
        length = len(content)
        fields = {"Content_Range": f"bytes {start}-{length - 1}/{length}", "Content_Length": length - start}
        handler.head(206, **(fields | headers))
        handler.wfile.write(content[start:])

    return step


@pytest.mark.parametrize(
    "step",
    [
        rest_of(CONTENT[::-1], ETag='"two"'),
        rest_of(CONTENT + b"longer"),
        rest_of(CONTENT, Content_Range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"),
        rest_of(CONTENT, Content_Range="nonsense"),
    ],
    ids=["another etag", "another length", "another place", "nowhere"],
)
def test_the_rest_of_another_file_is_not_taken(server: Server, path: Path, step: Step) -> None:
    server.steps = [cut(HALF), step]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert [ranges for ranges, _ in server.ranges] == [None, f"bytes={HALF}-", None]


def test_without_an_etag_the_date_of_change_is_named(server: Server, path: Path) -> None:
    long_ago = format_datetime(datetime(2022, 9, 22, tzinfo=UTC), usegmt=True)
    server.etag, server.headers = None, {"Last-Modified": long_ago}
    server.steps = [cut(HALF)]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges[1] == (f"bytes={HALF}-", long_ago)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_what_cannot_be_validated_starts_again(server: Server, path: Path, etag: str | None) -> None:
    server.etag = etag
    server.headers = {"Last-Modified": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)}
    server.steps = [cut(HALF)]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [(None, None)] * 2


def test_a_published_digest_is_validation_enough(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.etag = None
    came = interrupt(server, path, monkeypatch, sha256(CONTENT))
    get(server, path, sha256(CONTENT))
    assert path.read_bytes() == CONTENT
    assert server.ranges == [(f"bytes={len(came)}-", None)]


@pytest.mark.parametrize("record", ["", "{}", "[1]", '{"url": "u", "validator": 3, "total": "x"}', None])
def test_a_part_of_unknown_origin_is_not_used(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, record: str | None
) -> None:
    interrupt(server, path, monkeypatch)
    file = path.with_name("data.bin.part.json")
    file.unlink() if record is None else file.write_text(record)
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [(None, None)]


def test_a_part_of_another_address_is_not_used(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(server, path, monkeypatch)
    server.files["/other/data.bin"] = CONTENT[::-1]
    download.download(RemoteFile(server.url("/other/data.bin")), path, Listening())
    assert path.read_bytes() == CONTENT[::-1]


def test_416_when_all_is_here(server: Server, path: Path) -> None:
    """All came, and the process ended before it knew: the length had not been announced."""
    server.steps = [chunked(CONTENT, end=b"")]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [(None, None), (f"bytes={len(CONTENT)}-", '"one"')]


@pytest.mark.parametrize("first", [cut(HALF), chunked(CONTENT[:HALF], end=b"")])
@pytest.mark.parametrize("headers", [{"Content_Range": f"bytes */{HALF - 1}"}, {}])
def test_416_when_the_file_became_shorter(server: Server, path: Path, first: Step, headers: dict[str, str]) -> None:
    server.steps = [first, answer(416, **headers)]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges[-1] == (None, None)


def test_416_without_a_range_is_an_error(server: Server, path: Path) -> None:
    server.steps = [answer(416)]
    with pytest.raises(DownloadError, match="416"):
        get(server, path)


def test_a_complete_part_needs_no_server(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: object, __: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(download._Part, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            get(server, path)
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert len(server.asked) == 1


# Trouble.


def test_a_server_in_trouble_is_asked_again(server: Server, path: Path, waits: list[float]) -> None:
    server.steps = [answer(500), answer(503, Retry_After=7), answer(429, Retry_After="soon"), answer(502)]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert waits == [1, 7, 4, 8]


def test_a_server_that_stays_in_trouble_is_given_up(server: Server, path: Path, waits: list[float]) -> None:
    server.steps = [answer(500)] * 9
    with pytest.raises(DownloadError, match=r"500 Internal Server Error.*goes on where it was"):
        get(server, path)
    assert len(server.asked) == download.TRIES
    assert waits == [1, 2, 4, 8]
    assert lies_in(path.parent) == set()


def test_what_comes_in_small_pieces_is_given_up_and_kept(server: Server, path: Path) -> None:
    server.steps = [cut(10)] * 9
    with pytest.raises(DownloadError, match="the connection was cut"):
        get(server, path)
    assert path.with_name("data.bin.part").read_bytes() == CONTENT[:50]


def test_what_comes_in_large_pieces_is_not(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PROGRESS", 50_000)
    server.steps = [cut(50_000)] * 12
    get(server, path)
    assert path.read_bytes() == CONTENT


def test_starting_again_for_ever_is_no_progress(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PROGRESS", 50_000)
    server.etag = None
    server.steps = [cut(HALF)] * 20
    with pytest.raises(DownloadError, match="the connection was cut"):
        get(server, path)
    assert len(server.asked) == download.TRIES


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_that_wants_too_long_a_rest_ends_the_download(
    server: Server, path: Path, waits: list[float], form: str
) -> None:
    after = "86400" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    server.steps = [answer(503, Retry_After=after)]
    with pytest.raises(DownloadError, match=r"left alone for 86\d\d\d seconds"):
        get(server, path)
    assert waits == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(server: Server, path: Path, status: int) -> None:
    server.steps = [answer(status)]
    with pytest.raises(DownloadError, match=f"the server refuses it \\({status} ") as caught:
        get(server, path)
    assert caught.value.where == server.url()
    assert len(server.asked) == 1


def test_no_server_is_an_error(server: Server, path: Path, waits: list[float]) -> None:
    url = server.url()
    server.server_close()
    with pytest.raises(DownloadError, match="no connection"):
        download.download(RemoteFile(url), path, Listening())
    assert waits == [1, 2, 4, 8]


def test_nonsense_instead_of_http_is_an_error(server: Server, path: Path) -> None:
    server.steps = [lambda handler: None] * 9
    with pytest.raises(DownloadError, match="the connection was cut"):
        get(server, path)


def test_a_body_that_stalls_goes_on(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.steps = [stall(HALF)]
    heard = get(server, path)
    assert path.read_bytes() == CONTENT
    assert any("nothing came for" in said for said in heard.said)
    assert server.ranges[1] == (f"bytes={HALF}-", '"one"')


def test_another_length_than_published_is_refused_before_anything_comes(server: Server, path: Path) -> None:
    with pytest.raises(DownloadError, match=f"it has {len(CONTENT)} bytes, and {len(CONTENT) - 1} are published"):
        get(server, path, size=len(CONTENT) - 1)
    assert lies_in(path.parent) == set()


@pytest.mark.parametrize("step", [chunked(CONTENT), until_closed])
def test_more_than_published_is_not_written(server: Server, path: Path, step: Step) -> None:
    server.steps = [step]
    with pytest.raises(DownloadError, match=r"more than the 400\.0 kB come"):
        get(server, path, size=400_000)
    assert lies_in(path.parent) == set()


@pytest.mark.parametrize("step", [serve, chunked(CONTENT)])
def test_more_than_the_most_is_refused(server: Server, path: Path, step: Step) -> None:
    server.steps = [step]
    with pytest.raises(DownloadError, match=r"the most is 400\.0 kB|more than the 400\.0 kB come"):
        get(server, path, most_bytes=400_000)
    assert lies_in(path.parent) == set()


def test_the_disk_must_have_room(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        free = len(CONTENT) - 1

    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: Disk)
    with pytest.raises(DownloadError, match=r"700\.0 kB are to come, and 700\.0 kB are free"):
        get(server, path)
    Disk.free += 1
    get(server, path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_said_and_not_tried_again(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(self: Path, *arguments: Any, **named: Any) -> Any:
        return opened(Path("/dev/full"), "wb", buffering=0) if self.suffix == ".part" else opened(self, *arguments)

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(download._Part, "restart", lambda _: None)
    with pytest.raises(DownloadError, match="it cannot be written"):
        get(server, path)
    assert len(server.asked) == 1


# Redirects.


def test_a_few_redirects_are_followed_and_keep_the_range(server: Server, path: Path) -> None:
    server.files["/there.bin"] = CONTENT
    moved = answer(302, Location=server.url("/there.bin"))
    server.steps = [moved, cut(HALF), answer(307, Location="/there.bin")]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert [asked for asked, _ in server.asked] == ["/data.bin", "/there.bin"] * 2
    assert server.ranges[3] == (f"bytes={HALF}-", '"one"')


def test_redirects_without_end_are_not(server: Server, path: Path) -> None:
    server.steps = [answer(302, Location=server.url()) for _ in range(30)]
    with pytest.raises(DownloadError, match="follows at most 5 redirects"):
        get(server, path)
    assert len(server.asked) < 8
    server.steps = [answer(302, Location=server.url(f"/{i}")) for i in range(30)]
    server.asked.clear()
    with pytest.raises(DownloadError, match="follows at most 5 redirects"):
        get(server, path)
    assert len(server.asked) == 6


@pytest.mark.parametrize("scheme", ["file", "ftp", "data", "FILE"])
def test_redirects_to_elsewhere_are_not(server: Server, path: Path, scheme: str) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(CONTENT)
    server.steps = [answer(302, Location=f"{scheme}://{secret}")]
    with pytest.raises(DownloadError, match=r"to http and https only") as caught:
        get(server, path)
    assert "secret" in str(caught.value)
    assert lies_in(path.parent) == set()


@pytest.mark.parametrize(
    ("before", "after", "followed"),
    [
        ("https://a.org/x", "https://b.org/x", True),
        ("http://a.org/x", "https://a.org/x", True),
        ("http://a.org/x", "http://b.org/x", True),
        ("https://a.org/x", "http://a.org/x", False),
        ("https://a.org/x", "HTTP://a.org/x", False),
        ("https://a.org/x", "ftp://a.org/x", False),
    ],
)
def test_no_redirect_gives_up_encryption(before: str, after: str, followed: bool) -> None:
    def ask() -> Request | None:
        return Redirects().redirect_request(Request(before), io.BytesIO(), 302, "Found", Message(), after)

    if followed:
        request = ask()
        assert request is not None
        assert request.full_url == after
    else:
        with pytest.raises(DownloadError, match="never from https to http"):
            ask()


@pytest.mark.parametrize(
    ("url", "digest"),
    [
        ("file:///etc/passwd", None),
        ("ftp://a.org/a.zip", None),
        ("a.zip", None),
        ("https://a.org", None),
        ("https://a.org/", None),
        ("https:///a.zip", None),
        ("https://a.org/a b.zip", None),
        ("https://a.org/..%2f..%2fb.zip", None),
        ("https://a.org/a%5cb.zip", None),
        ("https://a.org/..", None),
        ("https://a.org/a.zip", "sha1:" + "0" * 40),
        ("https://a.org/a.zip", "sha256:" + "0" * 63),
        ("https://a.org/a.zip", "sha256:" + "A" * 64),
    ],
)
def test_only_addresses_of_files_and_known_digests(url: str, digest: str | None) -> None:
    with pytest.raises(ValueError, match=r"is not the http or https address|is neither sha256"):
        RemoteFile(url, digest)


def test_the_name_is_the_addresses_last_part() -> None:
    assert RemoteFile("https://a.org/x/Magnetic%20tile-v1.2.tar.gz?download=1#top").name == "Magnetic tile-v1.2.tar.gz"


# Archives.

FILES = {
    "cap/train/good/000.png": b"first",
    "cap/test/bent/ä.png": b"second" * 100,
    "cap/readme.txt": b"",
}


def tar_of(
    files: dict[str, bytes],
    change: Callable[[tarfile.TarInfo], object] = lambda _: None,
    format: int = tarfile.PAX_FORMAT,
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            change(member)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], object] = lambda _: None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            change(entry)
            file.writestr(entry, content)
    return buffer.getvalue()


KINDS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip": zip_of,
    "tar": tar_of,
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "tar.xz": lambda files: lzma.compress(tar_of(files)),
    "tar.bz2": lambda files: bz2.compress(tar_of(files)),
}


class Bench:
    """Unpacks archives into `folder` and sees what is there."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "out"

    def put(self, content: bytes, name: str = "a.bin") -> Path:
        path = self.root / "archives" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def unpack(self, *contents: bytes, limits: Limits | None = None) -> Listening:
        listening = Listening()
        archives = [self.put(content, f"{i}.bin") for i, content in enumerate(contents)]
        extract(archives, self.folder, listening, limits)
        return listening

    def refuses(self, *contents: bytes, match: str, limits: Limits | None = None) -> DataError:
        """The archives are refused, and nothing is left of them anywhere."""
        before = {path for path in self.root.rglob("*") if "archives" not in path.parts}
        with pytest.raises(DataError, match=match) as caught:
            self.unpack(*contents, limits=limits)
        assert {path for path in self.root.rglob("*") if "archives" not in path.parts} == before
        return caught.value

    @property
    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_unpacked_whatever_its_name(bench: Bench, kind: str) -> None:
    heard = bench.unpack(KINDS[kind](FILES))
    assert bench.files == FILES
    assert lies_in(bench.root) == {"archives", "out"}
    assert heard.done == sorted(heard.done)
    assert all(0 <= done <= 1 for done in heard.done)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize(("name", "inside"), [("labels.CSV.GZ", "labels.CSV"), ("labels", "labels")])
def test_a_single_file_is_unpacked(bench: Bench, compress: Callable[[bytes], bytes], name: str, inside: str) -> None:
    content = b"name,label\n" * 1000
    extract([bench.put(compress(content), name)], bench.folder, Listening())
    assert bench.files == {inside: content}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_is_read(bench: Bench, format: int) -> None:
    names = {f"{'folder-' * 9}/{'file-' * 15}{i}.png": random.Random(i).randbytes(512 * i) for i in range(5)}
    bench.unpack(gzip.compress(tar_of({"./a.png": b"x"} | names, format=format)))
    assert bench.files == {"a.png": b"x"} | names


def test_empty_folders_and_repeated_ones(bench: Bench) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (".", "a", "a/b", "a"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
    bench.unpack(buffer.getvalue(), zip_of({"a/": b"", "c/": b""}))
    assert {path.name for path in bench.folder.rglob("*") if path.is_dir()} == {"a", "b", "c"}


def test_several_archives_make_one_dataset(bench: Bench) -> None:
    bench.unpack(zip_of({"a/1.png": b"1"}), tar_of({"a/2.png": b"2", "b/1.png": b"3"}))
    assert bench.files == {"a/1.png": b"1", "a/2.png": b"2", "b/1.png": b"3"}


def test_one_bad_archive_spoils_all(bench: Bench) -> None:
    error = bench.refuses(zip_of(FILES), tar_of({"../x": b""}), match="leads out of the folder")
    assert error.where == str(bench.root / "archives" / "1.bin")


def test_permissions_are_those_of_any_new_file(bench: Bench) -> None:
    def set_uid(member: Any) -> None:
        if isinstance(member, zipfile.ZipInfo):
            member.external_attr = (stat.S_IFREG | 0o6777) << 16
        else:
            member.mode = 0o6777

    bench.unpack(zip_of({"zip.sh": b""}, set_uid), tar_of({"tar.sh": b""}, set_uid))
    (bench.root / "new").touch()
    expected = (bench.root / "new").stat().st_mode
    assert {path.stat().st_mode for path in bench.folder.iterdir()} == {expected}
    (bench.root / "folder").mkdir()
    assert bench.folder.stat().st_mode == (bench.root / "folder").stat().st_mode


NAMES = [
    ("../x.png", "leads out"),
    ("a/../../x.png", "leads out"),
    ("a/..", "leads out"),
    ("..", "leads out"),
    ("/etc/x.png", "absolute"),
    ("//host/x.png", "absolute"),
    ("..\\x.png", "backslash"),
    ("a\\b.png", "backslash"),
    ("C:\\x.png", "backslash"),
    ("C:/x.png", "colon"),
    ("C:x.png", "colon"),
    ("a/x.png:stream", "colon"),
    ("a/x.png.", "dot or a space"),
    ("a /x.png", "dot or a space"),
    (".../x.png", "dot or a space"),
    ("a/\x1b[31mx.png", "not text"),
    ("a/x\n.png", "not text"),
    ("/".join("a" * 70), "too long"),
    ("/".join(["a" * 30] * 40), "too long"),
]


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(("name", "reason"), NAMES)
def test_names_that_leave_the_folder_or_mean_two_things(bench: Bench, kind: str, name: str, reason: str) -> None:
    error = bench.refuses(KINDS[kind]({"good.png": b"", name: b"bad"}), match=reason)
    assert "\x1b" not in str(error)
    assert "\n" not in str(error)


def test_a_nul_in_a_zip_name_does_not_shorten_it(bench: Bench) -> None:
    content = zip_of({"a.pngX../b": b""}).replace(b"a.pngX../b", b"a.png\0../b")
    bench.refuses(content, match="not text")


def test_a_tar_name_that_is_not_utf8(bench: Bench) -> None:
    content = gzip.compress(tar_of({"caf\udce9.png": b""}, format=tarfile.GNU_FORMAT))
    bench.refuses(content, match="not text")


def linking(kind: bytes, target: str) -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        if member.name == "link":
            member.type, member.linkname = kind, target

    return change


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "a link, to"),
        (tarfile.LNKTYPE, "a link, to"),
        (tarfile.FIFOTYPE, "a device or a pipe"),
        (tarfile.CHRTYPE, "a device or a pipe"),
        (tarfile.BLKTYPE, "a device or a pipe"),
        (b"Z", "neither a plain file nor a folder"),
    ],
)
def test_links_and_devices_in_a_tar(bench: Bench, kind: bytes, reason: str) -> None:
    outside = bench.root / "outside"
    outside.mkdir()
    content = tar_of({"link": b"", "link/x.png": b"bad"}, linking(kind, str(outside)))
    bench.refuses(content, match=reason)


def test_links_in_a_tar_to_the_inside_are_refused_too(bench: Bench) -> None:
    bench.refuses(tar_of({"a.png": b"", "link": b""}, linking(tarfile.SYMTYPE, "a.png")), match="a link, to 'a.png'")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "neither"), (stat.S_IFCHR, "neither"), (stat.S_IFSOCK, "neither")],
)
def test_links_and_devices_in_a_zip(bench: Bench, mode: int, reason: str) -> None:
    def change(entry: zipfile.ZipInfo) -> None:
        entry.external_attr = (mode | 0o777) << 16

    bench.refuses(zip_of({"link": b"/etc"}, change), match=reason)


def test_a_sparse_file_in_a_tar(bench: Bench) -> None:
    def sparse(member: tarfile.TarInfo) -> None:
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "99999999999999"}

    bench.refuses(tar_of({"a.png": b"x"}, sparse), match="neither a plain file nor a folder")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "A.png"),
        ("a/x.png", "A/y.png"),
        ("stra\u00dfe.png", "STRASSE.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("\u00c9.png", "e\u0301.png"),
        ("a", "a/b.png"),
        ("a/b.png", "a"),
        ("a.png", "./a.png"),
        ("a/b.png", "a//b.png"),
    ],
)
def test_names_that_collide(bench: Bench, kind: str, names: tuple[str, ...]) -> None:
    bench.refuses(KINDS[kind](dict.fromkeys(names, b"")), match="has the name of another")


def test_names_that_collide_across_archives(bench: Bench) -> None:
    bench.refuses(zip_of({"a.png": b""}), zip_of({"A.PNG": b""}), match="has the name of another, 'a.png'")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice(bench: Bench) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.png", b"1")
        file.writestr("a.png", b"2")
    bench.refuses(buffer.getvalue(), match="has the name of another")


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_entries(bench: Bench, kind: str) -> None:
    content = KINDS[kind]({f"a/{i}.png": b"" for i in range(9)})
    bench.refuses(content, match="more than 9 files and folders", limits=Limits(entries=9))
    bench.unpack(content, limits=Limits(entries=10))


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_a_file(bench: Bench, kind: str) -> None:
    content = KINDS[kind]({"a.png": bytes(1000)})
    bench.refuses(content, match="has more than 999 bytes", limits=Limits(file_bytes=999))
    bench.unpack(content, limits=Limits(file_bytes=1000))


@pytest.mark.parametrize("kind", KINDS)
def test_too_much_in_all(bench: Bench, kind: str) -> None:
    content = KINDS[kind]({f"{i}.png": bytes(1000) for i in range(100)})
    bench.refuses(content, match=r"unpacks to more than 99\.0 kB", limits=Limits(all_bytes=99_000))


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "tar.bz2"])
def test_a_bomb(bench: Bench, kind: str) -> None:
    """60 MB of zeros, which is over the harmless, out of less than 600 kB."""
    content = KINDS[kind]({f"{i}.png": bytes(10**7) for i in range(6)})
    assert len(content) < 600_000
    bench.refuses(content, match="more than 100 times its size")


def test_a_bomb_of_one_file(bench: Bench) -> None:
    bench.refuses(gzip.compress(bytes(60 * 10**6)), match="more than 100 times its size")


def test_what_is_well_compressed_but_small_is_no_bomb(bench: Bench) -> None:
    content = zip_of({"a.png": bytes(10**7)})
    assert len(content) < 10**5
    bench.unpack(content)


def test_more_than_is_free(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        free = 999

    monkeypatch.setattr("blemish.data.extraction.shutil.disk_usage", lambda _: Disk)
    bench.refuses(zip_of({"a.png": bytes(1000)}), match="more than the 999 bytes that are free")


def overlapping(how: str) -> bytes:
    """A zip whose second entry lies within the first, begins a byte before the first ends, or is the first."""
    content = bytearray(zip_of({"a.png": bytes(5000), "b.png": bytes(5000)}))
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        first, second = file.infolist()
        directory = file.start_dir
    record = content.index(b"PK\x01\x02", directory)
    other = content.index(b"PK\x01\x02", record + 4)
    if how != "the same":
        end = second.header_offset + (1 if how == "a byte" else 30 + second.compress_size)
        size = end - (first.header_offset + 30)
        content[record + 20 : record + 24] = size.to_bytes(4, "little")
    else:
        content[other + 42 : other + 46] = first.header_offset.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize("how", ["within", "a byte", "the same"])
def test_entries_of_a_zip_that_overlap(bench: Bench, how: str) -> None:
    bench.refuses(overlapping(how), match="overlaps with another")


@pytest.mark.parametrize("flag", [0x0001, 0x0040, 0x2000])
def test_an_encrypted_zip(bench: Bench, flag: int) -> None:
    content = bytearray(zip_of({"a.png": b"secret"}))
    record = content.index(b"PK\x01\x02")
    for place in (6, record + 8):
        flags = int.from_bytes(content[place : place + 2], "little") | flag
        content[place : place + 2] = flags.to_bytes(2, "little")
    bench.refuses(bytes(content), match="its entry 'a.png' is encrypted")


def test_a_zip_that_lies_about_a_size(bench: Bench) -> None:
    """The size in its directory: 5 bytes where there are 5,000, and the other way round."""
    for real, claimed in ((5000, 5), (5, 5000)):
        content = bytearray(zip_of({"a.png": b"x" * real}))
        record = content.index(b"PK\x01\x02")
        content[record + 24 : record + 28] = claimed.to_bytes(4, "little")
        bench.refuses(bytes(content), match="is broken")


def test_a_zip_whose_directory_is_too_large_to_read(bench: Bench) -> None:
    def long(entry: zipfile.ZipInfo) -> None:
        entry.comment = bytes(60_000)

    content = zip_of({f"{i}.png": b"" for i in range(100)}, long)
    bench.refuses(content, match=r"it has a directory of 6\.0 MB", limits=Limits(entries=1000))
    bench.unpack(content)


def test_a_tar_whose_header_is_too_large_to_read(bench: Bench) -> None:
    def large(member: tarfile.TarInfo) -> None:
        member.pax_headers = {"comment": "x" * 3_000_000}

    bench.refuses(gzip.compress(tar_of({"a.png": b""}, large)), match=r"it has a header of 3\.0 MB")


@pytest.mark.parametrize("size", [-512, -(10**6)])
def test_a_tar_that_leads_back(bench: Bench, size: int) -> None:
    """A negative size would let a careless reader turn in circles."""
    content = bytearray(tar_of({"a.png": b"", "b.png": b"", "c.png": b""}))
    header = content.index(b"b.png")
    content[header + 124 : header + 136] = b"\xff" + size.to_bytes(11, "big", signed=True)
    content[header + 148 : header + 156] = b" " * 8
    content[header + 148 : header + 156] = b"%06o\0 " % sum(content[header : header + 512])
    bench.refuses(bytes(content), match="its entry 'b.png' is neither a plain file")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_whose_header_is_shorter_than_nothing(bench: Bench, kind: bytes) -> None:
    """Read so many bytes, and a careless reader reads all there are."""
    content = bytearray(tar_of({"a.png": b"", "b.png": b""}))
    header = content.index(b"b.png")
    content[header + 124 : header + 136] = b"\xff" + (-1024).to_bytes(11, "big", signed=True)
    content[header + 156 : header + 157] = kind
    content[header + 148 : header + 156] = b" " * 8
    content[header + 148 : header + 156] = b"%06o\0 " % sum(content[header : header + 512])
    bench.refuses(gzip.compress(content), match="it has a header of -1024 bytes")


@pytest.mark.parametrize("kind", KINDS)
def test_cut_short_anywhere(bench: Bench, kind: str) -> None:
    content = KINDS[kind]({f"{i}.png": random.Random(i).randbytes(700) for i in range(3)})
    # A tar ends in blocks of zeros, of which one is enough to know that it has ended.
    needed = len(content) if kind != "tar" else 3 * (512 + 1024) + 512
    for length in {*range(0, needed, 97), *range(0, needed, 512), needed - 1}:
        bench.refuses(content[:length], match="is broken, cut short|no archive of a known kind")


@pytest.mark.parametrize("kind", KINDS)
def test_broken_anywhere(bench: Bench, kind: str) -> None:
    """Whatever byte is wrong: the archive is refused with an error of ours, or what it unpacks to is in the folder."""
    content = KINDS[kind](FILES)
    chance = random.Random(1)
    outcomes = set()
    for _ in range(300):
        broken = bytearray(content)
        for _ in range(chance.choice((1, 1, 3, 20))):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            bench.unpack(bytes(broken))
        except BlemishError:
            outcomes.add("refused")
        else:
            outcomes.add("unpacked")
            (bench.folder).rename(bench.root / "archives" / f"{chance.random()}")
        assert lies_in(bench.root) == {"archives"}
    assert "refused" in outcomes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no archive of a known kind"),
        (b"Rar!\x1a\x07\x00", "no archive of a known kind"),
        (b"\n<!DOCTYPE html><html><body>Sign in", "it is a web page"),
        (b"<HTML><head>", "it is a web page"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-3], "is broken"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-8] + bytes(8), "is broken"),
    ],
)
def test_what_is_no_archive(bench: Bench, content: bytes, reason: str) -> None:
    bench.refuses(content, match=reason)


def test_a_checksum_that_comes_after_the_last_file_counts(bench: Bench) -> None:
    content = gzip.compress(tar_of(FILES))
    bench.refuses(content[:-8] + zlib.crc32(b"?").to_bytes(4, "little") + content[-4:], match="is broken")


# The folder.


def test_a_folder_with_content_is_left_alone(bench: Bench) -> None:
    bench.folder.mkdir()
    (bench.folder / "mine").write_text("mine")
    bench.refuses(zip_of(FILES), match="there already and not empty")
    assert bench.files == {"mine": b"mine"}


def test_an_empty_folder_is_filled(bench: Bench) -> None:
    bench.folder.mkdir()
    bench.unpack(zip_of(FILES))
    assert bench.files == FILES


def test_a_file_or_a_dangling_link_is_no_folder(bench: Bench) -> None:
    bench.folder.write_text("mine")
    bench.refuses(zip_of(FILES), match="there already")
    bench.folder.unlink()
    bench.folder.symlink_to(bench.root / "nowhere")
    bench.refuses(zip_of(FILES), match="there already")


def test_the_current_folder_is_not_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.folder.mkdir()
    monkeypatch.chdir(bench.folder)
    bench.refuses(zip_of(FILES), match="it is the current folder")


def test_an_interruption_leaves_nothing_half(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Listening, "progress", pressed)
    with pytest.raises(KeyboardInterrupt):
        bench.unpack(zip_of({"a.png": CONTENT}))
    assert lies_in(bench.root) == {"archives"}


def test_what_a_killed_unpacking_left_is_removed(bench: Bench) -> None:
    left = bench.root / "out.unpacking"
    left.mkdir()
    (left / "half.png").touch()
    heard = bench.unpack(zip_of(FILES))
    assert bench.files == FILES
    assert lies_in(bench.root) == {"archives", "out"}
    assert "out.unpacking is left" in heard.said[0]


# The verb.


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `blemish` in this process. Status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["blemish", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capfd.readouterr()

    return run


Cli = Callable[..., tuple[int, str, str]]


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), grey, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def caps(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> catalog.Entry:
    """A made-up dataset in two files, of which one has no published digest; the current folder is empty."""
    parts = {
        "/caps-train.zip": zip_of({f"caps/train/good/{i}.png": png(i) for i in range(4)}),
        "/caps-test.tar.gz": gzip.compress(
            tar_of(
                {
                    "caps/test/good/0.png": png(10),
                    "caps/test/bent/0.png": png(200),
                    "caps/ground_truth/bent/0_mask.png": png(255),
                }
            )
        ),
    }
    server.files = parts
    train, test = parts
    files = (RemoteFile(server.url(train), sha256(parts[train]), len(parts[train])), RemoteFile(server.url(test)))
    facts: dict[str, Any] = {"layout": "mvtec", "categories": 1, "split": "by folders", "citation": "", "images": {}}
    entry = catalog.Entry(
        name="caps", title="Bottle caps", licence="CC BY 4.0", home="https://caps.example", files=files, **facts
    )
    formal = catalog.Entry(
        name="forms", title="Forms", licence="CC BY-NC 4.0", home="https://forms.example/ask", files=(), **facts
    )
    known = {"caps": entry, "forms": formal}
    monkeypatch.setattr(catalog, "find_entry", known.__getitem__)
    monkeypatch.chdir(tmp_path)
    return entry


@pytest.mark.usefixtures("caps")
def test_the_verb_downloads_a_dataset_that_can_be_opened(cli: Cli, server: Server, tmp_path: Path) -> None:
    server.steps = [cut(300), serve, answer(500)]
    status, out, err = cli("data", "get", "caps", "--accept-licence")
    assert (status, out) == (0, f"{tmp_path / 'caps' / 'caps'}\n"), err
    assert "Next: blemish train" in err
    dataset = open_dataset(out.strip())
    assert dataset.layout == "mvtec"
    assert (len(dataset.train), len(dataset.test)) == (4, 2)
    assert [sample.mask is not None for sample in dataset.test] == [True, False]
    assert lies_in(tmp_path) == {"caps", "caps.download"}
    assert lies_in(tmp_path / "caps.download") == {"caps-train.zip", "caps-test.tar.gz", "caps-test.tar.gz.sha256"}


@pytest.mark.usefixtures("caps")
def test_the_verb_leaves_a_folder_with_content_alone_and_asks_nothing(cli: Cli, server: Server) -> None:
    assert cli("data", "get", "caps", "--out", "mine/caps", "--accept-licence")[0] == 0
    server.asked.clear()
    status, out, err = cli("data", "get", "caps", "--out", "mine/caps", "--accept-licence")
    assert (status, out) == (1, "")
    assert "it is there already and not empty; it is left as it is" in err
    assert server.asked == []


@pytest.mark.usefixtures("caps")
def test_the_verb_unpacks_again_what_it_has_without_a_server(cli: Cli, server: Server, tmp_path: Path) -> None:
    cli("data", "get", "caps", "--accept-licence")
    (tmp_path / "caps").rename(tmp_path / "elsewhere")
    server.asked.clear()
    assert cli("data", "get", "caps", "--accept-licence")[0] == 0
    assert server.asked == []


@pytest.mark.usefixtures("caps")
def test_without_consent_nothing_is_downloaded(cli: Cli, server: Server, tmp_path: Path) -> None:
    status, out, err = cli("data", "get", "caps")
    assert (status, out) == (UsageError.exit_status, "")
    assert "CC BY 4.0" in err
    assert "https://caps.example, then add --accept-licence" in err
    assert server.asked == []
    assert lies_in(tmp_path) == set()


@pytest.mark.usefixtures("caps")
def test_a_dataset_behind_a_form_says_where_to_ask(cli: Cli, tmp_path: Path) -> None:
    status, out, err = cli("data", "get", "forms", "--out", "here", "--accept-licence")
    assert (status, out) == (1, "")
    for said in ("CC BY-NC 4.0", "https://forms.example/ask", str(tmp_path / "here")):
        assert said in err
    assert lies_in(tmp_path) == set()


@pytest.mark.usefixtures("caps")
def test_ctrl_c_in_the_verb_says_that_it_goes_on(
    cli: Cli, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/caps-train.zip"] = server.files["/caps-train.zip"][:-1]

    def pressed(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_wait", pressed)
    server.steps = [cut(100)]
    server.files["/caps-train.zip"] = catalogued = server.files["/caps-train.zip"] + b"\0"
    assert len(catalogued) == catalog.find_entry("caps").files[0].bytes
    status, _, err = cli("data", "get", "caps", "--accept-licence")
    assert status == 130
    assert "the same command goes on from there" in err
    assert (tmp_path / "caps.download" / "caps-train.zip.part").stat().st_size == 100


def test_an_unknown_dataset_is_wrong_use(cli: Cli) -> None:
    status, out, err = cli("data", "get", "vosa", "--accept-licence")
    assert (status, out) == (2, "")
    assert 'there is no dataset "vosa"' in err
    assert 'Did you mean "visa"?' in err


def test_help_shows_an_example_that_is_right(cli: Cli) -> None:
    status, out, _ = cli("data", "get", "--help")
    assert status == 0
    example = re.search(r"Example:\s+`?(blemish data get[^\n│`]*)", out)
    assert example
    for option in re.findall(r"--[a-z-]+", example[1]):
        assert out.count(option) > 1
    assert "get" in cli("data", "--help")[1]
    assert os.sep not in example[1].split()[3]
