"""Three diagnostics of one trained model, on labelled test images that it has not seen.

Anomaly leakage. A student that imitates the teacher on defects too shows nothing. For each scale, the mean gap of
teacher and student over all defect pixels is divided by that over all pixels of good images; a pixel has the gap of
the cell it lies in. 1: everything leaks, a defect looks like a good part. The more the better.

Separability of the categories. A model of many products that confuses them rebuilds one as another. The embeddings of
good images, averaged over locations, are grouped by category: mean silhouette, and accuracy of a linear probe.

Separation of the scores. AUROC and d' of good and bad images, by the graph, which every inspection runs.

Figures are taken for each category, then averaged. What is undefined is None, with a reason. BoRAD (arXiv 2606.14129)
speaks of three such diagnostics; these definitions are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blemish import metrics
from blemish.assembly import restore
from blemish.console import Listener, Silent
from blemish.data import Dataset, Sample, true_mask
from blemish.decisions import Calibration
from blemish.diagnosis.measures import FOLDS, d_prime, pixels_of_cells, probe_accuracy, silhouette
from blemish.errors import DataError, ImageError
from blemish.images import read
from blemish.methods import Embeds, Method, TeacherStudent
from blemish.modelfile import Manifest, open_model_file
from blemish.nn.preparation import Preparation
from blemish.runtime.graph import Graph, OnnxRuntimeGraph

TOO_FEW = 2
"""Fewer scores than these have no variance."""


@dataclass
class Gap:
    """Sums of the gap of teacher and student over pixels, and the number of pixels."""

    defect: float = 0.0
    defect_pixels: int = 0
    normal: float = 0.0
    normal_pixels: int = 0

    @property
    def on_defects(self) -> float | None:
        """Mean over defect pixels."""
        return self.defect / self.defect_pixels if self.defect_pixels else None

    @property
    def on_normal(self) -> float | None:
        """Mean over pixels of good images."""
        return self.normal / self.normal_pixels if self.normal_pixels else None

    @property
    def ratio(self) -> float | None:
        """The first over the second."""
        return self.on_defects / self.on_normal if self.on_defects is not None and self.on_normal else None

    def to_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return {"defect_gap": self.on_defects, "normal_gap": self.on_normal, "ratio": self.ratio}


@dataclass
class CategoryDiagnosis:
    """What was found of one category.

    gaps : of each scale, and last of their sum; empty where the method has no student. Scores are the graph's.
    """

    gaps: list[Gap] = field(default_factory=list)
    normal_scores: list[float] = field(default_factory=list)
    anomalous_scores: list[float] = field(default_factory=list)
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)
    undefined: dict[str, str] = field(default_factory=dict)

    @property
    def gap_ratio(self) -> float | None:
        """Of the sum over scales."""
        return self.gaps[-1].ratio if self.gaps else None

    @property
    def auroc(self) -> float | None:
        """Of the scores."""
        if not (self.normal_scores and self.anomalous_scores):
            return None
        scores = self.normal_scores + self.anomalous_scores
        return metrics.auroc(scores, np.arange(len(scores)) >= len(self.normal_scores))

    @property
    def d_prime(self) -> float | None:
        """Of the scores."""
        if min(len(self.normal_scores), len(self.anomalous_scores)) < TOO_FEW:
            return None
        return d_prime(np.array(self.normal_scores), np.array(self.anomalous_scores))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "gap_ratio": self.gap_ratio,
            "scales": [gap.to_dict() for gap in self.gaps[:-1]],
            "auroc": self.auroc,
            "d_prime": self.d_prime,
            "n_normal": len(self.normal_scores),
            "n_anomalous": len(self.anomalous_scores),
            "undefined": self.undefined,
        }


@dataclass(frozen=True)
class Diagnosis:
    """What was found of a model.

    Attributes
    ----------
    path, manifest, calibration : of the model file.
    categories : by name.
    silhouette, probe : of the embeddings of good images by category; None where undefined.
    undefined : reasons for these two, and for means over categories that have no figure.
    left_out : images that were not looked at, each with why.
    """

    path: Path
    manifest: Manifest
    categories: Mapping[str, CategoryDiagnosis]
    silhouette: float | None
    probe: float | None
    undefined: Mapping[str, str]
    left_out: Mapping[str, str]

    @property
    def calibration(self) -> Calibration:
        """What verdicts rest on."""
        return self.manifest.calibration

    def mean(self, name: str) -> float | None:
        """Over the categories of "gap_ratio", "auroc" or "d_prime"; None unless each has one."""
        values = [getattr(one, name) for one in self.categories.values()]
        return None if any(value is None for value in values) else float(np.mean(values))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; every None has its reason in `undefined` at its level."""
        return {
            "model": self.path.name,
            "method": self.manifest.method,
            "teacher": self.manifest.teacher.name,
            "gap_ratio": self.mean("gap_ratio"),
            "silhouette": self.silhouette,
            "probe_accuracy": self.probe,
            "probe_chance": 1 / len(self.categories),
            "auroc": self.mean("auroc"),
            "d_prime": self.mean("d_prime"),
            "categories": {name: one.to_dict() for name, one in self.categories.items()},
            "undefined": dict(self.undefined),
            "left_out": dict(self.left_out),
        }


