"""Results by HTTP, signed as the Standard Webhooks specification has it.

The signature is HMAC-SHA256 over `ID.TIMESTAMP.BODY`, in base64 behind "v1,". Whoever receives it can tell that it
comes from this station, that nothing was changed, and that it is not an old one sent again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import time
import uuid
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit

from blemish import __version__
from blemish.station.connections.kinds import WebhookSink
from blemish.station.sinks.delivery import RefusedError, UnreachableError
from blemish.station.tables import OutboxEntry

OVERLOADED: Final = (408, 425, 429, 502, 503, 504)
"""Answers that say nothing about what was sent, only that it cannot be taken now."""


class Webhook:
    """Sends each result to one address. No redirect is followed: the address is the one that was configured."""

    def __init__(self, settings: WebhookSink) -> None:
        self.settings = settings
        self._secret = settings.secret()
        self._tls = ssl.create_default_context() if settings.url.startswith("https:") else None

    def deliver(self, entry: OutboxEntry) -> None:
        """Post an entry; any status from 200 to 299 takes it."""
        status = self._post(entry.event, entry.body)
        if status in OVERLOADED:
            raise UnreachableError(f"it answers {status}")
        if not 200 <= status < 300:
            raise RefusedError(f"it answers {status}")

    def try_out(self) -> dict[str, int]:
        """Post a greeting of the type "test", signed like every result; the status of the answer."""
        key = str(uuid.uuid4())
        moment = datetime.now(UTC).isoformat()
        status = self._post(key, {"id": key, "type": "test", "time": moment})
        if not 200 <= status < 300:
            raise RefusedError(f"it answers {status}")
        return {"status": status}

    def close(self) -> None:
        """Nothing stays open between two results."""

    def _post(self, event: str, content: dict[str, Any]) -> int:
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"blemish/{__version__}",
            "webhook-id": event,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secret, event, timestamp, body),
        }
        address = urlsplit(self.settings.url)
        path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        connection = self._connection(str(address.hostname), address.port)
        try:
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        except (OSError, HTTPException, ValueError) as error:  # a path or host that HTTP cannot carry
            raise UnreachableError.because(error) from error
        finally:
            connection.close()

    def _connection(self, host: str, port: int | None) -> HTTPConnection:
        seconds = self.settings.timeout_seconds
        if self._tls is None:
            return HTTPConnection(host, port, timeout=seconds)
        return HTTPSConnection(host, port, timeout=seconds, context=self._tls)


def signature(secret: bytes, event: str, timestamp: int, body: bytes) -> str:
    """What the header webhook-signature has to be."""
    digest = hmac.new(secret, f"{event}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
