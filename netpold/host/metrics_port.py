"""The metrics over HTTP on a port of the loopback addresses, for a Prometheus or an agent on the node.

One thread with an event loop.  A connection gets one answer, and has TIMEOUT_S for all of it, however slowly it talks;
there are at most CONNECTIONS of them.  So nobody on the node can hold it up for longer than that.

An address that can't be listened at is a warning, and tried again: rules are enforced with or without metrics.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus

from netpold.host.metrics import CONTENT_TYPE

log = logging.getLogger("netpold")

ADDRESSES = ("127.0.0.1", "::1")
PATH = "/metrics"
CONNECTIONS = 16
TIMEOUT_S = 5.0
RETRY_S = 10.0
LIMIT = 16 * 1024  # bytes of a request

_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class MetricsPort:
    """`text` is called in a thread of this port's own."""

    def __init__(
        self, port: int, text: Callable[[], bytes], timeout: float = TIMEOUT_S, retry: float = RETRY_S
    ) -> None:
        self._port = port
        self._text = text
        self._timeout = timeout
        self._retry = retry
        self.connections = 0  # that are served now
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-port", daemon=True)
        self.listening: frozenset[str] = frozenset()  # addresses
        self.warning: str | None = None

    def start(self) -> None:
        """Begin to listen, in the network namespace of the calling thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening; answers under way are cut off."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        else:
            self._loop.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        servers: dict[str, asyncio.Server] = {}
        try:
            while not self._stop.is_set():
                await self._listen(servers)
                pause = self._retry if self.warning else None
                try:
                    await asyncio.wait_for(self._stop.wait(), pause)
                except TimeoutError:
                    continue
        finally:
            self.listening = frozenset()
            for server in servers.values():
                server.close()

    async def _listen(self, servers: dict[str, asyncio.Server]) -> None:
        """Listen at the addresses that are not yet among the servers, as far as that can be."""
        before, self.warning = self.warning, None
        for address in ADDRESSES:
            if address in servers:
                continue
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                listener = socket.create_server((address, self._port), family=family)
                servers[address] = await asyncio.start_server(self._connected, sock=listener, limit=LIMIT)
            except OSError as error:
                if family == socket.AF_INET6 and error.errno in _NO_IPV6:
                    continue  # a host without IPv6
                self.warning = f"no metrics at {address} port {self._port}: {os.strerror(error.errno or 0)}"
        self.listening = frozenset(servers)
        if self.warning and self.warning != before:
            log.warning("%s; end what listens there, or choose another metrics_port", self.warning)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            async with asyncio.timeout(self._timeout):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError):
            writer.transport.abort()  # too slow, or gone
        finally:
            self.connections -= 1

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        if self.connections > CONNECTIONS:
            return _response(HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return _response(HTTPStatus.BAD_REQUEST)
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        method, target, _ = words
        if target.split("?", 1)[0] != PATH:
            return _response(HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED)
        body = await asyncio.to_thread(self._text)
        return _response(HTTPStatus.OK, body, with_body=method == "GET")


def _response(status: HTTPStatus, body: bytes = b"", with_body: bool = True) -> bytes:
    kind = CONTENT_TYPE
    if status is not HTTPStatus.OK:
        kind, body = "text/plain; charset=utf-8", f"{status.phrase}; the metrics are at {PATH}\n".encode()
    allow = "Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{allow}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
