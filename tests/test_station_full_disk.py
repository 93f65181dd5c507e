"""A disk that is full in earnest: what is answered is stored, the rest is refused, and room ends the trouble."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stations import NG, StationProcess, make_model, part

SIZE = 6 * 2**20
FILLER = 2 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "data"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount on this machine")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_refuses_and_loses_nothing_and_room_ends_it(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "models").mkdir()
    make_model(tmp_path / "models" / "cap.blemish")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(FILLER))
    station = StationProcess(tmp_path)
    answered: list[int] = []
    noise = os.urandom(200_000)
    try:
        refused = None
        for number in range(200):
            # What follows the end of a PNG is not looked at, and takes room.
            answer = station.inspect(part(NG, number % 100) + noise + bytes([number]))
            if answer.status_code != 200:
                refused = answer
                break
            answered.append(answer.json()["inspections"][0]["id"])
        assert refused is not None
        assert refused.status_code == 503
        assert refused.json()["code"] in ("storage_failed", "database_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        assert len(answered) > 5
        assert station.process.poll() is None

        filler.unlink()
        after = station.inspect(part(NG, 99))
        assert after.status_code == 200, after.text
        rows = {row["id"]: row for row in station.inspections()}
        assert set(answered) | {after.json()["inspections"][0]["id"]} <= set(rows)
        for number, row in rows.items():
            picture = station.client.get(f"/api/v1/inspections/{number}/image")
            assert len(picture.content) == row["image_bytes"]
        assert list(small_disk.rglob("*.partial")) == []
        station.terminate()
        assert station.wait() == 0
    finally:
        station.close()
