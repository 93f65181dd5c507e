"""Model files with a graph written by hand, and stations on them, for the tests of the station."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blemish.modelfile import write
from blemish.pictures import png
from blemish.station.settings import Settings
from parts import GREY, manifest_of

Array = np.ndarray[Any, np.dtype[Any]]

PATIENCE = 60.0
"""Seconds until a process that does not do what it should is given up; tests wait for events, never for a time."""


def graph(gain: float = 1.0, work: int = 0) -> bytes:
    """The graph that `parts.DistanceFromGrey` stands for: how far a pixel is from grey, and the farthest.

    Parameters
    ----------
    gain : factor of the map, so that two files can differ.
    work : products of large matrices on the way, which change nothing but take their time.
    """
    side = 640
    constants = {
        "grey": np.float32(GREY),
        "scale": np.float32(100 / gain),
        "nothing": np.float32(0),
        "channel": np.array([3], np.int64),
        "plane": np.array([1, 2], np.int64),
        "all": np.array([0, 1, 2], np.int64),
        "matrix": np.full((side, side), 1 / side, np.float32) if work else np.zeros((1, 1), np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("Sub", ["pixels", "grey"], ["difference"]),
        node("Abs", ["difference"], ["distance"]),
        node("ReduceMax", ["distance", "channel"], ["farthest"], keepdims=0),
        node("Div", ["farthest", "scale"], ["own_map"]),
        node("ReduceMax", ["own_map", "all"], ["top"], keepdims=0),
        node("Mul", ["top", "nothing"], ["zero"]),
        node("Add", ["matrix", "zero"], ["product0"]),
        *(node("MatMul", [f"product{i}", "matrix"], [f"product{i + 1}"]) for i in range(work)),
        node("ReduceMax", [f"product{work}"], ["largest"], keepdims=0),
        node("Mul", ["largest", "nothing"], ["still_zero"]),
        node("Add", ["own_map", "still_zero"], ["anomaly_map"]),
        node("ReduceMax", ["anomaly_map", "plane"], ["score"], keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "distance",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["batch", "height", "width"]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make_model(path: Path, gain: float = 1.0, work: int = 0) -> Path:
    """Write a model file: NG above a score of 0.30, REVIEW above 0.20, as `parts.detector` has it."""
    write(path, manifest_of({}), graph(gain, work), b"")
    return path


def part(brighter: int, number: int = 0, shape: tuple[int, int] = (40, 60)) -> bytes:
    """A PNG of a grey part with a square that is so much brighter; its score is a hundredth of that."""
    pixels = np.full((*shape, 3), GREY, np.uint8)
    pixels[0, 0] -= number % 10
    pixels[0, 1] -= number // 10
    pixels[10:20, 5:15] += brighter
    return png(pixels)


OK, REVIEW, NG = 5, 25, 60
"""How much brighter the square of a part is that gets this verdict."""


def settings(root: Path, **changes: Any) -> Settings:
    """Settings for a station below `root`, which gets a folder of models; background tasks are hours away."""
    (root / "models").mkdir(exist_ok=True)
    fields = {
        "models": root / "models",
        "data": root / "data",
        "name": "line-1",
        "threads": 1,
        "scan_seconds": 3600,
        "notice_seconds": 0,
    }
    return Settings(**{**fields, **changes})


def until(happened: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for something to happen, and return what it gave."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if value := happened():
            return value
        time.sleep(0.02)
    raise AssertionError(f"it never happened: {what}")


class StationProcess:
    """`blemish station` as a process of its own, on a free port."""

    def __init__(self, root: Path, *options: object, models: Path | None = None) -> None:
        folder = models or root / "models"
        command = ["station", "--models", folder, "--data", root / "data", "--port", 0, "--name", "line-1"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self.log = root / "log.txt"
        self._file = self.log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "blemish", *map(str, (*command, "--threads", 1, *options))],
            stdout=subprocess.DEVNULL,
            stderr=self._file,
            env=environment,
        )
        self.url = until(self._announced, "the station says where it listens")
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        until(lambda: self.ready() == 200, "the station is ready")

    def _announced(self) -> str | None:
        said = self.log.read_text()
        assert self.process.poll() is None, f"the station ended: {said}"
        lines = [line for line in said.splitlines() if line.startswith("Blemish station on ")]
        return lines[0].split()[-1] if lines else None

    def ready(self) -> int:
        """The status that /v2/health/ready answers; 0 if nobody does."""
        try:
            return httpx.get(f"{self.url}/v2/health/ready").status_code
        except httpx.TransportError:
            return 0

    def inspect(self, image: bytes) -> httpx.Response:
        """Have one image inspected."""
        return self.client.post("/api/v1/inspect", content=image)

    def metric(self, name: str) -> float:
        """A metric without labels, or the sum over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))

    def inspections(self) -> list[dict[str, Any]]:
        """All inspections."""
        page = self.client.get("/api/v1/inspections", params={"limit": 500}).json()
        assert page["next"] is None
        found: list[dict[str, Any]] = page["inspections"]
        return found

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end; the exit status."""
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it, however it is."""
        self.client.close()
        if self.process.poll() is None:
            self.kill()
        self._file.close()


def document(response: httpx.Response) -> Any:
    """The JSON of an answer; NaN and Infinity are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(response.text, parse_constant=refuse)
