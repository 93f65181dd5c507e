"""CPR by hand: words and histograms, retrieval, foreground, windows, the contrastive loss, what a graph says."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage, stats
from torch import Tensor

from blemish.assembly import build
from blemish.errors import UsageError
from blemish.export import check_parity, export_graph
from blemish.images import ImageContract
from blemish.methods import GradientStage, find_method
from blemish.methods import cpr as module
from blemish.methods.cpr import CascadePatchRetrieval
from blemish.nn.foreground import Foreground, PlacedVectors
from blemish.nn.preparation import Preparation
from blemish.nn.retrieval import (
    RetrievalBranch,
    WordHistograms,
    best_in_window,
    contrast,
    divergence,
    draw_points,
    sample,
)
from blemish.nn.textures import synthetic_textures
from blemish.runtime.graph import OnnxRuntimeGraph
from blemish.training import Trainer, TrainingImages
from tiny import SIZE, make_parts, part, teacher
from tiny import one_thread as one_thread  # applies to this module

PREPARATION = Preparation(0, 255, SIZE)
SETTINGS: dict[str, Any] = {"image_size": SIZE, "steps": 2, "batch_size": 4, "width": 12, "dimension": 8}


def method(name: str = "cpr", **settings: Any) -> CascadePatchRetrieval:
    chosen = find_method(name)
    config = chosen.Config.model_validate(SETTINGS | settings)
    made = build(chosen, config, teacher(config.strides), seed=0)
    assert isinstance(made, CascadePatchRetrieval)
    return made.eval()


def images(count: int, first: int = 0) -> Tensor:
    pictures: Tensor = PREPARATION(torch.from_numpy(np.stack([part(first + i) for i in range(count)])))
    return pictures


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_parts(tmp_path_factory.mktemp("parts"), 14).iterdir())


def fit(made: CascadePatchRetrieval, paths: list[Path]) -> CascadePatchRetrieval:
    Trainer("cpu", 0, None, lambda *_: None).fit(made, TrainingImages(paths, ImageContract(), PREPARATION))
    return made


@pytest.fixture(scope="module")
def fitted(parts: list[Path]) -> CascadePatchRetrieval:
    """Fourteen references, of which three are neighbours."""
    return fit(method(neighbours=3), parts)


# Words and histograms


def test_a_histogram_counts_the_words_of_each_block() -> None:
    """Vectors that lie at their words, so that nothing is shared: counted by hand."""
    describe = WordHistograms(grid=7, dimension=2, words=3, blocks=2)
    describe.words.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]))
    said = torch.randint(3, (2, 7, 7), generator=torch.Generator().manual_seed(0))
    features = describe.words[said].permute(0, 3, 1, 2)
    histogram = describe(features)
    assert histogram.shape == (2, 4, 3)
    # A side of 7 in two blocks: position * 2 // 7 is 0 for the first four.
    halves = (slice(0, 4), slice(4, 7))
    for b in range(2):
        for block, (rows, columns) in enumerate((r, c) for r in halves for c in halves):
            inside = said[b, rows, columns].flatten()
            wanted = torch.bincount(inside, minlength=3) / len(inside)
            torch.testing.assert_close(histogram[b, block], wanted, atol=1e-6, rtol=0)


def test_words_learned_from_features_are_nearly_always_whole() -> None:
    """Sharing between words moves a histogram little: each bin by less than 2 % of the block here."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 6, 20, 20, generator=generator)
    describe = WordHistograms(grid=20, dimension=6, words=12, blocks=5)
    vectors = features.flatten(2).transpose(1, 2)
    describe.learn(vectors.flatten(0, 1), generator)
    nearest = torch.cdist(vectors, describe.words).argmin(2)
    counted = F.one_hot(nearest, 12).float().unflatten(1, (5, 4, 5, 4)).mean((2, 4)).flatten(1, 2)
    histogram = describe(features)
    torch.testing.assert_close(histogram.sum(2), torch.ones(4, 25))
    assert float((histogram - counted).abs().mean()) < 0.005
    assert float((histogram - counted).abs().max()) < 0.1


