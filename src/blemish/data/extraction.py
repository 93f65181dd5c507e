"""Unpacking an archive that may mean harm: nothing leaves the folder, nothing grows without end, nothing is half done.

Understood are zip, tar (plain, gzip, xz, bzip2) and single files under gzip, xz or bzip2; which it is, the first bytes
say and not the name. Only plain files and folders are taken. One entry that is anything else, or whose name could mean
another place or another file on some system, refuses the whole archive: it is broken or it lies, and either way it is
not the dataset.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Protocol, cast

from blemish.console import Listener, size_in_words
from blemish.data.files import entries
from blemish.errors import DataError

CHUNK = 1 << 18

COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""First bytes -> what opens it."""

ZIPPED = (b"PK\x03\x04", b"PK\x05\x06")
ENCRYPTED = 0x0001 | 0x0040 | 0x2000
"""Flags of a zip entry: encrypted, strongly encrypted, its header masked."""

LOCAL_HEADER = 30
"""Bytes before the name and the data of a zip entry."""

LONGEST_NAME = 1000
DEEPEST = 64
LONGEST_HEADER = 1 << 20
"""Bytes of a tar header, which is read into memory whole."""

BYTES_OF_AN_ENTRY = 512
"""Bytes that an entry of a zip's directory may take on average; the directory is read into memory whole."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold.

    Parameters
    ----------
    entries : files and folders, over all archives of a dataset. file_bytes, all_bytes : unpacked size of one file, and
        of one archive; counted while unpacking, whatever the archive says of itself.
    ratio : unpacked bytes for each byte of the archive, looked at once more than `harmless_bytes` are unpacked.
    """

    entries: int = 500_000
    file_bytes: int = 20 * 10**9
    all_bytes: int = 500 * 10**9
    ratio: float = 100
    harmless_bytes: int = 50 * 10**6


