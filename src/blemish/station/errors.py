"""What can go wrong at a station. Each error has a code that stays, an HTTP status, a sentence, and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from blemish.errors import BlemishError, UsageError


class Code(StrEnum):
    """Why a request was refused. The values are stable: programs at the line tell cases apart by them."""

    INVALID_REQUEST = "invalid_request"
    INVALID_CURSOR = "invalid_cursor"
    NO_IMAGE = "no_image"
    MODEL_NEEDED = "model_needed"
    WRONG_TENSOR = "wrong_tensor"
    LABEL_NEEDED = "label_needed"
    LABEL_CONTRADICTS = "label_contradicts"
    SIGN_IN_NEEDED = "sign_in_needed"
    SIGN_IN_FAILED = "sign_in_failed"
    TOKEN_FAILED = "token_failed"
    NOT_ALLOWED = "not_allowed"
    FOREIGN_ORIGIN = "foreign_origin"
    NOT_FOUND = "not_found"
    NO_SUCH_MODEL = "no_such_model"
    NO_SUCH_VERSION = "no_such_version"
    NO_SUCH_INSPECTION = "no_such_inspection"
    NO_SUCH_TRAINING = "no_such_training"
    FOLDER_NOT_ALLOWED = "folder_not_allowed"
    NO_SUCH_FOLDER = "no_such_folder"
    NOT_ENOUGH_IMAGES = "not_enough_images"
    KEY_REUSED = "key_reused"
    NO_PICTURE = "no_picture"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TOO_SLOW = "body_too_slow"
    NAME_TAKEN = "name_taken"
    LAST_ADMIN = "last_admin"
    CONNECTION_INVALID = "connection_invalid"
    FROM_FILE = "from_file"
    RESULTS_WAITING = "results_waiting"
    NOTHING_TO_ROLL_BACK_TO = "nothing_to_roll_back_to"
    MODEL_BROKEN = "model_broken"
    TRAINING_NOT_INSTALLED = "training_not_installed"
    WRONG_STATE = "wrong_state"
    AUDIT_INCOMPLETE = "audit_incomplete"
    LOOK_OUTDATED = "look_outdated"
    PARQUET_NOT_INSTALLED = "parquet_not_installed"
    BODY_TOO_LARGE = "body_too_large"
    TOO_MANY_IMAGES = "too_many_images"
    WRONG_HOST = "wrong_host"
    TOO_MANY_SIGN_INS = "too_many_sign_ins"
    QUEUE_FULL = "queue_full"
    BUSY = "busy"
    INTERNAL = "internal_error"
    DRAINING = "draining"
    DATABASE_UNAVAILABLE = "database_unavailable"
    STORAGE_FAILED = "storage_failed"
    MODEL_NOT_READY = "model_not_ready"
    SOURCE_UNAVAILABLE = "source_unavailable"


STATUS: Final[dict[Code, int]] = {
    Code.INVALID_REQUEST: 422,
    Code.INVALID_CURSOR: 422,
    Code.NO_IMAGE: 422,
    Code.MODEL_NEEDED: 422,
    Code.WRONG_TENSOR: 400,
    Code.LABEL_NEEDED: 422,
    Code.LABEL_CONTRADICTS: 422,
    Code.SIGN_IN_NEEDED: 401,
    Code.SIGN_IN_FAILED: 401,
    Code.TOKEN_FAILED: 401,
    Code.NOT_ALLOWED: 403,
    Code.FOREIGN_ORIGIN: 403,
    Code.NOT_FOUND: 404,
    Code.NO_SUCH_MODEL: 404,
    Code.NO_SUCH_VERSION: 404,
    Code.NO_SUCH_INSPECTION: 404,
    Code.NO_SUCH_TRAINING: 404,
    Code.FOLDER_NOT_ALLOWED: 422,
    Code.NO_SUCH_FOLDER: 422,
    Code.NOT_ENOUGH_IMAGES: 422,
    Code.KEY_REUSED: 422,
    Code.NO_PICTURE: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.BODY_TOO_SLOW: 408,
    Code.NAME_TAKEN: 409,
    Code.LAST_ADMIN: 409,
    Code.CONNECTION_INVALID: 422,
    Code.FROM_FILE: 409,
    Code.RESULTS_WAITING: 409,
    Code.NOTHING_TO_ROLL_BACK_TO: 409,
    Code.MODEL_BROKEN: 409,
    Code.TRAINING_NOT_INSTALLED: 409,
    Code.WRONG_STATE: 409,
    Code.AUDIT_INCOMPLETE: 409,
    Code.LOOK_OUTDATED: 409,
    Code.PARQUET_NOT_INSTALLED: 409,
    Code.BODY_TOO_LARGE: 413,
    Code.TOO_MANY_IMAGES: 413,
    Code.WRONG_HOST: 421,
    Code.TOO_MANY_SIGN_INS: 429,
    Code.QUEUE_FULL: 429,
    Code.BUSY: 429,
    Code.INTERNAL: 500,
    Code.DRAINING: 503,
    Code.DATABASE_UNAVAILABLE: 503,
    Code.STORAGE_FAILED: 503,
    Code.MODEL_NOT_READY: 503,
    Code.SOURCE_UNAVAILABLE: 503,
}
"""The HTTP status of each code."""


@dataclasses.dataclass(frozen=True)
class Complaint:
    """What is wrong with one field of what was sent. code : stable; pages have a sentence for it, with `values`."""

    field: str
    code: str
    message: str
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As it stands in the body of an answer."""
        return {"field": self.field, "code": self.code, "message": self.message, "values": dict(self.values)}


class FieldError(UsageError):
    """Wrong use of one field, such as a password that is too short. complaint : what is wrong with it."""

    def __init__(self, complaint: Complaint, *, todo: str | None = None) -> None:
        self.complaint = complaint
        super().__init__(complaint.message, todo=todo)


class StationError(BlemishError):
    """A station refuses a request, or refuses to start.

    Parameters
    ----------
    code : stable. retry_after : seconds after which trying again is worth it. fields : what is wrong with single ones.
    """

    def __init__(
        self,
        code: Code,
        what: str,
        *,
        where: object | None = None,
        todo: str | None = None,
        retry_after: int | None = None,
        fields: Sequence[Complaint] = (),
    ) -> None:
        self.code = code
        self.fields = tuple(fields)
        self.retry_after = retry_after
        super().__init__(what, where=where, todo=todo)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that go with it."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        what = self.what if self.where is None else f"{self.where}: {self.what}"
        document: dict[str, Any] = {"code": self.code.value, "message": what, "todo": self.todo}
        if self.fields:
            document["fields"] = [one.document() for one in self.fields]
        return document


def database_unavailable() -> StationError:
    """The database cannot be reached; whatever was asked for has not happened."""
    return StationError(
        Code.DATABASE_UNAVAILABLE,
        "the database cannot be reached, so nothing was judged or changed",
        todo="Send the request again once it is back; the station reconnects by itself",
        retry_after=5,
    )


def storage_failed(error: OSError | str, *, remote: bool = False) -> StationError:
    """A picture cannot be written or read; an inspection that is not stored is not answered.

    Parameters
    ----------
    error : what happened, or its words. remote : whether the pictures are elsewhere than on a disk of this machine.
    """
    words = error if isinstance(error, str) else error.strerror or str(error)
    where, cure = "folder", "Make room on its disk"
    if remote:
        where, cure = "store", "See that it can be reached and has room"
    return StationError(
        Code.STORAGE_FAILED,
        f"the {where} of pictures cannot be used: {words}",
        todo=f"{cure}, or shorten the retention, and send the request again",
        retry_after=10,
    )
