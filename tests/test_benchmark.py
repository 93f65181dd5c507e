from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blemish.benchmark import running
from blemish.benchmark.protocols import Protocol, open_protocol, protocols, tasks
from blemish.benchmark.published import published_figures
from blemish.benchmark.results import ResultsFile, Row, write_csv
from blemish.benchmark.running import Options, locked, run, shown_samples
from blemish.benchmark.summary import Summary
from blemish.benchmark.survey import survey_lines
from blemish.benchmark.tables import Cell, markdown, tables
from blemish.cli.app import app
from blemish.data import Dataset, open_categories, open_dataset
from blemish.errors import DataError, TrainingError, UsageError
from blemish.runtime.graph import installed_runtimes
from tiny import make_parts, one_thread  # noqa: F401  (the fixture of this module)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def category(root: Path, name: str, train: int = 20, bad: int = 6) -> Dataset:
    """Names of images only: protocols open none."""
    sizes = {"train/good": train, "test/good": 3, "test/bent": bad // 2, "test/cut": bad - bad // 2}
    for folder, count in sizes.items():
        for number in range(count):
            path = root / name / folder / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return open_dataset(root / name)


def names(dataset: Dataset) -> set[str]:
    return {sample.path.relative_to(dataset.root).as_posix() for sample in dataset.samples}


# Protocols


def test_one_class_trains_each_category_on_its_good_images(tmp_path: Path) -> None:
    category(tmp_path, "cap")
    category(tmp_path, "nut", train=10)
    (tmp_path / "cap/train/torn").mkdir()
    (tmp_path / "cap/train/torn/000.png").write_bytes(b"")

    cap, nut = tasks(open_protocol("one-class"), open_categories(tmp_path), 0, tmp_path / "draws")

    assert (cap.name, nut.name) == ("cap", "nut")
    assert len(cap.train.samples) == 20
    assert {sample.kind for sample in cap.train.samples} == {"good"}
    assert {sample.split for sample in cap.train.samples} == {"train"}
    assert len(cap.tests["cap"].samples) == 9
    assert not (tmp_path / "draws").exists()


def test_one_for_all_mixes_all_and_judges_each(tmp_path: Path) -> None:
    category(tmp_path, "cap")
    category(tmp_path, "nut", train=10)

    (task,) = tasks(open_protocol("one-for-all"), open_categories(tmp_path), 0, tmp_path / "draws")

    assert task.name == "all"
    assert len(task.train.samples) == 30
    assert {name: len(test.samples) for name, test in task.tests.items()} == {"cap": 9, "nut": 9}
    assert all(sample.category == "nut" for sample in task.tests["nut"].samples)


@pytest.mark.parametrize("overlap", [False, True])
def test_contamination_takes_int_of_ratio_times_n(tmp_path: Path, overlap: bool) -> None:
    category(tmp_path, "cap")
    protocol = Protocol(name="p", kind="contaminated", ratios=(0.0, 0.09, 0.2), overlap=overlap)

    clean, little, more = tasks(protocol, open_categories(tmp_path), 0, tmp_path / "draws")

    assert [len(task.drawn) for task in (clean, little, more)] == [0, 1, 4]
    assert more.drawn[:1] == little.drawn
    assert names(more.train) - names(clean.train) == set(more.drawn)
    assert {sample.label for sample in more.train.samples} == {None}
    assert {sample.split for sample in more.train.samples} == {"train"}
    left = names(more.tests["cap"]) & set(more.drawn)
    assert left == (set(more.drawn) if overlap else set())
    assert len(more.tests["cap"].samples) == (9 if overlap else 5)
    assert (clean.setting, more.setting) == ("0%", "20%")


def test_a_draw_is_written_down_and_used_again(tmp_path: Path) -> None:
    category(tmp_path, "cap")
    datasets = open_categories(tmp_path / "cap")
    protocol = Protocol(name="p", kind="contaminated", ratios=(0.2,))
    draws = tmp_path / "draws"

    (first,) = tasks(protocol, datasets, 0, draws)
    (other,) = tasks(protocol, datasets, 1, draws)
    written = json.loads((draws / "cap-seed0.json").read_text())
    # Somebody else's draw, such as one that was published.
    written["order"].reverse()
    (draws / "cap-seed0.json").write_text(json.dumps(written))
    (again,) = tasks(protocol, datasets, 0, draws)

    assert set(first.drawn) != set(other.drawn)
    assert again.drawn == tuple(written["order"][:4])
    (tmp_path / "cap/test/cut/002.png").unlink()
    with pytest.raises(DataError, match="other anomalous test images"):
        tasks(protocol, open_categories(tmp_path / "cap"), 0, draws)


@pytest.mark.parametrize(("overlap", "possible"), [(False, False), (True, True)])
def test_more_contamination_than_there_are_anomalies_is_said(tmp_path: Path, overlap: bool, possible: bool) -> None:
    category(tmp_path, "cap", train=30)
    protocol = Protocol(name="p", kind="contaminated", ratios=(0.2,), overlap=overlap)

    (task,) = tasks(protocol, open_categories(tmp_path / "cap"), 0, tmp_path / "draws")

    assert (task.impossible == "") is possible
    if not possible:
        assert task.impossible.startswith("20% of 30 are 6 anomalous images, and 6 are there")


def test_semantic_takes_each_class_in_turn_or_sets_of_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for kind in ("cat", "dog", "owl"):
            for number in range(4):
                path = tmp_path / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
    lines = [f"{p.relative_to(tmp_path)},{p.parent.name},{p.parts[-3]}" for p in tmp_path.rglob("*.png")]
    (tmp_path / "animals.csv").write_text("image_path,label,split\n" + "\n".join(lines))
    datasets = open_categories(tmp_path / "animals.csv")

    each = tasks(open_protocol("semantic"), datasets, 0, tmp_path)
    pets = Protocol(name="p", kind="semantic", normal={"pets": ("cat", "dog")}, train_images=3, test_images=1)
    (together,) = tasks(pets, datasets, 0, tmp_path)

    assert [task.name for task in each] == ["cat", "dog", "owl"]
    assert len(each[0].train.samples) == 4
    assert sum(sample.label == "anomalous" for sample in each[0].tests["cat"].samples) == 8
    assert len(together.train.samples) == 6
    assert {sample.label for sample in together.train.samples} == {"normal"}
    assert sorted(s.label or "" for s in together.tests["pets"].samples) == ["anomalous", "normal", "normal"]
    with pytest.raises(DataError, match="there is no class 'cow'"):
        tasks(Protocol(name="p", kind="semantic", normal={"c": ("cow",)}), datasets, 0, tmp_path)


def test_the_protocols_that_come_along() -> None:
    known = protocols()
    cifar = known["semantic-cifar-100"].normal

    assert {"one-class", "one-for-all", "contaminated", "contaminated-overlap", "semantic"} <= known.keys()
    assert len(cifar) == 20
    assert len({kind for kinds in cifar.values() for kind in kinds}) == 100
    assert len({protocol.fingerprint for protocol in known.values()}) == len(known)


def test_a_protocol_is_data(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nkind: contaminated\nratios: [0.1]\ndescription: Ours.\n")

    mine = open_protocol(str(file))

    assert mine.ratios == (0.1,)
    assert mine.fingerprint == Protocol(name="other", kind="contaminated", ratios=(0.1,)).fingerprint
    assert mine.fingerprint != Protocol(name="mine", kind="contaminated", ratios=(0.1,), overlap=True).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nkind: one-class\nvalidation: test", "nothing is chosen or calibrated on test images"),
        ("name: a\nkind: one-clas", "kind: Input should be 'one-class'"),
        ("name: a\nkind: contaminated", "it needs ratios"),
        ("name: a\nkind: contaminated\nratios: [1.5]", "ratios lie between 0 and 1"),
        ("name: a\nkind: one-class\nratios: [0.5]", "belong to the kind contaminated"),
        ("name: a\nkind: one-class\ntune: test", "tune: Extra inputs are not permitted"),
        ("- a", "it is not a mapping"),
        ("a: [", "it is not YAML"),
    ],
)
def test_a_wrong_protocol_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)

    with pytest.raises(UsageError, match=message):
        open_protocol(str(file))


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean one-class"):
        open_protocol("oneclass")
    with pytest.raises(UsageError, match="cannot be read"):
        open_protocol(str(tmp_path / "none.yaml"))


