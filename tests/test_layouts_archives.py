"""Layouts of published datasets: made-up samples of their true form."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blemish import images
from blemish.data import open_categories, open_dataset
from blemish.data.layout import LAYOUTS, cifar10, cifar100, fashion_mnist, unpacked
from blemish.errors import DataError
from test_data import put, rows

CLOTHES = fashion_mnist.CLASSES
REAL_FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, in which binary files have four images."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BLEMISH_CACHE", str(folder))
    monkeypatch.setattr(cifar10, "IMAGES_A_FILE", 4)
    monkeypatch.setattr(cifar100, "IMAGES", {"train": 4, "test": 2})
    return folder


def random_pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)


# DAGM


def dagm(root: Path) -> Path:
    for name in ("Class1", "Class10"):
        put(*(root / name / f"Train/{number:04}.PNG" for number in range(1, 5)))
        put(*(root / name / f"Test/{number:04}.PNG" for number in range(1, 4)))
        put(root / name / "Train/Label/0002_label.PNG", root / name / "Test/Label/0003_label.PNG")
        put(root / name / "Train/Label/Labels.txt", root / name / "Test/Label/Labels.txt")
    return root


def test_dagm(tmp_path: Path) -> None:
    found = open_categories(dagm(tmp_path), "dagm")
    assert list(found) == ["Class1", "Class10"]
    assert rows(found["Class10"]) == [
        ("Test/0001.PNG", "normal", "test", "good", None),
        ("Test/0002.PNG", "normal", "test", "good", None),
        ("Test/0003.PNG", "anomalous", "test", "defect", "Test/Label/0003_label.PNG"),
        ("Train/0001.PNG", "normal", "train", "good", None),
        ("Train/0003.PNG", "normal", "train", "good", None),
        ("Train/0004.PNG", "normal", "train", "good", None),
    ]
    assert "; 1 defective image of Train left out" in found["Class1"].note
    with pytest.raises(DataError, match=r"2 categories.*Class1, Class10"):
        open_dataset(tmp_path, "dagm")


# Real-IAD


def entry(kind: str, image: str, mask: str | None = None) -> dict[str, Any]:
    return {"category": "mint", "anomaly_class": kind, "image_path": image, "mask_path": mask}


def good(number: int) -> dict[str, Any]:
    return entry("OK", f"OK/S{number:04}/mint_{number:04}_OK_C1_20230101.jpg")


def bad(number: int, view: int = 1) -> dict[str, Any]:
    image = f"NG/AK/S{number:04}/mint_{number:04}_NG_AK_C{view}_20230101"
    return entry("AK", f"{image}.jpg", f"{image}.png")


def real_iad(root: Path, *, nested: bool = False, resolution: int = 1024) -> Path:
    tables = root / "realiad_jsons" if nested else root
    for split, train in {
        "realiad_jsons": [good(1), good(2)],
        "realiad_jsons_sv": [good(1)],
        "realiad_jsons_fuiad_0.0": [good(1), good(3)],
        "realiad_jsons_fuiad_0.1": [good(1), bad(9)],
    }.items():
        for category in ("mint", "toy"):
            lists = {
                "meta": {"prefix": f"{category}/", "normal_class": "OK", "pre_transform": False},
                "train": train,
                "test": [good(4), bad(5), entry("AK", "NG/AK/S0005/mint_0005_NG_AK_C2_20230101.jpg")],
            }
            (tables / split).mkdir(parents=True, exist_ok=True)
            (tables / split / f"{category}.json").write_text(json.dumps(lists), "utf-8")
    for category in ("mint", "toy"):
        put(root / f"realiad_{resolution}" / category / good(1)["image_path"])
    return root


@pytest.mark.parametrize("nested", [False, True])
def test_real_iad_reads_the_clean_split(tmp_path: Path, nested: bool) -> None:
    found = open_categories(real_iad(tmp_path, nested=nested), "real-iad")
    assert list(found) == ["mint", "toy"]
    assert found["toy"].root == tmp_path / "realiad_1024/toy"
    assert rows(found["toy"]) == [
        (bad(5)["image_path"], "anomalous", "test", "AK", bad(5)["mask_path"]),
        # Without a mask the defect cannot be seen from that side.
        ("NG/AK/S0005/mint_0005_NG_AK_C2_20230101.jpg", "normal", "test", "good", None),
        (good(1)["image_path"], "normal", "train", "good", None),
        (good(2)["image_path"], "normal", "train", "good", None),
        (good(4)["image_path"], "normal", "test", "good", None),
    ]
    assert "split by realiad_jsons/toy.json" in found["toy"].note


def test_real_iad_splits_without_labels_are_asked_for_by_their_folder(tmp_path: Path) -> None:
    root = real_iad(tmp_path)
    noisy = open_categories(root / "realiad_jsons_fuiad_0.1")["mint"]
    assert [(sample.label, sample.kind, sample.mask) for sample in noisy.train] == [(None, "", None)] * 2
    assert {sample.path.parts[-4] for sample in noisy.train} == {"NG", "mint"}
    assert [sample.label for sample in noisy.test] == ["anomalous", "normal", "normal"]
    assert noisy.note.startswith(
        "Layout real-iad (split by realiad_jsons_fuiad_0.1/mint.json; training images without labels): 2 images train "
        "(2 unlabelled)"
    )
    none = open_categories(root / "realiad_jsons_fuiad_0.0")["mint"]
    assert [sample.label for sample in none.train] == [None] * 2
    single = open_dataset(root / "realiad_jsons_sv/mint.json")
    assert (single.layout, single.name, len(single.train)) == ("real-iad", "mint", 1)


def test_real_iad_takes_the_resolution_that_is_there(tmp_path: Path) -> None:
    root = real_iad(tmp_path, resolution=256)
    assert open_dataset(root / "realiad_jsons/mint.json").root == tmp_path / "realiad_256/mint"
    (tmp_path / "realiad_256").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"the images of this list are missing.*realiad_1024; realiad_512"):
        open_dataset(root / "realiad_jsons/mint.json")


def test_real_iad_names_its_categories(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 categories.*mint, toy.*Point at one of them.*mint\.json"):
        open_dataset(real_iad(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "this is not a list of Real-IAD"),
        (json.dumps({"meta": {"prefix": "mint/", "normal_class": "OK"}, "train": []}), 'at "test", field required'),
        (
            json.dumps(
                {"meta": {"prefix": "mint/", "normal_class": "OK"}, "train": [good(1) | {"mask_path": 3}], "test": []}
            ),
            'at "train.0.mask_path"',
        ),
        (
            json.dumps(
                {"meta": {"prefix": "", "normal_class": "OK"}, "train": [entry("OK", "../../a.png")], "test": []}
            ),
            "leads out of the folder of images",
        ),
        (json.dumps({"meta": {"prefix": "/etc", "normal_class": "OK"}, "train": [], "test": []}), '"/etc" leads out'),
        (
            json.dumps({"meta": {"prefix": "gone", "normal_class": "OK"}, "train": [], "test": []}),
            "images of this list",
        ),
    ],
)
def test_real_iad_refuses_other_lists(tmp_path: Path, text: str, message: str) -> None:
    path = real_iad(tmp_path) / "realiad_jsons/mint.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(path)
    assert str(path) in str(caught.value)


# Woven textures


def woven(root: Path) -> Path:
    for name in ("texture_1", "texture_2"):
        put(
            root / name / "train/good/000.png",
            root / name / "test/good/001.png",
            root / name / "test/defective/002.png",
        )
        put(root / name / "ground_truth/defective/002.png")
    return root


def test_woven_textures(tmp_path: Path) -> None:
    found = open_categories(woven(tmp_path), "woven-textures")
    assert list(found) == ["texture_1", "texture_2"]
    assert rows(found["texture_2"]) == [
        ("test/defective/002.png", "anomalous", "test", "defective", "ground_truth/defective/002.png"),
        ("test/good/001.png", "normal", "test", "good", None),
        ("train/good/000.png", "normal", "train", "good", None),
    ]


def test_woven_textures_with_masks_beside_the_images(tmp_path: Path) -> None:
    root = tmp_path / "texture_1"
    put(
        root / "train/good/0.png", root / "test/defective/test_images/1.png", root / "test/defective/ground_truth/1.png"
    )
    dataset = open_dataset(root)
    assert dataset.layout == "woven-textures"
    assert rows(dataset)[0] == (
        "test/defective/test_images/1.png",
        "anomalous",
        "test",
        "defective",
        "test/defective/ground_truth/1.png",
    )
    assert len(dataset.samples) == 2


# Fabric


def fabric(root: Path) -> Path:
    for name in ("star", "dot", "Box-patterned"):
        put(*(root / name / f"test/bad_tn{number}.png" for number in (1, 2)))
        put(root / name / "test/bad_L1.png", root / name / "test/good3.png", root / name / "train/x.png")
        put(root / name / "ground_truth/bad_tn1.png")
    return root


def test_fabric(tmp_path: Path) -> None:
    found = open_categories(fabric(tmp_path), "fabric")
    assert list(found) == ["Box-patterned", "dot", "star"]
    assert rows(found["star"]) == [
        ("test/bad_L1.png", "anomalous", "test", "l", None),
        ("test/bad_tn1.png", "anomalous", "test", "thin bar", "ground_truth/bad_tn1.png"),
        ("test/bad_tn2.png", "anomalous", "test", "thin bar", None),
        ("test/good3.png", "normal", "test", "good", None),
        ("train/x.png", "normal", "train", "good", None),
    ]
    assert {sample.kind for sample in found["dot"].test} == {"loose pick", "tn", "good"}


def test_fabric_splits_where_nobody_did(tmp_path: Path) -> None:
    root = tmp_path / "dot"
    put(*(root / f"good_{number}.png" for number in range(10)), root / "bad_tt1.png")
    dataset = open_dataset(root)
    assert (dataset.layout, len(dataset.train), len(dataset.test)) == ("fabric", 8, 3)


def test_fabric_does_not_guess(tmp_path: Path) -> None:
    put(fabric(tmp_path) / "star/test/img5.png")
    with pytest.raises(DataError, match=r"img5\.png: its name says neither good nor bad"):
        open_dataset(tmp_path / "star")


# CIFAR-10


def cifar10_records(root: Path) -> dict[str, tuple[list[int], NDArray[np.uint8]]]:
    """Classes and pixels (4 x 32 x 32 x 3) of each batch."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    pixels = random_pixels(6, 4, 32, 32, 3)
    return {name: ([(i + j) % 10 for j in range(4)], pixels[i]) for i, name in enumerate(names)}


