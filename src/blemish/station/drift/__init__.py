"""Whether production is still what a version was calibrated for.

`test` holds the statistics, `monitor` keeps them in the database, `pictures` measures images.
"""

from __future__ import annotations

from blemish.station.drift.monitor import DriftShown, Monitor

__all__ = ["DriftShown", "Monitor"]
