"""A line of made-up parts and a detector for them, for the tests of evaluation and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blemish.data import Dataset, Label, Sample
from blemish.decisions import calibrate
from blemish.images import ImageContract
from blemish.modelfile import LeftOutImage, Manifest, Parity, SeenImage, TeacherInfo, TrainingRecord
from blemish.runtime import Detector

Array = np.ndarray[Any, np.dtype[Any]]

GREY = 100


class DistanceFromGrey:
    """Stands for a graph: how far each pixel is from grey, and the farthest."""

    def run(self, images: Array) -> tuple[Array, Array]:
        maps = np.abs(images.astype(np.float32) - GREY).max(-1) / 100
        return maps, maps.max((1, 2))


def detector(manifest: Manifest | None = None) -> Detector:
    """NG above a score of 0.30, REVIEW above 0.20; 19 calibration images."""
    scores = [0.01 * i for i in range(12, 31)]
    calibration = calibrate(scores, scores, "split", 0.05, 0.55)
    assert calibration.threshold(0.05) == 0.30
    assert calibration.threshold(0.55) == 0.20
    return Detector(DistanceFromGrey(), ImageContract(), calibration, manifest)  # type: ignore[arg-type]


class Line:
    """A folder of parts that are grey but for one square, which is as many steps brighter as the part is bad."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.samples: list[Sample] = []

    def add(
        self,
        kind: str,
        brighter: int,
        label: Label | None = "anomalous",
        shape: tuple[int, int] = (40, 60),
        masked: bool = True,
    ) -> Sample:
        if kind == "good":
            label, masked = "normal", False
        number = len(self.samples)
        square = np.zeros(shape, bool)
        square[10:20, 5:15] = True
        pixels = np.full((*shape, 3), GREY, np.uint8)
        # No two files are equal, as no two pictures are.
        pixels[0, 0] -= number % 5
        pixels[0, 1] -= number // 5
        pixels[square] += brighter
        path = self.save(self.root / kind / f"{number:03}.png", pixels)
        mask = self.save(self.root / "masks" / f"{number:03}.png", square) if masked else None
        sample = Sample(path, label, "test", kind, mask)
        self.samples.append(sample)
        return sample

    def add_broken(self, kind: str, label: Label) -> Sample:
        path = self.root / kind / "broken.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x89PNG\r\n\x1a\nnot one")
        self.samples.append(Sample(path, label, "test", kind))
        return self.samples[-1]

    @property
    def dataset(self) -> Dataset:
        return Dataset("parts", self.root, "mvtec", tuple(self.samples), "Layout mvtec.")

    @staticmethod
    def save(path: Path, pixels: Array) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path


def manifest_of(seen: dict[str, str]) -> Manifest:
    calibration = detector().calibration
    teacher = TeacherInfo(
        name="tiny",
        backbone="tiny",
        channels=(4,),
        strides=(4,),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        licence="Apache-2.0",
        source="made here",
        sha256="0" * 64,
    )
    training = TrainingRecord(
        source="parts",
        layout="mvtec",
        note="Layout mvtec.",
        fingerprint="1" * 64,
        images=tuple(SeenImage(path=name, sha256=digest, role="calibration") for name, digest in seen.items()),
        left_out=(LeftOutImage(path="good/cut.png", reason="truncated", detail="the file ends early"),),
        seed=0,
        device="cpu",
        versions={},
    )
    return Manifest(
        blemish="0",
        method="distance",
        method_title="Distance from grey",
        config={},
        teacher=teacher,
        images=ImageContract(),
        calibration=calibration,
        training=training,
        parity=Parity(images=1, batch_sizes=(1,), largest_score_difference=0, largest_map_difference=0),
    )
