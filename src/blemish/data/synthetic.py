"""A made-up product line: steel gears on a conveyor belt, good ones and four kinds of defects.

A gear is a field of heights that one lamp shines on. Defects change the heights, the colour or the outline, so light
falls on a dent as it does on the rest of the part, and every mask is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.errors import DataError, UsageError

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# Lengths are in units of half the picture's side; the origin is the middle of the part.
TEETH, TIP_RADIUS, ROOT_RADIUS = 28, 0.83, 0.73
RIM_RADIUS, HUB_RADIUS, BORE_RADIUS = 0.61, 0.34, 0.20
TOOTH_WIDTH, FLANK_SLOPE = 0.118, 0.30
HOLES, HOLE_CIRCLE, HOLE_RADIUS = 6, 0.475, 0.072
KEYWAY_WIDTH, KEYWAY_DEPTH = 0.09, 0.085
CHAMFER = 0.022
"""Width of the bevel along every edge."""
FRACTURE = 0.03
"""Width of the rough surface where a piece broke off."""

STEEL = np.array([0.36, 0.37, 0.385], np.float32)
CASTING = np.array([0.17, 0.18, 0.195], np.float32)
BELT = np.array([0.040, 0.062, 0.058], np.float32)
OIL = np.array([0.34, 0.20, 0.07], np.float32)

OVERSAMPLING = 2


def make_product_line(
    root: Path,
    *,
    n_train: int = 120,
    n_test_good: int = 24,
    n_per_defect: int = 8,
    size: int = 256,
    seed: int = 0,
) -> Path:
    """Draw a dataset of the layout mvtec: train/good, test/good, and scratch, dent, stain and chip with their masks.

    Parameters
    ----------
    root : folder to make; it must not exist yet or be empty.
    n_train, n_test_good : number of good parts.
    n_per_defect : number of bad parts of each of the four kinds.
    size : side of the square pictures in pixels, at least 64.
    seed : the same seed gives the same bytes. A picture depends on the seed, its kind and its number alone, so
        asking for more of a kind adds to those that fewer would give.

    Returns
    -------
    `root`.

    Raises
    ------
    UsageError : `size` is too small or a number is negative.
    DataError : `root` already holds something.
    """
    if size < 64 or min(n_train, n_test_good, n_per_defect) < 0:
        raise UsageError(
            "a product line needs a size of 64 or more and numbers of parts of 0 or more",
            where=f"size {size}, parts {n_train}, {n_test_good}, {n_per_defect}",
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError("this already exists", where=root, todo="Name a new folder, or empty this one.")

    counts = {("train", "good"): n_train, ("test", "good"): n_test_good} | {
        ("test", kind): n_per_defect for kind in DEFECTS
    }
    for group, ((split, kind), count) in enumerate(counts.items()):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture, mask = draw_part(np.random.default_rng([seed, group, number]), kind, size)
            Image.fromarray(picture).save(root / split / kind / f"{number:03d}.png")
            if kind in DEFECTS:
                (root / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(
                    root / "ground_truth" / kind / f"{number:03d}_mask.png"
                )
    return root


def draw_part(rng: np.random.Generator, kind: str, size: int) -> tuple[NDArray[np.uint8], Mask]:
    """Draw one part.

    Parameters
    ----------
    kind : "good" or a key of `DEFECTS`.
    size : side in pixels.

    Returns
    -------
    picture : size x size x 3, RGB.
    mask : size x size, the pixels that the defect changed; empty for a good part.
    """
    # The defect has a generator of its own: a bad part is the good part of the same `rng` but for the defect.
    of_defect = rng.spawn(1)[0]
    part = _make_part(rng, size * OVERSAMPLING)
    covered = DEFECTS[kind](part, of_defect) if kind in DEFECTS else np.zeros(part.x.shape, np.bool_)
    return _photograph(_shine(part, rng), rng), _shrink(covered) >= 0.5


@dataclass
class _Part:
    """A part in its pose. All arrays are side x side, and so are all coverages, which lie in [0, 1].

    x, y, radius, angle : position on the part.
    pixel : side of a pixel, in the units of x and y.
    inside : distance to the nearest edge of the metal, negative outside.
    height : of the surface.
    turned : coverage by turned steel; the rest is casting.
    colour : side x side x 3, in linear light.
    gloss : factor on what is reflected as by a mirror.
    """

    x: Array
    y: Array
    radius: Array
    angle: Array
    pixel: float
    inside: Array
    height: Array
    turned: Array
    colour: Array
    gloss: Array


def _make_part(rng: np.random.Generator, side: int) -> _Part:
    pixel = 2 / side
    axis = (np.arange(side, dtype=np.float32) + 0.5) * pixel - 1
    shift_x, shift_y = rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)
    turn = math.radians(rng.uniform(-3, 3))
    right, down = axis[None, :] - shift_x, axis[:, None] - shift_y
    x = right * math.cos(turn) + down * math.sin(turn)
    y = down * math.cos(turn) - right * math.sin(turn)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)

    inside = _inside(x, y, radius, angle)
    recess = _step(radius - HUB_RADIUS, CHAMFER) * _step(RIM_RADIUS - radius, CHAMFER)
    # Turning leaves grooves round the axis: rough across them, smooth along them.
    grooves = _polar_noise(rng, radius, angle, rings=int(1.1 / (1.6 * pixel)), sectors=9)
    cast = _noise(rng, side, side // 85) + 0.7 * _noise(rng, side, side // 36)
    bevel = CHAMFER * _step(CHAMFER - inside, CHAMFER)
    turned = 1 - recess
    height = 0.14 * pixel * grooves * turned + (0.0016 * cast - 0.035) * recess - bevel
    mottled = 1 + 0.05 * _noise(rng, side, side // 5) + 0.05 * cast * recess
    colour = (STEEL * turned[..., None] + CASTING * recess[..., None]) * mottled[..., None]
    return _Part(x, y, radius, angle, pixel, inside, height, turned, colour, 1 - 0.75 * recess)


def _inside(x: Array, y: Array, radius: Array, angle: Array) -> Array:
    """Distance to the nearest edge of a gear's metal, negative outside; exact near the edges."""
    pitch = 2 * math.pi / TEETH
    folded = (angle + pitch / 2) % pitch - pitch / 2
    out, aside = radius * np.cos(folded), radius * np.abs(np.sin(folded))
    # A tooth is a wedge cut off at the tip; it goes on inwards, so that no edge shows where it meets the disc.
    flank = (TOOTH_WIDTH / 2 - aside - FLANK_SLOPE * (out - ROOT_RADIUS)) / math.hypot(1, FLANK_SLOPE)
    teeth = np.maximum(ROOT_RADIUS - radius, np.minimum(TIP_RADIUS - out, flank))
    keyway = np.maximum(np.abs(x) - KEYWAY_WIDTH / 2, np.maximum(-y - BORE_RADIUS - KEYWAY_DEPTH, y))
    sector = 2 * math.pi / HOLES
    folded = (angle + sector / 2) % sector - sector / 2
    holes = np.hypot(radius * np.cos(folded) - HOLE_CIRCLE, radius * np.sin(folded)) - HOLE_RADIUS
    inside: Array = np.minimum.reduce([teeth, radius - BORE_RADIUS, keyway, holes])
    return inside


