"""SPADE's gallery, distances and score against a plain computation, and what becomes of them in a graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from blemish.errors import UsageError
from blemish.export import check_parity, export_graph
from blemish.images import ImageContract
from blemish.methods import PassStage
from blemish.methods.spade import RESOLUTION, PyramidCorrespondences
from blemish.nn.preparation import Preparation
from blemish.runtime.graph import OnnxRuntimeGraph
from tiny import SIZE, part, teacher
from tiny import one_thread as one_thread  # applies to this module

PREPARATION = Preparation(0, 255, SIZE)


def method(**settings: float | None) -> PyramidCorrespondences:
    config = PyramidCorrespondences.Config.model_validate({"image_size": SIZE} | settings)
    return PyramidCorrespondences(config, teacher(config.strides)).eval()


def images(count: int, first: int = 0) -> Tensor:
    pictures: Tensor = PREPARATION(torch.from_numpy(np.stack([part(first + i) for i in range(count)])))
    return pictures


@torch.no_grad()
def fitted(count: int, batch: int = 4, **settings: float | None) -> PyramidCorrespondences:
    made = method(**settings)
    (stage,) = made.stages(count)
    assert isinstance(stage, PassStage)
    for start in range(0, count, batch):
        stage.collect(images(count)[start : start + batch])
    stage.finish(torch.Generator(), lambda _: None)
    return made


# What describes an image and a pixel


@torch.no_grad()
def test_an_image_is_the_mean_of_the_last_level_and_a_pixel_the_others_joined() -> None:
    made = method()
    of_image, of_pixels = made.embed(images(2))
    fine, middle, coarse, last = made.teacher(images(2))
    torch.testing.assert_close(of_image, last.flatten(2).mean(2))
    assert made.grid == fine.shape[2] == 16
    for b, row, column in [(0, 0, 0), (1, 3, 12), (0, 15, 15)]:
        joined = [fine[b, :, row, column]]
        for level in (middle, coarse):
            enlarged = F.interpolate(level, 16, mode="bilinear", align_corners=False)
            joined.append(enlarged[b, :, row, column])
        torch.testing.assert_close(of_pixels[b, 16 * row + column], torch.cat(joined), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_coarser_grid_averages_the_finer_levels() -> None:
    made = method(grid_stride=16)
    _, of_pixels = made.embed(images(1))
    fine, *_ = made.teacher(images(1))
    wanted = F.interpolate(fine, 4, mode="bilinear", antialias=True)
    assert made.grid == 4
    torch.testing.assert_close(of_pixels[:, :, : fine.shape[1]].transpose(1, 2).unflatten(2, (4, 4)), wanted)


def test_the_gallery_keeps_float16_of_every_image_in_order() -> None:
    made = fitted(7, batch=3)
    assert made.pixels.dtype == torch.float16
    of_image, of_pixels = made.embed(images(7))
    torch.testing.assert_close(made.images, of_image, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.pixels, of_pixels.half(), rtol=2e-3, atol=1e-3)


# What there is no room for


def test_images_beyond_the_limit_are_left_out_evenly() -> None:
    """An image takes 256 pixels x 176 features x 2 bytes, 90 kB: in 1 MB there is room for 11."""
    made = method(gallery_limit=1)
    assert made.kept(11) == list(range(11))
    assert made.kept(22) == list(range(0, 22, 2))
    assert made.kept(30) == [0, 2, 5, 8, 10, 13, 16, 19, 21, 24, 27]
    assert method(gallery_limit=2).kept(30) == sorted(set(method(gallery_limit=2).kept(30)))


def test_the_gallery_holds_just_those() -> None:
    made = fitted(30, gallery_limit=1)
    of_image, _ = made.embed(images(30)[made.kept(30)])
    assert len(made.images) == len(made.pixels) == 11
    torch.testing.assert_close(made.images, of_image, rtol=1e-4, atol=1e-5)


def test_a_limit_below_one_image_is_refused() -> None:
    config = PyramidCorrespondences.Config(image_size=1024, gallery_limit=1)
    made = PyramidCorrespondences(config, teacher(config.strides))
    with pytest.raises(UsageError, match=r"one image take 23\.1 MB and the gallery may hold 1\b") as caught:
        list(made.stages(10))
    assert "gallery_limit" in str(caught.value)
    assert "grid_stride" in str(caught.value)


# Map and score


@pytest.mark.parametrize("settings", [{"neighbours": 3}, {"neighbours": 50}, {"neighbours": 2, "grid_stride": 8}])
@torch.no_grad()
def test_map_and_score_by_plain_distances(settings: dict[str, float | None]) -> None:
    """Every difference written out, in double precision."""
    made = fitted(6, **settings)
    new = images(2, first=100)
    anomaly_map, score = made(new)
    of_image, of_pixels = (one.double() for one in made.embed(new))
    neighbours = min(int(settings["neighbours"] or 0), 6)
    for b in range(2):
        to_images = (of_image[b] - made.images.double()).square().sum(1).sqrt()
        nearest = to_images.argsort()[:neighbours]
        assert score[b].item() == pytest.approx(to_images[nearest].mean().item(), rel=1e-5)

        gallery = made.pixels[nearest].double().flatten(0, 1)
        distance = torch.stack([(pixel - gallery).square().sum(1).amin().sqrt() for pixel in of_pixels[b]])
        grid = distance.reshape(1, 1, made.grid, made.grid)
        enlarged = F.interpolate(grid, SIZE, mode="bilinear", align_corners=False)[0, 0].numpy()
        wanted = ndimage.gaussian_filter(enlarged, 4)
        assert np.allclose(anomaly_map[b].numpy(), wanted, rtol=1e-4)


@torch.no_grad()
def test_only_the_nearest_images_vouch() -> None:
    """A picture's own copy among the far ones does not help it."""
    made = fitted(6, neighbours=2)
    new = images(1, first=100)
    before = made(new).map
    _, of_pixels = made.embed(new)
    far = (made.embed(new)[0] - made.images).norm(dim=1).argmax()
    made.pixels[far] = of_pixels[0].half()
    assert torch.equal(made(new).map, before)
    near = (made.embed(new)[0] - made.images).norm(dim=1).argmin()
    made.pixels[near] = of_pixels[0].half()
    assert made(new).map.max() < 0.5 * before.max()


