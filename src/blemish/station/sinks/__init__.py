"""Where results go: webhooks, MQTT brokers, CSV files."""

from __future__ import annotations

from blemish.station.sinks.senders import Senders, SinkState

__all__ = ["Senders", "SinkState"]