def test_the_divergence_is_that_of_the_most_alike_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    query, references = (torch.rand(n, 5, 4, generator=generator) for n in (2, 3))
    query, references = (h / h.sum(2, keepdim=True) for h in (query, references))
    references[1, 2] = torch.tensor([1.0, 0, 0, 0])
    found = divergence(query, references, 0.8)
    for b in range(2):
        for r in range(3):
            of_blocks = [stats.entropy(query[b, s] + 1e-8, references[r, s] + 1e-8) for s in range(5)]
            assert float(found[b, r]) == pytest.approx(sum(sorted(of_blocks)[:4]), rel=1e-4)


def test_a_defect_in_one_block_does_not_change_who_is_nearest() -> None:
    made = method(neighbours=2)
    generator = torch.Generator().manual_seed(0)
    made.histograms = torch.rand(6, 25, 12, generator=generator).softmax(2)
    query = made.histograms[3:4].clone()
    query[0, 7:12] = torch.eye(12)[0]
    assert made.nearest(query, 1).tolist() == [[3]]
    assert made.nearest(query, 99).shape == (1, 6)


def test_of_equal_references_the_first_are_taken() -> None:
    """Rounding alone would order them: the divergence of one from another is not always the same zero."""
    made = method(neighbours=3)
    generator = torch.Generator().manual_seed(0)
    same, other = torch.rand(2, 1, 25, 12, generator=generator).softmax(3)
    made.histograms = torch.cat(
        [other, *[same * (1 + 1e-7 * torch.randn(25, 12, generator=generator)) for _ in range(8)]]
    )
    assert made.nearest(same, 3).tolist() == [[1, 2, 3]]


# Foreground


def test_an_object_before_a_ground_is_told_from_it() -> None:
    """A disc with features of its own; noise on both."""
    generator = torch.Generator().manual_seed(0)
    y, x = np.mgrid[:40, :40]
    disc = torch.from_numpy((y - 19.5) ** 2 + (x - 19.5) ** 2 < 13**2)
    features = (
        torch.randn(6, 5, 40, 40, generator=generator) + 4 * disc * torch.tensor([1.0, 0, -1, 0, 0])[:, None, None]
    )
    vectors = PlacedVectors(6)
    vectors.add(features)
    foreground = Foreground(5)
    assert torch.equal(foreground(features), torch.ones(6, 40, 40))
    foreground.learn(vectors, generator, "auto")
    assert foreground.of_object
    found = foreground(features)
    assert float(found.min()) == 0
    assert float(found.max()) == 1
    assert float(found[:, disc].mean()) > 0.7
    assert float(found[:, ~disc].mean()) < 0.3
    # Scaled so that a hundredth of the vectors lies beyond either end.
    assert float((found == 0).float().mean()) == pytest.approx(0.01, abs=0.003)
    assert float((found == 1).float().mean()) == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize(("surface", "found"), [("auto", False), ("texture", False), ("object", True)])
def test_a_texture_is_foreground_everywhere(surface: Any, found: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 5, 20, 20, generator=generator)
    features[:, 0] += 6 * (torch.arange(20) % 2)
    vectors = PlacedVectors(6)
    vectors.add(features)
    foreground = Foreground(5)
    foreground.learn(vectors, generator, surface)
    assert foreground.of_object == found
    assert bool((foreground(features) == 1).all()) != found


def test_border_and_middle_are_where_the_paper_has_them() -> None:
    vectors = PlacedVectors(1)
    vectors.add(torch.arange(6400.0).reshape(1, 1, 80, 80))
    place = vectors.all()[:, 0].long()
    border, middle = vectors.where()
    row, column = place // 80, place % 80
    assert torch.equal(border, (row < 3) | (row >= 77) | (column < 3) | (column >= 77))
    assert torch.equal(middle, (row >= 24) & (row < 56) & (column >= 24) & (column < 56))


# Windows


