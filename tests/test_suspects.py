"""Suspects: the rule, the page, and what a training says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish.assembly import train
from blemish.cli.info import summary
from blemish.methods import find_method
from blemish.modelfile import SeenImage, Suspicion, SuspiciousImage, open_model_file
from blemish.suspects import (
    SUSPECT,
    Shown,
    in_one_line,
    judge,
    page_beside,
    warning,
    worth_showing,
    write_page_of_suspects,
)
from factories import make_manifest
from tiny import make_parts, settings_for
from tiny import one_thread as one_thread  # applies to this module

# The rule.


def test_the_rule_by_hand() -> None:
    # Logarithms 0, 1, 2, 3, 10: median 2, median absolute deviation 1.
    ruling = judge(np.exp([0.0, 1, 2, 3, 10]).tolist())

    assert ruling.z.tolist() == pytest.approx([-2 / 1.4826, -1 / 1.4826, 0, 1 / 1.4826, 8 / 1.4826])
    assert ruling.suspect.tolist() == [False] * 4 + [True]
    assert ruling.limit == pytest.approx(np.exp(2 + SUSPECT * 1.4826))


@pytest.mark.parametrize("bad", [0, 20, 50])
def test_the_limit_is_where_suspects_begin(bad: int) -> None:
    rng = np.random.default_rng(bad)
    scores = np.exp(rng.normal(0, 0.3, 200) + 3.0 * (np.arange(200) < bad))
    ruling = judge(scores.tolist())

    assert (ruling.suspect == (scores > ruling.limit)).all()
    # Ten deviations away, and a quarter of the images at most: all are found.
    assert ruling.suspect[:bad].all()


@pytest.mark.parametrize(("draw", "share"), [("normal", 1 / 740), ("gumbel", 1 / 44)])
def test_good_images_are_listed_as_often_as_it_says(draw: str, share: float) -> None:
    rng = np.random.default_rng(1)
    scores = np.exp(getattr(rng, draw)(size=200_000))

    # Five standard errors of a share.
    assert judge(scores.tolist()).suspect.mean() == pytest.approx(share, abs=5 * (share / 200_000) ** 0.5 + share / 20)


def test_the_unit_of_the_scores_does_not_matter() -> None:
    scores = np.random.default_rng(2).gumbel(5, 1, 50)

    assert judge((1000 * scores).tolist()).z == pytest.approx(judge(scores.tolist()).z)
    assert judge((1000 * scores).tolist()).limit == pytest.approx(1000 * judge(scores.tolist()).limit)


def test_small_differences_make_no_suspect() -> None:
    ruling = judge([1.0] * 20 + [1.3])  # logarithm 0.26, and 0.1 is the least deviation

    assert not ruling.suspect.any()
    assert judge([1.0] * 20 + [1.5]).suspect.tolist() == [False] * 20 + [True]


# The page.


def suspicion(scores: dict[str, float], limit: float = 1.0) -> Suspicion:
    rows = [SuspiciousImage(path=n, score=s, z=5 * s, suspect=s > limit) for n, s in scores.items()]
    return Suspicion(limit=limit, images=tuple(rows))


def test_what_is_shown_is_the_most_suspicious_first() -> None:
    some = suspicion({f"{i:03}.png": i / 100 for i in range(200)})

    shown = [image.path for image in worth_showing(some)]
    assert shown == [f"{i:03}.png" for i in [*range(199, 151, -1), *range(100, 94, -1)]]


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ([0.1, 0.2], "None of 2 images is a suspect."),
        ([2.0], "1 of 1 image is a suspect."),
        ([0.1, 2.0, 3.0], "2 of 3 images are suspects."),
    ],
)
def test_how_many_in_one_line(scores: list[float], line: str) -> None:
    assert in_one_line(suspicion({str(i): score for i, score in enumerate(scores)})) == line


def test_the_page_names_shows_and_lists(tmp_path: Path) -> None:
    names = ["<b>.png", *(f"{i:02}.png" for i in range(60))]
    some = suspicion({name: 2.0 - i / 100 for i, name in enumerate(names)} | {"calm.png": 0.5})
    images = tuple(
        SeenImage(path=name, sha256="0" * 64, role="calibration" if name == "03.png" else "train")
        for name in [*names, "calm.png"]
    )
    training = make_manifest().training.model_copy(update={"images": images})
    hot = np.zeros((30, 40), np.float32)
    hot[5:10, 5:10] = 2
    shown = [Shown(one, np.full((30, 40, 3), 200, np.uint8), hot) for one in worth_showing(some)]
    write_page_of_suspects(tmp_path / "page.html", training, some, shown)

    page = (tmp_path / "page.html").read_text("utf-8")
    assert "61 of 62 images are suspects." in page
    assert "&lt;b&gt;.png" in page
    assert "<b>.png" not in page
    assert page.count('alt="Map of') == page.count('alt="Image of') == 48 + 1
    assert "13 more" in page
    assert all(name in page for name in names[1:])
    assert "1 suspect among them: images that calibrate" in page.replace("\n", " ")
    assert "z = 9.8, calibration" in page
    meaning = warning(some, training)
    assert meaning is not None
    assert meaning.startswith("1 suspect among the images that calibrate: if bad parts are among them, the threshold")


def test_suspects_that_only_train_need_no_warning() -> None:
    some = suspicion({"bad.png": 2.0, "good.png": 0.5})
    seen = [SeenImage(path="bad.png", sha256="0" * 64, role="train")]
    seen += [SeenImage(path="good.png", sha256="0" * 64, role="calibration")]
    training = make_manifest().training.model_copy(update={"images": tuple(seen)})
    assert warning(some, training) is None


# A training.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A model file, and what was said."""
    root = tmp_path_factory.mktemp("suspects")
    source = make_parts(root / "parts", 11)
    said: list[str] = []

    class Listens:
        def say(self, text: str) -> None:
            said.append(text)

        def warn(self, text: str) -> None:
            said.append(text)

        def progress(self, stage: str, done: float, note: str = "") -> None:
            pass

    out = root / "part.blemish"
    train(source, out, method="cdd", settings=settings_for(find_method("cdd")), device="cpu", listener=Listens())
    return out, said


