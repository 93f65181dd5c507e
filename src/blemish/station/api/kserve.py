"""The Open Inference Protocol (KServe v2), for clients that speak it already.

A model has one input, `image`: BYTES of shape [n], each an encoded image file, in base64 where it stands in JSON; or
UINT8 of shape [height, width, 3] or [n, height, width, 3], decoded RGB. Tensors may also follow the JSON as raw bytes,
as the binary tensor data extension has them; answers are always JSON. Every image becomes an inspection like any other.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import struct
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blemish import __version__
from blemish.pictures import png
from blemish.station.api.answers import refusals
from blemish.station.api.guards import Inspecting, Looking, TheStation
from blemish.station.api.inspections import OnceOnly, request_key
from blemish.station.errors import STATUS, Code, StationError
from blemish.station.station import Sent, Station
from blemish.station.tables import Inspection

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

Name = Annotated[str, Path(max_length=100)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]

_JSON_LENGTH = "inference-header-content-length"


class ProtocolRefusal(BaseModel):
    """Why a request was refused."""

    error: str
    code: str


class ServerMetadata(BaseModel):
    """What answers here."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """Whether the station is alive."""

    live: bool


class Ready(BaseModel):
    """Whether the station takes images."""

    ready: bool


class ModelReady(BaseModel):
    """Whether a model can judge."""

    name: str
    ready: bool


class Tensor(BaseModel):
    """Name, type and shape of a tensor; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class InputTensor(BaseModel):
    """A tensor of a request."""

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=4)]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputWanted(BaseModel):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """A request to infer."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: list[OutputWanted] | None = None


class OutputTensor(Tensor):
    """A tensor of an answer. score and p_value are null where the image was rejected."""

    data: list[str | int | float | None]


class InferAnswer(BaseModel):
    """What the images were found to be."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


OUTPUTS: Final = {
    "verdict": "BYTES",
    "score": "FP64",
    "p_value": "FP64",
    "reason": "BYTES",
    "detail": "BYTES",
    "id": "INT64",
}
"""What a model gives for each image, and its type; `id` is the inspection's."""


def _refusals(*codes: Code) -> dict[int | str, dict[str, Any]]:
    documented = refusals(Code.WRONG_TENSOR, *codes)
    if Code.KEY_REUSED not in codes:
        del documented[STATUS[Code.INVALID_REQUEST]]
    return {status: {**shown, "model": ProtocolRefusal} for status, shown in documented.items()}


@router.get("")
async def server() -> ServerMetadata:
    """What answers here."""
    return ServerMetadata(name="blemish", version=__version__, extensions=[])


@router.get("/health/live")
async def live() -> Live:
    """Whether the process answers at all."""
    return Live(live=True)


@router.get("/health/ready", responses={503: {"model": Ready, "description": "Not ready"}})
async def ready(station: TheStation) -> JSONResponse:
    """Whether images are taken: not while shutting down, and not while the database is down."""
    able = not station.draining
    if able:
        try:
            await asyncio.to_thread(station.store.ping)
        except StationError:
            able = False
    return JSONResponse({"ready": able}, 200 if able else 503)


@router.get("/models/{name}", responses=_refusals(Code.NO_SUCH_MODEL))
def model(station: TheStation, who: Looking, name: Name) -> ModelMetadata:
    """What a model takes and gives."""
    return _metadata(station, name, None)


@router.get("/models/{name}/versions/{version}", responses=_refusals(Code.NO_SUCH_MODEL))
def model_version(station: TheStation, who: Looking, name: Name, version: Number) -> ModelMetadata:
    """What a version of a model takes and gives."""
    return _metadata(station, name, version)


@router.get(
    "/models/{name}/ready",
    responses={**_refusals(Code.NO_SUCH_MODEL), 503: {"model": ModelReady, "description": "Not ready"}},
)
def model_ready(station: TheStation, name: Name) -> JSONResponse:
    """Whether the active version of a model can judge."""
    return _ready(station, name, None)


@router.get(
    "/models/{name}/versions/{version}/ready",
    responses={**_refusals(Code.NO_SUCH_MODEL), 503: {"model": ModelReady, "description": "Not ready"}},
)
def version_ready(station: TheStation, name: Name, version: Number) -> JSONResponse:
    """Whether a version of a model can judge."""
    return _ready(station, name, version)


_INFERRING = (
    Code.NO_SUCH_MODEL,
    Code.NO_SUCH_VERSION,
    Code.BODY_TOO_SLOW,
    Code.KEY_REUSED,
    Code.TOO_MANY_IMAGES,
    Code.QUEUE_FULL,
    Code.STORAGE_FAILED,
)
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "datatype": {"enum": ["BYTES", "UINT8"]},
                                    "parameters": {"type": "object"},
                                    "data": {"type": "array"},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": {"enum": ["verdict", "score", "p_value", "reason", "detail", "id"]}
                                },
                            },
                        },
                    },
                }
            }
        },
    }
}
"""The body is read by hand, because bytes may follow the JSON."""


@router.post("/models/{name}/infer", openapi_extra=_BODY, responses=_refusals(*_INFERRING))
async def infer(
    request: Request, station: TheStation, who: Inspecting, name: Name, idempotency_key: OnceOnly = None
) -> InferAnswer:
    """Judge images by the active version of a model."""
    return await _infer(request, station, who.by, idempotency_key, name, None)


@router.post("/models/{name}/versions/{version}/infer", openapi_extra=_BODY, responses=_refusals(*_INFERRING))
async def infer_version(
    request: Request,
    station: TheStation,
    who: Inspecting,
    name: Name,
    version: Number,
    idempotency_key: OnceOnly = None,
) -> InferAnswer:
    """Judge images by a version of a model."""
    return await _infer(request, station, who.by, idempotency_key, name, version)


