"""A conditional normalising flow on vectors: an invertible map to a standard normal, and the density that follows.

The layers are those of FrEIA's AllInOneBlock as CFLOW-AD sets it up (affine coupling with a soft clamp, softplus global
affine, fixed rotation), written anew for what the exported graph needs: the forward direction and its log-determinant.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CouplingBlock(nn.Module):
    """One invertible step: half of the vector scales and shifts the other half, then all is scaled and rotated.

    The scale is exp(s) with s in (-clamp, clamp). Scale and shift come from a perceptron with one hidden layer, twice
    as wide as its input, which also sees the condition.

    Parameters
    ----------
    dimension : of the vectors, at least 2.
    condition : dimension of the condition.
    clamp : the largest logarithm of a scale.
    """

    rotation: Tensor

    def __init__(self, dimension: int, condition: int, clamp: float) -> None:
        super().__init__()
        self.clamp = clamp
        self.moved = dimension // 2
        self.kept = dimension - self.moved
        inputs = self.kept + condition
        self.hidden = nn.Linear(inputs, 2 * inputs)
        self.out = nn.Linear(2 * inputs, 2 * self.moved)
        # 0.1 softplus(x, beta 0.5) is 1 here: a block begins with scales of 1.
        self.scale = nn.Parameter(torch.full((dimension,), 2 * math.log(math.expm1(5))))
        self.shift = nn.Parameter(torch.zeros(dimension))
        self.register_buffer("rotation", random_rotation(dimension))

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """`x`: ... x D; `condition`: ... x P, broadcast against it.

        Returns the image of `x` and the logarithm of the absolute determinant of the Jacobian, `...`.
        """
        kept, moved = x[..., : self.kept], x[..., self.kept :]
        # Linear on the concatenation, in two parts: where the condition is a constant, so is its part in the graph.
        by_vector, by_condition = self.hidden.weight[:, : self.kept], self.hidden.weight[:, self.kept :]
        hidden = F.relu(F.linear(kept, by_vector) + F.linear(condition, by_condition, self.hidden.bias))
        # As in FrEIA a tenth, so that an untrained block changes little.
        raw = 0.1 * self.out(hidden)
        log_scale = self.clamp * torch.tanh(raw[..., : self.moved])
        moved = moved * torch.exp(log_scale) + raw[..., self.moved :]
        scale = 0.1 * F.softplus(self.scale, beta=0.5)
        rotated = (torch.cat([kept, moved], -1) * scale + self.shift) @ self.rotation
        return rotated, log_scale.sum(-1) + scale.log().sum()


class ConditionalFlow(nn.Module):
    """Coupling blocks in a row, and the density that they give to a vector.

    Parameters
    ----------
    dimension, condition : see `CouplingBlock`. blocks : how many. clamp : see `CouplingBlock`.
    """

    def __init__(self, dimension: int, condition: int, blocks: int, clamp: float) -> None:
        super().__init__()
        self.dimension = dimension
        self.blocks = nn.ModuleList(CouplingBlock(dimension, condition, clamp) for _ in range(blocks))

    def transform(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """`x`: ... x D, `condition`: ... x P. Returns z, ... x D, and log |det dz/dx|, `...`."""
        log_determinant = torch.zeros_like(x[..., 0])
        for block in self.blocks:
            x, change = block(x, condition)
            log_determinant = log_determinant + change
        return x, log_determinant

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(x | condition), `...`: that of a standard normal at z, plus log |det dz/dx|."""
        z, log_determinant = self.transform(x, condition)
        return log_determinant - 0.5 * (z.square().sum(-1) + self.dimension * math.log(2 * math.pi))


def random_rotation(dimension: int) -> Tensor:
    """An orthogonal matrix, uniformly random by torch's generator."""
    q, r = torch.linalg.qr(torch.randn(dimension, dimension))
    # Without the signs of R's diagonal, Q is not uniform (Mezzadri 2007).
    rotation: Tensor = q * r.diagonal().sign()
    return rotation
