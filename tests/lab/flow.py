"""Long-lived flows: one TCP connection or UDP exchange each that keeps sending, with counters at both ends.

One thread serves all flows of a laboratory.  A message is 16 bytes, its number and the time it was sent.  UDP shows
each loss; TCP repairs losses, so there a stop shows as nothing arriving, and as a gap.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tests.lab.datagram import ANY, DOMAIN
from tests.lab.host import Host, family_of
from tests.lab.namespace import LabError

Sender = Literal["client", "server", "both"]
_MESSAGE = struct.Struct("!Qd")


@dataclass(frozen=True)
class Counters:
    """One direction of a flow: messages, and times as time.monotonic() tells them (0: none yet).

    longest_gap: the longest time between two arrivals, in seconds.
    """

    sent: int = 0
    received: int = 0
    last_sent: float = 0.0
    last_received: float = 0.0
    longest_gap: float = 0.0

    @property
    def missing(self) -> int:
        """Sent and not received: lost or on the way."""
        return self.sent - self.received


class _End:
    """One end of a flow: what it sends (if it sends), and what it has received of the other end."""

    def __init__(self, sock: socket.socket, sends: bool) -> None:
        self.socket = sock
        self.sends = sends
        self.sent = Counters()  # `sent` and `last_sent` of its own direction
        self.received = Counters()  # the rest, of the other direction
        self.broken = ""
        self._rest = b""
        self._bytes = 0
        self._stream = sock.type == socket.SOCK_STREAM
        sock.setblocking(False)

    def send(self) -> None:
        now = time.monotonic()
        message = self._rest or _MESSAGE.pack(self.sent.sent, now)
        try:
            written = self.socket.send(message)
        except BlockingIOError:
            return
        except OSError as error:
            if self._stream:
                self.broken = error.strerror or str(error)
                return
            if error.errno != errno.EPERM:
                return  # an earlier packet's ICMP error
            written = len(message)  # sent, and dropped by its own OUTPUT chain
        self._rest = message[written:]
        if not self._rest:
            self.sent = replace(self.sent, sent=self.sent.sent + 1, last_sent=now)

    def receive(self) -> None:
        while True:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if self._stream:
                    self.broken = error.strerror or str(error)
                    return
                continue
            if not data:
                self.broken = self.broken or "closed by the other end"
                return
            self._count(len(data))

    def _count(self, size: int) -> None:
        now, before = time.monotonic(), self.received
        gap = now - before.last_received if before.last_received else 0.0
        self._bytes += size
        self.received = Counters(0, self._bytes // _MESSAGE.size, 0.0, now, max(gap, before.longest_gap))


class Flow:
    """A flow that is open; made by Lab.flow.  Each sender sends `burst` messages every `interval` seconds."""

    def __init__(
        self, name: str, ends: tuple[_End, _End], pace: tuple[float, int], end: Callable[[Flow], None]
    ) -> None:
        self.name = name
        self.client, self.server = ends
        self.interval, self.burst = pace
        self.paused = False
        self._end = end

    @property
    def forward(self) -> Counters:
        """From the client to the server."""
        return _joined(self.client, self.server)

    @property
    def backward(self) -> Counters:
        """From the server to the client."""
        return _joined(self.server, self.client)

    @property
    def broken(self) -> str:
        """Why the connection ended, if it did."""
        return self.client.broken or self.server.broken

    def moving(self, timeout: float = 2.0) -> bool:
        """Wait until more messages have arrived in each direction that is sent in; False: they did not."""
        ends = [(end, end.received.received) for end, other in self._pairs() if other.sends]
        return _until(lambda: all(end.received.received > before for end, before in ends), timeout)

    def stopped(self, timeout: float = 2.0, quiet: float = 0.3) -> float | None:
        """Wait until nothing has arrived in any direction for `quiet` seconds, though it is sent.

        Gives the time of the last arrival (time.monotonic()), or None where messages still arrive at the timeout.
        """

        def last() -> float:
            return max(self.client.received.last_received, self.server.received.last_received)

        begin = time.monotonic()
        if _until(lambda: time.monotonic() - max(last(), begin) >= quiet, timeout + quiet):
            return last()
        return None

    def pause(self, timeout: float = 1.0) -> int:
        """Stop sending, wait for what is on the way, and give the number of messages that did not arrive."""
        self.paused = True
        _until(lambda: not self.forward.missing and not self.backward.missing, timeout)
        return self.forward.missing + self.backward.missing

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        self._end(self)

    def __str__(self) -> str:
        return self.name

    def _pairs(self) -> tuple[tuple[_End, _End], tuple[_End, _End]]:
        return (self.client, self.server), (self.server, self.client)


class Pump:
    """The thread that sends and receives for all flows; it runs while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flows: dict[Flow, float] = {}  # when each is to send next
        self._ends: dict[int, _End] = {}
        self._epoll: select.epoll | None = None
        self._thread: threading.Thread | None = None

    def start(
        self,
        source: Host,
        receiver: Host,
        address: str,
        service: tuple[str, int],
        sender: Sender = "both",
        pace: tuple[float, int] = (0.01, 1),
    ) -> Flow:
        """Open a flow to a service (protocol, port); raises LabError where it does not come about."""
        protocol, port = service
        opened = _tcp if protocol == "TCP" else _udp
        name = f"{source} -> {receiver} {address} {port}/{protocol}"
        try:
            client, server = opened(source, receiver, address, port)
        except OSError as error:
            raise LabError(f"{name}: the flow could not be opened: {error}") from error
        ends = _End(client, sender != "server"), _End(server, sender != "client")
        flow = Flow(name, ends, pace, self._close)
        with self._lock:
            self._epoll = self._epoll or select.epoll()
            for end in ends:
                self._ends[end.socket.fileno()] = end
                self._epoll.register(end.socket.fileno(), select.EPOLLIN)
            self._flows[flow] = 0.0
            if not self._thread:
                self._thread = threading.Thread(target=self._run, name="lab-flows", daemon=True)
                self._thread.start()
        return flow

    def close(self) -> None:
        """Close all flows, which ends the thread."""
        for flow in list(self._flows):
            self._close(flow)
        thread = self._thread
        if thread:
            thread.join()

    def _close(self, flow: Flow) -> None:
        with self._lock:
            if self._flows.pop(flow, None) is None:
                return
            for end in (flow.client, flow.server):
                del self._ends[end.socket.fileno()]
                end.socket.close()

    def _run(self) -> None:
        while True:
            with self._lock:
                assert self._epoll
                if not self._flows:
                    self._epoll.close()
                    self._epoll = self._thread = None
                    return
                now = time.monotonic()
                for flow, due in self._flows.items():
                    if due <= now:
                        self._flows[flow] = now + flow.interval
                        self._send(flow)
                pause = min(due for due in self._flows.values()) - time.monotonic()
                epoll = self._epoll
            events = epoll.poll(min(max(pause, 0.0005), 0.05))
            with self._lock:
                for end in [self._ends[fd] for fd, _ in events if fd in self._ends]:
                    self._receive(end)

    @staticmethod
    def _send(flow: Flow) -> None:
        for end in (flow.client, flow.server):
            for _ in range(0 if flow.paused or end.broken or not end.sends else flow.burst):
                end.send()

    def _receive(self, end: _End) -> None:
        end.receive()
        if end.broken and self._epoll:
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(end.socket.fileno())


