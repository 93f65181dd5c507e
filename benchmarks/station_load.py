"""Many clients at once: what a station answers, refuses, loses and doubles, and how long its answers take.

    blemish demo --out demo
    python benchmarks/station_load.py demo/gears.blemish demo/gears/test

Each client sends one image after the other, no file twice, and waits where the station says Retry-After. Afterwards the
station's own export is compared with what was answered. Clients and station share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx2 as httpx

from station_process import images, numbered, station


async def client(
    number: int, clients: int, url: str, pictures: list[bytes], end: float
) -> tuple[dict[int, str], list[float], Counter[int]]:
    """What it was answered (sha256 by id), after how many seconds each, and every status."""
    answered: dict[int, str] = {}
    took: list[float] = []
    statuses: Counter[int] = Counter()
    sent = number
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        while time.monotonic() < end:
            content, sha256 = numbered(pictures[sent % len(pictures)], sent)
            sent += clients
            start = time.monotonic()
            answer = await http.post("/api/v1/inspect", content=content)
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                took.append(time.monotonic() - start)
                row = answer.json()["inspections"][0]
                if row["id"] in answered:
                    raise SystemExit(f"inspection {row['id']} was answered twice")
                answered[row["id"]] = sha256
            else:
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
    return answered, took, statuses


async def load(url: str, pictures: list[bytes], clients: int, seconds: float) -> None:
    start = time.monotonic()
    each = await asyncio.gather(*(client(number, clients, url, pictures, start + seconds) for number in range(clients)))
    lasted = time.monotonic() - start
    answered = {number: sha256 for answers, _, _ in each for number, sha256 in answers.items()}
    took = sorted(seconds for _, all_seconds, _ in each for seconds in all_seconds)
    statuses: Counter[int] = sum((counted for _, _, counted in each), Counter())
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        exported = (await http.get("/api/v1/export.csv")).text
    rows = {int(row["id"]): row["image_sha256"] for row in csv.DictReader(io.StringIO(exported))}
    lost = [number for number, sha256 in answered.items() if rows.get(number) != sha256]
    doubled = [sha256 for sha256, count in Counter(rows.values()).items() if count > 1]
    print(f"{clients} clients, {lasted:.1f} s, {len(pictures)} pictures")
    print("answers by status: " + ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())))
    print(f"5xx: {sum(count for status, count in statuses.items() if status >= 500)}")
    print(f"rows: {len(rows)}, answered: {len(answered)}, lost: {len(lost)}, doubled: {len(doubled)}")
    print(f"throughput: {len(took) / lasted:.1f} images/s")
    for share in (0.5, 0.95, 0.99):
        print(f"p{share * 100:.0f}: {took[min(len(took) - 1, int(share * len(took)))]:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--queue", type=int, default=64, help="of the station; its own default")
    wanted = parser.parse_args()
    pictures = images(wanted.images)
    with (
        tempfile.TemporaryDirectory() as folder,
        station(wanted.model, Path(folder), "--queue", wanted.queue) as running,
    ):
        asyncio.run(load(running.url, pictures, wanted.clients, wanted.seconds))


if __name__ == "__main__":
    main()
