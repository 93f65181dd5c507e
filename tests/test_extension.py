"""Extending a memory bank: what it holds afterwards, what calibrates, what the file says, what is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from blemish.assembly import train
from blemish.errors import DataError, TeacherError, UsageError
from blemish.export import unpack_learned
from blemish.extension import KNOWN, extend
from blemish.methods import find_method
from blemish.modelfile import Manifest, open_model_file
from blemish.runtime import Detector, load
from tiny import SIZE, make_parts, part
from tiny import one_thread as one_thread  # applies to this module

SETTINGS = {"image_size": SIZE, "coreset": 0.2}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images train, two calibrate."""
    folder = tmp_path_factory.mktemp("old")
    parts = make_parts(folder / "parts", 10)
    train(parts, folder / "old", method="patchcore", preset="paper", settings=SETTINGS, hold_out=0.2, device="cpu")
    return folder / "old.blemish"


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good parts of another kind: a mark that the old ones do not have."""
    return make_parts(tmp_path_factory.mktemp("more") / "marked", 10, first=50, defect=True)


@pytest.fixture(scope="module")
def new(old: Path, more: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    extend(old, more, folder / "new", hold_out=0.2, device="cpu")
    return folder / "new.blemish"


@pytest.fixture(scope="module")
def extended(new: Path) -> Detector:
    return load(new)


def manifest(detector: Detector) -> Manifest:
    assert detector.manifest is not None
    return detector.manifest


def scores(detector: Detector, *, defect: bool) -> list[float]:
    inspections = detector.inspect([part(300 + i, defect=defect) for i in range(4)])
    return [float(one.score or 0) for one in inspections]


def test_what_was_added_is_normal_and_what_was_known_still_is(old: Path, extended: Detector) -> None:
    before = load(old)
    assert min(scores(before, defect=True)) > 1.5 * max(scores(before, defect=False))
    assert max(scores(extended, defect=True)) < 0.7 * min(scores(before, defect=True))
    for was, now in zip(scores(before, defect=False), scores(extended, defect=False), strict=True):
        assert now < 1.1 * was


def test_the_bank_is_a_coreset_of_the_old_one_and_the_new_patches(old: Path, new: Path) -> None:
    """Both parts are within the limit here: as many as the old bank has and a fifth of 8 images of 8 x 8 patches."""
    before = unpack_learned(open_model_file(old))["bank"]
    bank = unpack_learned(open_model_file(new))["bank"]
    assert len(before) == int(0.2 * 8 * 64)
    assert len(bank) == len(before) + int(0.2 * 8 * 64)
    from_old = torch.cdist(bank, before).amin(1) < 1e-4
    assert 0.2 * len(before) < int(from_old.sum()) < len(bank)
    # No old patch is far from what is left of them: what was dropped is near something that is kept.
    assert float(torch.cdist(before, bank).amin(1).max()) < float(torch.cdist(before, before).max()) / 2


def test_the_limit_of_the_bank_holds(more: Path, tmp_path: Path) -> None:
    parts = make_parts(tmp_path / "parts", 6)
    settings = SETTINGS | {"bank_limit": 40}
    train(parts, tmp_path / "a", method="patchcore", preset="paper", settings=settings, hold_out=0.2, device="cpu")
    extend(tmp_path / "a.blemish", more, tmp_path / "b", hold_out=0.2, device="cpu")
    assert len(unpack_learned(open_model_file(tmp_path / "b.blemish"))["bank"]) == 40


def test_it_is_calibrated_on_new_images_that_did_not_train(more: Path, extended: Detector) -> None:
    calibration = manifest(extended).calibration
    assert (calibration.kind, calibration.n) == ("split", 2)
    held = [more / image.path for image in manifest(extended).training.images if image.role == "calibration"]
    assert len(held) == 2
    found = sorted(float(one.score or 0) for one in extended.inspect(held))
    assert found == pytest.approx(calibration.scores, rel=1e-5)


def test_few_new_images_calibrate_by_folds(old: Path, more: Path, tmp_path: Path) -> None:
    """Each is scored by the old bank and the other folds: what they get is what a new image gets, or more."""
    detector = extend(old, more, tmp_path / "new", device="cpu")
    calibration = manifest(detector).calibration
    assert (calibration.kind, calibration.n) == ("cross", 10)
    assert min(calibration.scores) > 0.5 * min(scores(detector, defect=True))
    itself = [float(one.score or 0) for one in detector.inspect(sorted(more.iterdir()))]
    assert sum(itself) < sum(calibration.scores)


def test_the_file_says_what_it_was_made_of(old: Path, more: Path, extended: Detector) -> None:
    before, now = open_model_file(old).manifest, manifest(extended)
    assert (now.method, now.config, now.teacher, now.images) == (
        before.method,
        before.config,
        before.teacher,
        before.images,
    )
    trained_before = [image for image in before.training.images if image.role == "train"]
    assert now.training.images[:8] == tuple(trained_before)
    assert [image.path for image in now.training.images[8:]] == sorted(path.name for path in more.iterdir())
    assert [image.role for image in now.training.images[8:]].count("train") == 8
    assert now.training.fingerprint != before.training.fingerprint
    assert f"Added to 8 images of parts (fingerprint {before.training.fingerprint[:12]})" in now.training.note
    assert now.parity.largest_score_difference < 1e-3


def test_the_same_images_give_the_same_file(old: Path, more: Path, new: Path, tmp_path: Path) -> None:
    extend(old, more, tmp_path / "again", hold_out=0.2, device="cpu")
    assert (tmp_path / "again.blemish").read_bytes() == new.read_bytes()


def test_images_that_trained_the_model_are_left_out(old: Path, more: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(more, both)
    trained = [image for image in open_model_file(old).manifest.training.images if image.role == "train"]
    for i, path in enumerate(sorted((old.parent / "parts").iterdir())):
        shutil.copy(path, both / f"again{i}.png")
    detector = extend(old, both, tmp_path / "new", hold_out=0.2, device="cpu")
    training = manifest(detector).training
    left_out = [image.path for image in training.left_out if image.reason == KNOWN]
    digests = {hashlib.sha256((both / path).read_bytes()).hexdigest() for path in left_out}
    assert digests == {image.sha256 for image in trained}
    # The two that calibrated the old model are new to the bank.
    assert len(training.images) == 8 + 10 + 2


def test_without_new_images_it_is_refused(old: Path, tmp_path: Path) -> None:
    trained = [image.path for image in open_model_file(old).manifest.training.images if image.role == "train"]
    folder = tmp_path / "parts"
    folder.mkdir()
    for path in trained:
        shutil.copy(old.parent / "parts" / path, folder)
    with pytest.raises(DataError, match="at least two new images and there are 0"):
        extend(old, folder, tmp_path / "new", device="cpu")


def test_a_method_that_learns_from_all_images_at_once_is_refused(more: Path, tmp_path: Path) -> None:
    assert [name for name in ("patchcore", "padim", "rd") if find_method(name).extendable] == ["patchcore"]
    settings = {"image_size": SIZE, "features": 10}
    train(more, tmp_path / "a", method="padim", preset="paper", settings=settings, hold_out=0.2, device="cpu")
    with pytest.raises(UsageError, match="method padim cannot take more images") as caught:
        extend(tmp_path / "a.blemish", more, tmp_path / "b", device="cpu")
    assert "Methods that can: patchcore" in str(caught.value)


def test_another_teachers_weights_are_refused(
    old: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import blemish.methods.base as module

    opened = module.open_teacher

    def other(*args: object, **options: object) -> object:
        teacher = opened(*args, **options)  # type: ignore[arg-type]
        teacher.info = teacher.info.model_copy(update={"sha256": "0" * 64})
        return teacher

    monkeypatch.setattr(module, "open_teacher", other)
    with pytest.raises(TeacherError, match="not those it was trained with"):
        extend(old, more, tmp_path / "new", device="cpu")
    assert not (tmp_path / "new.blemish").exists()
