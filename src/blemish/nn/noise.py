"""Smooth noise: simplex noise in three dimensions (Perlin 2001), in octaves, and in rectangles of an image.

Draws are of torch's global generator and on the CPU, so that every device sees the same noise.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

TABLE = 256

EDGES = torch.tensor([edge for edge in itertools.product((-1.0, 0.0, 1.0), repeat=3) if edge.count(0.0) == 1])
"""The twelve gradients: from the middle of a cube to the middles of its edges."""

LARGEST = 1 / 76
"""Just above what the four corners of a simplex can add up to, 1 / 76.9 by search: noise stays within [-1, 1]."""


def simplex_noise(points: Tensor, tables: Tensor) -> Tensor:
    """Noise in [-1, 1], about 1 in scale, at P x 3 `points`, one field for each of the B x 256 `tables`: B x P.

    A table is a permutation of 0 to 255; it gives each corner of the simplex lattice its gradient.
    """
    # Skewing by a third of the sum takes the lattice of simplices to that of cubes; a sixth takes it back.
    cell = (points + points.sum(1, keepdim=True) / 3).floor()
    inside = points - cell + cell.sum(1, keepdim=True) / 6
    # The walk from a cube's first corner to its last goes along the largest coordinate first.
    rank = inside.sort(dim=1, descending=True, stable=True).indices.argsort(1)
    noise = points.new_zeros(len(tables), len(points))
    for corner in range(4):
        step = (rank < corner).to(points.dtype)
        offset = inside - step + corner / 6
        x, y, z = (cell + step).long().remainder(TABLE).unbind(1)
        hashed = tables.gather(1, (tables.gather(1, (tables[:, x] + y) % TABLE) + z) % TABLE)
        gradient = EDGES.to(points)[hashed % len(EDGES)]
        near = (0.5 - offset.square().sum(1)).clamp(min=0) ** 4
        noise += near * (gradient * offset).sum(2)
    return noise / LARGEST


def octaves(count: int, side: int, *, period: float, octaves: int, persistence: float) -> Tensor:
    """`count` fields of simplex noise for three channels, count x 3 x side x side.

    The first octave varies over `period` pixels, each further one over half as many and by `persistence` as much. A
    channel is the next plane of the field, a pixel further on, so that coarse octaves are grey and fine ones coloured.
    """
    tables = torch.stack([torch.randperm(TABLE) for _ in range(count)])
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(float(side)), torch.arange(float(side)))
    noise = torch.zeros(count, len(grid))
    for octave in range(octaves):
        noise += persistence**octave * simplex_noise(grid * (2**octave / period), tables)
    return noise.reshape(count, 3, side, side)


def add_in_rectangle(image: Tensor, noise: Tensor, smallest: int) -> Tensor:
    """A copy of `image`, B x 3 x S x S, with `noise`, B x 3 x s x s, in one random rectangle of each image.

    The sides of a rectangle are drawn from `smallest` to s, both included; it never touches the first row or column.
    """
    count, _, size, _ = image.shape
    noise = noise.to(image)
    noised = image.clone()
    sides = torch.randint(smallest, noise.shape[-1] + 1, (count, 2))
    starts = 1 + (torch.rand(count, 2) * (size - sides - 1)).long()
    for i, ((height, width), (top, left)) in enumerate(zip(sides.tolist(), starts.tolist(), strict=True)):
        noised[i, :, top : top + height, left : left + width] += noise[i, :, :height, :width]
    return noised
