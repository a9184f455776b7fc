"""Sets in the kernel, by netlink: many members to a message, many messages to a send, and no process.

Layouts and constants: linux/netfilter/ipset/ip_set.h, net/netfilter/ipset/ip_set_core.c.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple, TypeVar

from netpold.host.kernel.backend import KernelError, refused
from netpold.host.kernel.nfnetlink import (
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    NLM_F_EXCL,
    Refused,
    Request,
    attribute,
    attributes,
    opened,
)
from netpold.host.kernel.set_members import LONGEST, decode, decode_counted, encode
from netpold.policy.model import Family
from netpold.rules.count import Count
from netpold.rules.plan import ChangeSet, CreateSet
from netpold.rules.render import MOST_MEMBERS, hash_size
from netpold.rules.ruleset import SET_PREFIXES, IPSet

# linux/netfilter/ipset/ip_set.h
_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
_CREATE, _DESTROY, _LIST, _ADD, _DEL = 2, 3, 7, 9, 10
_PROTOCOL, _SETNAME, _TYPENAME, _REVISION, _FAMILY, _FLAGS, _DATA, _ADT, _LINENO = range(1, 10)
_TIMEOUT, _CADT_FLAGS, _HASHSIZE, _MAXELEM, _NETMASK, _ELEMENTS = 6, 8, 18, 19, 20, 24
_FLAG_LIST_SETNAME, _FLAG_LIST_HEADER, _FLAG_WITH_COUNTERS = 1 << 1, 1 << 2, 1 << 3
_ERR_BUSY = 4100

_BATCH = 65_531 // LONGEST  # members to a message: they are one attribute

# Of each type the revision of Linux 3.18, whose options netpold uses none of.  A later one would only keep an older
# ipset program from showing the sets.
_REVISIONS = {"hash:ip": 4, "hash:net": 6, "hash:ip,port": 5, "hash:ip,port,ip": 5}

_VERBS = {_CREATE: "create", _DESTROY: "destroy", _LIST: "list", _ADD: "add", _DEL: "delete"}
_NO_IPSET = "the kernel has no ip_set: modprobe ip_set"
# what netpold's requests can meet; the other codes are said as numbers
_SAID = {
    errno.ENOENT: "there is no set of that name",
    errno.EEXIST: "there is a set of that name already",
    errno.EOPNOTSUPP: _NO_IPSET,
    4097: "the kernel can't read the message: is it older than Linux 3.18?",
    4098: "the kernel does not have that type of set",
    4099: "there are as many sets as the kernel can have",
    _ERR_BUSY: "it is in use",
    4104: "the length of the prefix is not one that the type of set takes",
    4106: "the type of set does not take that family",
    4109: "the set takes IPv4 addresses only",
    4110: "the set takes IPv6 addresses only",
    4352: "the set is full",
    4353: "the unspecified address can't be in a set",
}


_T = TypeVar("_T")


class _Sent(NamedTuple):
    """What a request was about."""

    command: int
    name: str
    members: list[str]


def names() -> frozenset[str]:
    """The names of netpold's own sets in the current network namespace.  Raises KernelError."""
    flags = attribute(_FLAGS | NLA_F_NET_BYTEORDER, struct.pack("!I", _FLAG_LIST_SETNAME))
    try:
        with opened() as channel:
            found = [
                data[start : end - 1].decode(errors="surrogateescape")
                for data, begin, behind in channel.dump(Request(_SUBSYSTEM | _LIST, _PREAMBLE + flags))
                for kind, start, end in attributes(data, begin, behind)
                if kind == _SETNAME
            ]
    except Refused as refusal:
        raise KernelError(f"ipset: the sets can't be listed: {_said(refusal.code)}") from refusal
    return frozenset(name for name in found if name.startswith(SET_PREFIXES))


Options = tuple[bytes | None, ...]


class Header(NamedTuple):
    """What the kernel says of a set in a word.

    `options`: those that decide what members it takes and how long it keeps them, to be compared with `options_of`;
    `size`: how many members it has; None before Linux 4.17; `text`: all of it, to be compared, and nothing else.
    """

    kind: str
    family: Family
    options: Options
    size: int | None
    text: bytes


