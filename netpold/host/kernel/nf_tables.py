"""nf_tables by netlink, as far as netpold reads it: who changed what in `filter`, and which rules stand there.

A rule in nf_tables never changes: another one in its place has another handle, and a table made anew has another
handle, too.  So handles in their order say all about a chain's content, and no rule has to be decoded.

The kernel tells of each transaction when it is done: first a message for each object that came or went, then one with
the number of the generation, the process and its name.  A message's port is that of the socket that sent the
transaction.  Layouts and constants: linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from netpold.host.kernel.backend import KernelError, said
from netpold.host.kernel.nfnetlink import attribute, attributes
from netpold.policy.model import Family
from netpold.rules.count import Count
from netpold.rules.ruleset import CHAIN_PREFIXES, FAMILIES

_NETLINK_NETFILTER, _SO_RCVBUFFORCE = 12, 33
_GROUP = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_SUBSYSTEM = 10 << 8
_NEWTABLE, _GETTABLE, _DELTABLE = 0, 1, 2
_NEWCHAIN, _GETCHAIN, _DELCHAIN = 3, 4, 5
_NEWRULE, _GETRULE, _DELRULE = 6, 7, 8
_NEWGEN, _DESTROYTABLE, _DESTROYCHAIN, _DESTROYRULE = 15, 26, 27, 28
_BATCH_BEGIN, _BATCH_END = 16, 17  # NFNL_MSG_BATCH_
_TABLES = frozenset((_NEWTABLE, _DELTABLE, _DESTROYTABLE))
_CHAINS = frozenset((_NEWCHAIN, _DELCHAIN, _DESTROYCHAIN))
_RULES = frozenset((_NEWRULE, _DELRULE, _DESTROYRULE))
_TABLE_NAME, _TABLE_FLAGS, _TABLE_HANDLE = 1, 2, 4
_CHAIN_HANDLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 2, 3, 4, 7
_RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 2, 3, 4
_LIST_ELEMENT, _VERDICT_REGISTER = 1, 0
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_GEN_PID, _GEN_NAME = 2, 3
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER = attribute(_EXPRESSION_NAME, b"counter\0")
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_IMMEDIATE_REGISTER, _IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 2, 1, 2
_JUMP = (-3) & 0xFFFFFFFF
_DORMANT = 1

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x01, 0x04, 0x300
_NLM_F_CREATE, _NESTED = 0x400, 0x8000
_RECEIVE = 1 << 17
_TRIES = 20  # at a list that changes while it is read

# nlmsghdr: length, type, flags, sequence number, port; nfgenmsg: family, version, resource (of events: the generation)
_HEADER = struct.Struct("=IHHIIBBH")
_ERROR = struct.Struct("=i")
_FOR_NF_TABLES = struct.unpack("=H", struct.pack("!H", 10))[0]  # resource of a batch
_FAMILY: dict[int, Family] = {socket.AF_INET: 4, socket.AF_INET6: 6}
_NFPROTO: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
_FILTER = attribute(_TABLE_NAME, b"filter\0")
_OWN = tuple(each.encode() for each in CHAIN_PREFIXES)
_HOOKS = {"INPUT": 1, "FORWARD": 2, "OUTPUT": 3}  # NF_INET_

own_ports: deque[int] = deque(maxlen=16)  # of the sockets of this process that changed something last

_T = TypeVar("_T")


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
    `own`: netpold's chains that were touched; `others`: other chains; `named`: what it did to chains themselves, in
    order; `tables`: where the table itself came, went, or got other flags.
    """

    port: int
    pid: int
    name: str
    own: Mapping[Family, frozenset[str]]
    others: Mapping[Family, frozenset[str]]
    named: tuple[Named, ...]
    tables: frozenset[Family]


class Lost(Exception):
    """The kernel had more to tell than the socket's buffer holds: anything may have changed."""


