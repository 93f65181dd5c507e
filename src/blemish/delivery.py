"""From a trained method to a model file that decides.

Export the graph, prove it, let it score the images that calibrate, calibrate on those scores, write the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blemish import __version__
from blemish.console import Listener, Silent
from blemish.decisions import Calibration, calibrate
from blemish.errors import TrainingError
from blemish.export import InspectionNetwork, pack_learned, proven_graph
from blemish.holdout import Plan
from blemish.images import read
from blemish.methods import Method
from blemish.modelfile import Manifest, Suspicion, TrainingRecord, write
from blemish.runtime import Detector
from blemish.runtime.graph import Graph
from blemish.training import Trainer, TrainingImages

PARITY_IMAGES = 6
FEW_CALIBRATION_IMAGES = 20


def deliver(
    target: Path,
    trained: Method,
    untrained: Callable[[], Method],
    plan: Plan,
    images: TrainingImages,
    record: TrainingRecord,
    trainer: Trainer,
    listener: Listener,
    suspicion: Suspicion | None = None,
) -> Detector:
    """Export a trained method, prove the graph, calibrate it and write the model file.

    Parameters
    ----------
    untrained : gives what the folds of a "cross" plan are fitted with.
    images : all that `plan` deals out.

    Raises
    ------
    ExportError : the graph does not agree with torch.
    TrainingError : the scores cannot be calibrated on.
    """
    contract = images.contract
    listener.say("Exporting the graph and checking it against torch.")
    listener.progress("exporting", 0.0)
    calibrating = images.only(plan.calibration)
    some = [read(path, contract) for path in calibrating.paths[:PARITY_IMAGES]]
    content, graph, parity = proven_graph(trained, images.preparation, contract, some)
    listener.progress("exporting", 1.0)

    if plan.kind == "split":
        scores, maxima = score_through_graph(graph, calibrating, listener)
    else:
        scores, maxima = score_by_folds(plan, images, untrained, trainer, listener)
    calibration = checked_calibration(scores, maxima, plan)
    listener.say(describe_calibration(calibration, asked=plan.false_alarm_rate is not None))
    if calibration.n < FEW_CALIBRATION_IMAGES:
        listener.warn(
            f"n = {calibration.n} is few: no false-alarm rate below {calibration.smallest_rate:.0%} can be kept. "
            "More images of good parts allow a smaller one."
        )

    manifest = Manifest(
        blemish=__version__,
        method=trained.name,
        method_title=trained.title,
        config=trained.config.model_dump(mode="json"),
        teacher=trained.teacher.info,
        images=contract,
        calibration=calibration,
        training=record,
        parity=parity,
        suspicion=suspicion,
    )
    write(target, manifest, content, pack_learned(trained.detector_state(), content))
    listener.say(f"Wrote {target} ({target.stat().st_size / 2**20:.1f} MB).")
    return Detector(graph, contract, calibration, manifest)


def score_through_graph(graph: Graph, images: TrainingImages, listener: Listener) -> tuple[list[float], list[float]]:
    """Scores and map maxima of held-out images, by the path that inspections take."""
    scores, maxima = [], []
    for done, path in enumerate(images.paths, 1):
        maps, score = graph.run(read(path, images.contract)[None])
        scores.append(float(score[0]))
        maxima.append(float(maps.max()))
        listener.progress("calibrating", done / len(images))
    return scores, maxima


def score_by_folds(
    plan: Plan, images: TrainingImages, untrained: Callable[[], Method], trainer: Trainer, listener: Listener
) -> tuple[list[float], list[float]]:
    """Scores and map maxima of every calibration image by a fit of the other folds (cross-conformal).

    The folds are scored by torch, which the graph of the final fit was proved to agree with.
    """
    results: dict[int, tuple[float, float]] = {}
    for fold, out in enumerate(plan.held_in_folds(trainer.seed), 1):
        method = untrained()
        inside = images.only([i for i in plan.train if i not in set(out)])
        Trainer(trainer.fabric.device.type, trainer.seed, None, Silent().progress).fit(method, inside)
        network = InspectionNetwork(method, images.preparation).eval()
        for i in out:
            pixels: NDArray[Any] = read(images.paths[i], images.contract)
            with torch.inference_mode():
                anomaly_map, score = network(torch.from_numpy(pixels)[None])
            results[i] = (float(score), float(anomaly_map.max()))
        listener.progress("calibrating", fold / plan.folds)
    return [s for s, _ in results.values()], [m for _, m in results.values()]


def checked_calibration(scores: list[float], maxima: list[float], plan: Plan) -> Calibration:
    """Calibrate, or say that the method learned nothing that could be calibrated."""
    if not np.isfinite([*scores, *maxima]).all():
        raise TrainingError(
            "the trained method gives held-out images no finite score", todo="Try another --seed or method"
        )
    return calibrate(scores, maxima, plan.kind, plan.false_alarm_rate, plan.review_rate)


def describe_calibration(calibration: Calibration, *, asked: bool) -> str:
    """One sentence on what the threshold rests on."""
    chosen = "as asked" if asked else "the default: 1 % or the smallest reachable, whichever is larger"
    return (
        f"Calibrated on n = {calibration.n}: false-alarm rate {calibration.false_alarm_rate:.2%} ({chosen}); the "
        f"smallest reachable is 1/({calibration.n}+1) = {calibration.smallest_rate:.2%}. REVIEW up to "
        f"{calibration.review_rate:.2%}."
    )
