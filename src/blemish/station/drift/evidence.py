"""A test for drift that may be looked at after every image, for years, with a stated chance of a false alarm.

**Ranks.** Let n reference values come from the production that is as it should be, and let values x1, x2, ... follow.
If all of them are exchangeable (their order says nothing), then of the n + 1 gaps between the reference values the
next x falls into gap k with the chance

    (1 + how many x before it fell into k) / (n + t),        x being the t-th,

which is Pólya's urn. So p = (weight of the gaps above + U x weight of its own gap) / (n + t), U uniform in [0, 1], is
exactly uniform and independent of all p before it, whatever the distribution of the values, and however few reference
values there are. (These are the p-values of conformal test martingales, Vovk et al., "Retrain or not retrain",
COPA 2021, with the values between two reference values not told apart, so that n + 1 counts are all that is kept.)

**Bets.** A bet on small p multiplies its stake by 1 + c (1/2 - p), which is 1 on average if p is uniform. The whole is
a capital that starts at 1, of which some is staked at every image on each of a few c. The stakes of all images add up
to no more than 1, and those of later images shrink slowly, about as 1 / (t log(t)^2): a change after a year is found
nearly as soon as one after a day. The capital is a martingale, so by Ville's inequality the chance that it ever reaches
1/a is at most a. Tilts below 1 are left out on purpose: a bet wins in the long run only if the mean p is off 1/2 by
more than about c/24, so that small differences that last, as of a few odd parts, are no drift.

**Bad parts.** Real production has some. Two capitals look at scores: one at the ranks of those that are not NG, which
are an urn of their own and do not depend on how many NG there are; and one that bets on NG and does not win as long as,
whatever came before, the chance that the next part is bad is at most `tolerated_ng`. A long run of bad parts is drift.
How often a good part is NG is bounded from above with confidence 1 - d: the rate of a threshold at the k-th largest of
n scores is distributed as Beta(k, n + 1 - k).

**All together.** The alarm is raised where one of the m capitals reaches m/a. Each does so with a chance of at most
a/m, so any of them with at most a, however they hang together; a + d is the stated rate. (The mean of the capitals
would not do: what one has seen can tell of the next value of another, and then it is no martingale of them all.)

The urn is standard theory; stakes, tilts and the choice of what is looked at are ours.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final

TILTS: Final = (-2.0, -1.0, 1.0, 2.0)
"""c of the bets on p."""


def reserve(t: int) -> float:
    """The share of the capital that is not staked after t images: 1 at first, and never quite 0."""
    return 1 / math.log2(2 + t)


@dataclass
class Capital:
    """What bets have made of 1. staked : by kind of bet."""

    staked: list[float]
    t: int = 0

    @property
    def value(self) -> float:
        """All of it."""
        return reserve(self.t) + sum(self.staked)

    def bet(self, factors: Sequence[float]) -> None:
        """Stake a little more on each kind of bet, then multiply each by what it brings."""
        stake = (reserve(self.t) - reserve(self.t + 1)) / len(factors)
        self.staked = [(amount + stake) * factor for amount, factor in zip(self.staked, factors, strict=True)]
        self.t += 1

    def bet_on_rank(self, p: float) -> None:
        """Bet that p-values are too small, or too large."""
        self.bet([1 + tilt * (0.5 - p) for tilt in TILTS])

    def bet_on_excess(self, happened: bool, rate: float) -> None:
        """Bet that something happens more often than at `rate`, which must be above 0 and below 1."""
        self.bet([1 + stake * (happened - rate) for stake in (1.0, 0.5 / rate)])


class Urn:
    """The p-values of values among reference values.

    Parameters
    ----------
    reference : any order. open : how many gaps count, from below; None: all.
    counts : of the gaps that count, as an earlier urn on the same reference left them.
    """

    def __init__(self, reference: Sequence[float], open: int | None = None, counts: list[int] | None = None) -> None:
        # Equal values are ordered by lot: once for all for those of the reference, hence the fixed seed.
        lots = Random(0)
        self._reference = sorted((value, lots.random()) for value in reference)
        gaps = len(reference) + 1 if open is None else open
        self.counts = [0] * gaps if counts is None else counts

    def p_value(self, value: float, random: Random) -> float | None:
        """The p-value of a value, small for large ones; it counts from now on. None: it lies above the open gaps."""
        gap = bisect_left(self._reference, (value, random.random()))
        if gap >= len(self.counts):
            return None
        weights = [1 + count for count in self.counts]
        p = (sum(weights[gap + 1 :]) + random.random() * weights[gap]) / sum(weights)
        self.counts[gap] += 1
        return p


@lru_cache
def rate_bound(n: int, k: int, chance: float) -> float:
    """What the NG rate of good parts exceeds with a chance of at most `chance`.

    NG are scores above the k-th largest of n, so the rate is distributed as Beta(k, n + 1 - k).
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        # P(rate > x) = P(Binomial(n, x) < k)
        if _binomial_below(n, middle, k) > chance:
            low = middle
        else:
            high = middle
    return high


def _binomial_below(n: int, x: float, k: int) -> float:
    """P(Binomial(n, x) < k)."""
    if x <= 0:
        return 1.0 if k > 0 else 0.0
    if x >= 1:
        return 1.0 if k > n else 0.0
    logs = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(x) + (n - i) * math.log1p(-x)
        for i in range(k)
    )
    return math.fsum(map(math.exp, logs))
