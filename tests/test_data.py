from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blemish.data import Dataset, combine, layouts, list_images, open_categories, open_dataset, read_mask
from blemish.errors import DataError, UsageError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def put(*paths: Path) -> None:
    """Write a file at each path. Layouts go by names alone, so its content does not matter."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not decoded")


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


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


# Layout mvtec


def test_mvtec(tmp_path: Path) -> None:
    root = tmp_path / "cap"
    put(
        root / "train/good/001.png",
        root / "train/good/000.png",
        root / "test/good/000.png",
        root / "test/broken/000.png",
        root / "test/broken/001.PNG",
        root / "test/broken/002.bmp",
        root / "test/bent/000.png",
        root / "ground_truth/broken/000_mask.png",
        root / "ground_truth/broken/001.tif",
        root / "license.txt",
        root / "test/broken/Thumbs.db",
    )
    dataset = open_dataset(root)
    assert (dataset.name, dataset.layout, dataset.root) == ("cap", "mvtec", root)
    assert rows(dataset) == [
        ("test/bent/000.png", "anomalous", "test", "bent", None),
        ("test/broken/000.png", "anomalous", "test", "broken", "ground_truth/broken/000_mask.png"),
        ("test/broken/001.PNG", "anomalous", "test", "broken", "ground_truth/broken/001.tif"),
        ("test/broken/002.bmp", "anomalous", "test", "broken", None),
        ("test/good/000.png", "normal", "test", "good", None),
        ("train/good/000.png", "normal", "train", "good", None),
        ("train/good/001.png", "normal", "train", "good", None),
    ]
    assert [sample.split for sample in dataset.train] == ["train"] * 2
    assert [sample.split for sample in dataset.test] == ["test"] * 5
    assert dataset.note == (
        "Layout mvtec (split by its folders train and test): 2 images train, 5 images test (1 good, 1 bent, 3 broken); "
        "2 with masks; 1 other file passed over."
    )


def test_mvtec_with_other_names_and_without_masks(tmp_path: Path) -> None:
    put(tmp_path / "Train/OK/a.jpg", tmp_path / "Test/Normal/b.jpg", tmp_path / "Test/NG/c.jpg")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "mvtec"
    assert [(label, split, kind) for _, label, split, kind, _ in rows(dataset)] == [
        ("anomalous", "test", "NG"),
        ("normal", "test", "good"),
        ("normal", "train", "good"),
    ]
    assert "no masks" in dataset.note


def test_mvtec_prefers_the_file_called_mask(tmp_path: Path) -> None:
    put(tmp_path / "train/good/0.png", tmp_path / "test/cut/0.png")
    put(tmp_path / "ground_truth/cut/0.png", tmp_path / "ground_truth/cut/0_mask.png")
    (sample,) = open_dataset(tmp_path).test
    assert sample.mask == tmp_path / "ground_truth/cut/0_mask.png"


def test_mvtec_keeps_bad_training_images_and_says_so(tmp_path: Path) -> None:
    put(tmp_path / "train/good/0.png", tmp_path / "train/cut/0.png", tmp_path / "ground_truth/cut/0_mask.png")
    dataset = open_dataset(tmp_path)
    assert [(sample.label, sample.kind) for sample in dataset.train] == [("anomalous", "cut"), ("normal", "good")]
    assert "1 of the training images is known to be bad" in dataset.note


def test_mvtec_of_several_categories_names_them(tmp_path: Path) -> None:
    put(tmp_path / "bottle/train/good/0.png", tmp_path / "cable/train/good/0.png")
    with pytest.raises(DataError, match=r"2 categories.*bottle, cable.*Point at one of them") as caught:
        open_dataset(tmp_path)
    assert str(tmp_path / "bottle") in str(caught.value)


def test_mvtec_refuses_images_that_lie_beside_the_kinds(tmp_path: Path) -> None:
    put(tmp_path / "train/0.png", tmp_path / "test/good/0.png")
    with pytest.raises(DataError, match="cannot be told good from bad"):
        open_dataset(tmp_path)


# Layout magnetic-tile


def magnetic_tiles(root: Path) -> None:
    for number in range(10):
        put(root / f"MT_Free/Imgs/exp1_num_{number}.jpg", root / f"MT_Free/Imgs/exp1_num_{number}.png")
    put(root / "MT_Crack/Imgs/exp1_num_3.jpg", root / "MT_Crack/Imgs/exp1_num_3.png", root / "MT_Uneven/Imgs/a.jpg")
    put(root / "MT_Uneven/Imgs/without_image.png", root / "README.md")


def test_magnetic_tile(tmp_path: Path) -> None:
    magnetic_tiles(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "magnetic-tile"
    assert len(dataset.train) == 8
    assert {(sample.label, sample.kind, sample.mask) for sample in dataset.train} == {("normal", "good", None)}
    assert [row for row in rows(dataset) if row[1] == "anomalous"] == [
        ("MT_Crack/Imgs/exp1_num_3.jpg", "anomalous", "test", "crack", "MT_Crack/Imgs/exp1_num_3.png"),
        ("MT_Uneven/Imgs/a.jpg", "anomalous", "test", "uneven", None),
    ]
    assert dataset.note.endswith(
        "8 images train, 4 images test (2 good, 1 crack, 1 uneven); 1 with masks; 1 other file passed over."
    )


def test_the_hash_split_depends_on_the_names_alone(tmp_path: Path) -> None:
    magnetic_tiles(tmp_path / "here")
    magnetic_tiles(tmp_path / "there")
    put(tmp_path / "there/MT_Blowhole/Imgs/x.jpg")
    trains = {sample.path.name for sample in open_dataset(tmp_path / "here").train}
    assert trains == {sample.path.name for sample in open_dataset(tmp_path / "there").train}
    # sha1sum of the names, sorted: these two come last.
    assert {f"exp1_num_{number}.jpg" for number in range(10)} - trains == {"exp1_num_0.jpg", "exp1_num_7.jpg"}


# Layout folder


def test_folder_of_images_only(tmp_path: Path) -> None:
    root = tmp_path / "Teile für Müller"
    put(root / "ä b.JPG", root / "2.webp", root / "monday/1.tiff", root / "monday/late/1.jpeg")
    put(root / ".hidden.png", root / ".cache/x.png", root / "notes.txt", root / ".DS_Store", root / "Thumbs.db")
    dataset = open_dataset(root)
    assert (dataset.layout, dataset.name) == ("folder", "Teile für Müller")
    assert rows(dataset) == [
        ("2.webp", "normal", "train", "good", None),
        ("monday/1.tiff", "normal", "train", "good", None),
        ("monday/late/1.jpeg", "normal", "train", "good", None),
        ("ä b.JPG", "normal", "train", "good", None),
    ]
    assert "also those in monday/, monday/late/" in dataset.note
    assert "4 images train, 0 images test; 4 other files passed over" in dataset.note


def test_folder_with_defects(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path / f"Good/{number}.png")
    put(tmp_path / "scratch/a.png", tmp_path / "scratch/deep/b.png", tmp_path / "hole/a.png", tmp_path / "loose.png")
    put(tmp_path / "masks/scratch/a_mask.png", tmp_path / "masks/scratch/deep/b.bmp")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folder"
    assert len(dataset.train) == 4
    assert [row for row in rows(dataset) if row[2] == "test" and row[1] == "anomalous"] == [
        ("hole/a.png", "anomalous", "test", "hole", None),
        ("scratch/a.png", "anomalous", "test", "scratch", "masks/scratch/a_mask.png"),
        ("scratch/deep/b.png", "anomalous", "test", "scratch", "masks/scratch/deep/b.bmp"),
    ]
    assert "80 % of Good/ train" in dataset.note
    assert "images outside of the folders are not used: 1" in dataset.note
    assert "4 images train, 4 images test (1 good, 1 hole, 2 scratch); 2 with masks" in dataset.note


def test_folder_without_images_of_defects_trains_on_all_good_ones(tmp_path: Path) -> None:
    put(*(tmp_path / f"ok/{number}.png" for number in range(5)))
    (tmp_path / "scratch").mkdir()
    dataset = open_dataset(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (5, 0)
    assert "so all train" in dataset.note


@pytest.mark.parametrize("name", ["bad", "NG", "product/good", "test", "ground_truth", "week/defects"])
def test_folder_names_that_suggest_bad_images_are_not_trained_on(tmp_path: Path, name: str) -> None:
    put(tmp_path / "parts/0.png", tmp_path / name / "0.png")
    with pytest.raises(DataError, match=f"{name}/ suggests that not all images are of good parts"):
        open_dataset(tmp_path, "folder")


def test_folder_refuses_a_split_beside_good(tmp_path: Path) -> None:
    put(tmp_path / "good/0.png", tmp_path / "test/0.png")
    with pytest.raises(DataError, match="test/ beside good/ is neither good nor a defect"):
        open_dataset(tmp_path)


# Layout csv


def test_csv(tmp_path: Path) -> None:
    root = tmp_path / "line 3"
    put(root / "a.png", root / "b.png", root / "sub/c.png", root / "d.png", root / "e.png", root / "m/c.png")
    table(
        root / "parts.csv",
        "image_path,label,split,mask_path",
        "sub/c.png,scratch,test,m/c.png",
        "",
        "a.png,good,train,",
        f"{root / 'b.png'},0,test,m/c.png",
        "d.png,NG,test,",
        "e.png,,train",
    )
    expected = [
        ("a.png", "normal", "train", "good", None),
        ("b.png", "normal", "test", "good", None),
        ("d.png", "anomalous", "test", "", None),
        ("e.png", None, "train", "", None),
        ("sub/c.png", "anomalous", "test", "scratch", "m/c.png"),
    ]
    for source in (root, root / "parts.csv"):
        dataset = open_dataset(source)
        assert (dataset.layout, dataset.name) == ("csv", "line 3")
        assert rows(dataset) == expected
    assert dataset.note == (
        "Layout csv (parts.csv, split by its column): 2 images train (1 good, 1 unlabelled), "
        "3 images test (1 good, 1 defective, 1 scratch); 1 with masks."
    )


def test_csv_as_a_spreadsheet_on_windows_saves_it(tmp_path: Path) -> None:
    put(tmp_path / "good/ä 1.png", tmp_path / "bad/2.png")
    text = '\ufeffImage_Path;Label\r\n"good\\ä 1.png";OK\r\nbad\\2.png;Kratzer\r\n'
    (tmp_path / "Teile.CSV").write_bytes(text.encode())
    assert [row[:4] for row in rows(open_dataset(tmp_path))] == [
        ("bad/2.png", "anomalous", "test", "Kratzer"),
        ("good/ä 1.png", "normal", "train", "good"),
    ]


def test_csv_without_split_splits_normal_rows_like_a_folder(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(10)]
    put(*(tmp_path / "good" / name for name in names), tmp_path / "cut/0.png")
    from_folder = {sample.path.name for sample in open_dataset(tmp_path, "folder").train}
    lines = [f"good/{name},normal" for name in names]
    path = table(tmp_path / "t.csv", "image_path,label", *lines, "cut/0.png,1")
    dataset = open_dataset(path)
    assert {sample.path.name for sample in dataset.train} == from_folder
    assert len(from_folder) == 8
    assert "80 %" in dataset.note
    only_normal = open_dataset(table(path, "image_path,label", *lines))
    assert (len(only_normal.train), len(only_normal.test)) == (10, 0)


def test_csv_keeps_bad_training_rows_and_says_so(tmp_path: Path) -> None:
    put(tmp_path / "a.png", tmp_path / "b.png")
    dataset = open_dataset(table(tmp_path / "t.csv", "image_path,label,split", "a.png,bad,train", "b.png,1,train"))
    assert [sample.label for sample in dataset.train] == ["anomalous", "anomalous"]
    assert "2 of the training images are known to be bad" in dataset.note


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image_path,lable", "a.png,good"], 'line 1: unknown column "lable"; label was meant'),
        (["image_path,colour", "a.png,red"], 'line 1: unknown column "colour"\\. The first line names'),
        (["label,split", "good,train"], "line 1: there is no column image_path"),
        (["image_path,label,label", "a.png,good,good"], "line 1: a column is named twice"),
        ([], "line 1: there is no column image_path"),
        (["image_path", "a.png", "gone.png"], 'line 3: "gone.png" does not exist.*relative to'),
        (["image_path", "folder"], 'line 2: "folder" is not a file'),
        (["image_path,label,mask_path", "a.png,cut,gone.png"], 'line 2: "gone.png" does not exist'),
        (["image_path", "a.png", "", "folder/../a.png"], "line 4: the same image as in line 2.*Delete"),
        (["image_path,label", ",good"], "line 2: image_path is empty"),
        (["image_path,split", "a.png,val"], 'line 2: unknown split "val".*train or test'),
        (["image_path,label", "a.png,good,extra"], "line 2: this row has 3 values for 2 columns"),
    ],
)
def test_csv_errors_name_the_line_and_the_cure(tmp_path: Path, lines: list[str], message: str) -> None:
    put(tmp_path / "a.png", tmp_path / "folder/b.png")
    path = table(tmp_path / "t.csv", *lines)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(path)
    assert str(path) in str(caught.value)
    assert caught.value.todo


def test_csv_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("image_path\na.png\nä.png\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 3: the text is not encoded as UTF-8"):
        open_dataset(tmp_path / "t.csv")


def test_csv_in_a_folder_is_recognised_by_its_column(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    table(tmp_path / "weather.csv", "temperature,pressure", "1,2")
    assert open_dataset(tmp_path).layout == "folder"
    with pytest.raises(DataError, match='unknown column "temperature"'):
        open_dataset(tmp_path, "csv")
    table(tmp_path / "parts.csv", "image_path", "a.png")
    assert open_dataset(tmp_path).layout == "csv"
    table(tmp_path / "more.csv", "image_path", "a.png")
    with pytest.raises(DataError, match=r"2 \.csv files: more.csv, parts.csv.*Point at one"):
        open_dataset(tmp_path)


# Any layout


def test_layouts_are_described() -> None:
    names = list(layouts())
    assert {"csv", "mvtec", "magnetic-tile"} < {*names}
    assert names[-1] == "folder"
    assert all(title and "\n" not in title for title in layouts().values())


def test_an_unknown_layout_is_a_usage_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'Known are auto, csv, .*, folder.*mean "magnetic-tile"') as caught:
        open_dataset(tmp_path, "magnetic_tile")
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("layout", ["csv", "mvtec", "magnetic-tile"])
def test_a_source_of_another_layout_than_named(tmp_path: Path, layout: str) -> None:
    put(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"this is not the layout {layout}.*Expected"):
        open_dataset(tmp_path, layout)


def test_sources_that_are_no_dataset(tmp_path: Path) -> None:
    put(tmp_path / "image.PNG", tmp_path / "movie.mp4")
    table(tmp_path / "t.csv", "image_path", "image.PNG")
    (tmp_path / "empty").mkdir()
    put(tmp_path / "texts/a.txt")
    for source, layout, message in [
        ("gone", "auto", "does not exist"),
        ("image.PNG", "auto", "single image.*Point at a folder"),
        ("movie.mp4", "auto", "neither a folder nor a .csv file"),
        ("t.csv", "mvtec", "this is a file, not of the layout mvtec"),
        ("empty", "auto", "there are no images"),
        ("texts", "auto", "there are no images.*1 other file passed over"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            open_dataset(tmp_path / source, layout)
        assert str(tmp_path / source) in str(caught.value)


def test_broken_images_are_listed_for_whoever_reads_them(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    assert [sample.path.name for sample in open_dataset(str(tmp_path)).samples] == ["a.png", "empty.jpg", "nowhere.png"]


def test_loops_of_links_end_and_each_folder_is_listed_once_under_its_own_name(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root / "z/a.png", tmp_path / "elsewhere/b.png")
    (root / "z/up").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    (root / "zz").symlink_to(root / "z")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(root)
    listing = list_images(root)
    assert [path.relative_to(root).as_posix() for path in listing.images] == ["link/b.png", "z/a.png"]


def test_pipes_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "live.png")
    assert list_images(tmp_path).images == ()
    assert list_images(tmp_path).passed_over == 1


# Masks


def saved(path: Path, pixels: NDArray[Any]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


HALF = np.array([[0, 255, 127], [128, 0, 255]], np.uint8)
WHITE = np.array([[False, True, False], [True, False, True]])


@pytest.mark.parametrize(
    "pixels",
    [HALF, HALF.astype(np.uint16) * 257, WHITE, np.stack([HALF, HALF * 0, HALF * 0], axis=-1)],
    ids=["8 bit", "16 bit", "1 bit", "red"],
)
def test_masks_are_what_is_above_half(tmp_path: Path, pixels: NDArray[Any]) -> None:
    mask = read_mask(saved(tmp_path / "m.png", pixels), (2, 3))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, WHITE)


def test_a_black_mask_is_empty(tmp_path: Path) -> None:
    assert not read_mask(saved(tmp_path / "m.png", HALF * 0), (2, 3)).any()


def test_masks_that_cannot_be_taken_at_their_word(tmp_path: Path) -> None:
    good = saved(tmp_path / "m.png", HALF)
    with pytest.raises(DataError, match="the mask is 3 x 2 pixels, its image 2 x 3"):
        read_mask(good, (3, 2))
    with pytest.raises(DataError, match="largest value is 1 of 255"):
        read_mask(saved(tmp_path / "labels.png", WHITE.astype(np.uint8)), (2, 3))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-20])
    for name in ("cut.png", "gone.png"):
        with pytest.raises(DataError, match=f"{name}: the mask cannot be used"):
            read_mask(tmp_path / name, (2, 3))


# Real data


def real(name: str) -> Dataset:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not here")
    return open_dataset(SHARED / name)


@pytest.mark.parametrize(
    ("name", "layout", "train", "good", "anomalous"),
    [
        ("mvtec/bottle", "mvtec", 209, 20, 63),
        ("mvtec/grid", "mvtec", 264, 21, 57),
        ("magnetic_tile", "magnetic-tile", 762, 190, 392),
    ],
)
def test_real_datasets(name: str, layout: str, train: int, good: int, anomalous: int) -> None:
    dataset = real(name)
    labels = [sample.label for sample in dataset.test]
    assert dataset.layout == layout
    assert (len(dataset.train), labels.count("normal"), labels.count("anomalous")) == (train, good, anomalous)
    assert all((sample.mask is not None) == (sample.label == "anomalous") for sample in dataset.samples)


def test_real_masks() -> None:
    dataset = real("magnetic_tile")
    empty = []
    for sample in dataset.test:
        if sample.mask is not None and sample.kind in ("uneven", "fray"):
            with Image.open(sample.path) as image:
                shape = image.size[::-1]
            if not read_mask(sample.mask, shape).any():
                empty.append(sample.path.stem)
    assert empty == ["exp3_num_45042", "exp4_num_124690", "exp4_num_352527", "exp4_num_45057"]


def test_real_folder_of_categories() -> None:
    with pytest.raises(DataError, match="bottle, grid"):
        real("mvtec")


def test_categories_are_opened_one_by_one_and_put_together(tmp_path: Path) -> None:
    for category in ("bolt", "nut"):
        for folder in ("train/good", "test/good", "test/bent"):
            put(tmp_path / "products" / category / folder / f"{category}.png")

    datasets = open_categories(tmp_path / "products")
    together = combine(datasets)

    assert list(datasets) == ["bolt", "nut"]
    assert {sample.category for sample in datasets["nut"].samples} == {"nut"}
    assert [sample.category for sample in together.samples] == ["bolt"] * 3 + ["nut"] * 3
    assert len(together.train) == 2
    assert all(sample.path.is_relative_to(together.root) for sample in together.samples)
    assert list(open_categories(tmp_path / "products" / "nut")) == ["nut"]
    with pytest.raises(DataError, match="no datasets"):
        combine({})


def test_a_folder_of_masks_marks_what_any_of_them_marks(tmp_path: Path) -> None:
    for number, x in enumerate((1, 3)):
        mask = np.zeros((4, 6), np.uint8)
        mask[2, x] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")

    marked = read_mask(tmp_path / "masks", (4, 6))

    assert np.argwhere(marked).tolist() == [[2, 1], [2, 3]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no mask in this folder"):
        read_mask(tmp_path / "empty", (4, 6))
