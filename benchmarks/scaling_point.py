"""One measured point of scaling.py, in a process of its own: one job, one line of JSON.

    python benchmarks/scaling_point.py JOB

JOB is JSON: "work" ("train" or "inspect"), "method", "source", "model", "settings". Imports do not count. Seconds are
processor time, which other work on the same cores hardly changes; with one thread they are those of the clock on a
quiet machine.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rivals import peak_memory


def train(job: dict[str, Any]) -> float:
    """Seconds from the images to the model file."""
    from blemish import assembly

    started = time.process_time()
    assembly.train(job["source"], job["model"], method=job["method"], settings=job["settings"], device="cpu")
    return time.process_time() - started


def inspect(job: dict[str, Any]) -> float:
    """Seconds for all images of the source, one after the other, once the model file is open."""
    from blemish.data import list_images
    from blemish.runtime import load

    detector = load(job["model"], threads=job["threads"])
    images = list_images(Path(job["source"])).images
    started = time.process_time()
    for inspection in detector.stream(images):
        assert inspection.score is not None
    return time.process_time() - started


def main() -> None:
    job = json.loads(sys.argv[1])
    seconds = {"train": train, "inspect": inspect}[job["work"]](job)
    print(json.dumps({"seconds": seconds, "peak": peak_memory()}))


if __name__ == "__main__":
    main()
