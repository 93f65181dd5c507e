"""What delivering to a sink means."""

from __future__ import annotations

from typing import Protocol

from blemish.station.tables import OutboxEntry


class UnreachableError(Exception):
    """The sink is not there, or cannot take anything now: it is the sink's fault, and everything waits."""

    @classmethod
    def because(cls, error: Exception) -> UnreachableError:
        """What a person is told of an error of the network."""
        what = error.strerror if isinstance(error, OSError) else None
        return cls(f"it cannot be reached: {what or error or type(error).__name__}")


class RefusedError(Exception):
    """The sink is there and does not want this entry."""


class Delivery(Protocol):
    """A way to one sink; only one thread uses it."""

    def deliver(self, entry: OutboxEntry) -> None:
        """Hand an entry over; when this returns, the sink has it.

        Raises
        ------
        UnreachableError, RefusedError
        """

    def try_out(self) -> dict[str, int]:
        """Whether it would take something; what there is to say of it.

        Raises
        ------
        UnreachableError, RefusedError
        """

    def close(self) -> None:
        """Let go of connections."""
