"""What allowing for the student's remainder changes: the same trained weights, judged with more or less of it.

    blemish train mvtec/grid --method rd --out grid.blemish
    python benchmarks/remainder.py grid.blemish mvtec/grid --factors 0,0.25,1,4

A model file of `rd` or a method like it. The map is made with the measured energy times each factor; 0 is the plain
cosine of the paper. Everything is judged by torch on the test images, maps at the size of the image, AUPRO up to a
false-positive rate of 0.3. `--test N` judges at most N good and N bad images, evenly spaced.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from blemish.assembly import restore
from blemish.data import open_dataset, true_mask
from blemish.images import read
from blemish.methods.rd import ReverseDistillation
from blemish.metrics import PixelRanking, auroc
from blemish.modelfile import open_model_file
from blemish.nn.preparation import Preparation
from blemish.nn.remainder import Remainder
from blemish.nn.resampling import resize
from blemish.training import TrainingImages
from contamination import reduced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model file whose map allows for a remainder")
    parser.add_argument("source", help="the dataset that it was trained on")
    parser.add_argument("--factors", default="0,0.25,1,4", help="of the measured energy; 0: the plain cosine")
    parser.add_argument("--test", type=int, help="so many good and so many bad test images")
    options = parser.parse_args()
    factors = [float(factor) for factor in options.factors.split(",")]

    file = open_model_file(options.model)
    method = restore(file)
    if not isinstance(method, ReverseDistillation) or method.remainder is None:
        raise SystemExit(f"{options.model}: its map allows for no remainder; name a model of rd, rd++, cdd or borad")
    measured: Remainder = method.remainder
    energy = measured.energy.clone()

    dataset = reduced(open_dataset(options.source, "auto"), 1, options.test, None)
    normal = [sample for sample in dataset.test if sample.label == "normal"]
    bad = [sample for sample in dataset.test if sample.label == "anomalous"]
    kept = np.linspace(0, len(bad) - 1, min(len(bad), options.test or len(bad))).round().astype(int)
    samples = [*normal, *(bad[i] for i in kept)]
    contract = file.manifest.images
    images = TrainingImages(
        [sample.path for sample in samples], contract, Preparation(0, 255, file.manifest.config["image_size"])
    )
    maps: dict[float, list[np.ndarray[Any, Any]]] = {factor: [] for factor in factors}
    scores: dict[float, list[float]] = {factor: [] for factor in factors}
    masks = []
    with torch.inference_mode():
        for i, sample in enumerate(samples):
            height, width = read(sample.path, contract).shape[:2]
            mask = true_mask(sample, (height, width))
            masks.append(np.zeros((height, width), bool) if mask is None else mask)
            image = images.load(i)[None]
            for factor in factors:
                measured.energy.copy_(factor * energy)
                found = method(image)
                maps[factor].append(resize(found.map[0], torch.ones(height), torch.ones(width)).numpy())
                scores[factor].append(float(found.score[0]))

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    print(f"{datetime.date.today()}, {os.cpu_count()} cores {platform.machine()}, {packages}, {len(samples)} images\n")
    channels = method.teacher.info.channels
    print("scale", [round(value, 3) for value in measured.scale.tolist()])
    print("energy per channel", [round(e / c, 3) for e, c in zip(energy.tolist(), channels, strict=True)], "\n")
    print("| energy times | I-AUROC | P-AUROC | AUPRO |\n|---|---|---|---|")
    anomalous = np.array([sample.label == "anomalous" for sample in samples])
    for factor in factors:
        pixels = PixelRanking(maps[factor], masks)
        values = (auroc(np.array(scores[factor]), anomalous), pixels.auroc(), pixels.aupro())
        print("| " + " | ".join([f"{factor:g}", *(f"{100 * value:.1f}" for value in values)]) + " |", flush=True)


if __name__ == "__main__":
    main()
