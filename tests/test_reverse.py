"""RD4AD's student against its published description: sizes, parameters, loss and map."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from blemish.errors import UsageError
from blemish.methods.matching import AS_THEY_ARE
from blemish.methods.rd import RESNETS, ReverseDistillation, image_distance
from blemish.modelfile import TeacherInfo
from blemish.nn.remainder import local_distance
from blemish.nn.reverse import Bottleneck, Decoder, StudentShape, initialise
from blemish.teachers import FeaturePyramid

# Per network: expansion, width of a group, blocks of the embedding, blocks of the decoder's stages.
PUBLISHED = {
    "resnet18": (1, 64, 2, (2, 2, 2)),
    "resnet34": (1, 64, 3, (3, 4, 6)),
    "resnet50": (4, 64, 3, (3, 4, 6)),
    "wide_resnet50_2": (4, 128, 3, (3, 4, 6)),
}


def channels_of(network: str) -> tuple[int, int, int]:
    expansion = PUBLISHED[network][0]
    return (64 * expansion, 128 * expansion, 256 * expansion)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# What the published layers hold, summed one by one: a convolution without bias, and the scale and shift of the batch
# normalisation after it.


def layer(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + 2 * outputs


def residual_block(inputs: int, planes: int, expansion: int, group_width: int, middle: int, shortcut: int) -> int:
    """`middle`: kernel of the layer that resamples, 2 where it is a transposed convolution. `shortcut`: kernel or 0."""
    outputs = planes * expansion
    if expansion == 1:
        body = layer(inputs, outputs, middle) + layer(outputs, outputs, 3)
    else:
        inner = planes * group_width // 64
        body = layer(inputs, inner, 1) + layer(inner, inner, middle) + layer(inner, outputs, 1)
    return body + (layer(inputs, outputs, shortcut) if shortcut else 0)


def bottleneck_parameters(network: str) -> int:
    """Fusion and embedding. The published code also holds `conv4` and `bn4`, which it never calls; not counted here."""
    expansion, group_width, blocks, _ = PUBLISHED[network]
    first, second, third = channels_of(network)
    fusion = layer(first, second, 3) + layer(second, third, 3) + layer(second, third, 3)
    embedding = residual_block(3 * third, 512, expansion, group_width, middle=3, shortcut=1)
    embedding += (blocks - 1) * residual_block(512 * expansion, 512, expansion, group_width, middle=3, shortcut=0)
    return fusion + embedding


def decoder_parameters(network: str) -> int:
    expansion, group_width, _, stages = PUBLISHED[network]
    count, inputs = 0, 512 * expansion
    for planes, blocks in zip((256, 128, 64), stages, strict=True):
        count += residual_block(inputs, planes, expansion, group_width, middle=2, shortcut=2)
        inputs = planes * expansion
        count += (blocks - 1) * residual_block(inputs, planes, expansion, group_width, middle=3, shortcut=0)
    return count


@pytest.mark.parametrize("network", PUBLISHED)
def test_it_has_the_published_number_of_parameters(network: str) -> None:
    with torch.device("meta"):
        bottleneck = Bottleneck(channels_of(network), RESNETS[network])
        decoder = Decoder(channels_of(network), RESNETS[network])

    assert parameters(bottleneck) == bottleneck_parameters(network)
    assert parameters(decoder) == decoder_parameters(network)


def test_the_parameters_of_wide_resnet_in_numbers() -> None:
    with torch.device("meta"):
        bottleneck = Bottleneck((256, 512, 1024), RESNETS["wide_resnet50_2"])
        decoder = Decoder((256, 512, 1024), RESNETS["wide_resnet50_2"])

    assert parameters(bottleneck) == 58_885_120
    assert parameters(decoder) == 24_917_504


def test_the_shapes_of_wide_resnet_at_256_pixels() -> None:
    with torch.device("meta"):
        pyramid = [torch.zeros(2, 256, 64, 64), torch.zeros(2, 512, 32, 32), torch.zeros(2, 1024, 16, 16)]
        bottleneck = Bottleneck((256, 512, 1024), RESNETS["wide_resnet50_2"])
        decoder = Decoder((256, 512, 1024), RESNETS["wide_resnet50_2"])
        embedding = bottleneck(pyramid)
        rebuilt = decoder(embedding)

    assert embedding.shape == (2, 2048, 8, 8)
    assert [level.shape for level in rebuilt] == [level.shape for level in pyramid]


@pytest.mark.parametrize("channels", [(24, 40, 112), (5, 7, 3), (64, 128)])
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_any_pyramid_is_rebuilt_in_its_own_shape(channels: tuple[int, ...], kind: str) -> None:
    shape = StudentShape("basic" if kind == "basic" else "bottleneck", 0.25, 2, (1,) * len(channels), signed=True)
    pyramid = [torch.rand(2, c, 16 >> level, 16 >> level) for level, c in enumerate(channels)]
    embedding = Bottleneck(channels, shape)(pyramid)

    assert embedding.shape == (2, 2 * channels[-1], 8 >> len(channels) - 1, 8 >> len(channels) - 1)
    assert [t.shape for t in Decoder(channels, shape)(embedding)] == [t.shape for t in pyramid]


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("signed", [True, False])
def test_only_a_signed_student_gives_negative_features(signed: bool, blocks: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder((8, 8, 8), StudentShape("basic", 1, 2, (blocks,) * 3, signed=signed))

    with torch.no_grad():
        lowest = [float(level.min()) for level in decoder(torch.randn(2, 16, 2, 2))]
    assert all((value < 0) == signed for value in lowest)


def test_initial_weights() -> None:
    """Kaiming normal, fan out: a deviation of sqrt(2 / (outputs * kernel area)); batch normalisation starts neutral."""
    torch.manual_seed(0)
    bottleneck = Bottleneck((64, 128, 256), RESNETS["resnet18"])
    initialise(bottleneck)

    for module in bottleneck.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


# Loss and map


def test_the_loss_by_hand() -> None:
    """The cosine is taken once an image, over the whole map as one vector, and averaged over the images."""
    teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).reshape(2, 1, 1, 2)
    student = torch.tensor([[4.0, 3.0], [0.0, 5.0]]).reshape(2, 1, 1, 2)

    assert float(image_distance(teacher, student)) == pytest.approx(((1 - 24 / 25) + 1) / 2, abs=1e-6)
    assert float(image_distance(teacher, 7 * teacher)) == pytest.approx(0, abs=1e-6)
    assert float(image_distance(teacher, -teacher)) == pytest.approx(2, abs=1e-6)


def test_the_loss_is_not_the_mean_of_local_distances() -> None:
    teacher = torch.tensor([1.0, 0.0, 0.0, 10.0]).reshape(1, 2, 1, 2)
    student = torch.tensor([0.0, 0.0, 1.0, 10.0]).reshape(1, 2, 1, 2)

    assert local_distance(teacher, student).flatten().tolist() == pytest.approx([1, 0], abs=1e-6)
    assert float(image_distance(teacher, student)) == pytest.approx(1 - 100 / 101, abs=1e-6)


def test_the_local_distance_by_hand() -> None:
    teacher, student = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    teacher[0, :, 0, 0], student[0, :, 0, 0] = torch.tensor([1.0, 2, 2]), torch.tensor([2.0, 2, 1])
    teacher[0, :, 0, 1], student[0, :, 0, 1] = torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 9, 0])
    teacher[0, :, 1, 0], student[0, :, 1, 0] = torch.tensor([1.0, 0, 0]), torch.tensor([-2.0, 0, 0])
    teacher[0, :, 1, 1], student[0, :, 1, 1] = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 3])

    expected = torch.tensor([[[1 - 8 / 9, 0], [2, 1]]])
    torch.testing.assert_close(local_distance(teacher, student), expected, rtol=0, atol=1e-6)


class Pools(nn.Module):
    """A network of three levels, without weights: the image's means, in as many channels as asked for."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, image: Tensor) -> list[Tensor]:
        levels = []
        for level, channels in enumerate(self.channels):
            pooled = F.avg_pool2d(image, 4 << level)
            levels.append(torch.cat([(1 + c) ** 0.5 * pooled[:, c % 3, None] - c % 5 for c in range(channels)], 1))
        return levels


