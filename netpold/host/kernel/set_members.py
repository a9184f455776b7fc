"""Members of sets, from text to what ipset's netlink takes and back.

The text is what `ipset save` prints: `10.0.0.1`, `10.0.0.0/8`, `10.1.0.0/16 nomatch`, `10.0.0.1,tcp:80`,
`10.0.0.1,tcp:80,10.0.0.2`; addresses as inet_ntop(3) writes them.  A member is one attribute (IPSET_ATTR_DATA) that
holds the others, the same for each type of set.  Layouts and constants: linux/netfilter/ipset/ip_set.h.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial

from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.nfnetlink import NLA_F_NESTED, NLA_F_NET_BYTEORDER, attribute, attributes
from netpold.rules.count import Count

LONGEST = 68  # bytes, of an IPv6 address with port and a second address

_DATA = 7
_IP, _CIDR, _PORT, _PROTO, _CADT_FLAGS, _IP2, _BYTES, _PACKETS = 1, 3, 4, 7, 8, 20, 24, 25
_NOMATCH = 1 << 2

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}

_PARTS = re.compile("([^/, ]+)(.*)")
_BEHIND = re.compile("(?:/([0-9]+))?(?:,([a-z]+):([0-9]+)(?:,([^/, ]+))?)?( nomatch)?")
_HEADER = struct.Struct("=HH")
_COUNTER = struct.Struct("!Q")

_SIZE: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}
_IPADDR: dict[int, int] = {socket.AF_INET: 1, socket.AF_INET6: 2}


def _before_address(kind: int, family: int, flag: int = NLA_F_NET_BYTEORDER) -> bytes:
    """What stands before the bytes of an address."""
    size = _SIZE[family]
    return struct.pack("=HHHH", 8 + size, kind | NLA_F_NESTED, 4 + size, _IPADDR[family] | flag)


def _before_plain(family: int, flag: int = NLA_F_NET_BYTEORDER, behind: int = 0) -> bytes:
    """What stands before the address of a member that is nothing else, but for so many bytes behind it."""
    return struct.pack("=HH", 12 + _SIZE[family] + behind, _DATA | NLA_F_NESTED) + _before_address(_IP, family, flag)


_ADDRESS = {(kind, family): _before_address(kind, family) for kind in (_IP, _IP2) for family in _SIZE}
_PLAIN = {family: _before_plain(family) for family in _SIZE}
_PLAIN_LISTED = {_before_plain(family, 0): family for family in _SIZE}  # the kernel does not flag its own
_COUNTED = {_before_plain(family, 0, 24): family for family in _SIZE}
_BEFORE_COUNTERS = tuple(_HEADER.pack(12, kind | NLA_F_NET_BYTEORDER) for kind in (_BYTES, _PACKETS))


def encode(members: Sequence[str]) -> bytes:
    """One attribute for each member.  Raises KernelError where a text is no member."""
    family = socket.AF_INET6 if ":" in members[0] else socket.AF_INET
    try:  # most are addresses and nothing else
        prefix = _PLAIN[family]
        return prefix + prefix.join(map(partial(socket.inet_pton, family), members))
    except OSError:
        return b"".join(map(_encode, members))


def decode(data: bytes, start: int, end: int) -> Iterable[str]:
    """The members whose attributes stand there.  Raises struct.error or LookupError where they can't be read."""
    prefix = data[start : start + 12]
    family = _PLAIN_LISTED.get(prefix)
    if family is not None and (end - start) % (12 + _SIZE[family]) == 0:
        records = list(struct.iter_unpack(f"12s{_SIZE[family]}s", data[start:end]))
        if all(each == prefix for each, _ in records):
            return [socket.inet_ntop(family, address) for _, address in records]
    return map(_text, _listed(data, start, end))


def decode_counted(data: bytes, start: int, end: int) -> Iterable[tuple[str, Count]]:
    """The same of a set with counters, with what these say."""
    prefix = data[start : start + 12]
    family = _COUNTED.get(prefix)
    if family is not None and (end - start) % (36 + _SIZE[family]) == 0:
        records = list(struct.iter_unpack(f"!12s{_SIZE[family]}s4sQ4sQ", data[start:end]))
        if all(first == prefix and (second, third) == _BEFORE_COUNTERS for first, _, second, _, third, _ in records):
            return [
                (socket.inet_ntop(family, address), Count(packets, octets))
                for _, address, _, octets, _, packets in records
            ]
    return (
        (_text(found), Count(_COUNTER.unpack(found[_PACKETS])[0], _COUNTER.unpack(found[_BYTES])[0]))
        for found in _listed(data, start, end)
    )


def _listed(data: bytes, start: int, end: int) -> Iterable[dict[int, bytes]]:
    """The attributes of each member."""
    return (
        {kind: data[first:last] for kind, first, last in attributes(data, inner, behind)}
        for _, inner, behind in attributes(data, start, end)
    )


def _encode(member: str) -> bytes:
    parts = _PARTS.fullmatch(member)
    try:
        if parts is None:
            raise ValueError("there is no address")
        found = _address(_IP, parts[1]) + _behind(parts[2])
    except (ValueError, LookupError, OSError, struct.error) as error:
        raise KernelError(f"{member!r} is no member of a set") from error
    return _HEADER.pack(_HEADER.size + len(found), _DATA | NLA_F_NESTED) + found


def _address(kind: int, text: str) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return _ADDRESS[kind, family] + socket.inet_pton(family, text)


@lru_cache(maxsize=64)  # most sets have few of them, each on many members
def _behind(text: str) -> bytes:
    """What a member has behind its address."""
    parts = _BEHIND.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text} can't stand behind an address")
    length, protocol, port, second, nomatch = parts.groups()
    found = b""
    if length:
        found += attribute(_CIDR, bytes((int(length),)))
    if protocol:
        found += attribute(_PORT | NLA_F_NET_BYTEORDER, struct.pack("!H", int(port)))
        found += attribute(_PROTO, bytes((_PROTOCOLS[protocol],)))
    if second:
        found += _address(_IP2, second)
    if nomatch:
        found += attribute(_CADT_FLAGS | NLA_F_NET_BYTEORDER, struct.pack("!I", _NOMATCH))
    return found


def _text(found: dict[int, bytes]) -> str:
    address = found[_IP][4:]
    text = _address_text(address)
    if _CIDR in found and found[_CIDR][0] != len(address) * 8:
        text += f"/{found[_CIDR][0]}"
    if _PORT in found:
        (port,) = struct.unpack("!H", found[_PORT])
        number = found[_PROTO][0]
        text += f",{_PROTOCOL_NAMES.get(number, number)}:{port}"
    if _IP2 in found:
        text += f",{_address_text(found[_IP2][4:])}"
    if _CADT_FLAGS in found and found[_CADT_FLAGS][3] & _NOMATCH:
        text += " nomatch"
    return text


def _address_text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
