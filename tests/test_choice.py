"""The method that images ask for: each rule alone, on made-up features, and the whole way through `train`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from blemish.assembly import train
from blemish.choice import LOOKED_AT, choose, k_means, products, silhouette, strangeness_z
from blemish.cli.app import app
from blemish.cli.info import summary
from blemish.console import Silent
from blemish.data import Dataset, Sample
from blemish.data.synthetic import make_product_line
from blemish.errors import UsageError
from blemish.images import DEFAULT_CONTRACT
from blemish.methods.base import REGISTRY
from blemish.methods.padim import PatchDistributions
from blemish.modelfile import open_model_file
from blemish.training.embedding import STRIDES, Embedding
from tiny import SIZE, make_parts
from tiny import one_thread as one_thread  # applies to this module
from tiny import teacher as embedded

SHARED = Path(__file__).parents[2] / "shared" / "data"
PATCHES, WIDTH = 50, 8


def features(images: int, seed: int = 0, centre: float = 0.0) -> NDArray[np.float32]:
    """Patches of one product: each place has a mean of its own, each image and patch differ a little."""
    places = np.random.default_rng(99).normal(centre, 1, (PATCHES, WIDTH))
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.1, (images, 1, WIDTH)) + rng.normal(0, 0.3, (images, PATCHES, WIDTH))
    return (places + noise).astype(np.float32)


def with_defects(patches: NDArray[np.float32], images: int) -> NDArray[np.float32]:
    """The last `images` have a patch like nothing else."""
    changed = patches.copy()
    rng = np.random.default_rng(5)
    for i in range(images):
        changed[-1 - i, rng.integers(PATCHES)] += rng.normal(0, 6, WIDTH)
    return changed


def samples(count: int, bad: int = 0, categories: int = 1) -> list[Sample]:
    return [
        Sample(Path(f"{i:04}.png"), "anomalous" if i < bad else None, "train", "", category=str(i % categories))
        for i in range(count)
    ]


def choice_of(
    count: int, patches: NDArray[np.float32] | None = None, *, contaminated: bool = False, **known: int
) -> tuple[str, str]:
    def embed(paths: Sequence[Path], tell: Callable[[float], None]) -> NDArray[np.float32]:
        assert patches is not None, "nobody needs to look"
        return patches[[int(path.stem) for path in paths]]

    made = choose(samples(count, **known), embed, contaminated=contaminated, listener=Silent())
    return made.method, made.why


# What is known decides without a look at the images.


def test_what_the_user_says_goes_first() -> None:
    assert choice_of(10, contaminated=True, categories=3)[0] == "cdd"


def test_several_categories() -> None:
    assert choice_of(10, categories=3) == ("borad", "the images are of 3 categories")


def test_images_known_to_be_bad() -> None:
    assert choice_of(30, bad=2) == ("cdd", "2 of the 30 training images are known to be bad")


def test_few_images() -> None:
    assert choice_of(19) == ("patchcore", "19 images are few")


# What the teacher sees.


def test_one_product() -> None:
    assert choice_of(60, features(60)) == ("rd", "one product, and 0 of 60 images far from the rest")


@pytest.mark.parametrize("count", [20, 60])
def test_three_products_in_one_folder(count: int) -> None:
    mixture = np.concatenate([features(count, seed, centre) for seed, centre in enumerate((0.0, 2.0, 5.0))])
    method, why = choice_of(3 * count, mixture)
    assert method == "borad"
    assert "3 clusters" in why


def test_bad_parts_among_the_good_ones() -> None:
    method, why = choice_of(60, with_defects(features(60), 6))
    assert method == "cdd"
    assert why.startswith("6 of 60 images")


def test_one_odd_image_is_no_contamination() -> None:
    assert choice_of(60, with_defects(features(60), 1))[0] == "rd"


def test_a_few_images_of_another_product_are_none_of_several() -> None:
    strangers = np.concatenate([features(60), features(4, 1, centre=4.0)])
    assert choice_of(64, strangers)[0] == "cdd"


def test_of_many_images_some_are_looked_at() -> None:
    looked_at = []

    def embed(paths: Sequence[Path], tell: Callable[[float], None]) -> NDArray[np.float32]:
        looked_at.extend(paths)
        return features(len(paths))

    choose(samples(LOOKED_AT + 200), embed, contaminated=False, listener=Silent())
    assert len(set(looked_at)) == LOOKED_AT
    assert max(int(path.stem) for path in looked_at) >= LOOKED_AT


# The parts of the rules.


def test_the_silhouette_by_loops() -> None:
    rng = np.random.default_rng(1)
    points, label = rng.normal(size=(15, 3)), np.array([0, 1, 2] * 5)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    terms = []
    for i in range(15):
        own = [distance[i, j] for j in range(15) if label[j] == label[i] and j != i]
        others = [np.mean(distance[i, label == c]) for c in range(3) if c != label[i]]
        a, b = np.mean(own), min(others)
        terms.append((b - a) / max(a, b))
    assert silhouette(distance, label) == pytest.approx(np.mean(terms), abs=1e-12)


def test_k_means_finds_what_is_far_apart() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(4, size=80)
    points = rng.normal(size=(80, 5)) + 30.0 * np.eye(5)[truth]
    label = k_means(points, 4)
    assert len({*zip(truth, label, strict=True)}) == len({*label}) == 4


def test_images_all_alike_are_one_product_without_outliers() -> None:
    patches = np.ones((30, PATCHES, WIDTH), np.float32)
    assert products(patches) == 1
    assert strangeness_z(patches).max() == 0


def test_a_busy_place_does_not_outshine_a_defect() -> None:
    """One place varies twenty times as much in every image; the defect is smaller than that, and elsewhere."""
    patches = features(60)
    patches[:, 0] += np.random.default_rng(3).normal(0, 6, (60, WIDTH))
    patches[7, 30] += 4
    assert strangeness_z(patches).argmax() == 7


# The whole way.


class Stranger(PatchDistributions):
    """Stands for a method that others write."""


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cdd` and `borad` in the registry, quick to train."""
    for name in ("cdd", "borad"):
        double = type(name, (Stranger,), {"name": name, "title": f"Stands for {name}"})
        monkeypatch.setitem(REGISTRY, name, double)


