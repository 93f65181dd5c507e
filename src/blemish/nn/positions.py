"""Codes of a location in a grid."""

from __future__ import annotations

import torch
from torch import Tensor


def sine_codes(dimension: int, height: int, width: int) -> Tensor:
    """Sines and cosines of column and row at falling frequencies, as in Transformers, for two axes.

    Half of the code is the column's, half the row's: sin(p f_i) and cos(p f_i) in turn, with
    f_i = 10000^(-4 i / dimension), i = 0 ... dimension / 4 - 1.

    Parameters
    ----------
    dimension : of a code, a multiple of 4.

    Returns
    -------
    Tensor, height * width x dimension, row by row; values in [-1, 1].
    """
    frequency = 10_000 ** (-4 / dimension * torch.arange(dimension // 4, dtype=torch.float64))

    def along(size: int) -> Tensor:
        angle = torch.arange(size, dtype=torch.float64)[:, None] * frequency
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)

    columns = along(width).expand(height, -1, -1)
    rows = along(height)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], -1).flatten(0, 1).float()