@pytest.mark.parametrize("window", [1, 3, 5])
def test_the_best_of_a_window_by_a_plain_loop(window: int) -> None:
    generator = torch.Generator().manual_seed(window)
    query = F.normalize(torch.randn(2, 4, 5, 6, generator=generator))
    references = F.normalize(torch.randn(30, 7, 4, generator=generator), dim=2)
    chosen = torch.tensor([[0, 3, 6], [5, 3, 1]])
    best = best_in_window(query, references, chosen, window)
    reach = window // 2
    for b in range(2):
        for i in range(5):
            for j in range(6):
                cosines = [
                    float(query[b, :, i, j] @ references[6 * row + column, k])
                    for k in chosen[b].tolist()
                    for row in range(max(0, i - reach), min(5, i + reach + 1))
                    for column in range(max(0, j - reach), min(6, j + reach + 1))
                ]
                assert float(best[b, i, j]) == pytest.approx(max(cosines), abs=1e-6)


# The branch and its loss


@pytest.mark.parametrize("shape", [(5, 5), (1, 4)])
def test_points_are_sampled_as_torch_does(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    features, points = torch.randn(2, 3, *shape, generator=generator), torch.rand(2, 50, 2, generator=generator)
    grid = (2 * points.flip(2) - 1)[:, :, None]
    wanted = F.grid_sample(features, grid, padding_mode="border", align_corners=False)[..., 0].transpose(1, 2)
    torch.testing.assert_close(sample(features, points), wanted, rtol=1e-4, atol=1e-5)


def test_a_branch_at_the_middle_of_a_place_gives_what_it_gives_there() -> None:
    torch.manual_seed(0)
    branch = RetrievalBranch(6, 12, 8).eval()
    level = torch.randn(2, 6, 4, 4)
    points = torch.tensor([[0.125, 0.625], [0.875, 0.375]]).expand(2, 2, 2)
    everywhere, there = branch(level), branch(level, points)
    torch.testing.assert_close(there[:, 0], everywhere[:, :, 0, 2])
    torch.testing.assert_close(there[:, 1], everywhere[:, :, 3, 1])
    torch.testing.assert_close(everywhere.norm(dim=1), torch.ones(2, 4, 4))


def test_the_published_branch_has_the_published_size() -> None:
    """DenseNet-201's second dense block: 512 channels; counted layer by layer."""
    branch = RetrievalBranch(512, 192, 384)
    first = 512 * 192 + 192 + 2 * 192
    inception = 3 * (192 * 64 + 2 * 64) + (192 * 48 + 2 * 48) + (9 * 48 * 64 + 2 * 64)
    assert sum(p.numel() for p in branch.parameters()) == first + inception + 256 * 384 + 384


def test_the_papers_teacher_gives_its_first_dense_blocks() -> None:
    with torch.device("meta"):
        network: Any = timm.create_model("densenet201", pretrained=False, features_only=True)
    levels = dict(zip(network.feature_info.reduction(), network.feature_info.info, strict=True))
    assert [levels[stride]["module"] for stride in (4, 8)] == ["features.denseblock1", "features.denseblock2"]
    assert [levels[stride]["num_chs"] for stride in (4, 8)] == [256, 512]


def test_the_contrast_by_hand() -> None:
    cosine = torch.tensor([[0.9, 0.5, -0.1], [0.3, -0.5, 0.2]])
    weight = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.5]])
    # 0 + 0.3^3 + (2 x 0.5)^3 + 1.3^3 + (0.5 x 0.6)^3, over five weights above 0.
    alike = (0.3**3 + 1 + 1.3**3 + 0.3**3) / 5
    assert float(contrast(cosine, weight, alike=True)) == pytest.approx(alike)
    # 1.1^3 + 0.7^3 + (2 x 0.5)^3 + 0 + (0.5 x 0.4)^3.
    unlike = (1.1**3 + 0.7**3 + 1 + 0.2**3) / 5
    assert float(contrast(cosine, weight, alike=False)) == pytest.approx(unlike)
    assert float(contrast(cosine, 0 * weight, alike=False)) == 0