def trained(source: Path | Dataset, out: Path, **options: Any) -> tuple[str, str | None]:
    """Method and reason in the model file."""
    settings = {"image_size": SIZE} | ({} if options.pop("few", False) else {"features": 10})
    train(source, out, method="auto", settings=settings, device="cpu", **options)
    manifest = open_model_file(out).manifest
    facts = summary(out, manifest)
    assert facts["method_chosen_because"] == manifest.training.choice
    return manifest.method, manifest.training.choice


def test_few_parts_are_trained_by_patchcore(tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "parts", 8)
    assert trained(parts, tmp_path / "part.blemish", few=True) == ("patchcore", "8 images are few")


@pytest.mark.usefixtures("others")
def test_the_user_says_that_they_are_contaminated(tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "parts", 8)
    method, why = trained(parts, tmp_path / "part.blemish", contaminated=True)
    assert method == "cdd"
    assert why
    assert "--contaminated" in why


@pytest.mark.usefixtures("others")
def test_a_folder_of_categories_is_trained_as_one(tmp_path: Path) -> None:
    for category, grey in (("nuts", False), ("bolts", True)):
        make_parts(tmp_path / "shop" / category / "train" / "good", 6, grey=grey)
    method, why = trained(tmp_path / "shop", tmp_path / "part.blemish")
    assert (method, why) == ("borad", "the images are of 2 categories")
    images = open_model_file(tmp_path / "part.blemish").manifest.training.images
    assert {Path(image.path).parts[0] for image in images} == {"nuts", "bolts"}
    assert len(images) == 12


def test_contaminated_and_a_method_contradict(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--contaminated"):
        train(make_parts(tmp_path / "parts", 8), tmp_path / "out", method="padim", contaminated=True)


def test_a_method_that_was_named_has_no_reason(tmp_path: Path) -> None:
    out = tmp_path / "part.blemish"
    parts = make_parts(tmp_path / "parts", 8)
    train(parts, out, method="padim", settings={"image_size": SIZE, "features": 10}, device="cpu")
    manifest = open_model_file(out).manifest
    assert manifest.training.choice is None
    assert "method_chosen_because" not in json.dumps(summary(out, manifest))


class AskedError(Exception):
    """Stands for the training."""


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--contaminated",), {"method": "auto", "contaminated": True}),
        (("--method", "auto"), {"method": "auto"}),
        (("--method", "rd", "--contaminated"), {"method": "rd", "contaminated": True}),
        ((), {}),
    ],
)
def test_the_verb_asks_for_it(
    arguments: tuple[str, ...], wanted: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def training(source: Path, out: Path, **options: object) -> None:
        asked.update(options)
        raise AskedError

    monkeypatch.setattr("blemish.assembly.train", training)
    result = CliRunner().invoke(app, ["train", "parts", "--out", "part", *arguments])
    assert isinstance(result.exception, AskedError)
    assert {name: asked[name] for name in ("method", "contaminated") if name in asked} == wanted


# Pictures.


def embedding(paths: Sequence[Path]) -> NDArray[np.float16]:
    return Embedding(embedded(STRIDES), DEFAULT_CONTRACT)(paths, lambda done: None)


def test_a_product_line_and_other_parts(tmp_path: Path) -> None:
    line = make_product_line(tmp_path / "line", n_train=10, n_test_good=0, n_per_defect=0, size=96)
    gears = embedding(sorted((line / "train" / "good").iterdir()))
    discs = embedding(sorted(make_parts(tmp_path / "parts", 10).iterdir()))
    assert products(gears) == products(discs) == 1
    assert products(np.concatenate([gears, discs])) == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real images in ../shared/data")
def test_bottles_grids_and_their_mixture() -> None:
    folders = [SHARED / "mvtec" / name / "train" / "good" for name in ("bottle", "grid")]
    bottles, grids = (embedding(sorted(folder.iterdir())[:24]) for folder in folders)
    for good in (bottles, grids):
        assert products(good) == 1
        assert (strangeness_z(good) > 5).sum() <= 1
    assert products(np.concatenate([bottles, grids])) == 2
    broken = embedding(sorted((SHARED / "mvtec" / "bottle" / "test" / "broken_large").iterdir())[:3])
    assert {*np.argsort(strangeness_z(np.concatenate([bottles, broken])))[-3:]} == {24, 25, 26}
