from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish import images
from blemish.data import open_dataset, read_mask
from blemish.data.synthetic import DEFECTS, draw_part, make_product_line
from blemish.errors import DataError, UsageError


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def small_line(root: Path, seed: int = 0, n_per_defect: int = 2) -> Path:
    return make_product_line(root, n_train=3, n_test_good=2, n_per_defect=n_per_defect, size=64, seed=seed)


def widened(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    padded = np.pad(mask, by)
    height, width = mask.shape
    steps = range(2 * by + 1)
    wide: NDArray[np.bool_] = np.logical_or.reduce(
        [padded[y : y + height, x : x + width] for y in steps for x in steps]
    )
    return wide


def test_a_product_line_is_a_dataset_of_layout_mvtec(tmp_path: Path) -> None:
    root = small_line(tmp_path / "new" / "line")
    dataset = open_dataset(root)
    assert dataset.layout == "mvtec"
    assert [sample.kind for sample in dataset.train] == ["good"] * 3
    assert sorted(sample.kind for sample in dataset.test) == sorted(["good", *DEFECTS] * 2)
    for sample in dataset.samples:
        assert images.read(sample.path).shape == (64, 64, 3)
        assert (sample.mask is None) == (sample.label == "normal")
        if sample.mask is not None:
            assert 0 < read_mask(sample.mask, (64, 64)).mean() < 0.1


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    first = contents(small_line(tmp_path / "a"))
    assert first == contents(small_line(tmp_path / "b"))
    other = contents(small_line(tmp_path / "c", seed=1))
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    assert len(set(first.values())) == len(first)


def test_more_parts_add_to_those_of_a_smaller_line(tmp_path: Path) -> None:
    fewer = contents(small_line(tmp_path / "a", n_per_defect=1))
    more = contents(small_line(tmp_path / "b", n_per_defect=2))
    assert fewer.items() < more.items()


def test_good_parts_have_an_empty_mask() -> None:
    _, mask = draw_part(np.random.default_rng(0), "good", 64)
    assert not mask.any()


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_bad_part_differs_from_the_good_one_in_its_mask_alone(kind: str) -> None:
    for seed in range(4):
        good, _ = draw_part(np.random.default_rng(seed), "good", 128)
        bad, mask = draw_part(np.random.default_rng(seed), kind, 128)
        differs = np.any(good != bad, axis=-1)
        assert mask.any()
        assert differs[mask].mean() > 0.85
        # Light falls otherwise on a pixel's neighbours too, and a film thins out at its border.
        assert (differs & ~widened(mask, 3)).sum() <= 5


def test_good_parts_vary(tmp_path: Path) -> None:
    parts = [draw_part(np.random.default_rng(seed), "good", 64)[0].astype(int) for seed in (0, 1)]
    assert np.abs(parts[0] - parts[1]).mean() > 1


def test_a_line_never_mixes_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").touch()
    with pytest.raises(DataError, match="already exists"):
        small_line(tmp_path)


@pytest.mark.parametrize("wrong", [{"size": 32}, {"n_train": -1}])
def test_impossible_lines_are_usage_errors(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        make_product_line(tmp_path / "line", **wrong)
    assert not (tmp_path / "line").exists()
