"""Who changes what in the `filter` tables: nf_tables tells of each transaction when it is done.

First comes a message for each object that came or went, then one with the number of the generation, the process and
its name.  A message's port is that of the socket that sent the transaction.

A rule that another one replaces goes and comes in two messages, one directly after the other, with one handle, which
no other two have.  Where both do the same, nothing but a counter has changed.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.nf_netlink import (
    CHAIN_HANDLE,
    CHAIN_NAME,
    DELCHAIN,
    DELRULE,
    DELTABLE,
    FAMILY,
    FILTER,
    HEADER,
    NEWCHAIN,
    NEWRULE,
    NEWTABLE,
    RECEIVE,
    RULE_CHAIN,
    TABLE_HANDLE,
    as_number,
    as_text,
    connected,
    decoded,
)
from netpold.host.kernel.nf_rules import Doing
from netpold.host.kernel.nfnetlink import attributes
from netpold.policy.model import Family
from netpold.rules.ruleset import CHAIN_PREFIXES, FAMILIES

_GROUP = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_NEWGEN, _DESTROYTABLE, _DESTROYCHAIN, _DESTROYRULE = 15, 26, 27, 28
_TABLES = frozenset((NEWTABLE, DELTABLE, _DESTROYTABLE))
_CHAINS = frozenset((NEWCHAIN, DELCHAIN, _DESTROYCHAIN))
_RULES = frozenset((NEWRULE, DELRULE, _DESTROYRULE))
_GEN_PID, _GEN_NAME = 2, 3


class Named(NamedTuple):
    """A chain that came, changed (maybe its name) or, with an empty name, went; or (`is_table`) the table itself did,
    and has this handle now, 0 for none."""

    family: Family
    handle: int
    name: str = ""
    is_table: bool = False


class Transaction(NamedTuple):
    """What one transaction changed in the `filter` tables.

    `port`: of the socket that it came from; `pid` (as the initial namespace has it) and `name`: of its process.
    `own`: netpold's chains that were touched, in more than counters; `others`: other chains; `named`: what it did to
    chains themselves, in order; `tables`: where the table itself came, went, or got other flags.
    """

    port: int
    pid: int
    name: str
    own: Mapping[Family, frozenset[str]]
    others: Mapping[Family, frozenset[str]]
    named: tuple[Named, ...]
    tables: frozenset[Family]


class _Half(NamedTuple):
    """What a message says of a rule of one of netpold's chains, by where its attributes begin and end; maybe half of
    what is told of one that was replaced."""

    family: Family
    chain: str
    is_new: bool
    data: bytes
    start: int
    end: int

    def undoes(self, other: _Half) -> bool:
        """Whether, with what the other one says, everything is as before, but for a counter."""
        if self.is_new == other.is_new or (self.family, self.chain) != (other.family, other.chain):
            return False
        here, there = (Doing.of(each.data, each.start, each.end) for each in (self, other))
        return here == there


class Lost(Exception):
    """The kernel had more to tell than the socket's buffer holds: anything may have changed."""


class Events:
    """The transactions of the network namespace in which it is made.  For one thread; `fileno` can be waited for."""

    def __init__(self, receive_buffer: int = 16 << 20) -> None:
        """Raises KernelError."""
        self._socket = connected(_GROUP, receive_buffer)
        self._begin()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def transactions(self) -> Iterator[Transaction]:
        """Those that have ended and were not given yet; does not wait.  Raises Lost, or KernelError."""
        while True:
            try:
                data = self._socket.recv(RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._begin()
                if error.errno == errno.ENOBUFS:
                    raise Lost from error
                raise KernelError(f"nf_tables: its events can't be read: {error.strerror}") from error
            try:
                yield from self._read(data)
            except (struct.error, LookupError, UnicodeDecodeError) as error:
                self._begin()
                raise Lost from error  # as good as lost

    def _begin(self) -> None:
        self._own: dict[Family, set[str]] = {4: set(), 6: set()}
        self._others: dict[Family, set[str]] = {4: set(), 6: set()}
        self._tables: set[Family] = set()
        self._named: list[Named] = []
        self._half: _Half | None = None  # the last message

    def _read(self, data: bytes) -> Iterator[Transaction]:
        offset = 0
        while offset < len(data):
            length, kind, _, _, port, proto, _, _ = HEADER.unpack_from(data, offset)
            start, end = offset + HEADER.size, offset + length
            offset += (length + 3) & ~3
            command = kind & 0xFF
            if command == _NEWGEN:
                yield self._ended(port, decoded(data, start, end))
            elif proto in FAMILY and data.startswith(FILTER, start):  # the table's name always stands first
                self._note(command, FAMILY[proto], data, start + len(FILTER), end)

    def _note(self, command: int, family: Family, data: bytes, start: int, end: int) -> None:
        if command in _RULES:
            self._note_rule(command, family, data, start, end)
            return
        self._settle()
        if command in _TABLES:
            self._tables.add(family)
            handle = as_number(decoded(data, start, end).get(TABLE_HANDLE)) if command == NEWTABLE else 0
            self._named.append(Named(family, handle, is_table=True))
        elif command in _CHAINS:
            values = decoded(data, start, end)
            name = as_text(values[CHAIN_NAME])
            self._touched(family, name)
            handle = as_number(values.get(CHAIN_HANDLE))
            self._named.append(Named(family, handle, name if command == NEWCHAIN else ""))

    def _note_rule(self, command: int, family: Family, data: bytes, start: int, end: int) -> None:
        chain = next(
            (as_text(data[first:last]) for kind, first, last in attributes(data, start, end) if kind == RULE_CHAIN), ""
        )
        half = self._half
        if not chain.startswith(CHAIN_PREFIXES):
            self._settle()
            self._touched(family, chain)
            return
        other = _Half(family, chain, command == NEWRULE, data, start, end)
        if half is not None and other.undoes(half):
            self._half = None
            return
        self._settle()
        self._half = other

    def _settle(self) -> None:
        """Nothing undoes what the last message said."""
        half, self._half = self._half, None
        if half is not None:
            self._touched(half.family, half.chain)

    def _touched(self, family: Family, chain: str) -> None:
        (self._own if chain.startswith(CHAIN_PREFIXES) else self._others)[family].add(chain)

    def _ended(self, port: int, values: Mapping[int, bytes]) -> Transaction:
        self._settle()
        own, others = ({family: frozenset(each[family]) for family in FAMILIES} for each in (self._own, self._others))
        pid = int.from_bytes(values.get(_GEN_PID, b""), "big")
        done = Transaction(
            port, pid, as_text(values.get(_GEN_NAME, b"")), own, others, tuple(self._named), frozenset(self._tables)
        )
        self._begin()
        return done
