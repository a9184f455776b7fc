"""A flood of numbered UDP datagrams between hosts of the laboratory, and what became of each.

Nobody answers, so every packet is one of the original direction, which netpold judges anew each time.  Senders are
processes pinned to a processor each: a veth is crossed, and the node passed, within the sender's own system call, so
packets of one pair cannot overtake each other.  One process receives: whatever number is missing between two that
arrived was lost.  Where, the node tells: it counts before and after the table `filter`, in the table `mangle`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import select
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.bench.burst import Numbered
from tests.bench.flips import KINDS, Kind, Watched
from tests.lab import Backend, Host, Lab, Node
from tests.lab.datagram import DOMAIN
from tests.lab.host import family_of

BURST = 4  # datagrams of a pair at once
_TURN = 4  # pairs that are served between two rests: so no moment is without packets for long
_BEHIND_S = 0.01
_ROOM = 256  # datagrams that are taken from a socket at once
_BUFFER = 16 << 20  # bytes that wait in each receiving socket
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_FIRST_PORT = {"forbidden": 20000, "allowed": 22000, "flips": 24000}  # source ports, by which the node counts
_PORTS = 2000
_NAP_S = 0.002  # between two rounds of the receiver
_FORK = multiprocessing.get_context("fork")  # children have the sockets; they open none


class Pair(NamedTuple):
    """A sending and a receiving socket, connected to each other: whatever else arrives is not theirs."""

    watched: Watched
    source: socket.socket
    destination: socket.socket


class Spell(NamedTuple):
    """Datagrams that did not arrive, though others before and after them did: the first, how many, when it showed."""

    first: int
    length: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """Of one pair: datagrams sent and received, the spells between, and the first to arrive (with the time)."""

    watched: Watched
    sent: int
    received: int
    spells: Sequence[Spell]
    first: Spell | None


@dataclass(frozen=True)
class Passed:
    """What the node counted of one kind of packets: before the table `filter`, and after it."""

    before: int
    after: int


def open_pairs(lab: Lab, packets: Sequence[Watched]) -> list[Pair]:
    """The sockets; a datagram numbered 0 goes by each and has to arrive: neighbours then know each other.

    To be called before anything is forbidden.  Raises RuntimeError where one does not arrive.
    """
    serials = {kind: itertools.count(first) for kind, first in _FIRST_PORT.items()}
    pairs = []
    for each in packets:
        near, far = (each.source, next(serials[each.kind])), (each.destination, each.port)
        (sender,), (receiver,) = lab.owners(each.source), lab.owners(each.destination)
        pairs.append(Pair(each, _socket(sender, near, far), _socket(receiver, far, near)))
    missing = pairs
    for _ in range(100):
        for pair in missing:
            pair.source.send(bytes(8))
        time.sleep(0.02)
        missing = [pair for pair in missing if not _drained(pair.destination)]
        if not missing:
            return pairs
    raise RuntimeError(f"no way through the laboratory for {missing[0].watched}")


def _socket(host: Host, near: tuple[str, int], far: tuple[str, int]) -> socket.socket:
    with host.netns.entered():
        made = socket.socket(DOMAIN[family_of(near[0])], socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    made.bind(near)
    made.connect(far)
    return made


def _drained(sock: socket.socket) -> bool:
    return bool(Numbered(_ROOM).receive_all(sock))


class Flood:
    """`senders` processes that send `rate` datagrams a second together, and one that receives, until `stop`."""

    def __init__(self, pairs: Sequence[Pair], rate: float, senders: int) -> None:
        self._pairs = pairs
        self._sent = _FORK.RawArray("Q", len(pairs))
        self._over = _FORK.Event()
        self._done = _FORK.Event()
        self._answer, told = _FORK.Pipe(duplex=False)
        processors = sorted(os.sched_getaffinity(0))
        self._senders = []
        for index in range(senders):
            own = range(index, len(pairs), senders)
            arguments = (own, rate * len(own) / len(pairs), processors[index % len(processors)])
            self._senders.append(_FORK.Process(target=self._send, args=arguments, daemon=True))
        self._receiver = _FORK.Process(target=self._receive, args=(told,), daemon=True)
        for process in (self._receiver, *self._senders):
            process.start()

    @property
    def sent(self) -> int:
        return sum(self._sent)

    def check(self) -> None:
        """Raises RuntimeError when one of the processes has ended by itself."""
        if not all(process.is_alive() for process in (self._receiver, *self._senders)):
            raise RuntimeError("a process of the flood has ended by itself")

    def stop(self) -> list[Outcome]:
        """End it; gives what became of each pair's datagrams."""
        self.check()
        self._over.set()
        for sender in self._senders:
            sender.join()
        time.sleep(0.2)  # what is still on its way
        self._done.set()
        found = self._answer.recv()
        self._receiver.join()
        return [
            Outcome(pair.watched, sent, received, spells, first)
            for pair, sent, (received, spells, first) in zip(self._pairs, self._sent, found, strict=True)
        ]

    def _send(self, own: range, rate: float, processor: int) -> None:
        os.sched_setaffinity(0, {processor})
        work = itertools.cycle([(index, self._pairs[index].source, Numbered(BURST)) for index in own])
        counts, over = self._sent, self._over
        pause = BURST * _TURN / rate
        due = time.monotonic()
        while not over.is_set():
            for index, sock, slots in itertools.islice(work, _TURN):
                counts[index] += slots.send_from(sock, counts[index] + 1)
            due = max(due + pause, time.monotonic() - _BEHIND_S)  # a little late is caught up with, more is not
            time.sleep(max(due - time.monotonic(), 0))

    def _receive(self, told: Any) -> None:
        books = {pair.destination.fileno(): _Book(pair.destination) for pair in self._pairs}
        waiting = select.epoll()
        for number in books:
            waiting.register(number, select.EPOLLIN)
        slots = Numbered(_ROOM)
        while True:
            last = self._done.is_set()
            while ready := waiting.poll(0):
                for number, _ in ready:
                    books[number].take(slots)
            if last:
                break
            time.sleep(_NAP_S)
        told.send([(book.received, book.spells, book.first) for book in books.values()])


