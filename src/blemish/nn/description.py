"""The networks of EfficientAD (arXiv 2303.14535), and how ours learns to describe patches as a teacher does."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nn.resampling import resize_matrix

CHANNELS = 384
MARGIN = 4
"""Steps of 4 pixels at each border of the image for which a PDN, which pads nothing, gives no output."""


def patch_description_network(size: Literal["S", "M"], outputs: int) -> nn.Sequential:
    """PDN-S or PDN-M (paper, tables of the appendix): B x 3 x S x S -> B x outputs x S/4 - 8 x S/4 - 8.

    Each output sees 33 x 33 pixels and nothing else.
    """

    def conv(inputs: int, channels: int, kernel: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, channels, kernel), nn.ReLU(inplace=True)]

    if size == "S":
        layers = [*conv(3, 128, 4), nn.AvgPool2d(2), *conv(128, 256, 4), nn.AvgPool2d(2), *conv(256, 256, 3)]
        return nn.Sequential(*layers, nn.Conv2d(256, outputs, 4))
    layers = [*conv(3, 256, 4), nn.AvgPool2d(2), *conv(256, 512, 4), nn.AvgPool2d(2), *conv(512, 512, 1)]
    return nn.Sequential(*layers, *conv(512, 512, 3), *conv(512, outputs, 4), nn.Conv2d(outputs, outputs, 1))


class Resize(nn.Module):
    """Bilinear resize of square maps, as `resampling.resize_matrix` has it."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.register_buffer("matrix", resize_matrix(torch.ones(size), torch.ones(out)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """B x C x size x size -> B x C x out x out."""
        matrix = self.get_buffer("matrix")
        resized: Tensor = matrix @ x @ matrix.T
        return resized


def autoencoder(size: int) -> nn.Sequential:
    """Through a code of 64 numbers: B x 3 x size x size -> B x 384 x size/4 - 8 x size/4 - 8 (paper, appendix).

    For sizes other than the paper's 256, ours: the kernel of the code and the sides on the way back grow with it.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, 32, 32, 64, 64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
    layers.append(nn.Conv2d(64, 64, size // 32))
    side = 1
    for wanted in (size // 64 - 1, size // 32, size // 16 - 1, size // 8, size // 4 - 1, size // 2 - 1):
        larger = max(1, wanted)
        layers += [Resize(side, larger), nn.Conv2d(64, 64, 4, padding=2), nn.ReLU(inplace=True), nn.Dropout(0.2)]
        side = larger + 1
    layers += [Resize(side, size // 4 - 2 * MARGIN), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(64, CHANNELS, 3, padding=1))


def initialise(network: nn.Module) -> None:
    """Kaiming normal (fan in) and no bias, so that outputs vary with the image from the start.

    Ours: torch's default, which the published code takes, halves the signal or worse in every layer. Seventy thousand
    steps make that good, a hundred do not.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


class PatchTargets(nn.Module):
    """What a PDN is to say: a teacher's pyramid where the PDN has its outputs, in 384 channels of deviation 1.

    The channels are standardised and projected at random along the rows of a matrix with orthonormal rows or columns.
    The paper projects the features of a WideResNet-101.

    Parameters
    ----------
    grids, channels : of the pyramid's levels.
    steps : steps of 4 pixels along a side of the image.
    """

    projection: Tensor
    offset: Tensor

    def __init__(self, grids: list[int], channels: tuple[int, ...], steps: int) -> None:
        super().__init__()
        for level, grid in enumerate(grids):
            to_pdn = resize_matrix(torch.ones(grid), torch.ones(steps))[MARGIN:-MARGIN]
            self.register_buffer(f"to_pdn{level}", to_pdn.contiguous(), persistent=False)
        width = sum(channels)
        self.register_buffer("projection", torch.zeros(CHANNELS, width, 1, 1))
        self.register_buffer("offset", torch.zeros(CHANNELS))
        self._count = 0
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width, dtype=torch.float64)

    def patches(self, pyramid: list[Tensor]) -> Tensor:
        """3 x 3 means of all levels where the PDN has its outputs: B x C x S/4 - 8 x S/4 - 8."""
        levels = []
        for level, features in enumerate(pyramid):
            to_pdn = self.get_buffer(f"to_pdn{level}")
            means = F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)
            levels.append(to_pdn @ means @ to_pdn.T)
        return torch.cat(levels, 1)

    def add(self, pyramid: list[Tensor]) -> None:
        """Take the pyramid of some images into the statistics."""
        vectors = self.patches(pyramid).transpose(0, 1).flatten(1)
        self._sum += vectors.sum(1).cpu()
        self._products += (vectors @ vectors.T).cpu()
        self._count += vectors.shape[1]

    def learn(self, generator: torch.Generator) -> None:
        """Draw the projection, and scale it by the statistics."""
        mean = self._sum / self._count
        covariance = self._products / self._count - mean.outer(mean)
        deviation = covariance.diagonal().clamp(min=1e-12).sqrt()
        drawn = nn.init.orthogonal_(torch.empty(CHANNELS, len(mean)), generator=generator)
        projection = drawn.double() / deviation
        projection /= (projection @ covariance * projection).sum(1, keepdim=True).clamp(min=1e-12).sqrt()
        self.projection.copy_(projection[:, :, None, None])
        self.offset.copy_(-(projection @ mean))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Returns B x 384 x S/4 - 8 x S/4 - 8."""
        return F.conv2d(self.patches(pyramid), self.projection, self.offset)


class Readout:
    """Fits the last convolution of a network by least squares, the layers before it staying as they are.

    On random convolutions this describes a product's patches better than hundreds of gradient steps do.

    Parameters
    ----------
    network : ends in a convolution of stride 1 without padding.
    """

    def __init__(self, network: nn.Sequential) -> None:
        self._body, last = network[:-1], network[-1]
        assert isinstance(last, nn.Conv2d)
        self._last = last
        inputs = last.weight[0].numel() + 1
        self._products = last.weight.new_zeros(inputs, inputs)
        self._towards = last.weight.new_zeros(inputs, last.out_channels)

    def add(self, image: Tensor, target: Tensor, patches: int) -> None:
        """Learn from at most `patches` random places of each image: B x 3 x S x S, B x C x h x w."""
        for features, wanted in zip(self._body(image), target, strict=True):
            chosen = torch.randperm(wanted[0].numel())[:patches].to(wanted.device)
            seen = F.unfold(features[None], self._last.kernel_size)[0][:, chosen]
            seen = torch.cat([seen, torch.ones_like(seen[:1])])
            self._products.addmm_(seen, seen.T)
            self._towards.addmm_(seen, wanted.flatten(1)[:, chosen].T)

    def solve(self, ridge: float = 0.1) -> None:
        """Set the last layer; `ridge`, in mean squares of the inputs, is added for each weight but not for the bias."""
        diagonal = self._products.diagonal()
        diagonal[:-1] += ridge * diagonal[:-1].mean()
        solution = torch.cholesky_solve(self._towards, torch.linalg.cholesky(self._products)).T
        self._last.weight.copy_(solution[:, :-1].reshape(self._last.weight.shape))
        assert self._last.bias is not None
        self._last.bias.copy_(solution[:, -1])
