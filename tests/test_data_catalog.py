from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from blemish.cli import main
from blemish.data import layouts
from blemish.data.catalog import Count, catalog, find_entry
from blemish.data.download import RemoteFile
from blemish.errors import UsageError

NAMES = [
    "mvtec-ad",
    "mvtec-loco",
    "mvtec-3d-ad",
    "visa",
    "btad",
    "kolektor-sdd",
    "kolektor-sdd2",
    "magnetic-tile",
    "aitex",
    "rsdds",
    "nanotwice",
    "fabric",
    "woven-textures",
    "dagm",
    "real-iad",
    "cifar-10",
    "cifar-100",
    "fashion-mnist",
]


def test_the_catalogue_names_each_dataset_once() -> None:
    assert list(catalog()) == NAMES
    assert len({entry.title for entry in catalog().values()}) == len(NAMES)
    for name, entry in catalog().items():
        assert (entry.name, find_entry(name)) == (name, entry)
        for text in (entry.title, entry.licence, entry.split, entry.citation):
            assert text
            assert text == text.strip()
        assert re.search(r"(19|20)\d\d$", entry.citation)


@pytest.mark.parametrize(
    "name", ["mvtec-ad", "magnetic-tile", "fabric", "woven-textures", "dagm", "real-iad", "cifar-10", "cifar-100"]
)
def test_the_catalogue_names_layouts_that_there_are(name: str) -> None:
    assert catalog()[name].layout in layouts()


def test_numbers_add_up_to_the_totals_that_are_published() -> None:
    """Totals by another source than the split's: the papers' abstracts and the authors' pages."""
    published = {
        "mvtec-ad": (5354, 1258),
        "mvtec-loco": (3644, 993),
        "mvtec-3d-ad": (4147, 948),
        "visa": (10821, 1200),
        "btad": (2540, 290),
        "kolektor-sdd": (399, 52),
        "kolektor-sdd2": (3335, 356),
        "magnetic-tile": (1344, 392),
        "aitex": (245, 105),
        "rsdds": (67 + 128, 195),
        "nanotwice": (45, 40),
        # Six classes of 1000 + 150 images, four of 2000 + 300.
        "dagm": (6 * 1150 + 4 * 2300, 6 * 150 + 4 * 300),
        "real-iad": (99721 + 51329, 51329),
    }
    for name, (total, anomalous) in published.items():
        counts = catalog()[name].images.values()
        assert sum(count.total for count in counts) == total, name
        assert sum(count.anomalous or 0 for count in counts) == anomalous, name


def test_no_file_is_offered_without_a_digest_or_from_a_package_registry() -> None:
    for entry in catalog().values():
        for file in entry.files:
            assert file.digest
            assert re.search(r"\.(zip|tar|gz)$", file.name), file.url
            assert not re.search(r"pypi|pythonhosted|npmjs|debian|anaconda", file.url)
    assert [file.name for file in find_entry("visa").files] == ["VisA_20220922.tar"]


@pytest.mark.parametrize(
    ("name", "meant"), [("MVTec_AD", "mvtec-ad"), ("visaa", "visa"), ("CIFAR 10", "cifar-10"), ("ball bearings", None)]
)
def test_an_unknown_dataset(name: str, meant: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        find_entry(name)
    assert f'there is no dataset "{name}"' in str(caught.value)
    assert "Known are mvtec-ad, mvtec-loco," in str(caught.value)
    assert ("Did you mean" in str(caught.value)) == (meant is not None)
    if meant:
        assert f'Did you mean "{meant}"?' in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ftp://example.org/a.zip"},
        {"url": "https://example.org/a b.zip"},
        {"url": "https://example.org/a.zip", "digest": "sha256:12"},
        {"url": "https://example.org/a.zip", "digest": "12" * 32},
        {"url": "https://example.org/a.zip", "bytes": 0},
        {"url": "file:///etc/a.zip"},
    ],
)
def test_a_wrong_file_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is not the http or https address|neither sha256|is none"):
        RemoteFile(**fields)


def test_a_count_cannot_have_more_anomalous_images_than_images() -> None:
    with pytest.raises(ValidationError, match="3 of 2 images cannot be anomalous"):
        Count(total=2, anomalous=3)


# blemish data list


def run(monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of `blemish ARGUMENTS` in this process."""
    monkeypatch.setattr(sys, "argv", ["blemish", *arguments])
    monkeypatch.setenv("COLUMNS", "140")
    capture.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capture.readouterr()
    return int(end.value.code or 0), out, err


def test_list(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(monkeypatch, capfd, "data", "list", "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == NAMES
    assert rows[0]["images"]["test"] == {"total": 1725, "anomalous": 1258}
    status, out, err = run(monkeypatch, capfd, "data", "list")
    assert status == 0
    for name in NAMES:
        assert f" {name} " in out
    assert "CC BY 4.0" in out
    assert "blemish data list NAME" in err


def test_list_of_one(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(monkeypatch, capfd, "data", "list", "visa")
    assert (status, err) == (0, "")
    for text in (
        "8,659 train, 2,162 test (1,200 anomalous)",
        "CC BY 4.0",
        "https://github.com/amazon-science/spot-diff",
        "(1,929,840,640 bytes)",
        "sha256:2eb8690c",
        "Zou",
    ):
        assert text in out
    _, out, _ = run(monkeypatch, capfd, "data", "list", "magnetic-tile")
    assert "1,344 (392 anomalous)" in out
    assert "no direct download" in out
    _, out, _ = run(monkeypatch, capfd, "data", "list", "fabric")
    assert "not verified" in out
    status, out, _ = run(monkeypatch, capfd, "data", "list", "visa", "--json")
    assert json.loads(out) == find_entry("visa").model_dump(mode="json")


def test_list_of_an_unknown_one(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(monkeypatch, capfd, "data", "list", "mvtecad")
    assert (status, out) == (2, "")
    assert err.startswith('blemish: there is no dataset "mvtecad"')
    assert 'Did you mean "mvtec-ad"?' in err


def test_data_says_its_verbs(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert "data" in run(monkeypatch, capfd, "--help")[1]
    assert "list" in run(monkeypatch, capfd, "data", "--help")[1]
    status, out, _ = run(monkeypatch, capfd, "data", "list", "--help")
    assert status == 0
    assert "blemish data list visa" in out


def test_the_catalogue_comes_with_the_package() -> None:
    import blemish.data

    assert (Path(blemish.data.__file__).parent / "catalog.toml").is_file()


def test_every_entry_names_a_layout_that_there_is() -> None:
    assert {entry.layout for entry in catalog().values()} <= layouts().keys()
