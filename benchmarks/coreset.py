"""Time the greedy coreset against the plain algorithm, which meets every vector with every centre.

    python benchmarks/coreset.py
    python benchmarks/coreset.py --vectors 156800 --centres 1568 --dimensions 152

Vectors are made up as patch features lie: in heaps of many sizes and widths. Processor seconds; the plain algorithm is
measured over its first steps, each of which costs the same, and those centres must be the same ones.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import resource
import time
from importlib.metadata import version

import torch
from torch import Tensor

from blemish.nn.coreset import greedy_coreset

PLAIN_STEPS = 100


def heaps(count: int, dimensions: int) -> Tensor:
    """Vectors around 500 places; the larger a heap's number, the fewer are in it."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(500, dimensions, generator=generator)
    widths = 0.1 + 0.6 * torch.rand(500, 1, generator=generator)
    heap = (500 * torch.rand(count, generator=generator) ** 3).long()
    return places[heap] + widths[heap] * torch.randn(count, dimensions, generator=generator)


def plain(vectors: Tensor, count: int, generator: torch.Generator, projected: int = 128) -> list[int]:
    """Algorithm 1, one product of a matrix and a vector for each centre."""
    projection = torch.randn(vectors.shape[1], projected, generator=generator) / projected**0.5
    vectors = vectors @ projection if projected < vectors.shape[1] else vectors
    norms = vectors.square().sum(1)
    first = torch.randperm(len(vectors), generator=generator)[:10]
    to_starts = norms[:, None] + norms[first] - 2 * vectors @ vectors[first].T
    nearest = to_starts.clamp(min=0).sqrt().mean(1).square()
    taken: list[int] = []
    for _ in range(count):
        taken.append(int(nearest.argmax()))
        to_new = torch.addmv(norms, vectors, vectors[taken[-1]], alpha=-2.0).add_(norms[taken[-1]])
        torch.minimum(nearest, to_new, out=nearest)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=156_800, help="of 200 images of 224 pixels at a stride of 8")
    parser.add_argument("--centres", type=int, default=1568)
    parser.add_argument("--dimensions", type=int, default=152)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vectors = heaps(arguments.vectors, arguments.dimensions)
    started = time.process_time()
    taken = greedy_coreset(vectors, arguments.centres, torch.Generator().manual_seed(1)).tolist()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = min(PLAIN_STEPS, arguments.centres)
    started = time.process_time()
    wanted = plain(vectors, steps, torch.Generator().manual_seed(1))
    plain_seconds = (time.process_time() - started) * arguments.centres / steps
    if taken[:steps] != wanted:
        raise SystemExit("the centres are not those of the plain algorithm")
    print(
        f"{datetime.date.today()}, one thread of {platform.processor() or platform.machine()}, torch {version('torch')}"
    )
    print(f"{arguments.vectors} vectors of {arguments.dimensions}, {arguments.centres} centres\n")
    print("| coreset, s | peak MB | plain, s | times faster |\n|---|---|---|---|")
    print(f"| {seconds:.2f} | {peak:.0f} | {plain_seconds:.1f} | {plain_seconds / seconds:.1f} |")


if __name__ == "__main__":
    main()
