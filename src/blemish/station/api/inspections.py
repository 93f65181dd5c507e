"""Inspecting, looking at inspections, and answering them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from blemish.errors import ImageError
from blemish.images import ImageContract, read, to_display
from blemish.pictures import Picture, outline, png, thumbnail, webp
from blemish.station.api.answers import refusals
from blemish.station.api.guards import Inspecting, Looking, Reviewing, TheStation
from blemish.station.errors import Code, StationError
from blemish.station.inspections import Answer, Filter, Label, RequestKey, VerdictName, place_in_queue
from blemish.station.maps import LAST_CALM, decode_map, heat_map, overlaid
from blemish.station.media import media_type
from blemish.station.station import Sent, Station
from blemish.station.tables import Inspection, Review

router = APIRouter(prefix="/api/v1", tags=["inspections"])

LARGEST_KEY = 2**63 - 1
Number = Annotated[int, Path(ge=1, le=LARGEST_KEY, description="of the inspection")]
Before = Annotated[int | None, Query(ge=1, le=LARGEST_KEY, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=500)]
# No control characters: PostgreSQL stores no NUL, and nobody could read the others.
Line = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Words = Annotated[str, StringConstraints(max_length=5000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]
ModelName = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
VersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]
Point = Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=2, max_length=2)]
"""[x, y] in pixels of the image."""


class RegionFound(BaseModel):
    """A defect region: bounding box and area in pixels of the image, the map's largest value inside."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


class ReviewGiven(BaseModel):
    """A person's answer to an inspection."""

    time: datetime
    by: str
    answer: Answer
    label: Label
    note: str
    region: list[Point] | None

    @classmethod
    def of(cls, review: Review) -> ReviewGiven:
        """A row as it is shown."""
        return cls.model_validate(review, from_attributes=True)


class InspectionShown(BaseModel):
    """An image judged. score, p_value, threshold and the rates are null if it was rejected."""

    id: int
    time: datetime
    station: str
    source: str | None
    file: str | None
    model: str
    version: int
    model_sha256: str
    image_sha256: str
    image_bytes: int
    verdict: VerdictName
    reason: str
    detail: str
    score: float | None
    p_value: float | None
    threshold: float | None
    false_alarm_rate: float | None = Field(description="that made NG of the p-value")
    review_rate: float | None = Field(description="that made REVIEW of it")
    regions: list[RegionFound]
    waited_ms: float
    judged_ms: float
    pictures_removed: datetime | None
    review: ReviewGiven | None = Field(default=None, description="the one that counts, which is the newest")

    @classmethod
    def of(cls, inspection: Inspection, review: Review | None = None) -> InspectionShown:
        """A row as it is shown."""
        fields = {name: getattr(inspection, name) for name in cls.model_fields if name != "review"}
        return cls(**fields, review=None if review is None else ReviewGiven.of(review))


class Inspected(BaseModel):
    """The images of a request judged, in their order."""

    inspections: list[InspectionShown]


class InspectionPage(BaseModel):
    """Some of the inspections, newest first."""

    inspections: list[InspectionShown]
    next: int | None = Field(description="`before` of the following page; null if this is the last")


class Queue(BaseModel):
    """Inspections that nobody has reviewed, those first that need it most."""

    inspections: list[InspectionShown]
    next: str | None = Field(description="`after` of the following page; null if this is the last")
    counts: dict[VerdictName, int] = Field(description="how many there are in all, counted up to 1000")


class ReviewWanted(BaseModel):
    """An answer to an inspection.

    label may be left out where verdict and answer say it: OK confirmed and NG overruled are normal, OK overruled and NG
    confirmed anomalous.
    """

    model_config = ConfigDict(extra="forbid")

    answer: Answer
    label: Label | None = None
    note: Words = ""
    region: Annotated[list[Point], Field(min_length=3, max_length=1000)] | None = Field(
        default=None, description="a drawn polygon, [x, y] in pixels of the image"
    )


class Reviews(BaseModel):
    """All answers to an inspection, oldest first."""

    reviews: list[ReviewGiven]


class Hour(BaseModel):
    """How many inspections had which verdict within an hour."""

    hour: datetime
    counts: dict[VerdictName, int]
    yield_: float | None = Field(alias="yield", description="share of OK among those judged; null if none was")


class ReviewCount(BaseModel):
    """How many inspections with this verdict got this answer."""

    verdict: VerdictName
    answer: Answer
    label: Label
    count: int


class Stats(BaseModel):
    """Inspections counted. REJECTED ones were not judged and count for no yield."""

    counts: dict[VerdictName, int]
    yield_: float | None = Field(alias="yield")
    hours: list[Hour]
    reviews: list[ReviewCount]