def _tcp(source: Host, receiver: Host, address: str, port: int) -> tuple[socket.socket, socket.socket]:
    family = family_of(address)
    listener = _socket(receiver, family, socket.SOCK_STREAM)
    client = _socket(source, family, socket.SOCK_STREAM)
    with listener:
        try:
            listener.bind((ANY[family], port))
            listener.listen(16)
            for sock in (listener, client):
                sock.settimeout(3)
            client.connect((address, port))
            server, _ = listener.accept()
        except OSError:
            client.close()
            raise
    for sock in (client, server):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, server


def _udp(source: Host, receiver: Host, address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Two sockets connected to each other: a first message tells the server the client's address."""
    family = family_of(address)
    server, client = (_socket(host, family, socket.SOCK_DGRAM) for host in (receiver, source))
    try:
        server.bind((address if address in receiver.addresses else ANY[family], port))
        server.settimeout(3)
        client.connect((address, port))
        client.send(b"hello")
        server.connect(server.recvfrom(16)[1])
    except OSError:
        client.close()
        server.close()
        raise
    return client, server


def _socket(host: Host, family: int, kind: int) -> socket.socket:
    with host.netns.entered():
        sock = socket.socket(DOMAIN[family], kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _joined(sending: _End, receiving: _End) -> Counters:
    received = receiving.received  # first: what is read as received was sent before
    sent = sending.sent
    return replace(received, sent=sent.sent, last_sent=sent.last_sent)


def _until(condition: Callable[[], bool], timeout: float) -> bool:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
