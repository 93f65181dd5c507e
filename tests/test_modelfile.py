"""The model file: what is written is what is opened, and whatever was changed in between is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blemish import modelfile
from blemish.errors import ModelFileError
from blemish.modelfile import DIGESTS, GRAPH, MANIFEST, WEIGHTS, open_model_file, write
from factories import make_manifest

MEMBERS = (MANIFEST, GRAPH, WEIGHTS, DIGESTS)
CHECKED = (MANIFEST, GRAPH, WEIGHTS)
GRAPH_BYTES = bytes(range(256)) * 3
WEIGHTS_BYTES = b"weights " * 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cap.blemish"
    write(path, make_manifest(), GRAPH_BYTES, WEIGHTS_BYTES)
    return path


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def put_members(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def with_digests(members: dict[str, bytes]) -> dict[str, bytes]:
    """As someone would forge it who knows how the file is made."""
    digests = {name: hashlib.sha256(members[name]).hexdigest() for name in CHECKED}
    return {**members, DIGESTS: json.dumps(digests).encode()}


def with_manifest(path: Path, content: bytes) -> None:
    put_members(path, with_digests({**read_members(path), MANIFEST: content}))


def refusal(path: Path) -> str:
    """The sentence with which a file is refused; it names the file and reads like one."""
    with pytest.raises(ModelFileError) as caught:
        open_model_file(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    assert caught.value.exit_status == 1
    return sentence


# Writing and opening


def test_what_is_written_is_what_is_opened(file: Path) -> None:
    opened = open_model_file(file)

    assert opened.manifest == make_manifest()
    assert opened.graph == GRAPH_BYTES
    assert opened.weights() == WEIGHTS_BYTES
    assert opened.path == file
    assert opened.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert open_model_file(str(file)).manifest == opened.manifest


def test_its_members_are_plain_files_with_their_digests(file: Path) -> None:
    members = read_members(file)

    assert tuple(members) == MEMBERS
    assert members[GRAPH] == GRAPH_BYTES
    assert json.loads(members[MANIFEST])["method"] == "rd"
    assert json.loads(members[DIGESTS]) == {name: hashlib.sha256(members[name]).hexdigest() for name in CHECKED}


def test_the_same_content_is_the_same_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    again = tmp_path / "again.blemish"
    write(again, make_manifest(), GRAPH_BYTES, WEIGHTS_BYTES)

    assert again.read_bytes() == file.read_bytes()


def test_folders_are_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "models" / "2" / "cap.blemish"
    write(target, make_manifest(), GRAPH_BYTES, WEIGHTS_BYTES)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [target]


@pytest.mark.parametrize("breaks", ["writestr", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch, breaks: str) -> None:
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    owner = {"writestr": zipfile.ZipFile, "fsync": os, "replace": Path}[breaks]
    with monkeypatch.context() as patch:
        patch.setattr(owner, breaks, full)
        with pytest.raises(ModelFileError, match="cannot be written: No space left on device"):
            write(file, make_manifest(method="padim"), b"other", b"other")

    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_writing_below_a_file(file: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be written"):
        write(file / "inside.blemish", make_manifest(), b"", b"")


# Damage


def test_any_flipped_byte_is_refused_or_without_effect(file: Path) -> None:
    """Dates and attributes in the zip's own records may change; what the detector is made of may not."""
    whole, manifest = file.read_bytes(), make_manifest()
    contents = {whole.index(content) + i for content in read_members(file).values() for i in range(len(content))}
    spoilt = file.with_name("spoilt.blemish")
    for position in sorted(set(range(len(whole))) - contents | set(range(0, len(whole), 5))):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        spoilt.write_bytes(content)
        try:
            opened = open_model_file(spoilt)
        except ModelFileError:
            continue
        assert position not in contents
        assert opened.manifest == manifest, position
        assert opened.graph == GRAPH_BYTES, position
        assert opened.weights() == WEIGHTS_BYTES, position


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_a_flipped_byte_in_a_member_is_named(file: Path, name: str, where: float) -> None:
    """The zip's own checksum is made good, so that it is the sha256 that finds it."""
    members = read_members(file)
    content = bytearray(members[name])
    content[round(where * (len(content) - 1))] ^= 0x10
    put_members(file, {**members, name: bytes(content)})

    assert f"its member {name} is not what was written: the sha256 differs" in refusal(file)


def test_a_flipped_byte_in_the_digests(file: Path) -> None:
    members = read_members(file)
    content = members[DIGESTS]
    for position in range(0, len(content), 7):
        spoilt = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        if json_or_none(spoilt) != json.loads(content):
            put_members(file, {**members, DIGESTS: spoilt})
            assert "sha256 differs" in refusal(file)


def json_or_none(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize(
    "digests", [b"", b"null", b"[]", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"model.onnx": 3}']
)
def test_digests_that_are_none(file: Path, digests: bytes) -> None:
    put_members(file, {**read_members(file), DIGESTS: digests})
    refusal(file)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99, -1, -4, -22, -100])
def test_a_truncated_file(file: Path, part: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part) if part < 0 else int(part * len(whole))])

    assert "not a Blemish model file, or it is damaged" in refusal(file)


def test_weights_that_changed_since_the_file_was_opened(file: Path) -> None:
    opened = open_model_file(file)
    put_members(file, {**read_members(file), WEIGHTS: b"others"})

    with pytest.raises(ModelFileError, match=r"its member weights[.]safetensors is not what"):
        opened.weights()


# Foreign files


@pytest.mark.parametrize("name", MEMBERS)
def test_a_missing_member(file: Path, name: str) -> None:
    members = read_members(file)
    del members[name]
    put_members(file, members)

    assert "not a Blemish model file" in refusal(file)


