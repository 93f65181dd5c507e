"""What a station keeps on disk: pictures, maps, and which of them the retention takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish.errors import UsageError
from blemish.pictures import COLOURS, heatmap, overlay
from blemish.station.archive import Archive
from blemish.station.inspections import Filter, Inspections
from blemish.station.maps import decode_map, encode_map, heat_map, overlaid
from blemish.station.retention import ORPHAN_SECONDS, sweep
from blemish.station.settings import Retention
from blemish.station.store import Store
from blemish.station.tables import Inspection, now

DAYS = {"OK": 30, "REJECTED": 30, "REVIEW": 180, "NG": 365}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    opened = Archive(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'station.db'}")
    opened.migrate()
    yield opened
    opened.close()


def add(store: Store, archive: Archive, image: bytes, verdict: str = "OK", days: float = 0, **changes: Any) -> int:
    """An inspection of so many days ago, with its image and a map."""
    with archive.keep([("images", image), ("maps", b"map of " + image)]) as (image_sha256, map_sha256):
        row = Inspection(
            **{
                "time": now() - timedelta(days=days),
                "station": "line-1",
                "model": "cap",
                "version": 1,
                "model_sha256": "1" * 64,
                "image_sha256": image_sha256,
                "image_bytes": len(image),
                "verdict": verdict,
                "reason": "",
                "detail": "",
                "regions": [],
                "map_sha256": map_sha256,
                "waited_ms": 0,
                "judged_ms": 0,
                **changes,
            }
        )
        Inspections(store, "line-1").add([row])
    return row.id


def kept(store: Store, archive: Archive) -> set[int]:
    """The inspections that have their pictures; row and disk must say the same."""
    found = set()
    for row, _ in Inspections(store, "line-1").page(Filter(), None, 500):
        there = archive.read("images", row.image_sha256) is not None
        assert row.map_sha256 is not None
        assert (archive.read("maps", row.map_sha256) is not None) == there
        if row.pictures_removed is None:
            assert there
            found.add(row.id)
    return found


def test_pictures_go_by_age_and_verdict_and_reviewed_ones_stay(store: Store, archive: Archive) -> None:
    expected = set()
    for verdict, days in DAYS.items():
        expected.add(add(store, archive, f"young {verdict}".encode(), verdict, days - 1))
        add(store, archive, f"old {verdict}".encode(), verdict, days + 1)
        reviewed = add(store, archive, f"reviewed {verdict}".encode(), verdict, 10 * days)
        Inspections(store, "line-1").review(
            reviewed, "lena", "confirmed", "normal" if verdict[0] == "R" else None, "", None
        )
        expected.add(reviewed)

    swept = sweep(store, archive, "line-1", Retention())

    assert kept(store, archive) == expected
    assert (swept.inspections, swept.files) == (4, 8)
    assert swept.bytes == sum(len(f"old {verdict}") * 2 + len("map of ") for verdict in DAYS)
    assert len(Inspections(store, "line-1").page(Filter(), None, 500)) == 12
    assert sweep(store, archive, "line-1", Retention()).files == 0


def test_without_room_the_least_missed_go_first(store: Store, archive: Archive) -> None:
    names = ["OK", "NG", "OK", "REVIEW", "REJECTED", "NG"]
    ids = [add(store, archive, f"{i}".encode() * 1000, verdict) for i, verdict in enumerate(names)]
    Inspections(store, "line-1").review(ids[0], "lena", "confirmed", None, "", None)
    # One picture and its map have 1000 + 1007 bytes; the batch that is removed at once is of one class.
    room = 3 * 2007

    sweep(store, archive, "line-1", Retention(max_bytes=room))

    # Reviewed, and the two that are NG: of the others, OK goes before REJECTED, and that before REVIEW.
    assert kept(store, archive) == {ids[0], ids[1], ids[5]}


def test_a_picture_that_another_inspection_keeps_stays(store: Store, archive: Archive) -> None:
    add(store, archive, b"same", "OK", 31)
    young = add(store, archive, b"same", "OK", 1)

    assert sweep(store, archive, "line-1", Retention()).files == 0

    assert kept(store, archive) == {young}


def test_pictures_of_another_station_are_not_ours_to_remove(store: Store, archive: Archive) -> None:
    add(store, archive, b"theirs", "OK", 1000, station="line-2")

    assert sweep(store, archive, "line-1", Retention()).inspections == 0


def test_a_picture_that_is_being_kept_is_not_removed_under_its_row(store: Store, archive: Archive) -> None:
    add(store, archive, b"same", "OK", 31)
    with archive.keep([("images", b"same")]) as (sha256,):
        sweep(store, archive, "line-1", Retention())
        assert archive.read("images", sha256) == b"same"


def test_pictures_without_a_row_go_once_they_are_old(store: Store, archive: Archive) -> None:
    with archive.keep([("images", b"new"), ("images", b"old")]) as (new, old):
        pass
    path = Path(archive.path("images", old))
    long_ago = path.stat().st_mtime - ORPHAN_SECONDS - 1
    os.utime(path, (long_ago, long_ago))

    assert sweep(store, archive, "line-1", Retention()).files == 1

    assert (archive.read("images", new), archive.read("images", old)) == (b"new", None)


def test_a_folder_serves_one_station_and_is_free_again_once_it_ends(tmp_path: Path) -> None:
    first = Archive(tmp_path)
    with pytest.raises(UsageError, match="another station runs on this folder"):
        Archive(tmp_path)
    first.close()
    Archive(tmp_path).close()


@pytest.mark.parametrize("threshold", [0.7, 1e-30, 0.0, -0.5])
def test_a_map_keeps_exactly_what_is_marked_and_its_colours(threshold: float) -> None:
    rng = np.random.default_rng(0)
    anomaly_map = rng.normal(0.7, 0.4, (50, 70)).astype(np.float32)
    # On the threshold, and as near to it as there is.
    edge = np.float32(threshold)
    anomaly_map[0, :3] = edge, np.nextafter(edge, np.float32(9)), np.nextafter(edge, np.float32(-9))
    image = rng.integers(0, 256, (50, 70, 3), np.uint8)

    codes = decode_map(encode_map(anomaly_map, threshold))

    marked = anomaly_map > threshold
    np.testing.assert_array_equal(codes > 127, marked)
    expected = heatmap(anomaly_map, threshold)
    places = np.array([np.flatnonzero((colour == COLOURS).all(1))[0] for colour in expected.reshape(-1, 3)])
    assert np.abs(codes.ravel().astype(int) - places).max() <= 1
    assert heat_map(codes).shape == (50, 70, 3)
    difference = np.abs(overlaid(image, codes).astype(int) - overlay(image, anomaly_map, threshold, marked))
    assert difference.max() <= 4