def test_points_are_drawn_by_weight() -> None:
    weight = torch.zeros(3, 8, 8)
    weight[0, 2, 5], weight[0, 6, 1] = 3, 1
    weight[1, 4, 4] = 1
    torch.manual_seed(0)
    points = draw_points(weight, 300)
    assert points.shape == (3, 300, 2)
    first = (points[0] == torch.tensor([2.5 / 8, 5.5 / 8])).all(1)
    assert torch.equal(~first, (points[0] == torch.tensor([6.5 / 8, 1.5 / 8])).all(1))
    # 225 expected of 300; outside 190 to 260 by chance less than once in 100,000 times.
    assert 190 <= int(first.sum()) <= 260
    assert (points[1] == 4.5 / 8).all()
    assert len(points[2].unique(dim=0)) > 40


@dataclass
class Step:
    """A step whose draws are known: a shape that is wrong, the points that are drawn, both halves of the batch."""

    method: CascadePatchRetrieval
    same: Tensor
    wrong: Tensor
    both: Tensor | None = None


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch, fitted: CascadePatchRetrieval) -> Step:
    known = Step(copy.deepcopy(fitted), torch.rand(1, 300, 2), torch.rand(1, 300, 2))
    known.method.gallery = (images(14) * 255).round().byte()
    shape = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    shape[:, 20:30, 20:30] = True
    drawn = iter([known.same, known.wrong])

    def unperturbed(both: Tensor) -> Tensor:
        known.both = both
        return both

    monkeypatch.setattr(module, "perturbed", unperturbed)
    monkeypatch.setattr(module, "synthetic_anomalies", lambda image, *_, **__: (1 - image, shape))
    monkeypatch.setattr(module, "draw_points", lambda *_: next(drawn))
    return known


@pytest.mark.parametrize("of_object", [True, False])
@torch.no_grad()
def test_the_loss_of_a_step_by_hand(step: Step, of_object: bool) -> None:
    made = step.method
    made.foreground.weights.fill_(float(of_object))
    observed = made.observe(images(1, 2))
    torch.manual_seed(1)
    losses = made.losses(synthetic_textures, observed)
    torch.manual_seed(1)
    torch.randint(3, (1, 1))
    other, same, wrong = torch.rand(1, 300, 2), step.same, step.wrong
    assert step.both is not None
    torch.testing.assert_close(step.both[0], 1 - images(1, 2)[0])
    for i, (branch, level) in enumerate(zip(made.branches, made.teacher(step.both), strict=True)):

        def at(half: int, points: Tensor, branch: Any = branch, level: Tensor = level) -> Tensor:
            there: Tensor = branch(level[half : half + 1], points)[0]
            return there

        def cosine(left: Tensor, right: Tensor) -> Tensor:
            return (left * right).sum(1)

        positive = (0.8 - cosine(at(0, same), at(1, same))).clamp(min=0).pow(3).sum() / 300
        far = ((other - same)[0] * SIZE).square().sum(1) > 2 * 4**2
        frozen = (sample(level[:1], other) - sample(level[1:], same))[0].square().sum(1) * far
        weight = frozen / frozen.sum() * far.sum() * of_object
        negative = ((cosine(at(0, other), at(1, same)) + 0.2).clamp(min=0) * weight).pow(3).sum()
        bad = (cosine(at(0, wrong), at(1, wrong)) + 0.2).clamp(min=0).pow(3).sum()
        wanted = positive + (negative + bad) / (300 + int((weight > 0).sum()))
        assert float(losses[f"scale{i}"]) == pytest.approx(float(wanted), rel=1e-3)


