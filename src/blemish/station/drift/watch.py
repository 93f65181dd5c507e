"""Everything that is tested of one version: what has been seen of it, and how surprising that is."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from pydantic import BaseModel, ConfigDict

from blemish.decisions import Calibration
from blemish.station.drift.evidence import TILTS, Capital, Urn, rate_bound
from blemish.station.drift.pictures import STATISTICS
from blemish.station.settings import Drift

SCORE, NG_SHARE = "score", "ng_share"
COMPONENTS: Final = (SCORE, NG_SHARE, *STATISTICS)
BOUND_SHARE: Final = 0.1
"""Share of the false-alarm rate that is spent on the bound for the NG rate of good parts."""


class Watched(BaseModel):
    """What is kept between two images. counts : of the gaps of each urn. staked, t : of each component's capital."""

    model_config = ConfigDict(extra="forbid")

    images: int = 0
    counts: dict[str, list[int]] = {}
    staked: dict[str, list[float]] = {}
    t: dict[str, int] = {}


class Watch:
    """The test of one version at one station.

    Parameters
    ----------
    reference : the values of the first images by what is measured, as far as they have been gathered; it grows here.
    watched : changes here.
    """

    def __init__(
        self,
        calibration: Calibration,
        rules: Drift,
        reference: dict[str, list[float]],
        watched: Watched,
        random: Random,
    ) -> None:
        self.calibration = calibration
        self.rules = rules
        self.reference = reference
        self.watched = watched
        self.gathered = False
        self._random = random

    def see(self, score: float, statistics: Mapping[str, float]) -> None:
        """Take an image into account."""
        self.watched.images += 1
        self._see_score(score)
        for name in STATISTICS:
            self._see_value(name, statistics[name])

    @property
    def value(self) -> float:
        """Of the test: the largest capital, 1 at first."""
        return max(self.values().values())

    def values(self) -> dict[str, float]:
        """The capital of each component."""
        return {name: self._capital(name).value for name in COMPONENTS}

    @property
    def limit(self) -> float:
        """The value at which an alarm is raised."""
        return len(COMPONENTS) / ((1 - BOUND_SHARE) * self.rules.false_alarm_rate)

    @property
    def alarming(self) -> bool:
        """Whether the limit is reached."""
        return self.value >= self.limit

    @property
    def cause(self) -> str:
        """The component that has the largest capital."""
        values = self.values()
        return max(values, key=values.__getitem__)

    @property
    def ng_bound(self) -> float:
        """The share of NG beyond which it is bet on."""
        calibration = self.calibration
        chance = BOUND_SHARE * self.rules.false_alarm_rate
        good = rate_bound(calibration.n, self._ng_gaps, chance)
        # Where so few images calibrate that nearly every good part might be NG, there is nothing to bet on.
        return min(self.rules.tolerated_ng + (1 - self.rules.tolerated_ng) * good, 0.999)

    @property
    def _ng_gaps(self) -> int:
        """How many of the gaps between calibration scores, from above, are NG."""
        limit = self.calibration.threshold(self.calibration.false_alarm_rate)
        return sum(score >= limit for score in self.calibration.scores)

    def _see_score(self, score: float) -> None:
        calibration = self.calibration
        ng = score > calibration.threshold(calibration.false_alarm_rate)
        capital = self._capital(NG_SHARE)
        capital.bet_on_excess(ng, self.ng_bound)
        self._keep(NG_SHARE, capital)
        if calibration.kind == "cross":
            # Those scores are not of this very detector, so its own first ones have to do.
            if not ng:
                self._see_value(SCORE, score)
            return
        self._bet_on(SCORE, score, Urn(calibration.scores, calibration.n + 1 - self._ng_gaps, self._counts(SCORE)))

    def _see_value(self, name: str, value: float) -> None:
        gathered = self.reference.setdefault(name, [])
        if len(gathered) < self.rules.reference and name not in self.watched.counts:
            gathered.append(value)
            self.gathered = True
            return
        self._bet_on(name, value, Urn(gathered, None, self._counts(name)))

    def _bet_on(self, name: str, value: float, urn: Urn) -> None:
        p = urn.p_value(value, self._random)
        self.watched.counts[name] = urn.counts
        if p is not None:
            capital = self._capital(name)
            capital.bet_on_rank(p)
            self._keep(name, capital)

    def _counts(self, name: str) -> list[int] | None:
        return self.watched.counts.get(name)

    def _capital(self, name: str) -> Capital:
        kinds = 2 if name == NG_SHARE else len(TILTS)
        return Capital(self.watched.staked.get(name, [0.0] * kinds), self.watched.t.get(name, 0))

    def _keep(self, name: str, capital: Capital) -> None:
        # A stake that has become nothing is kept as 0: numbers below this only slow the computation down.
        self.watched.staked[name] = [amount if amount > 1e-300 else 0.0 for amount in capital.staked]
        self.watched.t[name] = capital.t
