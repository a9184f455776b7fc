"""Netlink messages about nf_tables: how they are laid out, and questions to the kernel that get one answer.

Layouts and constants: linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from netpold.host.kernel.backend import KernelError, said
from netpold.host.kernel.nfnetlink import attribute, attributes
from netpold.policy.model import Family

_NETLINK_NETFILTER, _SO_RCVBUFFORCE = 12, 33
_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 16, 17  # NFNL_MSG_BATCH_
NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
CHAIN_HANDLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 2, 3, 4, 5, 7
RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS, RULE_USERDATA = 2, 3, 4, 7
_TABLE_NAME, TABLE_FLAGS, TABLE_HANDLE = 1, 2, 4

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x01, 0x04, 0x300
RECEIVE = 1 << 17
_TRIES = 20  # at a list that changes while it is read

# nlmsghdr: length, type, flags, sequence number, port; nfgenmsg: family, version, resource (of events: the generation)
HEADER = struct.Struct("=IHHIIBBH")
_ERROR = struct.Struct("=i")
_FOR_NF_TABLES = struct.unpack("=H", struct.pack("!H", 10))[0]  # resource of a batch
FAMILY: dict[int, Family] = {socket.AF_INET: 4, socket.AF_INET6: 6}
_NFPROTO: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
FILTER = attribute(_TABLE_NAME, b"filter\0")

own_ports: deque[int] = deque(maxlen=16)  # of the sockets of this process that changed something last

_T = TypeVar("_T")


def decoded(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Attributes by their kind."""
    return {kind: data[first:last] for kind, first, last in attributes(data, start, len(data) if end is None else end)}


def as_number(data: bytes | None) -> int:
    """0 for an attribute that is not there."""
    return int.from_bytes(data or b"", "big")


def as_text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="surrogateescape")


class _Interrupted(Exception):
    """Something changed while it was listed."""


class Asker:
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
            for kind, generation, data, start, end in _split(self._socket.recv(RECEIVE)):
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
        kind, _, data, start, _ = next(_split(self._socket.recv(RECEIVE)))
        code = -_ERROR.unpack_from(data, start - 4)[0] if kind == _NLMSG_ERROR else 0
        if code:
            raise OSError(code, os.strerror(code))

    def _send(self, command: int, flags: int, body: bytes) -> None:
        self._socket.send(self._message(command, flags, body))

    def _message(self, command: int, flags: int, body: bytes) -> bytes:
        return _message(_SUBSYSTEM | command, _NLM_F_REQUEST | flags, body, _NFPROTO[self._family], 0)


def _message(kind: int, flags: int, body: bytes, nfproto: int, resource: int) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0, nfproto, 0, resource) + body


def _split(data: bytes) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Each message's type and generation, the buffer, and where its attributes begin and end."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < HEADER.size:
            raise struct.error(f"a message of {len(data) - offset} bytes")
        length, kind, _, _, _, _, _, generation = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            raise struct.error(f"a message of {length} bytes where {len(data) - offset} are left")
        yield kind, generation, data, offset + HEADER.size, offset + length
        offset += (length + 3) & ~3


def asked(family: Family, question: Callable[[Asker], _T]) -> _T:
    """The answer, given while nothing changed.  Raises KernelError."""
    try:
        for _ in range(_TRIES):
            with connected() as channel, contextlib.suppress(_Interrupted):
                return question(Asker(channel, family))
    except OSError as error:
        raise KernelError(f"IPv{family}: nf_tables can't be read: {error.strerror}") from error
    except (struct.error, LookupError) as error:
        raise KernelError(f"IPv{family}: a message of nf_tables can't be read: {error}") from error
    raise KernelError(f"IPv{family}: nf_tables can't be read: other programs keep changing it")


def connected(groups: int = 0, receive_buffer: int = 1 << 20) -> socket.socket:
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
