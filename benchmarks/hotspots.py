"""Where the processor time and the memory of a `blemish` command go.

    python benchmarks/hotspots.py train magnetic_tile -o tile.blemish --method padim
    python benchmarks/hotspots.py inspect tile.blemish magnetic_tile/test --out results

Runs the command in this process and looks at all threads, three hundred times a second. What a thread has taken of the
processor since the last look is put down to the innermost line of Blemish that it is at, by function; threads that run
no Python, those of torch and of the runtimes, stand by themselves. Memory is that of the process: the highest that was
seen while the main thread was in a function, and what was added and given back there.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

# Where it is, without importing it: what that costs is to be seen.
PACKAGE = f"{Path(str(getattr(find_spec('blemish'), 'origin', None))).parent}{os.sep}"
ELSEWHERE = "outside Blemish: starting, imports"
NATIVE = "threads of the libraries"


@dataclass
class Place:
    """What was seen in one function: processor seconds, and of the memory in MB the highest, added and given back."""

    seconds: float = 0.0
    highest: float = 0.0
    added: float = 0.0
    freed: float = 0.0


def place_of(frame: FrameType | None) -> str:
    """module:function of the innermost frame of Blemish."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_code.co_qualname}"
        frame = frame.f_back
    return ELSEWHERE


def processor_times() -> dict[int, float]:
    """Seconds that every thread of this process has run, by its native number."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except (FileNotFoundError, ProcessLookupError):  # It has just ended, before or after the file was opened.
            continue
    return found


def resident() -> float:
    """MB (2^20 bytes)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch:
    """Looks until it is told to stop."""

    def __init__(self, every: float = 0.003) -> None:
        self.every = every
        self.places: dict[str, Place] = defaultdict(Place)
        self.total = 0.0
        self._ended = threading.Event()
        self._main = threading.main_thread()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        before, memory = processor_times(), resident()
        while not self._ended.wait(self.every):
            now = processor_times()
            frames = sys._current_frames()
            known = {thread.native_id: thread.ident for thread in threading.enumerate()}
            for native, seconds in now.items():
                spent = seconds - before.get(native, 0.0)
                if native == threading.get_native_id() or spent <= 0:
                    continue
                ident = known.get(native)
                name = NATIVE if ident is None else place_of(frames.get(ident))
                self.places[name].seconds += spent
                self.total += spent
            place = self.places[place_of(frames.get(self._main.ident or 0))]
            was, memory = memory, resident()
            place.highest = max(place.highest, memory)
            place.added += max(0.0, memory - was)
            place.freed += max(0.0, was - memory)
            before = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16, help="so many functions, those that take most")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what would stand behind `blemish`")
    options = parser.parse_args()
    if not options.command:
        parser.error("name a command, such as: inspect tile.blemish images")

    started = time.perf_counter()
    watch = Watch()
    watch.start()
    from blemish.cli.app import app

    try:
        app(options.command)
    except SystemExit as ended:
        # Verdicts are told by the exit status; only a command that could not do its work stops this one.
        if ended.code not in (None, 0, 1):
            raise
    finally:
        watch.stop()
    wall = time.perf_counter() - started

    places = watch.places.items()
    print(
        f"\n{datetime.date.today()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores {platform.machine()}: "
        f"{watch.total:.1f} s of processor time, {wall:.1f} s by the clock, "
        f"at most {max(place.highest for _, place in places):.0f} MB\n"
    )
    print("| function | processor, s | share | highest, MB | added, MB | given back, MB |")
    print("|---|---|---|---|---|---|")
    by_time = sorted(places, key=lambda one: -one[1].seconds)[: options.rows]
    by_memory = sorted(places, key=lambda one: -one[1].added - one[1].freed)[: options.rows // 2]
    for name, one in dict(by_time + by_memory).items():
        print(
            f"| `{name}` | {one.seconds:.2f} | {one.seconds / watch.total:.0%} | {one.highest:.0f} | {one.added:.0f} | "
            f"{one.freed:.0f} |"
        )


if __name__ == "__main__":
    main()
