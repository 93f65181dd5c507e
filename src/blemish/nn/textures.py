"""Texture images: what a network sees besides the product. Made up, where there is no collection of natural ones."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.data.files import list_images
from blemish.errors import UsageError
from blemish.images import read
from blemish.nn.preparation import Preparation


def smooth_noise(count: int, channels: int, size: int, device: torch.device) -> Tensor:
    """Noise of several scales, count x channels x size x size, each image and channel from 0 to 1.

    Random lattices of 2, 4, 8, ... points a side, each enlarged bicubically and added with a weight that falls by a
    factor of its own for each image: from clouds to grain.
    """
    fall = 0.3 + 0.7 * torch.rand(count, 1, 1, 1, device=device)
    noise = torch.zeros(count, channels, size, size, device=device)
    for octave in range(1, int(math.log2(size))):
        lattice = torch.rand(count, channels, 2**octave, 2**octave, device=device)
        noise += fall**octave * F.interpolate(lattice, (size, size), mode="bicubic", align_corners=True)
    low, high = noise.amin((2, 3), keepdim=True), noise.amax((2, 3), keepdim=True)
    return (noise - low) / (high - low)


def synthetic_textures(count: int, size: int, device: torch.device) -> Tensor:
    """Draw textures, count x 3 x size x size in [0, 1], with torch's global generator.

    Each is clouds, stripes (of any direction and width, more or less bent) or blobs, between two random colours, with
    coloured noise over it.
    """

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, device=device)

    clouds, bend, hills = smooth_noise(count, 3, size, device).chunk(3, 1)
    place = torch.linspace(0, 1, size, device=device)
    angle, per_image = uniform(0, 2 * math.pi), 2 ** uniform(1, math.log2(size / 4))
    across = per_image * (place * angle.cos() + place[:, None] * angle.sin()) + uniform(0, 4) * bend
    stripes = 0.5 + 0.5 * torch.sin(2 * math.pi * across + uniform(0, 2 * math.pi))
    blobs = torch.sigmoid(uniform(10, 80) * (hills - uniform(0.3, 0.7)))
    kind = torch.randint(3, (count,), device=device)
    pattern = torch.stack([clouds, stripes, blobs])[kind, torch.arange(count, device=device)]
    ground, ink = uniform(0, 1, 3), uniform(0, 1, 3)
    speckle = uniform(0, 0.4) * (smooth_noise(count, 3, size, device) - 0.5)
    return (ground + (ink - ground) * pattern + speckle).clamp(0, 1)


class TextureFolder:
    """The images below a folder, such as those of DTD (Cimpoi et al., CVPR 2014), as textures.

    Parameters
    ----------
    folder : searched with all folders below it.

    Raises
    ------
    UsageError
        If the folder does not exist or holds no image.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError("there is no such folder", where=f"textures {folder}", todo="Name a folder of images")
        self.paths = list_images(folder).images
        if not self.paths:
            raise UsageError("it holds no images", where=f"textures {folder}", todo="Name a folder of images")

    def draw(self, count: int, size: int, device: torch.device) -> Tensor:
        """Random images resized to squares, count x 3 x size x size in [0, 1], drawn by torch's global generator.

        Raises
        ------
        ImageError : an image cannot be read.
        """
        drawn = [self.paths[i] for i in torch.randint(len(self.paths), (count,)).tolist()]
        preparation = Preparation(0, 255, size)
        return torch.cat([preparation(torch.from_numpy(read(path))[None]) for path in drawn]).to(device)
