"""Downloading one file over HTTP: resumed where it was cut, checked while it is written, never larger than announced.

The only place in Blemish that reaches for a network, and only `blemish data get` calls it.

While it comes, the file is `NAME.part`. Beside it, `NAME.part.json` keeps what the server said of it, so that a later
request can ask for the rest of the same file and of no other (RFC 9110: Range, section 14.2; If-Range, 13.1.5).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from io import BufferedReader
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from blemish.console import Listener, size_in_words
from blemish.errors import DownloadError

MOST_BYTES = 200 * 10**9
"""The largest file that is downloaded where no size is published."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""

TRIES = 5
"""Failures in a row after which a download is given up."""

PROGRESS = 1 << 20
"""Bytes that a try must have brought, beyond all tries before, for the count of failures to start anew."""

PATIENCE = 120.0
"""Seconds that a server may ask to be left alone; when it asks for more, the download ends."""

CHUNK = 1 << 18
REDIRECTS = 5
SERVER_IS_BUSY = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Parameters
    ----------
    url : http or https; its path ends with the file's name.
    digest : "sha256:..." or "md5:..." in lower-case hexadecimal; None where none is published.
    bytes : its exact size; None where none is published.

    Raises
    ------
    ValueError : the address or the digest is not of this form.
    """

    url: str
    digest: str | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^/\s]+/\S*", self.url) or not _is_file_name(self.name):
            raise ValueError(f"{self.url!r} is not the http or https address of a file")
        if self.digest is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", self.digest):
            raise ValueError(f"{self.digest!r} is neither sha256:... nor md5:...")
        if self.bytes is not None and self.bytes <= 0:
            raise ValueError(f"a file of {self.bytes} bytes is none")

    @property
    def name(self) -> str:
        """The file's name: the last part of the address's path."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])


def _is_file_name(name: str) -> bool:
    return bool(re.fullmatch(r"[\w .()+,=@~-]+", name)) and name.strip(". ") != ""


def download(file: RemoteFile, path: Path, listener: Listener, *, most_bytes: int = MOST_BYTES) -> None:
    """Download `file` to `path`, unless it is there already.

    A download that was cut or killed goes on where it was, if the server can and still has the same file; else it
    starts again. Lost connections and busy servers are tried again, `TRIES` times in a row. Where no digest is
    published, the file's sha256 is written to `NAME.sha256`, and a later call compares with it.

    Raises
    ------
    DownloadError : the server has no such file, stays away or redirects where Blemish does not follow; the file is
        larger than published, than announced, than `most_bytes` or than the free space, or has another digest.
    """
    if _is_here(file, path, listener):
        return
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _Part(file, path) as part:
        _fetch(part, listener, most_bytes)
        part.finish(listener)


def _is_here(file: RemoteFile, path: Path, listener: Listener) -> bool:
    """Whether `path` is the file that is published or, where no digest is, the one that was noted here."""
    if not path.is_file():
        return False
    digest = file.digest
    with suppress(OSError, ValueError):
        digest = digest or f"sha256:{_note_of(path).read_text('utf-8')[:64]}"
    if digest:
        with path.open("rb") as stream:
            if _hexdigest(stream, digest) == digest:
                listener.say(f"{path.name} is here already, with the right digest.")
                return True
    listener.warn(f"{path} is not the file that is published, or cannot be compared with it; it is downloaded anew.")
    return False


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _hexdigest(stream: BufferedReader, like: str) -> str:
    """Digest of `stream` by the algorithm of the digest `like`, in the same form."""
    algorithm = like.partition(":")[0]
    digest = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


# What is there of the file.


