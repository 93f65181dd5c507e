"""SPADE: sub-image anomaly detection with deep pyramid correspondences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from blemish.errors import UsageError
from blemish.methods.base import AnomalyMap, Method, MethodConfig, PassStage, Stage, register
from blemish.nn.resampling import MapHead, resize_matrix
from blemish.teachers import FeaturePyramid

RESOLUTION = 0.01
"""Distances below this part of a feature's length are taken as this part of it: in a graph, rounding is of that order.

A gallery in float16 and squared distances in float32 leave nothing below; only a pixel that is in the gallery itself,
as those of training images are, comes so near.
"""


@register("spade", "SPADE, deep pyramid correspondences (Cohen and Hoshen, 2020, arXiv 2005.02357)")
class PyramidCorrespondences(Method):
    """The most similar training images vouch for a new one: pixel by pixel, how far is their nearest feature?"""

    class Config(MethodConfig):
        """The paper's setting, on the whole image instead of the middle of it."""

        strides: tuple[int, ...] = Field(
            default=(4, 8, 16, 32),
            min_length=2,
            description="levels that describe a pixel, and last the one whose mean describes an image; paper",
        )
        neighbours: int = Field(
            default=50, gt=0, description="K, training images that an image is compared with; paper"
        )
        grid_stride: int | None = Field(
            default=None,
            gt=0,
            description="ours: image pixels per compared pixel; None is the finest level, as in paper",
        )
        gallery_limit: int = Field(
            default=1000, gt=0, description="ours: megabytes of features kept; images beyond are left out, evenly"
        )
        sigma: float = Field(default=4.0, ge=0, description="Gaussian smoothing of the map, pixels; published code")

    config: Config
    cheap_to_fit: ClassVar = True
    fast: ClassVar = {"grid_stride": 8, "gallery_limit": 100}

    images: Tensor
    pixels: Tensor

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        *grids, _ = teacher.grids(config.image_size)
        *channels, last = teacher.info.channels
        self.grid = min(grids[0], -(-config.image_size // (config.grid_stride or 1)))
        for level, grid in enumerate(grids):
            self.register_buffer(
                f"to_grid{level}", resize_matrix(torch.ones(grid), torch.ones(self.grid)), persistent=False
            )
        self.register_buffer("images", torch.zeros(1, last))
        self.register_buffer("pixels", torch.zeros(1, self.grid**2, sum(channels), dtype=torch.float16))
        self.head = MapHead([self.grid], config.image_size, config.sigma, align_corners=False)

    def embed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """One vector per image, B x C, and one per pixel of the grid, B x hw x D (the levels on one grid, joined)."""
        *levels, last = self.teacher(image)
        on_grid = []
        for i, level in enumerate(levels):
            matrix = self.get_buffer(f"to_grid{i}")
            on_grid.append(matrix @ level @ matrix.T)
        return last.mean((2, 3)), torch.cat(on_grid, 1).flatten(2).transpose(1, 2)

    def kept(self, images: int) -> list[int]:
        """Which of the training images the gallery has room for, evenly over their order.

        Raises
        ------
        UsageError
            If there is no room for a single one.
        """
        each = self.pixels[0].numel() * self.pixels.element_size()
        room = self.config.gallery_limit * 10**6 // each
        if room == 0:
            raise UsageError(
                f"the features of one image take {each / 10**6:.1f} MB and the gallery may hold "
                f"{self.config.gallery_limit}",
                where="spade",
                todo="Raise gallery_limit, or set a larger grid_stride",
            )
        count = min(images, room)
        return [i * images // count for i in range(count)]

    def stages(self, images: int) -> Iterator[Stage]:
        """One pass: remember the images."""
        kept = set(self.kept(images))
        seen = 0
        vectors: list[Tensor] = []
        galleries: list[Tensor] = []

        def collect(image: Tensor) -> None:
            nonlocal seen
            chosen = [i for i in range(len(image)) if seen + i in kept]
            seen += len(image)
            if chosen:
                of_image, of_pixels = self.embed(image[chosen])
                vectors.append(of_image)
                galleries.append(of_pixels.half())

        def finish(*_: object) -> None:
            self.images = torch.cat(vectors)
            self.pixels = torch.cat(galleries)

        yield PassStage("gallery", collect, finish)

    def forward(self, image: Tensor) -> AnomalyMap:
        """Distance of each pixel to the nearest one of the K nearest images, enlarged and smoothed.

        The score is the mean distance of the image to these K.
        """
        vector, pixels = self.embed(image)
        to_images = (vector[:, None] - self.images).square().sum(2).sqrt()
        neighbours = min(self.config.neighbours, len(self.images))
        distances, nearest = to_images.topk(neighbours, dim=1, largest=False)
        lengths = pixels.square().sum(2)
        squared = torch.full_like(lengths, torch.inf)
        # One neighbour at a time: what is in memory at once are the distances to one image's pixels, not to all.
        for k in range(neighbours):
            gallery = self.pixels[nearest[:, k]].float()
            products = pixels @ gallery.transpose(1, 2)
            beyond = (gallery.square().sum(2)[:, None] - 2 * products).amin(2)
            squared = torch.minimum(squared, lengths + beyond)
        distance = torch.maximum(squared, RESOLUTION**2 * lengths).sqrt().reshape(-1, self.grid, self.grid)
        return AnomalyMap(self.head([distance]), distances.mean(1))
