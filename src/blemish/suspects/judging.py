"""Which images are suspects: the rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blemish.quality.outliers import robust_z

SUSPECT = 3.0
"""Robust standard deviations above the median, of the logarithm of the score, beyond which an image is a suspect. A
score is a maximum over places: if good images' logarithms have the tail of a Gumbel distribution, 1 good image in 44
lies beyond; of a normal one, 1 in 740. A list that a person looks through can bear that; bad images widen the
deviation, and a stricter limit would miss more of them."""

# Spread below which the scores are even: differences as small make no suspect, however rare they are.
_EVEN = 0.1


@dataclass(frozen=True)
class Ruling:
    """What the scores of all images say of each.

    z : robust standard deviations above the median. limit : the score above which an image is a suspect.
    """

    z: NDArray[np.float64]
    limit: float

    @property
    def suspect(self) -> NDArray[np.bool_]:
        """Bool, one for each image."""
        return self.z > SUSPECT


def judge(scores: Sequence[float]) -> Ruling:
    """Compare every score with all of them.

    The median and the median absolute deviation do not need to know how many of the images are bad; they hold while
    the good ones are well in the majority.

    Parameters
    ----------
    scores : how suspicious images are, all measured alike; positive, at least one.
    """
    logarithms = np.log(np.maximum(scores, 1e-12))
    z = robust_z(logarithms, _EVEN)
    median = np.median(logarithms)
    deviation = max(1.4826 * float(np.median(np.abs(logarithms - median))), _EVEN)
    return Ruling(z, float(np.exp(median + SUSPECT * deviation)))
