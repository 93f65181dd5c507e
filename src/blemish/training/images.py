"""Training images: decoded in threads, prepared as the graph prepares them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from blemish.cores import usable_cores
from blemish.images import ImageContract, read
from blemish.nn.preparation import Preparation


class TrainingImages:
    """A sequence of image files that gives batches of prepared tensors.

    Parameters
    ----------
    paths : image files, in an order that does not change.
    contract : how they are read.
    preparation : scales and resizes.
    """

    def __init__(self, paths: Sequence[Path], contract: ImageContract, preparation: Preparation) -> None:
        self.paths = tuple(paths)
        self.contract = contract
        self.preparation = preparation

    def __len__(self) -> int:
        return len(self.paths)

    def only(self, indices: Sequence[int]) -> TrainingImages:
        """Those of `indices`, in this order."""
        return TrainingImages([self.paths[i] for i in indices], self.contract, self.preparation)

    def load(self, index: int) -> Tensor:
        """Image `index`, 3 x S x S in [0, 1]."""
        pixels = torch.from_numpy(read(self.paths[index], self.contract))
        if self.contract.colour == "grey":
            # Its channels are equal: one of them is resized for all.
            pixels = pixels[..., :1]
        with torch.inference_mode():
            prepared: Tensor = self.preparation(pixels[None])
        return prepared[0].expand(3, -1, -1)

    def batches(self, indices: Sequence[int], size: int) -> Iterator[Tensor]:
        """Batches B x 3 x S x S of `indices` in order; decoding runs ahead of the consumer by two batches."""
        return self.groups([indices[start : start + size] for start in range(0, len(indices), size)])

    def groups(self, groups: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        """A batch for each group of indices; decoding runs ahead of the consumer by two batches."""
        with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
            waiting = ([pool.submit(self.load, i) for i in group] for group in groups)
            ahead = deque(islice(waiting, 2))
            while ahead:
                batch = [future.result() for future in ahead.popleft()]
                ahead.extend(islice(waiting, 1))
                yield torch.stack(batch)
