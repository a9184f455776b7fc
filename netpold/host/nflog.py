"""Packets that netpold's rules log, by NFLOG: a netlink socket that has a group's packets, and what they say.

The kernel copies the head of each packet into a buffer of the group, and hands a full buffer over, or what there is
after FLUSH_S.  Where nobody reads fast enough it throws buffers away, and no packet ever waits; since it numbers what
it copies, how many were lost is known as soon as another packet comes.  A group has one reader: a second one is
refused.

Layouts and constants: linux/netfilter/nfnetlink_log.h; how the kernel fills messages: net/netfilter/nfnetlink_log.c.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.nfnetlink import attribute, attributes

_NETLINK_NETFILTER, _ULOG = 12, 4 << 8  # NFNL_SUBSYS_ULOG
_PACKET, _CONFIG = _ULOG | 0, _ULOG | 1
_NLMSG_ERROR = 2
_REQUEST_ACK = 0x01 | 0x04
_CFG_CMD, _CFG_MODE, _CFG_BUFFER, _CFG_TIMEOUT, _CFG_THRESHOLD, _CFG_FLAGS = range(1, 7)
_BIND, _COPY_PACKET, _SEQUENCE = 1, 2, 1
_HDR, _IN, _OUT, _PHYS_IN, _PHYS_OUT, _PAYLOAD, _PREFIX, _SEQ = 1, 4, 5, 6, 7, 9, 10, 12
_SO_RCVBUFFORCE = 33

COPIED = 128  # bytes of a packet: an IPv6 header, some extension headers, and ports
BUFFER = 1 << 15  # bytes that the kernel gathers before it hands them over
FLUSH_S = 0.1  # or after so long
WAITING = 1 << 20  # bytes of buffers that wait to be read; more are lost

_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr: length, type, flags, sequence, port; nfgenmsg: family, version, group
_START = struct.Struct("=IH")
_ERROR = struct.Struct("=i")
_NUMBER = struct.Struct("!I")
_PORTS = struct.Struct("!HH")

_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}  # iptables' names; others are numbers
_WITH_PORTS = {6, 17, 33, 132, 136}
_EXTENSIONS = {0, 43, 60}  # hop-by-hop options, routing, destination options
_FRAGMENT, _AUTHENTICATION = 44, 51
_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


class Busy(KernelError):
    """Another program reads the group."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What a packet's headers say.  `protocol`: iptables' name, or a number as text; ports and the ICMP type are None
    where there is none to be read, as in a later fragment."""

    source: str
    destination: str
    protocol: str
    source_port: int | None = None
    port: int | None = None
    icmp_type: int | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """A packet that a rule logged.  `prefix`: the rule's; `incoming`, `outgoing`: indexes of interfaces, 0 for none,
    ports of a bridge where it passed one."""

    prefix: str
    heading: Heading
    hook: str
    incoming: int
    outgoing: int
    sequence: int


class Group:
    """A group's packets, in the network namespace of the thread that makes it.  Raises KernelError, Busy.

    `lost`: packets that the kernel threw away; `uncounted`: how often it did that since, where none that came after it
    tells yet how many they were.
    """

    def __init__(self, group: int) -> None:
        self.lost = self.uncounted = 0
        self._next = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as error:
            raise KernelError(f"logged packets can't be read by netlink: {error.strerror}") from error
        try:
            self._socket.bind((0, 0))
            self._configure(group, attribute(_CFG_CMD, bytes([_BIND])))
            mode = struct.pack("!IBx", COPIED, _COPY_PACKET)
            self._configure(
                group,
                attribute(_CFG_MODE, mode)
                + attribute(_CFG_BUFFER, _NUMBER.pack(BUFFER))
                + attribute(_CFG_TIMEOUT, _NUMBER.pack(round(FLUSH_S * 100)))
                + attribute(_CFG_THRESHOLD, _NUMBER.pack(BUFFER // 64))
                + attribute(_CFG_FLAGS, struct.pack("!H", _SEQUENCE)),
            )
            with suppress(PermissionError):  # in a user namespace; then fewer wait
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, WAITING)
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise KernelError(f"logged packets can't be read by netlink: {error.strerror}") from error
        except KernelError:
            self._socket.close()
            raise

    def _configure(self, group: int, what: bytes) -> None:
        length = _HEADER.size + len(what)
        self._socket.send(
            _HEADER.pack(length, _CONFIG, _REQUEST_ACK, 0, 0, socket.AF_UNSPEC, 0, socket.htons(group)) + what
        )
        while True:
            data = self._socket.recv(BUFFER * 2)
            for kind, start, _ in _messages(data):
                if kind != _NLMSG_ERROR:
                    continue  # a packet that was logged meanwhile
                code = -_ERROR.unpack_from(data, start)[0]
                if code in (errno.EBUSY, errno.EPERM):
                    raise Busy(f"another program reads NFLOG group {group}")
                if code in (errno.EINVAL, errno.EOPNOTSUPP):  # of a subsystem that nfnetlink has no module for
                    raise KernelError(
                        "the kernel has no nfnetlink_log, dropped packets can't be shown: load that module"
                    )
                if code:
                    raise KernelError(f"NFLOG group {group} can't be read: {os.strerror(code)}")
                return

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Logged]:
        """What one buffer of the kernel holds; nothing where there is none.  Raises KernelError."""
        try:
            data = self._socket.recv(BUFFER * 2)
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # told once, until all that still waits has been read
                self.uncounted += 1
                return []
            raise KernelError(f"logged packets can't be read: {error.strerror}") from error
        try:
            found = list(decode(data))
        except (struct.error, LookupError, ValueError) as error:
            raise KernelError(f"a logged packet can't be read: {data[:64].hex()}") from error
        for each in found:
            missing = (each.sequence - self._next) & 0xFFFFFFFF
            if missing:
                self.lost += missing
                self.uncounted = max(self.uncounted - 1, 0)
            self._next = (each.sequence + 1) & 0xFFFFFFFF
        return found


def decode(data: bytes) -> Iterator[Logged]:
    """The packets in what the kernel has sent.  Those of other families than IPv4 and IPv6, or that are too short, are
    passed over."""
    for kind, start, end in _messages(data):
        if kind != _PACKET:
            continue
        found: dict[int, tuple[int, int]] = {}
        for attribute_kind, first, last in attributes(data, start + 4, end):
            found[attribute_kind] = first, last
        if _PAYLOAD not in found:
            continue
        seen = heading(data[slice(*found[_PAYLOAD])])
        if seen is None:
            continue
        prefix = data[slice(*found[_PREFIX])].rstrip(b"\0").decode("ascii", "replace") if _PREFIX in found else ""
        hook = data[found[_HDR][0] + 2] if _HDR in found else 2
        yield Logged(
            prefix,
            seen,
            _HOOKS[hook] if hook < len(_HOOKS) else "",
            _index(data, found, _PHYS_IN) or _index(data, found, _IN),
            _index(data, found, _PHYS_OUT) or _index(data, found, _OUT),
            _index(data, found, _SEQ),
        )


def _index(data: bytes, found: dict[int, tuple[int, int]], kind: int) -> int:
    number: int = _NUMBER.unpack_from(data, found[kind][0])[0] if kind in found else 0
    return number


def heading(packet: bytes) -> Heading | None:
    """What the head of an IP packet says; None where it is none, or cut within its addresses."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        source, destination = str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))
        is_first = not (packet[6] & 0x1F or packet[7])
        return _transport(packet, (packet[0] & 15) * 4, packet[9], is_first, source, destination)
    if version == 6 and len(packet) >= 40:
        source, destination = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
        number, offset, is_first = _after_extensions(packet)
        return _transport(packet, offset, number, is_first, source, destination)
    return None


