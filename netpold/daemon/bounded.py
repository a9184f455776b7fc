"""What a client sends, up to a number of bytes and until a moment: one that sends a byte now and then, or without end,
holds a thread no longer than that, and takes no more memory."""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPException


class TooMuch(HTTPException):
    """The client sends more than a request has."""


class BoundedReader(io.RawIOBase):
    """The receiving side of a connection.  Reading raises TooMuch, and TimeoutError."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until, self._left = 0.0, 0

    def allow(self, size: int, seconds: float) -> None:
        """From now on so many bytes may come, within that time."""
        self._left, self._until = size, time.monotonic() + seconds

    def allow_more(self, size: int) -> None:
        """So many bytes may come in the same time."""
        self._left += size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._left <= 0:
            raise TooMuch("more than a request may have")
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        before = self._connection.gettimeout()
        self._connection.settimeout(seconds)
        try:
            size = self._connection.recv_into(buffer[: self._left])
        finally:
            self._connection.settimeout(before)
        self._left -= size
        return size
