from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish import __version__
from blemish.cli import main
from blemish.cli.app import app
from blemish.cli.data import data
from blemish.cli.teachers import teachers
from blemish.images import read
from tiny import SIZE, defect_mask, make_parts, part
from tiny import one_thread as one_thread  # applies to this module

VERBS = (
    "demo",
    "train",
    "extend",
    "inspect",
    "evaluate",
    "diagnose",
    "export",
    "info",
    "methods",
    "teachers",
    "layouts",
    "station",
)
TINY = ("--method", "padim", "--set", f"image_size={SIZE}", "--set", "features=10", "--device", "cpu")


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


class Line:
    """A small product line on disk and the model file that `blemish train --json` made of it."""

    def __init__(self, root: Path) -> None:
        self.source = root / "line"
        make_parts(self.source / "good", 14)
        make_parts(self.source / "scratch", 3, first=20, defect=True)
        masks = self.source / "ground_truth" / "scratch"
        masks.mkdir(parents=True)
        for i in range(20, 23):
            Image.fromarray(defect_mask()).save(masks / f"{i:03}.png")
        self.model = root / "part.blemish"
        self.training = blemish("train", self.source, "--out", self.model, "--json", *TINY)


def blemish(*arguments: object) -> Ended:
    """Run `python -m blemish` as a process of its own."""
    command = [sys.executable, "-m", "blemish", *map(str, arguments)]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


