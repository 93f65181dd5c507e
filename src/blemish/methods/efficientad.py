"""EfficientAD: accurate visual anomaly detection at millisecond-level latencies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_serializer, model_validator
from torch import Tensor, nn

from blemish.methods.base import AnomalyMap, Features, PassStage, Stage, register
from blemish.methods.describing import Describing, DescribingConfig, read_pdn, sha256_of
from blemish.nn.description import CHANNELS, MARGIN, autoencoder, initialise, patch_description_network
from blemish.nn.moments import Moments
from blemish.nn.resampling import resize_matrix
from blemish.teachers import FeaturePyramid


def hard_feature_loss(distance: Tensor) -> Tensor:
    """Mean of the values at or above the 0.999 quantile of each image's own: B x C x h x w -> one number.

    Counted off by size, since `torch.quantile` takes at most 16 million values, and all images in one go.
    """
    values = distance.flatten(1)
    hard = values.shape[1] - math.ceil(0.999 * (values.shape[1] - 1))
    return values.topk(hard, dim=1, sorted=False).values.mean()


def jitter(image: Tensor) -> Tensor:
    """Brightness, contrast or saturation of each image, one of them, changed by a factor of 0.8 to 1.2."""
    count = len(image)
    grey = (image * image.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    bases = torch.stack([torch.zeros_like(grey), grey.mean((2, 3), keepdim=True).expand_as(grey), grey])
    base = bases[torch.randint(3, (count,)), torch.arange(count)]
    factor = (0.8 + 0.4 * torch.rand(count, 1, 1, 1)).to(image)
    return (base + factor * (image - base)).clamp(0, 1)


@register("efficientad", "EfficientAD (Batzner et al., WACV 2024, arXiv 2303.14535)")
class EfficientAD(Describing):
    """A small network describes patches, a student imitates it on good images; an autoencoder sees the whole image.

    Where the student fails to imitate, a patch is wrong; where it disagrees with the autoencoder, the arrangement is.
    The describing network (PDN) is the paper's teacher. The paper distils it from a WideResNet-101 on ImageNet. Ours
    comes from `blemish teachers distill`; without one, it is distilled from Blemish's feature pyramid on the training
    images and as many textures. Textures also stand for the paper's ImageNet images in the penalty. The pyramid is not
    needed after training.
    """

    class Config(DescribingConfig):
        """Algorithm 1 of the paper and the unofficial code that repeats its figures (nelson1425/EfficientAd)."""

        batch_size: int = Field(default=1, gt=0, description="paper")
        steps: int = Field(default=70_000, gt=0, description="of student and autoencoder; paper")
        description_steps: int | None = Field(
            default=None, ge=0, description="ours: of the PDN after its least-squares start; None is as many as `steps`"
        )
        pdn: Path | None = Field(
            default=None, description="file of `blemish teachers distill`; None distils on the training images (ours)"
        )
        pdn_sha256: str = Field(default="", description="of that file; found out where it is not given")

        @field_serializer("pdn")
        def _pdn_name_only(self, pdn: Path | None) -> str | None:
            return pdn.name if pdn else None

        @model_validator(mode="before")
        @classmethod
        def _pdn_is_known(cls, given: Any) -> Any:
            if isinstance(given, dict) and given.get("pdn") and not given.get("pdn_sha256"):
                return {**given, "pdn_sha256": sha256_of(Path(given["pdn"]))}
            return given

    fast: ClassVar = {
        "image_size": 128,
        "steps": 150,
        "description_steps": 0,
        "batch_size": 2,
        "learning_rate": 1e-3,
    }

    config: Config
    enlarge: Tensor
    mean: Tensor
    deviation: Tensor
    quantiles: Tensor

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        steps = config.image_size // 4
        enlarge = resize_matrix(torch.ones(steps), torch.ones(config.image_size))[:, MARGIN:-MARGIN]
        self.register_buffer("enlarge", enlarge.contiguous(), persistent=False)
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("deviation", torch.ones(1, CHANNELS, 1, 1))
        self.register_buffer("quantiles", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.student = patch_description_network(config.size, 2 * CHANNELS)
        self.autoencoder = autoencoder(config.image_size)
        for network in (self.student, self.autoencoder):
            initialise(network)

    def stages(self, images: int) -> Iterator[Stage]:
        """Make the PDN and standardise its channels; train student and autoencoder and scale their maps."""
        config = self.config
        self.take_textures()
        if config.pdn:
            weights = read_pdn(config.pdn, config.pdn_sha256, config.size, self.teacher.info.name)
            self.pdn.load_state_dict(weights)
        else:
            steps = config.steps if config.description_steps is None else config.description_steps
            yield from self.learn_to_describe(images, steps)
        moments = Moments()

        def standardise(*_: object) -> None:
            self.mean.copy_(moments.mean.view(1, -1, 1, 1))
            self.deviation.copy_(moments.deviation.clamp(min=1e-6).view(1, -1, 1, 1))

        yield PassStage("channel statistics", lambda image: moments.add(self.pdn(self.centred(image))), standardise)
        trained = nn.ModuleList([self.student, self.autoencoder])
        yield self.descend("student", trained, config.steps, self._see_description, self.losses)
        maps: list[tuple[Tensor, Tensor]] = []

        def scale(*_: object) -> None:
            for i, of_all_images in enumerate(zip(*maps, strict=True)):
                values = torch.cat(of_all_images).cpu().numpy()
                self.quantiles[i] = torch.from_numpy(np.quantile(values, (0.9, 0.995)))

        # The paper holds a tenth of the images out for this. On the images just learned, both maps are smaller than on
        # new ones; only their proportion counts, since the threshold comes from images that Blemish holds out.
        yield PassStage("map statistics", lambda image: maps.append(self.maps(image)), scale)

    def described(self, image: Tensor) -> Tensor:
        """The PDN's output, each channel standardised over the training images."""
        described: Tensor = self.pdn(self.centred(image)).float()
        return (described - self.mean) / self.deviation

    def _see_description(self, image: Tensor) -> Features:
        return [image, self.described(image)]

    def losses(self, observed: Features) -> dict[str, Tensor]:
        """Algorithm 1: hard features, penalty, autoencoder, and the student's second half after the autoencoder."""
        image, described = observed
        textures = self.textures(image)
        changed = jitter(image)
        with torch.no_grad():
            described_changed = self.described(changed)
        imitated, _ = self.student(self.centred(image)).float().chunk(2, 1)
        outside, _ = self.student(self.centred(textures)).float().chunk(2, 1)
        _, predicted = self.student(self.centred(changed)).float().chunk(2, 1)
        rebuilt = self.autoencoder(self.centred(changed)).float()
        return {
            "hard features": hard_feature_loss((described - imitated).square()),
            "penalty": outside.square().mean(),
            "autoencoder": (described_changed - rebuilt).square().mean(),
            "student of autoencoder": (rebuilt - predicted).square().mean(),
        }

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared distance over channels, of the student to the PDN and to the autoencoder."""
        imitated, predicted = self.student(self.centred(image)).chunk(2, 1)
        local = (self.described(image) - imitated).square().mean(1)
        arrangement = (self.autoencoder(self.centred(image)) - predicted).square().mean(1)
        return local, arrangement

    def gaps(self, image: Tensor) -> Features:
        """Mean squared distance of student and PDN; beyond the PDN's border, that of the nearest location."""
        local, _ = self.maps(image)
        return [F.pad(local[:, None], [MARGIN] * 4, mode="replicate")[:, 0]]

    def forward(self, image: Tensor) -> AnomalyMap:
        """Mean of both maps, each 0 at its 0.9 quantile and 0.1 at its 0.995; 0 at the border; score is the maximum."""
        pairs = zip(self.maps(image), self.quantiles, strict=True)
        fused = torch.stack([0.1 * (each - low) / (high - low) for each, (low, high) in pairs]).mean(0)
        return AnomalyMap.with_max_score(self.enlarge @ fused @ self.enlarge.T)
