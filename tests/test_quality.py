"""What is wrong with a dataset: one test a finding, and none in a dataset that is as it should be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from scipy import ndimage, stats

from blemish.cli import main
from blemish.data import Sample, open_categories
from blemish.data.synthetic import make_product_line
from blemish.images import DEFAULT_CONTRACT, Facts, ImageContract
from blemish.quality import Check, Severity, check, write_quality_report
from blemish.quality.alike import ALIKE, nearly_same
from blemish.quality.looking import DETAIL_SIDE, Look, _box_mean, detail, sharpness
from blemish.quality.outliers import FAR_UNLIKE, Embed, robust_z, strangeness
from blemish.training.embedding import STRIDES, Embedding
from test_report import Page, assert_stands_alone
from tiny import defect_mask, make_parts, part, teacher
from tiny import one_thread as one_thread  # applies to this module

SHARED = Path(__file__).parents[2] / "shared" / "data"
GRID = SHARED / "mvtec" / "grid"
TRAIN, TEST = 100, 5


@pytest.fixture(scope="module")
def faultless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 parts to train, 5 good and 5 scratched ones with masks to test."""
    root = tmp_path_factory.mktemp("quality") / "parts"
    make_parts(root / "train" / "good", TRAIN)
    make_parts(root / "test" / "good", TEST, first=200)
    make_parts(root / "test" / "scratch", TEST, first=300, defect=True)
    for number in range(300, 300 + TEST):
        save(defect_mask(), root / "ground_truth" / "scratch" / f"{number}_mask.png")
    return root


@pytest.fixture
def parts(faultless: Path, tmp_path: Path) -> Path:
    """A copy of `faultless` to spoil."""
    return Path(shutil.copytree(faultless, tmp_path / "parts"))