async def _infer(
    request: Request, station: Station, by: str, once: str | None, name: str, version: int | None
) -> InferAnswer:
    with station.admitted():
        body = await request.body()
        wanted, images = await asyncio.to_thread(_parsed, body, request.headers.get(_JSON_LENGTH))
        sent = [Sent(image) for image in images]
        # Not the request's `id`, which the protocol only has echoed: clients count with it, or send always the same.
        key = request_key(by, once, sent, name, version, None)
        rows = await station.inspect(sent, name, version, by, key)
    names = [output.name for output in wanted.outputs] if wanted.outputs else [*OUTPUTS]
    return InferAnswer(
        model_name=name,
        model_version=str(rows[0].version),
        id=wanted.id,
        outputs=[_output(column, rows) for column in names],
    )


def _parsed(body: bytes, json_length: str | None) -> tuple[InferRequest, list[bytes]]:
    """The request, and its images as encoded files."""
    head, tail = body, b""
    if json_length is not None:
        if not json_length.isdecimal() or int(json_length) > len(body):
            raise _wrong(f"the header {_JSON_LENGTH} is not the length of the JSON", None)
        head, tail = body[: int(json_length)], body[int(json_length) :]
    try:
        wanted = InferRequest.model_validate_json(head)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"])
        raise _wrong(f"{place}: {found['msg']}" if place else str(found["msg"]), None) from error
    for output in wanted.outputs or []:
        if output.name not in OUTPUTS:
            raise _wrong(f"there is no output {output.name}", f"Ask for {', '.join(OUTPUTS)}")
    tensor = wanted.inputs[0]
    raw = _raw(tensor, tail)
    if tensor.datatype == "BYTES":
        images = _strings(tensor, raw)
    elif tensor.datatype == "UINT8":
        images = _pixels(tensor, raw)
    else:
        raise _wrong(f"datatype {tensor.datatype} is not taken", "Send BYTES or UINT8")
    if not images:
        raise _wrong("there is no image in the tensor", None)
    return wanted, images


def _raw(tensor: InputTensor, tail: bytes) -> bytes | None:
    """The bytes of a tensor that follow the JSON; None if its data stand in the JSON."""
    size = tensor.parameters.get("binary_data_size")
    if (size is None) == (tensor.data is None):
        raise _wrong("the tensor needs either data or binary_data_size", None)
    if size is None:
        return None
    if size != len(tail):
        raise _wrong(f"binary_data_size is {size}, and {len(tail)} bytes follow the JSON", None)
    return tail


def _strings(tensor: InputTensor, raw: bytes | None) -> list[bytes]:
    """The elements of a BYTES tensor."""
    if raw is None:
        images = [_from_base64(element) for element in tensor.data or []]
    else:
        images, place = [], 0
        while place < len(raw):
            try:
                (length,) = struct.unpack_from("<I", raw, place)
            except struct.error:
                raise _wrong("an element of the tensor is cut short", None) from None
            place += 4 + length
            if place > len(raw):
                raise _wrong("an element of the tensor is cut short", None)
            images.append(raw[place - length : place])
    if math.prod(tensor.shape) != len(images):
        raise _wrong(f"the shape {tensor.shape} does not hold {len(images)} elements", None)
    return images


def _from_base64(element: object) -> bytes:
    if not isinstance(element, str):
        raise _wrong("an element of a BYTES tensor is a string", "Send each image file in base64")
    try:
        return base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong("an element is not base64", "Send each image file in base64") from None


def _pixels(tensor: InputTensor, raw: bytes | None) -> list[bytes]:
    """The images of a UINT8 tensor, as PNG files: what is judged is what is stored."""
    shape = tensor.shape
    if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
        raise _wrong(f"a shape of {shape} is no image", "Send [height, width, 3] or [n, height, width, 3]")
    try:
        flat = np.frombuffer(raw, np.uint8) if raw is not None else _array(tensor.data)
        pixels = flat.reshape((-1, *shape[-3:]))
        if len(pixels) != (shape[0] if len(shape) == 4 else 1):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise _wrong(f"the data are not {shape} numbers from 0 to 255", None) from None
    return [png(image) for image in pixels]


def _array(data: list[Any] | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    numbers = np.asarray(data)
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 255:
        raise ValueError
    return numbers.astype(np.uint8)


def _output(name: str, rows: list[Inspection]) -> OutputTensor:
    return OutputTensor(name=name, datatype=OUTPUTS[name], shape=[len(rows)], data=[getattr(row, name) for row in rows])


def _metadata(station: Station, name: str, number: int | None) -> ModelMetadata:
    if number is not None:
        station.models.version(name, number)
    state = station.models.state(name)
    versions = [str(version.version) for version in state.versions if number in (None, version.version)]
    return ModelMetadata(
        name=name,
        versions=versions,
        platform="blemish_onnxruntime",
        inputs=[Tensor(name="image", datatype="BYTES", shape=[-1])],
        outputs=[Tensor(name=column, datatype=datatype, shape=[-1]) for column, datatype in OUTPUTS.items()],
    )


def _ready(station: Station, name: str, number: int | None) -> JSONResponse:
    able = station.models.ready(name, number) and not station.draining
    return JSONResponse({"name": name, "ready": able}, 200 if able else 503)


def _wrong(what: str, todo: str | None) -> StationError:
    return StationError(Code.WRONG_TENSOR, what, todo=todo)
