"""Rows of numbers that would fill the memory, kept in a temporary file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor

from blemish.errors import TrainingError


class RowsInFile:
    """A matrix, float32, that grows by rows. Its file has no name, so that it goes with this object or the process.

    Parameters
    ----------
    width : numbers in a row. device : of the rows that are read.

    Attributes
    ----------
    shape : rows, and numbers in one. device : as given.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.shape = (0, width)
        self.device = device
        self._file = tempfile.TemporaryFile(prefix="blemish-", buffering=0)  # noqa: SIM115

    def __len__(self) -> int:
        return self.shape[0]

    def append(self, rows: Tensor) -> None:
        """Add N x width.

        Raises
        ------
        TrainingError : the file has no room.
        """
        content = rows.detach().float().cpu().contiguous().numpy().ravel().view("u1").data
        try:
            self._file.seek(0, os.SEEK_END)
            while len(content):
                content = content[self._file.write(content) :]
        except OSError as error:
            raise TrainingError(
                f"what training keeps of the images cannot be written: {error.strerror}",
                where=tempfile.gettempdir(),
                todo="Make room there, or name another folder in the environment variable TMPDIR",
            ) from error
        self.shape = (self.shape[0] + len(rows), self.shape[1])

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows in order, `size` at a time: as `Tensor.split`, one after the other."""
        return (self._read(start, min(size, len(self) - start)) for start in range(0, len(self), size))

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The rows at `indices`, N -> N x width."""
        return torch.cat([self._read(index, 1) for index in indices.tolist()])

    def _read(self, start: int, count: int) -> Tensor:
        row = 4 * self.shape[1]
        content = bytearray(count * row)
        self._file.seek(start * row)
        if self._file.readinto(content) != len(content):
            raise TrainingError("what training kept of the images cannot be read again", where=tempfile.gettempdir())
        return torch.frombuffer(content, dtype=torch.float32).view(count, -1).to(self.device)
