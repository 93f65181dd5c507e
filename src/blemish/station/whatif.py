"""What other rates would have done to the images that a version has judged: no image is judged anew for it.

A verdict follows from the stored p-value and the two rates alone.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from blemish.decisions import Calibration, Verdict
from blemish.station.inspections import at_station, newest_review
from blemish.station.store import Store
from blemish.station.tables import Inspection, Review

SHOWN = 60
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Change:
    """An inspection that would get another verdict."""

    id: int
    was: Verdict
    becomes: Verdict


@dataclass(frozen=True)
class WhatIf:
    """What rates would have done.

    calibration : with these rates. images : that were looked at; before, after : how many of them had, and would have,
    which verdict. changes : from and to which verdict, and how many. changed : the newest that change, at most SHOWN.
    reviewed : label of the review that counts, verdict it would have, and how many.
    """

    calibration: Calibration
    images: int
    before: dict[Verdict, int]
    after: dict[Verdict, int]
    changes: dict[tuple[Verdict, Verdict], int]
    changed: tuple[Change, ...]
    reviewed: dict[tuple[str, Verdict], int]


def what_if(store: Store, station: str, model: str, version: int, calibration: Calibration, last: int) -> WhatIf:
    """Ask what the rates of a calibration would have done.

    Parameters
    ----------
    last : how many images to look at, the newest that this version judged at this station.

    Raises
    ------
    StationError
        database_unavailable.
    """
    statement = (
        select(Inspection.id, Inspection.verdict, Inspection.p_value, Review.label)
        .outerjoin(Review, newest_review())
        .where(
            at_station(station),
            Inspection.model == model,
            Inspection.version == version,
            Inspection.p_value.is_not(None),
        )
        .order_by(Inspection.id.desc())
        .limit(last)
    )
    before: Counter[Verdict] = Counter()
    after: Counter[Verdict] = Counter()
    changes: Counter[tuple[Verdict, Verdict]] = Counter()
    reviewed: Counter[tuple[str, Verdict]] = Counter()
    changed: list[Change] = []
    with store.read() as session:
        rows = session.execute(statement).all()
    for number, verdict, p_value, label in rows:
        assert p_value is not None
        was, becomes = Verdict(verdict), calibration.verdict_of(p_value)
        before[was] += 1
        after[becomes] += 1
        if label is not None:
            reviewed[label, becomes] += 1
        if was is not becomes:
            changes[was, becomes] += 1
            if len(changed) < SHOWN:
                changed.append(Change(number, was, becomes))
    return WhatIf(calibration, len(rows), before, after, changes, tuple(changed), reviewed)


def steps(rate: float, n: int) -> int:
    """How many of the n + 1 equally likely ranks a rate allows: the largest k with k/(n+1) <= rate."""
    k = round(rate * (n + 1))
    return k - 1 if k / (n + 1) > rate else k


def expected_rate(rate: float, n: int) -> float:
    """The rate of false alarms to expect, over calibrations: k/(n+1), the largest at most `rate`."""
    return steps(rate, n) / (n + 1)


def rate_range(rate: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Between which rates of false alarms the true one lies for so large a share of all calibrations on n images.

    Given its calibration images, a threshold is passed by good images at a rate that is a draw from a Beta(k, n+1-k)
    distribution, k the number of ranks allowed (an order statistic of n uniform values; Vovk 2012, section 4).
    """
    k = steps(rate, n)
    tail = (1 - confidence) / 2
    return _quantile(tail, k, n), _quantile(1 - tail, k, n)


def _quantile(share: float, k: int, n: int) -> float:
    """The x at which Beta(k, n+1-k) has so large a share below, which is the chance of k of n draws to be below x."""
    if k == 0:
        return 0.0
    # Fewer than k of them are: the terms of the binomial distribution from 0 to k - 1.
    few = np.arange(k)
    ways = np.concatenate([[0.0], np.cumsum(np.log((n + 1 - few[1:]) / few[1:]))])
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        terms = ways + few * math.log(middle) + (n - few) * math.log1p(-middle)
        if 1 - np.exp(terms).sum() < share:
            low = middle
        else:
            high = middle
    return high
