"""How strange each place of an image is among the same places of other images, some of which may be bad themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Strangeness(nn.Module):
    """The Mahalanobis distance at each place from the images of other domains, over what is usual there.

    The images are dealt into domains. Of each place there is one Gaussian per domain, of the features there of all
    images but the domain's own, so that no image is judged by itself. Covariances are shrunk as in PaDiM, by the
    channels' variances over all places. Distances are divided by their median over the images at that place: 1 is
    usual, wherever it is. Some bad images change neither the Gaussians nor the medians much, since hardly two are bad
    at the same place in the same way.

    Gather in this order: `add` images, `learn`, then `judge` images, `settle`; and again with other images, if wanted.

    Parameters
    ----------
    channels, grids : of each level of the pyramid.
    domains : at least two.
    places : the side of the grid of places; the finest level's, if that is coarser.
    features : channels taken into account, drawn by chance with torch's global generator; all, if there are fewer.
    """

    def __init__(
        self, channels: Sequence[int], grids: Sequence[int], domains: int, places: int = 16, features: int = 128
    ) -> None:
        super().__init__()
        self.grid = min(max(grids), places)
        chosen = torch.sort(torch.randperm(sum(channels))[:features]).values
        shape = (domains, self.grid**2, len(chosen))
        self.register_buffer("chosen", chosen)
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("whitening", torch.zeros(*shape, len(chosen)))
        self.register_buffer("usual", torch.ones(self.grid, self.grid))
        self._count = torch.zeros(domains)
        self._distances: list[Tensor] = []

    chosen: Tensor
    mean: Tensor
    whitening: Tensor
    usual: Tensor

    @torch.no_grad()
    def embed(self, pyramid: list[Tensor]) -> Tensor:
        """B x C x h x w per level -> the chosen channels by place, hw x C x B; coarser levels repeated."""
        side = self.grid
        levels = [
            F.adaptive_avg_pool2d(level.float(), side)
            if level.shape[2] > side
            else F.interpolate(level.float(), (side, side), mode="nearest")
            for level in pyramid
        ]
        return torch.cat(levels, 1)[:, self.chosen].flatten(2).permute(2, 1, 0)

    def add(self, pyramid: list[Tensor], domain: Tensor) -> None:
        """Add images and the domain of each: until `learn`, `mean` and `whitening` hold each domain's sums."""
        if not self._count.any():
            self.mean.zero_()
            self.whitening.zero_()
        values = self.embed(pyramid)
        for k in range(len(self.mean)):
            own = values[..., domain == k]
            self._count[k] += own.shape[2]
            self.mean[k] += own.sum(2)
            self.whitening[k].baddbmm_(own, own.transpose(1, 2))

    @torch.no_grad()
    def learn(self) -> None:
        """Make the Gaussians from the sums."""
        count, total, squares = self._count.sum(), self.mean.sum(0), self.whitening.sum(0)
        everywhere = total.sum(0) / (count * len(total))
        variance = squares.diagonal(dim1=1, dim2=2).sum(0) / (count * len(total)) - everywhere.square()
        shrinkage = torch.diag(variance.clamp(min=1e-12))
        identity = torch.eye(len(self.chosen), device=total.device)
        for k in range(len(self.mean)):
            others = count - self._count[k]
            mean = (total - self.mean[k]) / others
            covariance = (squares - self.whitening[k]) / others - mean[:, :, None] * mean[:, None, :] + shrinkage
            self.mean[k] = mean
            self.whitening[k] = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), identity, upper=False)
        self._count.zero_()

    @torch.no_grad()
    def distance(self, pyramid: list[Tensor], domain: Tensor) -> Tensor:
        """B x C x h x w per level and B domains -> B x g x g Mahalanobis distances to the other domains' images."""
        values = self.embed(pyramid)
        found = values.new_zeros(values.shape[2], len(self.usual) ** 2)
        for k in range(len(self.mean)):
            own = domain == k
            white = self.whitening[k] @ (values[..., own] - self.mean[k][..., None])
            found[own] = white.square().sum(1).sqrt().T
        return found.view(-1, self.grid, self.grid)

    def judge(self, pyramid: list[Tensor], domain: Tensor) -> None:
        """Keep the distances of these images for `settle`."""
        self._distances.append(self.distance(pyramid, domain))

    def settle(self) -> Tensor:
        """Learn what is usual at each place; return the strangeness of all images judged, N x g x g."""
        distances = torch.cat(self._distances)
        self._distances.clear()
        self.usual.copy_(distances.median(0).values.clamp(min=1e-6))
        return distances / self.usual

    def forward(self, pyramid: list[Tensor], domain: Tensor) -> Tensor:
        """B x C x h x w per level and B domains -> strangeness, B x g x g, positive, usually 1."""
        return self.distance(pyramid, domain) / self.usual
