"""A camera: RTSP, MJPEG over HTTP, or a device of this machine, through OpenCV.

One thread takes every frame as it comes and keeps the newest one that is due, so that a slow inspection never makes
the next one look at an old frame; another has it inspected. Frames that were due and were not inspected, because the
one before still was or the station could not, are counted as dropped. A camera that falls silent is connected to anew,
after longer and longer waits.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blemish.errors import UsageError
from blemish.station.connections.kinds import CameraSource, first_line
from blemish.station.errors import Code, StationError
from blemish.station.sources.base import Backoff, Judge, Progress, StoppedError
from blemish.station.sources.reaching import why_not

log = logging.getLogger(__name__)

Frame = NDArray[np.uint8]
"""H x W x 3, blue first, as OpenCV has it."""


class Camera:
    """Has frames of one camera inspected, once OpenCV is there and the password can be read."""

    def __init__(self, settings: CameraSource, judge: Judge) -> None:
        self.settings = settings
        self.progress = Progress({"frames": 0, "inspected": 0, "dropped": 0, "connections": 0})
        self.busy = False
        self._judge = judge
        self._cv2: Any = None
        self._password: str | None = None
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._number = 0
        self._due: Frame | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, name=f"camera {settings.name}", daemon=True),
            threading.Thread(target=self._inspect, name=f"source {settings.name}", daemon=True),
        ]

    def prepare(self) -> None:
        """Read the password, and load OpenCV.

        Raises
        ------
        UsageError
            OpenCV is not installed, or the password cannot be read.
        """
        key = f"sources.{self.settings.name}"
        # FFmpeg would write a line for each damaged frame to the terminal.
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        try:
            import cv2
        except ModuleNotFoundError:
            raise UsageError("a camera needs OpenCV", where=key, todo="Run: pip install 'blemish[camera]'") from None
        if self.settings.password_file is not None:
            self._password = first_line(self.settings.password_file, f"{key}.password_file")
        self._cv2 = cv2

    def try_out(self) -> dict[str, int]:
        """Take one frame; its width and height.

        Raises
        ------
        UsageError
            As `prepare`.
        OSError
            The camera cannot be opened, or gives no frame.
        """
        self.prepare()
        capture = self._opened()
        try:
            fine, frame = capture.read()
        finally:
            capture.release()
        if not fine or frame is None:
            raise OSError("it gives no frame")
        return {"width": int(frame.shape[1]), "height": int(frame.shape[0])}

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no other frame."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the ends of the threads."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join(seconds)

    def frame(self) -> bytes:
        """The first frame that comes from now on, as a PNG file.

        Raises
        ------
        StationError
            source_unavailable.
        """
        with self._changed:
            asked = self._number
            self._changed.wait_for(lambda: self._number > asked or self._stop.is_set(), self.settings.patience_seconds)
            newest = self._newest if self._number > asked else None
        if newest is None:
            raise StationError(
                Code.SOURCE_UNAVAILABLE,
                f"the camera {self.settings.name} gave no frame for {self.settings.patience_seconds:g} seconds",
                todo=self.progress.problem,
                retry_after=5,
            )
        return _png(newest)

    # Taking frames

    def _watch(self) -> None:
        backoff = Backoff(self._stop)
        while not self._stop.is_set():
            capture = None
            try:
                if self._cv2 is None:
                    self.prepare()
                capture = self._opened()
                self.progress.count("connections")
                self._take_frames(capture, backoff)
            except StoppedError:
                return
            except Exception as error:  # A camera that comes back must find somebody who listens.
                self.progress.trouble(self.settings.name, error)
            finally:
                self.progress.connected = False
                if capture is not None:
                    capture.release()
            try:
                backoff.wait()
            except StoppedError:
                return

    def _opened(self) -> Any:
        cv2 = self._cv2
        milliseconds = round(1000 * self.settings.patience_seconds)
        if self.settings.device is not None:
            capture = cv2.VideoCapture(self.settings.device)
        else:
            patience = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
            capture = cv2.VideoCapture(self._url(), cv2.CAP_FFMPEG, patience)
        if capture.isOpened():
            return capture
        capture.release()
        raise OSError(why_not(self.settings))

    def _take_frames(self, capture: Any, backoff: Backoff) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            fine, frame = capture.read()
            if not fine or frame is None:
                raise OSError("it gives no more frames")
            backoff.reset()
            if not self.progress.connected:
                self.progress.connected = True
                self.progress.problem = None
            self.progress.count("frames")
            moment = time.monotonic()
            with self._changed:
                self._newest = frame
                self._number += 1
                if self.settings.every_seconds is not None and moment >= due:
                    # Kept to the beat, but without catching up on beats that were missed.
                    due = max(due + self.settings.every_seconds, moment)
                    if self._due is not None:
                        self.progress.count("dropped")
                    self._due = frame
                self._changed.notify_all()

    def _url(self) -> str:
        settings = self.settings
        parts = urlsplit(str(settings.url))
        if parts.scheme == "file":
            return parts.path
        if settings.user is None:
            return str(settings.url)
        login = quote(settings.user, safe="") + ("" if self._password is None else ":" + quote(self._password, safe=""))
        return parts._replace(netloc=f"{login}@{parts.netloc}").geturl()

    # Having them inspected

    def _inspect(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due is not None or self._stop.is_set())
                if self._stop.is_set() or self._due is None:
                    return
                frame, self._due = self._due, None
                self.busy = True
            try:
                self._judge(_png(frame), None, self.settings.model, self.settings.name)
            except Exception as error:  # A newer frame is worth more than this one again.
                self.progress.count("dropped")
                self.progress.trouble(self.settings.name, error)
                # Not at the speed of the camera: whatever it is needs time to pass.
                self._stop.wait(0.5)
            else:
                self.progress.inspected()
                # It may have vanished since it gave this frame.
                if self.progress.connected:
                    self.progress.problem = None
            finally:
                self.busy = False


def _png(frame: Frame) -> bytes:
    """A frame as a PNG file: without loss, and packed quickly rather than small."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame[..., ::-1])).save(file, "PNG", compress_level=1)
    return file.getvalue()
