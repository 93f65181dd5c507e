"""Work that must not get into the way of inspecting: processes of their own, at the lowest priority, on few threads.

What they are told comes by standard input, and each ends when that closes. So none of them outlives the station,
however the station ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

LOWEST_PRIORITY: Final = 19
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def start(verb: str, threads: int, *arguments: str, folder: Path | None = None) -> subprocess.Popen[str]:
    """Start `blemish VERB` with pipes to standard input and from standard output, which standard error goes into too.

    Raises
    ------
    OSError
        The machine can start no process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "blemish", verb, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=os.environ | dict.fromkeys(THREADS, str(threads)) | {"PYTHONUNBUFFERED": "1"},
        encoding="utf-8",
        errors="replace",
        # A Ctrl-C at the station's terminal is for the station to deal with.
        start_new_session=True,
        creationflags=getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0),
    )
    if sys.platform != "win32":
        # The interpreter has not got far enough to have threads, and those it makes will inherit it.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
    return process


def end(process: subprocess.Popen[str], seconds: float = 5) -> None:
    """End a process: asked first, then made to."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
