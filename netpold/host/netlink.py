"""Route netlink: a socket, and the four kinds of message that say where pods are.

A message of interest is decoded into a named tuple; everything else into None.  Addresses are text as inet_ntop(3)
writes it, MAC addresses lower-case with colons, devices interface indexes.  IPv6 link-local addresses are of no
interest: pods are never known by them.  Layouts and constants: rtnetlink(7), linux/rtnetlink.h, linux/neighbour.h.

Why not pyroute2: with thousands of routes its import and dumps took far longer and more memory than these, when it was
tried; and 0.7 (Debian 12) and 0.8 (Debian 13) receive events in different ways.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

AF_BRIDGE = 7

_NUD_FAILED, _NUD_PERMANENT = 0x20, 0x80
_NUD_RESOLVED = 0x02 | 0x04 | 0x08 | 0x10 | _NUD_PERMANENT  # reachable, stale, delay, probe
_NTF_USE, _NTF_EXT_LEARNED = 0x01, 0x10

_NLMSG_ERROR, _NLMSG_DONE, _NLMSG_OVERRUN = 2, 3, 4
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR, _NLM_F_REPLACE, _NLM_F_CREATE = 0x01, 0x300, 0x10, 0x100, 0x400
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, _SO_RCVBUFFORCE = 270, 12, 33
_GROUPS = (1, 3, 5, 7, 9, 11)  # RTNLGRP_ LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_RECEIVE = 1 << 17  # the kernel never fills more than 32 KiB at once

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_U32 = struct.Struct("=I")
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct(
    "=BBBBBBBBI"
)  # family, destination length, source length, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type

_RTN_UNICAST, _RTN_LOCAL, _RT_TABLE_LOCAL = 1, 2, 255
_RTM_F_CLONED = 0x200
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 6, 7, 15
_NEXT_HOP = {5, 9, 18, 22, 30}  # RTA_ GATEWAY, MULTIPATH, VIA, ENCAP, NH_ID
_IFF_UP = 0x01
_IFLA_ADDRESS, _IFLA_LINK_NETNSID = 1, 37
_SKIP_STATISTICS = struct.pack("=HHI", 8, 29, 1 << 3)  # IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS

DUMPS: tuple[tuple[int, bytes], ...] = (
    (RTM_GETLINK, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _SKIP_STATISTICS),
    (RTM_GETADDR, _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)),
    (RTM_GETROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)),
    (RTM_GETROUTE, _ROUTE.pack(socket.AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0)),
    (RTM_GETNEIGH, _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)),
    (RTM_GETNEIGH, _NEIGHBOUR.pack(AF_BRIDGE, 0, 0, 0, 0)),
)
"""Requests for everything there is, links first."""


class NetlinkError(Exception):
    """The kernel refused a request, lost messages, or sent one that can't be read: ask for everything again."""


class LinkMessage(NamedTuple):
    """An interface; `kind` None for a physical one, `master` 0 for none; `away`: its other end is in another network
    namespace; `mac`: as text, '' where it has none."""

    gone: bool
    device: int
    name: str
    kind: str | None
    master: int
    up: bool
    away: bool = False
    mac: str = ""


class AddressMessage(NamedTuple):
    """An address of the host, with the prefix length that it was given."""

    gone: bool
    device: int
    address: str
    length: int


class RouteMessage(NamedTuple):
    """A route, of those with a next hop (or that lead nowhere) only host routes; their `device` is 0.

    `replaces`: it took the place of the first route with this destination, table, tos and priority.
    `source`: the preferred source address, IPv4 only (in IPv6 the route outlives it).
    """

    gone: bool
    replaces: bool
    local: bool
    destination: str
    length: int
    table: int
    tos: int
    priority: int
    source: str | None
    device: int


class NeighbourMessage(NamedTuple):
    """A resolved neighbour, or one that is gone or does not answer (`mac` None).

    `fixed`: it was written down by a person or a program, so it is not asked for.
    """

    gone: bool
    device: int
    address: str
    mac: str | None
    fixed: bool = False


class FdbMessage(NamedTuple):
    """A learned or static entry of a bridge's forwarding database."""

    gone: bool
    bridge: int
    mac: str
    port: int


