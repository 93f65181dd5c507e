"""One client for a long time: what the memory of a station does.

    blemish demo --out demo
    python benchmarks/station_soak.py demo/gears.blemish demo/gears/test --requests 20000

Prints the resident memory of the station's process at the start, after a quarter, a half and all of the requests, and
what the station takes on the disk and of the processor.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import httpx2 as httpx

from station_process import images, numbered, station


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    wanted = parser.parse_args()
    pictures = images(wanted.images)
    looks = {wanted.requests // 4, wanted.requests // 2, wanted.requests}
    with (
        tempfile.TemporaryDirectory() as folder,
        station(wanted.model, Path(folder)) as running,
        httpx.Client(base_url=running.url, timeout=300) as http,
    ):
        print(f"at the start: {running.memory():.0f} MB")
        start, used = time.monotonic(), running.processor()
        for number in range(1, wanted.requests + 1):
            content, _ = numbered(pictures[number % len(pictures)], number)
            http.post("/api/v1/inspect", content=content).raise_for_status()
            if number in looks:
                passed = time.monotonic() - start
                print(f"after {number} requests: {running.memory():.0f} MB, {number / passed:.1f} images/s", flush=True)
                took = 1e3 * (running.processor() - used) / number
                print(f"  processor time of the station: {took:.1f} ms a request")
                print("  disk: " + ", ".join(f"{kind} {size:.2f} MB" for kind, size in running.disk().items()))


if __name__ == "__main__":
    main()
