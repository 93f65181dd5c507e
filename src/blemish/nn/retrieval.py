"""Retrieval as in CPR (arXiv 2308.06748): first the most similar images, then the most similar patch near a place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nn.clusters import k_means, squared_distances

FOUND_IN_NO_BLOCK = 1e-8
SOFTNESS = 0.01


class WordHistograms(nn.Module):
    """Which visual words a picture shows where: for each of blocks x blocks parts, how often each word.

    A word is a cluster of feature vectors; a vector says the word that it is nearest to. Ours: between two words that
    are nearly as near it is shared, by a softmax of the squared distances over a hundredth of what they are on average.
    A graph rounds other than torch, and a vector that changed sides would reorder the pictures retrieved.

    Parameters
    ----------
    grid : of the feature map. dimension : of its vectors. words : how many. blocks : along a side.
    """

    words: Tensor
    softness: Tensor
    blocks: Tensor

    def __init__(self, grid: int, dimension: int, words: int, blocks: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(words, dimension))
        self.register_buffer("softness", torch.ones(()))
        along = torch.arange(blocks)[:, None] == torch.arange(grid) * blocks // grid
        both = (along[:, None, :, None] & along[None, :, None, :]).flatten(2).flatten(0, 1).float()
        self.register_buffer("blocks", both / both.sum(1, keepdim=True).clamp(min=1), persistent=False)

    def learn(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Take the words from N x D feature vectors."""
        words = k_means(vectors, len(self.words), generator)
        self.words.copy_(words)
        self.softness.copy_(SOFTNESS * squared_distances(vectors, words).amin(1).mean().clamp(min=1e-12))

    def forward(self, features: Tensor) -> Tensor:
        """B x D x h x w -> B x blocks^2 x words; the words of a block add up to 1."""
        distance = squared_distances(features.flatten(2).transpose(1, 2), self.words)
        histogram: Tensor = self.blocks @ torch.softmax(-distance / self.softness, 2)
        return histogram


def divergence(query: Tensor, references: Tensor, part: float) -> Tensor:
    """How little pictures resemble: B x blocks x words and R x blocks x words -> B x R.

    The Kullback-Leibler divergence of the query's histogram from the reference's, added over the `part` of all blocks
    where it is smallest, so that a defect in the others does not count.
    """
    query, references = query + FOUND_IN_NO_BLOCK, references + FOUND_IN_NO_BLOCK
    entropy = (query * query.log()).sum(2)
    cross = query.transpose(0, 1) @ references.log().permute(1, 2, 0)
    of_blocks = entropy[:, None] - cross.permute(1, 2, 0)
    kept = max(1, int(part * query.shape[1]))
    return of_blocks.topk(kept, dim=2, largest=False, sorted=False).values.sum(2)


def best_in_window(query: Tensor, references: Tensor, chosen: Tensor, window: int) -> Tensor:
    """Largest cosine of each patch with those within a window around the same place in some of the references.

    Parameters
    ----------
    query : B x D x h x w, unit vectors.
    references : hw x R x D, unit vectors; by place first, so that those of one place make one matrix.
    chosen : B x K, which of the R references each image is compared with.
    window : side of the window in patches, odd. What would lie beyond the border is left out.

    Returns
    -------
    Tensor, B x h x w, in [-1, 1].
    """
    height, width = query.shape[2:]
    reach = window // 2
    # Instead of gathering the window of every place from every reference, each reference patch is compared with the
    # queries whose window it lies in: these are gathered once, not once for each reference.
    padded = F.pad(query.permute(0, 2, 3, 1), (0, 0, reach, reach, reach, reach))
    around = torch.stack(
        [padded[:, i : i + height, j : j + width] for i in range(window) for j in range(window)], dim=3
    ).flatten(1, 2)
    there = references[:, chosen.flatten()].reshape(height * width, -1, *chosen.shape[1:], query.shape[1])
    cosine = (there.transpose(0, 1).float() @ around.transpose(2, 3)).amax(2)
    planes = cosine.transpose(1, 2).reshape(-1, window * window, height, width)
    planes = F.pad(planes, (reach, reach, reach, reach), value=-2.0)
    best = planes[:, 0, 2 * reach :, 2 * reach :]
    for offset in range(1, window * window):
        down, right = 2 * reach - offset // window, 2 * reach - offset % window
        best = torch.maximum(best, planes[:, offset, down : down + height, right : right + width])
    return best


