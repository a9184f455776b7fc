"""UDP and raw IP sockets that say which local address a packet came to, answer from it, and report ICMP errors."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from tests.lab.wire import syn_filter

# linux/in.h, linux/in6.h, linux/icmp.h, linux/icmpv6.h, asm-generic/socket.h: what Python 3.11 has no names for
_IP_PKTINFO, _IP_RECVERR, _IP_TRANSPARENT = 8, 11, 19
_IPV6_RECVERR, _IPV6_TRANSPARENT = 25, 75
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_SOL_RAW, _ICMP_FILTER, _ICMPV6_FILTER = 255, 1, 1

DOMAIN = {4: socket.AF_INET, 6: socket.AF_INET6}
ANY = {4: "0.0.0.0", 6: "::"}


class Received(NamedTuple):
    """A packet: payload without IP header, sender (address and port), and the local address that it came to."""

    payload: bytes
    sender: tuple[str, int]
    local: str


class Datagram:
    """A non-blocking UDP socket (protocol 17) or raw IP socket of one family; made inside the namespace it is for."""

    def __init__(self, family: int, protocol: int, address: str | None = None, port: int = 0) -> None:
        self.family = family
        self.protocol = protocol
        kind = socket.SOCK_DGRAM if protocol == 17 else socket.SOCK_RAW
        self.socket = socket.socket(DOMAIN[family], kind | socket.SOCK_NONBLOCK, protocol)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == 4:
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        report_errors(self.socket, family)
        self._filter()
        borrow(self.socket, family)
        if protocol == 17:
            if family == 6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.socket.bind((address or ANY[family], port))

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, payload: bytes, to: tuple[str, int], local: str | None = None) -> None:
        """Send, from that local address if one is named; raises OSError, but never an earlier packet's ICMP error."""
        ancillary = [self._source(local)] if local else []
        with contextlib.suppress(OSError):
            self.socket.sendmsg([payload], ancillary, 0, to)
            return
        self.socket.sendmsg([payload], ancillary, 0, to)  # the first error may be an ICMP error's, reported by now

    def received(self) -> Iterator[Received]:
        """What has come in since."""
        while True:
            try:
                data, ancillary, _, sender = self.socket.recvmsg(2048, 256)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error; `errors` has it as well
            payload = data[(data[0] & 15) * 4 :] if self.family == 4 and self.protocol != 17 else data
            yield Received(payload, (sender[0], sender[1] if self.protocol == 17 else 0), self._local(ancillary))

    def errors(self) -> Iterator[bytes]:
        """The payloads (without IP header) of packets that came back in an ICMP error."""
        while True:
            try:
                yield self.socket.recvmsg(2048, 512, socket.MSG_ERRQUEUE)[0]
            except BlockingIOError:
                return

    def close(self) -> None:
        self.socket.close()

    def _source(self, local: str) -> tuple[int, int, bytes]:
        packed = socket.inet_pton(DOMAIN[self.family], local)
        if self.family == 4:
            return socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4s", 0, packed, packed)
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16sI", packed, 0)

    def _local(self, ancillary: list[tuple[int, int, bytes]]) -> str:
        for level, kind, data in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                return socket.inet_ntop(socket.AF_INET, data[8:12])
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                return socket.inet_ntop(socket.AF_INET6, data[:16])
        return ANY[self.family]

    def _filter(self) -> None:
        """Let the kernel pass only what can be a probe: TCP's first packets, ICMP's echoes."""
        if self.protocol == socket.IPPROTO_TCP:
            program = ctypes.create_string_buffer(syn_filter(self.family))
            length = (len(program) - 1) // 8
            header = struct.pack("HL", length, ctypes.addressof(program))
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
        elif self.protocol == socket.IPPROTO_ICMP:
            blocked = ~(1 << 8 | 1 << 0) & 0xFFFFFFFF
            self.socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", blocked))
        elif self.protocol == socket.IPPROTO_ICMPV6:
            words = [0xFFFFFFFF] * 8
            words[4] = ~(1 << 0 | 1 << 1) & 0xFFFFFFFF  # types 128 and 129
            self.socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("=8I", *words))


def report_errors(sock: socket.socket, family: int) -> None:
    """ICMP errors go to the socket's error queue (ip(7), IP_RECVERR)."""
    if family == 4:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)


def borrow(sock: socket.socket, family: int) -> None:
    """Let it send from addresses that are not the host's own (ip(7), IP_TRANSPARENT)."""
    if family == 4:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
