"""One client for a long time: what the memory of a station does.

    blemish demo --out demo
    python benchmarks/station_soak.py demo/gears.blemish demo/gears/test --requests 20000

Prints resident and private memory after every thousand requests, then how private memory changes over the last half of
them: the slope of a straight line with its 95 % interval; and what the station took of processor and disk. Linux only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import httpx2 as httpx
from scipy import stats

from station_process import images, numbered, station

EVERY = 1000
"""Requests between two looks at the memory."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--requests", type=int, default=20_000, help="at least 6000")
    wanted = parser.parse_args()
    if wanted.requests < 6 * EVERY:
        parser.error("over fewer than 6000 requests there is no slope to speak of")
    pictures = images(wanted.images)
    seen: list[tuple[int, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        station(wanted.model, Path(folder)) as running,
        httpx.Client(base_url=running.url, timeout=300) as http,
    ):
        used = running.processor()
        print("requests  resident MB  private MB  processes  images/s")
        start = time.monotonic()
        for number in range(wanted.requests + 1):
            if number % EVERY == 0:
                memory = running.memory()
                seen.append((number, memory.private))
                speed = EVERY / (time.monotonic() - start) if number else 0.0
                print(
                    f"{number:8}  {memory.resident:11.1f}  {memory.private:10.1f}  {memory.processes:9}  {speed:8.1f}",
                    flush=True,
                )
                start = time.monotonic()
            content, _ = numbered(pictures[number % len(pictures)], number)
            http.post("/api/v1/inspect", content=content).raise_for_status()
        took = 1e3 * (running.processor() - used) / (wanted.requests + 1)
        print(f"processor time of the station: {took:.1f} ms a request")
        print("disk: " + ", ".join(f"{kind} {size:.2f} MB" for kind, size in running.disk().items()))
    print(slope([one for one in seen if one[0] >= wanted.requests / 2]))


def slope(seen: list[tuple[int, float]]) -> str:
    """How memory changes with requests, in words. seen : requests so far, and MB.

    Memory moves in steps, so its deviations from the line are no independent draws, and the interval is rather too
    narrow than too wide.
    """
    line = stats.linregress([number / EVERY for number, _ in seen], [memory for _, memory in seen])
    reach = float(stats.t.ppf(0.975, len(seen) - 2)) * line.stderr
    low, high = line.slope - reach, line.slope + reach
    verdict = "it grows" if low > 0 else "it shrinks" if high < 0 else "no growth to be seen"
    return (
        f"over the last {seen[-1][0] - seen[0][0]} requests: {line.slope:+.3f} MB per {EVERY} requests "
        f"(95 % interval {low:+.3f} to {high:+.3f}): {verdict}"
    )


if __name__ == "__main__":
    main()
