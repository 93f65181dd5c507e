"""Why a camera cannot be opened, as far as this machine can tell: OpenCV itself only says that it cannot."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from blemish.station.connections.kinds import CameraSource

DEVICES = Path("/dev")
PORTS: Final = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
LONGEST_SECONDS: Final = 5.0


def why_not(camera: CameraSource) -> str:
    """What keeps a camera from being opened, and what to do; without user and password.

    It may take as long as the camera's patience, and five seconds at most.
    """
    if camera.device is not None:
        return _of_device(camera.device)
    parts = urlsplit(camera.address)
    if parts.scheme == "file":
        what = "holds no film that can be read" if Path(parts.path).is_file() else "does not exist"
        return f"the file {parts.path} {what}. Name another"
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    try:
        socket.create_connection((host, port), min(camera.patience_seconds, LONGEST_SECONDS)).close()
    except OSError as error:
        return (
            f"{host}:{port} cannot be reached: {error.strerror or error}. "
            "See that the camera is switched on, and that address and port are right"
        )
    return (
        f"{host}:{port} answers, but gives no pictures at {camera.address}. "
        "See that path, user and password are the camera's own, and that it lets another viewer in"
    )


def _of_device(number: int) -> str:
    if not sys.platform.startswith("linux"):
        return (
            f"the camera with the number {number} cannot be opened. "
            "See that it is connected, that the number is right, and that no other program uses it"
        )
    device = DEVICES / f"video{number}"
    if not device.exists():
        others = ", ".join(str(path) for path in sorted(DEVICES.glob("video*")))
        known = f"There are {others}: name one by its number, or connect it" if others else "There is none: connect it"
        return f"{device} does not exist, so there is no camera with the number {number}. {known}"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"the user of the station may not open {device}. Add that user to the group video, and start it again"
    return (
        f"{device} exists, but gives no pictures: another program uses it, or it is no camera. "
        "Close that program, or name another number"
    )
