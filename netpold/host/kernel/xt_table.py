"""The legacy filter table as the kernel gives it, read without the xtables lock: no iptc, no copy for changes.

Two questions: its size and layout (microseconds), and all its entries.  Of the entries the counters change with every
packet, and targets that lead to a chain are offsets, which move when rules of others come or go.  So chains are
compared by a digest of their rules without the counters, with the names of chains in place of offsets.

Layouts and constants: linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from netpold.host.kernel import xt_entry
from netpold.host.kernel.backend import KernelError
from netpold.policy.model import Family
from netpold.rules.count import Count
from netpold.rules.ruleset import CHAIN_PREFIXES

_LEVEL = {4: (socket.AF_INET, socket.IPPROTO_IP), 6: (socket.AF_INET6, socket.IPPROTO_IPV6)}
_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("@32sI5I5III")  # name, valid hooks, hook entries, underflows, number of entries, size
_BUILTIN = {1: "INPUT", 2: "FORWARD", 3: "OUTPUT"}  # NF_INET_
BUILTIN = frozenset(_BUILTIN.values())
_ENTRIES_HEADER = 40  # struct ipt_get_entries: name, size, padding
_TRIES = 20

_TARGET = struct.Struct("@H29sB")
_VERDICT = struct.Struct("@i")
_COUNTERS = struct.Struct("@QQ")  # struct xt_counters: packets, bytes
_OFFSETS = struct.Struct("@HH")  # target_offset, next_offset

_Entry = tuple[int, int, int]  # where an entry begins, its target, and what follows it

_libc = ctypes.CDLL(None, use_errno=True)


class Layout(NamedTuple):
    """What the kernel says about a table in a word; two tables that differ in it differ in their rules."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    entries: int
    size: int


class Entries(NamedTuple):
    """A table's layout and its bytes."""

    layout: Layout
    data: bytes


class Chain(NamedTuple):
    """How many rules a chain has.  Of an own chain, a digest of them all; of a built-in one, for each rule the chain
    that it leads to (else empty), and whether it has no condition."""

    rules: int
    digest: bytes
    leads: tuple[tuple[str, bool], ...]


class Reader:
    """Reads the filter table of one family, in the network namespace in which it is made."""

    def __init__(self, family: Family) -> None:
        """Raises KernelError."""
        self.family = family
        kind, self._level = _LEVEL[family]
        try:
            self._socket = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
        except OSError as error:
            raise KernelError(f"raw socket: {error.strerror}; netpold needs CAP_NET_ADMIN and CAP_NET_RAW") from error

    def close(self) -> None:
        self._socket.close()

    def layout(self) -> Layout:
        """Raises KernelError."""
        found = _INFO.unpack(self._ask(_GET_INFO, b"filter".ljust(_INFO.size, b"\0")))
        return Layout(found[2:7], found[7:12], found[12], found[13])

    def entries(self) -> Entries:
        """Raises KernelError."""
        for _ in range(_TRIES):
            layout = self.layout()
            request = struct.pack("@32sI", b"filter", layout.size)
            try:
                data = self._ask(_GET_ENTRIES, request.ljust(_ENTRIES_HEADER + layout.size, b"\0"))
            except _Changed:
                continue
            return Entries(layout, data[_ENTRIES_HEADER:])
        raise KernelError(f"IPv{self.family} filter table: other programs keep changing it")

    def _ask(self, option: int, request: bytes) -> bytes:
        buffer = ctypes.create_string_buffer(request, len(request))
        length = ctypes.c_uint32(len(request))
        if _libc.getsockopt(self._socket.fileno(), self._level, option, buffer, ctypes.byref(length)):
            number = ctypes.get_errno()
            if number == errno.EAGAIN:
                raise _Changed
            raise KernelError(f"IPv{self.family} filter table of iptables-legacy: {os.strerror(number)}")
        return buffer.raw


@contextmanager
def opened(family: Family) -> Iterator[Reader]:
    """Raises KernelError."""
    reader = Reader(family)
    try:
        yield reader
    finally:
        reader.close()


class _Changed(Exception):
    """The table has another size than it had a moment ago."""


def masked(entries: Entries, family: Family) -> bytes:
    """A digest of all entries without what packets and other chains change in them."""
    first, last = xt_entry.changing(family)
    digest = hashlib.blake2b(digest_size=16)
    data = memoryview(entries.data)
    previous = 0
    for offset, _, _ in _walk(entries, family):
        digest.update(data[previous : offset + first])
        previous = offset + last
    digest.update(data[previous:])
    return digest.digest()


def chains(entries: Entries, family: Family) -> Mapping[str, Chain]:
    """netpold's own chains and the built-in ones, by name.  Raises KernelError where they can't be read."""
    data = entries.data
    walked = list(_walk(entries, family))
    heads = _heads(data, walked)
    builtins = {entries.layout.starts[hook]: name for hook, name in _BUILTIN.items()}
    found: dict[str, Chain] = {}
    for name, rules in _chains(walked, heads, builtins):
        if name.startswith(CHAIN_PREFIXES):
            found[name] = Chain(len(rules), _digest(data, rules, family, heads), ())
        elif name in builtins.values():
            found[name] = Chain(len(rules), b"", tuple(_leads(data, each, family, heads) for each in rules))
    return found