class _Part:
    """The part of a file that has come so far.

    Parameters
    ----------
    size, total : bytes that are there, and that there are in all; None where the server has not said.
    validator : what must be unchanged on the server for the rest to fit: a strong ETag, or a date.
    ended : whether all has come.
    """

    def __init__(self, file: RemoteFile, path: Path) -> None:
        self.file, self.path = file, path
        self.part = path.with_name(f"{path.name}.part")
        self.record = path.with_name(f"{path.name}.part.json")
        self.algorithm = (file.digest or "sha256:").partition(":")[0]
        self.size, self.total, self.validator, self.ended = 0, file.bytes, "", False
        self.digest = hashlib.new(self.algorithm, usedforsecurity=False)
        with _writing(self.part):
            # Written at positions and not appended: two processes at the same file would write the same twice.
            self.stream = self.part.open("r+b" if self.part.exists() else "x+b", buffering=0)
            self._recall()

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        if not self.size:
            self.part.unlink(missing_ok=True)

    @property
    def resumable(self) -> bool:
        """Whether the rest can be asked for: a rest of another file would be refused, or found out by the digest."""
        return bool(self.validator or self.file.digest)

    def _recall(self) -> None:
        """Take over what an earlier process left, if it can be told what it is."""
        try:
            record = json.loads(self.record.read_text("utf-8"))
            url, validator, total = record["url"], record["validator"], record["total"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            url, validator, total = None, "", None
        if url != self.file.url or not isinstance(validator, str) or not isinstance(total, int | None):
            self.restart()
            return
        self.validator, self.total = validator, total
        while chunk := self.stream.read(CHUNK):
            self.digest.update(chunk)
            self.size += len(chunk)
        self.ended = self.size == self.total
        if self.total is not None and self.size > self.total:
            self.restart()

    def restart(self) -> None:
        """Forget what came: it is not, or no longer, what it should be."""
        self.size, self.total, self.validator, self.ended = 0, self.file.bytes, "", False
        self.digest = hashlib.new(self.algorithm, usedforsecurity=False)
        with _writing(self.part):
            self.stream.seek(0)
            self.stream.truncate()
            self.record.unlink(missing_ok=True)

    def conditions(self) -> dict[str, str]:
        """Headers that ask for the rest of this file."""
        if not self.size or not self.resumable:
            return {}
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": self.validator} if self.validator else {})

    def begin(self, headers: Message, total: int | None) -> None:
        """A whole file is coming."""
        self.restart()
        self.total = total
        self.validator = _validator(headers)
        record = {"url": self.file.url, "validator": self.validator, "total": total}
        with _writing(self.record):
            self.record.write_text(json.dumps(record), "utf-8")

    def fits(self, headers: Message, start: int | None, total: int | None) -> bool:
        """Whether an answer is about this very file, and from where it is to go on.

        A server that does not know If-Range answers with the rest of whatever it has now.
        """
        name = "ETag" if self.validator.startswith('"') else "Last-Modified"
        same = not self.validator or headers.get(name, self.validator) == self.validator
        return same and start == self.size and (self.total is None or total in (None, self.total))

    def append(self, chunk: bytes) -> None:
        """Write what came."""
        with _writing(self.part):
            self.stream.seek(self.size)
            rest = memoryview(chunk)
            while rest:
                rest = rest[self.stream.write(rest) :]
        self.digest.update(chunk)
        self.size += len(chunk)

    def finish(self, listener: Listener) -> None:
        """Check the digest and give the file its name."""
        found = f"{self.algorithm}:{self.digest.hexdigest()}"
        if self.file.digest and found != self.file.digest:
            self.restart()
            raise DownloadError(
                f"what came has the digest {found}, and {self.file.digest} is published; it has been deleted",
                where=self.file.url,
                todo="Try once more. If it happens again, the file is not the one that was published",
            )
        with _writing(self.path):
            os.fsync(self.stream.fileno())
            self.stream.close()
            self.part.replace(self.path)
            self.record.unlink(missing_ok=True)
            if not self.file.digest:
                note = _note_of(self.path)
                note.write_text(f"{self.digest.hexdigest()}  {self.path.name}\n", "utf-8")
                listener.say(f"{self.path.name} has {found}: not published; noted here, in {note}.")


def _validator(headers: Message) -> str:
    """What If-Range may name: a strong ETag, or else a date of change that a second has passed since; "" if none."""
    etag = headers.get("ETag", "")
    if re.fullmatch(r'"[^"]*"', etag):
        return str(etag)
    changed, now = _date(headers.get("Last-Modified", "")), _date(headers.get("Date", ""))
    return headers["Last-Modified"] if changed and now and now - changed >= timedelta(seconds=1) else ""


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Keep the disk's troubles apart from the network's, which are tried again."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"it cannot be written ({error.strerror})", where=path, todo="Check the free space and the permissions"
        ) from error


