"""How many cores a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blemish import cores
from blemish.cores import time_allowed, usable_cores


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A process in the control group /pod/box."""
    (tmp_path / "membership").write_text("4:memory:/elsewhere\n0::/pod/box\n")
    (tmp_path / "cgroup" / "pod" / "box").mkdir(parents=True)
    return tmp_path


def allowed(group: Path) -> float | None:
    return time_allowed(group / "membership", group / "cgroup")


def test_without_a_limit(group: Path) -> None:
    assert allowed(group) is None
    (group / "cgroup" / "pod" / "box" / "cpu.max").write_text("max 100000\n")
    assert allowed(group) is None


def test_the_smallest_limit_of_the_group_and_those_around_it_holds(group: Path) -> None:
    (group / "cgroup" / "pod" / "box" / "cpu.max").write_text("250000 100000\n")
    assert allowed(group) == 2.5
    (group / "cgroup" / "pod" / "cpu.max").write_text("60000 50000\n")
    assert allowed(group) == 1.2
    # Beyond the folder of all groups there is none.
    (group / "cpu.max").write_text("10000 100000\n")
    assert allowed(group) == 1.2


@pytest.mark.parametrize("content", ["", "none", "100000", "100000 0", "1 2 3"])
def test_a_file_of_another_form_is_no_limit(group: Path, content: str) -> None:
    (group / "cgroup" / "pod" / "box" / "cpu.max").write_text(content)
    assert allowed(group) is None


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert time_allowed(tmp_path / "missing", tmp_path) is None
    (tmp_path / "first version only").write_text("1:cpu:/\n")
    assert time_allowed(tmp_path / "first version only", tmp_path) is None


@pytest.mark.parametrize(("limit", "wanted"), [(None, 4), (0.2, 1), (1.0, 1), (2.5, 3), (9.0, 4)])
def test_the_time_allowed_and_the_cores_bound_to(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, wanted: int
) -> None:
    monkeypatch.setattr(cores, "time_allowed", lambda *_: limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5, 6}, raising=False)
    assert usable_cores() == wanted


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_process_bound_to_one_core_uses_one() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
