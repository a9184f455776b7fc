"""What the kernel tells of packets that are traced: by nf_tables' own events, and by the log of legacy tables.

nf_tables sends an event for each rule that matches, for each chain of several that ends, and for each policy.  The
first one of each base chain has the packet's headers.

Legacy tables write a line for each, `TRACE: table:chain:kind:number`, to the logger that the sysctl
net.netfilter.nf_log.2 (IPv4) or .10 (IPv6) names; only where that is nfnetlink_log can it be read, as NFLOG group 0.

Layouts and constants: linux/netfilter/nf_tables.h (NFTA_TRACE_), net/ipv4/netfilter/ip_tables.c (trace_packet).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from netpold.host.kernel.backend import KernelError, said
from netpold.host.kernel.nfnetlink import attributes
from netpold.host.nflog import Busy, Group, Heading, Logged, heading
from netpold.policy.model import Family

Kind = Literal["rule", "return", "policy"]

LOG_GROUP = 0  # where the kernel's logger sends what no rule of its own names a group for
_LOGGERS: dict[Family, str] = {4: "2", 6: "10"}  # NFPROTO_
_LOGGER = "nfnetlink_log"

_NETLINK_NETFILTER, _SO_RCVBUFFORCE, _SOL_NETLINK, _ADD_MEMBERSHIP = 12, 33, 270, 1
_GROUP = 9  # NFNLGRP_NFTRACE
_TRACE = 10 << 8 | 17  # NFT_MSG_TRACE
_RECEIVE = 1 << 17
_WAITING = 16 << 20  # bytes of events that wait to be read: some 20 of a packet, of each copy that a bridge makes of it
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _NETWORK, _TRANSPORT, _IIF, _OIF, _POLICY = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    9,
    10,
    12,
    16,
)
_CODE, _VERDICT_CHAIN = 1, 2
_KINDS: dict[int, Kind] = {1: "policy", 2: "return", 3: "rule"}
_VERDICTS = {0: "drop", 1: "accept", 3: "queue", -1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return"}
_HEADER = struct.Struct("=IHHIIBBH")
_PREFIX = "TRACE: "


@dataclass(frozen=True, slots=True)
class Event:
    """Of a packet, which the kernel calls by a number: a rule of that handle, or the end, of a chain.

    `nfproto`: the table's family; `verdict`: drop, accept, queue, continue, jump, goto or return, with the `target`
    chain; of a policy or an end what comes of it.  `heading` and `hop_limit` are there in the first event of a base
    chain; `incoming`, `outgoing`: indexes of interfaces, 0 for none.
    """

    number: int
    nfproto: int
    table: str
    chain: str
    kind: Kind
    handle: int
    verdict: str
    target: str
    heading: Heading | None
    hop_limit: int
    incoming: int
    outgoing: int


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a legacy table: rule `number` (from 1) of a chain, or, with the number behind the last, its end.  An
    unconditional rule at the end of a chain is called an end, too.  `outgoing`: index of the interface that it is to
    leave by, the port of a bridge where it passes one; 0: none."""

    table: str
    chain: str
    number: int
    hook: str
    heading: Heading
    outgoing: int = 0


class TraceEvents:
    """nf_tables' events of the network namespace of the thread that makes it.  Raises KernelError."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
            )
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WAITING)  # as far as the host lets anybody
            with suppress(PermissionError):  # in a user namespace
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WAITING)
        except OSError as error:
            raise KernelError(f"nf_tables' traces can't be read: {said(error)}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Event]:
        """What has come.  Raises KernelError."""
        found: list[Event] = []
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return found
            except OSError as error:
                raise KernelError(f"nf_tables' traces can't be read: {said(error)}") from error
            try:
                found += events(data)
            except (struct.error, LookupError, ValueError) as error:
                raise KernelError(f"an event of nf_tables can't be read: {data[:64].hex()}") from error


def events(data: bytes) -> Iterator[Event]:
    """The trace events in what the kernel has sent."""
    offset = 0
    while offset < len(data):
        length, kind, _, _, _, nfproto, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise struct.error(f"a message of {length} bytes where {len(data) - offset} are left")
        if kind == _TRACE:
            yield _event(nfproto, _values(data, offset + _HEADER.size, offset + length))
        offset += (length + 3) & ~3


def _event(nfproto: int, values: Mapping[int, bytes]) -> Event:
    kind = _KINDS[_number(values[_TYPE])]
    if kind == "rule" and _HANDLE not in values:  # so newer kernels tell of a chain's end
        kind = "return"
    verdict = _values(values[_VERDICT]) if _VERDICT in values else {}
    code = int.from_bytes(verdict[_CODE], "big", signed=True) if _CODE in verdict else -1
    if kind == "policy":
        code = _number(values.get(_POLICY, b"\1"))
    network = values.get(_NETWORK, b"")
    seen = heading(network + values.get(_TRANSPORT, b""))
    return Event(
        _number(values[_ID]),
        nfproto,
        _text(values[_TABLE]),
        _text(values[_CHAIN]),
        kind,
        _number(values.get(_HANDLE, b"")),
        _VERDICTS.get(code & 0xFF if code > 0 else code, str(code)),
        _text(verdict.get(_VERDICT_CHAIN, b"")),
        seen,
        (network[8] if network[0] >> 4 == 4 else network[7]) if seen else 0,
        _number(values.get(_IIF, b"")),
        _number(values.get(_OIF, b"")),
    )


def _values(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    return {kind: data[first:last] for kind, first, last in attributes(data, start, len(data) if end is None else end)}


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


# Legacy ---------------------------------------------------------------------------------------------------------------


def logger(family: Family) -> str:
    """Where legacy tables write of traced packets: NONE, or the name of a logger of the kernel's."""
    try:
        return Path(f"/proc/sys/net/netfilter/nf_log/{_LOGGERS[family]}").read_text().strip()
    except OSError:
        return "NONE"


def why_no_lines() -> str:
    """Why the lines of legacy tables can't be read, with what to do; '' where they can."""
    wrong = [family for family in _LOGGERS if logger(family) != _LOGGER]
    if not wrong:
        return ""
    sysctl = " ".join(f"net.netfilter.nf_log.{_LOGGERS[family]}={_LOGGER}" for family in wrong)
    return (
        "legacy tables tell of single rules only where the kernel's logger is nfnetlink_log, and the whole host shares "
        f"that: `sysctl -w {sysctl}` makes it so; "
        "what conntrack logs of invalid packets then goes to NFLOG group 0, too"
    )


class TraceLines:
    """What legacy tables tell, in the network namespace of the thread that makes it.  Raises KernelError."""

    def __init__(self) -> None:
        try:
            self._group = Group(LOG_GROUP)
        except Busy as error:
            text = f"{error}, or another trace does; there legacy tables tell of single rules"
            raise KernelError(text) from error

    def fileno(self) -> int:
        return self._group.fileno()

    def close(self) -> None:
        self._group.close()

    def read(self) -> list[Line]:
        """What has come.  Raises KernelError."""
        return [line for each in self._group.read() if (line := trace_line(each))]


def trace_line(logged: Logged) -> Line | None:
    """A logged packet as a line; None where another rule logged it.  A chain's name may have colons."""
    table, _, rest = logged.prefix.removeprefix(_PREFIX).rstrip().partition(":")
    parts = rest.rsplit(":", 2)
    if not logged.prefix.startswith(_PREFIX) or len(parts) != 3 or not parts[2].isdecimal():
        return None
    return Line(table, parts[0], int(parts[2]), logged.hook, logged.heading, logged.outgoing)
