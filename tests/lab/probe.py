"""Reachability by real packets: thousands of probes at once, from one process, judged at both ends.

All sockets are this process's own, each made inside the network namespace it is for.  A round makes the receivers
(TCP listeners, UDP echoes, raw sockets), then sends everything, then waits on one epoll until each probe has its answer
or the deadline is over.  Whether the request arrived is seen apart from whether its answer came back: a raw socket at
the receiver sees each SYN, echo request or INIT after the receiving host's own INPUT chain.

A TCP probe is good when a byte that the receiver sends after the handshake has come back.  SCTP is an INIT and its
INIT ACK (see wire.py).  Of the protocols without ports conntrack has one entry for two hosts: there A to B right after
B to A is a reply (Node.flush_conntrack).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.lab import wire
from tests.lab.datagram import ANY, DOMAIN, Datagram, borrow, report_errors
from tests.lab.host import Host, family_of
from tests.lab.namespace import LabError, NetworkNamespace

DEADLINE = 0.4  # seconds; a SYN that was lost is sent again after one second only
_TAGS = range(20000, 60000)
_AT_ONCE = 5000  # probes in one round: each TCP probe is a file descriptor or two
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, which leaves nothing behind
_NUMBER = {"TCP": 6, "UDP": 17, "SCTP": 132}

Owners = Callable[[str], Iterable[Host]]


class Outcome(Enum):
    """What became of a probe, from bad to good."""

    UNSENT = "the source could not send it"
    NO_REQUEST = "the request did not arrive"
    REFUSED = "a reset or an ICMP error came back"
    NO_ANSWER = "the request arrived, no answer came back"
    OK = "the request arrived and was answered"


_RANK = {outcome: rank for rank, outcome in enumerate(Outcome)}


@dataclass(frozen=True)
class Probe:
    """One question: does this reach that?

    destination: an address, or a host (its first address of `family`).  protocol: TCP, UDP, SCTP, ICMP (in IPv6
    ICMPv6) or an IP protocol number.  source_address: else the kernel picks one; it need not be the source's own.
    arrives_at, arrives_port: who has to answer where the destination is translated on the way.
    """

    source: Host
    destination: Host | str
    protocol: str | int = "TCP"
    port: int = 0
    family: int = 4
    source_address: str | None = None
    arrives_at: Host | None = None
    arrives_port: int | None = None

    @property
    def address(self) -> str:
        return self.destination if isinstance(self.destination, str) else self.destination.address(self.family)

    @property
    def number(self) -> int:
        """The IP protocol number."""
        if self.protocol == "ICMP":
            return 58 if family_of(self.address) == 6 else 1
        return self.protocol if isinstance(self.protocol, int) else _NUMBER[self.protocol]

    def __str__(self) -> str:
        source = f"{self.source}" + (f" ({self.source_address})" if self.source_address else "")
        name = "" if isinstance(self.destination, str) else f"{self.destination} "
        port = f"{self.port}/" if self.port else ""
        return f"{source} -> {name}{self.address} {port}{self.protocol}"


def every(
    sources: Iterable[Host],
    destinations: Iterable[Host],
    services: Iterable[tuple[str | int, int]],
    families: Iterable[int] = (4, 6),
) -> list[Probe]:
    """All probes from sources to other destinations, for each (protocol, port), in the families that both have."""
    return [
        Probe(source, destination, protocol, port, family)
        for source, destination, family, (protocol, port) in itertools.product(
            sources, list(destinations), families, list(services)
        )
        if source is not destination and family in source.families() and family in destination.families()
    ]


class Prober:
    """Runs probes; `owners` says which hosts have an address and so have to listen for what is sent to it."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._tags = itertools.cycle(_TAGS)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def probe(self, probes: Iterable[Probe], deadline: float = DEADLINE, attempts: int = 1) -> dict[Probe, Outcome]:
        """The outcome of each; what is not OK is tried again up to `attempts` times, and the best attempt counts.

        Raises LabError when the kernel had no room for more neighbours: it has one table for all namespaces, of 1,024
        entries in each family, some 24 pods on a bridge that all talk to each other (routed pods take two each).
        """
        outcomes: dict[Probe, Outcome] = {}
        overflows = _overflows()
        left = list(dict.fromkeys(probes))
        for _ in range(attempts):
            for start in range(0, len(left), _AT_ONCE):
                for probe, outcome in self._round(left[start : start + _AT_ONCE], deadline).items():
                    outcomes[probe] = max(outcome, outcomes.get(probe, outcome), key=_RANK.__getitem__)
            left = [probe for probe in left if outcomes[probe] is not Outcome.OK]
        if _overflows() != overflows:
            raise LabError("the neighbour table of the machine was full, probes are lost: use fewer pods on bridges")
        return outcomes

    def differences(self, expected: Mapping[Probe, bool], deadline: float = DEADLINE) -> list[str]:
        """What is not as expected, in words: True is OK on one of three attempts, False is that no request arrives.

        On a busy machine a neighbour solicitation may be lost, which the kernel sends again after a second; until then
        all packets to that neighbour wait, and but for the last hundred or so are lost.  The third attempt is later.
        """
        outcomes = self.probe(expected, deadline)
        for patience in (2 * DEADLINE, 3 * DEADLINE):
            late = [probe for probe, allowed in expected.items() if allowed and outcomes[probe] is not Outcome.OK]
            outcomes |= self.probe(late, max(deadline, patience))
        wrong = []
        for probe, allowed in expected.items():
            if outcomes[probe] is not (Outcome.OK if allowed else Outcome.NO_REQUEST):
                verdict = "allowed" if allowed else "denied"
                wrong.append(f"{probe}: expected to be {verdict}, but {outcomes[probe].value}")
        return wrong

    def _round(self, probes: Sequence[Probe], deadline: float) -> dict[Probe, Outcome]:
        with contextlib.closing(_Round(self._tags)) as current:
            for probe in probes:
                for host in [probe.arrives_at] if probe.arrives_at else self._owners(probe.address):
                    current.receive(host.netns, family_of(probe.address), probe)
            for probe in sorted(probes, key=lambda probe: probe.source.netns.name):
                current.send(probe)
            current.settle(deadline)
            return current.outcomes()


