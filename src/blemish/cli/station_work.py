"""What the station starts as processes of their own: `blemish station-train` and `blemish station-score`.

Both are told what to do in JSON, a document a line, by standard input, and answer so by standard output. They end when
standard input closes: whoever started them is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any, TextIO

from blemish.errors import BlemishError

PROGRESS_SECONDS = 0.5


class Reporter:
    """A listener that writes each thing it is told as a line of JSON; progress only now and then."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self._stage = ""
        self._next = 0.0

    def say(self, text: str) -> None:
        """Pass a sentence on."""
        self.write(kind="say", text=text)

    def warn(self, text: str) -> None:
        """Pass a sentence on that must be read."""
        self.write(kind="warn", text=text)

    def progress(self, stage: str, done: float, note: str = "") -> None:
        """Pass on how far it is."""
        if stage != self._stage or time.monotonic() >= self._next:
            self._stage = stage
            self._next = time.monotonic() + PROGRESS_SECONDS
            self.write(kind="progress", stage=stage, done=done, note=note)

    def write(self, **fields: Any) -> None:
        """Write one document."""
        self.out.write(json.dumps(fields) + "\n")
        self.out.flush()


def train() -> None:
    """Train as `blemish train` does, with the arguments of `blemish.assembly.train` as one line of JSON."""
    reporter = Reporter(sys.stdout)
    # What libraries print is for the log.
    sys.stdout = sys.stderr
    wanted: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    from blemish import assembly

    try:
        assembly.train(**wanted, listener=reporter)
    except BlemishError as error:
        reporter.write(kind="failed", text=str(error))
        raise SystemExit(error.exit_status) from error


def score() -> None:
    """Score images by the model file that the first line names; each following line names an image."""
    from pathlib import Path

    from blemish.errors import ImageError
    from blemish.images import read
    from blemish.modelfile import open_model_file
    from blemish.runtime.graph import OnnxRuntimeGraph

    wanted: dict[str, Any] = json.loads(sys.stdin.readline())
    file = open_model_file(Path(wanted["model"]))
    graph = OnnxRuntimeGraph(file.graph, wanted["threads"])
    for line in sys.stdin:
        found: dict[str, Any] = {"score": None, "largest": None}
        try:
            maps, scores = graph.run(read(json.loads(line), file.manifest.images)[None])
            found = {"score": float(scores[0]), "largest": float(maps.max())}
        except ImageError:
            pass
        print(json.dumps(found), flush=True)


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