def _shine(part: _Part, rng: np.random.Generator) -> Array:
    """Light that comes to the camera: size x size x 3, linear, about [0, 1]."""
    # The lamp is fixed to the machine; only its mounting trembles.
    azimuth, elevation = math.radians(-128 + rng.uniform(-3, 3)), math.radians(50 + rng.uniform(-1.5, 1.5))
    lamp = (math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation), math.sin(elevation))
    # Half way between the lamp and the camera, which looks straight down.
    norm = math.hypot(lamp[0], lamp[1], lamp[2] + 1)
    half = (lamp[0] / norm, lamp[1] / norm, (lamp[2] + 1) / norm)

    down, right = np.gradient(part.height, part.pixel)
    length = np.sqrt(1 + down * down + right * right)
    lit = np.maximum((lamp[2] - right * lamp[0] - down * lamp[1]) / length, 0)
    mirrored = np.maximum((half[2] - right * half[0] - down * half[1]) / length, 0) ** 40
    # A groove mirrors the lamp where it runs across the light: the two bright wedges of every turned face.
    along = (part.x * half[1] - part.y * half[0]) / np.maximum(part.radius, 0.02)
    wedge = np.exp(-40 * along * along)
    glint = part.gloss * (0.55 * mirrored + 0.50 * wedge * part.turned * lit)
    coverage = np.clip(part.inside / part.pixel + 0.5, 0, 1)
    ambient_and_lit, glint = (0.08 + 0.80 * lit) * coverage, glint * coverage
    metal = [_shrink(part.colour[..., channel] * ambient_and_lit + glint) for channel in range(3)]
    return np.stack(metal, axis=-1) + _belt(part, lamp, rng) * (1 - _shrink(coverage))[..., None]


