"""The feature pyramid: any timm backbone, described by data; frozen as a teacher, untrained as its student."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from safetensors.torch import load_file
from timm.layers.format import Format
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from blemish.errors import TeacherError, UsageError
from blemish.modelfile import TeacherInfo
from blemish.teachers.weights import catalog, find_weights, weights_folder

STRIDES = (4, 8, 16)
POSITION = re.compile(r"pos_embed|rel_pos|relative_position_bias_table|attention_biases")
"""In the names of the parameters that tell a transformer where a token is, absolutely or relative to others."""


def pooled_tokens(levels: list[Tensor]) -> list[Tensor]:
    """B x C x h x w per level -> B x (1 + h w) x C: the mean over locations, then the locations row by row."""
    patches = [level.flatten(2).transpose(1, 2) for level in levels]
    return [torch.cat([level.mean(1, keepdim=True), level], 1) for level in patches]


class Pyramid(nn.Module):
    """A network that gives its feature maps at several strides; it normalises the image itself."""

    by_rows: ClassVar = ("tokens",)
    """What treats images one by one beside `forward`."""
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, info: TeacherInfo) -> None:
        super().__init__()
        self.info = info
        self.network = network
        self._channels_last = getattr(network, "output_fmt", Format.NCHW) == Format.NHWC
        self.register_buffer("mean", torch.tensor(info.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(info.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """B x 3 x H x W in [0, 1] -> one B x C x H/stride x W/stride tensor per level, finest first."""
        features: list[Tensor] = self.network((image - self.mean) / self.std)
        if self._channels_last:
            features = [level.permute(0, 3, 1, 2) for level in features]
        return features

    @property
    def has_class_token(self) -> bool:
        """True for vision transformers that carry a class token through all layers."""
        model = getattr(self.network, "model", None)
        return getattr(model, "cls_token", None) is not None and getattr(model, "num_prefix_tokens", 0) > 0

    def tokens(self, image: Tensor) -> list[Tensor]:
        """B x 3 x H x W in [0, 1] -> one B x (1 + N) x C tensor per level: the class token, then N patches, by rows.

        Where the network has no class token, the mean of the patches takes its place.
        """
        if not self.has_class_token:
            return pooled_tokens(self(image))
        network: Any = self.network
        layers = network.model.forward_intermediates(
            (image - self.mean) / self.std,
            indices=network.out_indices,
            return_prefix_tokens=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        # Other prefix tokens, such as registers, come after the class token.
        return [torch.cat([prefix[:, :1], patches], 1) for patches, prefix in layers]


class FeaturePyramid(Pyramid):
    """The teacher: it stays in evaluation mode and takes no gradient, whatever its parent module is told."""

    def __init__(self, network: nn.Module, info: TeacherInfo) -> None:
        super().__init__(network.requires_grad_(False).eval(), info)

    def train(self, mode: bool = True) -> FeaturePyramid:
        """Stays in evaluation mode: a teacher's batch statistics must never move."""
        return super().train(False)

    def untrained_copy(self, *, with_positions: bool = False) -> Pyramid:
        """A student of the teacher's own architecture: the same layers, drawn at random and free to learn.

        The draws are of torch's global generator. `with_positions` copies the teacher's position embeddings into it,
        where there are any, and freezes them.
        """
        entry = catalog().get(self.info.name)
        teacher: Any = self.network
        levels = list(teacher.feature_info.out_indices)
        network = _untrained(self.info.backbone, levels, v1_stride=entry is not None and entry.v1_stride)
        if _can_change_size(network):
            _fit(network, teacher.model.patch_embed.img_size[0])
        if with_positions:
            known = dict(self.network.named_parameters())
            for name, parameter in network.named_parameters():
                if POSITION.search(name):
                    parameter.requires_grad_(False).copy_(known[name])
        return Pyramid(network, self.info)

    def grids(self, size: int) -> list[int]:
        """Height (= width) of each level for a `size` x `size` image.

        Raises
        ------
        UsageError
            If the network does not take images of that size. Some transformers take a single one.
        """
        grids = [-(-size // stride) for stride in self.info.strides]
        wanted = [(1, c, grid, grid) for c, grid in zip(self.info.channels, grids, strict=True)]
        try:
            with torch.no_grad():
                given = [tuple(level.shape) for level in self(self.mean.new_zeros(1, 3, size, size))]
        except (RuntimeError, AssertionError, IndexError) as error:
            raise self._unfit(size) from error
        if given != wanted:
            raise self._unfit(size)
        return grids

    def _unfit(self, size: int) -> UsageError:
        return UsageError(
            f"it gives no pyramid for images of {size} x {size} pixels",
            where=f"teacher {self.info.name}",
            todo="Try --set image_size=224, or another teacher",
        )


def open_teacher(
    name: str,
    *,
    strides: tuple[int, ...] = STRIDES,
    layers: tuple[int, ...] | None = None,
    image_size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> FeaturePyramid:
    """Open teacher `name` with the levels at `strides`.

    Parameters
    ----------
    name : a name of the catalogue (`blemish teachers`) or any timm model name.
    strides : which levels, finest first.
    layers : which levels of a network whose levels all have the same stride, as those of a plain vision transformer
        do: layers of its encoder, counted from 0. `strides` then says nothing.
    image_size : side of the images to come; a vision transformer's position embedding is interpolated to it.
    weights : a folder of .safetensors files; default BLEMISH_WEIGHTS.

    Raises
    ------
    UsageError
        Unknown name, or the network has no level at a stride asked for, or no such layer.
    TeacherError
        The weights are not on this machine or do not fit.
    """
    entry = catalog().get(name)
    backbone = entry.backbone if entry else name
    if not _is_timm_model(backbone):
        known = [*catalog(), *timm.list_models(), *timm.list_pretrained()]
        close = ", ".join(difflib.get_close_matches(name, known, n=3))
        raise UsageError(
            f"there is no teacher '{name}'",
            todo=f"Did you mean {close}?" if close else "`blemish teachers` lists them; any timm model name works",
        )
    found = find_weights(name, weights_folder(weights))
    path, entry = found.path, found.entry
    levels = _levels(backbone, strides, layers)
    network = _untrained(backbone, levels, v1_stride=entry is not None and entry.v1_stride)
    tensors = _read(path)
    if entry and entry.tensors == "in order":
        tensors = _named_in_order(tensors, _without_values(backbone), path)
    _load(network.model if isinstance(network, FeatureGetterNet) else network, tensors, path)
    if image_size and _can_change_size(network):
        _fit(network, image_size)
    config: Any = timm.get_pretrained_cfg(backbone)
    info = TeacherInfo(
        name=name,
        backbone=backbone,
        channels=tuple(network.feature_info.channels()),
        strides=tuple(network.feature_info.reduction()),
        mean=entry.mean if entry else config.mean,
        std=entry.std if entry else config.std,
        licence=entry.licence if entry else (config.license or "not stated"),
        source=found.source,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    return FeaturePyramid(network, info)


def _is_timm_model(name: str) -> bool:
    """True for an architecture, or an architecture and one of its weights: "resnet18", "resnet18.tv_in1k"."""
    return timm.is_model(name) and ("." not in name or timm.is_model_pretrained(name))


def _untrained(backbone: str, levels: list[int], *, v1_stride: bool) -> Any:
    """The network that gives the levels of these feature indices, its weights drawn at random."""
    network: Any = timm.create_model(backbone, pretrained=False, features_only=True, out_indices=levels)
    if v1_stride:
        _move_stride_to_first_convolution(network)
    return network


def _can_change_size(network: Any) -> bool:
    """True for transformers that timm can change from one size of image to another."""
    return isinstance(network, FeatureGetterNet) and hasattr(network.model, "set_input_size")


def _fit(network: Any, image_size: int) -> None:
    """Make a transformer take images of another size, if it can be divided into its patches."""
    embedding = network.model.patch_embed
    if embedding.img_size[0] != image_size and image_size % embedding.patch_size[0] == 0:
        network.model.set_input_size(img_size=(image_size, image_size))


def _levels(backbone: str, strides: tuple[int, ...], layers: tuple[int, ...] | None) -> list[int]:
    """The feature indices of `backbone`: `layers` where all levels have one stride, else those at `strides`.

    The last one where a stride comes twice.
    """
    try:
        with torch.device("meta"):
            network: Any = timm.create_model(backbone, pretrained=False, features_only=True)
            described = network.feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UsageError(f"timm gives no feature pyramid for {backbone}", todo="Choose another teacher") from error
    if layers and isinstance(network, FeatureGetterNet) and len(set(described)) == 1:
        depth = len(network.feature_info.info)
        if layers[-1] >= depth:
            raise UsageError(
                f"it has no layer {layers[-1]}, only 0 to {depth - 1}",
                where=f"teacher {backbone}",
                todo="Choose its layers, such as --set layers=[1,2,3], or another teacher",
            )
        return list(layers)
    positions = {stride: index for index, stride in enumerate(described)}
    missing = [stride for stride in strides if stride not in positions]
    if missing:
        raise UsageError(
            f"it has no level at stride {missing[0]}, only at {', '.join(map(str, described))}",
            where=f"teacher {backbone}",
            todo="Choose another teacher",
        )
    return [positions[stride] for stride in strides]


def _without_values(backbone: str) -> nn.Module:
    """The whole network, for the names and shapes of its tensors only."""
    with torch.device("meta"):
        network: nn.Module = timm.create_model(backbone, pretrained=False)
    return network


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A broken file makes the two libraries raise errors of a dozen classes.
        raise TeacherError("it is not a weights file, or it is damaged", where=path) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise TeacherError("it holds something else than named tensors", where=path)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _named_in_order(tensors: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Give each tensor of the file the name that stands at its place in the network, shapes checked."""
    wanted = model.state_dict()
    if [t.shape for t in tensors.values()] != [t.shape for t in wanted.values()]:
        raise TeacherError("the tensors do not fit the network one by one", where=path)
    return dict(zip(wanted, tensors.values(), strict=True))


def _load(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load what the truncated network needs; names may differ in dots and underscores (timm flattens some)."""
    flat = {name.replace(".", "_"): tensor for name, tensor in tensors.items()}
    wanted = network.state_dict()
    # Files converted from other frameworks often lack the batch counters, which evaluation never reads.
    missing = [n for n in wanted if n.replace(".", "_") not in flat and not n.endswith("num_batches_tracked")]
    if missing:
        raise TeacherError(f"the file lacks {len(missing)} tensors of the network, first {missing[0]}", where=path)
    chosen = {n: flat.get(n.replace(".", "_"), wanted[n]) for n in wanted}
    try:
        network.load_state_dict(chosen)
    except RuntimeError as error:
        raise TeacherError("the tensors do not fit the network", where=path) from error


def _move_stride_to_first_convolution(network: Any) -> None:
    """ResNet v1 strides in the 1x1 convolution that opens a stage; timm's (v1.5) in the 3x3 after it."""
    for stage in (network.layer2, network.layer3):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
