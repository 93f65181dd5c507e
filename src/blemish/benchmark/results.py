"""Results: one row for each category, method and seed; a file that a killed run leaves whole."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from blemish.errors import DataError

FILE = "results.jsonl"


class Row(BaseModel):
    """What one method did on one category.

    task, setting, category : what was trained on, what else tells the training, what was judged.
    layout : of what was judged.
    method, seed, config, preset, teacher, image_size : how it was trained.
    values : metrics, each in [0, 1] or None; undefined : for each None the reason; error_bounds : how far at most the
        exact value is from one that was counted in bins.
    protocol, protocol_fingerprint, data_fingerprint : what the figures hold for; the latter covers the names of all
        training and test images.
    n_train, n_calibration : images that trained, and that calibrated; n_train_and_calibration did both (folds).
    contaminated_by : how many anomalous ones were among them all.
    n_normal, n_anomalous : images that metrics rest on.
    false_alarm_rate : what the threshold is calibrated for.
    fps : inspections a second, one at a time, decoding included; fps_graph : graph alone; fps_graph_batched : graph
        alone, eight images at a time; fps_openvino : graph alone, one image at a time, on OpenVINO, where that is
        installed. The others are ONNX Runtime's. Of this run, on this machine.
    machine, versions, date : where and when.
    train_seconds : None where a model file that was kept made training unnecessary.
    error : why there are no figures; "" if there are.
    job : fingerprint of everything that decides the figures; training : of what decides the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    setting: str
    category: str
    layout: str = ""
    method: str
    seed: int
    protocol: str
    protocol_fingerprint: str
    data_fingerprint: str
    job: str
    training: str
    teacher: str
    preset: str
    config: dict[str, Any] = {}
    image_size: int = 0
    values: dict[str, float | None] = {}
    undefined: dict[str, str] = {}
    error_bounds: dict[str, float] = {}
    n_train: int = 0
    n_calibration: int = 0
    n_train_and_calibration: int = 0
    contaminated_by: int = 0
    n_normal: int = 0
    n_anomalous: int = 0
    false_alarm_rate: float | None = None
    fps: float | None = None
    fps_graph: float | None = None
    fps_graph_batched: float | None = None
    fps_openvino: float | None = None
    train_seconds: float | None = None
    model_bytes: int | None = None
    machine: str = ""
    versions: dict[str, str] = {}
    date: str = ""
    error: str = ""

    @property
    def name(self) -> str:
        """Of the files of its training."""
        return training_name(self.task, self.method, self.seed, self.training)


def training_name(task: str, method: str, seed: int, fingerprint: str) -> str:
    """Of a training's files; the same training has the same, whatever protocol asks for it."""
    return file_name(f"{task}-{method}-seed{seed}-{fingerprint[:12]}")


def file_name(text: str) -> str:
    """Only characters that every file system takes."""
    return re.sub(r"[^\w.-]+", "_", text)


class ResultsFile:
    """The rows of a benchmark, on disk as one JSON document a line.

    A line is written whole or not at all: what a kill cut short is not read, and is overwritten.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def rows(self) -> list[Row]:
        """All rows, in the order in which they were computed.

        Raises
        ------
        DataError : a line that is not the last is not a row.
        """
        return self._read()[0]

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows, and be sure that they are on disk."""
        _, end = self._read()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "xb") as file:
            file.truncate(end)
            file.seek(end)
            file.write("".join(row.model_dump_json() + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> tuple[list[Row], int]:
        """Rows, and the number of bytes they take."""
        if not self.path.exists():
            return [], 0
        rows, end = [], 0
        lines = self.path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("cut short")
                rows.append(Row.model_validate_json(line))
            except (ValidationError, ValueError) as error:
                if number == len(lines):
                    break
                raise DataError(
                    "this line is not a row of results", where=f"{self.path}, line {number}", todo="Take another --out"
                ) from error
            end += len(line)
        return rows, end


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """All rows as a table: one line each, metrics in columns of their own."""
    listed = [row.model_dump(mode="json") for row in rows]
    metrics = sorted({name for row in listed for name in row["values"]})
    structured = ("config", "versions", "undefined", "error_bounds")
    plain = [name for name in Row.model_fields if name not in ("values", *structured)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*plain[:5], *metrics, *plain[5:], *structured])
        writer.writeheader()
        for row in listed:
            line = {name: row[name] for name in plain} | {name: row["values"].get(name) for name in metrics}
            line |= {name: json.dumps(row[name]) for name in structured}
            writer.writerow(line)
