"""How strange a place is: by hand, against the plain formula, and what bad images change of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blemish.nn.strangeness import Strangeness

CHANNELS, GRIDS = (3, 4), (8, 4)


def pyramids(images: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(images, c, g, g, generator=generator) for c, g in zip(CHANNELS, GRIDS, strict=True)]
    # Channels of different size, around a mean: nothing may depend on their unit.
    return [7 * level + 3 for level in levels]


def made(pyramid: list[Tensor], domain: Tensor, domains: int = 3, **options: int) -> tuple[Strangeness, Tensor]:
    """What these images teach, added in two batches, and their strangeness."""
    one = Strangeness(CHANNELS, GRIDS, domains, **options)
    for part in (slice(0, 5), slice(5, None)):
        one.add([level[part] for level in pyramid], domain[part])
    one.learn()
    for part in (slice(0, 5), slice(5, None)):
        one.judge([level[part] for level in pyramid], domain[part])
    return one, one.settle()


def test_a_distance_is_that_of_the_plain_formula() -> None:
    pyramid, domain = pyramids(12), torch.arange(12) % 3
    one, _ = made(pyramid, domain, places=4)
    fine = torch.nn.functional.avg_pool2d(pyramid[0], 2)
    values = torch.cat([fine, pyramid[1]], 1).double()  # 12 x 7 x 4 x 4
    shrinkage = torch.diag(values.transpose(0, 1).flatten(1).var(1, correction=0))

    found = one.distance(pyramid, domain)
    assert found.shape == (12, 4, 4)
    for image, row, column in [(0, 0, 0), (4, 1, 3), (11, 2, 2)]:
        others = values[domain != domain[image], :, row, column]
        covariance = torch.cov(others.T, correction=0) + shrinkage
        apart = values[image, :, row, column] - others.mean(0)
        wanted = (apart @ torch.linalg.inv(covariance) @ apart).sqrt()
        assert found[image, row, column].item() == pytest.approx(wanted.item(), rel=1e-4)


def test_usual_is_one_at_every_place() -> None:
    pyramid, domain = pyramids(13), torch.arange(13) % 3
    pyramid[0][:, :, :2] *= 9  # places where images differ more
    one, strange = made(pyramid, domain)

    torch.testing.assert_close(strange.median(0).values, torch.ones(8, 8))
    torch.testing.assert_close(one(pyramid, domain), strange)


def test_an_image_has_no_part_in_its_own_judgement() -> None:
    """An image of domain 0 becomes wild: the distances of its domain's images stay, as their judges did."""
    pyramid, domain = pyramids(12), torch.arange(12) % 3
    wild = [level.clone() for level in pyramid]
    for level in wild:
        level[0] = level[0].flip(0) + 1
    unit = [level[:1] * 0 for level in pyramid]
    before, _ = made(pyramid, domain)
    after, _ = made(wild, domain)

    own = torch.zeros(1, dtype=torch.int64)
    torch.testing.assert_close(before.mean[0], after.mean[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before.mean[1], after.mean[1], rtol=1e-3)
    assert before.distance(unit, own).shape == (1, 8, 8)


def test_a_blemish_is_found_though_it_is_among_the_images() -> None:
    """Two of 24 images have one, at different places: those are the strangest of all places, by far."""
    pyramid, domain = pyramids(24), torch.arange(24) % 3
    for image, row in ((4, 1), (17, 6)):
        pyramid[0][image, :, row, 3] += 60
    _, strange = made(pyramid, domain)

    first, second = strange.flatten().topk(2).indices.tolist()
    assert {first, second} == {4 * 64 + 8 + 3, 17 * 64 + 6 * 8 + 3}
    rest = strange.flatten().clone()
    rest[[first, second]] = 0
    assert strange.flatten().topk(2).values.min() > 1.5 * rest.max()


def test_channels_are_drawn_and_places_bounded() -> None:
    torch.manual_seed(1)
    one = Strangeness((40, 80), (64, 32), 2, features=16)

    assert one.grid == 16
    assert len(one.chosen.unique()) == 16
    assert one.whitening.shape == (2, 256, 16, 16)
    assert Strangeness((40,), (8,), 2).grid == 8
