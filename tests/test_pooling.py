"""Adaptive pooling against torch's own."""

from __future__ import annotations

import pytest
import torch

from blemish.nn.pooling import AdaptivePooling


@pytest.mark.parametrize(("inputs", "outputs"), [(4608, 1024), (9216, 1024), (2048, 1024), (9, 1), (7, 7), (10, 3)])
def test_adaptive_pooling_is_torchs(inputs: int, outputs: int) -> None:
    x = torch.randn(2, 5, inputs, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.adaptive_avg_pool1d(x, outputs)
    torch.testing.assert_close(AdaptivePooling(inputs, outputs)(x), expected)