def cifar10_binary(root: Path) -> Path:
    root.mkdir(parents=True)
    for name, (classes, pixels) in cifar10_records(root).items():
        red_green_blue = pixels.transpose(0, 3, 1, 2).reshape(4, 3072)
        records = np.concatenate([np.array(classes, np.uint8)[:, None], red_green_blue], axis=1)
        (root / f"{name}.bin").write_bytes(records.tobytes())
    (root / "batches.meta.txt").write_text("\n".join(cifar10.CLASSES) + "\n\n", "ascii")
    return root


def cifar10_strips(root: Path) -> Path:
    root.mkdir(parents=True)
    records = cifar10_records(root)
    for name, (_, pixels) in records.items():
        Image.fromarray(pixels.reshape(4, 1024, 3)).save(root / f"{name}.png")
    train = [number for name, (classes, _) in records.items() if name != "test_batch" for number in classes]
    (root / "train_lables.json").write_text(json.dumps(train), "ascii")
    (root / "test_lables.json").write_text(json.dumps(records["test_batch"][0]), "ascii")
    return root


@pytest.mark.parametrize("make", [cifar10_binary, cifar10_strips])
def test_cifar10(tmp_path: Path, cache: Path, make: Callable[[Path], Path]) -> None:
    dataset = open_dataset(make(tmp_path / "c"))
    assert (dataset.layout, len(dataset.train), len(dataset.test)) == ("cifar-10", 20, 4)
    assert dataset.root.parent == cache
    by_name = {sample.path.relative_to(dataset.root).as_posix(): sample for sample in dataset.samples}
    for batch, (classes, pixels) in enumerate(cifar10_records(tmp_path).values()):
        for i, number in enumerate(classes):
            split, index = ("test", i) if batch == 5 else ("train", 4 * batch + i)
            kind = cifar10.CLASSES[number]
            sample = by_name[f"{split}/{kind}/{index:05}.png"]
            assert (sample.label, sample.split, sample.kind, sample.mask) == (None, split, kind, None)
            np.testing.assert_array_equal(images.read(sample.path), pixels[i])
    assert "20 images train, 4 images test, of 9 classes" in dataset.note
    assert str(cache) not in dataset.note