def save(pixels: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def change(path: Path, how: Callable[[Image.Image], Image.Image]) -> None:
    with Image.open(path) as image:
        changed = how(image)
    changed.save(path)


def crop(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.crop((10, 10, 10 + width, 10 + height))


def look_through(root: Path, contract: ImageContract = DEFAULT_CONTRACT) -> Check:
    return check(open_categories(root), contract)


def found(result: Check) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """Code of each finding -> files and sentence of each case."""
    return {one.code: [(case.files, case.what) for case in one.cases] for one in result.findings}


def severities(result: Check) -> dict[str, Severity]:
    return {one.code: one.severity for one in result.findings}


def one_finding(root: Path, code: str, severity: Severity) -> list[tuple[tuple[str, ...], str]]:
    """The cases of the single finding that there must be."""
    result = look_through(root)
    assert severities(result) == {code: severity}
    assert result.wrong == (severity is Severity.ERROR)
    return found(result)[code]


def test_a_faultless_dataset_has_no_finding(faultless: Path) -> None:
    result = look_through(faultless)
    assert found(result) == {}
    assert not result.wrong
    assert (len(result.samples), len(result.looks)) == (TRAIN + 2 * TEST, TRAIN + 2 * TEST)


# Files.


def test_a_truncated_file_is_unreadable(parts: Path) -> None:
    path = parts / "train" / "good" / "003.png"
    path.write_bytes(path.read_bytes()[:2000])
    result = look_through(parts)
    assert severities(result) == {"unreadable": Severity.ERROR, "few_training_images": Severity.NOTE}
    ((files, what),) = found(result)["unreadable"]
    assert files == ("train/good/003.png",)
    assert what.startswith("truncated: ")


def test_an_empty_file(parts: Path) -> None:
    (parts / "test" / "good" / "201.png").write_bytes(b"")
    assert one_finding(parts, "empty_file", Severity.ERROR) == [(("test/good/201.png",), "it has no content")]


def test_another_depth(parts: Path) -> None:
    save(part(1, grey=True).astype(np.uint16) * 257, parts / "test" / "good" / "201.png")
    ((files, what),) = one_finding(parts, "wrong_depth", Severity.ERROR)
    assert files == ("test/good/201.png",)
    assert "16-bit" in what


def test_files_of_the_declared_depth_are_right(tmp_path: Path) -> None:
    for number in range(4):
        save(part(number, grey=True).astype(np.uint16) * 257, tmp_path / "line" / f"{number}.png")
    assert severities(look_through(tmp_path / "line")) == {
        "wrong_depth": Severity.ERROR,
        "too_few_to_train": Severity.ERROR,
    }
    assert severities(look_through(tmp_path / "line", ImageContract(depth="uint16"))) == {
        "few_training_images": Severity.NOTE
    }


# The same picture twice.


@pytest.mark.parametrize(
    ("here", "there", "code", "severity"),
    [
        ("train/good/003.png", "train/good/copy.png", "duplicate_train", Severity.WARNING),
        ("test/good/203.png", "test/good/copy.png", "duplicate_test", Severity.NOTE),
        ("train/good/003.png", "test/good/copy.png", "duplicate_train_test", Severity.ERROR),
    ],
)
def test_a_copy(parts: Path, here: str, there: str, code: str, severity: Severity) -> None:
    shutil.copy(parts / here, parts / there)
    assert one_finding(parts, code, severity) == [(tuple(sorted((here, there))), "the same file")]


def test_a_copy_in_another_format_has_the_same_pixels(parts: Path) -> None:
    with Image.open(parts / "train" / "good" / "003.png") as image:
        image.save(parts / "test" / "good" / "003.bmp")
    ((files, what),) = one_finding(parts, "duplicate_train_test", Severity.ERROR)
    assert files == ("test/good/003.bmp", "train/good/003.png")
    assert what == "different files, the same pixels"


def test_one_picture_called_good_and_bad(parts: Path) -> None:
    scratched = parts / "test" / "scratch" / "302.png"
    shutil.copy(scratched, parts / "test" / "good" / "202.png")
    result = look_through(parts)
    assert severities(result) == {"conflicting_labels": Severity.ERROR, "duplicate_test": Severity.NOTE}
    ((files, what),) = found(result)["conflicting_labels"]
    assert files == ("test/good/202.png", "test/scratch/302.png")
    assert what == "the same file, called good and scratch"


@pytest.fixture(scope="module")
def gears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_product_line(tmp_path_factory.mktemp("gears") / "gears", n_train=14, n_test_good=3, n_per_defect=0)


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 4, np.shape(image))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": lambda image: image,
    "half": lambda image: image.resize((128, 128), Image.Resampling.LANCZOS),
    "flat": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "noise": noisy,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(
    ("there", "code", "severity"),
    [("train", "near_duplicate", Severity.NOTE), ("test", "near_duplicate_train_test", Severity.WARNING)],
)
def test_a_copy_that_is_not_quite_the_same(
    gears: Path, tmp_path: Path, how: str, there: str, code: str, severity: Severity
) -> None:
    line = Path(shutil.copytree(gears, tmp_path / "gears"))
    target = line / there / "good" / ("copy.jpg" if how == "jpeg" else "copy.png")
    with Image.open(line / "train" / "good" / "003.png") as image:
        COPIES[how](image).save(target, quality=60)
    result = look_through(line)
    assert severities(result)[code] is severity
    ((files, what),) = found(result)[code]
    assert set(files) == {f"{there}/good/{target.name}", "train/good/003.png"}
    assert float(what.removeprefix("correlation ")) >= ALIKE


def test_different_parts_are_no_copies(gears: Path) -> None:
    assert {code for code in found(look_through(gears)) if "duplicate" in code} == set()


def look(vector: np.ndarray[Any, Any], name: str, category: str = "") -> Look:
    """A look at an image of which only the detail matters."""
    centred = vector - vector.mean()
    return Look(
        Sample(Path(name), "normal", "train", "good", category=category),
        name,
        name,
        name,
        Facts(8, 8, True),
        0.5,
        0.0,
        (centred / np.linalg.norm(centred)).astype(np.float16),
    )


def test_correlation_is_taken_of_what_makes_a_part_itself() -> None:
    """All share a strong pattern; only with it out of the way do two of them correlate more than the others."""
    rng = np.random.default_rng(0)
    shared = 10 * rng.normal(size=DETAIL_SIDE**2)
    own = rng.normal(size=(12, DETAIL_SIDE**2))
    own[7] = own[2] + 0.1 * own[7]
    looks = [look(shared + one, f"{i}.png") for i, one in enumerate(own)]
    vectors = np.stack([one.detail for one in looks]).astype(np.float64)
    assert np.corrcoef(vectors).min() > ALIKE
    expected = np.corrcoef(vectors - vectors.mean(axis=0))
    ((group, correlation),) = nearly_same(looks)
    assert [one.name for one in group] == ["2.png", "7.png"]
    assert correlation == pytest.approx(expected[2, 7], abs=1e-3)
    assert np.sort(expected[np.triu_indices(12, 1)])[-2] < ALIKE


def test_groups_join_what_is_alike_and_categories_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish.quality.alike._BLOCK", 5)
    rng = np.random.default_rng(1)
    shared = {"a": 10 * rng.normal(size=DETAIL_SIDE**2), "b": 10 * rng.normal(size=DETAIL_SIDE**2)}
    own = rng.normal(size=(24, DETAIL_SIDE**2))
    vectors = [shared["a" if i < 12 else "b"] + one for i, one in enumerate(own)]
    vectors[9] = vectors[1] + 0.05 * own[9]
    vectors[11] = vectors[9] + 0.05 * own[11]
    vectors[20] = vectors[4]
    looks = [look(one, f"{i}.png", "a" if i < 12 else "b") for i, one in enumerate(vectors)]
    groups = sorted([one.name for one in group] for group, _ in nearly_same(looks))
    assert groups == [["1.png", "9.png", "11.png"], ["4.png", "20.png"]]


def test_nothing_is_said_of_too_few_images_or_flat_ones() -> None:
    vector = np.random.default_rng(0).normal(size=DETAIL_SIDE**2)
    assert nearly_same([look(vector, f"{i}.png") for i in range(7)]) == []
    assert not detail(np.full((50, 60), 0.3, np.float32)).any()


def test_detail_is_the_thumbnail_without_shading() -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((DETAIL_SIDE, DETAIL_SIDE)).astype(np.float32)
    mean = ndimage.uniform_filter(picture.astype(np.float64), 9, mode="nearest")
    assert _box_mean(picture, 4) == pytest.approx(mean, abs=1e-6)
    expected = (picture - mean).ravel()
    expected -= expected.mean()
    assert detail(picture) == pytest.approx(expected / np.linalg.norm(expected), abs=1e-4)


# Outliers.


def test_another_size(parts: Path) -> None:
    change(parts / "train" / "good" / "003.png", lambda image: image.crop((0, 0, 74, 72)))
    assert one_finding(parts, "size_outlier", Severity.WARNING) == [
        (("train/good/003.png",), "74 x 72; 109 of 110 are 80 x 72")
    ]


def test_far_from_sizes_that_vary(parts: Path) -> None:
    for number in range(TRAIN):
        side = 52 + number % 20
        change(parts / "train" / "good" / f"{number:03}.png", lambda image, side=side: crop(image, side + 8, side))
    change(parts / "train" / "good" / "050.png", lambda image: crop(image, 30, 27))
    change(parts / "train" / "good" / "060.png", lambda image: crop(image, 60, 24))
    cases = found(look_through(parts))["size_outlier"]
    assert [files for files, _ in cases] == [("train/good/050.png",), ("train/good/060.png",)]
    assert cases[0][1].startswith("30 x 27; the middle of the rest is ")


def test_grey_among_colour(parts: Path) -> None:
    change(parts / "train" / "good" / "003.png", lambda image: image.convert("L"))
    assert one_finding(parts, "colour_outlier", Severity.WARNING) == [
        (("train/good/003.png",), "grey; 109 of 110 are not")
    ]


def test_a_dark_image(parts: Path) -> None:
    change(parts / "train" / "good" / "003.png", lambda image: image.point(lambda value: max(value - 40, 0)))
    ((files, what),) = one_finding(parts, "brightness_outlier", Severity.WARNING)
    assert files == ("train/good/003.png",)
    assert what.startswith("darker: mean ")


def test_a_blurred_image(parts: Path) -> None:
    change(parts / "train" / "good" / "003.png", lambda image: image.filter(ImageFilter.GaussianBlur(0.8)))
    ((files, what),) = one_finding(parts, "sharpness_outlier", Severity.WARNING)
    assert files == ("train/good/003.png",)
    assert what.startswith("more blurred: sharpness ")


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    grey = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    inner = ndimage.laplace(grey.astype(np.float64))[1:-1, 1:-1]
    assert sharpness(grey) == pytest.approx(np.log(inner.var()), abs=1e-4)


def test_robust_z() -> None:
    values = np.random.default_rng(0).normal(3, 2, 101)
    spread = stats.median_abs_deviation(values, scale="normal")
    assert robust_z(values, 0) == pytest.approx((values - np.median(values)) / spread, rel=1e-4)
    assert robust_z([5, 5, 5, 6], 0.5) == pytest.approx([0, 0, 0, 2])


# Masks.


def test_no_mask(parts: Path) -> None:
    (parts / "ground_truth" / "scratch" / "302_mask.png").unlink()
    ((files, _),) = one_finding(parts, "no_mask", Severity.NOTE)
    assert files == ("test/scratch/302.png",)


def test_a_mask_without_an_image(parts: Path) -> None:
    save(defect_mask(), parts / "ground_truth" / "scratch" / "402_mask.png")
    assert one_finding(parts, "mask_without_image", Severity.WARNING) == [
        (("ground_truth/scratch/402_mask.png",), "no image has this name")
    ]


def test_a_mask_of_another_size(parts: Path) -> None:
    save(defect_mask((40, 40)), parts / "ground_truth" / "scratch" / "302_mask.png")
    assert one_finding(parts, "mask_wrong_size", Severity.ERROR) == [
        (
            ("test/scratch/302.png", "ground_truth/scratch/302_mask.png"),
            "the mask is 40 x 40 pixels, its image 80 x 72",
        )
    ]


def test_an_empty_mask(parts: Path) -> None:
    save(np.zeros((72, 80), np.uint8), parts / "ground_truth" / "scratch" / "302_mask.png")
    ((files, what),) = one_finding(parts, "mask_empty", Severity.NOTE)
    assert files == ("test/scratch/302.png", "ground_truth/scratch/302_mask.png")
    assert what == "no pixel of this scratch is marked"


@pytest.mark.parametrize("content", [b"no picture", None])
def test_a_mask_that_cannot_be_used(parts: Path, content: bytes | None) -> None:
    """Not an image; and 1 for marked, where 255 was meant."""
    path = parts / "ground_truth" / "scratch" / "302_mask.png"
    if content:
        path.write_bytes(content)
    else:
        save(defect_mask().astype(np.uint8), path)
    ((files, _),) = one_finding(parts, "mask_unreadable", Severity.ERROR)
    assert files == ("test/scratch/302.png", "ground_truth/scratch/302_mask.png")


def test_the_mask_of_a_good_image(parts: Path) -> None:
    for number in (201, 202):
        marked = defect_mask() if number == 202 else np.zeros((72, 80), bool)
        save(marked, parts / "ground_truth" / "good" / f"{number}_mask.png")
    assert one_finding(parts, "mask_of_good", Severity.ERROR) == [
        (("test/good/202.png", "ground_truth/good/202_mask.png"), "140 pixels are marked")
    ]


def test_masks_beside_their_images(tmp_path: Path) -> None:
    """The layout of the magnetic tiles, where good ones have masks too."""
    make_parts(tmp_path / "MT_Free" / "Imgs", 4)
    make_parts(tmp_path / "MT_Crack" / "Imgs", 4, first=20, defect=True)
    for path in sorted(tmp_path.rglob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"))
        save(defect_mask() if path.stem in ("001", "020") else np.zeros((72, 80), bool), path)
    cases = found(look_through(tmp_path))
    assert [files[0] for files, _ in cases["mask_of_good"]] == ["MT_Free/Imgs/001.jpg"]
    assert len(cases["mask_empty"]) == 3
    assert "mask_without_image" not in cases


# Numbers.


def test_few_training_images(parts: Path) -> None:
    for number in range(80, TRAIN):
        (parts / "train" / "good" / f"{number:03}.png").unlink()
    assert one_finding(parts, "few_training_images", Severity.NOTE) == [
        ((), "80 training images reach a false-alarm rate of 1.2%")
    ]


def test_lopsided_test_images(parts: Path) -> None:
    make_parts(parts / "test" / "good", 45, first=400)
    assert one_finding(parts, "imbalance", Severity.NOTE) == [((), "50 good and 5 bad test images")]
    shutil.rmtree(parts / "test" / "scratch")
    shutil.rmtree(parts / "ground_truth")
    assert one_finding(parts, "imbalance", Severity.NOTE) == [
        ((), "all 50 labelled test images are good: no image metric")
    ]


def test_several_categories(parts: Path, tmp_path: Path) -> None:
    """A picture that trains in one and tests in another; one that trains in both; far fewer images in one."""
    both = tmp_path / "both"
    shutil.move(parts, both / "nuts")
    make_parts(both / "bolts" / "train" / "good", 8, first=500)
    make_parts(both / "bolts" / "test" / "good", 2, first=600)
    make_parts(both / "bolts" / "test" / "scratch", 2, first=700, defect=True)
    shutil.copy(both / "nuts" / "train" / "good" / "001.png", both / "bolts" / "test" / "good" / "x.png")
    shutil.copy(both / "nuts" / "train" / "good" / "002.png", both / "bolts" / "train" / "good" / "x.png")
    result = look_through(both)
    cases = found(result)
    assert result.categories == ("bolts", "nuts")
    assert [files for files, _ in cases["duplicate_train_test"]] == [
        ("bolts/test/good/x.png", "nuts/train/good/001.png")
    ]
    assert [files for files, _ in cases["duplicate_categories"]] == [
        ("bolts/train/good/x.png", "nuts/train/good/002.png")
    ]
    assert cases["imbalance"] == [((), "100 training images of nuts, 9 of bolts")]
    assert cases["few_training_images"] == [((), "bolts: 9 training images reach a false-alarm rate of 10.0%")]
    assert len(cases["no_mask"]) == 2
    assert severities(result)["duplicate_categories"] is Severity.WARNING


# Bad parts among the good ones.


def embedding() -> Embed:
    seen = Embedding(teacher(STRIDES), DEFAULT_CONTRACT)
    return lambda looks, tell: seen([one.sample.path for one in looks], tell)


def test_strangeness_is_the_distance_to_the_nearest_of_another_image() -> None:
    """Every patch of an image is the same here, so any choice of them stands for it."""
    vectors = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    patches = np.repeat(vectors[:, None], 6, axis=1)
    patches[4, 2] += 10
    slow = [
        max(min(np.linalg.norm(patch - other) for j, other in enumerate(vectors) if j != i) for patch in patches[i])
        for i in range(9)
    ]
    assert np.delete(strangeness(patches), 4) == pytest.approx(np.delete(slow, 4), rel=1e-4)
    assert strangeness(patches)[4] == pytest.approx(slow[4], rel=0.5)
    assert strangeness(patches).argmax() == 4


def test_more_images_than_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish.quality.outliers.REFERENCES", 10)
    patches = np.random.default_rng(0).normal(size=(30, 4, 3)).astype(np.float32)
    patches[13, 1] = 40
    assert strangeness(patches).argmax() == 13


def test_bad_parts_among_small_good_ones_rank_first(parts: Path) -> None:
    make_parts(parts / "train" / "good", 2, first=900, defect=True)
    result = check(open_categories(parts), embed=embedding())
    ((category, ranking),) = result.ranking.items()
    assert category == "parts"
    assert len(ranking) == TRAIN + 2
    assert {one.name for one in ranking[:2]} == {"train/good/900.png", "train/good/901.png"}
    assert severities(result) == {"unlike_the_rest": Severity.WARNING}
    assert ranking[0].z > FAR_UNLIKE


def test_bad_parts_of_a_product_line_rank_first(tmp_path: Path) -> None:
    """What is plain to see; the faintest dents are beyond what a look of this kind can find."""
    line = make_product_line(tmp_path / "line", n_train=30, n_test_good=0, n_per_defect=1, size=224)
    for kind in ("chip", "stain"):
        shutil.move(line / "test" / kind / "000.png", line / "train" / "good" / f"{kind}.png")
    (ranking,) = check(open_categories(line), embed=embedding()).ranking.values()
    assert {one.name for one in ranking[:2]} == {"train/good/chip.png", "train/good/stain.png"}


@pytest.mark.skipif(not GRID.is_dir(), reason="needs the grids of MVTec AD in ../shared/data")
def test_bad_grids_among_good_ones_rank_high(tmp_path: Path) -> None:
    """One of each kind among 40 good ones. A bad one is first, and most of the first five are bad: five drawn by chance
    would hold three bad ones or more once in 150 times."""
    good = sorted((GRID / "train" / "good").iterdir())[:40]
    bad = [path for path in sorted((GRID / "test").glob("*/001.png")) if path.parent.name != "good"]
    for path in good:
        shutil.copy(path, tmp_path / path.name)
    for path in bad:
        shutil.copy(path, tmp_path / f"bad_{path.parent.name}.png")
    (ranking,) = check(open_categories(tmp_path), embed=embedding()).ranking.values()
    is_bad = [one.name.startswith("bad") for one in ranking]
    assert sum(is_bad) == 5
    assert is_bad[0]
    assert sum(is_bad[:5]) >= 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real images in ../shared/data")
@pytest.mark.parametrize("category", ["bottle", "grid"])
def test_real_good_parts_are_no_duplicates_and_no_outliers(category: str) -> None:
    assert found(look_through(SHARED / "mvtec" / category)) == {}


# The report.


def test_the_report_stands_alone_and_shows_every_finding(parts: Path, tmp_path: Path) -> None:
    shutil.copy(parts / "train" / "good" / "003.png", parts / "test" / "good" / "<b>&.png")
    (parts / "test" / "good" / "200.png").write_bytes(b"")
    for number in range(20):
        (parts / "ground_truth" / "scratch" / f"{900 + number}_mask.png").write_bytes(b"")
    result = check(open_categories(parts), embed=embedding(), looked_for_unlike="teacher T")
    write_quality_report(tmp_path / "new" / "report.html", result)
    page = Page(tmp_path / "new" / "report.html")
    assert_stands_alone(page)
    assert "2 things to put right before training, 1 thing to look at." in page.text
    for finding in result.findings:
        assert finding.kind.title in page.text
        assert finding.kind.todo in page.text
        for name in finding.files:
            assert name in page.text
    assert "<b>&.png" not in page.source
    pictures = [image["alt"] for image in page.all("img")]
    assert pictures[:2] == ["Image of test/good/<b>&.png", "Image of train/good/003.png"]
    assert len(pictures) == 2 + 12
    assert page.text.count("teacher T") == 1


def test_the_report_of_a_faultless_dataset_says_so(faultless: Path, tmp_path: Path) -> None:
    write_quality_report(tmp_path / "report.html", look_through(faultless))
    page = Page(tmp_path / "report.html")
    assert_stands_alone(page)
    assert "Nothing is wrong." in page.text
    assert page.all("img") == []


# The verb.


def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["blemish", "data", "check", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


def test_the_verb_ends_with_1_where_something_is_wrong(
    parts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = run(capfd, monkeypatch, parts, "--no-embedding")
    assert (status, out) == (0, "")
    assert "110 images: nothing is wrong." in err
    assert "left out, as asked" in err

    shutil.copy(parts / "train" / "good" / "003.png", parts / "test" / "good" / "copy.png")
    report = tmp_path / "deep" / "report.html"
    status, out, err = run(capfd, monkeypatch, parts, "--no-embedding", "--report", report)
    assert status == 1
    assert "duplicate_train_test" in out
    assert "test/good/copy.png  train/good/003.png: the same file" in out
    assert "111 images: 1 error." in err
    assert report.is_file()

    status, out, _ = run(capfd, monkeypatch, parts, "--json")
    document = json.loads(out)
    assert status == 1
    assert document["wrong"] is True
    assert document["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert document["findings"][0]["cases"] == [
        {"files": ["test/good/copy.png", "train/good/003.png"], "what": "the same file"}
    ]
    assert document["unlike"] == "teacher tf_efficientnet_lite0"
    assert len(document["ranking"]["parts"]) == TRAIN
    assert all(one["z"] < FAR_UNLIKE for one in document["ranking"]["parts"])


def test_without_torch_the_rest_is_checked(parts: Path) -> None:
    without = (
        "import sys\nsys.modules['torch'] = None\n"
        "sys.argv = ['blemish', 'data', 'check', sys.argv[1]]\nfrom blemish.cli import main\nmain()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", without, str(parts)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "left out: blemish[train] is not installed" in ended.stderr
    assert "nothing is wrong" in ended.stderr