Message = LinkMessage | AddressMessage | RouteMessage | NeighbourMessage | FdbMessage


class Netlink:
    """A route netlink socket in the network namespace of the thread that opens it."""

    def __init__(self, *, subscribe: bool = False, receive_buffer: int = 8 << 20) -> None:
        """With `subscribe` it gets every change from now on (`events`), else it is for requests."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            self._socket.bind((0, sum(1 << (group - 1) for group in _GROUPS) if subscribe else 0))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def events(self) -> list[Message] | None:
        """Changes that have arrived, None where none are waiting.  Raises NetlinkError where some were lost."""
        try:
            data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise NetlinkError("there were more changes than the socket's buffer holds") from error
            raise
        return [message for kind, flags, body in _split(data) if (message := decode(kind, flags, body)) is not None]

    def dump(self, kind: int, request: bytes) -> tuple[list[Message], bool]:
        """All objects of a kind, and whether the list stood still meanwhile (else some may be missing).

        Raises NetlinkError where the kernel refuses.
        """
        self._sequence += 1
        self._socket.send(_message(kind, _NLM_F_REQUEST | _NLM_F_DUMP, request, self._sequence))
        messages: list[Message] = []
        complete = True
        while True:
            for answer, flags, body in _split(self._socket.recv(_RECEIVE), self._sequence):
                complete &= not flags & _NLM_F_DUMP_INTR
                if answer == _NLMSG_DONE:
                    return messages, complete
                if (message := decode(answer, 0, body)) is not None:
                    messages.append(message)

    def resolve(self, neighbours: Sequence[tuple[int, str]]) -> None:
        """Have the kernel ask for neighbours by ARP or neighbour discovery: (bridge, address) each.

        What the kernel believed of them is dropped first.  Else it would ask the old MAC address, and that only after
        some packets and seconds.  Refusals (there was no entry to drop, the bridge has just gone) are of no interest.
        """
        requests = b"".join(_resolution(*neighbour) for neighbour in neighbours)
        if requests:
            self._socket.send(requests)
            with contextlib.suppress(BlockingIOError):
                while self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT):
                    pass


def decode(kind: int, flags: int, body: memoryview) -> Message | None:
    """One netlink message; None where it is of no interest.  Raises NetlinkError where it can't be read."""
    try:
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            return _link(kind == RTM_DELLINK, body)
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            return _route(kind == RTM_DELROUTE, bool(flags & _NLM_F_REPLACE), body)
        if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            return _neighbour(kind == RTM_DELNEIGH, body)
        if kind in (RTM_NEWADDR, RTM_DELADDR):
            return _address(kind == RTM_DELADDR, body)
        code = _ERROR.unpack_from(body)[0] if kind == _NLMSG_ERROR else 0
    except (struct.error, LookupError, ValueError) as error:
        raise NetlinkError(f"netlink message of type {kind} can't be read: {bytes(body).hex()}") from error
    if code:
        raise NetlinkError(f"the kernel refused a netlink request: {os.strerror(abs(code))}")
    if kind == _NLMSG_OVERRUN:
        raise NetlinkError("the kernel lost messages")
    return None


def _link(gone: bool, body: memoryview) -> LinkMessage | None:
    family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    attributes = _attributes(body, _IFINFO.size)
    if family != socket.AF_UNSPEC or 11 in attributes:
        return None  # about a bridge's port (it is "deleted" when it leaves the bridge), or a wireless event
    name = _text(attributes[3])
    information = attributes.get(18)
    kind = _attributes(information, 0).get(1) if information is not None else None
    return LinkMessage(
        gone,
        index,
        name,
        _text(kind) if kind is not None else None,
        _number(attributes.get(10)) or 0,
        bool(flags & _IFF_UP),
        _IFLA_LINK_NETNSID in attributes,
        bytes(attributes.get(_IFLA_ADDRESS, b"")).hex(":"),
    )