def test_unpacking_happens_once_and_shows_when_images_go_missing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = cifar10_binary(tmp_path / "c")
    first = open_dataset(root)
    assert [path.name for path in cache.iterdir()] == [first.root.name]
    with monkeypatch.context() as context:
        context.setattr(unpacked, "_write", lambda *_: pytest.fail("unpacked again"))
        assert open_dataset(root) == first
    (root / "data_batch_2.bin").write_bytes((root / "data_batch_1.bin").read_bytes())
    other = open_dataset(root)
    assert other.root != first.root
    other.samples[7].path.unlink()
    with pytest.raises(DataError, match=r"images are missing from this cache folder\. Delete it"):
        open_dataset(root)


def test_nothing_is_left_in_the_cache_when_unpacking_fails(tmp_path: Path, cache: Path) -> None:
    root = cifar10_binary(tmp_path / "c")
    content = (root / "test_batch.bin").read_bytes()
    (root / "test_batch.bin").write_bytes(b"\x0a" + content[1:])
    with pytest.raises(DataError, match=r"test_batch\.bin: an image is of class 10, but there are only 10"):
        open_dataset(root)
    assert list(cache.iterdir()) == []
    (root / "test_batch.bin").write_bytes(content[:-1])
    with pytest.raises(
        DataError, match=r"test_batch\.bin: this file has 12,291 bytes instead of 12,292: it was cut short"
    ):
        open_dataset(root)
    (root / "test_batch.bin").write_bytes(content)
    (root / "batches.meta.txt").write_text("cat\ncat\n", "ascii")
    with pytest.raises(DataError, match="2 class names, not 10"):
        open_dataset(root)


