"""One way through a node, from a pod's interface to another host, and what a packet on it costs.

Frames go out by a packet socket in the pod's namespace, many with one call: a veth is crossed in the caller's own
time, so the call returns when the node has forwarded the last of them and the other end has dropped it (in the table
`raw`, where its rule counts them: what was not forwarded is an error, not a fast packet).  IPv4, UDP, 50 octets.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address

from tests.bench.burst import Slots
from tests.lab import Host, Node
from tests.lab.pod import Pod

COUNT = 200  # frames in a burst: it is over before the scheduler takes the processor away
_ETHERNET, _IP, _UDP = 14, 20, 8
_SIZE = _ETHERNET + _IP + _UDP + 8
_PORT = _ETHERNET + _IP + 2  # where the destination port is
_FIRST_SOURCE_PORT, _FIRST_PORT, _LAST_PORT = 20000, 1024, 65535
_TCP_PORT = 5001
_CHUNK = 1 << 20
_PATIENCE_S = 20.0


class Way:
    """A way; the node must forward what goes by it, and conntrack is emptied after each measurement."""

    def __init__(self, node: Node, source: Pod, destination: Host) -> None:
        self._node, self._source, self._destination = node, source, destination
        self._sent = 0
        self._next_port = _FIRST_PORT
        destination.run(["iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "-j", "DROP"])
        with source.netns.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._socket.bind(("eth0", 0))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:  # the node learns its neighbour's address
                first.sendto(b"", (destination.address(4), _FIRST_PORT))
        self._sent += 1
        self._frames = Slots(COUNT, _SIZE)
        head = self._head()
        for index in range(COUNT):
            ports = struct.pack("!HHHH", _FIRST_SOURCE_PORT + index, _FIRST_PORT, _UDP + 8, 0)
            self._frames.buffer[index * _SIZE : (index + 1) * _SIZE] = head + ports + bytes(8)

    def new_ns(self, bursts: int) -> float:
        """Nanoseconds for a packet that conntrack does not know: the median of so many bursts."""
        return self._measure(bursts, self._fresh)

    def open_ns(self, bursts: int) -> float:
        """The same for a packet of a flow that conntrack knows."""
        self._fresh()
        self._burst()
        return self._measure(bursts, lambda: None)

    def check(self) -> None:
        """Raises RuntimeError where packets did not arrive."""
        listing = self._destination.run(["iptables-legacy", "-t", "raw", "-nvxL", "PREROUTING"])
        counted = sum(map(int, re.findall(r"^ *(\d+) +\d+ DROP", listing, re.MULTILINE)))
        if counted != self._sent:
            raise RuntimeError(f"{self._source} -> {self._destination}: {counted:,} of {self._sent:,} packets arrived")

    def tcp_gbit(self, seconds: float) -> float:
        """Gbit/s of one TCP stream, as the receiver saw them from the first octet to the last."""
        with self._destination.netns.entered():
            listener = socket.create_server((self._destination.address(4), _TCP_PORT))
        with self._source.netns.entered():
            sender = socket.socket()
        received: list[float] = []
        with listener, sender:
            taker = threading.Thread(target=lambda: received.append(_take(listener)))
            listener.settimeout(_PATIENCE_S)
            sender.settimeout(_PATIENCE_S)
            taker.start()
            sender.connect((self._destination.address(4), _TCP_PORT))
            chunk, end = bytes(_CHUNK), time.monotonic() + seconds
            while time.monotonic() < end:
                sender.sendall(chunk)
            sender.shutdown(socket.SHUT_WR)
            taker.join()
        return received[0] / 1e9

    def close(self) -> None:
        self._socket.close()

    def _head(self) -> bytes:
        """Ethernet and IP header; the ports that follow are no part of the checksum."""
        near = _hardware_address(self._source, "eth0")
        gateway = _hardware_address(self._node, self._source.interface)
        ends = ip_address(self._source.address(4)).packed + ip_address(self._destination.address(4)).packed
        header = struct.pack("!BBHHHBBH", 0x45, 0, _SIZE - _ETHERNET, 0, 0x4000, 64, socket.IPPROTO_UDP, 0) + ends
        total = sum(struct.unpack("!10H", header))
        total = (total & 0xFFFF) + (total >> 16)
        checksum = struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
        return gateway + near + b"\x08\x00" + header[:10] + checksum + header[12:]

    def _measure(self, bursts: int, prepare: Callable[[], None]) -> float:
        taken = []
        for _ in range(bursts):
            prepare()
            taken.append(self._burst())
        self._node.flush_conntrack()
        return statistics.median(taken) / COUNT

    def _fresh(self) -> None:
        """Another destination port for all frames of the burst; with the source ports that is another flow for each."""
        high, low = divmod(self._next_port, 256)
        self._frames.buffer[_PORT::_SIZE] = bytes((high,)) * COUNT
        self._frames.buffer[_PORT + 1 :: _SIZE] = bytes((low,)) * COUNT
        self._next_port = self._next_port + 1 if self._next_port < _LAST_PORT else _FIRST_PORT

    def _burst(self) -> int:
        began = time.perf_counter_ns()
        went = self._frames.send(self._socket)
        taken = time.perf_counter_ns() - began
        self._sent += went
        if went != COUNT:
            raise RuntimeError(f"only {went} of {COUNT} frames went out of {self._source}")
        return taken


def _take(listener: socket.socket) -> float:
    """Bits a second of the next connection."""
    connection, _ = listener.accept()
    buffer = bytearray(_CHUNK)
    with connection:
        connection.settimeout(_PATIENCE_S)
        connection.recv_into(buffer)
        total = 0
        began = time.monotonic()
        while count := connection.recv_into(buffer, 0, socket.MSG_TRUNC):  # TCP: thrown away without a copy
            total += count
        return total * 8 / (time.monotonic() - began)


def _hardware_address(host: Host, interface: str) -> bytes:
    (link,) = json.loads(host.run(["ip", "-j", "link", "show", "dev", interface]))
    return bytes.fromhex(link["address"].replace(":", ""))
