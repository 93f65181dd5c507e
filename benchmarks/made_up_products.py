"""Make two products in the layout mvtec, to mix with real ones: gears, and blisters of tablets.

    python benchmarks/made_up_products.py made-up/

Gears are those of `blemish demo`. A blister holds twelve tablets in foil; bad ones have a tablet that is broken,
missing or speckled, and masks of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from blemish.data.synthetic import make_product_line

SIZE, ROWS, COLUMNS = 256, 3, 4
DEFECTS = ("broken", "missing", "speckled")
FOIL, TABLET, POCKET = (150, 155, 162), (226, 208, 176), (116, 120, 128)
Picture = NDArray[np.float64]
Mask = NDArray[np.bool_]


def smooth(rng: np.random.Generator, period: int) -> Picture:
    """Noise of about unit deviation that varies over `period` pixels, SIZE x SIZE."""
    coarse = Image.fromarray(rng.normal(size=(SIZE // period, SIZE // period)).astype(np.float32))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float64)


def blister(rng: np.random.Generator, kind: str) -> tuple[NDArray[np.uint8], Mask]:
    """A picture, SIZE x SIZE x 3, and the pixels that the defect changed."""
    of_defect = rng.spawn(1)[0]
    y, x = np.mgrid[:SIZE, :SIZE] + rng.uniform(-3, 3, (2, 1, 1))
    light = 1 + 0.06 * smooth(rng, 64) + 0.05 * np.sin((x + y) * 0.9)
    picture: Picture = np.array(FOIL) * light[..., None]
    mask = np.zeros((SIZE, SIZE), bool)
    chosen = of_defect.integers(ROWS * COLUMNS)
    for place in range(ROWS * COLUMNS):
        down = y - SIZE * (place // COLUMNS + 0.5) / ROWS - rng.uniform(-1.5, 1.5)
        right = x - SIZE * (place % COLUMNS + 0.5) / COLUMNS - rng.uniform(-1.5, 1.5)
        pocket = np.hypot(down / 1.15, right) < 27
        tablet = np.hypot(down / 1.15, right) < 21
        # Pressed tablets are domed and have a line to break them at.
        dome = 1.02 - 0.16 * (np.hypot(down + 5, right + 5) / 21) ** 2 - 0.16 * (np.abs(right) < 1.2)
        grain = 1 + 0.02 * smooth(rng, 2)
        if kind in DEFECTS and place == chosen:
            if kind == "missing":
                gone = tablet
            elif kind == "broken":
                turn = of_defect.uniform(0, 2 * np.pi)
                ragged = 1.5 * smooth(of_defect, 8)
                gone = tablet & (down * np.sin(turn) + right * np.cos(turn) > of_defect.uniform(0, 10) + ragged)
            else:
                gone = np.zeros_like(mask)
                for _ in range(of_defect.integers(2, 6)):
                    angle, radius = of_defect.uniform(0, 2 * np.pi), of_defect.uniform(3, 16)
                    near = np.hypot(down - radius * np.sin(angle), right - radius * np.cos(angle))
                    mask |= near < of_defect.uniform(1.5, 3)
            mask |= gone
            tablet = tablet & ~gone
        picture[pocket] = (np.array(POCKET) * light[..., None])[pocket]
        picture[tablet] = (np.array(TABLET) * (dome * grain)[..., None])[tablet]
    if kind == "speckled":
        picture[mask] *= 0.45
    sharp = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    exposed = np.asarray(sharp) * rng.uniform(0.96, 1.04) + rng.normal(0, 2.5, (SIZE, SIZE, 3))
    return exposed.clip(0, 255).astype(np.uint8), mask


def make_blisters(root: Path, counts: dict[str, int]) -> None:
    """Write `counts` pictures of each folder such as "train/good", with masks of bad ones."""
    for group, (folder, count) in enumerate(counts.items()):
        kind = Path(folder).name
        truth = root / "ground_truth" / kind
        for made in [root / folder] + [truth] * (kind in DEFECTS):
            made.mkdir(parents=True)
        for number in range(count):
            picture, mask = blister(np.random.default_rng([group, number]), kind)
            Image.fromarray(picture).save(root / folder / f"{number:03d}.png")
            if kind in DEFECTS:
                Image.fromarray(mask.astype(np.uint8) * 255).save(truth / f"{number:03d}_mask.png")


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make; gear/ and blister/ must not be in it")
    out: Path = parser.parse_args(arguments).out
    make_product_line(out / "gear")
    make_blisters(out / "blister", {"train/good": 120, "test/good": 24} | {f"test/{kind}": 10 for kind in DEFECTS})


if __name__ == "__main__":
    main()
