"""A station in a process of its own and images to send to it, for the harnesses of the station."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

IMAGES_SEND = 32
END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


@dataclass(frozen=True)
class Memory:
    """In MB (2^20 bytes). resident : all of it. private : what no other process shares. processes : summed over."""

    resident: float
    private: float
    processes: int


@dataclass(frozen=True)
class Running:
    """A station that runs. pid : of its process; its models are judged by threads of it. data : its folder."""

    url: str
    pid: int
    data: Path

    def memory(self) -> Memory:
        """What the station takes, with the processes that it has started for trainings and scoring, if any."""
        rollups = [_rollup(pid) for pid in (self.pid, *_children(self.pid))]
        private = sum(one["Private_Clean"] + one["Private_Dirty"] for one in rollups)
        return Memory(sum(one["Rss"] for one in rollups) / 1024, private / 1024, len(rollups))

    def processor(self) -> float:
        """Seconds of processor time that the process has taken."""
        # After the name in brackets, which may hold spaces: user and system time are the 12th and 13th field.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def disk(self) -> dict[str, float]:
        """What its folder takes, in MB: "database", without the log before it of at most 4 MB, "images" and "maps"."""
        places = {"database": "station.db", "images": "images/**/*", "maps": "maps/**/*"}
        sizes = {
            kind: sum(path.stat().st_size for path in self.data.glob(place) if path.is_file())
            for kind, place in places.items()
        }
        return {kind: size / 1e6 for kind, size in sizes.items()}


@contextmanager
def station(model: Path, folder: Path, *options: object) -> Iterator[Running]:
    """Start `blemish station` on a model file; its data lie below `folder`. It must end in order."""
    models = folder / "models"
    models.mkdir(parents=True)
    (models / model.name).symlink_to(model.resolve())
    command = ["station", "--models", models, "--data", folder / "data", "--port", 0, *options]
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "blemish", *map(str, command)], stderr=file)
        try:
            while "Blemish station on " not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(f"the station did not start: {log.read_text()}")
                time.sleep(0.05)
            url = log.read_text().partition("Blemish station on ")[2].split()[0]
            while not _ready(url):
                time.sleep(0.05)
            yield Running(url, process.pid, folder / "data")
        finally:
            process.terminate()
            status = process.wait(120)
    if status:
        raise SystemExit(f"the station ended with {status}: {log.read_text()}")


def images(folder: Path) -> list[bytes]:
    """Some PNG files of a folder."""
    paths = sorted(folder.rglob("*.png"))
    chosen = paths[:: max(1, len(paths) // IMAGES_SEND)][:IMAGES_SEND]
    found = [path.read_bytes() for path in chosen]
    found = [content for content in found if content.endswith(END)]
    if not found:
        raise SystemExit(f"{folder} holds no PNG file")
    return found


def numbered(image: bytes, number: int) -> tuple[bytes, str]:
    """The same picture as a file that no other number gives, and its sha256: a comment is added."""
    comment = b"tEXtnumber\x00" + str(number).encode()
    chunk = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
    content = image[: -len(END)] + chunk + END
    return content, hashlib.sha256(content).hexdigest()


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _rollup(pid: int) -> dict[str, int]:
    """Sums over all mappings of a process, in kB."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    return {name.removesuffix(":"): int(size) for name, size, _ in lines}


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False
