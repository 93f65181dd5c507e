"""What can be said of sources and sinks, in the configuration file and at the page: where images come from, and where
results go.

Whatever cannot be is refused with a code, so that a page can say it in the language of whoever reads it.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from blemish.errors import UsageError


def _from_its_file(path: Path, info: ValidationInfo) -> Path:
    """A path of a configuration file counts from the folder of that file."""
    base: Path = (info.context or {}).get("base", Path())
    return (base / path).absolute()


ConfiguredPath = Annotated[Path, AfterValidator(_from_its_file)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]+$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.\-]{0,99}$")]
Model = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Origin = Literal["file", "page"]
"""Where a connection was named: in the configuration file, or at the page (or through the API)."""
VerdictName = Literal["OK", "REVIEW", "NG", "REJECTED"]

KINDS: Final = ("folder", "camera", "webhook", "mqtt", "csv")
CAMERA_SCHEMES = ("rtsp", "rtsps", "http", "https", "file")


class _Connection(BaseModel):
    """name : stands in inspections, metrics and the API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name


class FolderFields(_Connection):
    """A folder into which others put image files.

    model : None where there is only one. settle_seconds : a file is complete once it has not changed for so long.
    after : what becomes of an inspected file: it moves to `done` inside the folder, or is deleted, for the station
        keeps its own copy.
    """

    kind: Literal["folder"]
    model: Model | None = None
    settle_seconds: Seconds = 1
    after: Literal["move", "delete"] = "move"


class FolderSource(FolderFields):
    """A folder as the station watches it."""

    path: ConfiguredPath

    @property
    def address(self) -> str:
        """Where it is."""
        return str(self.path)


class CameraFields(_Connection):
    """A camera: `url` of one on the network, or the number of a `device` on this machine.

    every_seconds : between two inspections. trigger : inspect when asked to, and at no other time.
    user : of the camera. patience_seconds : a camera that gives no frame for so long is connected to anew.
    """

    kind: Literal["camera"]
    url: Words | None = None
    device: int | None = Field(default=None, ge=0, le=1000)
    user: Words | None = None
    model: Model | None = None
    every_seconds: Seconds | None = None
    trigger: bool = False
    patience_seconds: Seconds = 5

    @field_validator("url")
    @classmethod
    def _possible_url(cls, url: str | None) -> str | None:
        return None if url is None else _checked_url(url, CAMERA_SCHEMES)

    @model_validator(mode="after")
    def _one_camera_one_mode(self) -> CameraFields:
        if (self.url is None) == (self.device is None):
            raise wrong("url", "url_or_device", "a camera has either a url or the number of a device")
        if (self.every_seconds is None) != self.trigger:
            raise wrong("every_seconds", "every_or_trigger", "a camera has either every_seconds or trigger: true")
        return self

    @property
    def address(self) -> str:
        """Where it is, without user and password; what stands behind the question mark may hold both."""
        return f"device {self.device}" if self.url is None else self.url.partition("?")[0]


class CameraSource(CameraFields):
    """A camera as the station uses it. password_file : its first line is the password."""

    password_file: ConfiguredPath | None = None

    @model_validator(mode="after")
    def _password_of_somebody(self) -> CameraSource:
        if self.password_file is not None and self.user is None:
            raise wrong("user", "user_needed", "password_file needs a user")
        return self


class _Sink(_Connection):
    """verdicts : which inspections it gets; alarms of drift go to every sink but a CSV file.

    max_waiting : results that may wait for it, and dead letters that are kept; beyond, the oldest go.
    """

    verdicts: frozenset[VerdictName] = frozenset({"OK", "REVIEW", "NG", "REJECTED"})
    max_waiting: int = Field(default=100_000, ge=1, le=100_000_000)


class WebhookFields(_Sink):
    """An address that is sent each result as a signed POST."""

    kind: Literal["webhook"]
    url: Words
    timeout_seconds: Seconds = 10

    @field_validator("url")
    @classmethod
    def _possible_url(cls, url: str) -> str:
        return _checked_url(url, ("http", "https"))

    @property
    def address(self) -> str:
        """Where results go; what stands behind the question mark may be a secret."""
        return self.url.partition("?")[0]


