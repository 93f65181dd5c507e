"""Optimal transport between two clouds of points."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def halved_squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 / 2: N x D, M x D -> N x M."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
    return squares.clamp(min=0) / 2


def temperatures(diameter: float, blur: float, scaling: float) -> list[float]:
    """From diameter^2 down to blur^2, the scale shrinking by `scaling` a step; the first is taken twice."""
    steps = math.ceil(math.log(diameter / blur) / -math.log(scaling))
    return [diameter**2] + [(diameter * scaling**step) ** 2 for step in range(steps)] + [blur**2]


def sinkhorn_divergence(clouds: list[tuple[Tensor, Tensor]], *, blur: float = 0.05, scaling: float = 0.95) -> Tensor:
    """Debiased entropic transport cost between two clouds of N points, all of the same weight, for each pair.

    S(x, y) = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2, where OT(x, y) is the least of <P, C> + blur^2 KL(P | 1/N^2) over
    the plans P and C the halved squared distances (Feydy et al., AISTATS 2019). It is 0 exactly where both clouds are
    the same set of points. All problems are solved together by symmetric Sinkhorn steps in the log domain, the
    temperature falling from the square of the largest distance to blur^2 (Feydy's thesis, algorithm 3.5). The gradient
    is that of the cost at the plan found, by the envelope theorem, so that no step is kept for it.

    Parameters
    ----------
    clouds : pairs x and y, each N x D, float32; N is the same for all. blur, scaling : see `temperatures`.

    Returns
    -------
    Tensor, one value per pair, at least 0 but for rounding.
    """
    count = len(clouds[0][0])
    with torch.autocast(clouds[0][0].device.type, enabled=False):
        # In this order: the potential on x against y, on y against x, and the two of each cloud against itself.
        costs = torch.stack(
            [
                torch.stack([halved_squared_distances(a, b.detach()) for a, b in ((x, y), (y, x), (x, x), (y, y))])
                for x, y in clouds
            ]
        ).double()
        other = [1, 0, 2, 3]
        diameter = max(blur, math.sqrt(2 * float(costs.detach().max())))

        def soft_minimum(potentials: Tensor, temperature: float) -> Tensor:
            exponent: Tensor = (potentials[:, other, None] - costs) / temperature - math.log(count)
            return exponent.logsumexp(3) * -temperature

        with torch.no_grad():
            potentials = soft_minimum(torch.zeros_like(costs[..., 0]), diameter**2)
            for temperature in temperatures(diameter, blur, scaling):
                potentials = (potentials + soft_minimum(potentials, temperature)) / 2
        x_to_y, y_to_x, x_to_x, y_to_y = soft_minimum(potentials, blur**2).mean(2).unbind(1)
        return (x_to_y + y_to_x - x_to_x - y_to_y).float()