@torch.no_grad()
def test_an_image_is_not_its_own_reference_in_training(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the four nearest the first is the image itself; each of the others is drawn."""
    observed = step.method.observe(images(1, 2))
    itself, *others = step.method.nearest(step.method.histograms[2:3], 4)[0].tolist()
    assert itself == 2
    assert observed[1].tolist() == [others]
    monkeypatch.setattr(module, "draw_points", lambda *_: step.same)
    drawn = set()
    for seed in range(20):
        torch.manual_seed(seed)
        step.method.losses(synthetic_textures, observed)
        assert step.both is not None
        drawn.add(int((images(14) - step.both[1]).abs().flatten(1).amax(1).argmin()))
    assert drawn == set(others)


@pytest.fixture(scope="module")
def trained(parts: list[Path]) -> tuple[CascadePatchRetrieval, list[float]]:
    """After 25 steps, and the loss of each."""
    seen: list[float] = []

    def listen(stage: str, done: float, note: str = "") -> None:
        if note:
            seen.append(float(note.rpartition(" ")[2]))

    made = method(steps=25, learning_rate=0.01)
    Trainer("cpu", 0, None, listen).fit(made, TrainingImages(parts, ImageContract(), PREPARATION))
    return made, seen


def test_training_brings_the_loss_down(trained: tuple[CascadePatchRetrieval, list[float]]) -> None:
    losses = trained[1]
    assert len(losses) == 25
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


# References


def test_all_images_are_references_where_there_is_room(fitted: CascadePatchRetrieval) -> None:
    assert fitted.kept.tolist() == list(range(14))
    pyramid = fitted.teacher(images(14))
    torch.testing.assert_close(fitted.histograms, fitted.describe(pyramid[0]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fitted.foregrounds, fitted.foreground(pyramid[0]), rtol=1e-3, atol=1e-4)
    for i, (branch, level) in enumerate(zip(fitted.branches, pyramid, strict=True)):
        remembered = fitted.get_buffer(f"references{i}")
        assert remembered.dtype == torch.float16
        wanted = branch(level).flatten(2).permute(2, 0, 1)
        torch.testing.assert_close(remembered.float(), wanted, rtol=2e-3, atol=2e-3)
    assert len(fitted.gallery) == 0


def test_beyond_the_limit_the_most_varied_are_kept(parts: list[Path]) -> None:
    """A picture takes (16^2 + 8^2) x 256 x 2 bytes and 16^2 x 4, 165 kB: in 1 MB there is room for 6."""
    made = method(reference_limit=1, dimension=256)
    assert made.room() == 6
    fit(made, parts)
    assert len(made.kept) == len(made.histograms) == len(made.foregrounds) == made.references0.shape[1] == 6
    histograms = made.describe(made.teacher(images(14))[0])
    torch.testing.assert_close(made.histograms, histograms[made.kept], rtol=1e-3, atol=1e-4)
    wanted = made.branches[1](made.teacher(images(14)[made.kept])[1]).flatten(2).permute(2, 0, 1)
    torch.testing.assert_close(made.references1.float(), wanted, rtol=2e-3, atol=2e-3)


def test_a_limit_below_one_image_is_refused() -> None:
    made = method(reference_limit=1, image_size=512, dimension=64)
    with pytest.raises(UsageError, match=r"one image take 2\.7 MB and reference_limit is 1") as caught:
        next(iter(made.stages(10)))
    assert "dimension" in str(caught.value)


def test_windows_and_strides_must_fit() -> None:
    for settings in ({"windows": [3]}, {"windows": [3, 2]}, {"strides": [8]}):
        with pytest.raises(ValidationError, match="one odd side for each"):
            find_method("cpr").Config.model_validate(settings)


# Map and score


@torch.no_grad()
def test_map_and_score_by_plain_steps(fitted: CascadePatchRetrieval) -> None:
    """The neighbours' patches one by one, resized by torch, smoothed by SciPy."""
    new = images(2, first=100)
    anomaly_map, score = fitted(new)
    pyramid = fitted.teacher(new)
    histograms = fitted.describe(pyramid[0])
    product = fitted.foreground(pyramid[0])
    for b in range(2):
        order = divergence(histograms[b : b + 1], fitted.histograms, 0.8)[0].argsort()[:3]
        summed = torch.zeros(16, 16)
        for i, (grid, reach) in enumerate([(16, 1), (8, 0)]):
            query = fitted.branches[i](pyramid[i])[b]
            references = fitted.get_buffer(f"references{i}")[:, order].float().unflatten(0, (grid, grid))
            apart = torch.empty(grid, grid)
            for y in range(grid):
                for x in range(grid):
                    rows, columns = slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1)
                    apart[y, x] = 1 - (references[rows, columns] @ query[:, y, x]).max()
            summed += F.interpolate(apart[None, None], 16, mode="bilinear", align_corners=False)[0, 0]
        weight = torch.maximum(product[b], fitted.foregrounds[order].amax(0))
        enlarged = F.interpolate((summed * weight)[None, None], SIZE, mode="bilinear", align_corners=False)[0, 0]
        wanted = ndimage.gaussian_filter(enlarged.double().numpy(), 4)
        np.testing.assert_allclose(anomaly_map[b].numpy(), wanted, rtol=1e-3, atol=1e-5)
        # 0.5 % of 64 x 64 pixels are 20.
        assert float(score[b]) == pytest.approx(np.sort(wanted.ravel())[-20:].mean(), rel=1e-3)


