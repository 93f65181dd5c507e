"""Layouts of published inspection datasets, each on a small made-up folder that lies like the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blemish import images
from blemish.admission import admit
from blemish.console import Silent
from blemish.data import (
    Dataset,
    Sample,
    layouts,
    loco_regions,
    open_categories,
    open_dataset,
    read_mask,
    true_mask,
)
from blemish.data.layout import LAYOUTS
from blemish.errors import DataError

SIZE = (4, 6)


def put(root: Path, *names: str) -> None:
    """Write a file at each path. Its content does not matter where names alone are looked at."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not decoded")


def marks(value: int, *pixels: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask that has `value` at some (row, column) and else 0."""
    mask = np.zeros(SIZE, np.uint8)
    for pixel in pixels:
        mask[pixel] = value
    return mask


def paint(root: Path, name: str, pixels: NDArray[Any]) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / name)


def rows(dataset: Dataset) -> list[tuple[str, str | None, str, str, str | None]]:
    return [
        (
            sample.path.relative_to(dataset.root).as_posix(),
            sample.label,
            sample.split,
            sample.kind,
            sample.mask.relative_to(dataset.root).as_posix() if sample.mask else None,
        )
        for sample in dataset.samples
    ]


def marked(sample: Sample) -> list[list[int]]:
    """Row and column of each pixel that the sample's masks mark."""
    mask = true_mask(sample, SIZE)
    assert mask is not None
    return np.argwhere(mask).tolist()


# The made-up datasets. Each is written below a root that holds all of its categories.

LOCO_CONFIG = [
    {"defect_name": "extra", "pixel_value": 255, "saturation_threshold": 3, "relative_saturation": False},
    {"defect_name": "missing", "pixel_value": 254, "saturation_threshold": 9, "relative_saturation": False},
    {"defect_name": "scratch", "pixel_value": 100, "saturation_threshold": 0.5, "relative_saturation": True},
]


def make_mvtec_loco(root: Path) -> None:
    for category in ("pushpins", "screw_bag"):
        home = root / category
        put(home, "train/good/000.png", "train/good/001.png", "validation/good/000.png", "test/good/000.png")
        put(home, "test/logical_anomalies/000.png", "test/structural_anomalies/000.png", "license.txt")
        extra = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]
        paint(home, "ground_truth/logical_anomalies/000/000.png", marks(255, *extra))
        paint(home, "ground_truth/logical_anomalies/000/001.png", marks(254, (0, 4), (3, 5)))
        paint(home, "ground_truth/structural_anomalies/000/000.png", marks(100, (1, 1), (1, 2), (2, 1)))
        (home / "defects_config.json").write_text(json.dumps(LOCO_CONFIG))


def make_mvtec_3d(root: Path) -> None:
    for category in ("bagel", "rope"):
        home = root / category
        for folder in ("train/good", "validation/good", "test/good", "test/hole"):
            put(home, f"{folder}/rgb/000.png", f"{folder}/xyz/000.tiff")
        paint(home, "test/good/gt/000.png", marks(0))
        paint(home, "test/hole/gt/000.png", marks(255, (1, 1)))
        put(home, "calibration/camera_parameters.json")


def make_visa(root: Path) -> None:
    lines = ["object,split,label,image,mask"]
    for category in ("candle", "pcb1"):
        home = root / category
        put(home, *(f"Data/Images/Normal/{number:04}.JPG" for number in range(3)), "Data/Images/Anomaly/000.JPG")
        paint(home, "Data/Masks/Anomaly/000.png", marks(2, (1, 1)) + marks(7, (3, 5)))
        (home / "image_anno.csv").write_text("image,label,mask\n")
        lines += [f"{category},train,normal,{category}/Data/Images/Normal/{n:04}.JPG," for n in (2, 0)]
        lines.append(f"{category},test,normal,{category}/Data/Images/Normal/0001.JPG,")
        both = f"{category}/Data/Images/Anomaly/000.JPG,{category}/Data/Masks/Anomaly/000.png"
        lines.append(f"{category},test,anomaly,{both}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")


def make_btad(root: Path) -> None:
    for product, image, mask in (("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")):
        home = root / product
        put(home, f"train/ok/0000.{image}", f"test/ok/0000.{image}", f"test/ko/0000.{image}")
        paint(home, f"ground_truth/ko/0000.{mask}", marks(255, (2, 3)))


def make_kolektor_sdd(root: Path) -> None:
    for part in range(1, 6):
        for number in range(2):
            put(root, f"kos{part:02}/Part{number}.jpg")
            defective = (part, number) == (3, 1)
            paint(root, f"kos{part:02}/Part{number}_label.bmp", marks(1, (1, 4)) if defective else marks(0))


