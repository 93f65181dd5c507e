"""Rows in a file are the rows that were given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from blemish.errors import TrainingError
from blemish.nn import coreset
from blemish.nn.coreset import greedy_coreset
from blemish.nn.rows import RowsInFile

CPU = torch.device("cpu")


def filled(data: torch.Tensor, parts: int) -> RowsInFile:
    rows = RowsInFile(data.shape[1], CPU)
    for part in data.tensor_split(parts):
        rows.append(part)
    return rows


@pytest.mark.parametrize("parts", [1, 3, 50])
def test_they_are_read_as_they_were_given(parts: int) -> None:
    data = torch.randn(40, 7)
    rows = filled(data, parts)

    assert rows.shape == (40, 7)
    assert len(rows) == 40
    assert [len(part) for part in rows.split(16)] == [16, 16, 8]
    assert torch.equal(torch.cat([*rows.split(16)]), data)
    assert torch.equal(rows[torch.tensor([39, 0, 0, 5])], data[[39, 0, 0, 5]])


def test_rows_may_be_added_after_some_were_read() -> None:
    data = torch.randn(20, 3)
    rows = filled(data[:10], 1)
    assert torch.equal(rows[torch.tensor([2])], data[2:3])
    rows.append(data[10:])

    assert torch.equal(torch.cat([*rows.split(6)]), data)


@pytest.mark.parametrize("dimensions", [5, 200])
def test_the_coreset_of_a_file_is_that_of_the_tensor(dimensions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "ROWS", 64)
    data = torch.randn(300, dimensions, generator=torch.Generator().manual_seed(0))
    chosen = [greedy_coreset(each, 40, torch.Generator().manual_seed(7)).tolist() for each in (data, filled(data, 4))]

    assert chosen[0] == chosen[1]


def test_nothing_is_left_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = filled(torch.randn(10, 3), 1)
    assert len(rows) == 10
    if os.name == "posix":
        assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowsInFile(3, CPU)
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(rows, "_file", full)
        with pytest.raises(TrainingError, match="cannot be written"):
            rows.append(torch.zeros(2, 3))