@torch.no_grad()
def test_a_defect_is_farther_than_what_was_seen() -> None:
    made = fitted(6)
    defect: Tensor = PREPARATION(torch.from_numpy(part(100, defect=True))[None])
    (good_map, good), (bad_map, bad) = made(images(1, first=100)), made(defect)
    assert bad > good
    row, column = divmod(int(bad_map[0].argmax()), SIZE)
    # The mask's rows 36 to 49 of 72 and columns 40 to 49 of 80, at 64 x 64, and half a coarse pixel around it.
    assert 28 <= row <= 48
    assert 28 <= column <= 44
    assert bad_map.max() > 1.5 * good_map.max()


@torch.no_grad()
def test_a_training_image_gets_the_floor_everywhere() -> None:
    """It is its own nearest neighbour; what is left of the distance is rounding, which the floor covers."""
    made = fitted(6)
    anomaly_map, _ = made(images(6)[2:3])
    _, of_pixels = made.embed(images(6)[2:3])
    floor = RESOLUTION * of_pixels[0].norm(dim=1).reshape(1, 1, made.grid, made.grid)
    enlarged = F.interpolate(floor, SIZE, mode="bilinear", align_corners=False)[0, 0].double().numpy()
    assert np.allclose(anomaly_map[0].numpy(), ndimage.gaussian_filter(enlarged, 4), rtol=1e-4)


# The graph


@pytest.mark.parametrize("settings", [{"neighbours": 3}, {"grid_stride": 8}])
def test_the_graph_agrees_on_new_and_on_remembered_images(settings: dict[str, float | None]) -> None:
    """With folds, the images that graph and torch are compared on are in the gallery."""
    made = fitted(6, **settings)
    graph = OnnxRuntimeGraph(export_graph(made, PREPARATION, ImageContract()))
    pictures = [part(0), part(4), part(100), part(101, defect=True)]
    parity = check_parity(graph, made, PREPARATION, pictures)
    assert parity.images == 4