def test_an_unwritable_cache_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be unpacked to the cache.*BLEMISH_CACHE"):
        open_dataset(cifar10_binary(tmp_path / "c"))


def test_cifar10_strips_that_do_not_fit(tmp_path: Path) -> None:
    root = cifar10_strips(tmp_path / "c")
    (root / "test_lables.json").write_text("[1, 2, 3]", "ascii")
    with pytest.raises(DataError, match=r"test_lables\.json: there are 3 labels for 4 images"):
        open_dataset(root)
    (root / "test_lables.json").write_text('["cat", 2, 3, 4]', "ascii")
    with pytest.raises(DataError, match="not a list of class numbers"):
        open_dataset(root)
    (root / "test_lables.json").write_text("[0, 1, 2, 3]", "ascii")
    (root / "data_batch_1.png").write_bytes((root / "data_batch_1.png").read_bytes()[:500])
    with pytest.raises(DataError, match=r"data_batch_1\.png: this file cannot be used"):
        open_dataset(root)
    Image.fromarray(random_pixels(4, 900, 3)).save(root / "data_batch_1.png")
    with pytest.raises(DataError, match="900 x 4 pixels, not 1024 x 4"):
        open_dataset(root)


def pickles(root: Path, *names: str) -> Path:
    # A pickle that would make a file if anything read it.
    root.mkdir(parents=True)
    for name in names:
        (root / name).write_bytes(b"cos\nsystem\n(S'touch read'\ntR.")
    return root


