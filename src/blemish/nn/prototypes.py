"""The prototype bank of BoRAD (arXiv 2606.14129) and the heads that align two embeddings through it.

Symbols are those of the method's card, docs/methods/borad.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def far_from(online: Tensor, target: Tensor, channels: int) -> Tensor:
    """2 - 2 cosine over the axis `channels`, mean over all others."""
    return (2 - 2 * F.cosine_similarity(online, target, channels)).mean()


class Prototypes(nn.Module):
    """The bank P, locations x prototypes x channels; at each location they are orthonormal at first."""

    def __init__(self, locations: int, prototypes: int, channels: int) -> None:
        super().__init__()
        left, _, _ = torch.linalg.svd(torch.randn(locations, channels, prototypes), full_matrices=False)
        self.bank = nn.Parameter(left.transpose(1, 2).contiguous())

    def nearby(self, embedding: Tensor) -> Tensor:
        """q_s = sum over n of cos(f_s, p_sn) p_sn: an embedding B x C x h x w -> the same shape."""
        local = F.normalize(embedding.flatten(2), dim=1)
        weights = torch.einsum("bcs,snc->bsn", local, F.normalize(self.bank, dim=2))
        return torch.einsum("bsn,snc->bcs", weights, self.bank).reshape(embedding.shape)

    def differences(self, embedding: Tensor) -> Tensor:
        """d_n = g - c_n, g the mean over locations, c_n the unit mean of prototype n: B x prototypes x C."""
        centres = F.normalize(self.bank.mean(0), dim=1)
        return embedding.mean((2, 3))[:, None] - centres


class Alignment(nn.Module):
    """The prototypes and the heads M, H and G, which only training needs."""

    def __init__(self, locations: int, prototypes: int, channels: int) -> None:
        super().__init__()

        def convolution(inputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, channels, 1), nn.InstanceNorm2d(channels), nn.LeakyReLU()]

        def linear() -> list[nn.Module]:
            return [nn.Linear(channels, channels), nn.LayerNorm(channels, elementwise_affine=False), nn.LeakyReLU()]

        self.prototypes = Prototypes(locations, prototypes, channels)
        self.mix = nn.Sequential(*convolution(2 * channels))
        self.predict_local = nn.Sequential(*convolution(channels), *convolution(channels))
        # The published code gives InstanceNorm1d a matrix, of which it normalises each row over its features.
        self.predict_difference = nn.Sequential(*linear(), *linear())

    def mixed(self, embedding: Tensor) -> Tensor:
        """z = M([m; q]): B x C x h x w -> the same shape."""
        z: Tensor = self.mix(torch.cat([embedding, self.prototypes.nearby(embedding)], 1))
        return z

    def spatial(self, online: Tensor, target: Tensor) -> Tensor:
        """L_s: what is predicted from the online embedding is like the target's mixture, at each location."""
        with torch.no_grad():
            wanted = self.mixed(target)
        return far_from(self.predict_local(self.mixed(online)), wanted, channels=1)

    def relative(self, online: Tensor, target: Tensor) -> Tensor:
        """L_g: where the online embedding lies as seen from each prototype predicts where the target lies."""
        with torch.no_grad():
            wanted = self.prototypes.differences(target)
        return far_from(self.predict_difference(self.prototypes.differences(online)), wanted, channels=2)