def filters(
    line: TheStation,
    verdict: VerdictName | None = None,
    model: ModelName | None = None,
    version: VersionNumber | None = None,
    station: Line | None = None,
    source: Line | None = None,
    since: Annotated[AwareDatetime | None, Query(description="included; with its time zone")] = None,
    until: Annotated[AwareDatetime | None, Query(description="not included; with its time zone")] = None,
    reviewed: bool | None = None,
    label: Annotated[Label | None, Query(description="what the review that counts says")] = None,
    audit_sample: Annotated[bool, Query(description="only those drawn for the audit sample")] = False,
) -> Filter:
    """The filter that the query of a request describes."""
    share = line.inspections.audit_share if audit_sample else None
    return Filter(verdict, model, version, station, source, in_utc(since), in_utc(until), reviewed, label, share)


def in_utc(time: datetime | None) -> datetime | None:
    """A time of a request in UTC.

    Raises
    ------
    StationError
        invalid_request.
    """
    try:
        return None if time is None else time.astimezone(UTC)
    except OverflowError:
        raise StationError(Code.INVALID_REQUEST, "a time lies outside the years 1 to 9999") from None


TheFilter = Annotated[Filter, Depends(filters)]

OnceOnly = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="chosen anew for each request: sent once more, it gets the answer that was stored",
    ),
]
"""The header Idempotency-Key."""


def request_key(
    by: str, key: str | None, images: Sequence[Sent], model: str | None, version: int | None, source: str | None
) -> RequestKey | None:
    """By what a request to inspect is known again, if its sender gave it a key."""
    if key is None:
        return None
    parts = [model, version, source, *(hashlib.sha256(image.content).hexdigest() for image in images)]
    return RequestKey(by, key, hashlib.sha256(json.dumps(parts).encode()).hexdigest())


_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_INSPECT_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of one image file (PNG, JPEG, BMP, TIFF, WebP), or a form with one or more files.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            "application/octet-stream": _BINARY,
            "image/*": _BINARY,
        },
    }
}


@router.post(
    "/inspect",
    openapi_extra=_INSPECT_BODY,
    responses=refusals(
        Code.NO_IMAGE,
        Code.MODEL_NEEDED,
        Code.NO_SUCH_MODEL,
        Code.NO_SUCH_VERSION,
        Code.INVALID_REQUEST,
        Code.BODY_TOO_SLOW,
        Code.KEY_REUSED,
        Code.TOO_MANY_IMAGES,
        Code.QUEUE_FULL,
        Code.MODEL_NOT_READY,
        Code.STORAGE_FAILED,
        Code.DRAINING,
    ),
)
async def inspect(
    request: Request,
    station: TheStation,
    who: Inspecting,
    model: Annotated[ModelName | None, Query(description="may be left out where there is only one")] = None,
    version: Annotated[VersionNumber | None, Query(description="default is the active one")] = None,
    source: Annotated[Line | None, Query(description="which camera or line; default is who sends it")] = None,
    idempotency_key: OnceOnly = None,
) -> Inspected:
    """Judge one image, or several. An image that cannot be judged is REJECTED, which is a result like any other."""
    with station.admitted():
        images = await _images(request)
        key = request_key(who.by, idempotency_key, images, model, version, source)
        rows = await station.inspect(images, model, version, source or who.by, key)
    return Inspected(inspections=[InspectionShown.of(row) for row in rows])


@router.get("/inspections", responses=refusals())
def list_inspections(
    station: TheStation, who: Looking, query: TheFilter, before: Before = None, limit: Limit = 50
) -> InspectionPage:
    """Inspections, newest first."""
    rows = station.inspections.page(query, before, limit + 1)
    shown = [InspectionShown.of(*row) for row in rows[:limit]]
    return InspectionPage(inspections=shown, next=shown[-1].id if len(rows) > limit else None)


@router.get("/review-queue", responses=refusals(Code.INVALID_CURSOR))
def review_queue(
    station: TheStation,
    who: Looking,
    model: ModelName | None = None,
    after: Annotated[Line | None, Query(description="`next` of the page before")] = None,
    limit: Limit = 20,
    audit_sample: Annotated[bool, Query(description="only those drawn for the audit sample")] = False,
) -> Queue:
    """What this station judged and nobody has reviewed: doubtful first, then NG, REJECTED, OK; of each newest first."""
    rows = station.inspections.queue(model, after, limit + 1, audit=audit_sample)
    return Queue(
        inspections=[InspectionShown.of(*row) for row in rows[:limit]],
        next=place_in_queue(rows[limit - 1][0]) if len(rows) > limit else None,
        counts=station.inspections.queued(model, audit=audit_sample),
    )


