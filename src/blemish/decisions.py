"""From a score to a verdict: split-conformal p-values on held-out normal images.

Let n normal images that training never saw have scores s_1 ... s_n. For a new image with score s,

    p = (1 + number of s_i >= s) / (n + 1).

If the new image is normal too (exchangeable with the n), then P(p <= a) <= a for every a: calling it NG when p <= a
raises a false alarm at a rate of at most a, whatever the method and however its scores are distributed. The smallest
p there is, and so the smallest rate that can be asked for, is 1 / (n + 1).
"""

from __future__ import annotations

import math
from enum import StrEnum
from fractions import Fraction
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blemish.errors import UsageError

DEFAULT_RATE = 0.01
DEFAULT_REVIEW_RATE = 0.05


class Verdict(StrEnum):
    """What Blemish says of an image."""

    OK = "OK"
    REVIEW = "REVIEW"
    NG = "NG"
    REJECTED = "REJECTED"


class Calibration(BaseModel):
    """What held-out normal images say about scores.

    kind : "split": the images were held out from training. "cross": every training image was scored by a fit of the
        other folds; the detector itself was fitted on all of them.
    scores : image scores of the calibration images, ascending. map_maxima : the largest value of each one's anomaly
        map, ascending.
    false_alarm_rate : NG when p is at most this. review_rate : REVIEW when p is above that and at most this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["split", "cross"]
    scores: tuple[float, ...] = Field(min_length=1)
    map_maxima: tuple[float, ...] = Field(min_length=1)
    false_alarm_rate: float = Field(gt=0, lt=1)
    review_rate: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Calibration:
        if list(self.scores) != sorted(self.scores) or list(self.map_maxima) != sorted(self.map_maxima):
            raise ValueError("calibration scores must ascend")
        if len(self.scores) != len(self.map_maxima):
            raise ValueError("one score and one map maximum per calibration image")
        if not all(map(math.isfinite, self.scores + self.map_maxima)):
            raise ValueError("calibration scores must be finite")
        if self.false_alarm_rate < self.smallest_rate:
            raise ValueError("the false-alarm rate is below the smallest reachable one")
        if self.review_rate < self.false_alarm_rate:
            raise ValueError("the review rate must not be below the false-alarm rate")
        return self

    @property
    def n(self) -> int:
        """Number of calibration images."""
        return len(self.scores)

    @property
    def smallest_rate(self) -> float:
        """The smallest false-alarm rate that n images allow."""
        return 1 / (self.n + 1)

    def p_value(self, score: float) -> float:
        """Share of normal images, this one counted, that score at least `score`; in [1/(n+1), 1].

        NaN gets the smallest p-value: a score that says nothing must not pass for a normal one.
        """
        return (1 + sum(normal >= score for normal in self.scores)) / (self.n + 1)

    def verdict(self, score: float) -> Verdict:
        """NG, REVIEW or OK by the p-value of `score`."""
        return self.verdict_of(self.p_value(score))

    def verdict_of(self, p_value: float) -> Verdict:
        """NG, REVIEW or OK by a p-value."""
        if p_value <= self.false_alarm_rate:
            return Verdict.NG
        return Verdict.REVIEW if p_value <= self.review_rate else Verdict.OK

    def threshold(self, rate: float) -> float:
        """The score above which p is at most `rate`.

        Where that is every score (rate 1), the smallest calibration score; where it is none, infinity.
        """
        return _conformal_quantile(self.scores, rate)

    @property
    def pixel_threshold(self) -> float:
        """Anomaly-map value above which a pixel is marked.

        The same conformal quantile, of the maps' maxima: on a normal image any pixel at all is marked at a rate of
        at most `false_alarm_rate`.
        """
        return _conformal_quantile(self.map_maxima, self.false_alarm_rate)

    def with_rates(self, false_alarm_rate: float | None = None, review_rate: float | None = None) -> Calibration:
        """The same scores with other rates.

        None keeps the rate there is; a review rate that the new false-alarm rate overtakes becomes the usual one.

        Raises
        ------
        UsageError
            A rate that n images do not reach, or a review rate below the false-alarm rate.
        """
        rate = self.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
        if review_rate is None and self.review_rate >= rate:
            review_rate = self.review_rate
        return calibrate(self.scores, self.map_maxima, self.kind, rate, review_rate)


def calibrate(
    scores: tuple[float, ...] | list[float],
    map_maxima: tuple[float, ...] | list[float],
    kind: Literal["split", "cross"],
    false_alarm_rate: float | None = None,
    review_rate: float | None = None,
) -> Calibration:
    """Calibrate on the scores of normal images.

    Parameters
    ----------
    scores, map_maxima : of the same images, any order.
    false_alarm_rate : None takes 1 % or the smallest reachable, whichever is larger.
    review_rate : None takes 5 % or twice the false-alarm rate, whichever is larger.

    Raises
    ------
    UsageError
        See `Calibration.with_rates`.
    """
    n = len(scores)
    rate = max(DEFAULT_RATE, 1 / (n + 1)) if false_alarm_rate is None else false_alarm_rate
    check_rate(rate, n)
    review = min(1.0, max(DEFAULT_REVIEW_RATE, 2 * rate)) if review_rate is None else review_rate
    if not rate <= review <= 1:
        raise UsageError(
            f"the review rate {review:g} must lie between the false-alarm rate {rate:g} and 1",
            todo="Choose another review rate",
        )
    return Calibration(
        kind=kind,
        scores=tuple(sorted(scores)),
        map_maxima=tuple(sorted(map_maxima)),
        false_alarm_rate=rate,
        review_rate=review,
    )


def images_needed(rate: float) -> int:
    """How many calibration images a false-alarm rate takes: the least n with 1/(n+1) <= rate."""
    n = max(1, math.ceil(1 / Fraction(rate)) - 1)
    # p-values are floats: the float 1/3 lies below a third, and yet two images reach it.
    return n - 1 if n > 1 and 1 / n <= rate else n


def check_rate(rate: float, n: int) -> None:
    """Raise UsageError unless `rate` is a rate that `n` calibration images reach."""
    if not 0 < rate < 1:
        raise UsageError(f"a false-alarm rate lies between 0 and 1, not at {rate:g}")
    if n < images_needed(rate):
        raise UsageError(
            f"a false-alarm rate of {rate:g} takes {images_needed(rate)} calibration images and there are {n}; "
            f"the smallest rate they allow is 1/({n}+1) = {1 / (n + 1):.4f}",
            todo="Add images of good parts, or ask for a larger rate",
        )


def _conformal_quantile(ascending: tuple[float, ...], rate: float) -> float:
    """The k-th largest value, k the largest with k/(n+1) <= rate: a fresh exchangeable value exceeds it at `rate`."""
    n = len(ascending)
    k = round(rate * (n + 1))
    if k / (n + 1) > rate:
        k -= 1
    return ascending[-min(k, n)] if k else math.inf
