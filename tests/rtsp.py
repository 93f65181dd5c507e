"""A camera that speaks RTSP, as far as a client needs it: JPEG frames (RFC 2435) in its own connection (RFC 2326)."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator


class RtspCamera:
    """Serves one client at a time. frame : gives the JPEG to send next, 4:2:0, its sides multiples of 16."""

    def __init__(self, port: int, frame: Callable[[], bytes], width: int, height: int) -> None:
        self.frame = frame
        self.size = (width, height)
        self.closing = threading.Event()
        self._server = socket.create_server(("127.0.0.1", port))
        self._client: socket.socket | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Vanish."""
        self.closing.set()
        self._server.close()
        if self._client is not None:
            self._client.close()

    def _serve(self) -> None:
        while not self.closing.is_set():
            try:
                self._client, _ = self._server.accept()
                self._talk(self._client)
            except OSError:
                continue

    def _talk(self, client: socket.socket) -> None:
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                if not (more := client.recv(4096)):
                    return
                received += more
            request, _, received = received.partition(b"\r\n\r\n")
            method, url = request.decode().split(" ")[:2]
            number = re.search(r"CSeq: *(\d+)", request.decode())
            assert number is not None
            extra, body = "", ""
            if method == "OPTIONS":
                extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track\r\n"
                )
                extra = f"Content-Base: {url}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            client.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number[1]}\r\n{extra}\r\n{body}".encode())
            if method == "PLAY":
                self._play(client)
                return

    def _play(self, client: socket.socket) -> None:
        sequence, time = 0, 0
        while not self.closing.wait(0.04):
            for last, payload in self._packets(self.frame()):
                header = struct.pack(">BBHII", 0x80, 26 | (0x80 if last else 0), sequence % 2**16, time, 1)
                packet = header + payload
                client.sendall(b"$\x00" + struct.pack(">H", len(packet)) + packet)
                sequence += 1
            time += 3600

    def _packets(self, jpeg: bytes) -> Iterator[tuple[bool, bytes]]:
        """The payloads of a frame, and whether each is the last: headers are described, the scan is sent."""
        tables, scan = _taken_apart(jpeg)
        offset = 0
        while offset < len(scan):
            part = scan[offset : offset + 1000]
            width, height = self.size
            header = struct.pack(">BBHBBBB", 0, offset >> 16, offset & 0xFFFF, 1, 255, width // 8, height // 8)
            if offset == 0:
                header += struct.pack(">BBH", 0, 0, len(tables)) + tables
            offset += len(part)
            yield offset >= len(scan), header + part


def _taken_apart(jpeg: bytes) -> tuple[bytes, bytes]:
    """The quantisation tables and the scan of a JPEG file."""
    tables: dict[int, bytes] = {}
    place = 2
    while True:
        marker, length = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        segment = jpeg[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == 0xDB:
            while segment:
                tables[segment[0] & 15] = segment[1:65]
                segment = segment[65:]
        elif marker == 0xDA:
            return tables[0] + tables[1], jpeg[place:-2]