# The way to the server.


class _PassingError(Exception):
    """A failure that may pass. `after`: seconds that the server asks to be left alone."""

    def __init__(self, what: str, after: float | None = None) -> None:
        self.after = after
        super().__init__(what)


def _fetch(part: _Part, listener: Listener, most_bytes: int) -> None:
    """Ask until all has come."""
    failures, furthest = 0, part.size
    while not part.ended:
        try:
            _ask(part, listener, most_bytes)
        except _PassingError as trouble:
            # Measured against all tries: a server that starts anew each time must not keep us for ever.
            if part.size >= furthest + PROGRESS:
                failures, furthest = 0, part.size
            failures += 1
            wait = 2.0 ** (failures - 1) if trouble.after is None else trouble.after
            if failures == TRIES or wait > PATIENCE:
                asked = f", and asks to be left alone for {wait:.0f} seconds" if wait > PATIENCE else ""
                raise DownloadError(
                    f"{trouble}{asked}",
                    where=part.file.url,
                    todo="Give the same command again later; it goes on where it was",
                ) from trouble
            listener.say(f"{part.file.name}: {trouble}. Trying again in {wait:.0f} s.")
            _wait(wait)


def _wait(seconds: float) -> None:
    time.sleep(seconds)


def _ask(part: _Part, listener: Listener, most_bytes: int) -> None:
    """One request, and as much of the file as it brings."""
    from blemish import __version__

    headers = {"User-Agent": f"blemish/{__version__}", "Accept-Encoding": "identity"} | part.conditions()
    with _troubles(part), _opener().open(Request(part.file.url, headers=headers), timeout=TIMEOUT) as response:
        _begin(part, response, listener)
        if part.total is not None and part.file.bytes not in (None, part.total):
            raise _unexpected(part, f"it has {part.total} bytes, and {part.file.bytes} are published")
        limit = most_bytes if part.total is None else part.total
        if limit > most_bytes:
            raise _unexpected(part, f"it has {size_in_words(limit)}; the most is {size_in_words(most_bytes)}")
        free = shutil.disk_usage(part.path.parent).free
        if part.total is not None and part.total - part.size > free:
            raise DownloadError(
                f"{size_in_words(part.total - part.size)} are to come, and {size_in_words(free)} are free",
                where=part.path.parent,
                todo="Make room, or choose another place",
            )
        while chunk := response.read1(CHUNK):
            if part.size + len(chunk) > limit:
                raise _unexpected(part, f"more than the {size_in_words(limit)} come that there may be")
            part.append(chunk)
            of = f" of {size_in_words(part.total)}" if part.total else ""
            listener.progress(part.file.name, part.size / (part.total or most_bytes), f"{size_in_words(part.size)}{of}")
        if part.total is not None and part.size < part.total:
            raise _PassingError("the connection was cut")
        part.ended = True