class Events:
    """The transactions of the network namespace in which it is made.  For one thread; `fileno` can be waited for."""

    def __init__(self, receive_buffer: int = 16 << 20) -> None:
        """Raises KernelError."""
        self._socket = _connected(_GROUP, receive_buffer)
        self._begin()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def transactions(self) -> Iterator[Transaction]:
        """Those that have ended and were not given yet; does not wait.  Raises Lost, or KernelError."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
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

    def _read(self, data: bytes) -> Iterator[Transaction]:
        offset = 0
        while offset < len(data):
            length, kind, _, _, port, proto, _, _ = _HEADER.unpack_from(data, offset)
            start, end = offset + _HEADER.size, offset + length
            offset += (length + 3) & ~3
            command = kind & 0xFF
            if command == _NEWGEN:
                yield self._ended(port, _values(data, start, end))
            elif proto in _FAMILY and data.startswith(_FILTER, start):  # the table's name always stands first
                self._note(command, _FAMILY[proto], data, start + len(_FILTER), end)

    def _note(self, command: int, family: Family, data: bytes, start: int, end: int) -> None:
        if command in _TABLES:
            self._tables.add(family)
            handle = _number(_values(data, start, end).get(_TABLE_HANDLE)) if command == _NEWTABLE else 0
            self._named.append(Named(family, handle, is_table=True))
        elif command in _CHAINS:
            values = _values(data, start, end)
            name = _text(values[_CHAIN_NAME])
            self._touched(family, name)
            handle = _number(values.get(_CHAIN_HANDLE))
            self._named.append(Named(family, handle, name if command == _NEWCHAIN else ""))
        elif command in _RULES:
            for kind, first, last in attributes(data, start, end):
                if kind == _RULE_CHAIN:
                    self._touched(family, _text(data[first:last]))
                    return

    def _touched(self, family: Family, chain: str) -> None:
        (self._own if chain.startswith(CHAIN_PREFIXES) else self._others)[family].add(chain)

    def _ended(self, port: int, values: Mapping[int, bytes]) -> Transaction:
        own, others = ({family: frozenset(each[family]) for family in FAMILIES} for each in (self._own, self._others))
        pid = int.from_bytes(values.get(_GEN_PID, b""), "big")
        done = Transaction(
            port, pid, _text(values.get(_GEN_NAME, b"")), own, others, tuple(self._named), frozenset(self._tables)
        )
        self._begin()
        return done


class Table(NamedTuple):
    """A `filter` table at one moment: its own handle, and netpold's chains with the handles of their rules."""

    handle: int
    chains: Mapping[str, tuple[int, ...]]


def contents(family: Family) -> Table:
    """What the filter table holds of netpold's; where there is no table, nothing.  Raises KernelError."""
    return _asked(family, _contents)


def counters(family: Family) -> Mapping[str, list[Count]]:
    """What each rule of netpold's chains has matched; a rule without a counter, nothing.  Raises KernelError."""
    return _asked(family, _counters)


class Lead(NamedTuple):
    """A rule, by its chain and handle: which own chain it leads to (else empty), and whether with every packet, and
    back again (a plain jump)."""

    chain: str
    handle: int
    own: str
    is_plain: bool


def leads(family: Family, builtin: str = "") -> list[Lead]:
    """All rules of a chain of the filter table, or of all its chains but netpold's.  Raises KernelError."""
    body = _FILTER + attribute(_RULE_CHAIN, builtin.encode() + b"\0") if builtin else _FILTER
    return _asked(
        family,
        lambda asker: [_lead(*each) for each in asker.dump(_GETRULE, body) if not _is_of_own_chain(*each)],
    )


def led_to(family: Family) -> frozenset[tuple[str, str]]:
    """The chains with rules that lead to own chains, each with the own one.  Raises KernelError."""
    return _asked(
        family,
        lambda asker: frozenset(
            (lead.chain, lead.own)
            for each in asker.dump(_GETRULE, _FILTER)
            if not _is_of_own_chain(*each) and any(each[0].find(own, *each[1:]) >= 0 for own in _OWN)
            for lead in (_lead(*each),)
            if lead.own
        ),
    )


def dormant(family: Family) -> bool:
    """Whether the filter table is switched off, so that no packet meets it.  Raises KernelError."""
    return _asked(
        family,
        lambda asker: any(
            bool(_values(data, start, end)[_TABLE_FLAGS][-1] & _DORMANT)
            for data, start, end in asker.dump(_GETTABLE)
            if data.startswith(_FILTER, start)
        ),
    )


