"""What images must be to be looked at, what training images tell about it, and the scale that it declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Depth = Literal["uint8", "uint16", "float32"]

_LARGEST: Final[dict[str, float]] = {"uint8": 255.0, "uint16": 65535.0}


class ImageContract(BaseModel):
    """What an image must be to be looked at; it is declared once, at training, and stands in the model file.

    The range [low, high] maps onto [0, 1]. Without one, an integer depth takes the full range of its type; float32 has
    no range of its own, so it must be given.

    Raises
    ------
    pydantic.ValidationError : an empty or impossible range, float32 without a range, bounds the wrong way round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    depth: Depth = Field(default="uint8", description="type of the samples, as the file or array stores them")
    low: float = Field(default=0.0, description="value that maps onto 0; anything below it is refused")
    high: float = Field(default=255.0, description="value that maps onto 1; anything above it is refused")
    colour: Literal["any", "grey", "rgb"] = Field(
        default="any", description="grey: one channel, or three equal ones; rgb: three channels"
    )
    width: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="smallest and largest width taken, in pixels"
    )
    height: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="smallest and largest height taken, in pixels"
    )
    max_bytes: PositiveInt = Field(default=256 * 2**20, description="largest file read")
    max_pixels: PositiveInt = Field(default=100_000_000, description="largest image decoded, width x height")

    @model_validator(mode="before")
    @classmethod
    def _range_of_the_depth(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        given = {name: value for name, value in data.items() if name not in ("low", "high") or value is not None}
        depth = given.get("depth", "uint8")
        if depth == "float32" and not {"low", "high"} <= given.keys():
            raise ValueError("float32 images need a declared range: give both low and high, in the unit of the images")
        if isinstance(depth, str) and depth in _LARGEST:
            return {"low": 0.0, "high": _LARGEST[depth], **given}
        return given

    @model_validator(mode="after")
    def _possible(self) -> ImageContract:
        if not self.high > self.low:
            raise ValueError(f"the range {self.low:g}..{self.high:g} is empty: high must be above low")
        if self.depth in _LARGEST and not (self.low >= 0 and self.high <= _LARGEST[self.depth]):
            raise ValueError(f"the range {self.low:g}..{self.high:g} is wider than {self.depth} can hold")
        if self.depth == "float32":
            with np.errstate(over="ignore"):
                span = np.float32(self.high) - np.float32(self.low)
            if not 0 < span < np.inf:
                raise ValueError(f"float32 cannot hold the range {self.low:g}..{self.high:g}")
        for name, bounds in (("width", self.width), ("height", self.height)):
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{name}: the smallest side {bounds[0]} is above the largest {bounds[1]}")
        return self


DEFAULT_CONTRACT: Final = ImageContract()


def is_grey(image: NDArray[Any]) -> bool:
    """Whether the three channels of an image (H x W x 3) are equal everywhere."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return bool(np.array_equal(red, green) and np.array_equal(red, blue))


@dataclass(frozen=True)
class Facts:
    """What a training image tells about the images to come: its sides in pixels, and whether it is grey."""

    width: int
    height: int
    grey: bool

    @classmethod
    def of(cls, image: NDArray[Any]) -> Facts:
        """Facts of an image (H x W x 3) as `read` returns it."""
        return cls(width=image.shape[1], height=image.shape[0], grey=is_grey(image))


def contract_for(base: ImageContract, facts: Iterable[Facts]) -> ImageContract:
    """Narrow a contract to what the training images were; what `base` sets already is kept.

    The colour becomes 'grey' if all images are grey and 'rgb' if none is. Sides may be from half the smallest to twice
    the largest one seen: an image far from that scale is not what the model was trained on.
    """
    seen = list(facts)
    if not seen:
        return base
    greys = {fact.grey for fact in seen}
    narrowed: dict[str, object] = {}
    if base.colour == "any" and len(greys) == 1:
        narrowed["colour"] = "grey" if greys == {True} else "rgb"
    if base.width is None:
        narrowed["width"] = _around([fact.width for fact in seen])
    if base.height is None:
        narrowed["height"] = _around([fact.height for fact in seen])
    return base.model_copy(update=narrowed)


def _around(sides: list[int]) -> tuple[int, int]:
    return max(1, min(sides) // 2), 2 * max(sides)


def scale(image: NDArray[Any], contract: ImageContract) -> NDArray[np.float32]:
    """Map an image that `read` returned onto [0, 1], float32: (x - low) / (high - low)."""
    scaled: NDArray[np.float32] = np.subtract(image, contract.low, dtype=np.float32)
    scaled /= np.float32(contract.high - contract.low)
    # The division may round to just above 1.
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return scaled


def to_display(image: NDArray[Any], contract: ImageContract) -> NDArray[np.uint8]:
    """Return an image that `read` returned as uint8 to look at: H x W x 3, the declared range spread over 0..255."""
    if image.dtype == np.uint8 and (contract.low, contract.high) == (0, 255):
        return image.copy()
    return np.rint(scale(image, contract) * 255).astype(np.uint8)