class Cli:
    """Runs `blemish` in this process: the same entry, a hundred times faster where torch is not needed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capture = monkeypatch, capture

    def __call__(self, *arguments: object) -> Ended:
        self.monkeypatch.setattr(sys, "argv", ["blemish", *map(str, arguments)])
        self.monkeypatch.setenv("COLUMNS", "140")
        self.capture.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = self.capture.readouterr()
        return Ended(int(end.value.code or 0), out, err)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capfd)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(tmp_path_factory.mktemp("cli"))


# Help and wrong use.


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_that_is_right(cli: Cli, verb: str) -> None:
    ended = cli(verb, "--help")
    assert (ended.status, ended.err) == (0, "")
    example = re.search(rf"Example:\s+`?(blemish {verb}[^\n│`]*)", ended.out)
    assert example
    for option in re.findall(r"--[a-z-]+", example[1]):
        assert ended.out.count(option) > 1, f"{option} stands in the example and not among the options"


def test_help_says_the_defaults(cli: Cli) -> None:
    said = cli("train", "--help").out
    for default in ("rd", "tf_efficientnet_lite0", "auto", "uint8", "0"):
        assert f"[default: {default}]" in said
    assert "[default: BLEMISH_WEIGHTS]" in cli("teachers", "--help").out


def test_help_names_every_verb(cli: Cli) -> None:
    for arguments in (["--help"], ["-h"]):
        ended = cli(*arguments)
        assert ended.status == 0
        for verb in VERBS:
            assert re.search(rf"^\W*{verb}\s+[A-Z]", ended.out, re.MULTILINE)


def test_version(cli: Cli) -> None:
    assert cli("--version") == Ended(0, f"blemish {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspekt", "m.blemish"], "No such command 'inspekt'"),
        (["inspect", "m.blemish", "a.png", "--heatmap", "out"], "No such option: --heatmap"),
        (["inspect", "m.blemish"], "Missing argument"),
        (["train", "parts"], "Missing option '--out'"),
        (["train", "parts", "--out", "m", "--seed", "one"], "Invalid value for '--seed'"),
        (["train", "parts", "--out", "m", "--depth", "uint12"], "'uint12' is not one of 'uint8', 'uint16', 'float32'"),
        (
            ["train", "parts", "--out", "m", "--method", "pdaim"],
            "blemish: there is no method 'pdaim'. Did you mean padim?",
        ),
        (["train", "parts", "--out", "m", "--set", "steps"], "blemish: --set: 'steps' is not of the form KEY=VALUE"),
        (["train", "parts", "--out", "m", "--set", "stesp=3"], "blemish: --set: method rd has no setting 'stesp'"),
        (["train", "parts", "--out", "m", "--config", "no.yaml"], "blemish: no.yaml: it cannot be read: No such file"),
        (["teachers", "--weights", "nowhere"], "blemish: nowhere: the weights folder does not exist"),
    ],
)
def test_wrong_use_is_status_2(
    cli: Cli, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli(*arguments)
    assert ended.status == 2
    assert ended.out == ""
    assert said in re.sub(r"[\s│]+", " ", ended.err)
    assert "Traceback" not in ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "no.blemish", "a.png"], "blemish: no.blemish: there is no such file. `blemish train` makes one\n"),
        (["info", "no.blemish"], "blemish: no.blemish: there is no such file"),
        (["evaluate", "no.blemish", "."], "blemish: no.blemish: there is no such file"),
        (["info", "text.blemish"], "blemish: text.blemish: it is not a Blemish model file"),
        (["train", "nowhere", "--out", "m"], "blemish: nowhere: this folder does not exist"),
    ],
)
def test_any_other_error_is_status_1(
    cli: Cli, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.blemish").write_text("not a model file")
    ended = cli(*arguments)
    assert ended.status == 1
    assert ended.out == ""
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_the_status_reaches_the_shell(line: Line) -> None:
    ended = blemish("info", "no.blemish")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("blemish: no.blemish: there is no such file")


def test_a_reader_that_has_gone_is_no_error(line: Line) -> None:
    command = [sys.executable, "-m", "blemish", "info", str(line.model), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (
            "train",
            "No model file was written. The training goes on from its last saved state when the same command is given "
            "again.",
        ),
        (
            "inspect",
            "Heat maps that were written stay; a report, a CSV file and JSON are only written at the end. The same "
            "command inspects all images anew.",
        ),
        ("evaluate", "Nothing was written. The same command begins anew."),
    ],
)
def test_an_interruption_is_status_130_and_a_sentence(
    cli: Cli, line: Line, verb: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("blemish.assembly.train", interrupted)
    monkeypatch.setattr("blemish.runtime.graph.OnnxRuntimeGraph.run", interrupted)
    arguments = {
        "train": [line.source, "--out", tmp_path / "m"],
        "inspect": [line.model, line.source / "good"],
        "evaluate": [line.model, line.source],
    }
    ended = cli(verb, *arguments[verb])
    assert (ended.status, ended.out) == (130, "")
    assert ended.err.endswith(f"blemish: interrupted. {said}\n")
    assert "Traceback" not in ended.err


def test_every_verb_that_takes_long_says_what_an_interruption_leaves() -> None:
    quick = {"info", "methods", "layouts", "list", "station-train", "station-score"}
    commands = [*app.registered_commands, *data.registered_commands, *teachers.registered_commands]
    for command in commands:
        assert command.callback
        name = command.name or command.callback.__name__
        assert hasattr(command.callback, "__wrapped__") != (name in quick), name


def test_inspect_interrupted_leaves_whole_heat_maps_and_nothing_else(line: Line, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(3000):
        os.link(line.source / "good" / "000.png", many / f"{number:04}.png")
    table, heat_maps = tmp_path / "table.csv", tmp_path / "maps"
    options = [line.model, many, "--csv", table, "--heatmaps", heat_maps, "--report", tmp_path / "report.html"]
    # A shell that runs the tests in the background lets its children ignore Ctrl-C.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import blemish.cli as c; c.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "inspect", *map(str, options)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        while not list(heat_maps.glob("*.png")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)

    assert process.returncode == 130
    assert said.endswith(
        "blemish: interrupted. Heat maps that were written stay; a report, a CSV file and JSON are only written at the "
        "end. The same command inspects all images anew.\n"
    )
    written = list(heat_maps.iterdir())
    assert 0 < len(written) < 3000
    for path in written:
        with Image.open(path) as picture:
            picture.load()
    assert not table.exists()
    assert not (tmp_path / "report.html").exists()


# JSON.


def test_train_prints_one_document_and_the_rest_beside_it(line: Line) -> None:
    ended = line.training
    assert ended.status == 0, ended.err
    facts = ended.document
    assert facts["model"] == str(line.model)
    assert facts["bytes"] == line.model.stat().st_size
    assert (facts["method"], facts["config"]["image_size"], facts["config"]["features"]) == ("padim", SIZE, 10)
    assert facts["n_train"] == facts["n_calibration"]
    assert facts["smallest_reachable_rate"] == pytest.approx(1 / (facts["n_calibration"] + 1))
    assert facts["left_out"] == []
    assert "Layout folder" in ended.err
    assert f"Wrote {line.model}" in ended.err
    assert ended.err.count("Warning") == ended.err.count("is few: no false-alarm rate below 8% can be kept") == 1
    assert "Traceback" not in ended.err


def test_evaluate_prints_the_figures(cli: Cli, line: Line) -> None:
    ended = cli("evaluate", line.model, line.source, "--json")
    assert ended.status == 0
    figures = ended.document
    keys = (
        "image_auroc image_ap image_f1max pixel_auroc pixel_ap pixel_f1max aupro mad iou fps "
        "n_normal n_anomalous verdicts"
    )
    assert set(keys.split()) <= figures.keys()
    assert figures["n_anomalous"] == 3
    assert figures["n_normal"] == 14 - json.loads(line.training.out)["n_train"] > 0
    assert figures["fps"] > 0
    for name in keys.split()[:9]:
        assert 0 <= figures[name] <= 1, name
    assert figures["image_auroc"] == 1
    for label, n in (("normal", figures["n_normal"]), ("anomalous", 3)):
        assert figures["verdicts"][label].keys() == {"OK", "REVIEW", "NG", "REJECTED"}
        assert sum(figures["verdicts"][label].values()) == n
    assert figures["verdicts"]["anomalous"]["NG"] == 3
    assert "Layout folder" in ended.err


def test_evaluate_without_truth_is_an_error(cli: Cli, line: Line) -> None:
    ended = cli("evaluate", line.model, line.source / "scratch", "--json")
    assert (ended.status, ended.out) == (1, "")
    assert "is a test image with a label" in ended.err


def test_inspect_prints_a_list_one_object_an_image(cli: Cli, line: Line, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("a good part, believe me")
    paths = [line.source / "scratch" / "020.png", text, tmp_path / "gone.png", line.source / "good" / "000.png"]
    ended = cli("inspect", line.model, *paths, "--json")
    assert ended.status == 0
    rows = ended.document
    assert isinstance(rows, list)
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    for row in rows:
        assert {"path", "score", "p_value", "verdict", "reason", "regions"} <= row.keys()
    bad, broken, gone, good = rows
    assert (bad["verdict"], bad["reason"]) == ("NG", "score_above_limit")
    assert bad["p_value"] == pytest.approx(json.loads(line.training.out)["smallest_reachable_rate"])
    assert bad["regions"][0].keys() == {"x", "y", "width", "height", "area", "peak"}
    assert bad["regions"][0]["peak"] == max(region["peak"] for region in bad["regions"])
    for row, reason in ((broken, "unreadable"), (gone, "not_found")):
        assert (row["verdict"], row["reason"], row["score"], row["p_value"]) == ("REJECTED", reason, None, None)
        assert row["regions"] == []
    assert good["verdict"] == "OK"
    assert ended.err == ""


def test_one_image_is_a_list_too(cli: Cli, line: Line) -> None:
    ended = cli("inspect", line.model, line.source / "good" / "000.png", "--json")
    assert [row["path"] for row in ended.document] == [str(line.source / "good" / "000.png")]


def test_info_prints_the_manifest(cli: Cli, line: Line) -> None:
    ended = cli("info", line.model, "--json")
    assert (ended.status, ended.err) == (0, "")
    facts = ended.document
    assert len(facts["sha256"]) == 64
    assert facts["format"] == 1
    assert facts["method"] == "padim"
    assert len(facts["training"]["images"]) == len(facts["calibration"]["scores"])


@pytest.mark.parametrize(
    ("verb", "names"),
    [
        ("methods", {"rd", "patchcore", "padim"}),
        ("teachers", {"tf_efficientnet_lite0"}),
        ("layouts", {"folder", "mvtec", "magnetic-tile", "csv"}),
    ],
)
def test_listings(cli: Cli, verb: str, names: set[str]) -> None:
    ended = cli(verb, "--json")
    assert (ended.status, ended.err) == (0, "")
    assert names <= {row["name"] for row in ended.document}
    read_by_people = cli(verb)
    assert read_by_people.status == 0
    for name in names:
        assert name in read_by_people.out


def test_methods_say_their_settings(cli: Cli) -> None:
    rows = {row["name"]: row for row in cli("methods", "--json").document}
    for row in rows.values():
        assert row["title"]
        for setting in row["settings"].values():
            assert setting["description"]
    assert rows["rd"]["settings"]["learning_rate"]["default"] == 0.005


# What people read.


def test_inspect_prints_a_line_an_image_and_counts_them(cli: Cli, line: Line, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    ended = cli("inspect", line.model, line.source / "scratch", tmp_path / "text.png")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert [text.split()[0] for text in lines] == ["NG", "NG", "NG", "REJECTED"]
    assert re.search(r"^NG +p=0\.\d{4}  .*020\.png  \d+ regions?, strongest at x=\d+ y=\d+ \d+x\d+$", lines[0])
    assert lines[3].endswith("text.png  unreadable: its content is that of no known image format")
    assert ended.err == "3 NG, 1 REJECTED\n"


def test_a_folder_is_inspected_to_its_bottom_and_an_empty_one_is_an_error(cli: Cli, line: Line, tmp_path: Path) -> None:
    make_parts(tmp_path / "new" / "deep" / "down", 2)
    make_parts(tmp_path / "new", 1, first=5)
    (tmp_path / "new" / "notes.txt").write_text("not looked at")
    ended = cli("inspect", line.model, tmp_path / "new", "--json")
    assert [Path(row["path"]).relative_to(tmp_path / "new").as_posix() for row in ended.document] == [
        "005.png",
        "deep/down/000.png",
        "deep/down/001.png",
    ]
    (tmp_path / "empty").mkdir()
    ended = cli("inspect", line.model, tmp_path / "empty", "--json")
    assert (ended.status, ended.out) == (1, "")
    assert "there is no image in this folder" in ended.err


def test_info_and_evaluate_print_tables(cli: Cli, line: Line) -> None:
    info = cli("info", line.model)
    assert info.status == 0
    assert "smallest reachable rate" in info.out
    facts = [[part.strip() for part in row.split("│")[1:3]] for row in info.out.splitlines() if row.startswith("│")]
    assert ["left out", "none"] in facts
    assert ["", "strides: 4, 8, 16"] in facts
    assert [name for name, value in facts if re.fullmatch(r"\d+ to \d+", value)] == ["width", "height"]
    assert not re.search(r"[\[({'}]", "".join(value for name, value in facts if name in ("config", "", "width")))
    evaluation = cli("evaluate", line.model, line.source)
    assert evaluation.status == 0
    for name in ("image_auroc", "aupro", "mad", "iou", "best_iou", "fpr95", "fps", "fps_graph_batched", "REVIEW"):
        assert name in evaluation.out
    assert "interval" in re.search(r"escape .*?\n", evaluation.out)[0]  # type: ignore[index]
    assert "interval" not in re.search(r"aupro .*?\n", evaluation.out)[0]  # type: ignore[index]


def test_evaluate_with_confidence(cli: Cli, line: Line) -> None:
    figures = cli("evaluate", line.model, line.source, "--confidence", "--json").document
    intervals = figures["confidence"]["intervals"]
    assert figures["confidence"]["draws"] == 1000
    for name in ("image_auroc", "pixel_auroc", "aupro", "iou", "fpr95"):
        assert 0 <= intervals[name]["low"] <= intervals[name]["high"] <= 1
    shown = cli("evaluate", line.model, line.source, "--confidence").out
    low, high = intervals["aupro"]["low"], intervals["aupro"]["high"]
    assert f"95% interval {low:.4f} to {high:.4f}" in " ".join(shown.split())


def test_what_cannot_be_measured_says_why(cli: Cli, line: Line, tmp_path: Path) -> None:
    make_parts(tmp_path / "train" / "good", 1, first=60)
    make_parts(tmp_path / "test" / "good", 2, first=50)
    ended = cli("evaluate", line.model, tmp_path, "--json")
    assert ended.status == 0
    assert ended.document["image_auroc"] is None
    assert ended.document["undefined"]["image_auroc"]
    assert re.search(r"image_auroc\W+undefined: ", cli("evaluate", line.model, tmp_path).out)


# Files.


def test_csv_has_a_row_an_image(cli: Cli, line: Line, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    table = tmp_path / "new" / "results.csv"
    ended = cli("inspect", line.model, line.source / "scratch", tmp_path / "text.png", "--csv", table, "--json")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, wanted in zip(rows, ended.document, strict=True):
        assert (row["path"], row["verdict"], row["reason"]) == (wanted["path"], wanted["verdict"], wanted["reason"])
        assert json.loads(row["regions"]) == wanted["regions"]
        assert row["score"] == ("" if wanted["score"] is None else str(wanted["score"]))
    assert rows[3]["verdict"] == "REJECTED"


def test_heat_maps_of_one_folder(cli: Cli, line: Line, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    maps = tmp_path / "new" / "maps"
    assert cli("inspect", line.model, line.source / "scratch", "--heatmaps", maps).status == 0
    assert sorted(path.name for path in maps.iterdir()) == ["020.png.png", "021.png.png", "022.png.png"]
    picture = read(maps / "020.png.png")
    assert picture.shape[:2] == (72, 80)
    assert not np.array_equal(picture, part(20, defect=True))


def test_heat_maps_of_images_that_are_called_alike_do_not_meet(cli: Cli, line: Line, tmp_path: Path) -> None:
    for i, folder in enumerate(("a", "b", "a/b")):
        Image.fromarray(part(70 + i)).save(make_parts(tmp_path / folder, 0) / "same.png")
    Image.fromarray(part(80)).save(tmp_path / "a" / "same.bmp")
    maps = tmp_path / "maps"
    ended = cli("inspect", line.model, tmp_path / "a", tmp_path / "b" / "same.png", "--heatmaps", maps)
    assert ended.status == 0
    written = sorted(path.relative_to(maps).as_posix() for path in maps.rglob("*") if path.is_file())
    assert written == ["a/b/same.png.png", "a/same.bmp.png", "a/same.png.png", "b/same.png.png"]
    assert len({(maps / name).read_bytes() for name in written}) == 4


def test_reports(cli: Cli, line: Line, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    inspected, evaluated = tmp_path / "new" / "inspected.html", tmp_path / "new" / "evaluated.html"
    inspection = cli("inspect", line.model, line.source / "scratch", text, "--report", inspected, "--json")
    assert inspection.status == 0
    assert len(inspection.document) == 4
    evaluation = cli("evaluate", line.model, line.source, "--report", evaluated, "--json")
    assert evaluation.document["n_anomalous"] == 3
    assert f"Wrote {evaluated}" in evaluation.err
    for page in (inspected, evaluated):
        content = page.read_text("utf-8")
        assert content.lower().startswith("<!doctype html>")
        assert "020.png" in content
    assert "text.png" in inspected.read_text("utf-8")


@pytest.mark.parametrize("option", ["--csv", "--heatmaps", "--report"])
@pytest.mark.parametrize("place", ["file/below", "file-or-folder"])
def test_a_place_that_cannot_be_written_is_said_in_words(
    cli: Cli, line: Line, option: str, place: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    if option == "--heatmaps":
        (tmp_path / "file-or-folder").touch()
    else:
        (tmp_path / "file-or-folder").mkdir()
    ended = cli("inspect", line.model, line.source / "scratch", option, tmp_path / place)
    assert ended.status in (1, 2)
    assert re.match(rf"blemish: {re.escape(str(tmp_path))}.* cannot be (made|written)", ended.err)
    assert "Traceback" not in ended.err


# Rates and options.


def test_another_rate_for_one_inspection(cli: Cli, line: Line) -> None:
    image = line.source / "scratch" / "020.png"
    n = json.loads(line.training.out)["n_calibration"]
    ended = cli("inspect", line.model, image, "--false-alarm-rate", 0.5, "--review-rate", 0.9, "--json")
    assert ended.document[0]["detail"].endswith("NG is at or below 50.00%")
    refused = cli("inspect", line.model, image, "--false-alarm-rate", 0.001)
    assert refused.status == 2
    assert f"a false-alarm rate of 0.001 takes 999 calibration images and there are {n}" in refused.err


def test_a_config_file_gives_what_the_command_does_not(
    cli: Cli, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: dict[str, Any] = {}

    def stop(source: Path, out: Path, **options: Any) -> None:
        called.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("blemish.assembly.train", stop)
    config = tmp_path / "train.yaml"
    config.write_text(
        "method: padim\nseed: 7\nfalse-alarm-rate: 0.1\nrange: [0, 200]\nset: {features: 10, sigma: 2.5}\n"
    )
    monkeypatch.setattr(
        sys, "argv", ["blemish", "train", "x", "-o", "y", "--config", str(config), "--seed=8", "--set=sigma=3"]
    )
    with pytest.raises(SystemExit):
        main()
    called.pop("listener")
    assert called == {
        "method": "padim",
        "seed": 8,
        "false_alarm_rate": 0.1,
        "value_range": [0, 200],
        "settings": {"features": 10, "sigma": 3},
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- method", "it is not a mapping of options"),
        ("metod: padim", "there is no option 'metod'. Options are method, contaminated, teacher"),
        ("set: 3", "`set` is not a mapping of hyper-parameters"),
        ("a: [", "it cannot be read as YAML"),
        ("devices: two", "`devices` is not a whole number"),
        ("devices: true", "`devices` is not a whole number"),
        ("folds: 2.5", "`folds` is not a whole number"),
        ("false-alarm-rate: 1 %", "`false-alarm-rate` is not a number"),
        ("range: 200", "`range` is not two numbers, [LOW, HIGH]"),
        ("range: [0, high]", "`range` is not two numbers, [LOW, HIGH]"),
        ("contaminated: 20", "`contaminated` is not true or false"),
        ("method: [padim]", "`method` is not a text"),
        ("preset: quick", "`preset` is not one of auto, fast, paper"),
        ("device:", "`device` is not one of auto, cpu, cuda"),
    ],
)
def test_a_config_file_that_makes_no_sense(cli: Cli, content: str, said: str, tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(content)
    ended = cli("train", "x", "--out", tmp_path / "y", "--config", config)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