def pools(backbone: str, channels: tuple[int, ...]) -> FeaturePyramid:
    info = TeacherInfo(
        name=backbone,
        backbone=backbone,
        channels=channels,
        strides=tuple(4 << level for level in range(len(channels))),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        licence="none",
        source="none",
        sha256="none",
    )
    return FeaturePyramid(Pools(channels), info)


def method(backbone: str, channels: tuple[int, ...]) -> ReverseDistillation:
    torch.manual_seed(3)
    config = ReverseDistillation.Config.model_validate({"image_size": 64})
    return ReverseDistillation(config, pools(backbone, channels)).eval()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet18.a1_in1k"])
def test_a_resnet_teacher_gets_the_published_student(backbone: str) -> None:
    student = method(backbone, (64, 128, 256))

    count = parameters(student.bottleneck) + parameters(student.student)
    assert count == bottleneck_parameters("resnet18") + decoder_parameters("resnet18")
    assert student.standardise is None
    assert student.remainder is None, "the map is the paper's"
    assert [stage.name for stage in student.stages(4)] == ["distil"]


def test_the_teachers_with_published_students_are_taken_as_they_are() -> None:
    assert RESNETS.keys() == AS_THEY_ARE


def test_any_other_teacher_gets_a_student_of_its_own_widths_and_is_standardised() -> None:
    student = method("mobile", (4, 6, 8))

    assert student.standardise is not None
    assert [stage.name for stage in student.stages(4)] == ["channel statistics", "distil", "what the student leaves"]
    assert student.shape.signed
    images = torch.rand(3, 3, 64, 64)
    for level in (0, 1, 2):
        student.standardise.get_buffer(f"mean{level}").fill_(2.0)
        student.standardise.get_buffer(f"deviation{level}").fill_(4.0)
    for features, standardised in zip(student.teacher(images), student.pyramid(images), strict=True):
        torch.testing.assert_close(standardised, (features - 2) / 4)