@pytest.mark.parametrize("name", ["extra.txt", "data.pkl", "../manifest.json", "Manifest.json"])
def test_an_extra_member(file: Path, name: str) -> None:
    put_members(file, {**read_members(file), name: b"more"})

    assert "not a Blemish model file" in refusal(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice(file: Path) -> None:
    members = read_members(file)
    with zipfile.ZipFile(file, "w") as archive:
        for name in (*MEMBERS, GRAPH):
            archive.writestr(name, members[name])

    assert "not a Blemish model file" in refusal(file)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members(file: Path, compression: int) -> None:
    """A compressed member may be a bomb; Blemish writes none."""
    members = {**read_members(file), WEIGHTS: b"\0" * 1_000_000}
    put_members(file, with_digests(members), compression)

    assert "is not stored as Blemish stores it" in refusal(file)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99])
def test_stored_members_that_claim_to_be_compressed(file: Path, compression: int) -> None:
    """The compression method stands 10 bytes into a record of the zip's directory."""
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = compression
    file.write_bytes(content)

    assert "is not stored as Blemish stores it" in refusal(file)


def zip_of_photographs() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.jpg", b"\xff\xd8\xff")
    return buffer.getvalue()


def zip_with_a_name_that_is_no_text() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ä", b"")
    return buffer.getvalue().replace("ä".encode(), b"\xff\xff")


FOREIGN = {
    "an empty file": b"",
    "a text": b"This is not a model.\n" * 50,
    "an empty zip": b"PK\x05\x06" + bytes(18),
    "another zip": zip_of_photographs(),
    "a zip with a broken name": zip_with_a_name_that_is_no_text(),
    "an ONNX graph": b"\x08\x0a\x12\x07pytorch" + bytes(300),
    "a pickle": pickle.dumps({"model": list(range(100))}),
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.blemish"
    path.write_bytes(content)

    assert "not a Blemish model file" in refusal(path)


def test_a_path_without_a_file(tmp_path: Path, file: Path) -> None:
    assert "there is no such file. `blemish train` makes one" in refusal(tmp_path / "none.blemish")
    assert "there is no such file" in refusal(file / "below.blemish")
    with pytest.raises(ModelFileError):
        open_model_file("a\0b")


def test_a_folder(tmp_path: Path) -> None:
    assert "it cannot be read: Is a directory" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(file: Path) -> None:
    file.chmod(stat.S_IWUSR)

    assert "it cannot be read: Permission denied" in refusal(file)


# Manifests that are whole but wrong


@pytest.mark.parametrize("format", [2, 0, None, "1", "new", [1]])
def test_another_format(file: Path, format: object) -> None:
    stated = json.loads(read_members(file)[MANIFEST])
    with_manifest(file, json.dumps({**stated, "format": format}).encode())

    assert re.search(r"it is of format .*, this Blemish reads format 1\. Install a newer Blemish", refusal(file))


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.pop(name)


def put(value: object, *names: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for name in names[:-1]:
            manifest = manifest[name]
        manifest[names[-1]] = value

    return change


WRONG = {
    "method": put(7, "method"),
    "config": put([], "config"),
    "teacher": drop("teacher"),
    "teacher.channels": put("24", "teacher", "channels"),
    "teacher.mean.1": put([0.5], "teacher", "mean"),
    "images.depth": put("uint12", "images", "depth"),
    "images": put({"low": 3, "high": 2}, "images"),
    "calibration": put([0.3, 0.2, 0.1], "calibration", "scores"),
    "calibration.false_alarm_rate": put(1.5, "calibration", "false_alarm_rate"),
    "calibration.scores.0": put(["low", 0.2, 0.3], "calibration", "scores"),
    "calibration.kind": put("none", "calibration", "kind"),
    "training.images": put({}, "training", "images"),
    "training.seed": put("zero", "training", "seed"),
    "parity": put(None, "parity"),
    "surprise": put(1, "surprise"),
}


@pytest.mark.parametrize(("place", "change"), WRONG.items(), ids=WRONG.keys())
def test_a_manifest_with_a_wrong_field(file: Path, place: str, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads(read_members(file)[MANIFEST])
    change(manifest)
    with_manifest(file, json.dumps(manifest).encode())

    assert f"its manifest is wrong at {place}: " in refusal(file)


@pytest.mark.parametrize("content", [b"", b"manifest", b"[1, 2]", b"null", b"\xff", b"[" * 100_000, b'{"format": 1'])
def test_a_manifest_that_is_no_json_object(file: Path, content: bytes) -> None:
    with_manifest(file, content)

    assert "its manifest is not JSON" in refusal(file)


# Nothing inside is ever executed


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", [*MEMBERS, "data.pkl", "archive/data.pkl"])
@pytest.mark.parametrize("forged", [False, True], ids=["plain", "forged digest"])
def test_a_pickle_is_never_loaded(file: Path, name: str, forged: bool) -> None:
    mark = file.parent / "unpickled"
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.is_dir()
    mark.rmdir()

    members = {**read_members(file), name: pickle.dumps(Trap(mark))}
    put_members(file, with_digests(members) if forged and name != DIGESTS else members)
    if forged and name in (GRAPH, WEIGHTS):
        # Nobody can tell bytes from bytes here; they are handed on as what they are.
        opened = open_model_file(file)
        assert members[name] in (opened.graph, opened.weights())
    else:
        refusal(file)

    assert not mark.exists()


def test_the_reader_knows_no_pickle() -> None:
    assert not {"pickle", "marshal", "shelve", "torch"} & vars(modelfile).keys()