# Results


def row(method: str = "rd", category: str = "bottle", seed: int = 0, setting: str = "", **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "task": category,
        "setting": setting,
        "category": category,
        "method": method,
        "seed": seed,
        "protocol": "one-class",
        "protocol_fingerprint": "p",
        "data_fingerprint": "d",
        "job": f"{category}{method}{seed}{setting}",
        "training": "t",
        "teacher": "wide_resnet50_2.tv_in1k",
        "preset": "paper",
        "image_size": 256,
        "values": {"image_auroc": 0.9, "pixel_auroc": None},
        "undefined": {"pixel_auroc": "no anomalous image has a mask"},
        "n_train": 80,
        "n_calibration": 20,
        "date": "2026-01-31",
    }
    return Row(**fields | changes)


def test_results_survive_a_line_that_was_cut_short(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path)
    results.add([row(seed=0)])
    results.add([row(seed=1), row(seed=2)])
    whole = results.path.read_bytes()
    results.path.write_bytes(whole[:-9])

    assert [one.seed for one in results.rows()] == [0, 1]
    results.add([row(seed=3)])

    assert [one.seed for one in ResultsFile(tmp_path).rows()] == [0, 1, 3]


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path)
    results.add([row()])
    results.path.write_text('{"a": 1}\n' + results.path.read_text())

    with pytest.raises(DataError, match=r"results.jsonl, line 1: this line is not a row"):
        results.rows()


