"""The greedy choice of the feature vectors to keep: exactly the plain algorithm's, at the speed of matrix products.

Distances only fall while centres are added, so one that has not met the latest centres is an upper bound. A small set
of the farthest vectors meets every new centre at once; all others wait until one of them might be farther than that
set's farthest, and then meet the new centres together, in one matrix product.

Distances from products are rounded, so they are kept as bounds. Where these leave more than one vector that may be the
farthest, those few are measured in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from blemish.errors import TrainingError
from blemish.nn.rows import RowsInFile

SET = 2048
"""Vectors that meet every new centre at once: few enough for a processor's second cache."""
ROWS = 2048
"""Vectors that meet the new centres in one product: so few that their distances stay in the cache."""
MEASURED_AT_ONCE = 2**22
"""Differences held while vectors are measured."""


def greedy_coreset(
    vectors: Tensor | RowsInFile,
    count: int,
    generator: torch.Generator,
    *,
    projected: int = 128,
    starts: int = 10,
    progress: Callable[[float], None] = lambda _: None,
) -> Tensor:
    """Indices of `count` vectors that cover all: greedy k-centre on a random projection (PatchCore, algorithm 1).

    Each step takes the vector farthest from those taken; of several equally far, the first. As in the published code's
    approximate variant, distances begin as the mean distance to `starts` random vectors.

    Parameters
    ----------
    vectors : N x D, in memory or in a file. generator : of the projection and the starts. projected : dimensions after
        projection.

    Returns
    -------
    Tensor, `count` indices, int64, in the order taken.

    Raises
    ------
    TrainingError
        A vector is not finite.
    """
    n, dimensions = vectors.shape
    if count >= n:
        return torch.arange(n)
    projection = None
    if projected < dimensions:
        projection = torch.randn(dimensions, projected, generator=generator) / projected**0.5
    compared = _projected(vectors, projection)
    first = torch.randperm(n, generator=generator)[: min(starts, n)].to(compared.device)
    farthest = Farthest(compared, first, count)
    taken: list[int] = []
    while len(taken) < count:
        index = farthest.take()
        if index is None:
            left = torch.ones(n, dtype=torch.bool)
            left[taken] = False
            taken += left.nonzero()[: count - len(taken), 0].tolist()
        else:
            taken.append(index)
            if len(taken) % 64 == 1:
                progress((len(taken) - 1) / count)
    progress(1.0)
    return torch.tensor(taken)


def _projected(vectors: Tensor | RowsInFile, projection: Tensor | None) -> Tensor:
    """The vectors that are compared, N x D, float32, in memory."""
    if projection is None and isinstance(vectors, Tensor):
        return vectors.float()
    parts = vectors.split(ROWS) if isinstance(vectors, RowsInFile) else torch.split(vectors, ROWS)
    width = vectors.shape[1] if projection is None else projection.shape[1]
    compared = torch.empty(len(vectors), width, device=vectors.device)
    for part, into in zip(parts, torch.split(compared, ROWS), strict=True):
        into.copy_(part if projection is None else part @ projection.to(part))
    return compared