@router.get("/inspections/{number}", responses=refusals(Code.NO_SUCH_INSPECTION))
def one_inspection(station: TheStation, who: Looking, number: Number) -> InspectionShown:
    """One inspection, with the review that counts."""
    return InspectionShown.of(*station.inspections.get(number))


Side = Annotated[
    int | None, Query(ge=16, le=2000, description="of the longer side at most, then as WebP; default is full size, PNG")
]


def _pictures(*media: str) -> dict[int | str, dict[str, Any]]:
    refused = refusals(Code.NO_SUCH_INSPECTION, Code.NO_PICTURE, Code.STORAGE_FAILED)
    content = dict.fromkeys(media, _BINARY)
    return {200: {"content": content, "description": "The picture"}, 304: {"description": "It is the same"}, **refused}


_DRAWN: Final = _pictures("image/png", "image/webp")


@router.get("/inspections/{number}/image", response_class=Response, responses=_pictures("image/*"))
def image(request: Request, station: TheStation, who: Looking, number: Number) -> Response:
    """The image as it came, byte for byte."""
    inspection, _ = station.inspections.get(number)
    content = _image(station, inspection)
    return _unchanging(request, inspection.image_sha256, lambda: (content, media_type(content)))


@router.get("/inspections/{number}/display", response_class=Response, responses=_DRAWN)
def display(request: Request, station: TheStation, who: Looking, number: Number, side: Side = None) -> Response:
    """The image as people look at it: upright, in 8 bits."""
    inspection, _ = station.inspections.get(number)
    content = _image(station, inspection)
    return _unchanging(
        request,
        f"d{inspection.image_sha256}-{side}",
        lambda: _encoded(_shrunk(_displayed(station, inspection, content), side), side),
    )


@router.get("/inspections/{number}/heatmap", response_class=Response, responses=_DRAWN)
def heatmap(request: Request, station: TheStation, who: Looking, number: Number, side: Side = None) -> Response:
    """The anomaly map in colours, from 0 to twice the threshold."""
    inspection, _ = station.inspections.get(number)
    content = _map(station, inspection)
    return _unchanging(
        request,
        f"h{inspection.map_sha256}-{side}",
        lambda: _encoded(heat_map(_shrunk(decode_map(content), side)), side),
    )


@router.get("/inspections/{number}/outline", response_class=Response, responses=_pictures("image/png"))
def outlined(request: Request, station: TheStation, who: Looking, number: Number) -> Response:
    """A line around the marked pixels, to be laid over the image: white, and transparent everywhere else."""
    inspection, _ = station.inspections.get(number)
    content = _map(station, inspection)
    return _unchanging(request, f"l{inspection.map_sha256}", lambda: (_line(decode_map(content)), "image/png"))


@router.get("/inspections/{number}/overlay", response_class=Response, responses=_DRAWN)
def overlay(request: Request, station: TheStation, who: Looking, number: Number, side: Side = None) -> Response:
    """The image with the heat map over it and the marked pixels outlined."""
    inspection, _ = station.inspections.get(number)
    heat, content = _map(station, inspection), _image(station, inspection)

    def drawn() -> tuple[bytes, str]:
        shown = _shrunk(_displayed(station, inspection, content), side)
        return _encoded(overlaid(shown, _shrunk(decode_map(heat), side)), side)

    return _unchanging(request, f"o{inspection.map_sha256}{inspection.image_sha256}-{side}", drawn)


@router.post(
    "/inspections/{number}/reviews",
    status_code=201,
    responses=refusals(Code.NO_SUCH_INSPECTION, Code.LABEL_NEEDED, Code.LABEL_CONTRADICTS),
)
def review(station: TheStation, who: Reviewing, number: Number, wanted: ReviewWanted) -> ReviewGiven:
    """Confirm or overrule a verdict. Earlier answers are kept; the newest one counts."""
    return ReviewGiven.of(
        station.inspections.review(number, who.by, wanted.answer, wanted.label, wanted.note, wanted.region)
    )


@router.get("/inspections/{number}/reviews", responses=refusals(Code.NO_SUCH_INSPECTION))
def reviews(station: TheStation, who: Looking, number: Number) -> Reviews:
    """All answers to an inspection, oldest first."""
    return Reviews(reviews=[ReviewGiven.of(row) for row in station.inspections.reviews(number)])


