"""What may stand in the configuration about sources and sinks: where images come from, and where results go."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from blemish.errors import UsageError


def _from_its_file(path: Path, info: ValidationInfo) -> Path:
    """A path of a configuration file counts from the folder of that file."""
    base: Path = (info.context or {}).get("base", Path())
    return (base / path).absolute()


ConfiguredPath = Annotated[Path, AfterValidator(_from_its_file)]
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.\-]{0,99}$")]
Model = Annotated[str, StringConstraints(min_length=1, max_length=100)]
VerdictName = Literal["OK", "REVIEW", "NG", "REJECTED"]

CAMERA_SCHEMES = ("rtsp", "rtsps", "http", "https", "file")


class _Connection(BaseModel):
    """name : stands in inspections, metrics and the API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name


class FolderSource(_Connection):
    """A folder into which others put image files.

    model : None where there is only one. settle_seconds : a file is complete once it has not changed for so long.
    after : what becomes of an inspected file: it moves to `done` inside the folder, or is deleted, for the station
        keeps its own copy.
    """

    kind: Literal["folder"]
    path: ConfiguredPath
    model: Model | None = None
    settle_seconds: PositiveFloat = 1
    after: Literal["move", "delete"] = "move"


class CameraSource(_Connection):
    """A camera: `url` of one on the network, or the number of a `device` on this machine.

    every_seconds : between two inspections. trigger : inspect when asked to, and at no other time.
    user, password_file : of the camera; the password is the first line of the file.
    """

    kind: Literal["camera"]
    url: str | None = None
    device: int | None = Field(default=None, ge=0)
    user: str | None = None
    password_file: ConfiguredPath | None = None
    model: Model | None = None
    every_seconds: PositiveFloat | None = None
    trigger: bool = False
    patience_seconds: PositiveFloat = 5
    """A camera that gives no frame for so long is connected to anew."""

    @field_validator("url")
    @classmethod
    def _possible_url(cls, url: str | None) -> str | None:
        return None if url is None else _checked_url(url, CAMERA_SCHEMES)

    @model_validator(mode="after")
    def _one_camera_one_mode(self) -> CameraSource:
        if (self.url is None) == (self.device is None):
            raise ValueError("a camera has either a url or the number of a device")
        if (self.every_seconds is None) != self.trigger:
            raise ValueError("a camera has either every_seconds or trigger: true")
        if self.password_file is not None and self.user is None:
            raise ValueError("password_file needs a user")
        return self

    @property
    def address(self) -> str:
        """Where it is, without user and password."""
        return f"device {self.device}" if self.url is None else self.url


class _Sink(_Connection):
    """verdicts : which inspections it gets; alarms of drift go to every sink but a CSV file.

    max_waiting : results that may wait for it, and dead letters that are kept; beyond, the oldest go.
    """

    verdicts: frozenset[VerdictName] = frozenset({"OK", "REVIEW", "NG", "REJECTED"})
    max_waiting: PositiveInt = 100_000


class WebhookSink(_Sink):
    """An address that is sent each result as a signed POST. secret_file : its first line is whsec_ and base64."""

    kind: Literal["webhook"]
    url: str
    secret_file: ConfiguredPath
    timeout_seconds: PositiveFloat = 10

    @field_validator("url")
    @classmethod
    def _possible_url(cls, url: str) -> str:
        return _checked_url(url, ("http", "https"))

    @property
    def address(self) -> str:
        """Where results go; what stands behind the question mark may be a secret."""
        return self.url.partition("?")[0]

    def secret(self) -> bytes:
        """The key of the signatures.

        Raises
        ------
        UsageError
            The file cannot be read, or holds no secret.
        """
        key = f"sinks.{self.name}.secret_file"
        encoded = first_line(self.secret_file, key).removeprefix("whsec_")
        try:
            secret = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            secret = b""
        if len(secret) < 24:
            raise UsageError(
                "it holds no secret of at least 24 bytes in base64",
                where=key,
                todo="Make one: echo whsec_$(openssl rand -base64 32)",
            )
        return secret


class MqttSink(_Sink):
    """A broker. Results are published below `topic`: TOPIC/inspection and TOPIC/drift, with QoS 1."""

    kind: Literal["mqtt"]
    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    topic: Annotated[str, StringConstraints(pattern=r"^[^#+\x00-\x1f]{1,200}$")] = "blemish"
    user: str | None = None
    password_file: ConfiguredPath | None = None
    tls: bool = False
    ca_file: ConfiguredPath | None = None
    timeout_seconds: PositiveFloat = 10

    @model_validator(mode="after")
    def _consistent(self) -> MqttSink:
        if self.password_file is not None and self.user is None:
            raise ValueError("password_file needs a user")
        if self.ca_file is not None and not self.tls:
            raise ValueError("ca_file needs tls: true")
        return self

    @property
    def address(self) -> str:
        """Where results go."""
        return f"{self.host}:{self.port or (8883 if self.tls else 1883)}/{self.topic}"


class CsvSink(_Sink):
    """A CSV file that each result is appended to. `{date}` in its name is the day of the inspection, in UTC."""

    kind: Literal["csv"]
    path: ConfiguredPath

    @property
    def address(self) -> str:
        """Where results go."""
        return str(self.path)


Source = Annotated[FolderSource | CameraSource, Field(discriminator="kind")]
Sink = Annotated[WebhookSink | MqttSink | CsvSink, Field(discriminator="kind")]


def first_line(path: Path, key: str) -> str:
    """The first line of a file that holds a secret.

    Raises
    ------
    UsageError
        It cannot be read, or is empty; the message names `key` of the configuration.
    """
    try:
        line = path.read_text("utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path} cannot be read: {what}", where=key) from error
    if not line:
        raise UsageError(f"the first line of {path} is empty", where=key)
    return line


def _checked_url(url: str, schemes: tuple[str, ...]) -> str:
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        raise ValueError(f"a url begins with one of {', '.join(f'{scheme}://' for scheme in schemes)}")
    if parts.scheme != "file" and not parts.hostname:
        raise ValueError("the url names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no name or password may stand in a url; there are keys of their own for them")
    return url
