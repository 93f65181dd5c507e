"""The one-class bottleneck embedding (OCBE) and the reverse decoder of RD4AD (arXiv 2201.10703), for any pyramid.

For a ResNet teacher the layers are those of the published network; `StudentShape` says which. A pyramid of other
channels gets the same construction on its own channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StudentShape:
    """What the residual blocks of bottleneck and decoder look like.

    block : "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
    width : inner channels of a "bottleneck" block as a fraction of its output; 1/4 in ResNet-50, 1/2 in
        WideResNet-50.
    embedding_blocks : blocks that make the embedding.
    decoder_blocks : blocks of each decoder stage, deepest first.
    signed : the teacher's features can be negative (they end in a linear layer, as MobileNets' and EfficientNets'
        do), so a decoder stage must not end in a ReLU.
    """

    block: Literal["basic", "bottleneck"]
    width: float
    embedding_blocks: int
    decoder_blocks: tuple[int, ...]
    signed: bool


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalisation; `kernel` is odd, the padding keeps the grid."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


def upsample_norm(inputs: int, outputs: int) -> nn.Sequential:
    """A 2x2 transposed convolution of stride 2 without bias, and its batch normalisation."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False), nn.BatchNorm2d(outputs))


def relu() -> nn.ReLU:
    """In place, as no layer before one here needs what it gave: a new tensor costs more than what is done to it."""
    return nn.ReLU(inplace=True)


class ResidualBlock(nn.Module):
    """A residual block that keeps the grid, halves it (`resample="down"`) or doubles it ("up")."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        shape: StudentShape,
        resample: Literal["keep", "down", "up"] = "keep",
        *,
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.activation: nn.Module = nn.Identity() if signed else relu()
        stride = 2 if resample == "down" else 1

        def middle(channels_in: int, channels: int) -> nn.Sequential:
            return (
                upsample_norm(channels_in, channels)
                if resample == "up"
                else conv_norm(channels_in, channels, 3, stride)
            )

        if shape.block == "basic":
            self.body = nn.Sequential(middle(inputs, outputs), relu(), conv_norm(outputs, outputs, 3))
        else:
            inner = max(1, round(outputs * shape.width))
            self.body = nn.Sequential(
                conv_norm(inputs, inner, 1), relu(), middle(inner, inner), relu(), conv_norm(inner, outputs, 1)
            )
        self.shortcut: nn.Module = nn.Identity()
        if resample == "up":
            self.shortcut = upsample_norm(inputs, outputs)
        elif resample == "down" or inputs != outputs:
            self.shortcut = conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """B x inputs x h x w -> B x outputs x h' x w'."""
        out: Tensor = self.activation(self.body(x).add_(self.shortcut(x)))
        return out


class Bottleneck(nn.Module):
    """Fuses the pyramid into one compact embedding (section 3.2: multi-scale feature fusion, one-class embedding).

    Each level is brought to the deepest grid by 3x3 convolutions of stride 2 that climb through the channels of the
    levels between; their concatenation passes residual blocks to an embedding of twice the deepest channels on half
    the deepest grid.
    """

    def __init__(self, channels: tuple[int, ...], shape: StudentShape) -> None:
        super().__init__()
        deepest = channels[-1]
        self.fusion = nn.ModuleList()
        for level in range(len(channels)):
            steps: list[nn.Module] = []
            for inputs, outputs in zip(channels[level:], channels[level + 1 :], strict=False):
                steps += [conv_norm(inputs, outputs, 3, 2), relu()]
            self.fusion.append(nn.Sequential(*steps))
        blocks: list[nn.Module] = [ResidualBlock(len(channels) * deepest, 2 * deepest, shape, "down")]
        blocks += [ResidualBlock(2 * deepest, 2 * deepest, shape) for _ in range(shape.embedding_blocks - 1)]
        self.embedding = nn.Sequential(*blocks)

    def forward(self, features: list[Tensor]) -> Tensor:
        """`features`: one B x C x h x w tensor per level, finest first. Returns B x 2C x h/2 x w/2 of the deepest."""
        levels = [fuse(feature) for fuse, feature in zip(self.fusion, features, strict=True)]
        embedding: Tensor = self.embedding(torch.cat(levels, 1))
        return embedding


class Decoder(nn.Module):
    """The student: rebuilds the teacher's pyramid from the embedding, deepest level first."""

    def __init__(self, channels: tuple[int, ...], shape: StudentShape) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        inputs = 2 * channels[-1]
        for outputs, blocks in zip(reversed(channels), shape.decoder_blocks, strict=True):
            stage = [ResidualBlock(inputs, outputs, shape, "up", signed=shape.signed and blocks == 1)]
            stage += [
                ResidualBlock(outputs, outputs, shape, signed=shape.signed and block == blocks - 1)
                for block in range(1, blocks)
            ]
            self.levels.append(nn.Sequential(*stage))
            inputs = outputs

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """Returns the rebuilt levels, finest first, shaped as the teacher's."""
        rebuilt = []
        for stage in self.levels:
            embedding = stage(embedding)
            rebuilt.append(embedding)
        return rebuilt[::-1]


def initialise(module: nn.Module) -> None:
    """Kaiming normal (fan out) for convolutions, as RD4AD does for bottleneck and decoder."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
