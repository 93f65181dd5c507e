"""The catalogue of datasets: what each is, where it is to be had and on what terms."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from blemish.data.download import RemoteFile
from blemish.errors import UsageError

Part = Literal["train", "validation", "test", "all"]
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Count(_Frozen):
    """How many images a part has.

    Parameters
    ----------
    total : all of them. anomalous : those of them that are; None where that is for a protocol to say.
    """

    total: NonNegativeInt
    anomalous: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _possible(self) -> Count:
        if self.anomalous is not None and self.anomalous > self.total:
            raise ValueError(f"{self.anomalous} of {self.total} images cannot be anomalous")
        return self


class Entry(_Frozen):
    """One dataset of catalog.toml; the file explains the fields."""

    name: str
    title: str
    layout: str
    categories: PositiveInt
    licence: str
    home: Url
    split: str
    citation: str
    images: Mapping[Part, Count]
    files: tuple[RemoteFile, ...]


@cache
def catalog() -> Mapping[str, Entry]:
    """The catalogue, by name."""
    table = tomllib.loads((files("blemish.data") / "catalog.toml").read_text("utf-8"))
    return {name: Entry(name=name, **row) for name, row in table.items()}


def find_entry(name: str) -> Entry:
    """The dataset called `name`.

    Raises
    ------
    UsageError : there is none.
    """
    known = catalog()
    if name not in known:
        close = difflib.get_close_matches(name.lower().replace("_", "-").replace(" ", "-"), known, n=1)
        meant = f' Did you mean "{close[0]}"?' if close else ""
        raise UsageError(f'there is no dataset "{name}"', todo=f"Known are {', '.join(known)}.{meant}")
    return known[name]
