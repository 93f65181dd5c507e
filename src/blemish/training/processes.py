"""Processes that work together on this machine, and end together.

The caller supervises and does no part of the work, so that nothing that hangs can hang it: what the processes tell
arrives here, an error in one of them stops all, and so does whatever interrupts the caller. They also end when the
caller is killed: each reads from a pipe that then closes.
"""

from __future__ import annotations

import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import torch
import torch.distributed as dist

from blemish.errors import BlemishError, TrainingError

GRACE_SECONDS = 2.0
"""After a process failed: for the others, that fail because it does, to be told from the one that began."""

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"

START = "from blemish.training.processes import take_part; take_part()"


class Work(Protocol):
    """What each process does, a callable that can be pickled."""

    def __call__(self, rank: int, tell: Callable[[object], None]) -> None:
        """Do the part of process number `rank`; what is told, which can be pickled, arrives at the caller."""


@dataclass(frozen=True)
class _Failed:
    """Of a process: the user's error, or what else went wrong, in words and with its traceback."""

    rank: int
    error: BlemishError | None
    what: str = ""
    trace: str = ""

    @property
    def consequence(self) -> int:
        """The larger, the likelier that it is a consequence of another failure."""
        return 0 if self.error else 2 if self.trace else 1


@dataclass(frozen=True)
class _Ended:
    rank: int


def work_together(work: Work, processes: int, *, backend: str, threads: int, hear: Callable[[Any], None]) -> None:
    """Run `work` in so many processes that have a process group of torch in common, and wait for all of them.

    Parameters
    ----------
    backend : of the process group, "gloo" or "nccl". It meets in a file and speaks over the loopback interface alone.
    threads : of torch, of each process.
    hear : called in this process with what the processes tell.

    Raises
    ------
    BlemishError
        As one of the processes raised it.
    TrainingError
        If one of them ended in any other way.
    """
    content = io.BytesIO()
    try:
        pickle.dump(work, content)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TrainingError(
            f"the training cannot be given to other processes: {error}",
            todo="Define the method in a module that can be imported, or take one device",
        ) from error
    arriving: queue.Queue[object] = queue.Queue()
    started: list[subprocess.Popen[bytes]] = []
    listeners: list[threading.Thread] = []
    with tempfile.TemporaryDirectory(prefix="blemish-") as folder:
        try:
            for rank in range(processes):
                process = _start(threads)
                started.append(process)
                job = (sys.path, rank, processes, backend, threads, str(Path(folder) / "meeting"), content.getvalue())
                listeners.append(threading.Thread(target=_listen, args=(rank, process, job, arriving), daemon=True))
                listeners[-1].start()
            _supervise(arriving, started, hear)
        finally:
            _stop(started, listeners)


def _start(threads: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": LOOPBACK,
        "NCCL_SOCKET_IFNAME": LOOPBACK,
    }
    return subprocess.Popen(
        [sys.executable, "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        # Ctrl-C at a terminal reaches the caller alone, which stops them.
        start_new_session=True,
    )


def _listen(rank: int, process: subprocess.Popen[bytes], job: object, arriving: queue.Queue[object]) -> None:
    """Give a process its job and pass on what it tells, until it ends."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # Its end of the pipe stays open: it closes when this process ends, however it does.
        pickle.dump(job, process.stdin)
        process.stdin.flush()
        while True:
            arriving.put(pickle.load(process.stdout))
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        process.wait()
        arriving.put(_Ended(rank))


def _supervise(
    arriving: queue.Queue[object], started: list[subprocess.Popen[bytes]], hear: Callable[[Any], None]
) -> None:
    """Hear what arrives until all have ended; raise what failed first."""
    failures: list[_Failed] = []
    working = set(range(len(started)))
    until = float("inf")
    while working and time.monotonic() < until:
        try:
            message = arriving.get(timeout=min(3600.0, max(0.0, until - time.monotonic())))
        except queue.Empty:
            continue
        if isinstance(message, _Ended):
            working.discard(message.rank)
            status = started[message.rank].returncode
            if status and not any(failure.rank == message.rank for failure in failures):
                message = _Failed(message.rank, None, _in_words(status))
        if isinstance(message, _Failed):
            failures.append(message)
            until = min(until, time.monotonic() + GRACE_SECONDS)
        elif not isinstance(message, _Ended):
            hear(message)
    if failures:
        first = min(failures, key=lambda failure: failure.consequence)
        if first.error:
            raise first.error
        error = TrainingError(
            f"process {first.rank + 1} of {len(started)} {first.what}",
            todo="Give the same command again: it goes on from the state saved before",
        )
        if first.trace:
            error.add_note(first.trace)
        raise error


def _in_words(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed, as the system does where memory runs out"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _stop(started: list[subprocess.Popen[bytes]], listeners: list[threading.Thread]) -> None:
    """End those that still run, at once: what they save is replaced whole or not at all."""
    for process in started:
        if process.poll() is None:
            process.kill()
    for listener in listeners:
        listener.join()
    for process in started:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def take_part() -> None:
    """What a started process does: take its job from standard input, and tell over standard output."""
    telling = os.fdopen(os.dup(1), "wb")
    # What libraries print must not mix with it.
    os.dup2(2, 1)
    listening = sys.stdin.buffer
    sys.path[:], rank, processes, backend, threads, meeting, content = pickle.load(listening)
    threading.Thread(target=_end_with_the_caller, args=(listening,), daemon=True).start()
    lock = threading.Lock()

    def tell(message: object) -> None:
        with lock:
            pickle.dump(message, telling)
            telling.flush()

    # By it Lightning Fabric knows which of the processes this is, and which device is its own.
    os.environ["LOCAL_RANK"] = str(rank)
    try:
        torch.set_num_threads(threads)
        store = dist.FileStore(meeting, processes)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=processes)
        pickle.loads(content)(rank, tell)
        dist.barrier()
    except BlemishError as error:
        tell(_Failed(rank, error))
        os._exit(error.exit_status)
    except Exception as error:
        what = f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        tell(_Failed(rank, None, what, traceback.format_exc()))
        os._exit(1)
    # At once: threads of torch and of transports may outlive the interpreter that they need.
    os._exit(0)


def _end_with_the_caller(pipe: IO[bytes]) -> None:
    pipe.read()
    os._exit(1)
