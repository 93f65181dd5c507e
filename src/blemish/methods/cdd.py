"""CDD: cross-domain distillation for fully unsupervised anomaly detection."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.methods.base import AnomalyMap, Features, PassStage, Stage, register
from blemish.methods.rd import ReverseDistillation
from blemish.nn.remainder import Remainder, distances, local_distance
from blemish.nn.reverse import Bottleneck, Decoder, initialise
from blemish.teachers import FeaturePyramid

FEWEST = 2
"""Images of a domain: a batch of one has no statistics to normalise it by."""


def corrected(pyramid: Features, normal: Features, doubts: list[Tensor]) -> Features:
    """The teacher's features, but where they are doubted, the pseudo-normal ones: their directions, at the teacher's
    lengths, for a student is taught directions only.
    """
    return [
        torch.where(doubted, t.norm(dim=1, keepdim=True) / n.norm(dim=1, keepdim=True).clamp(min=1e-6) * n, t)
        for t, n, doubted in zip(pyramid, normal, doubts, strict=True)
    ]


@register("cdd", "Cross-domain distillation, fully unsupervised (Liu et al., arXiv 2508.18007)")
class CrossDomainDistillation(ReverseDistillation):
    """Reverse distillation from images of which some are bad, nobody knows which.

    The training images are dealt into domains, and each domain has a student of its own. Most of these students have
    not seen an image, and what is wrong with it they rebuild as if it were good. Where their mean is farthest from the
    teacher, the teacher is doubted, and the global student is taught that mean; elsewhere what the teacher says.
    Inference is that of `rd`.

    Ours, since we know the paper's abstract only: all that the fields of `Config` call ours, domains dealt at random
    once, both kinds of student trained in every step, the mean of all as aggregation, and that the teacher is believed
    where it is not doubted.
    """

    class Config(ReverseDistillation.Config):
        """Schedule of RD4AD, as the same authors' URD has it; the rest is ours."""

        domains: int = Field(default=3, ge=2, le=16, description="students beside the global one; ours")
        doubted: float = Field(
            default=0.1, gt=0, le=1, description="share of a batch's places where the teacher is doubted; ours"
        )

    config: Config
    domain: Tensor
    fast: ClassVar = {"steps": 300}
    only_for_training: ClassVar = ("students.", "domain", "others_remainder.")

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        channels, shape = teacher.info.channels, self.shape
        self.students = nn.ModuleList(
            nn.Sequential(Bottleneck(channels, shape), Decoder(channels, shape)) for _ in range(config.domains)
        )
        initialise(self.students)
        self.others_remainder = None if self.remainder is None else Remainder(len(channels))
        # Of every training image, known once their number is.
        self.register_buffer("domain", torch.zeros(1, dtype=torch.int64))

    def stages(self, images: int) -> Iterator[Stage]:
        """Deal the images into domains, then distil: in every step the domains' students and the global one.

        Raises
        ------
        UsageError
            If there are too few images for that many domains.
        """
        if images < FEWEST * self.config.domains:
            raise UsageError(
                f"{images} training images are too few for {self.config.domains} domains",
                todo="Set fewer domains, or train rd",
            )
        yield from self.statistics()
        self.domain = torch.randperm(images).to(self.domain.device) % self.config.domains
        yield self.distil([self.bottleneck, self.student, self.students], images, known=(self.domain,))
        yield from self.unexplained()
        if (remainder := self.others_remainder) is not None:
            numbers = itertools.count()

            def collect(image: Tensor) -> None:
                pyramid = self.pyramid(image)
                domain = self.domain[list(itertools.islice(numbers, len(image)))]
                remainder.add(pyramid, self.pseudo_normal(pyramid, domain))

            yield PassStage("what the domains' students leave", collect, lambda *_: remainder.learn())

    def losses(self, observed: Features) -> dict[str, Tensor]:
        """From the teacher's pyramid and each image's domain: the domains' students' loss and the global one's."""
        *pyramid, domain = observed
        normal = self.pseudo_normal(pyramid)
        targets = corrected(pyramid, normal, self.doubts(pyramid, normal, self.config.doubted))
        return {
            "domains": self.domains_loss(pyramid, domain),
            "aggregation": self.distillation(targets, self.rebuild(pyramid)),
        }

    def domains_loss(self, pyramid: Features, domain: Tensor) -> Tensor:
        """The loss of `rd` for each domain's student on the images of its domain, summed over the students."""
        total = pyramid[0].new_zeros(())
        for k, student in enumerate(self.students):
            own = domain == k
            if own.sum() >= FEWEST:
                seen = [level[own] for level in pyramid]
                total = total + self.distillation(seen, student(seen))
        return total

    @torch.no_grad()
    def pseudo_normal(self, pyramid: Features, without: Tensor | None = None) -> Features:
        """What the students make of each image, their mean, the shapes of `pyramid`: of all domains, or of all but
        that which `without` names for the image.

        They normalise by the statistics they have gathered: those of a batch would mix its images.
        """
        training = self.students.training
        self.students.eval()
        total = [torch.zeros_like(level) for level in pyramid]
        for k, student in enumerate(self.students):
            asked = torch.ones_like(pyramid[0][:, 0, 0, 0], dtype=torch.bool) if without is None else without != k
            if asked.any():
                for level, rebuilt in zip(total, student([level[asked] for level in pyramid]), strict=True):
                    level[asked] += rebuilt.to(level.dtype)
        self.students.train(training)
        return [level / (self.config.domains - (without is not None)) for level in total]

    @torch.no_grad()
    def doubts(self, pyramid: Features, normal: Features, share: float) -> list[Tensor]:
        """Where the map of the two is highest: that share of the places of a batch, B x 1 x h x w for each level."""
        with torch.autocast(pyramid[0].device.type, enabled=False):
            apart = self.head([local_distance(t, n) for t, n in zip(pyramid, normal, strict=True)])[:, None]
        levels = [F.adaptive_avg_pool2d(apart, (level.shape[2], level.shape[3])) for level in pyramid]
        return [level >= level.quantile(1 - share) for level in levels]

    def suspicion(self, image: Tensor, number: Tensor) -> AnomalyMap:
        """How far what the teacher sees in an image is from its pseudo-normal features, as `forward` measures it.

        No student that is asked has seen the image. An image that training did not have is dealt into a domain by its
        number, so that as many students are asked and the scores of both compare.
        """
        pyramid = self.pyramid(image)
        seen = number < len(self.domain)
        domain = torch.where(seen, self.domain[number.where(seen, 0)], number % self.config.domains)
        normal = self.pseudo_normal(pyramid, domain)
        return AnomalyMap.with_max_score(self.head(distances(pyramid, normal, self.others_remainder)))
