"""What the memory of a station consists of while it inspects: what is in use, what the allocator keeps, and threads.

    blemish demo --out demo
    python benchmarks/station_memory.py demo/gears.blemish demo/gears/test --inspections 6000

The station works inside this process, without HTTP, so that it can be looked into; `station_soak.py` has the whole of
it. Where private memory grows and what is in use does not, it is the allocator that keeps room. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from blemish.station.settings import Settings
from blemish.station.station import Sent, Station
from station_process import Running, images, numbered

EVERY = 500
"""Inspections between two looks."""


class Allocated(ctypes.Structure):
    """What mallinfo2 of glibc gives, in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def look(number: int) -> None:
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Allocated
    found = mallinfo()
    private = Running("", os.getpid(), Path()).memory().private
    print(
        f"{number:11}  {private:10.1f}  {found.uordblks / 2**20:9.2f}  {found.fordblks / 2**20:7.2f}"
        f"  {len(gc.get_objects()):10}  {sys.getallocatedblocks():8}  {threading.active_count():7}",
        flush=True,
    )


async def inspect(station: Station, pictures: list[bytes], inspections: int) -> None:
    print("inspections  private MB  in use MB  free MB  gc objects    blocks  threads")
    for number in range(inspections + 1):
        if number % EVERY == 0:
            look(number)
        content, _ = numbered(pictures[number % len(pictures)], number)
        await station.inspect([Sent(content)], None, None, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--inspections", type=int, default=6000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        shutil.copy(wanted.model, models)
        station = Station(Settings(models=models, data=Path(folder) / "data", threads=1))
        station.start()
        try:
            asyncio.run(inspect(station, images(wanted.images), wanted.inspections))
        finally:
            station.close()


if __name__ == "__main__":
    main()