def strayed(family: Family, builtin: str) -> bool:
    """Whether there is a chain of that name which the packets do not pass that the built-in one is for: who makes a
    chain anew may make it without its hook, or with another.  Raises KernelError."""
    return _asked(family, lambda asker: any(not _is_built_in(each, builtin) for each in _named(asker, builtin)))


def is_out_of_reach(family: Family, builtin: str) -> bool:
    """Whether there is a chain of that name that iptables does not take for the built-in one, since it stands in
    another order among others.  Raises KernelError."""
    return _asked(family, lambda asker: any(_priority(each) for each in _named(asker, builtin)))


class Names(NamedTuple):
    """What the chains of a `filter` table are called, by their handles; without a table, 0 and none."""

    handle: int
    names: Mapping[int, str]


def chain_names(family: Family) -> Names:
    """Of all chains.  Raises KernelError."""
    return _asked(family, _chain_names)


def rename(family: Family, names: Mapping[int, str]) -> None:
    """Give chains, by their handles, names that no chain has, all or none.  Raises KernelError."""
    messages = [
        (
            _NEWCHAIN,
            _FILTER
            + attribute(_CHAIN_HANDLE, handle.to_bytes(8, "big"))
            + attribute(_CHAIN_NAME, name.encode() + b"\0"),
        )
        for handle, name in names.items()
    ]
    if messages:
        _asked(family, lambda asker: asker.change(*messages))


def wake_up(family: Family) -> None:
    """Switch a dormant filter table on again.  Raises KernelError."""
    _asked(family, lambda asker: asker.change((_NEWTABLE, _FILTER + attribute(_TABLE_FLAGS, bytes(4)))))


def delete(family: Family, chain: str) -> None:
    """Delete a chain with its rules.  Raises KernelError, also where a rule leads there."""
    name = chain.encode() + b"\0"
    _asked(
        family,
        lambda asker: asker.change(
            (_DELRULE, _FILTER + attribute(_RULE_CHAIN, name)), (_DELCHAIN, _FILTER + attribute(_CHAIN_NAME, name))
        ),
    )


def delete_rules(family: Family, rules: Iterable[Lead]) -> None:
    """Delete these rules, all or none.  Raises KernelError."""
    messages = [
        (_DELRULE, _FILTER + _in_chain(each.chain) + attribute(_RULE_HANDLE, each.handle.to_bytes(8, "big")))
        for each in rules
    ]
    if messages:
        _asked(family, lambda asker: asker.change(*messages))


def insert_jump(family: Family, builtin: str, own: str) -> None:
    """Make a plain jump the first rule of a chain.  Raises KernelError."""
    verdict = attribute(_VERDICT_CODE, _JUMP.to_bytes(4, "big")) + attribute(_VERDICT_CHAIN, own.encode() + b"\0")
    data = attribute(_DATA_VERDICT | _NESTED, verdict)
    register = attribute(_IMMEDIATE_REGISTER, _VERDICT_REGISTER.to_bytes(4, "big"))
    expression = attribute(_EXPRESSION_NAME, b"immediate\0") + attribute(
        _EXPRESSION_DATA | _NESTED, register + attribute(_IMMEDIATE_DATA | _NESTED, data)
    )
    expressions = attribute(_RULE_EXPRESSIONS | _NESTED, attribute(_LIST_ELEMENT | _NESTED, expression))
    body = _FILTER + _in_chain(builtin) + expressions
    _asked(family, lambda asker: asker.change((_NEWRULE, body), flags=_NLM_F_CREATE))


def _in_chain(chain: str) -> bytes:
    return attribute(_RULE_CHAIN, chain.encode(errors="surrogateescape") + b"\0")


def _named(asker: _Asker, chain: str) -> list[dict[int, bytes]]:
    """What the kernel says of the chain of that name, if there is one."""
    chains = (_values(*each) for each in asker.dump(_GETCHAIN) if each[0].startswith(_FILTER, each[1]))
    return [each for each in chains if _text(each[_CHAIN_NAME]) == chain]


