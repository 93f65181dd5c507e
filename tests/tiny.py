"""Small made-up parts and settings: enough to train every method in a moment."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blemish.methods import Method, MethodConfig
from blemish.teachers import DEFAULT_TEACHER, FeaturePyramid, open_teacher

SIZE = 64


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other on work this small; a module takes this fixture by importing it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def part(
    number: int, shape: tuple[int, int] = (72, 80), *, grey: bool = False, defect: bool = False
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A disc on a rough ground, H x W x 3, or H x W if `grey`; no two numbers give the same picture."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: shape[0], : shape[1]]
    disc = (y - shape[0] / 2) ** 2 + (x - shape[1] / 2 - rng.integers(-3, 4)) ** 2 < (min(shape) / 3) ** 2
    picture = 90 + 70.0 * disc[..., None] * [1, 0.8, 0.5] + rng.normal(0, 6, (*shape, 3))
    if defect:
        picture[defect_mask(shape)] = [10, 10, 250]
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = picture.clip(0, 255).astype(np.uint8)
    return pixels[..., 0] if grey else pixels


def defect_mask(shape: tuple[int, int] = (72, 80)) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where the defect of a `part` is, bool H x W."""
    mask = np.zeros(shape, bool)
    mask[shape[0] // 2 : shape[0] // 2 + 14, shape[1] // 2 : shape[1] // 2 + 10] = True
    return mask


def make_parts(folder: Path, count: int, *, first: int = 0, grey: bool = False, defect: bool = False) -> Path:
    """Write `count` parts as PNG files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.fromarray(part(number, grey=grey, defect=defect)).save(folder / f"{number:03}.png")
    return folder


def settings_for(method: type[Method]) -> dict[str, Any]:
    """Hyper-parameters that make any method tiny."""
    gradient = {"steps": 3, "batch_size": 4}
    return {"image_size": SIZE} | {
        name: value for name, value in gradient.items() if name in method.Config.model_fields
    }


def config_for(method: type[Method]) -> MethodConfig:
    """The paper's config, made tiny."""
    return method.Config.model_validate(settings_for(method))


@cache
def teacher(strides: tuple[int, ...]) -> FeaturePyramid:
    """The embedded teacher; it is frozen, so all tests may share one."""
    return open_teacher(DEFAULT_TEACHER, strides=strides)
