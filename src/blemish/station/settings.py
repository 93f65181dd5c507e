"""What a station is told when it starts."""

from __future__ import annotations

import ipaddress
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from blemish.cores import usable_cores
from blemish.runtime import RuntimeChoice
from blemish.station.connections.kinds import ConfiguredPath, Sink, Source

MEBIBYTE = 2**20
DEFAULT_NAME = "station"


def is_url(pictures: str) -> bool:
    """Whether this names a store by its URL, and not a folder by its path."""
    return "://" in pictures or "::" in pictures


class Retention(BaseModel):
    """How long pictures are kept, in days; None keeps them for good. The rows of inspections are always kept.

    A reviewed inspection counts as reviewed whatever its verdict. Where all pictures together exceed `max_bytes`, the
    oldest go early: first those of good parts, last those of reviewed ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ok_days: PositiveFloat | None = 30
    rejected_days: PositiveFloat | None = 30
    review_days: PositiveFloat | None = 180
    ng_days: PositiveFloat | None = 365
    reviewed_days: PositiveFloat | None = None
    max_bytes: PositiveInt | None = None


class Drift(BaseModel):
    """How production is watched for changes; see `blemish.station.drift`.

    false_alarm_rate : the chance that a version which sees the same production for ever is ever said to drift.
    tolerated_ng : the share of bad parts that belongs to production.
    reference : the first images of a version at a station, whose brightness, sharpness and colour later ones are
        compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    false_alarm_rate: float = Field(default=0.01, gt=0, lt=1)
    tolerated_ng: float = Field(default=0.05, ge=0, lt=0.5)
    reference: int = Field(default=200, ge=20, le=10_000)


class Settings(BaseModel):
    """Everything that can be chosen about a station.

    models : the folder of model files. data : the folder where copies of the model files, trainings and the embedded
        database lie, and pictures.
    pictures : where images and heat maps lie instead: a folder, or a URL that fsspec knows.
    database : a SQLAlchemy URL; None is SQLite inside `data`.
    name : of the station; it stands in every inspection, and what is active is remembered under it. Several stations
        may share one database, each by a name of its own.
    queue : images that may wait for a model, and requests to inspect that may be open at once.
    threads : of the runtime for each model; None shares the cores out among the models.
    runtime : what runs the graphs; "auto" takes the fastest that is installed.
    training_folders : below which folders of images may be trained on; none allows none.
    connection_folders : in which the page may have folders watched and CSV files written; None is wherever the
        station may.
    training_threads : of a training; None takes half of the cores, so that inspecting keeps the others.
    audit_share : share of images, drawn whatever their verdict, that people are to review so that a model can be
        calibrated anew.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: ConfiguredPath
    data: ConfiguredPath
    pictures: str | None = None
    database: str | None = None
    name: str = Field(default=DEFAULT_NAME, min_length=1, max_length=100)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    queue: PositiveInt = 64
    threads: PositiveInt | None = None
    runtime: RuntimeChoice = "onnxruntime"
    training_folders: tuple[ConfiguredPath, ...] = ()
    connection_folders: tuple[ConfiguredPath, ...] | None = None
    training_threads: PositiveInt | None = None
    audit_share: float = Field(default=0.01, ge=0, le=1)
    max_body_bytes: PositiveInt = 64 * MEBIBYTE
    body_seconds: PositiveFloat = 30
    """A body that takes longer to arrive is given up."""
    drain_seconds: PositiveFloat = 30
    """After SIGTERM, what is being judged has this long to be answered."""
    notice_seconds: float = Field(default=1, ge=0)
    """After SIGTERM, the station listens at least this long, so that whoever watches it sees that it is not ready."""
    scan_seconds: PositiveFloat = 5
    """Between two looks at the folder of model files."""
    sweep_seconds: PositiveFloat = 3600
    """Between two runs of the retention."""
    retention: Retention = Retention()
    drift: Drift = Drift()
    sources: tuple[Source, ...] = ()
    sinks: tuple[Sink, ...] = ()

    @field_validator("data")
    @classmethod
    def _of_this_machine(cls, data: Path) -> Path:
        if any(part.endswith(":") for part in data.parts):
            raise ValueError("it must be a folder of this machine; `pictures` takes the URL of a store")
        return data

    @field_validator("pictures")
    @classmethod
    def _known_store(cls, pictures: str | None, info: ValidationInfo) -> str | None:
        if pictures is None:
            return None
        if not is_url(pictures):
            base: Path = (info.context or {}).get("base", Path())
            return str((base / pictures).absolute())
        for part in pictures.split("::"):
            protocol = part.partition("://")[0]
            try:
                fsspec.get_filesystem_class(protocol)
            except ImportError as error:
                raise ValueError(f"{protocol} needs a package that is not installed; {error}") from error
            except ValueError:
                known = "file, s3, gs, abfs, sftp and others of fsspec"
                raise ValueError(f"{protocol} is no kind of store that is known: {known}") from None
        return pictures

    @field_validator("sources", "sinks")
    @classmethod
    def _names_differ(cls, connections: tuple[Any, ...]) -> tuple[Any, ...]:
        (name, n), *_ = Counter(one.name for one in connections).most_common(1) or [("", 0)]
        if n > 1:
            raise ValueError(f"the name {name} stands there {n} times")
        return connections

    @field_validator("training_folders", "connection_folders")
    @classmethod
    def _resolved(cls, folders: tuple[Path, ...] | None) -> tuple[Path, ...] | None:
        return None if folders is None else tuple(folder.resolve() for folder in folders)

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return self.database or f"sqlite:///{self.data / 'station.db'}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the station."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def threads_for(self, models: int) -> int:
        """Threads of the runtime for each of so many models."""
        return self.threads or max(1, usable_cores() // max(1, models))

    @property
    def threads_for_training(self) -> int:
        """Threads of a training."""
        return self.training_threads or max(1, usable_cores() // 2)
