"""Errors that a user can meet. Each says what was wrong, where, and what to do about it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class BlemishError(Exception):
    """Base of every error that Blemish raises on purpose.

    Parameters
    ----------
    what : what is wrong, one sentence without a full stop.
    where : the file, option or value it concerns.
    todo : what the user can do about it.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: object | None = None, todo: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.todo = todo
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their positional arguments, which would lose the rest between processes.
        return _rebuilt, (type(self), self.__dict__.copy(), str(self))

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.todo is None else f"{text}. {self.todo}"


def _rebuilt(kind: type[BlemishError], state: dict[str, Any], text: str) -> BlemishError:
    error = kind.__new__(kind, text)
    error.__dict__.update(state)
    return error


class UsageError(BlemishError):
    """The call itself is wrong: an unknown name, a value out of range, options that contradict each other."""

    exit_status = 2


class DataError(BlemishError):
    """A source of images cannot be used: not found, not of the layout named, nothing to train on."""


class MaskSizeError(DataError):
    """A mask has another size than its image."""


class DownloadError(BlemishError):
    """A file cannot be had from its server, or is not the one that was published."""


class TeacherError(BlemishError):
    """A teacher's weights are not to be had offline, or do not fit its network."""


class TrainingError(BlemishError):
    """Training cannot go on or its result is unusable."""


class ExportError(BlemishError):
    """The exported graph does not agree with the trained method."""


class ModelFileError(BlemishError):
    """A model file is foreign, damaged, tampered with or of a newer version."""


class Reason(StrEnum):
    """Why an image was refused. The values are stable: they stand in reports, JSON and the model file."""

    NOT_FOUND = "not_found"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    UNSUPPORTED_FORMAT = "unsupported_format"
    SEVERAL_FRAMES = "several_frames"
    WRONG_DEPTH = "wrong_depth"
    WRONG_COLOUR = "wrong_colour"
    WRONG_SHAPE = "wrong_shape"
    WRONG_SIZE = "wrong_size"
    NOT_FINITE = "not_finite"
    OUT_OF_RANGE = "out_of_range"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    SCORE_NOT_FINITE = "score_not_finite"


class ImageError(BlemishError):
    """An image was refused; `reason` is its stable code."""

    def __init__(self, reason: Reason, what: str, *, where: object | None = None, todo: str | None = None) -> None:
        self.reason = reason
        super().__init__(what, where=where, todo=todo)