class WebhookSink(WebhookFields):
    """A webhook as the station uses it. secret_file : its first line is whsec_ and base64."""

    secret_file: ConfiguredPath

    def secret(self) -> bytes:
        """The key of the signatures.

        Raises
        ------
        UsageError
            The file cannot be read, or holds no secret.
        """
        key = f"sinks.{self.name}.secret_file"
        secret = decoded(first_line(self.secret_file, key))
        if secret is None:
            raise UsageError(
                "it holds no secret of at least 24 bytes in base64",
                where=key,
                todo="Make one: echo whsec_$(openssl rand -base64 32)",
            )
        return secret


class MqttFields(_Sink):
    """A broker. Results are published below `topic`: TOPIC/inspection and TOPIC/drift, with QoS 1."""

    kind: Literal["mqtt"]
    host: Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x20\x7f/@]+$")]
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    topic: Annotated[str, StringConstraints(pattern=r"^[^#+\x00-\x1f]{1,200}$")] = "blemish"
    user: Words | None = None
    tls: bool = False
    timeout_seconds: Seconds = 10

    @property
    def address(self) -> str:
        """Where results go."""
        return f"{self.host}:{self.port or (8883 if self.tls else 1883)}/{self.topic}"


class MqttSink(MqttFields):
    """A broker as the station uses it. password_file : its first line is the password."""

    password_file: ConfiguredPath | None = None
    ca_file: ConfiguredPath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> MqttSink:
        if self.password_file is not None and self.user is None:
            raise wrong("user", "user_needed", "password_file needs a user")
        if self.ca_file is not None and not self.tls:
            raise wrong("tls", "tls_needed", "ca_file needs tls: true")
        return self


class CsvFields(_Sink):
    """A CSV file that each result is appended to."""

    kind: Literal["csv"]


class CsvSink(CsvFields):
    """A CSV file as the station writes it. `{date}` in its name is the day of the inspection, in UTC."""

    path: ConfiguredPath

    @property
    def address(self) -> str:
        """Where results go."""
        return str(self.path)


Source = Annotated[FolderSource | CameraSource, Field(discriminator="kind")]
Sink = Annotated[WebhookSink | MqttSink | CsvSink, Field(discriminator="kind")]


def shown(settings: Source | Sink) -> dict[str, Any]:
    """What was said of a connection as others may read it: whether it has a secret, but neither that nor its file.

    What stands behind the question mark of a url may be one, too.
    """
    options = settings.model_dump(mode="json", exclude={"name", "kind", "password_file", "secret_file"})
    if options.get("url") is not None:
        options["url"] = options["url"].partition("?")[0]
    if "verdicts" in options:
        options["verdicts"] = sorted(options["verdicts"])
    if not isinstance(settings, FolderSource | CsvSink):
        options["secret"] = secret_file(settings) is not None
    return options


def secret_file(settings: Source | Sink) -> Path | None:
    """The file whose first line is the password or the secret of a connection."""
    file: Path | None = getattr(settings, "secret_file" if settings.kind == "webhook" else "password_file", None)
    return file


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


def decoded(secret: str) -> bytes | None:
    """The key of the signatures that a secret stands for; None if that is no base64, or less than 24 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return None
    return key if len(key) >= 24 else None


def wrong(field: str, code: str, message: str, **values: Any) -> PydanticCustomError:
    """What a validator raises: which field is to be seen to, a code that stays, and a sentence with its values."""
    return PydanticCustomError(code, message, {"field": field, **values})


def _checked_url(url: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong("url", "url_broken", "this is no url") from None
    if parts.scheme not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise wrong("url", "url_scheme", "a url begins with one of {schemes}", schemes=known)
    if parts.scheme != "file" and (not parts.hostname or port == 0):
        raise wrong("url", "url_host", "the url names no host")
    if parts.username is not None or parts.password is not None:
        raise wrong("url", "url_login", "no name or password may stand in a url; there are keys of their own for them")
    return url
