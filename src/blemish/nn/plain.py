"""Networks of convolutions, ReLUs and poolings in a row, and their gradient with respect to the image.

A graph has no autograd: whatever runs it only goes forward. For networks this plain the way back is a handful of
operators that every runtime has, so it is written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def is_plain(layers: Iterable[nn.Module]) -> bool:
    """Whether all are what `input_gradient` knows: convolutions that keep the grid, ReLUs, poolings that halve it."""
    return all(_is_known(layer) for layer in layers)


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        keeps = all(pad == kernel // 2 for pad, kernel in zip(layer.padding, layer.kernel_size, strict=False))
        return keeps and layer.stride == layer.dilation == (1, 1) and layer.groups == 1
    if isinstance(layer, nn.MaxPool2d):
        return layer.kernel_size == layer.stride == 2
    return isinstance(layer, nn.ReLU)


def outputs(layers: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What goes into the first layer, and what comes out of each: one more tensor than there are layers."""
    through = [x]
    for layer in layers:
        # A ReLU in place would change what the layer before it gave.
        through.append(F.relu(through[-1]) if isinstance(layer, nn.ReLU) else layer(through[-1]))
    return through


def input_gradient(
    layers: Sequence[nn.Module], through: Sequence[Tensor], gradients: Mapping[int, Tensor], softness: float
) -> Tensor:
    """The gradient of a number with respect to what went into the first layer, kinks rounded off.

    A ReLU's gradient jumps from 0 to 1, a pooling's from one place to another, and where rounding decides on which side
    of the jump a value lies, torch and another runtime would give different gradients. So a ReLU counts as the parabola
    that leads from 0 to its slope of 1, and places of a pooling window that are nearly the largest share the gradient.
    For a softness of 0 this tends to what autograd gives.

    Parameters
    ----------
    layers : plain ones. through : their `outputs`.
    gradients : of the number with respect to entries of `through`, by their index; each in the shape of its entry.
    softness : how far from a kink its rounding reaches, as a multiple of the mean value that the layer gave.

    Returns
    -------
    Tensor in the shape of `through[0]`.
    """
    last = max(gradients)
    gradient = gradients[last]
    for i in reversed(range(last)):
        gradient = _back(layers[i], through[i], through[i + 1], gradient, softness)
        if i in gradients:
            gradient = gradient + gradients[i]
    return gradient


def _back(layer: nn.Module, before: Tensor, after: Tensor, gradient: Tensor, softness: float) -> Tensor:
    """From the gradient with respect to what came out of `layer` to that with respect to what went in."""
    if isinstance(layer, nn.Conv2d):
        return F.conv_transpose2d(gradient, layer.weight, padding=[kernel // 2 for kernel in layer.kernel_size])
    reach = softness * after.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-12)
    if isinstance(layer, nn.ReLU):
        return gradient * (after / reach).clamp(max=1)
    nearly = (1 - (_doubled(after) - before) / reach).clamp(min=0)
    return nearly * _doubled(gradient / (4 * F.avg_pool2d(nearly, 2)))


def _doubled(x: Tensor) -> Tensor:
    """Each value four times: B x C x h x w -> B x C x 2h x 2w."""
    count, channels, height, width = x.shape
    spread = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
    return spread.reshape(count, channels, 2 * height, 2 * width)
