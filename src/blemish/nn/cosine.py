"""The cosine of two feature maps, each taken as one vector per image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SHORTEST = 1e-8


class _Cosine(torch.autograd.Function):
    """With its gradient written out: autograd would go ten times over maps of which one has no gradient at all."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.types = a.dtype, b.dtype
        a, b = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (a, b))
        within = tuple(range(1, a.ndim))
        lengths = [torch.linalg.vector_norm(x, dim=within).clamp(min=SHORTEST) for x in (a, b)]
        cosine: Tensor = (a * b).sum(within) / (lengths[0] * lengths[1])
        ctx.save_for_backward(a, b, *lengths, cosine)
        return cosine

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        a, b, length_a, length_b, cosine = ctx.saved_tensors
        (gradient,) = gradients
        shape = (-1, *[1] * (a.ndim - 1))
        along = (gradient / (length_a * length_b)).view(shape)
        pairs = ((a, length_a, b), (b, length_b, a))
        return tuple(
            torch.addcmul(other * along, own, (-gradient * cosine / length.square()).view(shape)).to(dtype)
            if needed
            else None
            for needed, dtype, (own, length, other) in zip(ctx.needs_input_grad, ctx.types, pairs, strict=True)
        )


def image_cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of the two maps of each image, B x C x h x w twice -> B, in [-1, 1]; in float32 at least.

    For training: no exporter knows how to write it.
    """
    cosine: Tensor = _Cosine.apply(a, b)  # type: ignore[no-untyped-call]
    return cosine
