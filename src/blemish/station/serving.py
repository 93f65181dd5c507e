"""The process of a station: from the first look at the folders to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
from collections.abc import Generator

import uvicorn

from blemish.console import Listener
from blemish.errors import UsageError
from blemish.station.app import make_app
from blemish.station.settings import Settings
from blemish.station.station import Station

POLL_SECONDS = 0.05


def serve(settings: Settings, listener: Listener) -> None:
    """Run a station until SIGTERM or Ctrl-C, then drain it.

    Raises
    ------
    UsageError, StationError
        It cannot start; see `Station`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    station = Station(settings)
    try:
        listening = _bound(settings)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        listener.say(f"Blemish station on http://{host}:{listening.getsockname()[1]}")
        for state in station.models.states():
            if state.problem:
                listener.warn(state.problem)
        if not station.models.states():
            listener.warn(f"There is no model yet; a model file put into {settings.models} is taken in by itself.")
        for folder in settings.training_folders:
            if not folder.is_dir():
                listener.warn(f"{folder} is no folder; until it is one, nothing in it can be trained on.")
        if station.people.local():
            listener.warn(
                'Nobody has to sign in: everyone on this machine acts as the admin "local". '
                "To change that: blemish station-user add NAME --role admin"
            )
        station.start()
        config = uvicorn.Config(
            make_app(station),
            log_level="warning",
            lifespan="off",
            server_header=False,
            ws="none",
        )
        _Server(config, station).run(sockets=[listening])
    finally:
        station.close()


class _Server(uvicorn.Server):
    """Uvicorn, but told to stop it first says that it is not ready, and goes on listening while work is open.

    Uvicorn alone closes its sockets at once, so that whoever watches the station finds it gone, not draining; and it
    ends by the signal it got, so that a service manager could not tell an orderly end from another.
    """

    def __init__(self, config: uvicorn.Config, station: Station) -> None:
        super().__init__(config)
        self.station = station
        self._told = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        before = {number: signal.signal(number, self._tell) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def main_loop(self) -> None:
        """Serve until told, then until nothing is open or the time is over."""
        draining = asyncio.create_task(self._drain())
        await super().main_loop()
        draining.cancel()

    def _tell(self, number: int, frame: object) -> None:
        # A second signal does not wait for anything.
        self.force_exit = self.should_exit = self._told.is_set()
        self._told.set()

    async def _drain(self) -> None:
        while not self._told.is_set():
            await asyncio.sleep(POLL_SECONDS)
        self.station.drain()
        clock = asyncio.get_running_loop().time
        start = clock()
        notice = self.station.settings.notice_seconds
        while (clock() < start + notice or not self.station.idle) and self.station.seconds_left:
            await asyncio.sleep(POLL_SECONDS)
        # Answers that are on their way to slow clients.
        self.config.timeout_graceful_shutdown = math.ceil(self.station.seconds_left) or 1
        self.should_exit = True


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise UsageError(
            f"nothing can listen at {settings.host}:{settings.port}: {error.strerror or error}",
            where="--host, --port",
            todo="Choose another port; 0 takes a free one",
        ) from error
    return listening