def _overflows() -> int:
    """How often a neighbour table was full since the machine started (the last column, one line for each processor)."""
    tables = [Path("/proc/1/net/stat", name).read_text().splitlines()[1:] for name in ("arp_cache", "ndisc_cache")]
    return sum(int(line.split()[-1], 16) for lines in tables for line in lines)


@dataclass
class _Track:
    """How far one probe has come."""

    probe: Probe
    arrived: bool = False
    final: Outcome | None = None
    client: socket.socket | None = None

    def outcome(self) -> Outcome:
        return self.final or (Outcome.NO_ANSWER if self.arrived else Outcome.NO_REQUEST)


class _Round:
    """The sockets and the state of probes that run together."""

    def __init__(self, tags: Iterator[int]) -> None:
        self._tags = tags
        self._tracks: dict[int, _Track] = {}
        self._open = 0
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._sockets: dict[tuple[object, ...], Datagram | socket.socket] = {}

    def receive(self, netns: NetworkNamespace, family: int, probe: Probe) -> None:
        """Make the sockets that see and answer this probe, unless they are there."""
        port = probe.port if probe.arrives_port is None else probe.arrives_port
        if probe.number == socket.IPPROTO_UDP:
            self._datagram(netns, family, probe.number, None, port)
            return
        self._datagram(netns, family, probe.number)
        if probe.number == socket.IPPROTO_TCP and (netns.name, family, "listen", port) not in self._sockets:
            with netns.entered():
                listener = socket.socket(DOMAIN[family], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._sockets[netns.name, family, "listen", port] = listener
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == 6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((ANY[family], port))
            listener.listen(4096)
            self._watch(listener, lambda _: self._accept(listener))

    def send(self, probe: Probe) -> None:
        """Send a probe; every now and then take in what has come, so that no queue runs over."""
        family = family_of(probe.address)
        tag = next(self._tags)
        while tag in self._tracks:
            tag = next(self._tags)
        track = _Track(probe)
        try:
            if probe.number == socket.IPPROTO_TCP:
                tag = self._connect(track, family, tag)
            else:
                self._tracks[tag] = track
                bound = probe.source_address if probe.number == socket.IPPROTO_UDP else None
                port = 0 if probe.number == socket.IPPROTO_UDP else None
                sock = self._datagram(probe.source.netns, family, probe.number, bound, port)
                to = (probe.address, probe.port if probe.number == socket.IPPROTO_UDP else 0)
                sock.send(wire.question(probe.number, family, tag, probe.port), to, probe.source_address)
        except OSError as error:
            self._tracks[tag] = track
            denied = error.errno == errno.EPERM  # dropped by the source's own OUTPUT chain
            track.final = Outcome.NO_REQUEST if denied else Outcome.UNSENT
        self._open += track.final is None
        if len(self._tracks) % 128 == 0:
            self._poll(0)

    def settle(self, deadline: float) -> None:
        """Wait for what is missing; the deadline is over only when nothing waits to be read any more."""
        end = time.monotonic() + deadline
        while self._open:
            left = end - time.monotonic()
            if not self._poll(max(left, 0)) and left <= 0:
                return

    def outcomes(self) -> dict[Probe, Outcome]:
        return {track.probe: track.outcome() for track in self._tracks.values()}

    def close(self) -> None:
        for track in self._tracks.values():
            if track.client:
                track.client.close()
        for sock in self._sockets.values():
            sock.close()
        self._epoll.close()

    def _datagram(
        self, netns: NetworkNamespace, family: int, protocol: int, address: str | None = None, port: int | None = None
    ) -> Datagram:
        """The one socket of its kind; port None is that of a raw socket, port 0 a client's."""
        key = (netns.name, family, protocol, address, port)
        sock = self._sockets.get(key)
        if not isinstance(sock, Datagram):
            with netns.entered():
                sock = Datagram(family, protocol, address, port or 0)
            self._sockets[key] = sock
            self._watch(sock, lambda event, sock=sock: self._read(sock, event))  # type: ignore[misc]
        return sock

    def _connect(self, track: _Track, family: int, tag: int) -> int:
        """Begin a TCP connection whose source port is the tag; the next tag where that port is in use."""
        probe = track.probe
        with probe.source.netns.entered():
            client = socket.socket(DOMAIN[family], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        track.client = client
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        report_errors(client, family)  # else one that comes within connect() is lost: the kernel answers that quickly
        if probe.source_address:
            borrow(client, family)
        while True:
            try:
                client.bind((probe.source_address or ANY[family], tag))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                tag = next(tag for tag in self._tags if tag not in self._tracks)
        self._tracks[tag] = track
        with contextlib.suppress(BlockingIOError):
            client.connect((probe.address, probe.port))
        self._watch(client, lambda event: self._came(track, event))
        return tag

    def _watch(self, sock: Datagram | socket.socket, handler: Callable[[int], None]) -> None:
        self._handlers[sock.fileno()] = handler
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _poll(self, timeout: float) -> int:
        events = self._epoll.poll(timeout, 4096)
        for fd, event in events:
            self._handlers[fd](event)
        return len(events)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.send(b"!")

    def _came(self, track: _Track, event: int) -> None:
        """Something came to a TCP client: the byte, or an end."""
        assert track.client
        try:
            good = track.client.recv(1) == b"!"
        except BlockingIOError:
            if not event & select.EPOLLERR:
                return
            good = False
        except OSError:
            good = False
        track.client.close()
        track.client = None
        self._finish(track, Outcome.OK if good else Outcome.REFUSED)

    def _read(self, sock: Datagram, event: int) -> None:
        if event & select.EPOLLERR:
            for payload in sock.errors():
                tag = wire.returned(sock.protocol, payload)
                if tag in self._tracks:
                    self._finish(self._tracks[tag], Outcome.REFUSED)
        for payload, sender, local in sock.received():
            asked = wire.asked(sock.protocol, sock.family, payload)
            if asked and asked[0] in self._tracks:
                self._tracks[asked[0]].arrived = True
                reply = wire.answer(sock.protocol, payload)
                if reply:
                    with contextlib.suppress(OSError):  # refused by the receiver's OUTPUT chain: no answer
                        sock.send(reply, sender, local)
                continue
            tag = None if asked else wire.answered(sock.protocol, sock.family, payload)
            if tag in self._tracks:
                self._finish(self._tracks[tag], Outcome.OK)

    def _finish(self, track: _Track, outcome: Outcome) -> None:
        if track.final is None:
            track.final = outcome
            self._open -= 1
