"""A diagnosis as a page."""

from __future__ import annotations

import os

from blemish.diagnosis.diagnosing import Diagnosis
from blemish.evaluation.charts import Group, score_histogram
from blemish.pages import Tile, counted, write_page

NOTHING = "–"


def figure(value: float | None) -> str:
    """A figure to four places; a dash where it is undefined."""
    return NOTHING if value is None else f"{value:.4f}"


def write_diagnosis(path: str | os.PathLike[str], diagnosis: Diagnosis) -> None:
    """Write the page of a diagnosis.

    Parameters
    ----------
    path : the HTML file to write; folders are made, an existing file is replaced.

    Raises
    ------
    BlemishError : the file cannot be written.
    """
    manifest, calibration = diagnosis.manifest, diagnosis.calibration
    several = len(diagnosis.categories) > 1
    limits = calibration.threshold(calibration.review_rate), calibration.threshold(calibration.false_alarm_rate)
    write_page(
        path,
        "blemish.diagnosis",
        "diagnosis.html.jinja",
        title=f"{diagnosis.path.name}: diagnosis",
        subject=diagnosis.path.name,
        kind="Diagnosis",
        place="",
        headline=f"{manifest.method_title}.",
        tiles=_tiles(diagnosis),
        meta=f"method {manifest.method}, teacher {manifest.teacher.name}, "
        + counted(len(diagnosis.categories), "category").replace("categorys", "categories"),
        leakage=[
            (
                name,
                figure(one.gap_ratio),
                [(figure(g.on_defects), figure(g.on_normal), figure(g.ratio)) for g in one.gaps],
            )
            for name, one in diagnosis.categories.items()
            if one.gaps
        ],
        strides=manifest.teacher.strides,
        mean_ratio=figure(diagnosis.mean("gap_ratio")) if several else "",
        scores=[
            (name, len(one.normal_scores), len(one.anomalous_scores), figure(one.auroc), figure(one.d_prime))
            for name, one in diagnosis.categories.items()
        ],
        mean_scores=(figure(diagnosis.mean("auroc")), figure(diagnosis.mean("d_prime"))) if several else (),
        histograms=[
            (
                name,
                score_histogram(
                    [Group("good", "normal", one.normal_scores), Group("bad", "anomalous", one.anomalous_scores)],
                    *limits,
                ),
            )
            for name, one in diagnosis.categories.items()
        ],
        undefined=diagnosis.undefined,
        left_out=diagnosis.left_out,
    )


def _tiles(diagnosis: Diagnosis) -> list[Tile]:
    why = diagnosis.undefined
    chance = f"chance {1 / len(diagnosis.categories):.3g}"
    return [
        Tile(figure(diagnosis.mean("gap_ratio")), "gap ratio", why.get("gap_ratio", "1: everything leaks")),
        Tile(figure(diagnosis.silhouette), "silhouette", why.get("silhouette", "of good images by category")),
        Tile(figure(diagnosis.probe), "linear probe", why.get("probe_accuracy", f"accuracy by category; {chance}")),
        Tile(figure(diagnosis.mean("auroc")), "I-AUROC", why.get("auroc", "")),
        Tile(figure(diagnosis.mean("d_prime")), "d'", why.get("d_prime", "of the scores")),
    ]