def test_every_image_has_its_place(trained: tuple[Path, list[str]]) -> None:
    manifest = open_model_file(trained[0]).manifest

    assert manifest.suspicion is not None
    roles = {image.path: image.role for image in manifest.training.images}
    paths = [image.path for image in manifest.suspicion.images]
    assert sorted(paths) == sorted(roles)
    ruling = judge([image.score for image in manifest.suspicion.images])
    assert [image.z for image in manifest.suspicion.images] == ruling.z.tolist()
    assert [image.suspect for image in manifest.suspicion.images] == ruling.suspect.tolist()
    assert manifest.suspicion.limit == ruling.limit


def test_it_is_said_and_shown(trained: tuple[Path, list[str]]) -> None:
    out, said = trained
    manifest = open_model_file(out).manifest

    assert manifest.suspicion is not None
    page = page_beside(out)
    assert page.name == "part.suspects.html"
    meaning = warning(manifest.suspicion, manifest.training)
    assert said[-1 - bool(meaning)] == f"{in_one_line(manifest.suspicion)} The most suspicious are shown in {page}."
    assert not meaning or said[-1] == meaning
    shown = worth_showing(manifest.suspicion)
    text = page.read_text("utf-8")
    assert all(f'alt="Map of {image.path}"' in text for image in shown)
    facts = summary(out, manifest)
    assert len(facts["suspects"]) == len(manifest.suspicion.suspects)


def test_other_methods_name_none(tmp_path: Path) -> None:
    settings = settings_for(find_method("padim")) | {"features": 10}
    detector = train(make_parts(tmp_path / "p", 6), tmp_path / "p.blemish", method="padim", settings=settings)

    assert detector.manifest is not None
    assert detector.manifest.suspicion is None
    assert not page_beside(tmp_path / "p.blemish").exists()
    assert summary(tmp_path / "p.blemish", detector.manifest)["suspects"] is None


def test_a_page_of_the_detector_that_was_there_before_goes(tmp_path: Path) -> None:
    page_beside(tmp_path / "p.blemish").write_text("suspects of another training")

    settings = settings_for(find_method("padim")) | {"features": 10}
    train(make_parts(tmp_path / "parts", 6), tmp_path / "p", method="padim", settings=settings)

    assert not page_beside(tmp_path / "p.blemish").exists()