def _belt(part: _Part, lamp: tuple[float, float, float], rng: np.random.Generator) -> Array:
    """The woven conveyor belt, size x size x 3, with the shadow of the part."""
    x, y = part.x[::OVERSAMPLING, ::OVERSAMPLING], part.y[::OVERSAMPLING, ::OVERSAMPLING]
    size = len(x)
    thread = np.arange(size, dtype=np.float32) * np.float32(2 * math.pi / 4.3)
    weave = np.sin(thread + rng.uniform(0, 6))[None, :] * np.sin(thread + rng.uniform(0, 6))[:, None]
    pattern = 1 + 0.22 * weave + 0.10 * _noise(rng, size, 1) + 0.10 * _noise(rng, size, size // 6)
    # The shadow lies away from the lamp and is soft, because the lamp is wide.
    outline = (TIP_RADIUS + ROOT_RADIUS) / 2 - np.hypot(x + 0.07 * lamp[0], y + 0.07 * lamp[1])
    shadow = 0.80 * _step(outline + 0.06, 0.11)
    belt: Array = BELT * (pattern * (1 - shadow))[..., None]
    return belt


def _photograph(light: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, the lens's fall-off, the sensor's noise and gamma."""
    axis = np.linspace(-1, 1, len(light), dtype=np.float32)
    falloff = 1 - 0.10 * (axis[None, :] ** 2 + axis[:, None] ** 2)
    tilt = 1 + rng.uniform(-0.04, 0.04) * axis[None, :] + rng.uniform(-0.04, 0.04) * axis[:, None]
    balance = rng.uniform(0.99, 1.01, 3).astype(np.float32)
    light = light * (falloff * tilt * rng.uniform(0.95, 1.05))[..., None] * balance
    noise = rng.standard_normal(light.shape, dtype=np.float32) * np.sqrt(np.maximum(light, 0) * 1.5e-4 + 1e-6)
    grey_values: Array = 255 * np.clip(light + noise, 0, 1) ** (1 / 2.2)
    return np.rint(grey_values).astype(np.uint8)


def _scratch(part: _Part, rng: np.random.Generator) -> Mask:
    """A tool slipped: a thin bowed groove with a burr, bright where it is fresh."""
    radius, angle = rng.uniform(0.32, 0.64), rng.uniform(-math.pi, math.pi)
    centre = radius * np.array([math.cos(angle), math.sin(angle)])
    heading, length = angle + rng.uniform(-1.1, 1.1), rng.uniform(0.22, 0.46)
    tangent = np.array([math.cos(heading), math.sin(heading)])
    normal = np.array([-math.sin(heading), math.cos(heading)])
    bow = rng.uniform(-0.06, 0.06)
    t = np.linspace(-1, 1, 160)
    points = centre + np.outer(t * length / 2, tangent) + np.outer(bow * (1 - t**2), normal)
    across, along = _nearest(part, points)
    width = max(rng.uniform(0.006, 0.010), 1.1 * part.pixel * OVERSAMPLING)
    pressure = np.sqrt(np.maximum(1 - np.abs(2 * along - 1) ** 4, 0)).astype(np.float32)
    groove = np.exp(-((across / (0.5 * width)) ** 2)) * pressure
    part.height -= 0.012 * groove
    part.colour += (rng.uniform(0.25, 0.5) * groove)[..., None]
    covered: Mask = (across < width) & (pressure > 0.2) & (part.inside > 0)
    return covered


def _nearest(part: _Part, points: NDArray[np.float64]) -> tuple[Array, Array]:
    """Distance to the nearest of the points on a curve, and where on the curve that is in [0, 1]; infinite far away."""
    reach = 0.05
    near = (
        (part.x > points[:, 0].min() - reach)
        & (part.x < points[:, 0].max() + reach)
        & (part.y > points[:, 1].min() - reach)
        & (part.y < points[:, 1].max() + reach)
    )
    squares = (part.x[near, None] - points[:, 0].astype(np.float32)) ** 2
    squares += (part.y[near, None] - points[:, 1].astype(np.float32)) ** 2
    across, along = np.full_like(part.x, np.inf), np.zeros_like(part.x)
    across[near] = np.sqrt(squares.min(axis=1))
    along[near] = squares.argmin(axis=1) / (len(points) - 1)
    return across, along


def _dent(part: _Part, rng: np.random.Generator) -> Mask:
    """Something hard fell on the part: an oval hollow with a raised rim."""
    centre = _place(rng, ((0.24, 0.31), (0.36, 0.44), (0.63, 0.69), (0.63, 0.69)))
    heading, long, short = rng.uniform(0, math.pi), rng.uniform(0.045, 0.085), rng.uniform(0.030, 0.050)
    dx, dy = part.x - centre[0], part.y - centre[1]
    u = (dx * math.cos(heading) + dy * math.sin(heading)) / long
    v = (dy * math.cos(heading) - dx * math.sin(heading)) / short
    distance = np.hypot(u, v) * (1 + 0.10 * np.sin(3 * np.arctan2(v, u) + rng.uniform(0, 6)))
    bowl = np.where(distance < 1, (1 - distance**2) ** 2, 0)
    rim = np.exp(-(((distance - 1.0) / 0.16) ** 2))
    part.height += short * (0.06 * rim - 0.75 * bowl)
    covered: Mask = (distance < 1.15) & (part.inside > 0)
    return covered


def _stain(part: _Part, rng: np.random.Generator) -> Mask:
    """A drop of old oil: a film of uneven thickness, darkest at its border as drying leaves it."""
    centre = _place(rng, ((0.25, 0.70),))
    extent = rng.uniform(0.08, 0.15)
    side = len(part.x)
    distance = np.hypot(part.x - centre[0], part.y - centre[1]) / extent
    ragged = (
        0.30 * _noise(rng, side, side // 26)
        + 0.13 * _noise(rng, side, side // 64)
        + 0.05 * _noise(rng, side, side // 128)
    )
    # Far from the drop the noise alone would sprinkle the part.
    wet = np.where(distance < 2, 1 - distance + ragged, -1).astype(np.float32)
    film = _step(wet, 0.12) * (part.inside > 0)
    border = np.exp(-(((wet - 0.10) / 0.09) ** 2)) * film
    thickness = film * rng.uniform(0.50, 0.85) * (1 + 0.25 * _noise(rng, side, side // 40)) + 0.35 * border
    part.colour *= 1 - np.clip(thickness, 0, 1)[..., None] * (1 - OIL)
    part.gloss *= 1 - 0.7 * film
    covered: Mask = film > 0.3
    return covered


def _chip(part: _Part, rng: np.random.Generator) -> Mask:
    """A piece of a tooth broke off and left a rough, fresh surface."""
    tooth = 2 * math.pi / TEETH * (rng.integers(TEETH) + rng.uniform(-0.25, 0.25))
    reach = TIP_RADIUS + rng.uniform(-0.02, 0.01)
    side = len(part.x)
    ragged = 0.010 * _noise(rng, side, side // 50)
    gone = (
        np.hypot(part.x - reach * math.cos(tooth), part.y - reach * math.sin(tooth)) - rng.uniform(0.07, 0.11) + ragged
    )
    before = part.inside
    fracture = _step(FRACTURE - gone, FRACTURE / 2)
    part.height -= 0.03 * fracture * (1 + 0.10 * _noise(rng, side, 3))
    part.colour += (0.10 * fracture * (1 + 0.3 * _noise(rng, side, 3)))[..., None]
    part.turned *= 1 - fracture
    # The heights already have their bevels, so the new edge stays sharp.
    part.inside = np.minimum(before, gone)
    covered: Mask = (before > 0) & (gone < FRACTURE)
    return covered


DEFECTS: dict[str, Callable[[_Part, np.random.Generator], Mask]] = {
    "chip": _chip,
    "dent": _dent,
    "scratch": _scratch,
    "stain": _stain,
}


def _place(rng: np.random.Generator, rings: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    """A point in one of the rings, all as likely, each given by its inner and outer radius."""
    inner, outer = rings[rng.integers(len(rings))]
    radius, angle = rng.uniform(inner, outer), rng.uniform(-math.pi, math.pi)
    return radius * math.cos(angle), radius * math.sin(angle)


def _step(value: Array, width: float) -> Array:
    """0 below 0, 1 above `width`, smooth in between."""
    t = np.clip(value / width, 0, 1)
    smooth: Array = t * t * (3 - 2 * t)
    return smooth


def _noise(rng: np.random.Generator, side: int, cell: int) -> Array:
    """Smooth noise of about unit variance: side x side, with spots of about `cell` pixels."""
    coarse = rng.standard_normal((side // cell + 4,) * 2, dtype=np.float32)
    fine = Image.fromarray(coarse).resize((len(coarse) * cell,) * 2, Image.Resampling.BICUBIC)
    # The outermost cells lack neighbours to blend with.
    return np.asarray(fine, np.float32)[cell : cell + side, cell : cell + side]


def _polar_noise(rng: np.random.Generator, radius: Array, angle: Array, rings: int, sectors: int) -> Array:
    """Noise in rings about the origin, each changing slowly round the circle."""
    table = rng.standard_normal((rings, sectors), dtype=np.float32)
    table = np.concatenate([table, table[:, :1]], axis=1)
    ring = np.minimum((radius * np.float32(rings / 1.5)).astype(np.int32), rings - 1)
    turn = (angle / np.float32(2 * math.pi) + np.float32(0.5)) * np.float32(sectors)
    sector = np.minimum(turn.astype(np.int32), sectors - 1)
    weight = turn - sector.astype(np.float32)
    noise: Array = table[ring, sector] * (1 - weight) + table[ring, sector + 1] * weight
    return noise


def _shrink(image: Array | Mask) -> Array:
    """Mean over OVERSAMPLING x OVERSAMPLING pixels."""
    side = len(image) // OVERSAMPLING
    mean: Array = image.reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean(axis=(1, 3))
    return mean