class Inception(nn.Module):
    """Three 1x1 convolutions and one 3x3, side by side; one of the former after a 3x3 mean (Szegedy et al., 2015).

    As CPR's code has it, each gives a quarter of the outputs, and two of the 1x1 are alike.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        quarter = outputs // 4
        self.plain = nn.ModuleList([_convolution(inputs, quarter, 1), _convolution(inputs, quarter, 1)])
        self.wide = nn.Sequential(_convolution(inputs, inputs // 4, 1), _convolution(inputs // 4, quarter, 3))
        mean = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.mean = nn.Sequential(mean, _convolution(inputs, quarter, 1))

    def forward(self, x: Tensor) -> Tensor:
        """B x inputs x h x w -> B x outputs x h x w."""
        first, second = self.plain
        return torch.cat([first(x), self.wide(x), second(x), self.mean(x)], 1)


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU())


class RetrievalBranch(nn.Module):
    """Turns a teacher's level into the features that patches are compared by: 1x1, Inception, 1x1.

    Parameters
    ----------
    channels : of the level. width : of the first layer, a multiple of 4; the Inception gives a third more.
    dimension : of the features.
    """

    def __init__(self, channels: int, width: int, dimension: int) -> None:
        super().__init__()
        wider = width // 3 * 4
        first = [nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*first, Inception(width, wider))
        self.last = nn.Conv2d(wider, dimension, 1)

    def forward(self, level: Tensor, points: Tensor | None = None) -> Tensor:
        """B x C x h x w -> unit vectors B x D x h x w; or B x P x D, those at `points` only, as `sample` has them."""
        features = self.body(level)
        if points is None:
            return F.normalize(self.last(features))
        # What is linear may come after the sampling, and costs less there.
        vectors = F.linear(sample(features, points), self.last.weight.flatten(1), self.last.bias)
        return F.normalize(vectors.float(), dim=2)


def sample(features: Tensor, points: Tensor) -> Tensor:
    """Features at points, bilinear between four places, the edge repeated: B x C x h x w -> B x P x C.

    Parameters
    ----------
    points : B x P x 2, row and column in [0, 1] of the picture.

    Written as gathers, whose gradient is the same at every run on every device.
    """
    count, _, height, width = features.shape
    by_place = features.flatten(2).transpose(1, 2)
    size = points.new_tensor([height, width])
    place = torch.minimum((points * size - 0.5).clamp(min=0), size - 1)
    low = place.floor().long()
    high = torch.minimum(low + 1, size.long() - 1)
    part = (place - low).to(features.dtype)
    image = torch.arange(count, device=features.device)[:, None]
    total = torch.zeros_like(by_place[:, :1])
    for row, in_row in ((low[..., 0], 1 - part[..., 0]), (high[..., 0], part[..., 0])):
        for column, in_column in ((low[..., 1], 1 - part[..., 1]), (high[..., 1], part[..., 1])):
            total = total + (in_row * in_column)[..., None] * by_place[image, row * width + column]
    return total


def draw_points(weight: Tensor, count: int) -> Tensor:
    """Pixels drawn by weight, B x S x S, with replacement: B x count x 2, row and column in [0, 1].

    An image whose weights are all 0 gets pixels from anywhere. Draws are of torch's global generator, on the CPU.
    """
    flat = weight.flatten(1).float().cpu()
    flat = torch.where(flat.any(1, keepdim=True), flat, 1.0)
    drawn = flat.multinomial(count, replacement=True)
    size = weight.shape[-1]
    return ((torch.stack([drawn // size, drawn % size], 2) + 0.5) / size).to(weight.device)


def contrast(cosine: Tensor, weight: Tensor, *, alike: bool) -> Tensor:
    """The contrastive loss of pairs of vectors, of any shape: what is lacking to 0.8, or exceeds -0.2, to the third.

    Sum of (weight max(0, 0.8 - cosine))^3 where pairs should be `alike`, else of (weight max(0, cosine + 0.2))^3, over
    the number of pairs with a weight above 0 (published code).
    """
    beyond = (0.8 - cosine if alike else cosine + 0.2).clamp(min=0)
    return (beyond * weight).pow(3).sum() / (weight > 0).sum().clamp(min=1)


@dataclass(frozen=True)
class Pairs:
    """Places of two pictures that a branch is trained on: B x P x 2 in [0, 1] each.

    same : a good place of both. other : of the first picture, unlike the second's `same`. wrong : of the first picture,
    an anomaly there and good in the second.
    apart : B x P, 1 where `other` counts. spoiled : B, 1 where the first picture has an anomaly.
    """

    same: Tensor
    other: Tensor
    wrong: Tensor
    apart: Tensor
    spoiled: Tensor

    def loss(self, branch: nn.Module, level: Tensor) -> Tensor:
        """The contrast of all pairs; `level`: 2 B x C x h x w of the teacher, first pictures first.

        Pairs of `other` weigh by how far apart the teacher has them, 1 on average (published code).
        """
        first = torch.cat([self.same, self.other, self.wrong], 1)
        second = torch.cat([self.same, self.same, self.wrong], 1)
        one, two = branch(level, torch.cat([first, second])).chunk(2)
        count = self.same.shape[1]
        cosine = (one * two).sum(2)
        one, two = sample(level.float(), torch.cat([self.other, self.same])).chunk(2)
        distance = (one - two).square().sum(2) * self.apart
        of_other = distance / distance.sum(1, keepdim=True).clamp(min=1e-7) * self.apart.sum(1, keepdim=True)
        weight = torch.cat([of_other, self.spoiled[:, None].expand_as(of_other)], 1)
        good = contrast(cosine[:, :count], torch.ones_like(weight[:, :count]), alike=True)
        return good + contrast(cosine[:, count:], weight, alike=False)
