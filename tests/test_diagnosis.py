"""Diagnostics against slow and independent computations, and a diagnosis from model file to page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, silhouette_score
from typer.testing import CliRunner

from blemish.assembly import build, restore, train
from blemish.cli.app import app
from blemish.data import open_categories
from blemish.diagnosis import Diagnosis, diagnose
from blemish.diagnosis.measures import (
    FOLDS,
    RIDGE,
    d_prime,
    folds_of,
    pixels_of_cells,
    probe_accuracy,
    silhouette,
)
from blemish.errors import DataError, ModelFileError, TeacherError
from blemish.methods import Embeds, TeacherStudent, list_methods
from blemish.modelfile import ModelFile, open_model_file, write
from blemish.nn.preparation import Preparation
from blemish.runtime import load
from tiny import SIZE, config_for, defect_mask, make_parts, settings_for, teacher
from tiny import one_thread as one_thread  # applies to this module

# The measures.


@pytest.mark.parametrize(("shape", "grid"), [((12, 8), (3, 4)), ((13, 9), (4, 4)), ((5, 7), (8, 3))])
def test_each_pixel_counts_in_the_cell_of_its_centre(shape: tuple[int, int], grid: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.6
    wanted = np.zeros(grid, int)
    for y, x in zip(*np.nonzero(mask), strict=True):
        wanted[int((y + 0.5) / shape[0] * grid[0]), int((x + 0.5) / shape[1] * grid[1])] += 1
    assert np.array_equal(pixels_of_cells(mask, grid), wanted)
    assert wanted.sum() == mask.sum()


def clusters(spread: float, sizes: tuple[int, ...] = (9, 14, 6), channels: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.normal(size=(len(sizes), channels))
    return centres[groups] + spread * rng.normal(size=(len(groups), channels)), groups


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_the_silhouette_is_that_of_the_field(spread: float) -> None:
    points, groups = clusters(spread)
    assert silhouette(points, groups) == pytest.approx(silhouette_score(points, groups), abs=1e-9)


def test_the_silhouette_by_hand() -> None:
    # On a line: 0 and 1, then 4 alone, which counts as 0.
    points, groups = np.array([[0.0], [1.0], [4.0]]), np.array([0, 0, 1])
    assert silhouette(points, groups) == pytest.approx(((4 - 1) / 4 + (3 - 1) / 3 + 0) / 3)
    assert silhouette(np.zeros((4, 2)), np.array([0, 0, 1, 1])) == 0


@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
def test_the_probe_is_a_ridge_regression_of_indicators(spread: float) -> None:
    points, groups = clusters(spread)
    folds = folds_of(groups)
    found = np.empty_like(groups)
    for fold in range(FOLDS):
        inside = points[folds != fold]
        penalty = RIDGE * ((inside - inside.mean(0)) ** 2).sum(1).mean()
        reference = Ridge(alpha=penalty).fit(inside, 2 * np.eye(3)[groups[folds != fold]] - 1)
        found[folds == fold] = reference.predict(points[folds == fold]).argmax(1)
    assert probe_accuracy(points, groups) == pytest.approx(balanced_accuracy_score(groups, found))


def test_the_probe_knows_what_can_be_known() -> None:
    points, groups = clusters(0.1)
    assert probe_accuracy(points, groups) == 1
    # Without anything to see, all points look like the largest group.
    assert probe_accuracy(np.zeros_like(points), groups) == pytest.approx(1 / 3)


def test_each_group_is_dealt_out_to_all_folds() -> None:
    groups = np.array([0, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0])
    folds = folds_of(groups)
    for group in (0, 1):
        assert set(folds[groups == group]) == set(range(FOLDS))


def test_d_prime_by_hand() -> None:
    # Means 2 and 7, variances 1 and 9.
    assert d_prime(np.array([1.0, 2.0, 3.0]), np.array([4.0, 7.0, 10.0])) == pytest.approx(5 / np.sqrt(5))
    assert d_prime(np.array([1.0, 1.0]), np.array([2.0, 2.0])) is None


# What methods offer.


@pytest.mark.parametrize("name", ["rd", "rd++", "borad", "stpm", "cdo", "efficientad"])
def test_teacher_and_student_are_apart_where_the_map_says_so(name: str) -> None:
    config = config_for(list_methods()[name])
    method = build(list_methods()[name], config, teacher(config.strides), seed=0).eval()
    assert isinstance(method, TeacherStudent)
    with torch.inference_mode():
        image = torch.rand(2, 3, SIZE, SIZE)
        gaps = method.gaps(image)
        if isinstance(method, Embeds):
            assert method.embedding(image).shape == (2, 224, 2, 2)
    assert all(gap.ndim == 3 and len(gap) == 2 for gap in gaps)
    assert all(gap.shape[1] == gap.shape[2] and SIZE % gap.shape[1] == 0 for gap in gaps)
    assert all(gap.min() >= -1e-6 and gap.max() > 0 for gap in gaps)


def test_which_methods_have_a_student_and_which_an_embedding() -> None:
    have = {name for name, method in list_methods().items() if hasattr(method, "gaps")}
    embed = {name for name, method in list_methods().items() if hasattr(method, "embedding")}
    assert {"rd", "rd++", "borad", "stpm", "cdo", "efficientad"} <= have
    assert {"rd", "rd++", "borad"} <= embed
    assert not {"patchcore", "padim", "spade", "cflow"} & (have | embed)


# From model file to page.


@dataclass(frozen=True)
class Trained:
    """Two categories of parts, and models of one method each, trained on both."""

    root: Path
    models: dict[str, Path]

    def diagnosis(self, source: Path | None = None, method: str = "rd") -> Diagnosis:
        return diagnose(self.models[method], open_categories(source or self.root))


def make_category(root: Path, *, grey: bool, first: int, good: int = 6) -> None:
    make_parts(root / "train" / "good", 10, first=first, grey=grey)
    make_parts(root / "test" / "good", good, first=first + 20, grey=grey)
    make_parts(root / "test" / "spot", 4, first=first + 40, grey=grey, defect=True)
    (root / "ground_truth" / "spot").mkdir(parents=True)
    for path in (root / "test" / "spot").iterdir():
        mask = defect_mask().astype(np.uint8) * 255
        Image.fromarray(mask).save(root / "ground_truth" / "spot" / f"{path.stem}_mask.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("line")
    make_category(root / "parts" / "disc", grey=False, first=0)
    make_category(root / "parts" / "grey disc", grey=True, first=100)
    together = root / "together"
    together.mkdir()
    for path in sorted((root / "parts").glob("*/train/good/*.png")):
        (together / f"{path.parts[-4]} {path.name}").write_bytes(path.read_bytes())
    models = {}
    for name in ("rd", "stpm", "patchcore"):
        method = list_methods()[name]
        models[name] = root / f"{name}.blemish"
        train(
            together,
            models[name],
            method=name,
            preset="paper",
            settings=settings_for(method),
            hold_out=0.25,
            device="cpu",
        )
    return Trained(root / "parts", models)


@pytest.fixture(scope="module")
def diagnosed(trained: Trained) -> Diagnosis:
    return trained.diagnosis()


def test_a_restored_method_is_the_one_that_was_trained(trained: Trained) -> None:
    detector = load(trained.models["rd"])
    method = restore(open_model_file(trained.models["rd"]))
    assert not method.training
    path = next((trained.root / "disc" / "test" / "spot").iterdir())
    pixels = torch.from_numpy(np.array(Image.open(path)))[None]
    with torch.inference_mode():
        score = method(Preparation(0, 255, SIZE)(pixels)).score.item()
    assert detector.inspect(path).score == pytest.approx(score, rel=1e-4)


def test_gaps_against_a_walk_over_pixels(trained: Trained, diagnosed: Diagnosis) -> None:
    method = restore(open_model_file(trained.models["rd"]))
    assert isinstance(method, TeacherStudent)
    sums = np.zeros((2, 4))
    pixels = np.zeros(2)
    for folder, bad in (("good", 0), ("spot", 1)):
        for path in (trained.root / "disc" / "test" / folder).iterdir():
            image = torch.from_numpy(np.array(Image.open(path)))[None]
            with torch.inference_mode():
                scales = [gap[0].numpy() for gap in method.gaps(Preparation(0, 255, SIZE)(image))]
            mask = defect_mask() if bad else np.ones((72, 80), bool)
            for y, x in zip(*np.nonzero(mask), strict=True):
                values = [g[int((y + 0.5) / 72 * len(g)), int((x + 0.5) / 80 * len(g))] for g in scales]
                sums[bad] += [*values, sum(values)]
            pixels[bad] += mask.sum()
    wanted = sums / pixels[:, None]

    gaps = diagnosed.categories["disc"].gaps
    assert [gap.on_normal for gap in gaps] == pytest.approx(wanted[0], rel=1e-4)
    assert [gap.on_defects for gap in gaps] == pytest.approx(wanted[1], rel=1e-4)
    assert [gap.ratio for gap in gaps] == pytest.approx(wanted[1] / wanted[0], rel=1e-4)


def test_scores_are_those_of_inspections(trained: Trained, diagnosed: Diagnosis) -> None:
    detector = load(trained.models["rd"])
    for name, one in diagnosed.categories.items():
        scores = [
            [detector.inspect(path).score or 0 for path in sorted((trained.root / name / "test" / folder).iterdir())]
            for folder in ("good", "spot")
        ]
        assert one.normal_scores == scores[0]
        assert one.anomalous_scores == scores[1]
        assert one.auroc == pytest.approx(roc_auc_score([0] * 6 + [1] * 4, scores[0] + scores[1]))
        assert one.d_prime == d_prime(np.array(scores[0]), np.array(scores[1]))
    aurocs = [one.auroc or 0 for one in diagnosed.categories.values()]
    assert diagnosed.mean("auroc") == pytest.approx(np.mean(aurocs))


def test_embeddings_of_good_images_are_grouped_by_category(trained: Trained, diagnosed: Diagnosis) -> None:
    method = restore(open_model_file(trained.models["rd"]))
    assert isinstance(method, Embeds)
    points = []
    for name in diagnosed.categories:
        for path in sorted((trained.root / name / "test" / "good").iterdir()):
            pixels = np.array(Image.open(path).convert("RGB"))[None]
            with torch.inference_mode():
                points.append(method.embedding(Preparation(0, 255, SIZE)(torch.from_numpy(pixels))).mean((2, 3))[0])
    wanted = silhouette_score(torch.stack(points).numpy(), np.repeat([0, 1], 6))
    assert diagnosed.silhouette == pytest.approx(wanted, abs=1e-5)
    assert diagnosed.probe is not None
    assert diagnosed.to_dict()["probe_chance"] == 0.5


def test_what_a_method_does_not_have_is_null_with_a_reason(trained: Trained) -> None:
    for name, gap_defined in (("stpm", True), ("patchcore", False)):
        document = json.loads(json.dumps(trained.diagnosis(method=name).to_dict()))
        assert document["auroc"] is not None
        assert (document["gap_ratio"] is None) is not gap_defined
        assert document["silhouette"] is document["probe_accuracy"] is None
        assert document["undefined"]["silhouette"] == f"{name} makes no embedding of the image"
        reasons = [one["undefined"].get("gap_ratio") for one in document["categories"].values()]
        assert reasons == [None if gap_defined else "patchcore has no student that imitates a teacher"] * 2
        assert len(document["categories"]["disc"]["scales"]) == (3 if gap_defined else 0)


def test_what_the_data_do_not_have_is_null_with_a_reason(trained: Trained, tmp_path: Path) -> None:
    make_category(tmp_path / "few", grey=False, first=200, good=1)
    document = trained.diagnosis(tmp_path / "few").to_dict()
    assert document["undefined"]["silhouette"] == "it needs several categories"
    assert document["d_prime"] is None
    assert document["undefined"]["d_prime"] == "few: one image has no variance"
    assert document["gap_ratio"] is not None
    assert document["auroc"] is not None

    make_category(tmp_path / "two" / "few", grey=False, first=200, good=4)
    make_category(tmp_path / "two" / "unmasked", grey=False, first=300)
    for mask in (tmp_path / "two" / "unmasked" / "ground_truth" / "spot").iterdir():
        mask.unlink()
    (tmp_path / "two" / "unmasked" / "ground_truth" / "spot").rmdir()
    (tmp_path / "two" / "unmasked" / "ground_truth").rmdir()
    document = trained.diagnosis(tmp_path / "two").to_dict()
    assert document["undefined"]["silhouette"] == "few has fewer than 5 good test images"
    assert document["categories"]["few"]["gap_ratio"] is not None
    assert document["categories"]["unmasked"]["gap_ratio"] is None
    assert document["undefined"]["gap_ratio"] == "unmasked: no defect has a mask"
    assert document["gap_ratio"] is None

    make_parts(tmp_path / "fine" / "train" / "good", 1)
    make_parts(tmp_path / "fine" / "test" / "good", 6, first=400)
    document = trained.diagnosis(tmp_path / "fine").to_dict()
    assert {document["undefined"][name] for name in ("gap_ratio", "auroc", "d_prime")} == {"fine: no bad test images"}


def test_what_training_saw_and_what_cannot_be_read_is_left_out(trained: Trained, tmp_path: Path) -> None:
    make_category(tmp_path / "disc", grey=False, first=0)
    seen = tmp_path / "disc" / "test" / "good" / "seen.png"
    seen.write_bytes((tmp_path / "disc" / "train" / "good" / "000.png").read_bytes())
    broken = tmp_path / "disc" / "test" / "good" / "broken.png"
    broken.write_bytes(seen.read_bytes()[:-200])
    diagnosis = trained.diagnosis(tmp_path / "disc")
    assert diagnosis.left_out.keys() == {str(seen), str(broken)}
    assert diagnosis.left_out[str(seen)] == "training saw it"
    assert len(diagnosis.categories["disc"].normal_scores) == 6

    only = tmp_path / "only"
    (only / "test" / "good").mkdir(parents=True)
    (only / "train" / "good").mkdir(parents=True)
    for split in ("train", "test"):
        (only / split / "good" / "seen.png").write_bytes(seen.read_bytes())
    with pytest.raises(DataError, match="no labelled test image that this model has not seen"):
        trained.diagnosis(only)


def changed(file: ModelFile, path: Path, **changes: Any) -> ModelFile:
    write(path, file.manifest.model_copy(update=changes), file.graph, file.weights())
    return open_model_file(path)


def test_a_model_that_does_not_fit_is_refused(trained: Trained, tmp_path: Path) -> None:
    file = open_model_file(trained.models["rd"])
    other = file.manifest.teacher.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(TeacherError, match="not those it was trained with"):
        restore(changed(file, tmp_path / "teacher.blemish", teacher=other))
    with pytest.raises(ModelFileError, match="config does not fit"):
        restore(changed(file, tmp_path / "config.blemish", config={"nothing": 1}))
    with pytest.raises(ModelFileError, match="weights do not fit"):
        restore(changed(file, tmp_path / "method.blemish", method="stpm", config={"image_size": SIZE}))


def test_the_verb_prints_figures_and_writes_json_and_a_page(trained: Trained, tmp_path: Path) -> None:
    page = tmp_path / "new" / "diagnosis.html"
    arguments = ["diagnose", str(trained.models["rd"]), str(trained.root / "disc"), str(trained.root / "grey disc")]
    runner = CliRunner()
    shown = runner.invoke(app, [*arguments, "--out", str(page)], env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    document = json.loads(runner.invoke(app, [*arguments, "--json"]).stdout)
    assert document["categories"].keys() == {"disc", "grey disc"}
    html = page.read_text("utf-8")
    figures = [document[name] for name in ("gap_ratio", "silhouette", "probe_accuracy", "auroc", "d_prime")]
    figures += [one["gap_ratio"] for one in document["categories"].values()]
    figures += [one["scales"][0]["ratio"] for one in document["categories"].values()]
    for value in figures:
        assert f"{value:.4f}" in shown.stdout
        assert f"{value:.4f}" in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")

    shown = runner.invoke(
        app,
        ["diagnose", str(trained.models["patchcore"]), str(trained.root), "--out", str(page)],
        env={"COLUMNS": "160"},
    )
    assert "gap_ratio is undefined: disc: patchcore has no student" in shown.stdout
    assert "patchcore makes no embedding of the image" in page.read_text("utf-8")