def test_pickles_are_refused_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ten = pickles(tmp_path / "ten", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
    with pytest.raises(
        DataError, match=r"Python version of CIFAR-10.*Take the binary version, cifar-10-binary\.tar\.gz"
    ):
        open_dataset(ten)
    hundred = pickles(tmp_path / "hundred", "train", "test", "meta")
    with pytest.raises(DataError, match=r"Python version of CIFAR-100.*Take the binary version"):
        open_dataset(hundred)
    assert not (tmp_path / "read").exists()


# CIFAR-100


def cifar100_binary(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "fine_label_names.txt").write_text("".join(f"fine_{i}\n" for i in range(100)), "ascii")
    (root / "coarse_label_names.txt").write_text("".join(f"coarse_{i}\n" for i in range(20)), "ascii")
    for name, count in (("train", 4), ("test", 2)):
        planes = random_pixels(count, 32, 32, 3).transpose(0, 3, 1, 2).reshape(count, 3072)
        labels = np.array([[i, 99 - i] for i in range(count)], np.uint8)
        (root / f"{name}.bin").write_bytes(np.concatenate([labels, planes], axis=1).tobytes())
    return root


def test_cifar100(tmp_path: Path) -> None:
    dataset = open_dataset(cifar100_binary(tmp_path / "c"))
    assert [row[:4] for row in rows(dataset)] == [
        ("test/coarse_0/fine_99/00000.png", None, "test", "fine_99"),
        ("test/coarse_1/fine_98/00001.png", None, "test", "fine_98"),
        ("train/coarse_0/fine_99/00000.png", None, "train", "fine_99"),
        ("train/coarse_1/fine_98/00001.png", None, "train", "fine_98"),
        ("train/coarse_2/fine_97/00002.png", None, "train", "fine_97"),
        ("train/coarse_3/fine_96/00003.png", None, "train", "fine_96"),
    ]
    np.testing.assert_array_equal(images.read(dataset.samples[4].path), random_pixels(4, 32, 32, 3)[2])


def test_cifar100_cut_short(tmp_path: Path) -> None:
    root = cifar100_binary(tmp_path / "c")
    (root / "train.bin").write_bytes((root / "train.bin").read_bytes()[:3074])
    with pytest.raises(DataError, match=r"train\.bin: this file has 3,074 bytes instead of 12,296: it was cut short"):
        open_dataset(root)


# Fashion-MNIST


def idx(magic: int, sizes: tuple[int, ...], values: bytes) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in (magic, *sizes)) + values