class _Book:
    """Of one pair: what has arrived and what was passed over."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._next = 1
        self.received = 0
        self.spells: list[Spell] = []
        self.first: Spell | None = None

    def take(self, slots: Numbered) -> None:
        numbers = slots.receive_all(self._socket)
        if not numbers:
            return
        self.received += len(numbers)
        if self.first is None:
            self.first = Spell(numbers[0], 1, time.monotonic())
        if numbers[0] == self._next and numbers[-1] == self._next + len(numbers) - 1:
            self._next += len(numbers)
            return
        for number in numbers:
            if number != self._next:
                self.spells.append(Spell(self._next, number - self._next, time.monotonic()))
            self._next = number + 1


# What the node counts -------------------------------------------------------------------------------------------------


def count_on(node: Node, backend: Backend) -> None:
    """Let the node count each kind of packets before and after the table `filter`."""
    for family in (4, 6):
        for chain in ("FORWARD", "POSTROUTING"):
            for first in _FIRST_PORT.values():
                ports = f"{first}:{first + _PORTS - 1}"
                node.iptables(backend, family, "-t", "mangle", "-A", chain, "-p", "udp", "--sport", ports)


def counted(node: Node, backend: Backend) -> Mapping[Kind, Passed]:
    """What it has counted so far, both families."""
    totals: dict[str, dict[int, int]] = {"FORWARD": {}, "POSTROUTING": {}}
    for family in (4, 6):
        for chain, found in totals.items():
            listing = node.iptables(backend, family, "-t", "mangle", "-nvxL", chain)
            for packets, first in re.findall(r"^ *(\d+) .* spts:(\d+):", listing, re.MULTILINE):
                found[int(first)] = found.get(int(first), 0) + int(packets)
    before, after = totals["FORWARD"], totals["POSTROUTING"]
    return {kind: Passed(before[_FIRST_PORT[kind]], after[_FIRST_PORT[kind]]) for kind in KINDS}