def make_kolektor_sdd2(root: Path) -> None:
    for name, mask in (
        ("train/10000", marks(0)),
        ("train/10001", marks(255, (0, 0))),
        ("train/10301", marks(0)),
        ("test/20000", marks(0)),
        ("test/20001", marks(255, (2, 2)) + marks(40, (2, 3))),
    ):
        put(root, f"{name}.png")
        paint(root, f"{name}_GT.png", mask)
    put(root, "train/10301 (copy).png", "train/10301_GT (copy).png", "split_weakly_0.pyb")


def make_aitex(root: Path) -> None:
    put(root, *(f"NODefect_images/2306881-210020u/{number:04}_000_00.png" for number in range(1, 4)))
    put(root, *(f"NODefect_images/2311694-1930c7u/{number:04}_000_03.png" for number in range(4, 6)))
    names = ("0001_002_00", "0044_019_04", "0100_025_08", "0200_099_01")
    put(root, *(f"Defect_images/{name}.png" for name in names), "Mask_images/0999_002_00_mask.png")
    paint(root, "Mask_images/0001_002_00_mask.png", marks(255, (0, 1)))
    paint(root, "Mask_images/0044_019_04_mask1.png", marks(255, (1, 1)))
    paint(root, "Mask_images/0044_019_04_mask2.png", marks(255, (3, 3)))
    paint(root, "Mask_images/0200_099_01_mask.png", marks(255, (0, 1)))


def make_rsdds(root: Path) -> None:
    for kind in ("Type-I RSDDs dataset", "Type-II RSDDs dataset"):
        put(root / kind, "Rail surface images/rail_1.jpg", "Rail surface images/rail_2.jpg")
        for number in (1, 2):
            paint(root / kind, f"GroundTruth/rail_{number}.jpg", marks(255, *((1, x) for x in range(6))))


def make_nanotwice(root: Path) -> None:
    put(root, "Normal/ER12.tif", "Normal/ER15.tif", "Anomalous/images/ER01.tif", "Anomalous/images/ER02.tif")
    for number in (1, 2):
        paint(root, f"Anomalous/gt/ER0{number}_gt.png", marks(255, (1, number)))


MAKERS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "mvtec-loco": (make_mvtec_loco, ["pushpins", "screw_bag"]),
    "mvtec-3d": (make_mvtec_3d, ["bagel", "rope"]),
    "visa": (make_visa, ["candle", "pcb1"]),
    "btad": (make_btad, ["01", "02", "03"]),
    "kolektor-sdd": (make_kolektor_sdd, []),
    "kolektor-sdd2": (make_kolektor_sdd2, []),
    "aitex": (make_aitex, []),
    "rsdds": (make_rsdds, ["Type-I RSDDs dataset", "Type-II RSDDs dataset"]),
    "nanotwice": (make_nanotwice, []),
}
"""By layout: writes the dataset, and its categories."""


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, list[str]]:
    """Layout, root and categories of each made-up dataset."""
    make, categories = MAKERS[request.param]
    root = tmp_path / "download"
    root.mkdir()
    make(root)
    return request.param, root, categories


# What holds for all


def test_each_is_recognised_as_its_own(made: tuple[str, Path, list[str]]) -> None:
    name, root, categories = made
    assert {dataset.layout for dataset in open_categories(root).values()} == {name}
    for category in categories:
        assert open_dataset(root / category).layout == name
    # None of the others would take it, so their order does not matter.
    claims = [known for known, layout in LAYOUTS.items() if known not in ("folder", "mvtec") and layout.recognise(root)]
    assert claims == [name]


def test_all_categories_are_given_and_a_folder_of_them_is_no_dataset(made: tuple[str, Path, list[str]]) -> None:
    _, root, categories = made
    datasets = open_categories(root)
    assert list(datasets) == (categories or ["download"])
    for name, dataset in datasets.items():
        assert {sample.category for sample in dataset.samples} == {name}
    if categories:
        with pytest.raises(DataError, match=f"{len(categories)} categories.*Point at one of them"):
            open_dataset(root)


def test_every_mask_of_a_defect_marks_something(made: tuple[str, Path, list[str]]) -> None:
    _, root, _ = made
    for dataset in open_categories(root).values():
        for sample in dataset.samples:
            assert (sample.label, sample.split) != ("anomalous", "train")
            if sample.label == "normal":
                assert (sample.mask, sample.kind) == (None, "good")
            elif sample.mask is not None:
                assert marked(sample)