def headers_listing() -> bytes:
    """The headers of all sets as the kernel gives them, for `headers`: the same bytes say the same.

    Raises KernelError.
    """
    flags = attribute(_FLAGS | NLA_F_NET_BYTEORDER, struct.pack("!I", _FLAG_LIST_HEADER))
    try:
        with opened() as channel:
            return b"".join(
                attribute(_DATA | NLA_F_NESTED, data[begin:behind])
                for data, begin, behind in channel.dump(Request(_SUBSYSTEM | _LIST, _PREAMBLE + flags))
            )
    except Refused as refusal:
        raise refused(refusal.code, f"ipset: the sets can't be listed: {_said(refusal.code)}") from refusal


def headers(listing: bytes) -> dict[str, Header]:
    """The headers of netpold's own sets, by name."""
    found: dict[str, Header] = {}
    for _, begin, behind in attributes(listing, 0, len(listing)):
        parts = {kind: listing[start:end] for kind, start, end in attributes(listing, begin, behind)}
        name = parts.get(_SETNAME, b"").rstrip(b"\0").decode(errors="surrogateescape")
        if name.startswith(SET_PREFIXES):
            options = parts.get(_DATA, b"")
            values = {kind: options[start:end] for kind, start, end in attributes(options, 0, len(options))}
            kind = parts[_TYPENAME].rstrip(b"\0").decode(errors="surrogateescape")
            size = int.from_bytes(values[_ELEMENTS], "big") if _ELEMENTS in values else None
            family: Family = 6 if parts[_FAMILY][0] == socket.AF_INET6 else 4
            found[name] = Header(kind, family, _deciding(values), size, listing[begin:behind])
    return found


def options_of(ipset: IPSet) -> Options:
    """`Header.options` of a set as `create` makes it."""
    return _made_with(ipset.larger == "counts")


@cache
def _made_with(counts: bool) -> Options:
    return _deciding({kind: struct.pack("!I", value) for kind, value in _limits(counts)})


def _deciding(values: Mapping[int, bytes]) -> Options:
    return tuple(map(values.get, (_TIMEOUT, _CADT_FLAGS, _MAXELEM, _NETMASK)))


def listing(name: str) -> list[bytes]:
    """The members of a set as the kernel gives them, for `listed`; the same bytes say the same.

    Raises KernelError, also where there is no such set.
    """
    return _listed(name, lambda data, start, end: [data[start:end]])


def listed(listing: Iterable[bytes]) -> frozenset[str]:
    """What `members` gives.  Raises KernelError."""
    try:
        return frozenset(member for each in listing for member in decode(each, 0, len(each)))
    except LookupError as error:
        raise KernelError("ipset list: a set is of a type that netpold has no sets of") from error


def members(name: str) -> frozenset[str]:
    """The members of a set in the form that IPSet.members has, addresses as inet_ntop(3) writes them.

    Raises KernelError, also where there is no such set.
    """
    return frozenset(_listed(name, decode))


def counters(name: str) -> dict[str, Count]:
    """What a set that counts has found, by member; nothing where there is no such set.  Raises KernelError."""
    return dict(_listed(name, decode_counted, may_miss=True))


def create(steps: Iterable[CreateSet]) -> None:
    """Make sets with their members.  Raises KernelError; some of them may then be there."""
    _carry_out(request for step in steps for request in _create(step))


def change(steps: Iterable[ChangeSet]) -> None:
    """Add members, then delete members, whether or not they are there.

    Raises KernelError; some of the changes may then be done.
    """
    _carry_out(
        request
        for step in steps
        for command, some in ((_ADD, step.add), (_DEL, step.remove))
        for request in _members(command, step.name, some)
    )


def destroy(sets: Iterable[str]) -> frozenset[str]:
    """Remove sets that no rule refers to; those that are still in use are left and returned.

    nf_tables gives a rule's sets free some time after the commit that removed it, so "in use" may pass by itself.
    Raises KernelError.
    """
    busy = set()
    with opened() as channel:
        for name, code in channel.carry_out((name, Request(_SUBSYSTEM | _DESTROY, _head(name))) for name in sets):
            if code == _ERR_BUSY:
                busy.add(name)
            elif code != errno.ENOENT:  # another program destroyed it
                raise refused(code, _complaint(_DESTROY, name, code))
    return frozenset(busy)