@torch.no_grad()
def test_the_score_is_of_the_largest_512_pixels_at_the_papers_size() -> None:
    assert round(module.SCORED_PART * 320**2) == 512


def test_a_defect_stands_out(trained: tuple[CascadePatchRetrieval, list[float]]) -> None:
    pictures = np.stack([part(200), part(200, defect=True)])
    with torch.no_grad():
        anomaly_map, score = trained[0](PREPARATION(torch.from_numpy(pictures)))
    assert float(score[1]) > 1.2 * float(score[0])
    row, column = divmod(int(anomaly_map[1].argmax()), SIZE)
    # The defect covers rows 36 to 49 of 72 and columns 40 to 49 of 80, and the network sees 64 x 64.
    assert 28 <= row <= 48
    assert 28 <= column <= 44


def test_the_graph_agrees_on_new_and_on_remembered_images(fitted: CascadePatchRetrieval) -> None:
    graph = OnnxRuntimeGraph(export_graph(fitted, PREPARATION, ImageContract()))
    pictures = [part(0), part(4), part(100), part(101, defect=True)]
    assert check_parity(graph, fitted, PREPARATION, pictures).images == 4


# Settings


def test_textures_come_from_a_folder_if_there_is_one(parts: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "dtd"
    folder.mkdir()
    Image.new("RGB", (30, 30), (255, 0, 255)).save(folder / "magenta.png")
    made = method(textures=folder, surface="texture")
    stage = next(stage for stage in made.stages(14) if isinstance(stage, GradientStage))
    assert stage.losses.args[0](2, SIZE, torch.device("cpu"))[0, :, 5, 5].tolist() == [1, 0, 1]  # type: ignore[attr-defined]
    # Where the folder lay is nobody's business.
    assert made.config.model_dump(mode="json")["textures"] == "dtd"
    assert type(made.config).model_validate(made.config.model_dump(mode="json"))
    with pytest.raises(UsageError, match="no such folder"):
        next(iter(method(textures=tmp_path / "nowhere").stages(14)))


@cache
def sizes(name: str) -> tuple[int, int]:
    """How many numbers a reference takes, and how many the branches have."""
    made = method(name, width=find_method(name).Config().width, dimension=find_method(name).Config().dimension)
    references = sum(made.get_buffer(f"references{i}").numel() for i in range(len(made.grids)))
    return references, sum(p.numel() for p in made.branches.parameters())


def test_the_faster_ones_hold_and_learn_less() -> None:
    for slower, faster in (("cpr", "cpr-fast"), ("cpr-fast", "cpr-faster")):
        assert all(b < a / 2 for a, b in zip(sizes(slower), sizes(faster), strict=True))
    assert find_method("cpr-faster").Config().strides == (8,)
