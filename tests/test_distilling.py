"""A PDN distilled once, and EfficientAD trained on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import blemish
from blemish.cli.app import app
from blemish.console import Silent
from blemish.distilling import PatchDescription, distil, unexplained_variance
from blemish.errors import DataError, ModelFileError, UsageError
from blemish.export import unpack_learned
from blemish.modelfile import open_model_file
from blemish.training import trainer
from tiny import make_parts, settings_for, teacher
from tiny import one_thread as one_thread  # applies to this module

SMALL = {"image_size": 64, "steps": 4, "batch_size": 2}


class KilledError(Exception):
    pass


class KilledAt(Silent):
    """Ends the run in the middle of a stage."""

    def __init__(self, stage: str, after: float) -> None:
        self.stage, self.after = stage, after

    def progress(self, stage: str, done: float, note: str = "") -> None:
        if stage == self.stage and done >= self.after:
            raise KilledError


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("distilling") / "parts", 21)


@pytest.fixture(scope="module")
def pdn(parts: Path) -> Path:
    file = parts.parent / "pdn.safetensors"
    distil(parts, file, preset="paper", settings=SMALL)
    return file


def test_the_file_says_what_it_is(pdn: Path) -> None:
    with safe_open(pdn, "pt") as file:
        stated = json.loads(file.metadata()["blemish.pdn"])

    assert (stated["size"], stated["teacher"], stated["images"]) == ("S", "tf_efficientnet_lite0", 21)
    assert stated["unexplained_variance"] > 0
    assert not pdn.with_name(pdn.name + ".training").exists()


def test_what_it_leaves_unexplained_is_measured_on_images_it_has_not_seen(
    parts: Path, pdn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    asked: list[Path] = []
    monkeypatch.setattr("blemish.distilling.Trainer.fit", lambda trainer, method, images: seen.extend(images.paths))
    monkeypatch.setattr(
        "blemish.distilling.unexplained_variance", lambda method, images: asked.extend(images.paths) or 0.5
    )

    distil(parts, parts.parent / "not kept.safetensors", preset="paper", settings=SMALL)

    assert (len(seen), len(asked)) == (18, 3)
    assert not {*seen} & {*asked}


def test_a_folder_whose_features_do_not_fit_into_memory(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "mixed_precision", lambda accelerator: "bf16-mixed")
    files = [tmp_path / "kept.safetensors", tmp_path / "anew.safetensors"]
    distil(parts, files[0], preset="paper", settings=SMALL)
    monkeypatch.setattr(trainer, "OBSERVED_BYTES_LIMIT", 0)
    distil(parts, files[1], preset="paper", settings=SMALL)

    kept, anew = (load_file(file) for file in files)
    # Not the same bits: a convolution of 16 images may add in another order than one of 2, and Adam enlarges that where
    # a gradient is nearly 0, so tensors are compared as a whole.
    for name, wanted in kept.items():
        assert (anew[name] - wanted).norm() <= 0.01 * wanted.norm(), name


def test_unexplained_variance_by_hand() -> None:
    config = PatchDescription.Config.model_validate(SMALL)
    described = PatchDescription(config, teacher(config.strides))
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    described.targets.add(described.teacher(images))
    described.targets.learn(torch.Generator().manual_seed(0))

    class Images:
        def __len__(self) -> int:
            return len(images)

        def batches(self, indices: range, size: int) -> list[torch.Tensor]:
            return [images[i : i + 1] for i in indices]

    measured = unexplained_variance(described, Images())  # type: ignore[arg-type]

    with torch.inference_mode():
        target = described.targets(described.teacher(images)).double()
        distance = (described.pdn(described.centred(images)) - target).square().sum()
    variance = (target - target.mean((0, 2, 3), keepdim=True)).square().sum()
    assert measured == pytest.approx(float(distance / variance), rel=1e-4)


def test_a_killed_distillation_goes_on_to_the_same_file(
    parts: Path, pdn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blemish.training.trainer.CHECKPOINT_SECONDS", 0.0)
    again = parts.parent / "again.safetensors"
    with pytest.raises(KilledError):
        distil(parts, again, preset="paper", settings=SMALL, listener=KilledAt("patch description", 0.75))
    assert not again.exists()

    distil(parts, again, preset="paper", settings=SMALL)

    assert again.read_bytes() == pdn.read_bytes()


def test_efficientad_stands_on_it_and_does_not_change_it(parts: Path, pdn: Path, tmp_path: Path) -> None:
    from blemish.methods.efficientad import EfficientAD

    settings = {**settings_for(EfficientAD), "pdn": str(pdn)}
    blemish.train(parts, tmp_path / "part.blemish", method="efficientad", settings=settings)

    file = open_model_file(tmp_path / "part.blemish")
    learned = unpack_learned(file)
    assert all(torch.equal(learned[f"pdn.{name}"], tensor) for name, tensor in load_file(pdn).items())
    assert file.manifest.config["pdn"] == "pdn.safetensors"
    assert len(file.manifest.config["pdn_sha256"]) == 64
    assert str(pdn.parent) not in file.manifest.model_dump_json()


def test_a_pdn_that_does_not_fit_is_refused(parts: Path, pdn: Path, tmp_path: Path) -> None:
    def train(**settings: object) -> None:
        blemish.train(
            parts, tmp_path / "x.blemish", method="efficientad", settings={"image_size": 64, "steps": 2, **settings}
        )

    with pytest.raises(ModelFileError, match="holds no PDN of size M but of S"):
        train(pdn=str(pdn), size="M")
    with pytest.raises(UsageError, match="cannot be read"):
        train(pdn=str(tmp_path / "missing.safetensors"))
    with pytest.raises(ModelFileError, match="the sha256 differs"):
        train(pdn=str(pdn), pdn_sha256="0" * 64)

    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(ModelFileError, match="holds no PDN of size S"):
        train(pdn=str(other))
    other.write_bytes(b"no tensors")
    with pytest.raises(ModelFileError, match=r"no \.safetensors file"):
        train(pdn=str(other))


def test_images_that_cannot_be_read_are_left_out_and_named(parts: Path, tmp_path: Path) -> None:
    folder = make_parts(tmp_path / "few", 1)
    (folder / "broken.png").write_bytes(b"no image")
    warnings: list[str] = []

    class Heard(Silent):
        def warn(self, text: str) -> None:
            warnings.append(text)

    with pytest.raises(DataError, match="at least two images that can be read, and there are 1"):
        distil(folder, tmp_path / "pdn.safetensors", settings=SMALL, listener=Heard())
    assert any("broken.png is left out" in text for text in warnings)


def test_the_command_lists_teachers_and_distils(parts: Path, tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["teachers", "--json"])
    assert json.loads(listed.stdout)[0]["name"] == "tf_efficientnet_lite0"

    options = [f"--set={key}={value}" for key, value in SMALL.items()]
    made = CliRunner().invoke(
        app, ["teachers", "distill", "--images", str(parts), "--out", str(tmp_path / "pdn.pt"), *options]
    )
    assert "a PDN is a .safetensors file" in str(made.exception)