def check_target(folder: Path) -> None:
    """See that a dataset can be unpacked into `folder`: it is not there, or empty and not the current folder.

    Raises
    ------
    DataError : it cannot.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or entries(folder):
        raise DataError(
            "it is there already and not empty; it is left as it is",
            where=folder,
            todo="Use it if it is the dataset, else name another folder",
        )
    if folder.resolve() == Path.cwd():
        raise DataError("it is the current folder", where=folder, todo="Name a folder that is to be made")


def extract(archives: Sequence[Path], folder: Path, listener: Listener, limits: Limits | None = None) -> None:
    """Unpack all archives of a dataset into `folder`, which is there once everything is unpacked, and not before.

    Raises
    ------
    DataError : `folder` has content; an archive is broken, is of no kind that is understood, exceeds the limits, or
        has an entry that is refused. Nothing is left of it then.
    """
    check_target(folder)
    folder = folder.resolve()
    growing = folder.with_name(f"{folder.name}.unpacking")
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if growing.exists():
            listener.say(f"{growing.name} is left from an unpacking that was killed; it is removed.")
            shutil.rmtree(growing)
        growing.mkdir()
    try:
        names = _Names(growing, limits or Limits())
        for archive in archives:
            _unpack(archive, names, listener)
        with _writing(folder):
            if folder.exists():
                folder.rmdir()
            growing.rename(folder)
    except BaseException:
        shutil.rmtree(growing, ignore_errors=True)
        raise


def _refused(archive: Path, what: str, entry: str | None = None) -> DataError:
    # Names are shown as Python writes them: they may hold control characters that a terminal obeys.
    which = "" if entry is None else f"its entry {entry[:200]!a} "
    return DataError(f"{which}{what}", where=archive, todo="Nothing was unpacked. Unpack it by hand if you trust it")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"it cannot be written ({error.strerror})", where=path, todo="Check the free space and the permissions"
        ) from error


class _Names:
    """The names that are taken: no two may be one file on a system that ignores case or normalises Unicode."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root, self.limits = root, limits
        self._taken: dict[str, tuple[str, bool]] = {}

    def claim(self, archive: Path, name: str, *, is_folder: bool) -> Path:
        """Where the entry `name` goes.

        Raises
        ------
        DataError : the name leads out of the folder, means different things on different systems, or is taken.
        """
        if reason := _what_is_wrong_with(name):
            raise _refused(archive, reason, name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts and not is_folder:
            raise _refused(archive, "has no name", name)
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            entry = (path, is_folder or depth < len(parts))
            known = self._taken.setdefault(_folded(path), entry)
            if known is not entry and (known != entry or not entry[1]):
                raise _refused(archive, f"has the name of another, {known[0][:200]!a}", name)
        if len(self._taken) > self.limits.entries:
            raise _refused(archive, f"it holds more than {self.limits.entries} files and folders")
        return self.root.joinpath(*parts)


def _what_is_wrong_with(name: str) -> str | None:
    """Why an entry cannot have this name; None if it can."""
    parts = name.split("/")
    if name.startswith("/"):
        return "has an absolute path"
    if ".." in parts:
        return "leads out of the folder"
    if "\\" in name:
        return "has a backslash in its name, which parts folders on some systems only"
    if ":" in name:
        return "has a colon in its name, which marks a drive or a stream on some systems"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "has a name that is not text"
    if any(part.endswith((".", " ")) for part in parts if part != "."):
        return "has a name that ends in a dot or a space, which some systems drop"
    if len(name) > LONGEST_NAME or len(parts) > DEEPEST:
        return "has a name that is too long"
    return None


def _folded(path: str) -> str:
    """One spelling for all that a file system may hold for the same (Unicode 3.13, canonical caseless match)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


# What comes out of an archive is counted, wherever it comes out.


class _Meter:
    """Counts the bytes that come out of one archive."""

    def __init__(self, archive: Path, raw: IO[bytes], names: _Names, listener: Listener) -> None:
        self.archive, self.limits = archive, names.limits
        self._raw, self._listener = raw, listener
        self._size = archive.stat().st_size
        self._free = shutil.disk_usage(names.root).free
        self._bytes, self._shown = 0, 0.0

    def add(self, count: int) -> None:
        """So many bytes more."""
        self._bytes += count
        if self._bytes > self.limits.all_bytes:
            raise _refused(self.archive, f"it unpacks to more than {size_in_words(self.limits.all_bytes)}")
        if self._bytes > max(self.limits.harmless_bytes, self.limits.ratio * self._size):
            raise _refused(self.archive, f"it unpacks to more than {self.limits.ratio:g} times its size")
        if self._bytes > self._free:
            raise _refused(self.archive, f"it unpacks to more than the {size_in_words(self._free)} that are free")
        done = self._raw.tell() / self._size
        if done >= self._shown + 0.005:
            self._shown = done
            self._listener.progress(f"unpacking {self.archive.name}", done, size_in_words(self._bytes))


class _Source(Protocol):
    def read(self, count: int, /) -> bytes: ...


class _Stream:
    """Bytes out of an archive, counted, read forwards. `last` is what the latest `read` gave."""

    def __init__(self, source: _Source, meter: _Meter) -> None:
        self._source, self._meter = source, meter
        self._position, self.last = 0, b""

    def read(self, count: int) -> bytes:
        """The next bytes, fewer than `count` only at the end."""
        if not 0 <= count <= LONGEST_HEADER:
            raise _refused(self._meter.archive, f"it has a header of {size_in_words(count)}")
        self.last = self._source.read(count)
        self._position += len(self.last)
        self._meter.add(len(self.last))
        return self.last

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    def seek(self, position: int) -> None:
        """Read on to `position`. Going back would mean to decompress again from the start, as often as asked."""
        if position < self._position:
            raise _refused(self._meter.archive, "it leads back to a place before")
        while self._position < position:
            if not self.read(min(CHUNK, position - self._position)):
                return


class _Archive(BufferedReader):
    """A file of which never more is read into memory at once than the directory of a zip may have."""

    def __init__(self, path: Path, entries: int) -> None:
        super().__init__(FileIO(path))
        self._path, self._most = path, max(LONGEST_HEADER, entries * BYTES_OF_AN_ENTRY)

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        if size is not None and size > self._most:
            raise _refused(self._path, f"it has a directory of {size_in_words(size)}")
        return super().read(size)


def _unpack(archive: Path, names: _Names, listener: Listener) -> None:
    with _reading(archive), _Archive(archive, names.limits.entries) as raw:
        start = raw.read(tarfile.BLOCKSIZE)
        raw.seek(0)
        meter = _Meter(archive, raw, names, listener)
        decompress: Any = next((opened for magic, opened in COMPRESSED.items() if start.startswith(magic)), None)
        if start.startswith(ZIPPED):
            _unpack_zip(raw, names, meter)
        elif decompress:
            with decompress(raw) as plain:
                is_tar = _begins_a_tar(plain.read(tarfile.BLOCKSIZE))
            raw.seek(0)
            with decompress(raw) as plain:
                (_unpack_tar if is_tar else _unpack_single)(_Stream(plain, meter), names, meter)
        elif _begins_a_tar(start):
            _unpack_tar(_Stream(raw, meter), names, meter)
        elif b"<html" in start.lower() or start.lstrip().lower().startswith(b"<!doctype"):
            raise _refused(archive, "it is a web page: its server wants a login or a consent first")
        else:
            raise _refused(archive, "it is no archive of a known kind: zip, tar, gzip, xz, bzip2")


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Whatever the standard library says of a broken archive, in one form."""
    try:
        yield
    except OSError as error:
        # Its decompressors raise errors of this class too, but without a number.
        if error.errno is not None:
            raise DataError(
                f"it cannot be unpacked ({error.strerror})",
                where=error.filename or archive,
                todo="Check the free space",
            ) from error
        raise _broken(archive, error) from error
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        lzma.LZMAError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise _broken(archive, error) from error


def _broken(archive: Path, why: object) -> DataError:
    return _refused(archive, f"it is broken, cut short or of a kind that is not understood ({why})")


def _write(source: _Source, target: Path, meter: _Meter, entry: str) -> int:
    """Write a file that is not there yet, with the permissions of any new file. Number of bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as out:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > meter.limits.file_bytes:
                raise _refused(meter.archive, f"has more than {size_in_words(meter.limits.file_bytes)}", entry)
            out.write(chunk)
    return written


# The kinds of archives.


def _unpack_single(stream: _Stream, names: _Names, meter: _Meter) -> None:
    name = re.sub(r"\.(gz|xz|bz2)$", "", meter.archive.name, flags=re.IGNORECASE)
    _write(stream, names.claim(meter.archive, name, is_folder=False), meter, name)


def _begins_a_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


class _Member:
    """The content of one member of a tar, out of the stream of the whole."""

    def __init__(self, stream: _Stream, size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, count: int) -> bytes:
        """The next bytes."""
        chunk = self._stream.read(min(count, self._left))
        self._left -= len(chunk)
        return chunk


def _unpack_tar(stream: _Stream, names: _Names, meter: _Meter) -> None:
    tar = tarfile.TarFile(fileobj=cast("IO[bytes]", stream), encoding="utf-8", errors="surrogateescape")
    while (member := tar.next()) is not None:
        # Else every member is kept until the end.
        tar.members.clear()  # type: ignore[attr-defined]
        if member.size < 0 or member.issparse() or not (member.isdir() or member.isreg()):
            raise _refused(meter.archive, f"is {_kind(member)}", member.name)
        target = names.claim(meter.archive, member.name, is_folder=member.isdir())
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            stream.seek(member.offset_data)
            _write(_Member(stream, member.size), target, meter, member.name)
    # A damaged header ends the members as silently as the block of zeros that should.
    if stream.last != bytes(tarfile.BLOCKSIZE):
        raise _broken(meter.archive, "its end is missing")
    # What follows is only looked at by the decompressor, whose checksum comes last.
    while stream.read(CHUNK):
        pass


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a link, to {member.linkname[:200]!a}"
    if member.isdev():
        return "a device or a pipe"
    return "neither a plain file nor a folder"


def _unpack_zip(raw: IO[bytes], names: _Names, meter: _Meter) -> None:
    with zipfile.ZipFile(raw) as file:
        listed = sorted(file.infolist(), key=lambda entry: entry.header_offset)
        # Before anything is written: small archives unpack to petabytes when many entries share the same bytes.
        for entry, following in pairwise(listed):
            if entry.header_offset + LOCAL_HEADER + entry.compress_size > following.header_offset:
                raise _refused(meter.archive, "overlaps with another", following.orig_filename)
        for entry in listed:
            name = entry.orig_filename
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "a link" if kind == stat.S_IFLNK else "neither a plain file nor a folder"
                raise _refused(meter.archive, f"is {what}", name)
            if entry.flag_bits & ENCRYPTED:
                raise _refused(meter.archive, "is encrypted", name)
            is_folder = name.endswith("/") or kind == stat.S_IFDIR
            target = names.claim(meter.archive, name, is_folder=is_folder)
            if is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            with file.open(entry) as content:
                written = _write(_Stream(content, meter), target, meter, name)
            if written != entry.file_size:
                raise _broken(meter.archive, f"{name[:200]!a} ends early")
