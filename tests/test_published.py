"""Published figures: every file is whole, agrees with rows copied by hand, and differences of setting are said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest

from blemish.benchmark.protocols import protocols
from blemish.benchmark.published import (
    DATASETS,
    MEAN,
    METRICS,
    PublishedFigure,
    comparability,
    published_figures,
    read_figures,
)
from blemish.benchmark.summary import Comparison, Summary
from blemish.errors import DataError, UsageError

FILES = sorted(
    (file for file in (files("blemish.benchmark") / "published_figures").iterdir() if file.name.endswith(".toml")),
    key=lambda file: file.name,
)
OF_ADER = (
    *("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"),
    *("best_iou", "mad"),
)


def one(**wanted: Any) -> PublishedFigure:
    """The only figure with these values."""
    filters = {
        name: wanted.pop(name) for name in ("method", "dataset", "protocol", "metric", "category") & wanted.keys()
    }
    found = [
        figure
        for figure in published_figures(**filters)
        if all(value in getattr(figure, name) for name, value in wanted.items())
    ]
    assert len(found) == 1, found
    return found[0]


# The files


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_figure_is_whole(file: Any) -> None:
    for figure in read_figures(file.read_text("utf-8"), file.name):
        assert figure.source
        assert figure.title
        assert figure.method == figure.method.lower()
        assert figure.metric in METRICS
        assert figure.value > 0 if figure.metric == "fps" else 0 <= figure.value <= 1
        assert figure.category == MEAN or figure.category in DATASETS[figure.dataset].categories
        assert figure.image_size is None or 128 <= figure.image_size <= 1024
        assert figure.protocol == "contaminated" or (figure.ratio, figure.overlap) == (None, None)
        assert not any(field and ("{" in field or field != field.strip()) for field in (figure.variant, figure.caveat))


def test_no_figure_is_there_twice_in_two_files() -> None:
    keys = [figure.key for figure in published_figures()]

    assert len(set(keys)) == len(keys) > 3000


def test_a_printed_mean_is_the_mean_of_its_categories_or_has_a_caveat() -> None:
    """What a wrong digit in a copied table would break."""
    tables: dict[tuple[object, ...], dict[str, PublishedFigure]] = defaultdict(dict)
    for figure in published_figures():
        tables[replace(figure, category="", value=0.0, caveat="").key][figure.category] = figure
    checked = 0
    for table in tables.values():
        mean = table.pop(MEAN, None)
        if table:
            n_categories = DATASETS[next(iter(table.values())).dataset].n_categories
            assert len(table) == n_categories
        if table and mean:
            checked += 1
            own = sum(figure.value for figure in table.values()) / len(table)
            assert (abs(own - mean.value) > 0.001) == ("mean of its own categories" in mean.caveat), mean
    assert checked > 40


# Rows copied by hand from the sources


@pytest.mark.parametrize(
    ("method", "dataset", "epochs", "row"),
    [
        ("rd", "mvtec-ad", 100, (93.6, 97.2, 95.6, 95.8, 48.2, 53.6, 91.2, 37.0, 82.2)),
        ("rd++", "visa", 100, (93.9, 94.7, 90.2, 98.4, 42.3, 46.3, 91.9, 31.2, 79.7)),
        ("cflow", "real-iad", 100, (77.0, 75.8, 69.9, 94.8, 17.6, 21.7, 80.4, 12.4, 62.5)),
        ("uniad", "btad", 100, (94.8, 98.3, 94.2, 97.2, 50.3, 53.8, 78.8, 36.9, 81.1)),
        ("patchcore", "mpdd", 100, (94.6, 96.9, 93.4, 98.9, 46.1, 47.6, 95.7, 35.0, 81.9)),
        ("destseg", "mvtec-loco", 100, (77.9, 86.7, 81.3, 64.1, 35.2, 30.5, 53.4, 20.3, 61.3)),
        ("rd", "mvtec-ad", 300, (90.5, 95.0, 95.1, 95.9, 47.1, 52.1, 91.2, 35.8, 81.0)),
        ("destseg", "visa", 300, (89.0, 90.3, 85.9, 84.8, 43.3, 44.4, 57.5, 30.1, 70.7)),
        ("patchcore", "mvtec-ad", 300, (98.8, 99.5, 98.4, 98.3, 59.9, 61.0, 94.2, 44.9, 88.6)),
    ],
)
def test_ader_as_printed(method: str, dataset: str, epochs: int, row: Sequence[float]) -> None:
    found = [
        figure
        for figure in published_figures(method, dataset, "one-for-all")
        if "ADer" in figure.source and figure.variant == f"{epochs} epochs"
    ]

    assert {figure.metric: figure.value for figure in found} == pytest.approx(
        {metric: value / 100 for metric, value in zip(OF_ADER, row, strict=True)}
    )


def test_aders_mad_is_the_mean_of_its_seven_or_has_a_caveat() -> None:
    """Four 300-epoch rows of PatchCore print more than they have."""
    rows: dict[tuple[str, str, str], dict[str, PublishedFigure]] = defaultdict(dict)
    for figure in published_figures(protocol="one-for-all"):
        if "ADer" in figure.source:
            rows[figure.method, figure.dataset, figure.variant][figure.metric] = figure
    odd = set()
    for key, row in rows.items():
        own = sum(row[metric].value for metric in OF_ADER[:7]) / 7
        wrong = abs(own - row["mad"].value) > 0.0006
        assert wrong == ("mean of its own seven" in row["mad"].caveat), key
        if wrong:
            odd.add(key)

    assert len(rows) == 92 + 78
    assert odd == {("patchcore", d, "300 epochs") for d in ("mvtec-ad", "mvtec-loco", "btad", "mpdd")}


def test_other_sources_as_printed() -> None:
    contaminated = published_figures("softpatch", "mvtec-ad", "contaminated", "pixel_auroc", "transistor", ratio=0.1)
    assert [(figure.value, figure.overlap) for figure in contaminated] == [(0.9064, False)]
    assert [f.value for f in published_figures("rd", "real-iad", "contaminated", "image_auroc", ratio=0.4)] == [0.845]
    assert [f.value for f in published_figures("llbnad", ratio=0.0)] == [0.934, 0.959]
    assert one(method="fcd", dataset="cifar-10", category="bird").value == 0.945
    assert one(method="fcd", dataset="cifar-10", category="bird").protocol == "semantic"
    assert one(method="mkd", dataset="mvtec-ad").value == 0.877
    assert one(method="borad", dataset="real-iad").value == 0.731
    assert one(method="cpr-fast", metric="fps").value == 245
    assert one(method="patchcore", metric="fps").value == 5.8
    assert one(method="cdo", category="screw", metric="aupro", selection="last step").value == 0.9654
    assert one(method="rd", category="cable", metric="image_auroc").value == 0.966
    assert one(method="efficientad", dataset="visa", variant="M, paper").value == 0.981
    assert one(method="spade", category=MEAN, metric="image_auroc", variant="5 neighbours").value == 0.854
    assert one(method="stpm", category="tile", metric="aupro").value == 0.896640
    assert one(method="fastflow", category="screw", variant="best epoch, WRN50").value == 0.987
    assert one(method="fastflow", category="screw", variant="last epoch, WRN50").value == 0.969
    assert one(method="inreach", metric="pixel_auroc").value == 0.968
    assert one(method="uniad", metric="image_auroc", variant="1 GPU").value == 0.976


def test_only_known_protocols_and_metrics_can_be_asked_for() -> None:
    assert published_figures("no such method") == published_figures(dataset="my own") == ()
    with pytest.raises(UsageError, match="auroc: no such metric"):
        published_figures(metric="auroc")
    with pytest.raises(UsageError, match="mixed: no such protocol"):
        published_figures(protocol="mixed")


# The form of a file

FILE = """
source = "somebody @1234567, README.md"
protocol = "one-class"
dataset = "mvtec-ad"
variant = "2024"
per_cent = true
caveats = [{ metric = "pixel_ap", category = "bottle", says = "odd" }]