def test_another_folder_is_refused_with_what_is_expected(made: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    name, _, _ = made
    put(tmp_path / "other", "a.png")
    with pytest.raises(DataError, match=f"this is not the layout {name}\\. Expected") as caught:
        open_dataset(tmp_path / "other", name)
    assert layouts()[name] in str(caught.value)


def test_what_people_have_themselves_is_not_taken_for_a_published_dataset(tmp_path: Path) -> None:
    put(tmp_path / "mine", "train/ok/a.png", "test/ok/b.png", "test/ko/c.png", "test/scratch/d.png")
    put(tmp_path / "plain", "Normal/a.png", "Anomalous/b.png")
    assert open_dataset(tmp_path / "mine").layout == "mvtec"
    assert len(open_dataset(tmp_path / "mine").test) == 3
    assert open_dataset(tmp_path / "plain").layout == "folder"


# One by one


def test_mvtec_loco(tmp_path: Path) -> None:
    make_mvtec_loco(tmp_path)
    dataset = open_dataset(tmp_path / "pushpins")
    assert rows(dataset) == [
        ("test/good/000.png", "normal", "test", "good", None),
        (
            "test/logical_anomalies/000.png",
            "anomalous",
            "test",
            "logical_anomalies",
            "ground_truth/logical_anomalies/000",
        ),
        (
            "test/structural_anomalies/000.png",
            "anomalous",
            "test",
            "structural_anomalies",
            "ground_truth/structural_anomalies/000",
        ),
        ("train/good/000.png", "normal", "train", "good", None),
        ("train/good/001.png", "normal", "train", "good", None),
        ("validation/good/000.png", "normal", "train", "good", None),
    ]
    assert "validation/ trains too" in dataset.note
    logical, structural = dataset.test[1:]
    assert marked(logical) == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [3, 5]]
    # 100 is less than half of 255, but masks of this dataset mark by not being 0.
    assert marked(structural) == [[1, 1], [1, 2], [2, 1]]


def test_loco_regions_are_one_a_mask_image_with_its_saturation_area(tmp_path: Path) -> None:
    make_mvtec_loco(tmp_path)
    good, logical, structural = open_dataset(tmp_path / "pushpins").test
    assert loco_regions(good, SIZE) == []
    extra, missing = loco_regions(logical, SIZE)
    # 3 pixels of 5 suffice; of 9 wanted there are 2, which are not connected.
    assert (extra[0].dtype, int(extra[0].sum()), extra[1]) == (np.bool_, 5, 3)
    assert (np.argwhere(missing[0]).tolist(), missing[1]) == ([[0, 4], [3, 5]], 2)
    # Half of 3 pixels, rounded down.
    ((scratch, saturation),) = loco_regions(structural, SIZE)
    assert (int(scratch.sum()), saturation) == (3, 1)
    truth = true_mask(logical, SIZE)
    assert truth is not None
    np.testing.assert_array_equal(truth, extra[0] | missing[0])


def test_a_loco_share_that_rounds_down_to_no_pixel_is_one_pixel(tmp_path: Path) -> None:
    make_mvtec_loco(tmp_path)
    paint(tmp_path, "pushpins/ground_truth/structural_anomalies/000/000.png", marks(100, (1, 1)))
    ((_, saturation),) = loco_regions(open_dataset(tmp_path / "pushpins").test[2], SIZE)
    assert saturation == 1


def test_loco_masks_and_thresholds_must_fit(tmp_path: Path) -> None:
    make_mvtec_loco(tmp_path)
    home = tmp_path / "pushpins"
    _, logical, structural = open_dataset(home).test
    with pytest.raises(DataError, match="the mask is 6 x 4 pixels"):
        loco_regions(logical, (6, 4))
    for values in (marks(0), marks(7, (0, 0)), marks(255, (0, 0)) + marks(254, (0, 1))):
        paint(home, "ground_truth/logical_anomalies/000/001.png", values)
        with pytest.raises(DataError, match="the values of this mask are"):
            loco_regions(logical, SIZE)
    for text in ("{", '[{"pixel_value": 255}]', "[3]"):
        (home / "defects_config.json").write_text(text)
        with pytest.raises(DataError, match="cannot be used"):
            loco_regions(structural, SIZE)
    (home / "defects_config.json").unlink()
    with pytest.raises(DataError, match=r"defects_config\.json: this file is not there"):
        loco_regions(structural, SIZE)
    assert open_dataset(home).layout == "mvtec-loco"
    with pytest.raises(DataError, match="no folder of masks"):
        loco_regions(Sample(structural.path, "anomalous", "test", "structural_anomalies"), SIZE)