class Farthest:
    """Takes, again and again, the vector farthest from those taken; of several equally far, the first.

    Distances are squared: the farthest stays the farthest.

    Parameters
    ----------
    vectors : N x D, float32. first : indices of the starts. count : how many will be taken.

    Raises
    ------
    TrainingError
        A vector is not finite.
    """

    def __init__(self, vectors: Tensor, first: Tensor, count: int) -> None:
        self.vectors = vectors
        self.mean = vectors.mean(0)
        self.norms = torch.cat([self._centred(rows).square().sum(1) for rows in self._parts()])
        if not self.norms.isfinite().all():
            raise TrainingError("a feature vector is not finite", where="coreset", todo="Check the teacher's weights")
        # |a|^2 + |b|^2 - 2 a.b in float32 errs by less than this times |a|^2 + |b|^2: one unit in the last place for
        # each of D products in each of the three terms, where those of a.b weigh half but count twice, and with ample
        # room for the few other roundings.
        self.error = (2 * vectors.shape[1] + 64) * 2.0**-24
        self.first = first
        self.lower, self.upper = self._from_starts()
        # What was measured, and how many of the taken vectors that has met; -1 is not even the starts.
        self.measured = torch.zeros_like(self.norms, dtype=torch.float64)
        self.met = torch.full((len(vectors),), -1, device=vectors.device)
        self.taken = first.new_empty(count)
        self.count = self.all_met = 0
        self._choose_set()

    def take(self) -> int | None:
        """The index of the farthest; None once each that is left equals one that was taken."""
        if self.set_lower.max() <= self.outside:
            self._all_meet()
            self._choose_set()
        candidates = (self.set_upper >= self.set_lower.max()).nonzero()[:, 0]
        place = candidates[0]
        if len(candidates) > 1:
            distances = self._measure(self.set[candidates])
            farthest = distances.max()
            if farthest == 0:
                return None
            place = candidates[(distances == farthest).nonzero()[0, 0]]
        index = int(self.set[place])
        self.taken[self.count] = index
        self.count += 1
        lower = self._lower(self._products(self.set_centred, self._all_taken()[-1:])[:, 0], self.set_norms)
        torch.minimum(self.set_lower, lower, out=self.set_lower)
        torch.minimum(self.set_upper, self._upper(lower, self.set_norms), out=self.set_upper)
        self.set_lower[place] = self.set_upper[place] = -torch.inf
        return index

    def _all_taken(self) -> Tensor:
        return self.taken[: self.count]

    def _parts(self) -> Iterator[slice]:
        return (slice(start, start + ROWS) for start in range(0, len(self.vectors), ROWS))

    def _centred(self, which: Tensor | slice) -> Tensor:
        """Some vectors around the mean of all: they are shorter, and products err with the length of vectors.

        Not kept: for a part that fits into the cache, subtracting again costs less than the memory of all.
        """
        return self.vectors[which] - self.mean

    def _from_starts(self) -> tuple[Tensor, Tensor]:
        starts = self._centred(self.first).T
        squared = torch.cat(
            [torch.addmm(self.norms[self.first], self._centred(rows), starts, alpha=-2.0) for rows in self._parts()]
        )
        squared = squared.add_(self.norms[:, None]).double()
        slack = self.error * (self.norms[:, None] + self.norms[self.first])
        lower, upper = ((squared + each).clamp_(min=0).sqrt_().mean(1).square() for each in (-slack, slack))
        return (lower * (1 - self.error)).float(), (upper * (1 + self.error)).float()

    def _products(self, centred: Tensor, centres: Tensor) -> Tensor:
        """|c|^2 - 2 v.c for vectors v and centres c; `_lower` of it is a lower bound of the squared distance."""
        return torch.addmm(self.norms[centres] * (1 - self.error), centred, self._centred(centres).T, alpha=-2.0)

    def _lower(self, products: Tensor, norms: Tensor) -> Tensor:
        return products.add_(norms, alpha=1 - self.error)

    def _upper(self, lower: Tensor, norms: Tensor) -> Tensor:
        """Upper bounds of the squared distances of vectors to their nearest centres, from the lower ones.

        They lie at most twice the error apart. The square of a centre is at most 2 |a|^2 + 2 d^2 if it lies at a
        distance of d from a vector a, so that upper = lower + 2 error (3 |a|^2 + 2 upper); here with some room.
        """
        return torch.add(lower, norms, alpha=8 * self.error).mul_(1 + 5 * self.error)

    def _all_meet(self) -> None:
        """Bring the bounds of all vectors up to date."""
        new, self.all_met = self._all_taken()[self.all_met :], self.count
        for rows in self._parts() if len(new) else ():
            lower = self._lower(self._products(self._centred(rows), new).amin(1), self.norms[rows])
            torch.minimum(self.lower[rows], lower, out=self.lower[rows])
            torch.minimum(self.upper[rows], self._upper(lower, self.norms[rows]), out=self.upper[rows])
        self.lower[new] = self.upper[new] = -torch.inf

    def _choose_set(self) -> None:
        """Take those that may be farthest into the set; `outside` is the upper bound of all others."""
        may_be = int((self.upper >= self.lower.max()).sum())
        size = min(max(SET, may_be), len(self.upper))
        farthest = self.upper.topk(min(size + 1, len(self.upper)))
        self.outside = farthest.values[size] if size < len(self.upper) else self.upper.new_tensor(-torch.inf)
        self.set = farthest.indices[:size].sort().values
        self.set_lower, self.set_upper = self.lower[self.set], self.upper[self.set]
        self.set_centred, self.set_norms = self._centred(self.set), self.norms[self.set]

    def _measure(self, which: Tensor) -> Tensor:
        """The squared distances of some vectors, float64, from the differences."""
        met = self.met[which]
        for before in set(met.tolist()):
            new = self._all_taken()[max(before, 0) :]
            at_once = max(1, MEASURED_AT_ONCE // (self.vectors.shape[1] * max(len(new), len(self.first))))
            for some in torch.split(which[met == before], at_once):
                if before < 0:
                    to_starts = self._squared(some[:, None], self.first)
                    self.measured[some] = to_starts.sqrt().mean(1).square()
                if len(new):
                    self.measured[some] = torch.minimum(self.measured[some], self._to_nearest(some, new))
        self.met[which] = self.count
        return self.measured[which]

    def _to_nearest(self, some: Tensor, centres: Tensor) -> Tensor:
        """The squared distances of some vectors to the nearest of some centres: of those that may be nearest."""
        norms = self.norms[some]
        lower = self._lower(self._products(self._centred(some), centres), norms[:, None])
        row, column = (lower <= self._upper(lower.amin(1), norms)[:, None]).nonzero(as_tuple=True)
        squared = self._squared(some[row], centres[column])
        return torch.full_like(norms, torch.inf, dtype=torch.float64).scatter_reduce_(0, row, squared, "amin")

    def _squared(self, some: Tensor, others: Tensor) -> Tensor:
        return (self.vectors[some].double() - self.vectors[others].double()).square_().sum(-1)
