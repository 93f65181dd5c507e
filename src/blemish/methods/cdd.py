"""CDD: cross-domain distillation for fully unsupervised anomaly detection."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.methods.base import AnomalyMap, Features, PassStage, Stage, register
from blemish.methods.rd import ReverseDistillation
from blemish.nn.resampling import MapHead
from blemish.nn.reverse import Bottleneck, Decoder, initialise
from blemish.nn.strangeness import Strangeness
from blemish.teachers import FeaturePyramid

FEWEST = 2
"""Images of a domain: a batch of one has no statistics to normalise it by."""
OUTSIDERS = 0.25
"""The share of images, the strangest, that have no say in what is usual."""


def corrected(pyramid: Features, normal: Features, doubts: list[Tensor]) -> Features:
    """The teacher's features, but where they are doubted, the pseudo-normal ones: their directions, at the teacher's
    lengths, for a student is taught directions only.
    """
    return [
        torch.where(doubted, t.norm(dim=1, keepdim=True) / n.norm(dim=1, keepdim=True).clamp(min=1e-6) * n, t)
        for t, n, doubted in zip(pyramid, normal, doubts, strict=True)
    ]


def without(pyramid: Features, doubts: list[Tensor]) -> Features:
    """The features with nothing where they are doubted: a cosine of the whole level does not see those places."""
    return [level * ~doubted for level, doubted in zip(pyramid, doubts, strict=True)]


@register("cdd", "Cross-domain distillation, fully unsupervised (Liu et al., arXiv 2508.18007)")
class CrossDomainDistillation(ReverseDistillation):
    """Reverse distillation from images of which some are bad, nobody knows which.

    The training images are dealt into domains. What the teacher sees at a place of an image is doubted where it is
    strange to the images of the other domains. Each domain has a student of its own, which is taught no doubted place:
    so its domain holds fewer anomalies. The global student is taught what the teacher says, but where that is doubted,
    the mean of what the domains' students make of the image. Inference is that of `rd`.

    The fast preset teaches nothing at doubted places and needs no domains' students: in short schedules that was as
    good or better, at a third of the cost. It is half as long as that of `rd`: what is rare is learned late.

    Ours, since we know the paper's abstract only: all that the fields of `Config` call ours, domains dealt at random
    once, both kinds of student trained in every step, the mean of all as aggregation, and how domains come to hold
    fewer anomalies.
    """

    class Config(ReverseDistillation.Config):
        """Schedule of RD4AD, as the same authors' URD has it; the rest is ours."""

        domains: int = Field(default=3, ge=2, le=16, description="students beside the global one; ours")
        doubted: float = Field(
            default=1.4, gt=1, description="how many times as strange as usual a place is where it is doubted; ours"
        )
        taught: Literal["students", "nothing"] = Field(
            default="students",
            description="what the global student is taught at doubted places: the mean of the domains' students, or "
            "nothing, and then there are none of these",
        )

    config: Config
    domain: Tensor
    doubted: Tensor
    fast: ClassVar = {"steps": 150, "taught": "nothing"}
    only_for_training: ClassVar = ("students.", "domain", "doubted", "strangeness.")

    def __init__(self, config: Config, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        channels, shape = teacher.info.channels, self.shape
        self.students = nn.ModuleList(
            nn.Sequential(Bottleneck(channels, shape), Decoder(channels, shape))
            for _ in range(config.domains if config.taught == "students" else 0)
        )
        initialise(self.students)
        self.strangeness = Strangeness(channels, teacher.grids(config.image_size), config.domains)
        side = self.strangeness.grid
        self.strange_head = MapHead([side], config.image_size, config.sigma, align_corners=False)
        # Of every training image, known once their number is.
        self.register_buffer("domain", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("doubted", torch.zeros(1, side, side, dtype=torch.bool))

    def stages(self, images: int) -> Iterator[Stage]:
        """Deal the images into domains, look at all of them for what is strange, then distil: in every step
        the domains' students and the global one.

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
        device = self.domain.device
        self.domain = torch.randperm(images).to(device) % self.config.domains
        self.doubted = torch.zeros(images, *self.doubted.shape[1:], dtype=torch.bool, device=device)
        yield self.look("what is usual", self.add, self.strangeness.learn)
        yield self.look("what is strange", self.judge, self.doubt_outsiders)
        yield self.look("what is usual without outsiders", self.add, self.strangeness.learn)
        yield self.look("what is strange to the rest", self.judge, self.doubt_places)
        yield self.distil([self.bottleneck, self.student, self.students], images, known=(self.domain, self.doubted))
        yield from self.unexplained()

    def look(self, name: str, at: Callable[[Features, Tensor], None], finish: Callable[[], None]) -> PassStage:
        """The stage that shows all images' pyramids and numbers."""
        numbers = itertools.count()

        def collect(image: Tensor) -> None:
            at(self.pyramid(image), torch.tensor(list(itertools.islice(numbers, len(image))), device=image.device))

        return PassStage(name, collect, lambda *_: finish())

    def add(self, pyramid: Features, number: Tensor) -> None:
        """To what is usual, all images but those that are doubted as a whole."""
        believed = ~self.doubted[number].flatten(1).all(1)
        self.strangeness.add([level[believed] for level in pyramid], self.domain[number[believed]])

    def judge(self, pyramid: Features, number: Tensor) -> None:
        """How strange images are."""
        self.strangeness.judge(pyramid, self.domain[number])

    def doubt_outsiders(self) -> None:
        """Doubt the strangest images as a whole, for the time being."""
        strangest = self.strangeness.settle().amax((1, 2))
        self.doubted.copy_((strangest > strangest.quantile(1 - OUTSIDERS))[:, None, None].expand_as(self.doubted))

    def doubt_places(self) -> None:
        """Doubt the strange places of all images."""
        self.doubted.copy_(self.strangeness.settle() > self.config.doubted)

    def losses(self, observed: Features) -> dict[str, Tensor]:
        """From the teacher's pyramid and each image's domain and doubted places: the domains' students' loss, if there
        are any, and the global one's.
        """
        *pyramid, domain, doubted = observed
        doubts = self.doubts(pyramid, doubted)
        if not self.students:
            return {"distillation": self.distillation(without(pyramid, doubts), without(self.rebuild(pyramid), doubts))}
        targets = corrected(pyramid, self.pseudo_normal(pyramid), doubts)
        return {
            "domains": self.domains_loss(pyramid, domain, doubts),
            "aggregation": self.distillation(targets, self.rebuild(pyramid)),
        }

    def domains_loss(self, pyramid: Features, domain: Tensor, doubts: list[Tensor]) -> Tensor:
        """The loss of `rd` without the doubted places, for each domain's student on the images of its domain, summed
        over the students.
        """
        total = pyramid[0].new_zeros(())
        for k, student in enumerate(self.students):
            own = domain == k
            if own.sum() >= FEWEST:
                seen, places = [level[own] for level in pyramid], [level[own] for level in doubts]
                total = total + self.distillation(without(seen, places), without(student(seen), places))
        return total

    @torch.no_grad()
    def pseudo_normal(self, pyramid: Features) -> Features:
        """What the students of all domains make of each image, their mean, the shapes of `pyramid`.

        They normalise by the statistics they have gathered: those of a batch would mix its images.
        """
        training = self.students.training
        self.students.eval()
        by_student = [[level.float() for level in student(pyramid)] for student in self.students]
        self.students.train(training)
        return [torch.stack(levels).mean(0) for levels in zip(*by_student, strict=True)]

    @staticmethod
    def doubts(pyramid: Features, doubted: Tensor) -> list[Tensor]:
        """Doubted places, bool B x g x g, for each level of B x C x h x w: B x 1 x h x w; any of those it covers."""
        places = doubted[:, None].float()
        return [
            (
                F.interpolate(places, level.shape[2:], mode="nearest")
                if level.shape[2] > places.shape[2]
                else F.adaptive_max_pool2d(places, level.shape[2])
            )
            > 0
            for level in pyramid
        ]

    def suspicion(self, image: Tensor, number: Tensor) -> AnomalyMap:
        """How many times as strange as usual its strangest place is to the images of the other domains.

        An image that training did not have is dealt into a domain by its number, so that as many images judge it and
        the scores of both compare.
        """
        seen = number < len(self.domain)
        domain = torch.where(seen, self.domain[number.where(seen, 0)], number % self.config.domains)
        return AnomalyMap.with_max_score(self.strange_head([self.strangeness(self.pyramid(image), domain)]))
