"""Where in a picture the product is, learned from pictures whose border shows what lies behind it (CPR)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from blemish.nn.clusters import discriminant, k_means, squared_distances

VECTORS = 50_000
BORDER = 3 / 80
MIDDLE = 1 / 5
LEAST_DIFFERENCE = 0.5
OUTERMOST = 0.01
MOST_OF_A_KIND = 15_000


class PlacedVectors:
    """Feature vectors of random places, about 50,000 from all images together, and where they were.

    Parameters
    ----------
    images : how many will be added.
    """

    def __init__(self, images: int) -> None:
        self._of_image = max(1, VECTORS // images)
        self._vectors: list[Tensor] = []
        self._border: list[Tensor] = []
        self._middle: list[Tensor] = []

    def add(self, features: Tensor) -> None:
        """Take B x D x h x w features, at places drawn by torch's global generator."""
        height, width = features.shape[2:]
        rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
        border, middle = torch.zeros(height, width, dtype=torch.bool), torch.ones(height, width, dtype=torch.bool)
        for place, size in ((rows, height), (columns, width)):
            edge = max(1, int(BORDER * size))
            border |= (place < edge) | (place >= size - edge)
            middle &= (place >= size / 2 - MIDDLE * size) & (place < size / 2 + MIDDLE * size)
        for image in features.flatten(2).transpose(1, 2).cpu():
            chosen = torch.randperm(len(image))[: self._of_image]
            self._vectors.append(image[chosen])
            self._border.append(border.flatten()[chosen])
            self._middle.append(middle.flatten()[chosen])

    def all(self) -> Tensor:
        """The vectors, N x D."""
        return torch.cat(self._vectors)

    def where(self) -> tuple[Tensor, Tensor]:
        """Bool N each: whether a vector is of the border of its image (3/80 of a side), of the middle (2/5)."""
        return torch.cat(self._border), torch.cat(self._middle)


class Foreground(nn.Module):
    """How much each place looks like product and not like what lies behind it, in [0, 1]; 1 before it has learned.

    Parameters
    ----------
    dimension : of the feature vectors.
    """

    weights: Tensor
    offset: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(dimension))
        self.register_buffer("offset", torch.ones(()))

    def learn(
        self, vectors: PlacedVectors, generator: torch.Generator, surface: Literal["auto", "object", "texture"]
    ) -> None:
        """Learn what tells product and background apart, unless the surface is a texture, which is product everywhere.

        Two clusters; that of most border vectors is the background. A linear discriminant of the border's vectors
        in it and the middle's outside it, scaled so that its outermost hundredths are 0 and 1 (published code). Ours:
        "auto" takes an image for an object where the background's share of the border exceeds that of the middle by
        half.
        """
        every, (border, middle) = vectors.all(), vectors.where()
        # What is looked for is the likeliest start: ten random ones miss the best clusters of some products.
        guess = torch.stack([every[border].mean(0), every[middle].mean(0)])
        cluster = squared_distances(every, k_means(every, 2, generator, guess=guess)).argmin(1)
        background = cluster == cluster[border].mode().values
        difference = float(background[border].float().mean() - background[middle].float().mean())
        behind, product = every[border & background], every[middle & ~background]
        few = min(len(behind), len(product), MOST_OF_A_KIND)
        if surface == "texture" or few == 0 or (surface == "auto" and difference < LEAST_DIFFERENCE):
            return
        some = [kind[torch.randperm(len(kind), generator=generator)[:few]] for kind in (behind, product)]
        weights, offset = discriminant(*some)
        ordered = (every @ weights + offset).sort().values
        low, high = ordered[int(OUTERMOST * len(every))], ordered[-1 - int(OUTERMOST * len(every))]
        scale = (high - low).clamp(min=1e-12)
        self.weights.copy_(weights / scale)
        self.offset.copy_((offset - low) / scale)

    @property
    def of_object(self) -> bool:
        """Whether product and background were told apart."""
        return bool(self.weights.any())

    def forward(self, features: Tensor) -> Tensor:
        """B x D x h x w -> B x h x w in [0, 1]."""
        by_place = features.permute(0, 2, 3, 1) @ self.weights + self.offset
        return by_place.clamp(0, 1)