def test_csv_has_a_line_for_each_row_and_a_column_for_each_metric(tmp_path: Path) -> None:
    import csv

    write_csv(tmp_path / "r.csv", [row(), row(seed=1, values={"iou": 0.5})])

    first, second = csv.DictReader((tmp_path / "r.csv").open())
    assert (first["image_auroc"], first["pixel_auroc"], first["iou"]) == ("0.9", "", "")
    assert (second["image_auroc"], second["iou"]) == ("", "0.5")
    assert json.loads(first["undefined"]) == {"pixel_auroc": "no anomalous image has a mask"}


# Tables


def test_mean_and_spread_by_hand() -> None:
    rows = [
        row(category=category, seed=seed, values={"image_auroc": value})
        for category, values in {"bottle": (0.9, 1.0, 0.8), "grid": (0.7, 0.6, 0.8)}.items()
        for seed, value in enumerate(values)
    ]

    (table,) = tables(rows, ["image_auroc"])

    cells = {line.category: line.cells[0] for line in table.lines}
    assert cells["bottle"].mean == pytest.approx(0.9)
    assert cells["bottle"].spread == pytest.approx(0.1)
    # The means over categories are 0.8 with every seed: the spread of the mean is none, not the mean of spreads.
    assert cells["mean"].mean == pytest.approx(0.8)
    assert cells["mean"].spread == pytest.approx(0, abs=1e-12)
    assert cells["bottle"].text("image_auroc") == "90.0 ± 10.0"
    assert Cell(123.4, None, 1).text("fps") == "123.4"


def test_what_is_undefined_is_a_dash_with_its_reason() -> None:
    rows = [row(category="bottle"), row(category="grid", values={"image_auroc": 0.8, "pixel_auroc": 0.5})]
    failed = row("padim", values={}, error="it would not train")

    pixel = tables([*rows, failed], ["pixel_auroc"])[0]
    text = markdown(pixel)

    assert "| bottle | – | – |" in text
    assert "| **mean** | **50.0 *** | **–** |" in text
    assert "bottle, rd: no anomalous image has a mask" in text
    assert "bottle, padim: it would not train" in text
    assert "mean, rd: without bottle" in text
    assert "mean, padim: undefined for every category" in text


def test_a_mean_over_what_was_run_is_marked() -> None:
    rows = [row(category="bottle"), row("padim", "bottle"), row("padim", "grid")]

    (table,) = tables(rows, ["image_auroc"])

    assert [cell.text("image_auroc") for cell in table.lines[-1].cells] == ["90.0 *", "90.0"]
    assert "mean, rd: without grid" in table.notes


