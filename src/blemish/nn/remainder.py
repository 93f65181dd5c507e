"""What a student leaves unexplained on the training images, and the distance of features that allows for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def local_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - cosine over channels at each location: B x C x h x w twice -> B x h x w, in [0, 2]."""
    return 1 - torch.cosine_similarity(teacher, student)


def allowing_distance(teacher: Tensor, student: Tensor, remainder: Tensor) -> Tensor:
    """The local distance of the two with one channel more, whose value in both is the square root of `remainder`.

    Parameters
    ----------
    teacher, student : B x C x h x w, in the same unit.
    remainder : one number, at least 0, in that unit's square: how long vectors are of which the direction is chance.

    Returns
    -------
    Tensor, B x h x w, in [0, 2]: `local_distance` for a remainder of 0; near 0 where both vectors are shorter than it.
    """
    along = (teacher * student).sum(1) + remainder
    lengths = (teacher.square().sum(1) + remainder) * (student.square().sum(1) + remainder)
    return 1 - along / lengths.clamp(min=1e-16).sqrt()


class Remainder(nn.Module):
    """Measures how much of the teacher's features a student does not rebuild on the training images.

    For each level, over all locations of all images added: the factor a that takes the student's features s nearest to
    the teacher's t, and r, the mean of |t - a s|^2 over locations. Until `learn` is called, a is 1 and r is 0.

    Parameters
    ----------
    levels : of the pyramid.
    """

    scale: Tensor
    energy: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(levels))
        self.register_buffer("energy", torch.zeros(levels))
        self._sums = torch.zeros(3, levels, dtype=torch.float64)
        self._locations = torch.zeros(levels, dtype=torch.float64)

    def add(self, pyramid: list[Tensor], rebuilt: list[Tensor]) -> None:
        """Add a batch: B x C x h x w for each level, of teacher and student."""
        for level, (t, s) in enumerate(zip(pyramid, rebuilt, strict=True)):
            t, s = t.float(), s.float()
            self._sums[:, level] += torch.stack([(t * t).sum(), (t * s).sum(), (s * s).sum()]).double().cpu()
            self._locations[level] += t[:, 0].numel()

    def learn(self) -> None:
        """Take a and r from what was added."""
        tt, ts, ss = self._sums
        self.scale.copy_(ts / ss.clamp(min=1e-12))
        self.energy.copy_((tt - ts.square() / ss.clamp(min=1e-12)).clamp(min=0) / self._locations)

    def forward(self, pyramid: list[Tensor], rebuilt: list[Tensor]) -> list[Tensor]:
        """The distance at each location of each level that allows for the remainder: B x h x w."""
        return [
            allowing_distance(t, self.scale[level] * s, self.energy[level])
            for level, (t, s) in enumerate(zip(pyramid, rebuilt, strict=True))
        ]


def distances(pyramid: list[Tensor], rebuilt: list[Tensor], remainder: Remainder | None) -> list[Tensor]:
    """The local distances of each level, B x h x w; with a remainder those that allow for it."""
    if remainder is None:
        return [local_distance(t, s) for t, s in zip(pyramid, rebuilt, strict=True)]
    allowing: list[Tensor] = remainder(pyramid, rebuilt)
    return allowing