def led_to(entries: Entries, family: Family) -> frozenset[tuple[str, str]]:
    """The chains with rules that lead to netpold's own, each with the own one.  Raises KernelError where they can't be
    read."""
    walked = list(_walk(entries, family))
    heads = _heads(entries.data, walked)
    builtins = {entries.layout.starts[hook]: name for hook, name in _BUILTIN.items()}
    return frozenset(
        (name, own)
        for name, rules in _chains(walked, heads, builtins)
        if not name.startswith(CHAIN_PREFIXES)
        for _, target, following in rules
        if (own := _jump(entries.data, target, following, heads)).startswith(CHAIN_PREFIXES)
    )


def renamed(before: Entries, now: Entries, family: Family) -> Mapping[str, str]:
    """By the name that it has now, what each of netpold's chains was called that has another name: it holds what the
    own one held, which is gone or holds something else.  Raises KernelError where they can't be read."""
    found: dict[str, str] = {}
    was, there = (_digests(each, family) for each in (before, now))
    lost = {
        digest: name for name, digest in was.items() if there.get(name) != digest and name.startswith(CHAIN_PREFIXES)
    }
    for name, digest in there.items():
        if name not in was and digest in lost:
            found[name] = lost.pop(digest)
    return found


def _digests(entries: Entries, family: Family) -> dict[str, bytes]:
    """Of all chains with rules that have a name of their own."""
    walked = list(_walk(entries, family))
    heads = _heads(entries.data, walked)
    return {name: _digest(entries.data, rules, family, heads) for name, rules in _chains(walked, heads, {}) if rules}


def counters(entries: Entries, family: Family) -> Mapping[str, list[Count]]:
    """What each rule of netpold's own chains has matched.  Raises KernelError where they can't be read."""
    data = entries.data
    _, last = xt_entry.changing(family)
    walked = list(_walk(entries, family))
    return {
        name: [Count(*_COUNTERS.unpack_from(data, offset + last - _COUNTERS.size)) for offset, _, _ in rules]
        for name, rules in _chains(walked, _heads(data, walked), {})
        if name.startswith(CHAIN_PREFIXES)
    }


def _heads(data: bytes, walked: list[_Entry]) -> dict[int, str]:
    """The names of chains by the places of their first rules."""
    return {
        following: os.fsdecode(data[target + _TARGET.size : following].partition(b"\0")[0])
        for _, target, following in walked
        if data.startswith(b"ERROR\0", target + 2)
    }


def _chains(
    walked: list[_Entry], heads: Mapping[int, str], builtins: Mapping[int, str]
) -> Iterator[tuple[str, list[_Entry]]]:
    """Each chain's rules, without what ends it: a chain's own return, or a built-in chain's policy."""
    name, rules = "", list[_Entry]()
    for each in walked:
        begins = heads.get(each[0]) or builtins.get(each[0])
        if begins:
            if name:
                yield name, rules[:-1]
            name, rules = begins, []
        if each[2] not in heads:  # the entry that only holds a chain's name
            rules.append(each)
    if name:
        yield name, rules[:-1]


def _digest(data: bytes, rules: list[_Entry], family: Family, heads: Mapping[int, str]) -> bytes:
    first, last = xt_entry.changing(family)
    digest = hashlib.blake2b(digest_size=16)
    for offset, target, following in rules:
        digest.update(data[offset : offset + first])
        if chain := _jump(data, target, following, heads):
            digest.update(data[offset + last : target + _TARGET.size])
            digest.update(os.fsencode(chain))
        else:
            digest.update(data[offset + last : following])
    return digest.digest()


def _leads(data: bytes, rule: _Entry, family: Family, heads: Mapping[int, str]) -> tuple[str, bool]:
    offset, target, following = rule
    return _jump(data, target, following, heads), xt_entry.is_plain(data[offset:target], family)


def _walk(entries: Entries, family: Family) -> Iterator[_Entry]:
    size, place = xt_entry.entry_size(family), xt_entry.offsets_at(family)
    offset, end, data = 0, len(entries.data), entries.data
    while offset < end:
        if offset + size > end:
            raise KernelError(f"IPv{family} filter table: an entry of {end - offset} bytes can't be read")
        target, following = _OFFSETS.unpack_from(data, offset + place)
        if not size <= target < following <= end - offset:
            raise KernelError(f"IPv{family} filter table: the entry at {offset} can't be read")
        yield offset, offset + target, offset + following
        offset += following


def _jump(data: bytes, target: int, following: int, names: Mapping[int, str]) -> str:
    """The chain that an entry's target leads to; empty for anything else."""
    if data[target + 2] or target + _TARGET.size + _VERDICT.size > following:  # not the standard target
        return ""
    (verdict,) = _VERDICT.unpack_from(data, target + _TARGET.size)
    return names.get(verdict, "") if verdict >= 0 else ""
