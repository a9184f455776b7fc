"""Many small datagrams with one system call: sendmmsg(2) and recvmmsg(2), which Python's socket module does not have.

Each datagram of a burst is a slot of one buffer, so its content is written and read with one call for all of them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr"""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


class Slots:
    """Room for `count` datagrams of `size` bytes each; `buffer` holds them one after the other."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.buffer = bytearray(count * size)
        self._memory = (ctypes.c_char * len(self.buffer)).from_buffer(self.buffer)
        base = ctypes.addressof(self._memory)
        self._parts = (_Iovec * count)(*(_Iovec(base + index * size, size) for index in range(count)))
        self._messages = (_Message * count)()
        for message, part in zip(self._messages, self._parts, strict=True):
            message.header.iov, message.header.iov_length = ctypes.pointer(part), 1

    def send(self, sock: socket.socket) -> int:
        """Send all slots by a connected or bound socket; gives how many went.  Raises OSError when none does."""
        return _count(_LIBC.sendmmsg(sock.fileno(), self._messages, self.count, 0))

    def receive(self, sock: socket.socket) -> int:
        """Fill slots with what is there now, without waiting; gives how many.  Raises OSError."""
        return _count(_LIBC.recvmmsg(sock.fileno(), self._messages, self.count, socket.MSG_DONTWAIT, None))


class Numbered(Slots):
    """Datagrams that hold a number of 64 bits and nothing else."""

    def __init__(self, count: int) -> None:
        super().__init__(count, 8)
        self._layout = struct.Struct(f"{count}Q")

    def send_from(self, sock: socket.socket, first: int) -> int:
        """Send `first`, `first + 1` and so on; gives how many went."""
        self._layout.pack_into(self.buffer, 0, *range(first, first + self.count))
        return self.send(sock)

    def receive_all(self, sock: socket.socket) -> list[int]:
        """The numbers that are there now, at most `count`."""
        received = self.receive(sock)
        return list(self._layout.unpack(self.buffer)[:received]) if received else []


def _count(result: int) -> int:
    if result >= 0:
        return result
    number = ctypes.get_errno()
    if number == errno.EAGAIN:
        return 0
    raise OSError(number, os.strerror(number))