def _address(gone: bool, body: memoryview) -> AddressMessage | None:
    family, length, _flags, _scope, device = _IFADDR.unpack_from(body)
    attributes = _attributes(body, _IFADDR.size)
    address = _address_text(family, attributes.get(2, attributes.get(1)))  # IFA_LOCAL, else IFA_ADDRESS (no peer)
    return AddressMessage(gone, device, address, length) if address is not None else None


def _route(gone: bool, replaces: bool, body: memoryview) -> RouteMessage | None:
    family, length, _source, tos, table, _protocol, _scope, type_, flags = _ROUTE.unpack_from(body)
    if not length or flags & _RTM_F_CLONED:
        return None
    attributes = _attributes(body, _ROUTE.size)
    destination = _address_text(family, attributes[_RTA_DST])
    table = _number(attributes.get(_RTA_TABLE)) or table
    local = type_ == _RTN_LOCAL
    direct = (local or (type_ == _RTN_UNICAST and table != _RT_TABLE_LOCAL)) and _NEXT_HOP.isdisjoint(attributes)
    if destination is None or not (direct or replaces or length == host_length(destination)):
        return None
    return RouteMessage(
        gone,
        replaces,
        local,
        destination,
        length,
        table,
        tos,
        _number(attributes.get(_RTA_PRIORITY)) or 0,
        _address_text(family, attributes.get(_RTA_PREFSRC)) if family == socket.AF_INET else None,
        (_number(attributes.get(_RTA_OIF)) or 0) if direct else 0,
    )


def _neighbour(gone: bool, body: memoryview) -> NeighbourMessage | FdbMessage | None:
    family, device, state, flags, _type = _NEIGHBOUR.unpack_from(body)
    attributes = _attributes(body, _NEIGHBOUR.size)
    address = _address_text(family, attributes.get(1))
    if address is not None and (gone or state & _NUD_FAILED):
        return NeighbourMessage(True, device, address, None)
    mac = attributes.get(2)
    if mac is None or len(mac) != 6 or mac[0] & 1:  # not resolved, no Ethernet, multicast
        return None
    if family == AF_BRIDGE:
        bridge = _number(attributes.get(9))  # none where it is the device's own list (NTF_SELF), as a vxlan's
        if bridge is None or state & _NUD_PERMANENT:  # the bridge's and the ports' own addresses
            return None
        return FdbMessage(gone, bridge, mac.hex(":"), device)
    if address is None or not state & _NUD_RESOLVED:
        return None
    fixed = bool(state & _NUD_PERMANENT or flags & _NTF_EXT_LEARNED)
    return NeighbourMessage(False, device, address, mac.hex(":"), fixed)


def host_length(address: str) -> int:
    """The prefix length of a single address."""
    return 128 if ":" in address else 32


def _address_text(family: int, data: memoryview | None) -> str | None:
    """The address as text; None where there is none, or one of no interest."""
    if data is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if family == socket.AF_INET6 and data[0] == 0xFE and data[1] & 0xC0 == 0x80:
        return None
    return socket.inet_ntop(family, data)


def _number(data: memoryview | None) -> int | None:
    return _U32.unpack(data)[0] if data is not None else None


def _text(data: memoryview) -> str:
    return bytes(data).rstrip(b"\0").decode("utf-8", "surrogateescape")


def _attributes(data: memoryview, offset: int) -> dict[int, memoryview]:
    attributes = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            raise ValueError("attribute length")
        attributes[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return attributes


def _split(data: bytes, sequence: int | None = None) -> Iterator[tuple[int, int, memoryview]]:
    view = memoryview(data)
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, number, _port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise NetlinkError(f"netlink message of {length} bytes where {len(data) - offset} are left")
        if sequence is None or number == sequence:
            yield kind, flags, view[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def _resolution(bridge: int, address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    destination = _ATTRIBUTE.pack(4 + len(packed), 1) + packed
    drop = _NEIGHBOUR.pack(family, bridge, _NUD_FAILED, 0, 0) + destination
    use = _NEIGHBOUR.pack(family, bridge, 0, _NTF_USE, 0) + destination
    return _message(RTM_NEWNEIGH, _NLM_F_REQUEST, drop) + _message(RTM_NEWNEIGH, _NLM_F_REQUEST | _NLM_F_CREATE, use)