def test_settings_make_lines_of_their_own() -> None:
    rows = [
        row(category=category, setting=setting, values={"image_auroc": value})
        for category, values in {"bottle": (0.9, 0.7), "grid": (0.5, 0.6)}.items()
        for setting, value in zip(("0%", "20%"), values, strict=True)
    ]

    (table,) = tables(rows, ["image_auroc"])

    assert [(line.name, line.cells[0].text("image_auroc")) for line in table.lines] == [
        ("bottle 0%", "90.0"),
        ("bottle 20%", "70.0"),
        ("grid 0%", "50.0"),
        ("grid 20%", "60.0"),
        ("mean 0%", "70.0"),
        ("mean 20%", "65.0"),
    ]
    assert "| | setting | rd |" in markdown(table)
    assert "| **mean** | **20%** | **65.0** |" in markdown(table)


# Beside published figures


def test_measured_figures_stand_beside_published_ones() -> None:
    bottle = [row(category="bottle", values={"image_auroc": 0.95})]

    summary = Summary.of(bottle, open_protocol("one-class"))

    published = published_figures(method="rd", dataset="mvtec-ad", protocol="one-class", metric="image_auroc")
    known = [figure for figure in published if figure.category == "bottle"]
    assert [one.published for one in summary.comparisons] == known
    assert known
    for one in summary.comparisons:
        assert one.difference == pytest.approx(0.95 - one.published.value)
        assert one.is_far is (abs(0.95 - one.published.value) > 0.02)
        assert "trained on 80 % of the images" in one.differences
        assert one.published.source in summary.markdown()


def test_a_mean_over_two_categories_is_not_passed_off_as_one_over_fifteen() -> None:
    rows = [row("patchcore", category, values={"image_auroc": 1.0}) for category in ("bottle", "grid")]

    comparisons = Summary.of(rows, open_protocol("one-for-all")).comparisons

    means = [one for one in comparisons if one.category == "mean"]
    assert means
    assert all("mean over 15 categories, here 2" in one.differences for one in means)
    assert all(one.published.protocol == "one-for-all" for one in comparisons)


def test_a_dataset_is_known_by_a_layout_of_its_own() -> None:
    clothes = [
        row("fcd", name, layout="fashion-mnist", protocol="semantic", values={"image_auroc": 0.95})
        for name in ("Bag", "Coat")
    ]

    comparisons = Summary.of(clothes, open_protocol("semantic")).comparisons

    assert {one.published.dataset for one in comparisons} == {"fashion-mnist"}
    assert all("mean over 10 categories, here 2" in one.differences for one in comparisons)


def test_contaminated_figures_stand_beside_figures_of_the_same_ratio() -> None:
    protocol = open_protocol("contaminated")
    rows = [row("patchcore", setting=setting) for setting in ("0%", "10%", "20%")]

    found = {(one.setting, one.published.protocol) for one in Summary.of(rows, protocol).comparisons}

    assert ("0%", "one-class") in found
    assert {protocol for setting, protocol in found if setting != "0%"} <= {"contaminated"}


# Runs


@pytest.fixture
def products(tmp_path: Path) -> Path:
    for number, name in enumerate(("cap", "nut")):
        root = tmp_path / "products" / name
        make_parts(root / "train/good", 12, first=100 * number)
        make_parts(root / "test/good", 3, first=100 * number + 50)
        make_parts(root / "test/stain", 3, first=100 * number + 60, defect=True)
    return tmp_path / "products"


OPTIONS = Options(
    methods=("padim",),
    protocol=open_protocol("one-class"),
    settings={"padim": {"image_size": 64, "features": 8}},
)