def diagnose(
    model: Path, datasets: Mapping[str, Dataset], weights: Path | None = None, listener: Listener | None = None
) -> Diagnosis:
    """Diagnose a model on the labelled test images of each category.

    Parameters
    ----------
    model : a model file.
    datasets : each category by name, as `blemish.data.open_categories` gives them.
    weights : a folder of teachers' weights; default BLEMISH_WEIGHTS.

    Raises
    ------
    ModelFileError, TeacherError : see `blemish.assembly.restore`.
    DataError : there is no labelled test image that the model has not seen, or a mask cannot be used.
    """
    listener = listener or Silent()
    file = open_model_file(model)
    method = restore(file, weights)
    seen = {image.sha256 for image in file.manifest.training.images}
    probe = _Probe(method, OnnxRuntimeGraph(file.graph), file.manifest)
    waiting = [(name, s) for name, dataset in datasets.items() for s in dataset.test if s.label is not None]
    left_out: dict[str, str] = {}
    for done, (name, sample) in enumerate(waiting, 1):
        try:
            if hashlib.sha256(sample.path.read_bytes()).hexdigest() in seen:
                left_out[str(sample.path)] = "training saw it"
            else:
                probe.look(name, sample)
        except (ImageError, OSError) as error:
            left_out[str(sample.path)] = str(error)
        listener.progress("diagnosing", done / len(waiting))
    if len(left_out) == len(waiting):
        raise DataError(
            "there is no labelled test image that this model has not seen",
            where=", ".join(datasets),
            todo="A diagnosis needs images known to be good or bad, as test/good and test/DEFECT folders",
        )
    return probe.diagnosis(model, left_out)


class _Probe:
    """Looks at images one by one."""

    def __init__(self, method: Method, graph: Graph, manifest: Manifest) -> None:
        self.method, self.graph, self.manifest = method, graph, manifest
        contract = manifest.images
        self.preparation = Preparation(contract.low, contract.high, method.Config(**manifest.config).image_size)
        self.categories: dict[str, CategoryDiagnosis] = {}

    @torch.inference_mode()
    def look(self, name: str, sample: Sample) -> None:
        """Add one image to its category."""
        pixels = read(sample.path, self.manifest.images)
        of = self.categories.setdefault(name, CategoryDiagnosis())
        bad = sample.label == "anomalous"
        _, score = self.graph.run(pixels[None])
        (of.anomalous_scores if bad else of.normal_scores).append(float(score[0]))
        prepared = self.preparation(torch.from_numpy(pixels)[None])
        if isinstance(self.method, Embeds) and not bad:
            of.embeddings.append(self.method.embedding(prepared).mean((2, 3))[0].numpy())
        mask = true_mask(sample, pixels.shape[:2]) if bad else np.ones(pixels.shape[:2], bool)
        if isinstance(self.method, TeacherStudent) and mask is not None:
            scales = [gap[0].double().numpy() for gap in self.method.gaps(prepared)]
            of.gaps = of.gaps or [Gap() for _ in range(len(scales) + 1)]
            sums = [(gap * pixels_of_cells(mask, gap.shape)).sum() for gap in scales]
            for total, value in zip(of.gaps, [*sums, sum(sums)], strict=True):
                if bad:
                    total.defect += float(value)
                    total.defect_pixels += int(mask.sum())
                else:
                    total.normal += float(value)
                    total.normal_pixels += int(mask.sum())

    def diagnosis(self, model: Path, left_out: Mapping[str, str]) -> Diagnosis:
        """All that was found."""
        for one in self.categories.values():
            one.undefined = dict(self._undefined(one))
        undefined = {
            name: "; ".join(
                f"{category}: {one.undefined[name]}"
                for category, one in self.categories.items()
                if name in one.undefined
            )
            for name in ("gap_ratio", "auroc", "d_prime")
            if any(name in one.undefined for one in self.categories.values())
        }
        width = probe = None
        if reason := self._inseparable():
            undefined["silhouette"] = undefined["probe_accuracy"] = reason
        else:
            of_each = [one.embeddings for one in self.categories.values()]
            points = np.concatenate([np.stack(ones) for ones in of_each]).astype(np.float64)
            groups = np.repeat(np.arange(len(of_each)), [len(ones) for ones in of_each])
            width, probe = silhouette(points, groups), probe_accuracy(points, groups)
        return Diagnosis(model, self.manifest, self.categories, width, probe, undefined, left_out)

    def _undefined(self, one: CategoryDiagnosis) -> Iterable[tuple[str, str]]:
        if not one.normal_scores:
            without = "no good test images"
        else:
            without = "" if one.anomalous_scores else "no bad test images"
        if not isinstance(self.method, TeacherStudent):
            yield "gap_ratio", f"{self.method.name} has no student that imitates a teacher"
        elif one.gap_ratio is None:
            yield (
                "gap_ratio",
                without or ("no defect has a mask" if not one.gaps[-1].defect_pixels else "no gap at all"),
            )
        if one.auroc is None:
            yield "auroc", without
        if one.d_prime is None:
            few = min(len(one.normal_scores), len(one.anomalous_scores)) < TOO_FEW
            yield "d_prime", without or ("one image has no variance" if few else "the scores do not vary")

    def _inseparable(self) -> str:
        """Why the embeddings of categories cannot be compared; "" if they can."""
        if not isinstance(self.method, Embeds):
            return f"{self.method.name} makes no embedding of the image"
        if len(self.categories) < 2:
            return "it needs several categories"
        few = [name for name, one in self.categories.items() if len(one.embeddings) < FOLDS]
        return f"{few[0]} has fewer than {FOLDS} good test images" if few else ""