def fashion(root: Path) -> Path:
    root.mkdir(parents=True)
    for prefix, count in (("train", 11), ("t10k", 3)):
        pixels = idx(0x803, (count, 28, 28), random_pixels(count, 28, 28).tobytes())
        labels = idx(0x801, (count,), bytes(i % 10 for i in range(count)))
        (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        (root / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return root


def test_fashion_mnist(tmp_path: Path) -> None:
    dataset = open_dataset(fashion(tmp_path / "fashion-mnist"))
    assert (dataset.layout, len(dataset.train), len(dataset.test)) == ("fashion-mnist", 11, 3)
    names = [(path, kind) for path, _, split, kind, _ in rows(dataset) if split == "test"]
    assert names == [
        ("test/Pullover/00002.png", "Pullover"),
        ("test/T-shirt%2Ftop/00000.png", "T-shirt/top"),
        ("test/Trouser/00001.png", "Trouser"),
    ]
    assert {sample.kind for sample in dataset.train} == {*CLOTHES}
    expected = random_pixels(3, 28, 28)[2]
    np.testing.assert_array_equal(images.read(dataset.test[0].path), np.repeat(expected[:, :, None], 3, axis=2))


def test_fashion_mnist_unpacked_by_a_download_is_the_same(tmp_path: Path) -> None:
    root = fashion(tmp_path / "fashion-mnist")
    compressed = [sample.kind for sample in open_dataset(root).samples]
    for file in root.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()

    assert [sample.kind for sample in open_dataset(root).samples] == compressed


def test_fashion_mnist_is_not_confused_with_mnist(tmp_path: Path) -> None:
    # The folder above must not be named for it either.
    root = fashion(tmp_path / "data/mnist")
    with pytest.raises(DataError, match="there are no images"):
        open_dataset(root)
    assert len(open_dataset(root, "fashion-mnist").samples) == 14


def zipped(content: bytes) -> bytes:
    """With no time in it, so that the tests that it is a parameter of have the same names in every process."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3", zipped(idx(0x801, (1, 28, 28), bytes(784))), "not an idx file"),
        ("train-images-idx3", zipped(idx(0x803, (1, 32, 32), bytes(1024))), "not an idx file"),
        ("train-images-idx3", zipped(idx(0x803, (2**31, 28, 28), b"")), "not an idx file"),
        ("train-images-idx3", zipped(idx(0x803, (11, 28, 28), bytes(783))), "fewer values than its header says"),
        ("train-images-idx3", zipped(idx(0x803, (1, 28, 28), bytes(785))), "more values than its header says"),
        ("train-images-idx3", zipped(bytes(3)), "damaged or was cut short"),
        ("train-images-idx3", zipped(idx(0x803, (11, 28, 28), bytes(8624)))[:-9], "damaged or was cut short"),
        ("train-images-idx3", b"PK not gzip", "damaged or was cut short"),
        ("t10k-labels-idx1", zipped(idx(0x801, (2,), bytes(2))), "2 labels for 3 images"),
        ("t10k-labels-idx1", zipped(idx(0x801, (3,), bytes([1, 2, 10]))), "class 10, but there are only 10"),
    ],
)
def test_fashion_mnist_checks_its_files(tmp_path: Path, cache: Path, name: str, content: bytes, message: str) -> None:
    root = fashion(tmp_path / "fashion")
    (root / f"{name}-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=f"{name}-ubyte.gz: .*{message}"):
        open_dataset(root)
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(not REAL_FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_fashion_mnist() -> None:
    assert LAYOUTS["fashion-mnist"].recognise(REAL_FASHION)
    kinds = Counter((image.split, image.kind) for image in fashion_mnist.unpack(REAL_FASHION))
    assert kinds == {(split, kind): n for split, n in (("train", 6000), ("test", 1000)) for kind in CLOTHES}


# All of them

SAMPLES: dict[str, Callable[[Path], Path]] = {
    "dagm": dagm,
    "real-iad": real_iad,
    "woven-textures": woven,
    "fabric": fabric,
    "cifar-10": cifar10_binary,
    "cifar-100": cifar100_binary,
    "fashion-mnist": fashion,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_each_is_recognised_as_what_it_is(tmp_path: Path, name: str) -> None:
    root = SAMPLES[name](tmp_path / "fashion")
    found = open_categories(root)
    assert {dataset.layout for dataset in found.values()} == {name}
    claims = [known for known, layout in LAYOUTS.items() if known not in ("folder", "mvtec") and layout.recognise(root)]
    assert claims == [name]
    for category in found.values():
        if name not in ("real-iad", "cifar-10", "cifar-100", "fashion-mnist"):
            assert open_dataset(category.root).layout == name


@pytest.mark.parametrize("name", SAMPLES)
def test_another_folder_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"this is not the layout {name}.*Expected"):
        open_dataset(tmp_path, name)
