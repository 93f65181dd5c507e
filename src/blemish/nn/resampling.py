"""Resizing and smoothing as matrices.

Bilinear resizing and Gaussian smoothing of an image are linear and separable: `A @ x @ B.T` with one small matrix
per axis. Written so, they are the same numbers in torch, ONNX Runtime and OpenVINO (whose resize operators differ
in antialiasing and edge rules), accept any image size in one graph, and a resize followed by a smoothing costs no
more than one of them: their matrices are multiplied beforehand.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

BLOCKS = 8
"""Into so many a resize matrix is cut, to leave out its zeros."""


def resize_matrix(size: Tensor, out: Tensor) -> Tensor:
    """Weights of an antialiased bilinear resize along one axis, pixel centres aligned.

    Shrinking averages with a triangle as wide as the scale (as Pillow's BILINEAR and torch's `antialias=True` do);
    enlarging is plain bilinear with the edge repeated.

    Parameters
    ----------
    size, out : one-dimensional tensors whose *lengths* are the sizes before and after; their values are not used.
        Lengths, not numbers, so that a graph traced from this holds for every size.

    Returns
    -------
    Tensor, `len(out)` x `len(size)`, rows summing to 1.
    """
    position_in = torch.cumsum(torch.ones_like(size), 0) - 0.5
    position_out = torch.cumsum(torch.ones_like(out), 0) - 0.5
    scale = (position_in[-1] + 0.5) / (position_out[-1] + 0.5)
    distance = (position_in[None, :] - position_out[:, None] * scale).abs() / scale.clamp(min=1.0)
    # Enlarging: outside the first and last centre the triangle sees one pixel only; normalising repeats the edge.
    weights = (1.0 - distance).clamp(min=0.0)
    return weights / weights.sum(1, keepdim=True)


def aligned_matrix(size: int, out: int) -> Tensor:
    """Weights of a bilinear resize with the corner pixels aligned (`align_corners=True`): `out` x `size`."""
    if size == 1:
        return torch.ones(out, 1)
    position = torch.linspace(0, size - 1, out, dtype=torch.float64)
    return (1 - (position[:, None] - torch.arange(size)).abs()).clamp(min=0).float()


def smoothing_matrix(size: int, sigma: float, truncate: float = 4.0) -> Tensor:
    """Gaussian smoothing along one axis, `size` x `size`, as `scipy.ndimage.gaussian_filter1d(mode="reflect")`.

    The kernel reaches `round(truncate * sigma)` pixels; beyond the border the signal is mirrored, the edge pixel
    included.
    """
    if sigma == 0:
        return torch.eye(size)
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel /= kernel.sum()
    index = (torch.arange(size)[:, None] + offsets) % (2 * size)
    index = torch.where(index >= size, 2 * size - 1 - index, index)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, index, kernel.expand(size, -1))
    return matrix.float()


def length(image: Tensor, axis: int) -> Tensor:
    """A float tensor as long as an axis of `image`, of values without a meaning; see `resize_matrix`.

    Cut out of it: where one element is picked, a graph copies all that it is picked from.
    """
    return image[tuple(slice(None) if i == axis else slice(0, 1) for i in range(image.ndim))].flatten().float()


def along_rows(matrix: Tensor, x: Tensor) -> Tensor:
    """`matrix @ x` for a matrix of `resize_matrix` and x of any type, without most of the products with zero.

    A row of the matrix weighs a few neighbouring rows of x. So each of `BLOCKS` blocks of rows needs a short stretch of
    x, which alone is made float32: of the rows of a large image, one in `BLOCKS` and a margin. All stretches are of one
    length, for a runtime prepares for each length anew.
    """
    out, size = (torch.ones_like(side, dtype=torch.int64).sum() for side in (matrix[:, 0], matrix[0]))
    reach = size // out + 2
    stretch = (out // BLOCKS + 1) * size // out + 2 * reach + 1
    furthest = (size - stretch).clamp(min=0)
    parts = []
    for first, last in pairwise(out * k // BLOCKS for k in range(BLOCKS + 1)):
        begin = torch.minimum((first * size // out - reach).clamp(min=0), furthest)
        seen = slice(begin, begin + stretch)
        parts.append(matrix[first:last, seen] @ x[..., seen, :].to(torch.float32))
    return torch.cat(parts, -2)


def resize(image: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Resize the last two axes of `image` to `len(height)` x `len(width)`; see `resize_matrix`."""
    rows, columns = (length(image, axis) for axis in (image.ndim - 2, image.ndim - 1))
    wide = along_rows(resize_matrix(columns, width), image.transpose(-1, -2)).transpose(-1, -2)
    return along_rows(resize_matrix(rows, height), wide)


class MapHead(nn.Module):
    """Takes one coarse map per scale to the anomaly map: enlarge, add, smooth.

    Parameters
    ----------
    grids : height (= width) of the coarse map of each scale.
    size : height (= width) of the anomaly map.
    sigma : standard deviation of the Gaussian, in pixels of the anomaly map.
    align_corners : how the maps are enlarged; the RD4AD family aligns corners, PatchCore and PaDiM do not.
    """

    def __init__(self, grids: list[int], size: int, sigma: float, *, align_corners: bool) -> None:
        super().__init__()
        smooth = smoothing_matrix(size, sigma)
        for level, grid in enumerate(grids):
            enlarge = aligned_matrix(grid, size) if align_corners else resize_matrix(torch.ones(grid), torch.ones(size))
            self.register_buffer(f"matrix{level}", smooth @ enlarge, persistent=False)

    def enlarge(self, maps: list[Tensor]) -> Tensor:
        """`maps`: one B x h x w tensor per scale. Returns scales x B x size x size, smoothed."""
        enlarged = []
        for level, coarse in enumerate(maps):
            matrix = self.get_buffer(f"matrix{level}")
            enlarged.append(matrix @ coarse @ matrix.T)
        return torch.stack(enlarged)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """`maps`: one B x h x w tensor per scale. Returns B x size x size."""
        return self.enlarge(maps).sum(0)
