"""nfnetlink, what its subsystems (ipset, conntrack) have in common: requests, and the kernel's answers to them.

Many requests go to the kernel in one send, which gives control back when all of them are carried out.  Each is carried
out whether or not one before it was refused.  The kernel answers those that it refused, and the last one of a send:
that answer says that there are no more.  Layouts and constants: linux/netlink.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from netpold.host.kernel.backend import KernelError, Trouble, said

NLA_F_NESTED, NLA_F_NET_BYTEORDER = 0x8000, 0x4000
NLM_F_EXCL = 0x200

_NETLINK_NETFILTER = 12
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x01, 0x04, 0x300
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_RECEIVE = 1 << 17  # the kernel never fills more than 32 KiB at once
# of one send: it has to fit the socket's send buffer, and all answers the receive buffer, 1 KiB each (208 KiB both)
_SEND, _MOST = 180_000, 128

_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr: length, type, flags, sequence, port; nfgenmsg: family, version, 0
_START = struct.Struct("=IHHI")  # nlmsghdr: length, type, flags, sequence
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

T = TypeVar("T")


class Refused(Exception):
    """The kernel refused a dump; `code` is its errno."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Request(NamedTuple):
    """A message without its header.  `kind`: subsystem << 8 | command; `family`: AF_ of nfgenmsg, where that matters.

    The attributes' length is a multiple of 4.
    """

    kind: int
    attributes: bytes
    flags: int = 0
    family: int = socket.AF_UNSPEC

    def message(self, flags: int, sequence: int) -> bytes:
        length = _HEADER.size + len(self.attributes)
        flags |= self.flags | _NLM_F_REQUEST
        return _HEADER.pack(length, self.kind, flags, sequence, 0, self.family, 0, 0) + self.attributes


class Channel:
    """A socket to nfnetlink, by `opened`."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel

    def carry_out(self, requests: Iterable[tuple[T, Request]]) -> Iterator[tuple[T, int]]:
        """Carry all requests out; gives what the caller knows a refused one by, and the kernel's errno for it."""
        batch: list[tuple[T, Request]] = []
        size = 0
        for each in requests:
            length = _HEADER.size + len(each[1].attributes)
            if batch and (size + length > _SEND or len(batch) == _MOST):
                yield from self._send(batch)
                batch, size = [], 0
            batch.append(each)
            size += length
        if batch:
            yield from self._send(batch)

    def dump(self, request: Request) -> Iterator[tuple[bytes, int, int]]:
        """A listing: for each message a buffer, and where in it its attributes begin and end.  Raises Refused."""
        self._socket.send(request.message(_NLM_F_DUMP, 0))
        while True:
            data = self._socket.recv(_RECEIVE)
            for kind, _, start, end in _split(data):
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    code = -_ERROR.unpack_from(data, start)[0]
                    if code:
                        raise Refused(code)
                    return
                yield data, start + 4, end

    def _send(self, batch: list[tuple[T, Request]]) -> Iterator[tuple[T, int]]:
        last = len(batch) - 1
        self._socket.send(
            b"".join(
                request.message(_NLM_F_ACK if place == last else 0, place) for place, (_, request) in enumerate(batch)
            )
        )
        while True:
            data = self._socket.recv(_RECEIVE)
            for kind, place, start, _ in _split(data):
                if kind == _NLMSG_ERROR:
                    code = -_ERROR.unpack_from(data, start)[0]
                    if code:
                        yield batch[place][0], code
                    if place == last:
                        return


@contextlib.contextmanager
def opened() -> Iterator[Channel]:
    """A channel in the network namespace of this thread; what goes wrong with it is a KernelError."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as channel:
            channel.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # answers without the request
            yield Channel(channel)
    except OSError as error:
        raise Trouble(f"the kernel's netfilter can't be asked by netlink: {said(error)}") from error
    except struct.error as error:
        raise KernelError(f"a message of the kernel's netfilter can't be read: {error}") from error


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute with its header and padding.  Raises struct.error where the value is over 65,531 bytes long."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Each attribute's type (without its flags), and where its value begins and ends."""
    while start < end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            raise struct.error(f"an attribute of {length} bytes where {end - start} are left")
        yield kind & 0x3FFF, start + 4, start + length
        start += (length + 3) & ~3


def _split(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each message's type and sequence number, and where what follows its header begins and ends."""
    offset = 0
    while offset < len(data):
        length, kind, _, sequence = _START.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            raise struct.error(f"a message of {length} bytes where {len(data) - offset} are left")
        yield kind, sequence, offset + 16, offset + length
        offset += (length + 3) & ~3
