"""Resizing and smoothing as matrices, against torch, Pillow and scipy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

from blemish.nn.preparation import Preparation
from blemish.nn.resampling import MapHead, aligned_matrix, along_rows, resize, resize_matrix, smoothing_matrix

SIDES = (1, 2, 3, 7, 16, 31, 64, 97, 256)


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def lengths(*sizes: int) -> list[Tensor]:
    """Sizes as `resize_matrix` takes them. The values must be of no account, so they are odd ones."""
    return [random(size) * 100 - 50 for size in sizes]


def along_one_axis(line: Tensor, out: int, **how: bool) -> Tensor:
    """torch's bilinear resize of a 1 x N picture."""
    return F.interpolate(line[None, None, None], (1, out), mode="bilinear", **how)[0, 0, 0]


@pytest.mark.parametrize(("size", "out"), list(product(SIDES, SIDES)))
def test_resize_is_torch_with_antialias(size: int, out: int) -> None:
    line = random(size)
    matrix = resize_matrix(*lengths(size, out))

    assert matrix.shape == (out, size)
    assert matrix.min() >= 0
    torch.testing.assert_close(matrix.sum(1), torch.ones(out))
    torch.testing.assert_close(matrix @ line, along_one_axis(line, out, antialias=True), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("size", "out"), [(s, o) for s, o in product(SIDES, SIDES) if o >= s])
def test_enlarging_is_plain_bilinear(size: int, out: int) -> None:
    line = random(size)

    expected = along_one_axis(line, out, align_corners=False)
    torch.testing.assert_close(resize_matrix(*lengths(size, out)) @ line, expected, rtol=0, atol=2e-6)


def test_resize_by_hand() -> None:
    torch.testing.assert_close(
        resize_matrix(torch.zeros(2), torch.zeros(4)),
        torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]),
    )
    # Shrinking by two: a triangle four pixels wide around each centre, cut off at the border.
    torch.testing.assert_close(
        resize_matrix(torch.zeros(4), torch.zeros(2)),
        torch.tensor([[3 / 7, 3 / 7, 1 / 7, 0], [0, 1 / 7, 3 / 7, 3 / 7]]),
    )


@pytest.mark.parametrize(("height", "width"), [(13, 40), (256, 7), (40, 13), (64, 64), (50, 51)])
def test_resize_is_pillow(height: int, width: int) -> None:
    image = random(40, 50)
    pillow = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BILINEAR)

    resized = resize(image[None, None], torch.zeros(height), torch.zeros(width))[0, 0]
    assert np.allclose(resized.numpy(), np.asarray(pillow), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(30, 20), (2, 30, 20), (2, 3, 30, 20)])
def test_resize_takes_any_number_of_leading_axes(shape: tuple[int, ...]) -> None:
    image = random(*shape)
    flat = image.reshape(-1, 1, 30, 20)

    expected = F.interpolate(flat, (10, 45), mode="bilinear", antialias=True).reshape(*shape[:-2], 10, 45)
    torch.testing.assert_close(resize(image, torch.zeros(10), torch.zeros(45)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8, 31, 224, 300, 999])
@pytest.mark.parametrize("out", [1, 3, 8, 32, 224, 511])
def test_leaving_out_zeros_leaves_out_nothing_else(size: int, out: int) -> None:
    matrix = resize_matrix(torch.ones(size), torch.ones(out))
    x = torch.randn(2, size, 3, generator=torch.Generator().manual_seed(size))
    torch.testing.assert_close(along_rows(matrix, x), matrix @ x)
    whole = (100 * x).abs().to(torch.uint8)
    torch.testing.assert_close(along_rows(matrix, whole), matrix @ whole.float())


def test_a_constant_image_stays_constant() -> None:
    image = torch.full((1, 3, 37, 91), 0.7)
    for out in (1, 20, 64, 200):
        resized = resize(image, torch.zeros(out), torch.zeros(out))
        torch.testing.assert_close(resized, torch.full((1, 3, out, out), 0.7))


@pytest.mark.parametrize(("size", "out"), list(product(SIDES, SIDES)))
def test_aligned_corners_are_torch_s(size: int, out: int) -> None:
    line = random(size)

    expected = along_one_axis(line, out, align_corners=True)
    torch.testing.assert_close(aligned_matrix(size, out) @ line, expected, rtol=0, atol=2e-5)


# A kernel of sigma 4 reaches 16 pixels; on the small sizes it is mirrored back and forth several times.
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 16, 17, 33, 100, 256])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.7, 4.0, 11.0])
def test_smoothing_is_scipy_s(size: int, sigma: float) -> None:
    line = random(size).double()
    matrix = smoothing_matrix(size, sigma)

    expected = torch.from_numpy(ndimage.gaussian_filter1d(line.numpy(), sigma))
    torch.testing.assert_close(matrix.sum(1), torch.ones(size))
    torch.testing.assert_close(matrix.double() @ line, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("truncate", [1.0, 2.5])
def test_smoothing_with_a_shorter_kernel(truncate: float) -> None:
    line = random(60).double()

    expected = torch.from_numpy(ndimage.gaussian_filter1d(line.numpy(), 4.0, truncate=truncate))
    torch.testing.assert_close(smoothing_matrix(60, 4.0, truncate).double() @ line, expected, rtol=0, atol=1e-6)


def test_no_smoothing() -> None:
    assert torch.equal(smoothing_matrix(5, 0), torch.eye(5))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("sigma", [0, 4.0])
def test_the_head_is_enlarging_adding_and_smoothing(align_corners: bool, sigma: float) -> None:
    maps = [random(2, 16, 16), random(2, 8, 8), random(2, 4, 4)]
    head = MapHead([16, 8, 4], 64, sigma, align_corners=align_corners)

    enlarged = [F.interpolate(m[:, None], 64, mode="bilinear", align_corners=align_corners)[:, 0] for m in maps]
    expected = torch.stack(enlarged).sum(0).double().numpy()
    if sigma:
        expected = np.stack([ndimage.gaussian_filter(one, sigma) for one in expected])
    given = head(maps)

    assert given.shape == (2, 64, 64)
    assert np.allclose(given.numpy(), expected, rtol=0, atol=5e-6)
    assert not head.state_dict()


def test_a_single_channel_is_prepared_like_three_equal_ones() -> None:
    grey = torch.randint(0, 256, (2, 37, 53, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    prepare = Preparation(0, 255, 24)
    torch.testing.assert_close(prepare(grey).expand(-1, 3, -1, -1), prepare(grey.expand(-1, -1, -1, 3)))


def test_preparation_scales_the_declared_range_and_resizes() -> None:
    pixels = torch.randint(1000, 3001, (2, 50, 70, 3), generator=torch.Generator().manual_seed(0))
    prepare = Preparation(1000, 3000, 32)

    prepared = prepare(pixels.to(torch.uint16))
    scaled = (pixels.permute(0, 3, 1, 2).float() - 1000) / 2000
    expected = F.interpolate(scaled, (32, 32), mode="bilinear", antialias=True)
    assert prepared.shape == (2, 3, 32, 32)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(prepare(torch.full((1, 9, 9, 3), 3000.0)), torch.ones(1, 3, 32, 32), rtol=0, atol=1e-6)