[methods]
rd    = { title = "RD", image_size = 256 }
small = { method = "efficientad", title = "EfficientAD-S", variant = "S" }

[[tables]]
table = "table 1"
metric = "image_auroc"
image_size = 224
rows = "category"
columns = "method"
heads = ["rd", "small"]
values = { bottle = [99.5, "-"], mean = [90, 91.25] }

[[tables]]
of = "rd"
category = "bottle"
per_cent = false
rows = "dataset"
columns = "metric"
heads = ["pixel_ap", "fps"]
values = { mvtec-ad = [0.5, 12.5] }
"""


def test_a_file_expands_into_figures() -> None:
    figures = read_figures(FILE, "a.toml")

    assert [(f.method, f.category, f.metric, f.value) for f in figures] == [
        ("rd", "bottle", "image_auroc", 0.995),
        ("rd", "mean", "image_auroc", 0.9),
        ("efficientad", "mean", "image_auroc", 0.9125),
        ("rd", "bottle", "pixel_ap", 0.5),
        ("rd", "bottle", "fps", 12.5),
    ]
    assert [f.variant for f in figures] == ["2024", "2024", "2024, S", "2024", "2024"]
    assert [f.image_size for f in figures] == [256, 256, 224, 256, 256]  # a method's own decides
    assert [f.caveat for f in figures] == ["", "", "", "odd", ""]
    assert {f.source for f in figures[:3]} == {"somebody @1234567, README.md, table 1"}
    assert figures[3].source == "somebody @1234567, README.md"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("99.5", "101", r"table 1, bottle, rd: 101 is not in \[0, 100\]"),
        ("0.5, 12.5", "1.5, 12.5", r"1.5 is not in \[0, 1\]"),
        ("0.5, 12.5", "0.5, 0", "fps 0 is not positive"),
        ("99.5", "nan", "not a number: nan"),
        ("99.5", "'99.5'", "not a number: '99.5'"),
        ('metric = "image_auroc"', 'metric = "auroc"', r"no such metric: auroc \(image_auroc, "),
        ('heads = ["pixel_ap", "fps"]', 'heads = ["pixel_ap", "speed"]', "no such metric: speed"),
        ('dataset = "mvtec-ad"', 'dataset = "mvtec"', "no such dataset: mvtec"),
        ('protocol = "one-class"', 'protocol = "one"', "no such protocol: one"),
        ("bottle = [", "botle = [", "MVTec AD has no category botle"),
        ('source = "somebody @1234567, README.md"', 'source = ""', "without source"),
        ('title = "RD", ', "", "without title"),
        ('heads = ["rd", "small"]', 'heads = ["rd", "large"]', "no such method: large"),
        ("[90, 91.25]", "[90]", "row mean has 1 values for 2 heads"),
        ('columns = "method"', 'columns = "category"', "rows and columns are two of"),
        ('variant = "2024"', 'varient = "2024"', "a.toml: unknown: varient"),
        ('variant = "S"', 'colour = "S"', "method small: unknown: colour"),
        ('category = "bottle", says', 'colour = "bottle", says', "caveat: unknown: colour"),
        ('variant = "2024"', "ratio = 0.1", "ratio and overlap belong to the protocol contaminated"),
        ("[methods]", "[methods", "not TOML"),
    ],
)
def test_a_file_that_is_wrong_says_so(old: str, new: str, complaint: str) -> None:
    assert old in FILE
    with pytest.raises(DataError, match=complaint):
        read_figures(FILE.replace(old, new), "a.toml")


def test_the_same_figure_twice_is_an_error() -> None:
    with pytest.raises(DataError, match="table 2: rd 2024 bottle pixel_ap is there twice"):
        read_figures(FILE.replace('"fps"', '"pixel_ap"').replace("12.5", "0.6"), "a.toml")
    with pytest.raises(DataError, match="it has no figures"):
        read_figures("source = 'x'", "a.toml")


# Fair or not

FIGURE = PublishedFigure(
    method="rd",
    title="RD",
    dataset="btad",
    protocol="one-class",
    metric="image_auroc",
    value=0.9,
    source="somebody",
    teacher="wide_resnet50_2.racm_in1k",
    image_size=256,
    selection="last step",
    masks="full size",
)
MEASURED: dict[str, Any] = {
    "teacher": "wide_resnet50_2.racm_in1k",
    "image_size": 256,
    "categories": ("01", "02", "03"),
    "protocol": "one-class",
    "metric": "image_auroc",
    "held_out_share": 0.0,
}


@pytest.mark.parametrize(
    ("published", "measured", "phrases"),
    [
        ({}, {}, ["same setting"]),
        ({}, {"teacher": "resnet50_v1"}, ["other teacher: wide_resnet50_2.racm_in1k"]),
        ({}, {"teacher": "wide_resnet50_2"}, ["teacher's weights may differ: wide_resnet50_2.racm_in1k"]),
        ({"teacher": None}, {}, ["teacher not stated"]),
        ({"teacher": "none"}, {"teacher": None}, ["same setting"]),
        ({}, {"image_size": 224}, ["256 px, here 224 px"]),
        ({"image_size": None}, {}, ["image size not stated"]),
        ({}, {"categories": ("01",)}, ["mean over 3 categories, here 1"]),
        ({"category": "02"}, {"categories": ("02",)}, ["same setting"]),
        ({"category": "02"}, {"categories": ("02", "03")}, ["02 alone, here 02, 03"]),
        ({}, {"protocol": "one-for-all"}, ["one-class, here one-for-all"]),
        ({}, {"held_out_share": 0.2}, ["trained on 80 % of the images"]),
        ({"held_out_share": 0.2}, {"held_out_share": 0.2}, ["same setting"]),
        ({"held_out_share": 0.1}, {"held_out_share": 0.2}, ["trained on 80 % of the images, published on 90 %"]),
        ({"selection": "best epoch on test"}, {}, ["best epoch on test"]),
        ({"selection": "unknown"}, {}, ["choice of the epoch not stated"]),
        ({"selection": "validation"}, {}, ["same setting"]),
        ({"caveat": "odd"}, {}, ["odd"]),
        ({"masks": "shrunk"}, {}, ["same setting"]),  # no masks in I-AUROC
        ({"metric": "aupro", "masks": "shrunk"}, {"metric": "aupro"}, ["masks shrunk to 256 px, here full size"]),
        ({"metric": "mad", "masks": "unknown"}, {"metric": "mad"}, ["size of masks not stated"]),
        ({"metric": "pro_per_image"}, {"metric": "aupro"}, ["PRO per image, here over all images"]),
        ({"metric": "pro_per_image"}, {"metric": "pro_per_image"}, ["same setting"]),
        ({"metric": "fps", "value": 9.0}, {"metric": "fps"}, ["other machine"]),
        (
            {"protocol": "contaminated", "ratio": 0.1, "overlap": False},
            {"protocol": "contaminated", "ratio": 0.2, "overlap": True},
            ["contamination 0.1, here 0.2", "without overlap, here with"],
        ),
        (
            {"protocol": "contaminated", "note": "40 images"},
            {"protocol": "contaminated", "ratio": 0.2, "overlap": True},
            ["contamination not stated as a ratio: 40 images", "overlap with the test not stated"],
        ),
        (
            {"selection": "best epoch on test"},
            {"image_size": 320, "held_out_share": 0.2},
            ["trained on 80 % of the images", "256 px, here 320 px", "best epoch on test"],
        ),
    ],
)
def test_what_differs_is_said(published: dict[str, Any], measured: dict[str, Any], phrases: list[str]) -> None:
    assert comparability(replace(FIGURE, **published), **{**MEASURED, **measured}) == phrases


def test_figures_of_another_kind_are_not_compared() -> None:
    with pytest.raises(ValueError, match="image_auroc is not to be compared with pixel_auroc"):
        comparability(FIGURE, **{**MEASURED, "metric": "pixel_auroc"})


def test_every_published_figure_can_be_compared() -> None:
    ours = {"pro_per_image": "aupro"}
    for figure in published_figures():
        phrases = comparability(figure, **{**MEASURED, "metric": ours.get(figure.metric, figure.metric)})
        assert phrases
        assert all(phrases)


def test_a_narrow_terminal_shows_what_differs_once_and_in_whole_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column for it would have room for a syllable a line."""
    monkeypatch.setenv("COLUMNS", "80")
    differences = ("trained on 80 % of the images", "other teacher: wide_resnet50_2")
    comparisons = [Comparison("", "mean", metric, 0.99, FIGURE, differences) for metric in ("image_auroc", "aupro")]
    comparisons.append(Comparison("", "mean", "image_auroc", 0.9, replace(FIGURE, source="another"), ()))
    Summary((), protocols()["one-class"], (), tuple(comparisons), (), ()).print()
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= 80
    text = " ".join(shown.split())
    assert text.count("1 somebody; what differs: trained on 80 % of the images; other teacher: wide_resnet50_2") == 1
    assert "2 another; what differs: nothing that is known" in text
    assert [line.split("│")[-2].strip() for line in shown.splitlines() if line.startswith("│")] == ["1", "1", "2"]
