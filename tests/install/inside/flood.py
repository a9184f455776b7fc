"""A flood of numbered UDP datagrams between pods, allowed ones and denied ones, and what became of each.

Each stream sends a datagram every millisecond and has a port of its own, so whoever receives knows what is missing.
Nobody answers: every packet is one of the original direction, which netpold judges anew each time.  One loop sends and
receives: a veth is crossed within the sender's system call, so nothing overtakes.  Sockets are bound before their
addresses are there (IP_FREEBIND), so the flood can run while interfaces come up; what can't be sent does not count.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .pods import FLOOD, PORTS, Pod, entered
from .report import Failure, expect

LONGEST_S = 120.0  # then it ends by itself
_TICK_S = 0.001
_BEHIND_S = 0.01  # a little late is caught up with, more is not
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_FREEBIND = {4: (socket.IPPROTO_IP, 15), 6: (socket.IPPROTO_IPV6, 78)}  # linux/in.h, linux/in6.h
_NUMBER = struct.Struct("Q")
_WAYS = (("sender", "receiver", True), ("stranger", "receiver", False), ("sender", "bystander", False))


@dataclass
class Stream:
    """What became of one pair's datagrams.  Times are of CLOCK_MONOTONIC; None where there was none.

    `sent` and `received` count all; `lost`, of those sent after `begin`, the ones that did not arrive; `spells` are
    the first of these: number, how many, and when it showed.
    """

    source: str
    destination: str
    family: int
    allowed: bool
    sent: int = 0
    received: int = 0
    lost: int = 0
    first_sent: float | None = None
    first_received: float | None = None
    spells: list[tuple[int, int, float]] | None = None

    def __str__(self) -> str:
        return f"{self.source} to {self.destination}, IPv{self.family}"


class _Way:
    """A stream with its sockets."""

    def __init__(self, stream: Stream, pods: dict[str, Pod], port: int) -> None:
        self.stream = stream
        self._target = (pods[stream.destination].address(stream.family), port)
        self._sender = _socket(stream.source, pods[stream.source].address(stream.family), port)
        self._receiver = _socket(stream.destination, *self._target)
        self._next = 1
        self._spells: list[tuple[int, int, float]] = []
        self._arrived = 0  # of those that count
        self._first = 1  # the first number that counts

    def send(self) -> None:
        stream = self.stream
        try:
            self._sender.sendto(_NUMBER.pack(stream.sent + 1), self._target)
        except OSError:  # the interface is not up yet
            return
        stream.sent += 1
        if stream.first_sent is None:
            stream.first_sent = time.monotonic()

    def begin(self) -> None:
        self._first, self._arrived = self.stream.sent + 1, 0

    def receive(self) -> None:
        stream = self.stream
        with suppress(BlockingIOError):
            while True:
                (number,) = _NUMBER.unpack(self._receiver.recv(64))
                if stream.first_received is None:
                    stream.first_received = time.monotonic()
                stream.received += 1
                self._arrived += number >= self._first
                if number > max(self._next, self._first) and len(self._spells) < 20:
                    self._spells.append((self._next, number - self._next, time.monotonic()))
                self._next = number + 1

    def end(self) -> Stream:
        self.stream.lost = self.stream.sent - self._first + 1 - self._arrived
        self.stream.spells = self._spells
        self._sender.close()
        self._receiver.close()
        return self.stream


def _socket(name: str, address: str, port: int) -> socket.socket:
    family = 6 if ":" in address else 4
    with entered(name):
        made = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(*_FREEBIND[family], 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
    made.setblocking(False)
    made.bind((address, port))
    return made


class Flow:
    """The flood itself, in a thread of this process, from `start` to `stop`."""

    def __init__(self) -> None:
        pods = {pod.name: pod for pod in FLOOD}
        streams = [Stream(*way[:2], family, way[2]) for way in _WAYS for family in (4, 6)]
        self._ways = [_Way(stream, pods, PORTS[0] + number) for number, stream in enumerate(streams)]
        self._begun = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begin(self) -> None:
        """What is sent from now on, and does not arrive, is lost."""
        self._begun.set()

    def stop(self) -> list[Stream]:
        self._over.set()
        self._thread.join()
        time.sleep(0.3)  # what is still on its way
        for way in self._ways:
            way.receive()
        return [way.end() for way in self._ways]

    def _run(self) -> None:
        due = time.monotonic()
        last = due + LONGEST_S
        while not self._over.is_set() and due < last:
            if self._begun.is_set():
                self._begun.clear()
                for way in self._ways:
                    way.begin()
            for way in self._ways:
                way.send()
            for way in self._ways:
                way.receive()
            due = max(due + _TICK_S, time.monotonic() - _BEHIND_S)
            select.select([], [], [], max(due - time.monotonic(), 0))


# As a process of its own ----------------------------------------------------------------------------------------------


def serve(flow: Flow, result: Path) -> None:
    """Until SIGTERM; then write what became of the streams, as JSON."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    print("flooding", flush=True)
    over.wait(LONGEST_S)
    temporary = result.with_suffix(".tmp")
    temporary.write_text(json.dumps([asdict(stream) for stream in flow.stop()]))
    temporary.rename(result)


def read(result: Path) -> list[Stream]:
    """What `serve` wrote."""
    return [Stream(**each) for each in json.loads(result.read_text())]


class Flood:
    """The flood in a process of its own, so that what this one does costs it nothing.  A context manager."""

    _RESULT = Path("/run/netpold-test-flood.json")

    def __enter__(self) -> Flood:
        self._process = subprocess.Popen([sys.executable, "-m", __package__ or "", "flood"], stdout=subprocess.PIPE)
        assert self._process.stdout
        expect(self._process.stdout.readline() == b"flooding\n", "the flood did not start")
        time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> list[Stream]:
        """End it; gives what became of it."""
        expect(self._process.poll() is None, "the flood ended by itself")
        self._process.terminate()
        self._process.wait(10)
        return read(self._RESULT)

    @classmethod
    def run(cls) -> None:
        """What the process does."""
        flow = Flow()
        flow.start()
        serve(flow, cls._RESULT)


def summary(streams: Sequence[Stream], losses: bool = True) -> str:
    """What became of it, in words.  Raises Failure when denied ones arrived, or (`losses`) allowed ones did not."""
    allowed = [stream for stream in streams if stream.allowed]
    denied = [stream for stream in streams if not stream.allowed]
    wrong = [f"{each} got {each.received} of {each.sent} through, denied ones" for each in denied if each.received]
    if losses:
        wrong += [f"{each} lost {each.lost} of {each.sent}, as {each.spells}" for each in allowed if each.lost]
    silent = [str(each) for each in streams if not each.sent or (losses and each.allowed and not each.received)]
    if silent:
        wrong.append(f"nothing went from {' nor from '.join(silent)}")
    if wrong:
        raise Failure(", ".join(wrong))
    lost = f"{sum(each.lost for each in allowed)} of {sum(each.sent for each in allowed)} lost, " if losses else ""
    return f"{lost}0 of {sum(each.sent for each in denied)} leaked"
