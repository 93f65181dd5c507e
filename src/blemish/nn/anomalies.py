"""Synthetic anomalies: foreign matter in the shape of thresholded Perlin noise (DRAEM, ICCV 2021, and its followers).

Draws are of torch's global generator and on the CPU, so that every device sees the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from blemish.components import label

Textures = Callable[[int, int, torch.device], Tensor]

TABLE = 64
"""Gradients along a side of the lattice, which then repeats; noise never has as many cells along a side."""

THRESHOLD = 0.5
LARGEST_FREQUENCY = 5
SMALLEST_PART = 0.001
ANOMALOUS = 0.9


def perlin_noise(frequency: Tensor, angle: Tensor, size: int) -> Tensor:
    """Gradient noise (Perlin 1985) in about [-1, 1]: one B x size x size field of lattice cells, turned.

    Parameters
    ----------
    frequency : B x 2, lattice cells along a side of the field, less than 64. angle : B, radians.
    """
    count = len(frequency)
    direction = 2 * math.pi * torch.rand(count, TABLE * TABLE)
    centred = (torch.arange(size) + 0.5) / size - 0.5
    rows, columns = centred[:, None], centred[None, :]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    places = [rows * cos + columns * sin, columns * cos - rows * sin]
    shift = TABLE * torch.rand(count, 2)
    y, x = ((place * frequency[:, i, None, None] + shift[:, i, None, None]) for i, place in enumerate(places))
    y, x = y.remainder(TABLE), x.remainder(TABLE)
    row, column = y.floor(), x.floor()
    y, x = y - row, x - column

    def corner(down: int, right: int) -> Tensor:
        index = ((row + down) % TABLE * TABLE + (column + right) % TABLE).long()
        gradient = direction.gather(1, index.flatten(1)).reshape(index.shape)
        return gradient.sin() * (y - down) + gradient.cos() * (x - right)

    fade_y, fade_x = (t**3 * (t * (6 * t - 15) + 10) for t in (y, x))
    above = torch.lerp(corner(0, 0), corner(0, 1), fade_x)
    below = torch.lerp(corner(1, 0), corner(1, 1), fade_x)
    return math.sqrt(2) * torch.lerp(above, below, fade_y)


def perlin_shapes(on: Tensor, *, tries: int = 20) -> Tensor:
    """Where anomalies are to be: bool B x S x S, the places where noise exceeds 0.5.

    The noise has 1, 2, 4 ... 32 cells along either axis and is turned by up to 90 degrees. Connected parts smaller than
    a thousandth of the picture or wholly outside `on` are dropped. Where nothing remains, noise is drawn again, `tries`
    times at most.

    Parameters
    ----------
    on : bool B x S x S, where the product is.
    """
    shapes = torch.zeros_like(on, device="cpu")
    product = on.cpu()
    for _ in range(tries):
        missing = (~shapes.flatten(1).any(1)).nonzero()[:, 0]
        if not len(missing):
            break
        frequency = 2.0 ** torch.randint(LARGEST_FREQUENCY + 1, (len(missing), 2))
        angle = math.pi * (torch.rand(len(missing)) - 0.5)
        noise = perlin_noise(frequency, angle, on.shape[-1])
        for i, shape in zip(missing.tolist(), noise > THRESHOLD, strict=True):
            shapes[i] = _large_parts(shape, product[i])
    return shapes.to(on.device)


def _large_parts(shape: Tensor, product: Tensor) -> Tensor:
    labels, count = label(shape.numpy())
    parts = torch.from_numpy(labels).long()
    area = torch.bincount(parts.flatten(), minlength=count + 1)
    touching = torch.bincount(parts[product], minlength=count + 1)
    wanted = (area >= SMALLEST_PART * shape.numel()) & (touching > 0)
    wanted[0] = False
    return wanted[parts]


def shuffled(image: Tensor, tiles: int = 16) -> Tensor:
    """The same image in other colours, its tiles in random order: B x 3 x S x S in [0, 1].

    Three of six changes of colour, each image its own (CPR's code has ten, DRAEM's nine): gamma of each channel, a
    factor and an addition, solarised, posterised, inverted, contrast stretched.
    """
    count, _, size, _ = image.shape
    gamma = (0.5 + 1.5 * torch.rand(count, 3, 1, 1)).to(image)
    factor, addition = ((0.5 - torch.rand(2, count, 1, 1, 1)) * torch.tensor([0.4, 0.24]).view(2, 1, 1, 1, 1)).to(image)
    limit = (0.125 + 0.375 * torch.rand(count, 1, 1, 1)).to(image)
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda x: x**gamma,
        lambda x: (x * (1 + factor) + addition).clamp(0, 1),
        lambda x: torch.where(x > limit, 1 - x, x),
        lambda x: (x * 8).floor().clamp(max=7) / 7,
        lambda x: 1 - x,
        lambda x: (x - x.amin((2, 3), True)) / (x.amax((2, 3), True) - x.amin((2, 3), True)).clamp(min=1e-3),
    ]
    chosen = torch.rand(count, len(changes)).argsort(1) < 3
    changed = image
    for take, change in zip(chosen.T.to(image.device), changes, strict=True):
        changed = torch.where(take[:, None, None, None], change(changed), changed)
    # Sides that the tiles do not divide leave a margin in place.
    side = size // tiles
    inner = changed[..., : side * tiles, : side * tiles]
    cut = inner.reshape(count, 3, tiles, side, tiles, side).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = torch.rand(count, tiles * tiles).argsort(1).to(image.device)
    mixed = cut[torch.arange(count, device=image.device)[:, None], order]
    laid = mixed.reshape(count, tiles, tiles, 3, side, side).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    changed = changed.clone()
    changed[..., : side * tiles, : side * tiles] = laid
    return changed


def blended(image: Tensor, matter: Tensor, shape: Tensor) -> Tensor:
    """`matter` over `image`, both B x 3 x S x S, within `shape`, bool B x S x S, at an opacity of 0.5 to 1."""
    opacity = (0.5 + 0.5 * torch.rand(len(image), 1, 1, 1)).to(image)
    return torch.where(shape[:, None], torch.lerp(image, matter, opacity), image)


def synthetic_anomalies(image: Tensor, on: Tensor, textures: Textures, *, shuffle: bool) -> tuple[Tensor, Tensor]:
    """Put foreign matter into nine of ten images: B x 3 x S x S in [0, 1].

    Parameters
    ----------
    on : bool B x S x S, where the product is.
    textures : `textures.synthetic_textures`, or what takes and gives the same.
    shuffle : whether half the matter is the image itself, shuffled, instead of a texture.

    Returns
    -------
    The images, and bool B x S x S of where they were changed.
    """
    count = len(image)
    wanted = (torch.rand(count) < ANOMALOUS).to(image.device)
    shape = perlin_shapes(on) & wanted[:, None, None]
    matter = textures(count, image.shape[-1], image.device)
    if shuffle:
        own = (torch.rand(count, 1, 1, 1) < 0.5).to(image.device)
        matter = torch.where(own, shuffled(image), matter)
    return blended(image, matter, shape), shape


def perturbed(image: Tensor) -> Tensor:
    """Three of ten images with up to 3 % of black and white pixels, three of ten up to 10 % lighter or darker."""
    count, _, height, width = image.shape
    chance = 0.03 * torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.3)
    noise = torch.rand(count, 1, height, width)
    salt, pepper = (noise < chance / 2).to(image.device), (noise > 1 - chance / 2).to(image.device)
    lightness = 1 + 0.1 * (2 * torch.rand(count, 1, 1, 1) - 1) * (torch.rand(count, 1, 1, 1) < 0.3)
    noised = torch.where(salt, 1.0, torch.where(pepper, 0.0, image))
    return (noised * lightness.to(image.device)).clamp(0, 1)
