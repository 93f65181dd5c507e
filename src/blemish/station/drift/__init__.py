"""Whether production is still what a version was calibrated for.

`evidence` is the statistics, `watch` what is tested, `pictures` what is measured, `monitor` keeps it all.
"""

from __future__ import annotations

from blemish.station.drift.monitor import DriftShown, Monitor, Seen

__all__ = ["DriftShown", "Monitor", "Seen"]
