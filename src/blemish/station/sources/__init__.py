"""Where images come from, besides the API: watched folders and cameras."""

from __future__ import annotations

from blemish.station.sources.base import SourceState
from blemish.station.sources.sources import Sources

__all__ = ["SourceState", "Sources"]
