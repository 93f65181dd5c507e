"""Averaging a vector down to fewer values, in operators that every runtime has."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptivePooling(nn.Module):
    """`adaptive_avg_pool1d` from `inputs` to `outputs` values: output i averages inputs floor(i r) to ceil((i+1) r).

    With r = inputs / outputs. Written as a gather of the few inputs of each output, since ONNX has this pooling only
    where `outputs` divides `inputs`.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        i = torch.arange(outputs)
        first = i * inputs // outputs
        last = -(-(i + 1) * inputs // outputs)
        offsets = torch.arange(int((last - first).max()))
        inside = offsets < (last - first)[:, None]
        self.register_buffer("index", (first[:, None] + offsets).clamp(max=inputs - 1), persistent=False)
        self.register_buffer("weight", inside / inside.sum(1, keepdim=True), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """... x inputs -> ... x outputs."""
        index, weight = self.get_buffer("index"), self.get_buffer("weight")
        # A graph keeps the sizes that reshape was given while it was traced; this has none.
        pooled: Tensor = (x[..., index] * weight).sum(-1)
        return pooled