def test_mvtec_3d(tmp_path: Path) -> None:
    make_mvtec_3d(tmp_path)
    dataset = open_dataset(tmp_path / "bagel")
    assert rows(dataset) == [
        ("test/good/rgb/000.png", "normal", "test", "good", None),
        ("test/hole/rgb/000.png", "anomalous", "test", "hole", "test/hole/gt/000.png"),
        ("train/good/rgb/000.png", "normal", "train", "good", None),
        ("validation/good/rgb/000.png", "normal", "train", "good", None),
    ]
    assert marked(dataset.test[1]) == [[1, 1]]


def test_visa(tmp_path: Path) -> None:
    make_visa(tmp_path)
    put(tmp_path, "candle/Data/Images/Normal/9999.JPG")
    dataset = open_dataset(tmp_path / "candle")
    assert rows(dataset) == [
        ("Data/Images/Anomaly/000.JPG", "anomalous", "test", "", "Data/Masks/Anomaly/000.png"),
        ("Data/Images/Normal/0000.JPG", "normal", "train", "good", None),
        ("Data/Images/Normal/0001.JPG", "normal", "test", "good", None),
        ("Data/Images/Normal/0002.JPG", "normal", "train", "good", None),
    ]
    assert dataset.note == (
        "Layout visa (split by split_csv/1cls.csv): 2 images train, 2 images test (1 good, 1 defective); 1 with masks; "
        "1 other file passed over."
    )
    defective = dataset.test[0]
    assert marked(defective) == [[1, 1], [3, 5]]
    assert defective.mask is not None
    # The rule for everybody else's masks still refuses such numbers.
    with pytest.raises(DataError, match="largest value is 7 of 255"):
        read_mask(defective.mask, SIZE)


def test_visa_is_found_from_inside_and_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_visa(tmp_path)
    monkeypatch.chdir(tmp_path / "candle")
    assert len(open_dataset(".").samples) == 4
    (tmp_path / "candle").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    (tmp_path / "candle").symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    assert len(open_dataset(tmp_path / "candle").samples) == 4


def test_visa_needs_its_table(tmp_path: Path) -> None:
    make_visa(tmp_path)
    table = tmp_path / "split_csv/1cls.csv"
    good = table.read_text()
    for text, message in [
        (good.replace("candle,", "candles,"), 'no row is of the object "candle"'),
        (good.replace("object,", "thing,"), "does not name the columns object, split"),
        (good.replace("candle,train", "candle,val"), "line 2: this row has not"),
        (good.replace("Normal/0002", "Normal/0007"), "1 of its images are not there, such as .*0007"),
    ]:
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path / "candle")
    table.unlink()
    with pytest.raises(DataError, match=r"1cls\.csv, which says what trains, is not there.*beside the categories"):
        open_dataset(tmp_path / "candle")


def test_btad(tmp_path: Path) -> None:
    make_btad(tmp_path)
    dataset = open_dataset(tmp_path / "03")
    assert rows(dataset) == [
        ("test/ko/0000.bmp", "anomalous", "test", "", "ground_truth/ko/0000.bmp"),
        ("test/ok/0000.bmp", "normal", "test", "good", None),
        ("train/ok/0000.bmp", "normal", "train", "good", None),
    ]
    assert open_dataset(tmp_path / "01").samples[0].mask == tmp_path / "01/ground_truth/ko/0000.png"
    (tmp_path / "01").rename(tmp_path / "product")
    assert open_dataset(tmp_path / "product").layout == "mvtec"
    assert len(open_dataset(tmp_path / "product", "btad").samples) == 3


def test_kolektor_sdd_keeps_the_images_of_one_part_together(tmp_path: Path) -> None:
    make_kolektor_sdd(tmp_path)
    put(tmp_path, "kos01/Thumbs.db")
    dataset = open_dataset(tmp_path)
    splits: dict[str, set[str]] = {}
    for sample in dataset.samples:
        if sample.label == "normal":
            splits.setdefault(sample.path.parent.name, set()).add(sample.split)
    # sha1sum of the folders' names, sorted: kos02 comes last.
    assert {part for part, split in splits.items() if split == {"test"}} == {"kos02"}
    assert all(len(split) == 1 for split in splits.values())
    (defective,) = [sample for sample in dataset.samples if sample.label == "anomalous"]
    assert defective.path == tmp_path / "kos03/Part1.jpg"
    assert marked(defective) == [[1, 4]]
    assert "7 images train, 3 images test (2 good, 1 defective); 1 with masks; 1 other file" in dataset.note


