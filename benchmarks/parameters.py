"""Parameters of every method that trains by gradient steps, for several teachers, as a Markdown table.

    python benchmarks/parameters.py

No weights are needed: the networks are drawn at random. Only what training changes is counted.
"""

from __future__ import annotations

import timm
import torch

from blemish.errors import UsageError
from blemish.methods import GradientStage, Method, list_methods
from blemish.modelfile import TeacherInfo
from blemish.teachers import FeaturePyramid

TEACHERS = ("tf_efficientnet_lite0", "resnet18", "resnet50", "wide_resnet50_2", "vgg16")


def untrained_teacher(name: str, strides: tuple[int, ...]) -> FeaturePyramid:
    described = timm.create_model(name, features_only=True).feature_info.reduction()
    network = timm.create_model(name, features_only=True, out_indices=[described.index(stride) for stride in strides])
    info = TeacherInfo(
        name=name,
        backbone=name,
        channels=tuple(network.feature_info.channels()),
        strides=strides,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        licence="",
        source="",
        sha256="",
    )
    return FeaturePyramid(network, info)


def learned(method: type[Method], teacher: str) -> str:
    config = method.Config()
    try:
        made = method(config, untrained_teacher(teacher, config.strides))
    except UsageError:
        return "-"
    trained = {
        id(parameter): parameter.numel()
        for stage in made.stages(64)
        if isinstance(stage, GradientStage)
        for parameter in stage.module.parameters()
    }
    return f"{sum(trained.values()) / 1e6:.2f}" if trained else ""


def main() -> None:
    torch.set_num_threads(1)
    print("| millions | " + " | ".join(TEACHERS) + " |\n|---" + "|---" * len(TEACHERS) + "|")
    frozen = (untrained_teacher(name, (4, 8, 16)) for name in TEACHERS)
    sizes = (sum(parameter.numel() for parameter in teacher.parameters()) / 1e6 for teacher in frozen)
    print("| teacher, to stride 16 | " + " | ".join(f"{size:.2f}" for size in sizes) + " |")
    for name, method in list_methods().items():
        row = [learned(method, teacher) for teacher in TEACHERS]
        if any(row):
            print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