def _is_built_in(values: Mapping[int, bytes], builtin: str) -> bool:
    hook = _values(values.get(_CHAIN_HOOK, b"")).get(_HOOK_NUMBER, b"")
    return int.from_bytes(hook, "big") == _HOOKS[builtin] and _text(values.get(_CHAIN_TYPE, b"")) == "filter"


def _priority(values: Mapping[int, bytes]) -> int:
    hook = _values(values.get(_CHAIN_HOOK, b""))
    return int.from_bytes(hook.get(_HOOK_PRIORITY, b""), "big", signed=True)


def _table_handle(asker: _Asker) -> int:
    handle = 0
    for data, start, end in asker.dump(_GETTABLE):
        if data.startswith(_FILTER, start):
            handle = _number(_values(data, start, end)[_TABLE_HANDLE])
    return handle


def _chain_names(asker: _Asker) -> Names:
    handle = _table_handle(asker)
    chains = [_values(*each) for each in asker.dump(_GETCHAIN) if each[0].startswith(_FILTER, each[1])]
    return Names(handle, {_number(each[_CHAIN_HANDLE]): _text(each[_CHAIN_NAME]) for each in chains})


def _contents(asker: _Asker) -> Table:
    handle = _table_handle(asker)
    rules: dict[str, list[int]] = {}
    for data, start, end in asker.dump(_GETCHAIN):
        if data.startswith(_FILTER, start):
            name = _values(data, start, end)[_CHAIN_NAME]
            if name.startswith(_OWN):
                rules[_text(name)] = []
    for data, start, _ in asker.dump(_GETRULE, _FILTER):
        first = start + len(_FILTER)  # the chain's name always stands second, the handle third
        if data.startswith(_OWN, first + 4):
            (length,) = struct.unpack_from("=H", data, first)
            third = first + ((length + 3) & ~3) + 4
            chain = _text(data[first + 4 : first + length])
            rules.setdefault(chain, []).append(int.from_bytes(data[third : third + 8], "big"))
    return Table(handle, {name: tuple(handles) for name, handles in rules.items()})


def _counters(asker: _Asker) -> dict[str, list[Count]]:
    found: dict[str, list[Count]] = {}
    for data, start, end in asker.dump(_GETRULE, _FILTER):
        if _is_of_own_chain(data, start, end):
            values = _values(data, start, end)
            count = _counted(values.get(_RULE_EXPRESSIONS, b""))
            found.setdefault(_text(values[_RULE_CHAIN]), []).append(count)
    return found


def _counted(expressions: bytes) -> Count:
    """What the counter among these says; looked for by its name as it is written there, for there are many rules."""
    place = expressions.find(_COUNTER)
    if place < 0:
        return Count()
    _, start, end = next(attributes(expressions, place + len(_COUNTER), len(expressions)))
    said = _values(expressions, start, end)
    return Count(int.from_bytes(said[_COUNTER_PACKETS], "big"), int.from_bytes(said[_COUNTER_BYTES], "big"))


def _is_of_own_chain(data: bytes, start: int, _: int) -> bool:
    return data.startswith(_OWN, start + len(_FILTER) + 4)  # the chain's name always stands second


def _lead(data: bytes, start: int, end: int) -> Lead:
    values = _values(data, start, end)
    handle = int.from_bytes(values[_RULE_HANDLE], "big")
    return Lead(_text(values[_RULE_CHAIN]), handle, *_leads_to(values.get(_RULE_EXPRESSIONS, b"")))


def _leads_to(expressions: bytes) -> tuple[str, bool]:
    """See Lead.  `-j CHAIN` alone is a counter and an immediate verdict."""
    parts = [_values(expressions, start, end) for _, start, end in attributes(expressions, 0, len(expressions))]
    if not parts or parts[-1][_EXPRESSION_NAME] != b"immediate\0":
        return "", False
    data = _values(_values(parts[-1][_EXPRESSION_DATA]).get(_IMMEDIATE_DATA, b""))
    verdict = _values(data.get(_DATA_VERDICT, b""))
    chain = verdict.get(_VERDICT_CHAIN, b"")
    is_plain = all(each[_EXPRESSION_NAME] == b"counter\0" for each in parts[:-1])
    is_jump = int.from_bytes(verdict.get(_VERDICT_CODE, b""), "big") == _JUMP
    return (_text(chain), is_plain and is_jump) if chain.startswith(_OWN) else ("", False)