def _listed(name: str, decoded: Callable[[bytes, int, int], Iterable[_T]], may_miss: bool = False) -> list[_T]:
    """What `decoded` makes of a set's members; `may_miss`: nothing where there is no such set.  Raises KernelError."""
    try:
        with opened() as channel:
            return [
                each
                for data, begin, behind in channel.dump(Request(_SUBSYSTEM | _LIST, _head(name)))
                for kind, start, end in attributes(data, begin, behind)
                if kind == _ADT
                for each in decoded(data, start, end)
            ]
    except Refused as refusal:
        if may_miss and refusal.code == errno.ENOENT:
            return []
        raise KernelError(f"ipset list {name}: {_said(refusal.code)}") from refusal
    except LookupError as error:
        raise KernelError(f"ipset list {name}: it is of a type that netpold has no sets of") from error


def _create(step: CreateSet) -> Iterator[tuple[_Sent, Request]]:
    ipset = step.ipset
    header = (
        _head(step.name),
        attribute(_TYPENAME, ipset.kind.encode() + b"\0"),
        attribute(_REVISION, bytes((_REVISIONS[ipset.kind],))),
        attribute(_FAMILY, bytes((socket.AF_INET6 if ipset.family == 6 else socket.AF_INET,))),
        attribute(_DATA | NLA_F_NESTED, _options(ipset)),
    )
    yield _Sent(_CREATE, step.name, []), Request(_SUBSYSTEM | _CREATE, b"".join(header), NLM_F_EXCL)
    yield from _members(_ADD, step.name, ipset.members)


def _options(ipset: IPSet) -> bytes:
    """Those that render.set_header has."""
    found = [(_HASHSIZE, hash_size(ipset)), *_limits(ipset.larger == "counts")]
    return b"".join(attribute(kind | NLA_F_NET_BYTEORDER, struct.pack("!I", value)) for kind, value in found)


def _limits(counts: bool) -> list[tuple[int, int]]:
    return [(_MAXELEM, MOST_MEMBERS), *([(_CADT_FLAGS, _FLAG_WITH_COUNTERS)] if counts else [])]


def _members(
    command: int, name: str, all_members: Iterable[str], batch: int = _BATCH
) -> Iterator[tuple[_Sent, Request]]:
    """Requests to add or delete members; without NLM_F_EXCL it does not matter whether they are there."""
    listed = list(all_members)
    head = _head(name) + attribute(_LINENO, bytes(4))
    for start in range(0, len(listed), batch):
        some = listed[start : start + batch]
        data = head + attribute(_ADT | NLA_F_NESTED, encode(some))
        yield _Sent(command, name, some), Request(_SUBSYSTEM | command, data)


def _carry_out(requests: Iterable[tuple[_Sent, Request]]) -> None:
    with opened() as channel:
        for sent, code in channel.carry_out(requests):
            raise refused(code, _complaint(sent.command, sent.name, code, _culprit(sent) if sent.members else None))


def _culprit(sent: _Sent) -> str | None:
    """Which member the kernel refuses: it does not say, so they are sent again, each in a message of its own."""
    with opened() as channel:
        alone = _members(sent.command, sent.name, sent.members, 1)
        return next((each.members[0] for each, _ in channel.carry_out(alone)), None)


def _complaint(command: int, name: str, code: int, member: str | None = None) -> str:
    what = f" {member}" if member and code != errno.ENOENT else ""
    return f"ipset {_VERBS[command]} {name}{what}: {_said(code)}"


def _said(code: int) -> str:
    return _SAID.get(code) or (f"error {code} of ipset" if code > 4096 else os.strerror(code))


def _head(name: str) -> bytes:
    return _PREAMBLE + attribute(_SETNAME, name.encode() + b"\0")


_PREAMBLE = attribute(_PROTOCOL, b"\x06")  # the version that all kernels take
