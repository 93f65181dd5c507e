"""Sources and sinks as people enter them: the same fields as in the configuration file, but with secrets in person.

A path is absolute. A password or secret comes with the rest and is kept in a file of the station; it is never shown.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, SecretStr, TypeAdapter, field_validator, model_validator

from blemish.station.connections.kinds import (
    CameraFields,
    CsvFields,
    FolderFields,
    MqttFields,
    Sink,
    Source,
    WebhookFields,
    Words,
    decoded,
    wrong,
)

_SOURCE: Final[TypeAdapter[Source]] = TypeAdapter(Source)
_SINK: Final[TypeAdapter[Sink]] = TypeAdapter(Sink)

_SECRETS: Final = {"camera": "password_file", "mqtt": "password_file", "webhook": "secret_file"}


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise wrong("path", "not_absolute", "a path begins with /")
    return path


def _table(path: str) -> str:
    if not path.endswith(".csv"):
        raise wrong("path", "not_csv", "the name of the file ends in .csv")
    return path


def _one_line(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and not secret.get_secret_value().isprintable():
        raise wrong("password", "not_printable", "it holds signs that cannot be printed")
    return secret


EnteredPath = Annotated[Words, AfterValidator(_absolute)]
EnteredSecret = Annotated[SecretStr, Field(min_length=1, max_length=1000), AfterValidator(_one_line)]
_KEPT = "never shown; null keeps the present one"


class FolderWanted(FolderFields):
    """A folder to be watched."""

    path: EnteredPath = Field(description="on the machine of the station")


class CameraWanted(CameraFields):
    """A camera to be looked through."""

    password: EnteredSecret | None = Field(default=None, description=_KEPT)

    @model_validator(mode="after")
    def _of_somebody(self) -> CameraWanted:
        _password_of_somebody(self.user, self.password)
        return self


class WebhookWanted(WebhookFields):
    """An address to be sent results."""

    secret: EnteredSecret | None = Field(default=None, description=f"whsec_ and base64; {_KEPT}")

    @field_validator("secret")
    @classmethod
    def _strong(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and decoded(secret.get_secret_value()) is None:
            raise wrong("secret", "weak_secret", "it is no secret of at least 24 bytes in base64")
        return secret


class MqttWanted(MqttFields):
    """A broker to publish results to."""

    password: EnteredSecret | None = Field(default=None, description=_KEPT)
    ca_file: EnteredPath | None = Field(default=None, description="certificates that the broker's is signed with")

    @model_validator(mode="after")
    def _consistent(self) -> MqttWanted:
        _password_of_somebody(self.user, self.password)
        if self.ca_file is not None and not self.tls:
            raise wrong("tls", "tls_needed", "ca_file needs tls: true")
        return self


class CsvWanted(CsvFields):
    """A CSV file to be written."""

    path: Annotated[EnteredPath, AfterValidator(_table)] = Field(
        description="on the machine of the station; {date} in it is the day of the inspection, in UTC"
    )


SourceWanted = Annotated[FolderWanted | CameraWanted, Field(discriminator="kind")]
SinkWanted = Annotated[WebhookWanted | MqttWanted | CsvWanted, Field(discriminator="kind")]
Wanted = FolderWanted | CameraWanted | WebhookWanted | MqttWanted | CsvWanted


def secret_of(wanted: Wanted) -> str | None:
    """The password or secret that came with it."""
    secret: SecretStr | None = getattr(wanted, "secret" if wanted.kind == "webhook" else "password", None)
    return None if secret is None else secret.get_secret_value()


def options_of(wanted: Wanted) -> dict[str, Any]:
    """What is to be remembered beside the name and the secret."""
    options = wanted.model_dump(mode="json", exclude={"name", "password", "secret"})
    if "verdicts" in options:
        options["verdicts"] = sorted(options["verdicts"])
    return options


def source_of(name: str, options: dict[str, Any], secret_file: object | None) -> Source:
    """The settings of a source.

    Raises
    ------
    ValidationError
        There can be no such source.
    """
    return _SOURCE.validate_python(_whole(name, options, secret_file))


def sink_of(name: str, options: dict[str, Any], secret_file: object | None) -> Sink:
    """The settings of a sink; raises as `source_of` does."""
    return _SINK.validate_python(_whole(name, options, secret_file))


def _whole(name: str, options: dict[str, Any], secret_file: object | None) -> dict[str, Any]:
    secret = {} if secret_file is None else {_SECRETS[options["kind"]]: secret_file}
    return {"name": name, **options, **secret}


def _password_of_somebody(user: str | None, password: SecretStr | None) -> None:
    if password is not None and user is None:
        raise wrong("user", "user_needed", "a password needs a user")
