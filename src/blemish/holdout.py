"""Which training images calibrate: held out from training, or all of them by cross-conformal folds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from blemish.data import Sample
from blemish.decisions import calibrate, images_needed
from blemish.errors import DataError, UsageError

HOLD_OUT = 0.2
LARGEST_HOLD_OUT = 0.5
FEW_IMAGES = 100
FOLDS = 5


@dataclass(frozen=True)
class Plan:
    """Which images train and which calibrate, by index, and for which rates.

    kind : "split": no image does both. "cross": all train, and the calibrating ones are dealt into `folds` folds, each
        scored by a fit of everything but itself.
    false_alarm_rate, review_rate : as they were asked for; None is the default (`decisions.calibrate`).
    """

    kind: Literal["split", "cross"]
    train: tuple[int, ...]
    calibration: tuple[int, ...]
    folds: int = 0
    false_alarm_rate: float | None = None
    review_rate: float | None = None

    def __str__(self) -> str:
        if self.kind == "cross":
            return (
                f"{len(self.train)} images train; {len(self.calibration)} of them calibrate by {self.folds} "
                "cross-conformal folds."
            )
        return f"{len(self.train)} images train, {len(self.calibration)} are held out to calibrate."

    def held_in_folds(self, seed: int) -> list[list[int]]:
        """The calibrating images of each fold of a "cross" plan."""
        order = np.random.default_rng(seed).permutation(len(self.calibration))
        return [sorted(self.calibration[i] for i in order[fold :: self.folds]) for fold in range(self.folds)]


def plan_hold_out(
    samples: Sequence[Sample],
    *,
    cheap_to_fit: bool,
    seed: int,
    false_alarm_rate: float | None = None,
    review_rate: float | None = None,
    hold_out: float | None = None,
    folds: int | None = None,
) -> Plan:
    """Decide which of `samples` calibrate; docs/decisions.md explains the choice.

    Parameters
    ----------
    cheap_to_fit : whether the method can be fitted once per fold.
    false_alarm_rate, review_rate, hold_out, folds : what the user asked for; None is the default.

    Raises
    ------
    UsageError
        If the rate asked for takes more calibration images than may be held out, the review rate is below it or no
        share, or options contradict each other.
    DataError
        If no image is known not to be bad.
    """
    plan = _deal(samples, cheap_to_fit, seed, false_alarm_rate, hold_out, folds)
    # Before any work is done: these rates are refused as they would be at its end.
    nothing = [0.0] * len(plan.calibration)
    calibrate(nothing, nothing, plan.kind, false_alarm_rate, review_rate)
    return replace(plan, false_alarm_rate=false_alarm_rate, review_rate=review_rate)


def _deal(
    samples: Sequence[Sample],
    cheap_to_fit: bool,
    seed: int,
    false_alarm_rate: float | None,
    hold_out: float | None,
    folds: int | None,
) -> Plan:
    """Which images do what, whatever is asked of them."""
    n = len(samples)
    if hold_out is not None and not 0 < hold_out < 1:
        raise UsageError(f"it lies between 0 and 1, not at {hold_out:g}", where="--hold-out")
    needed = 1 if false_alarm_rate is None else _needed(false_alarm_rate)
    # Images known to be bad may train (contaminated data), but only normal ones say what normal scores are.
    normal = [i for i, sample in enumerate(samples) if sample.label != "anomalous"]
    if not normal:
        raise DataError("no image that is not known to be bad is left to calibrate on")
    if folds is not None:
        _check_folds(folds, len(normal), cheap_to_fit=cheap_to_fit, hold_out=hold_out)
    if folds is not None or (cheap_to_fit and hold_out is None and n < FEW_IMAGES):
        if false_alarm_rate is not None and needed > len(normal):
            by_folds = folds is not None or needed < FEW_IMAGES
            raise _too_few(false_alarm_rate, len(normal), needed if by_folds else math.ceil(needed / LARGEST_HOLD_OUT))
        return Plan("cross", tuple(range(n)), tuple(normal), min(folds or FOLDS, len(normal)))
    share = HOLD_OUT if hold_out is None else hold_out
    count = math.ceil(share * len(normal))
    if hold_out is None:
        count = max(count, min(needed, math.floor(LARGEST_HOLD_OUT * len(normal))))
    count = min(count, n - 1)
    if false_alarm_rate is not None and needed > count:
        raise _too_few(false_alarm_rate, count, math.ceil(needed / (hold_out or LARGEST_HOLD_OUT)))
    order = np.random.default_rng(seed).permutation(len(normal))
    held = {normal[i] for i in order[:count]}
    return Plan("split", tuple(i for i in range(n) if i not in held), tuple(sorted(held)))


def _check_folds(folds: int, images: int, *, cheap_to_fit: bool, hold_out: float | None) -> None:
    if not cheap_to_fit:
        raise UsageError(
            "this method would train anew for every fold, for as long as the first time",
            where="--folds",
            todo="Leave it out: images are held out instead. Methods that are cheap to fit take folds",
        )
    if hold_out is not None:
        raise UsageError("folds hold nothing out", where="--folds", todo="Give --folds or --hold-out, not both")
    if not 2 <= folds <= images:
        raise UsageError(f"it lies between 2 and the number of good images, {images}, not at {folds}", where="--folds")


def _needed(rate: float) -> int:
    if not 0 < rate < 1:
        raise UsageError(f"it lies between 0 and 1, not at {rate:g}", where="--false-alarm-rate")
    return images_needed(rate)


def _too_few(rate: float, available: int, in_all: int) -> UsageError:
    return UsageError(
        f"a false-alarm rate of {rate:g} takes {images_needed(rate)} calibration images and {available} can be held "
        f"out; the smallest rate they allow is 1/({available}+1) = {1 / (available + 1):.4f}",
        where="--false-alarm-rate",
        todo=f"Ask for that or more, or give at least {in_all} images of good parts",
    )