@pytest.mark.parametrize("channels", [(6, 8), (4, 6, 8, 10)])
def test_the_student_has_as_many_stages_as_the_teacher_has_levels(channels: tuple[int, ...]) -> None:
    student = method("mobile", channels)

    levels = student.pyramid(torch.rand(1, 3, 64, 64))
    assert [level.shape for level in student.rebuild(levels)] == [level.shape for level in levels]


def test_a_published_student_has_three_levels() -> None:
    with pytest.raises(UsageError, match="student for resnet18 rebuilds three levels, not 2"):
        method("resnet18", (64, 128))


def test_the_loss_is_the_sum_over_scales() -> None:
    student = method("mobile", (4, 6, 8))
    pyramid = student.pyramid(torch.rand(2, 3, 64, 64))
    rebuilt = student.student(student.bottleneck(pyramid))

    expected = 0.0
    for teacher_level, student_level in zip(pyramid, rebuilt, strict=True):
        for t, s in zip(teacher_level.flatten(1), student_level.flatten(1), strict=True):
            expected += (1 - t @ s / (t.norm() * s.norm())).item() / 2
    losses = student.losses(pyramid)
    assert losses["distillation"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["distillation"].requires_grad


def test_the_map_is_the_smoothed_sum_of_local_distances() -> None:
    student = method("mobile", (4, 6, 8))
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        anomaly_map, score = student(image)
        pyramid = student.pyramid(image)
        rebuilt = student.student(student.bottleneck(pyramid))

    total = np.zeros((2, 64, 64))
    for t, s in zip(pyramid, rebuilt, strict=True):
        distance = 1 - (t * s).sum(1) / (t.norm(dim=1) * s.norm(dim=1))
        total += F.interpolate(distance[:, None], 64, mode="bilinear", align_corners=True)[:, 0].double().numpy()
    smooth = np.stack([ndimage.gaussian_filter(one, 4) for one in total])

    assert np.allclose(anomaly_map.numpy(), smooth, rtol=0, atol=1e-5)
    assert score.tolist() == anomaly_map.amax((1, 2)).tolist()
