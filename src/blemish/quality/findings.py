"""What a check can find: how bad it is, which files it concerns, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Wrong: figures or a training that rest on it mislead, or stop."""
    WARNING = "warning"
    """Suspicious: a person should look."""
    NOTE = "note"
    """Worth knowing."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding: its stable code, how bad it is, a title and what to do."""

    code: str
    severity: Severity
    title: str
    todo: str


@dataclass(frozen=True)
class Case:
    """One instance: the files it concerns, named below the source, and a sentence on them without a full stop."""

    files: tuple[str, ...]
    what: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"files": list(self.files), "what": self.what}


@dataclass(frozen=True)
class Finding:
    """All instances of one kind."""

    kind: Kind
    cases: tuple[Case, ...]

    @property
    def code(self) -> str:
        """Stable: it stands in reports and JSON."""
        return self.kind.code

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return self.kind.severity

    @property
    def files(self) -> tuple[str, ...]:
        """Every file concerned, once."""
        return tuple(dict.fromkeys(name for case in self.cases for name in case.files))

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "title": self.kind.title,
            "todo": self.kind.todo,
            "cases": [case.to_dict() for case in self.cases],
        }


def finding(kind: Kind, cases: Sequence[Case]) -> list[Finding]:
    """The finding that the cases are; none without any."""
    return [Finding(kind, tuple(cases))] if cases else []
