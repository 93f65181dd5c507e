"""Synthetic anomalies: the noise against a plain computation, where they may be, and what they are made of."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from blemish.errors import ImageError, UsageError
from blemish.nn.anomalies import blended, perlin_noise, perlin_shapes, perturbed, shuffled, synthetic_anomalies
from blemish.nn.textures import TextureFolder, synthetic_textures

CPU = torch.device("cpu")


def test_the_noise_by_a_plain_loop() -> None:
    """Every pixel from the four gradients around it; the draws are made again, in the same order."""
    size, frequency, angle = 24, torch.tensor([[4.0, 2.0], [1.0, 8.0]]), torch.tensor([0.3, -1.2])
    torch.manual_seed(5)
    noise = perlin_noise(frequency, angle, size)
    torch.manual_seed(5)
    directions = (2 * math.pi * torch.rand(2, 64 * 64)).reshape(2, 64, 64).numpy()
    shift = (64 * torch.rand(2, 2)).numpy().astype(np.float64)

    def fade(t: float) -> float:
        return t**3 * (6 * t * t - 15 * t + 10)

    for b, i, j in [(0, 0, 0), (0, 7, 19), (1, 23, 23), (1, 11, 4), (0, 15, 2)]:
        row, column = (i + 0.5) / size - 0.5, (j + 0.5) / size - 0.5
        cos, sin = math.cos(angle[b]), math.sin(angle[b])
        y = ((row * cos + column * sin) * float(frequency[b, 0]) + shift[b, 0]) % 64
        x = ((column * cos - row * sin) * float(frequency[b, 1]) + shift[b, 1]) % 64
        top, left = int(y), int(x)
        value = 0.0
        for down in (0, 1):
            for right in (0, 1):
                direction = directions[b, (top + down) % 64, (left + right) % 64]
                along = math.sin(direction) * (y - top - down) + math.cos(direction) * (x - left - right)
                weight_y = fade(y - top) if down else 1 - fade(y - top)
                weight_x = fade(x - left) if right else 1 - fade(x - left)
                value += weight_y * weight_x * along
        assert float(noise[b, i, j]) == pytest.approx(math.sqrt(2) * value, abs=1e-4)


def test_the_noise_keeps_its_range_and_is_smooth() -> None:
    torch.manual_seed(0)
    noise = perlin_noise(torch.full((20, 2), 4.0), torch.zeros(20), 64)
    assert float(noise.abs().max()) < 1.05
    assert float(noise.std()) > 0.2
    assert float((noise[:, 1:] - noise[:, :-1]).abs().max()) < 0.5


def test_shapes_are_large_enough_and_touch_the_product() -> None:
    torch.manual_seed(0)
    on = torch.zeros(30, 64, 64, dtype=torch.bool)
    on[:, 10:30, 20:60] = True
    shapes = perlin_shapes(on)
    assert shapes.flatten(1).any(1).float().mean() > 0.9
    for shape in shapes.numpy():
        parts, count = ndimage.label(shape, np.ones((3, 3)))
        for number in range(1, count + 1):
            assert (parts == number).sum() >= 0.001 * 64 * 64
            assert (parts == number)[10:30, 20:60].any()


def test_without_a_product_there_is_no_shape() -> None:
    assert not perlin_shapes(torch.zeros(3, 32, 32, dtype=torch.bool), tries=3).any()


def test_shuffling_keeps_the_tiles_and_their_pixels() -> None:
    """Tiles of one value each stay so, and the margin that 16 tiles leave stays in place."""
    torch.manual_seed(0)
    size = 16 * 4 + 3
    image = torch.rand(2, 3, 16, 16).repeat_interleave(4, 2).repeat_interleave(4, 3)
    image = torch.nn.functional.pad(image, (0, 3, 0, 3), value=0.5)
    mixed = shuffled(image)
    assert mixed.shape == (2, 3, size, size)
    tiles = mixed[..., :64, :64].unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    assert torch.equal(tiles, tiles[..., :1].expand_as(tiles))
    assert float(mixed.min()) >= 0
    assert float(mixed.max()) <= 1
    assert not torch.equal(mixed, image)
    margin = mixed[..., 64:, :]
    assert torch.equal(margin, margin[..., :1, :1].expand_as(margin))


def test_without_changes_of_colour_the_tiles_are_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Black and white pictures of 0 and 1 in equal parts have tiles of both, wherever they went."""
    torch.manual_seed(0)
    image = (torch.arange(32)[:, None] % 2).float().expand(1, 3, 32, 32)
    for _ in range(5):
        mixed = shuffled(image)
        assert torch.equal(mixed[0, :, 0::2, :1].expand(3, 16, 32), mixed[0, :, 0::2])


def test_matter_lies_within_its_shape_at_half_or_more() -> None:
    torch.manual_seed(0)
    image, matter = torch.zeros(8, 3, 16, 16), torch.ones(8, 3, 16, 16)
    shape = torch.zeros(8, 16, 16, dtype=torch.bool)
    shape[:, 4:9, 2:7] = True
    both = blended(image, matter, shape)
    assert float(both[~shape[:, None].expand_as(both)].max()) == 0
    inside = both[shape[:, None].expand_as(both)].reshape(8, -1)
    assert torch.equal(inside, inside[:, :1].expand_as(inside))
    assert ((inside[:, 0] >= 0.5) & (inside[:, 0] <= 1)).all()
    assert len(inside[:, 0].unique()) == 8


def test_nine_of_ten_images_are_changed_and_only_where_it_is_said() -> None:
    """Of 200 images 180 are expected; outside 160 to 195 by chance less than once in 2,000 times."""
    torch.manual_seed(0)
    image = torch.rand(200, 3, 32, 32)
    on = torch.ones(200, 32, 32, dtype=torch.bool)
    changed, shape = synthetic_anomalies(image, on, synthetic_textures, shuffle=True)
    assert 160 <= int(shape.flatten(1).any(1).sum()) <= 195
    assert not ((changed != image).any(1) & ~shape).any()
    assert float((changed != image).any(1)[shape].float().mean()) > 0.95


def test_perturbed_images_stay_images_and_some_are_untouched() -> None:
    """Untouched are 0.7 x 0.7 of them, 98 of 200; outside 65 to 130 by chance less than once in 10,000 times."""
    torch.manual_seed(0)
    image = 0.2 + 0.5 * torch.rand(200, 3, 16, 16)
    changed = perturbed(image)
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    same = (changed == image).flatten(1).all(1)
    assert 65 <= int(same.sum()) <= 130
    assert float((changed / image)[(changed > 0) & (changed < 0.9)].max()) < 1.101


# Textures


def folder_of_textures(root: Path) -> Path:
    for i, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        path = root / f"kind{i}" / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (20 + i, 30), colour).save(path)
    return root


def test_textures_of_a_folder_are_drawn_at_random(tmp_path: Path) -> None:
    textures = TextureFolder(folder_of_textures(tmp_path))
    assert len(textures.paths) == 3
    torch.manual_seed(0)
    drawn = textures.draw(40, 16, CPU)
    assert drawn.shape == (40, 3, 16, 16)
    colours = {tuple(picture[:, 3, 3].round().int().tolist()) for picture in drawn}
    assert colours == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no images"):
        TextureFolder(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        TextureFolder(tmp_path / "nowhere")


def test_a_broken_texture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        TextureFolder(tmp_path).draw(1, 16, CPU)
