"""The network side of a station: HTTP in, JSON out."""

from __future__ import annotations

from blemish.station.api.app import make_app

__all__ = ["make_app"]