def test_a_killed_run_goes_on_where_it_was(products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    real = running.train

    def killed_at_the_second(source: Any, out: Path, **options: Any) -> Any:
        trained.append(source.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(source, out, **options)

    monkeypatch.setattr(running, "train", killed_at_the_second)
    datasets = open_categories(products)
    with pytest.raises(KeyboardInterrupt):
        run(datasets, OPTIONS, tmp_path / "out")
    assert [one.category for one in ResultsFile(tmp_path / "out").rows()] == ["cap"]

    rows = run(datasets, OPTIONS, tmp_path / "out")
    again = run(datasets, OPTIONS, tmp_path / "out")

    assert trained == ["cap", "nut", "nut"]
    assert [one.category for one in rows] == ["cap", "nut"]
    assert again == rows
    assert all(one.error == "" and one.values["image_auroc"] is not None for one in rows)
    assert (rows[0].n_normal, rows[0].n_anomalous) == (3, 3)
    assert rows[0].protocol_fingerprint == OPTIONS.protocol.fingerprint
    assert rows[0].n_train_and_calibration == 12
    assert not (tmp_path / "out/models").exists()


def test_contaminated_without_contamination_is_the_same_training(
    products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = open_categories(products / "cap")
    settings: dict[str, Any] = {"methods": ("padim",), "settings": OPTIONS.settings, "keep_models": True}
    contaminated = Protocol(name="c", kind="contaminated", ratios=(0.0, 0.2), overlap=True)
    (first,) = run(datasets, Options(protocol=OPTIONS.protocol, **settings), tmp_path / "out")
    counted: list[str] = []
    real = running.train
    monkeypatch.setattr(running, "train", lambda *a, **k: (counted.append("one"), real(*a, **k))[1])

    clean, more = run(datasets, Options(protocol=contaminated, **settings), tmp_path / "out")

    assert clean.values == first.values
    assert clean.train_seconds is None
    assert counted == ["one"]
    assert (more.contaminated_by, more.n_train) == (2, 14)
    assert more.n_anomalous == 3, "with overlap what slipped into training is judged all the same"


def test_a_training_that_fails_is_said_and_tried_again(
    products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = running.train

    def failing(source: Any, out: Path, **options: Any) -> Any:
        if source.name == "cap":
            raise TrainingError("the loss is nan")
        return real(source, out, **options)

    monkeypatch.setattr(running, "train", failing)
    datasets = open_categories(products)

    rows = run(datasets, OPTIONS, tmp_path / "out")
    monkeypatch.setattr(running, "train", real)
    healed = run(datasets, OPTIONS, tmp_path / "out")

    assert [one.error for one in rows] == ["the loss is nan", ""]
    assert Summary.of(rows, OPTIONS.protocol).failures == ("cap padim seed 0: the loss is nan",)
    assert [one.error for one in healed] == ["", ""]


def test_pictures_show_images_that_every_training_is_judged_on(tmp_path: Path) -> None:
    category(tmp_path, "cap", train=20, bad=8)
    protocol = Protocol(name="p", kind="contaminated", ratios=(0.0, 0.2))
    found = tasks(protocol, open_categories(tmp_path / "cap"), 0, tmp_path / "draws")

    shown = shown_samples([running.Job(task, "rd", 0, "f") for task in found])["cap"]

    left = {sample.path for sample in found[1].tests["cap"].samples}
    assert shown
    assert {sample.path for sample in shown} <= left
    assert len({sample.kind for sample in shown}) == len(shown)


def test_two_runs_keep_out_of_each_others_way(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UsageError, match="another benchmark is at work"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_settings_for_nobody_are_refused(tmp_path: Path) -> None:
    options = Options(methods=("padim",), protocol=OPTIONS.protocol, settings={"rd": {"steps": 3}})
    with pytest.raises(UsageError, match="rd, which does not take part"):
        run({}, options, tmp_path / "out")
    with pytest.raises(UsageError, match="there is no method 'padm'"):
        run({}, Options(methods=("padm",), protocol=OPTIONS.protocol), tmp_path / "out")


# The command line


def test_the_whole_command(products: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["benchmark", "--dataset", str(products), "--methods", "padim,patchcore", "--out", str(out)]
    command += ["--set", "padim.image_size=64", "--set", "patchcore.image_size=64", "--classes", "nut"]

    done = CliRunner().invoke(app, command, catch_exceptions=False)

    assert done.exit_code == 0, done.output
    assert "I-AUROC (%)" in done.output
    text = (out / "one-class.md").read_text()
    assert "| | padim | patchcore |" in text
    page = (out / "one-class.html").read_text()
    assert page.count("data:image/webp") == 3, "the image, and what two methods make of it"
    assert "<script" not in page
    assert len((out / "one-class.csv").read_text().splitlines()) == 3


def test_the_surveys_table_has_what_was_measured_beside_it(products: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["benchmark", "--dataset", str(products), "--out", str(out), "--table", "survey-4"]
    command += ["--methods", "patchcore", "--set", "patchcore.image_size=64", "--classes", "nut"]

    done = CliRunner().invoke(app, command, catch_exceptions=False)

    assert done.exit_code == 0, done.output
    text = (out / "survey-4.md").read_text()
    assert text.strip() in done.output
    lines = {cells[0]: cells[1:] for line in text.splitlines() if (cells := [c.strip() for c in line.split("|")[1:-1]])}
    assert lines["EfficientAD"][0] == "– / –"
    (measured,) = [line for line in text.splitlines() if line.startswith("| PatchCore | 98.2 | 93.5 | 5.8 |")]
    speeds = [cell.strip() for cell in measured.split("|")[7:10]]
    (result,) = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert speeds[0] == f"{result['fps_graph']:.3g}"
    assert speeds[2] == f"{result['fps']:.3g}"
    assert min(result["fps_graph"], result["fps"]) > 0
    if "openvino" in installed_runtimes():
        assert float(speeds[1]) > 0
    else:
        assert speeds[1] == "–"


def test_the_surveys_table_by_hand() -> None:
    def one(category: str, seed: int, auroc: float | None, fps: float) -> Row:
        values = {"pixel_auroc": auroc, "aupro": 0.5}
        speeds = {"fps_graph": fps, "fps_openvino": 2 * fps, "fps": fps / 2}
        return row("cdo", category, seed, values=values, undefined={}, **speeds)

    rows = [one("cap", 0, 0.9, 10), one("cap", 1, 0.8, 20), one("nut", 0, 0.65, 1000)]
    lines = {line.method: line for line in survey_lines(rows)}

    cdo = lines["cdo"]
    assert list(lines) == ["efficientad", "cpr-faster", "cpr-fast", "cpr", "cdo", "cflow", "patchcore"]
    assert cdo.published == pytest.approx((0.987, 0.965, 79.6))
    assert cdo.by_category["cap"] == pytest.approx((0.85, 0.5))
    assert cdo.by_category["nut"] == pytest.approx((0.65, 0.5))
    assert (cdo.pixel_auroc, cdo.aupro) == pytest.approx((0.75, 0.5)), "first over seeds, then over categories"
    assert (cdo.fps, cdo.fps_openvino, cdo.fps_decoding) == (20, 40, 10)
    assert lines["cflow"].fps is lines["cflow"].pixel_auroc is None

    undefined = {line.method: line for line in survey_lines([*rows, one("bolt", 0, None, 10)])}["cdo"]
    assert undefined.pixel_auroc is None, "a mean over fewer categories is comparable with no other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "it is not said what to compare"),
        (["--table", "survey-5"], "there is no table 'survey-5'"),
        (["--methods", "padim,padim"], "it names something twice"),
        (["--methods", ","], "it names nothing"),
        (["--methods", "padim", "--seeds", "a"], "seeds are whole numbers"),
        (["--methods", "padim", "--classes", "bolt"], "there is no category 'bolt'"),
        (["--methods", "padim", "--metrics", "auc"], "there is no metric 'auc'"),
        (["--methods", "padim", "--set", "image_size=64"], "does not say of which method"),
        (["--methods", "padim", "--protocol", "oneclass"], "there is no protocol"),
    ],
)
def test_wrong_use_is_refused(products: Path, tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(
            app,
            ["benchmark", "--dataset", str(products), "--out", str(tmp_path / "out"), *changes],
            catch_exceptions=False,
        )


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real images in ../shared are not here")
def test_real_data_make_tasks(tmp_path: Path) -> None:
    datasets = {**open_categories(SHARED / "mvtec"), **open_categories(SHARED / "magnetic_tile")}

    found = tasks(open_protocol("contaminated"), datasets, 0, tmp_path)

    drawn = {(task.name, task.setting): len(task.drawn) for task in found}
    assert list(datasets) == ["bottle", "grid", "magnetic_tile"]
    assert not any(task.impossible for task in found)
    assert drawn["bottle", "20%"] == math.floor(0.2 * 209)
    assert drawn["grid", "10%"] == 26
    assert drawn["magnetic_tile", "5%"] == 38