def _after_extensions(packet: bytes) -> tuple[int, int, bool]:
    """The transport protocol's number, where its header begins, and whether it is there (as in a first fragment)."""
    number, offset, is_first = packet[6], 40, True
    while offset + 8 <= len(packet):
        if number in _EXTENSIONS:
            length = (packet[offset + 1] + 1) * 8
        elif number == _AUTHENTICATION:
            length = (packet[offset + 1] + 2) * 4
        elif number == _FRAGMENT:
            length = 8
            is_first = is_first and not (packet[offset + 2] or packet[offset + 3] & 0xF8)
        else:
            break
        number, offset = packet[offset], offset + length
    return number, offset, is_first


def _transport(packet: bytes, offset: int, number: int, is_first: bool, source: str, destination: str) -> Heading:
    name = _NAMES.get(number, str(number))
    there = len(packet) - offset if is_first else 0
    if number in _WITH_PORTS and there >= 4:
        sender, receiver = _PORTS.unpack_from(packet, offset)
        return Heading(source, destination, name, sender, receiver)
    if name in ("icmp", "ipv6-icmp") and there >= 1:
        return Heading(source, destination, name, icmp_type=packet[offset])
    return Heading(source, destination, name)


def _messages(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each message's type, and where what follows its header begins and ends."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = _START.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            raise struct.error(f"a message of {length} bytes where {len(data) - offset} are left")
        yield kind, offset + 16, offset + length
        offset += (length + 3) & ~3
