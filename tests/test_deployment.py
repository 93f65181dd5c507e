"""The files in deploy/: what they start is something that Blemish accepts, and they take no more than they need."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from blemish.cli.app import app
from stations import StationProcess, make_model

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "blemish-station.service"
INSTRUCTIONS = dict(
    line.split(" ", 1)
    for line in re.sub(r" \\\n\s*", " ", (ROOT / "deploy" / "Dockerfile").read_text()).splitlines()
    if line and not line.startswith("#")
)
"""The last instruction of each kind, and what stands behind it."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze of systemd")


def accepted(arguments: list[str]) -> dict[str, object]:
    """The options of a verb as the command line reads them; it is not run.

    It exits with status 2 at an option that there is not, or that takes another value.
    """
    group = get_command(app)
    with group.make_context("blemish", list(arguments)) as context:
        name, verb, rest = group.resolve_command(context, arguments)  # type: ignore[attr-defined]
        with verb.make_context(name, rest, parent=context) as inner:
            return dict(inner.params)


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def test_the_unit_starts_a_station_that_may_write_where_it_wants_to() -> None:
    service = unit()["Service"]
    program, *arguments = shlex.split(service["ExecStart"])

    given = accepted(arguments)

    assert program == unit()["Unit"]["AssertFileIsExecutable"]
    below = {f"/var/lib/{folder}" for folder in service["StateDirectory"].split()}
    assert {str(given["models"]), str(given["data"])} <= below
    assert given["host"] is None
    assert float(service["TimeoutStopSec"]) > 30  # what --drain is by default


def test_the_unit_gives_up_a_station_that_cannot_start() -> None:
    seconds, burst = (int(unit()["Unit"][key]) for key in ("StartLimitIntervalSec", "StartLimitBurst"))
    # All the starts that are allowed must fit into the interval, also if each fails after some seconds only.
    assert burst * (int(unit()["Service"]["RestartSec"]) + 10) < seconds


@needs_systemd
def test_systemd_has_no_objection_to_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "blemish"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/blemish/bin/blemish", str(program)))

    def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["systemd-analyze", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    verified = analyze("verify", here)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    # It does find what is wrong.
    wrong = tmp_path / "wrong.service"
    wrong.write_text(here.read_text().replace("RestartSec=5", "RestartSek=5"))
    assert "RestartSek" in analyze("verify", wrong).stderr

    # 0 is sealed off, 100 is everything allowed. systemd calls less than 50 OK and less than 20 is what this one has.
    secured = analyze("security", "--offline=true", "--threshold=20", here)
    assert secured.returncode == 0, secured.stdout


def test_the_container_starts_a_station_with_what_it_has() -> None:
    (program,) = json.loads(INSTRUCTIONS["ENTRYPOINT"])
    given = accepted(json.loads(INSTRUCTIONS["CMD"]))

    assert program == "blemish"
    assert INSTRUCTIONS["VOLUME"] == str(given["data"])
    assert {str(given["models"]), str(given["data"])} == set(re.findall(r"mkdir (\S+) (\S+)", INSTRUCTIONS["RUN"])[0])
    assert given["port"] is None
    assert INSTRUCTIONS["EXPOSE"] == "8000"
    assert INSTRUCTIONS["USER"] not in ("root", "0")


def test_the_health_check_follows_the_station(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    make_model(tmp_path / "models" / "cap.blemish")
    program, *arguments = json.loads(INSTRUCTIONS["HEALTHCHECK"].partition("CMD ")[2])
    assert program == "python"

    def healthy(port: str) -> bool:
        command = [sys.executable, *(argument.replace(":8000/", f":{port}/") for argument in arguments)]
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0

    station = StationProcess(tmp_path)
    try:
        port = station.url.rpartition(":")[2]
        assert healthy(port)
        station.terminate()
        assert station.wait() == 0
        assert not healthy(port)
    finally:
        station.close()


def test_nothing_goes_into_the_container_but_what_is_copied() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    }

    # Everything is left out first, so that a file that nobody has thought of is, too.
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)
    assert {"**/__pycache__", "**/*.blemish"} <= set(rules)