def test_kolektor_labels_must_be_there(tmp_path: Path) -> None:
    make_kolektor_sdd(tmp_path / "one")
    (tmp_path / "one/kos02/Part0_label.bmp").unlink()
    with pytest.raises(DataError, match=r"Part0_label\.bmp: the mask cannot be used"):
        open_dataset(tmp_path / "one")
    make_kolektor_sdd2(tmp_path / "two")
    (tmp_path / "two/test/20001_GT.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"20001_GT\.png: the mask cannot be used"):
        open_dataset(tmp_path / "two")


def test_kolektor_sdd2_does_not_train_on_defects(tmp_path: Path) -> None:
    make_kolektor_sdd2(tmp_path)
    dataset = open_dataset(tmp_path)
    assert rows(dataset) == [
        ("test/20000.png", "normal", "test", "good", None),
        ("test/20001.png", "anomalous", "test", "", "test/20001_GT.png"),
        ("train/10000.png", "normal", "train", "good", None),
        ("train/10301.png", "normal", "train", "good", None),
    ]
    assert marked(dataset.test[1]) == [[2, 2], [2, 3]]
    assert "defective images of train/ left out: 1" in dataset.note
    assert "2 other files passed over" in dataset.note


def test_aitex(tmp_path: Path) -> None:
    make_aitex(tmp_path)
    dataset = open_dataset(tmp_path)
    assert [row for row in rows(dataset) if row[1] == "anomalous"] == [
        ("Defect_images/0001_002_00.png", "anomalous", "test", "broken end", "Mask_images/0001_002_00_mask.png"),
        ("Defect_images/0044_019_04.png", "anomalous", "test", "fuzzyball", "Mask_images/0044_019_04_mask1.png"),
        ("Defect_images/0100_025_08.png", "anomalous", "test", "warp ball", None),
        ("Defect_images/0200_099_01.png", "anomalous", "test", "099", "Mask_images/0200_099_01_mask.png"),
    ]
    two_masks = next(sample for sample in dataset.samples if sample.kind == "fuzzyball")
    assert marked(two_masks) == [[1, 1], [3, 3]]
    assert [sample.label for sample in dataset.train] == ["normal"] * 4
    assert "4 images train, 5 images test" in dataset.note
    assert "3 with masks; 1 other file passed over" in dataset.note


def test_rsdds_cannot_be_trained_on_and_says_why(tmp_path: Path) -> None:
    make_rsdds(tmp_path)
    dataset = open_dataset(tmp_path / "Type-I RSDDs dataset")
    assert rows(dataset)[0] == ("Rail surface images/rail_1.jpg", "anomalous", "test", "", "GroundTruth/rail_1.jpg")
    assert (len(dataset.train), len(dataset.test)) == (0, 2)
    with pytest.raises(DataError, match=r"none of these images is for training.*every image shows a defect"):
        admit(dataset, images.ImageContract(depth="uint8"), Silent())


def test_nanotwice(tmp_path: Path) -> None:
    make_nanotwice(tmp_path)
    dataset = open_dataset(tmp_path)
    assert rows(dataset) == [
        ("Anomalous/images/ER01.tif", "anomalous", "test", "", "Anomalous/gt/ER01_gt.png"),
        ("Anomalous/images/ER02.tif", "anomalous", "test", "", "Anomalous/gt/ER02_gt.png"),
        ("Normal/ER12.tif", "normal", "train", "good", None),
        ("Normal/ER15.tif", "normal", "train", "good", None),
    ]
    assert marked(dataset.test[1]) == [[1, 2]]


# Masks


def test_a_mask_that_marks_by_not_being_0_may_hold_any_number(tmp_path: Path) -> None:
    paint(tmp_path, "m.png", np.stack([marks(1, (0, 0)), marks(200, (1, 1)), marks(0)], axis=-1))
    assert np.argwhere(read_mask(tmp_path / "m.png", SIZE, "non-zero")).tolist() == [[0, 0], [1, 1]]
    assert np.argwhere(read_mask(tmp_path / "m.png", SIZE)).tolist() == [[1, 1]]
    with pytest.raises(DataError, match="the mask is 6 x 4 pixels"):
        read_mask(tmp_path / "m.png", (6, 4), "non-zero")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_named_like_folders_confuse_nobody(tmp_path: Path, layout: str) -> None:
    """Names that layouts look for, none of which is a folder: a file is not what they mean."""
    names = "train test good validation Data Image split_csv Normal Anomalous Defect_images Class1 kos01 01 MT_Free"
    for name in [*names.split(), "Type-I RSDDs dataset", "realiad_jsons", "texture_1", "ground_truth"]:
        (tmp_path / name).write_bytes(b"")

    assert LAYOUTS[layout].recognise(tmp_path) is (layout == "folder")
