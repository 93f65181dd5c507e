"""Where images come from and where results go, what a sink has refused, and the forms to add and change them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Query
from fastapi.responses import HTMLResponse

from blemish.station.api.guards import TheStation
from blemish.station.connections.entered import CameraWanted, CsvWanted, FolderWanted, MqttWanted, WebhookWanted
from blemish.station.connections.kinds import MqttFields
from blemish.station.errors import Code, StationError
from blemish.station.pages.frame import Frame, Place, page_router, seen_by
from blemish.station.people import Right
from blemish.station.sinks import SinkState
from blemish.station.sources import SourceState
from blemish.station.station import Station

PLACE = Place("/connections", "connections")
router = page_router()
Managing = Annotated[Frame, Depends(seen_by(Right.MANAGE))]
Wanted = Annotated[str | None, Query(max_length=100)]

LETTERS = 20
"""Dead letters of a sink that are shown, the newest ones."""

VERDICTS: Final = ("OK", "REVIEW", "NG", "REJECTED")


@dataclass(frozen=True)
class Field:
    """A field of a form, named as the API has it.

    shape : of its control. kinds : of connections that have it. text : of its label: connection.TEXT; and where there
    is hint_TEXT, of what is said below. choices : values that can be chosen, each with a text.
    """

    name: str
    shape: str
    kinds: tuple[str, ...]
    text: str = ""
    hint: bool = False
    choices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The key of its label."""
        return self.text or self.name


_FOLDER, _CAMERA, _WEBHOOK, _MQTT, _CSV = (("folder",), ("camera",), ("webhook",), ("mqtt",), ("csv",))

FIELDS: Final[dict[str, tuple[Field, ...]]] = {
    "source": (
        Field("path", "text", _FOLDER, "folder", hint=True),
        Field("url", "text", _CAMERA, "camera_url", hint=True),
        Field("device", "whole", _CAMERA, hint=True),
        Field("user", "text", _CAMERA),
        Field("password", "secret", _CAMERA),
        Field("every_seconds", "number", _CAMERA),
        Field("trigger", "check", _CAMERA, hint=True),
        Field("patience_seconds", "number", _CAMERA),
        Field("settle_seconds", "number", _FOLDER, hint=True),
        Field("after", "choice", _FOLDER, choices=("move", "delete")),
        Field("model", "model", _FOLDER + _CAMERA),
    ),
    "sink": (
        Field("url", "text", _WEBHOOK, "webhook_url"),
        Field("secret", "secret", _WEBHOOK, hint=True),
        Field("host", "text", _MQTT),
        Field("port", "whole", _MQTT, hint=True),
        Field("tls", "check", _MQTT),
        Field("ca_file", "text", _MQTT, hint=True),
        Field("topic", "text", _MQTT),
        Field("user", "text", _MQTT),
        Field("password", "secret", _MQTT),
        Field("path", "text", _CSV, "table", hint=True),
        Field("verdicts", "verdicts", _WEBHOOK + _MQTT + _CSV, hint=True),
        Field("timeout_seconds", "number", _WEBHOOK + _MQTT),
        Field("max_waiting", "whole", _WEBHOOK + _MQTT + _CSV, hint=True),
    ),
}
KINDS: Final = {"source": ("folder", "camera"), "sink": ("webhook", "mqtt", "csv")}
_MODELS: Final = (FolderWanted, CameraWanted, WebhookWanted, MqttWanted, CsvWanted)
_BEGIN: Final = {"every_seconds": 2, "topic": MqttFields.model_fields["topic"].default, "verdicts": VERDICTS}

PROBLEMS: Final = (
    *("missing", "other", "string_too_short", "string_too_long", "string_pattern_mismatch", "string_type"),
    *("greater_than", "greater_than_equal", "less_than_equal", "float_parsing", "int_parsing", "int_from_float"),
    *("name_taken", "not_absolute", "not_csv", "no_such_folder", "no_such_file", "folder_unusable", "file_unusable"),
    *("folder_of_station", "folder_not_allowed", "watched_already", "written_already", "no_such_model", "model_needed"),
    *("url_or_device", "every_or_trigger", "url_broken", "url_scheme", "url_host", "url_login", "user_needed"),
    *("tls_needed", "weak_secret", "not_printable", "password_again", "fewer_than_wait", "camera_not_installed"),
    "does_not_work",
)
"""The codes of complaints about a field for which the pages have a sentence; `other` is for the rest."""


@router.get(PLACE.path)
def connections(frame: Annotated[Frame, Depends(seen_by(PLACE.right))], station: TheStation) -> HTMLResponse:
    """Sources and sinks as they stand."""
    sinks = station.senders.states()
    return frame.page(
        "connections.html.jinja",
        sources=station.sources.states(),
        sinks=sinks,
        left=station.connecting.left(),
        letters={sink.name: station.outbox.dead_letters(sink.name, None, LETTERS) for sink in sinks if sink.dead},
    )


@router.get(PLACE.path + "/source")
def source(frame: Managing, station: TheStation, name: Wanted = None) -> HTMLResponse:
    """The form of a source: the one of this name, or a new one."""
    return _form(frame, station, "source", name, {state.name: state for state in station.sources.states()})


@router.get(PLACE.path + "/sink")
def sink(frame: Managing, station: TheStation, name: Wanted = None) -> HTMLResponse:
    """The form of a sink: the one of this name, or a new one."""
    return _form(frame, station, "sink", name, {state.name: state for state in station.senders.states()})


def _form(
    frame: Frame,
    station: Station,
    direction: str,
    name: str | None,
    states: dict[str, Any],
) -> HTMLResponse:
    shown: SourceState | SinkState | None = None
    if name is not None:
        shown = states.get(name)
        if shown is None:
            raise StationError(Code.NOT_FOUND, f"there is no {direction} {name}")
        if shown.origin == "file":
            raise StationError(Code.FROM_FILE, f"the {direction} {name} stands in the configuration file")
    kinds = KINDS[direction] if shown is None else (shown.kind,)
    return frame.page(
        "connection.html.jinja",
        direction=direction,
        shown=shown,
        kinds=kinds,
        fields=[field for field in FIELDS[direction] if set(field.kinds) & set(kinds)],
        values=_defaults() if shown is None else shown.options,
        models=[state.name for state in station.models.states() if state.versions],
        verdicts=VERDICTS,
        problems={code: frame.text.all[f"field.{code}"] for code in PROBLEMS},
    )


def _defaults() -> dict[str, Any]:
    """What a new connection has until somebody says otherwise."""
    found: dict[str, Any] = {}
    for model in _MODELS:
        for name, field in model.model_fields.items():
            found[name] = None if field.is_required() else field.default
    return found | _BEGIN
