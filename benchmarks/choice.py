"""How often `blemish train --method auto` takes images for a mixture or for contaminated, on data whose truth is known.

    python benchmarks/choice.py mvtec/bottle mvtec/grid magnetic_tile

Each source's good training images, and its bad test images, are embedded once by the default teacher; a made-up product
line joins them. Then sets are drawn from them, good images with a share of bad ones and two sources mixed, and the
rules of `blemish.choice` are asked. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from blemish.choice import FAR, FAR_IMAGES, SILHOUETTE, clusters, strangeness_z
from blemish.data import open_dataset
from blemish.data.synthetic import make_product_line
from blemish.images import DEFAULT_CONTRACT
from blemish.teachers import DEFAULT_TEACHER, open_teacher
from blemish.training.embedding import STRIDES, Embedding

MOST = 200
RATIOS = (0.0, 0.05, 0.1, 0.2)
SIZES = (40, 120)


@dataclass(frozen=True)
class Source:
    """Embedded images of one product."""

    name: str
    good: NDArray[np.float16]
    bad: NDArray[np.float16]

    def draw(self, images: int, ratio: float, seed: int) -> NDArray[np.float16]:
        """`images` good ones and `int(ratio * images)` bad ones, fewer where there are fewer."""
        rng = np.random.default_rng(seed)
        good = self.good[rng.permutation(len(self.good))[:images]]
        return np.concatenate([good, self.bad[rng.permutation(len(self.bad))[: int(ratio * len(good))]]])


def embed(root: Path, embedding: Embedding) -> Source:
    dataset = open_dataset(root)
    rng = np.random.default_rng(0)

    def some(samples: list[Path], most: int) -> NDArray[np.float16]:
        return embedding([samples[i] for i in sorted(rng.permutation(len(samples))[:most])], lambda done: None)

    good = [sample.path for sample in dataset.train]
    bad = [sample.path for sample in dataset.test if sample.label == "anomalous"]
    return Source(root.name, some(good, MOST), some(bad, MOST // 5))


def contaminated(patches: NDArray[np.float16]) -> bool:
    """As `blemish.choice.choose` decides."""
    return int((strangeness_z(patches) > FAR).sum()) > max(1, FAR_IMAGES * len(patches))


def found_clusters(sets: list[NDArray[np.float16]]) -> str:
    """Two cells: the range of the mean silhouette, and in how many sets it is above the limit."""
    clear = [clusters(one)[0] for one in sets]
    return f"{min(clear):.2f} to {max(clear):.2f} | {sum(one > SILHOUETTE for one in clear)}/{len(sets)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    embedding = Embedding(open_teacher(DEFAULT_TEACHER, strides=STRIDES), DEFAULT_CONTRACT)
    with tempfile.TemporaryDirectory() as folder:
        line = make_product_line(Path(folder) / "product_line", n_train=120, n_test_good=0, n_per_defect=8)
        sources = [embed(root, embedding) for root in [*arguments.sources, line]]

    print(
        "| data | images | silhouette | several products | " + " | ".join(f"{ratio:.0%} bad" for ratio in RATIOS) + " |"
    )
    print("|---" * (4 + len(RATIOS)) + "|")
    for source in sources:
        for images in [size for size in SIZES if size <= len(source.good)]:
            sets = {r: [source.draw(images, r, seed) for seed in range(arguments.draws)] for r in RATIOS}
            found = [f"{sum(map(contaminated, sets[r]))}/{arguments.draws}" for r in RATIOS]
            several = found_clusters([one for r in RATIOS for one in sets[r]])
            print(f"| {source.name} | {images} | {several} | {' | '.join(found)} |", flush=True)
    print("\n| mixture | images of each | silhouette | several products |\n|---|---|---|---|")
    mixtures = [*combinations(sources, 2), tuple(sources)]
    for mixture in mixtures:
        for images in (20, 100):
            draws = [
                np.concatenate([source.draw(images, 0, seed) for source in mixture]) for seed in range(arguments.draws)
            ]
            print(f"| {' + '.join(s.name for s in mixture)} | {images} | {found_clusters(draws)} |", flush=True)


if __name__ == "__main__":
    main()