def _begin(part: _Part, response: HTTPResponse, listener: Listener) -> None:
    """Read from an answer's head whether it goes on where the part ends or brings the file anew."""
    if response.status == 206 and part.size:
        start, total = _content_range(response.headers)
        if not part.fits(response.headers, start, total):
            part.restart()
            raise _PassingError("the file on the server has changed")
        listener.say(f"{part.file.name} goes on after {size_in_words(part.size)}.")
        part.total = total if part.total is None else part.total
    elif response.status == 200:
        if part.size:
            listener.say(f"{part.file.name} starts again: the server has another file or sends only whole ones.")
        ends_by_itself = response.length is not None or response.headers.get("Transfer-Encoding", "") == "chunked"
        if not ends_by_itself and part.file.bytes is None and part.file.digest is None:
            raise DownloadError(
                "the server does not say how long it is, and neither size nor digest is published: it could not be "
                "told whether all of it came",
                where=part.file.url,
                todo="Download it with a browser and look at it yourself",
            )
        part.begin(response.headers, part.file.bytes if response.length is None else response.length)
    else:
        raise _PassingError(f"the server gives the answer {response.status}, which was not asked for")


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """First byte and size of the whole; None where the header does not say."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", headers.get("Content-Range", ""))
    start, total = found.groups() if found else (None, None)
    return None if start is None else int(start), None if total is None else int(total)


def _unexpected(part: _Part, what: str) -> DownloadError:
    part.restart()
    return DownloadError(
        what, where=part.file.url, todo="The file may have been replaced; see the page that it comes from"
    )


@contextmanager
def _troubles(part: _Part) -> Iterator[None]:
    """Tell what may pass from what will not."""
    try:
        yield
    except HTTPError as error:
        with error:
            _judge(part, error)
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"the server's certificate cannot be trusted ({error.reason.verify_message})",
                where=part.file.url,
                todo="Check this machine's clock and its certificates; SSL_CERT_FILE can name another collection",
            ) from error
        raise _PassingError(f"no connection ({error.reason})") from error
    except TimeoutError as error:
        raise _PassingError(f"nothing came for {TIMEOUT:.0f} seconds") from error
    except (HTTPException, OSError) as error:
        raise _PassingError(f"the connection was cut ({str(error) or type(error).__name__})") from error


def _judge(part: _Part, error: HTTPError) -> None:
    """Turn a refusal into what follows from it: nothing more to come, another try, or an error."""
    if error.code == 416 and part.size:
        # There is nothing from here on. Either all is here, or the file has become shorter.
        _, total = _content_range(error.headers)
        if part.fits(error.headers, part.size, total) and total == part.size:
            part.ended = True
            return
        part.restart()
        raise _PassingError("the file on the server has changed") from error
    if error.code in SERVER_IS_BUSY:
        after = _retry_after(error.headers.get("Retry-After", ""))
        raise _PassingError(f"the server is not able to answer ({error.code} {error.reason})", after) from error
    if 300 <= error.code < 400:
        raise _refused_redirect(part.file.url, error.headers.get("Location", "nowhere")) from error
    raise DownloadError(
        f"the server refuses it ({error.code} {error.reason})",
        where=part.file.url,
        todo="The file may have moved; see the page that it comes from",
    ) from error


def _retry_after(text: str) -> float | None:
    """Seconds of a Retry-After header, which gives them or a date; None if it gives neither."""
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    date = _date(text)
    return None if date is None else max(0.0, (date - datetime.now(UTC)).total_seconds())


def _opener() -> OpenerDirector:
    """Opens http and https, by the proxies of the environment, and no other kind of address."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
        Redirects(),
    ):
        opener.add_handler(handler)
    return opener


class Redirects(HTTPRedirectHandler):
    """Follows a few redirects among http and https, and none that gives up encryption."""

    max_redirections = REDIRECTS

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        """The request that follows.

        Raises
        ------
        DownloadError : the redirect leads elsewhere than to http or https, or from https to http.
        """
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in ("http", "https") or (before == "https" and after == "http"):
            raise _refused_redirect(req.full_url, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _refused_redirect(url: str, target: str) -> DownloadError:
    return DownloadError(
        f"it leads on to {target[:200]!r}; Blemish follows at most {REDIRECTS} redirects, to http and https only, and "
        "never from https to http",
        where=url,
        todo="The file may have moved; see the page that it comes from",
    )
