"""CPR: target before shooting, anomaly detection and localization by cascade patch retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_serializer, model_validator
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.methods.base import AnomalyMap, Features, GradientStage, Method, MethodConfig, PassStage, Stage, register
from blemish.nn.anomalies import Textures, perturbed, synthetic_anomalies
from blemish.nn.coreset import greedy_coreset
from blemish.nn.foreground import Foreground, PlacedVectors
from blemish.nn.resampling import MapHead, resize_matrix, smoothing_matrix
from blemish.nn.retrieval import Pairs, RetrievalBranch, WordHistograms, best_in_window, divergence, draw_points
from blemish.nn.textures import TextureFolder, synthetic_textures
from blemish.teachers import FeaturePyramid

POINTS = 300
ALIKE_PART = 0.8
SCORED_PART = 0.005
AS_SIMILAR = 1e-5


@register("cpr", "CPR, cascade patch retrieval (Li et al., IEEE TIP 2024, arXiv 2308.06748)")
class CascadePatchRetrieval(Method):
    """The most similar training images are looked up; each patch is compared with those near its place in them.

    The features that patches are compared by are trained on synthetic anomalies: patches at the same place of two
    similar images shall agree, an anomaly and a patch of another place shall not.
    """

    class Config(MethodConfig):
        """The published code; its teacher is DenseNet-201."""

        image_size: int = Field(default=320, ge=64, le=1024, multiple_of=32, description="published code")
        strides: tuple[int, ...] = Field(default=(4, 8), min_length=1, description="published code: dense blocks 1, 2")
        windows: tuple[int, ...] = Field(
            default=(3, 1), min_length=1, description="side of each level's window, in patches, odd; published code"
        )
        neighbours: int = Field(default=10, gt=0, description="images that each is compared with; published code")
        words: int = Field(default=12, gt=1, description="visual words; published code")
        blocks: int = Field(default=5, gt=0, description="parts along a side, each with a histogram; published code")
        width: int = Field(default=192, gt=0, multiple_of=12, description="of a branch's first layer; published code")
        dimension: int = Field(default=384, gt=0, description="features that patches are compared by; published code")
        surface: Literal["auto", "object", "texture"] = Field(
            default="auto", description="paper: by category; auto is ours and looks whether border and middle differ"
        )
        textures: Path | None = Field(
            default=None, description="folder of images for anomalies, published code: DTD; None is made-up textures"
        )
        reference_limit: int = Field(
            default=1000, gt=0, le=1900, description="ours: megabytes of reference features; the most varied are kept"
        )
        learning_rate: float = Field(default=1e-3, gt=0, description="AdamW; published code")
        weight_decay: float = Field(default=1e-2, ge=0, description="AdamW's; published code")
        batch_size: int = Field(default=32, gt=0, description="published code")
        steps: int = Field(default=40_000, gt=0, description="published code; there 500 for textures")
        sigma: float = Field(default=4.0, ge=0, description="Gaussian smoothing of the map, pixels; published code")

        @model_validator(mode="after")
        def _a_window_per_level(self) -> CascadePatchRetrieval.Config:
            if len(self.windows) != len(self.strides) or any(window % 2 == 0 or window < 1 for window in self.windows):
                raise ValueError(f"windows={list(self.windows)} are not one odd side for each of the strides")
            return self

        @field_serializer("textures")
        def _name_only(self, textures: Path | None) -> str | None:
            """A model file does not say where on a machine something lay."""
            return textures.name if textures else None

    config: Config
    fast: ClassVar = {"image_size": 256, "dimension": 128, "reference_limit": 200, "steps": 150, "batch_size": 8}

    histograms: Tensor
    kept: Tensor
    gallery: Tensor
    foregrounds: Tensor

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        self.grids = teacher.grids(config.image_size)
        channels, grid, size = teacher.info.channels, self.grids[0], config.image_size
        self.describe = WordHistograms(grid, channels[0], config.words, config.blocks)
        self.foreground = Foreground(channels[0])
        self.branches = nn.ModuleList(RetrievalBranch(c, config.width, config.dimension) for c in channels)
        self.register_buffer("histograms", torch.full((1, config.blocks**2, config.words), 1 / config.words))
        self.register_buffer("kept", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("gallery", torch.zeros(1, 3, size, size, dtype=torch.uint8))
        self.register_buffer("foregrounds", torch.ones(1, grid, grid))
        for i, side in enumerate(self.grids):
            self.register_buffer(f"references{i}", torch.zeros(side**2, 1, config.dimension, dtype=torch.float16))
            to_finest = resize_matrix(torch.ones(side), torch.ones(grid))
            self.register_buffer(f"to_finest{i}", to_finest, persistent=False)
        spread = resize_matrix(torch.ones(grid), torch.ones(size)) @ smoothing_matrix(grid, grid / 25)
        self.register_buffer("spread", spread, persistent=False)
        self.head = MapHead([grid], size, config.sigma, align_corners=False)

    def room(self) -> int:
        """How many references fit into the limit."""
        each = sum(2 * grid**2 * self.config.dimension for grid in self.grids) + 4 * self.grids[0] ** 2
        room = self.config.reference_limit * 10**6 // each
        if room == 0:
            raise UsageError(
                f"the features of one image take {each / 10**6:.1f} MB and reference_limit is "
                f"{self.config.reference_limit}",
                where=self.name,
                todo="Raise reference_limit, or set a smaller dimension or image_size",
            )
        return room

    def stages(self, images: int) -> Iterator[Stage]:
        """Words and foreground; the references; the branches; the references' features."""
        config, room = self.config, self.room()
        textures = TextureFolder(config.textures).draw if config.textures else synthetic_textures
        vectors = PlacedVectors(images)

        def learn_words(generator: torch.Generator, _: object) -> None:
            self.describe.learn(vectors.all(), generator)
            self.foreground.learn(vectors, generator, config.surface)

        yield PassStage("words", lambda image: vectors.add(self.teacher(image)[0]), learn_words)

        described: list[Tensor] = []

        def choose(generator: torch.Generator, _: object) -> None:
            histograms = torch.cat(described)
            self.kept = greedy_coreset(histograms.flatten(1), room, generator).sort().values
            self.histograms = histograms[self.kept]

        yield PassStage("histograms", lambda image: described.append(self.describe(self.teacher(image)[0])), choose)

        pictures: list[Tensor] = []

        def hang(*_: object) -> None:
            self.gallery = torch.cat(pictures)

        # Eight bits are enough for pictures that are only trained with.
        yield self._of_references("gallery", lambda image: pictures.append((image * 255).round().byte()), hang)

        yield GradientStage(
            "retrieval branches",
            module=self.branches,
            optimizer=torch.optim.AdamW(
                self.branches.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
            ),
            losses=partial(self.losses, textures),
            observe=self.observe,
            steps=config.steps,
            batch_size=config.batch_size,
        )

        features: list[list[Tensor]] = [[] for _ in self.grids]
        foregrounds: list[Tensor] = []

        def embed(image: Tensor) -> None:
            pyramid = self.teacher(image)
            foregrounds.append(self.foreground(pyramid[0]))
            for found, branch, level in zip(features, self.branches, pyramid, strict=True):
                found.append(branch(level).flatten(2).permute(2, 0, 1).half())

        def remember(*_: object) -> None:
            for i, found in enumerate(features):
                self.register_buffer(f"references{i}", torch.cat(found, 1))
            self.foregrounds = torch.cat(foregrounds)
            self.gallery = self.gallery[:0]

        yield self._of_references("reference features", embed, remember)

    def _of_references(self, name: str, take: Callable[[Tensor], None], finish: Callable[..., None]) -> PassStage:
        """A pass over the training images that are references."""
        seen = 0

        def collect(image: Tensor) -> None:
            nonlocal seen
            chosen = torch.isin(torch.arange(seen, seen + len(image)), self.kept.cpu())
            seen += len(image)
            if chosen.any():
                take(image[chosen.to(image.device)])

        return PassStage(name, collect, finish)

    def observe(self, image: Tensor) -> Features:
        """What a step needs of a clean image: itself, the references most like it, its foreground."""
        finest = self.teacher(image)[0]
        # The nearest is the image itself, where it is a reference.
        similar = self.nearest(self.describe(finest), self.config.neighbours + 1)[:, -self.config.neighbours :]
        return [image, similar, self.foreground(finest)]

    def nearest(self, histogram: Tensor, count: int) -> Tensor:
        """The `count` most similar references, or all there are: B x blocks^2 x words -> B x count, nearest first.

        Ours: of references that are as similar the first comes first. Rounding, which is another in a graph, would
        choose among them.
        """
        apart = divergence(histogram, self.histograms, ALIKE_PART)
        first = AS_SIMILAR * torch.arange(len(self.histograms), device=apart.device)
        return (apart + first).topk(min(count, len(self.histograms)), dim=1, largest=False).indices

    def losses(self, textures: Textures, observed: Features) -> dict[str, Tensor]:
        """The contrastive loss of each scale, between images with synthetic anomalies and similar good ones."""
        config, (image, similar, foreground) = self.config, observed
        with torch.no_grad():
            on = self.at_pixels(foreground) > 0.5
            spoiled, shape = synthetic_anomalies(image, on, textures, shuffle=self.foreground.of_object)
            drawn = torch.randint(similar.shape[1], (len(image), 1)).to(similar.device)
            reference = self.gallery[similar.gather(1, drawn)[:, 0]] / 255
            pyramid = self.teacher(perturbed(torch.cat([spoiled, reference])))
            product = torch.maximum(foreground, self.foreground(pyramid[0].float())[len(image) :])
            weight = torch.sigmoid(10 * self.at_pixels(product) - 5)
            same, wrong = draw_points(weight * ~shape, POINTS), draw_points(shape, POINTS)
            other = torch.rand(same.shape).to(same)
            near = 2**0.5 * config.strides[0] * (config.windows[0] // 2) / config.image_size
            apart = ((other - same).norm(dim=2) > near) & self.foreground.of_object
            pairs = Pairs(same, other, wrong, apart.float(), shape.flatten(1).any(1).float())
        scales = zip(self.branches, pyramid, strict=True)
        return {f"scale{i}": pairs.loss(branch, level) for i, (branch, level) in enumerate(scales)}

    def at_pixels(self, foreground: Tensor) -> Tensor:
        """Smoothed and enlarged: B x h x w -> B x S x S."""
        spread = self.get_buffer("spread")
        return spread @ foreground @ spread.T

    def forward(self, image: Tensor) -> AnomalyMap:
        """Sum over scales of 1 - the best cosine in the windows of the nearest references, times the foreground.

        The foreground is the larger of the image's and the references'. Both on the finest grid; the published code
        multiplies after enlarging. The score is the mean of the largest 0.5 % of the map, which are the code's 512
        pixels at its size; it takes their sum.
        """
        pyramid = self.teacher(image)
        nearest = self.nearest(self.describe(pyramid[0]), self.config.neighbours)
        distance = torch.zeros_like(pyramid[0][:, 0])
        for i, (branch, level, window) in enumerate(zip(self.branches, pyramid, self.config.windows, strict=True)):
            best = best_in_window(branch(level), self.get_buffer(f"references{i}"), nearest, window)
            matrix = self.get_buffer(f"to_finest{i}")
            distance = distance + matrix @ (1 - best) @ matrix.T
        product = torch.maximum(self.foreground(pyramid[0]), self.foregrounds[nearest].amax(1))
        anomaly_map = self.head([distance * product])
        counted = max(1, round(SCORED_PART * self.config.image_size**2))
        return AnomalyMap(anomaly_map, anomaly_map.flatten(1).topk(counted, sorted=False).values.mean(1))


@register("cpr-fast", "CPR-fast, as Blemish builds it (after Li et al., IEEE TIP 2024)")
class FastCascade(CascadePatchRetrieval):
    """CPR with half the neighbours and thinner branches.

    Ours: Li et al. report a CPR-fast; how they build it, we have not found.
    """

    class Config(CascadePatchRetrieval.Config):
        """Half the published code's neighbours and width, a quarter of its features."""

        neighbours: int = Field(default=5, gt=0, description="ours: images that each is compared with")
        width: int = Field(default=96, gt=0, multiple_of=12, description="ours: of a branch's first layer")
        dimension: int = Field(default=96, gt=0, description="ours: features that patches are compared by")

    fast: ClassVar = CascadePatchRetrieval.fast | {"dimension": 64}


@register("cpr-faster", "CPR-faster, as Blemish builds it (after Li et al., IEEE TIP 2024)")
class FasterCascade(CascadePatchRetrieval):
    """CPR on its coarser level alone, with three neighbours and thinner branches.

    Ours: Li et al. report a CPR-faster; how they build it, we have not found.
    """

    class Config(FastCascade.Config):
        """One level, three neighbours."""

        strides: tuple[int, ...] = Field(default=(8,), min_length=1, description="ours: the coarser level only")
        windows: tuple[int, ...] = Field(default=(3,), min_length=1, description="ours: side of the window, in patches")
        neighbours: int = Field(default=3, gt=0, description="ours: images that each is compared with")
        dimension: int = Field(default=64, gt=0, description="ours: features that patches are compared by")

    fast: ClassVar = FastCascade.fast