@router.get("/stats", responses=refusals())
def stats(station: TheStation, who: Looking, query: TheFilter) -> Stats:
    """How many inspections had which verdict, in all and by the hour, and how people answered them."""
    hours: dict[str, dict[str, int]] = {}
    total: dict[str, int] = {}
    for hour, verdict, count in station.inspections.stats(query):
        hours.setdefault(hour, {})[verdict] = count
        total[verdict] = total.get(verdict, 0) + count
    answers = station.inspections.review_counts(query)
    return Stats.model_validate(
        {
            "counts": total,
            "yield": _yield(total),
            "hours": [{"hour": hour, "counts": counts, "yield": _yield(counts)} for hour, counts in hours.items()],
            "reviews": [
                {"verdict": verdict, "answer": answer, "label": label, "count": count}
                for verdict, answer, label, count in answers
            ],
        }
    )


async def _images(request: Request) -> list[Sent]:
    """The images of a body, as a form or raw.

    Raises
    ------
    StationError
        no_image, too_many_images, invalid_request.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = await request.body()
        if not body:
            raise StationError(
                Code.NO_IMAGE, "the body is empty", todo="Send the bytes of an image file, or a form with files"
            )
        return [Sent(body)]
    station: Station = request.app.state.station
    try:
        async with request.form(max_files=station.settings.queue, max_fields=100) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            images = [Sent(await file.read(), _file_name(file.filename)) for file in files]
    except HTTPException as error:  # what Starlette makes of a form that it cannot read
        raise _form_refused(error.detail, station) from error
    if not images:
        raise StationError(Code.NO_IMAGE, "the form has no file", todo="Send at least one: curl -F image=@part.png")
    return images


def _form_refused(message: str, station: Station) -> StationError:
    if "Too many files" in message:
        return StationError(
            Code.TOO_MANY_IMAGES,
            f"a request may hold at most {station.settings.queue} images",
            todo="Send fewer images at once",
        )
    return StationError(Code.INVALID_REQUEST, f"the form cannot be read: {message}")


def _file_name(name: str | None) -> str | None:
    """The name of a file where it comes from; it is shown to people and never used as a path."""
    if name is None:
        return None
    return "".join(sign if sign.isprintable() else "?" for sign in name)[:500] or None


def _image(station: Station, inspection: Inspection) -> bytes:
    content = None
    if inspection.pictures_removed is None:
        content = station.archive.read("images", inspection.image_sha256)
    if content is None:
        raise _no_picture(station, inspection)
    return content


def _map(station: Station, inspection: Inspection) -> bytes:
    if inspection.map_sha256 is None:
        raise StationError(Code.NO_PICTURE, "the image was rejected, so it has no anomaly map", todo=inspection.detail)
    content = None
    if inspection.pictures_removed is None:
        content = station.archive.read("maps", inspection.map_sha256)
    if content is None:
        raise _no_picture(station, inspection)
    return content


def _no_picture(station: Station, inspection: Inspection) -> StationError:
    if inspection.pictures_removed is not None:
        removed = f"{inspection.pictures_removed:%Y-%m-%d}"
        return StationError(Code.NO_PICTURE, f"the retention removed its pictures on {removed}")
    if inspection.station != station.settings.name:
        return StationError(Code.NO_PICTURE, f"its pictures lie at the station {inspection.station}")
    return StationError(Code.NO_PICTURE, "its pictures are not in the folder of this station")


def _displayed(station: Station, inspection: Inspection, content: bytes) -> Picture:
    manifest = station.models.version(inspection.model, inspection.version).manifest
    contract = ImageContract.model_validate(manifest["images"])
    try:
        return to_display(read(content, contract), contract)
    except ImageError as error:
        raise StationError(Code.NO_PICTURE, f"the image cannot be shown: {error.what}") from error


def _shrunk(picture: Picture, side: int | None) -> Picture:
    return picture if side is None else thumbnail(picture, side)


def _encoded(picture: Picture, side: int | None) -> tuple[bytes, str]:
    """A picture as it is sent: without loss at full size."""
    return (png(picture), "image/png") if side is None else (webp(picture), "image/webp")


def _line(codes: Picture) -> bytes:
    line = outline(codes > LAST_CALM)
    return png(np.where(line[..., None], np.uint8(255), np.zeros(4, np.uint8)))


def _unchanging(request: Request, tag: str, picture: Callable[[], tuple[bytes, str]]) -> Response:
    """Answer with a picture, which is drawn only for those who do not have it yet."""
    # Kept by the browser of the one who may see it, but asked for again: the sign-in may be over.
    headers = {"Cache-Control": "private, no-cache", "ETag": f'"{tag}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    content, media = picture()
    return Response(content, media_type=media, headers=headers)


def _yield(counts: dict[str, int]) -> float | None:
    judged = sum(count for verdict, count in counts.items() if verdict != "REJECTED")
    return counts.get("OK", 0) / judged if judged else None