def _values(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    return {kind: data[first:last] for kind, first, last in attributes(data, start, len(data) if end is None else end)}


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "big")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="surrogateescape")


class _Interrupted(Exception):
    """Something changed while it was listed."""


class _Asker:
    """A socket for questions about the tables of one family."""

    def __init__(self, channel: socket.socket, family: Family) -> None:
        self._socket = channel
        self._family = family
        self._generations: set[int] = set()

    def dump(self, command: int, body: bytes = b"") -> Iterator[tuple[bytes, int, int]]:
        """A listing: for each message a buffer, and where in it its attributes begin and end.

        Raises _Interrupted, at the end, where something changed since this object's first listing began.
        """
        self._send(command, _NLM_F_DUMP, body)
        while True:
            for kind, generation, data, start, end in _split(self._socket.recv(_RECEIVE)):
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    code = -_ERROR.unpack_from(data, start - 4)[0]
                    if code and code != errno.ENOENT:  # no such table, no such chain
                        raise OSError(code, os.strerror(code))
                    if len(self._generations) > 1:
                        raise _Interrupted
                    return
                self._generations.add(generation)
                yield data, start, end

    def change(self, *messages: tuple[int, bytes], flags: int = 0) -> None:
        """A transaction of these messages, each a command and its body; `flags` for all.  Raises OSError."""
        own_ports.append(self._socket.getsockname()[0])
        begin, end = (_message(kind, _NLM_F_REQUEST, b"", 0, _FOR_NF_TABLES) for kind in (_BATCH_BEGIN, _BATCH_END))
        *others, (command, body) = messages  # errors come first, and the answer to the last one if there are none
        middle = b"".join(self._message(each, flags, its) for each, its in others)
        self._socket.send(begin + middle + self._message(command, flags | _NLM_F_ACK, body) + end)
        kind, _, data, start, _ = next(_split(self._socket.recv(_RECEIVE)))
        code = -_ERROR.unpack_from(data, start - 4)[0] if kind == _NLMSG_ERROR else 0
        if code:
            raise OSError(code, os.strerror(code))

    def _send(self, command: int, flags: int, body: bytes) -> None:
        self._socket.send(self._message(command, flags, body))

    def _message(self, command: int, flags: int, body: bytes) -> bytes:
        return _message(_SUBSYSTEM | command, _NLM_F_REQUEST | flags, body, _NFPROTO[self._family], 0)


def _message(kind: int, flags: int, body: bytes, nfproto: int, resource: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0, nfproto, 0, resource) + body


def _split(data: bytes) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Each message's type and generation, the buffer, and where its attributes begin and end."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise struct.error(f"a message of {len(data) - offset} bytes")
        length, kind, _, _, _, _, _, generation = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise struct.error(f"a message of {length} bytes where {len(data) - offset} are left")
        yield kind, generation, data, offset + _HEADER.size, offset + length
        offset += (length + 3) & ~3


def _asked(family: Family, question: Callable[[_Asker], _T]) -> _T:
    """The answer, given while nothing changed.  Raises KernelError."""
    try:
        for _ in range(_TRIES):
            with _connected() as channel, contextlib.suppress(_Interrupted):
                return question(_Asker(channel, family))
    except OSError as error:
        raise KernelError(f"IPv{family}: nf_tables can't be read: {error.strerror}") from error
    except (struct.error, LookupError) as error:
        raise KernelError(f"IPv{family}: a message of nf_tables can't be read: {error}") from error
    raise KernelError(f"IPv{family}: nf_tables can't be read: other programs keep changing it")


def _connected(groups: int = 0, receive_buffer: int = 1 << 20) -> socket.socket:
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        try:
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
            made.bind((0, groups))
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise KernelError(f"nf_tables can't be asked by netlink: {said(error)}") from error
    return made
