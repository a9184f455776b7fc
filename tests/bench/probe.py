"""When the kernel's verdict on a packet flips, told by packets: one small UDP datagram every 0.2 ms.

Each datagram has a source port that no other has had for seconds, so conntrack knows nothing of it, and a number.  It
is sent by a raw socket in one network namespace and received in another, both in the calling thread: a veth hands a
packet on within the call that sends it, so its verdict is that of the moment at which it was sent.  The flip lies
between the last datagram with the old verdict and the first with the new one; the later one's moment counts, and
`gap_s` is how far apart they were.  CLOCK_MONOTONIC throughout.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.lab import Host

INTERVAL_S = 0.0002
CALM_S = 0.02  # for how long the new verdict must hold
_PORTS = 1024, 65536
_PR_SET_TIMERSLACK = 29


class NoFlip(Exception):
    """The verdict did not flip as it should have."""


@dataclass(frozen=True)
class Flip:
    """`after_s`: from the action to the first datagram with the new verdict.  `mixed`: datagrams with the wrong one."""

    after_s: float
    gap_s: float
    mixed: int


class Flow:
    """Datagrams from an address (which the sending host need not have) to a UDP port of a host."""

    def __init__(self, sender: Host, source: str, receiver: Host, port: int) -> None:
        destination = receiver.address(4)
        with sender.netns.entered():
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.connect((destination, 0))
        with receiver.netns.entered():
            self._inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._inbox.bind((destination, port))
        self._inbox.setblocking(False)
        ends = socket.inet_aton(source) + socket.inet_aton(destination)
        # the kernel fills in the header's checksum and identification (raw(7)); UDP's checksum is left out
        self._packet = bytearray(
            struct.pack("!BBHHHBBH8sHHHHI", 0x45, 0, 32, 0, 0, 64, socket.IPPROTO_UDP, 0, ends, 0, port, 12, 0, 0)
        )
        self._port = _PORTS[0]

    def close(self) -> None:
        self._raw.close()
        self._inbox.close()

    def flip(self, act: Callable[[], None], opens: bool, lead_s: float, patience_s: float) -> Flip:
        """Call `act` after `lead_s` of datagrams and go on until the verdict has flipped.  Raises NoFlip."""
        sent: list[float] = []
        arrived: list[int] = []
        due = begun = time.monotonic()
        acted: float | None = None
        while True:
            if acted is None and due >= begun + lead_s:
                acted = time.monotonic()
                act()
            sent.append(time.monotonic())
            self._send(len(sent) - 1)
            self._receive(arrived)
            if acted is not None:
                since = _since(arrived, opens)
                if since < len(sent) and sent[-1] - max(sent[since], acted) >= CALM_S:
                    break
                if sent[-1] > acted + patience_s:
                    raise NoFlip(f"it did not {'open' if opens else 'close'} within {patience_s:g} s")
            due = max(due + INTERVAL_S, time.monotonic())  # what is late is not caught up with
            time.sleep(max(due - time.monotonic(), 0.0))
        time.sleep(INTERVAL_S)
        self._receive(arrived)
        since = _since(arrived, opens)
        if sent[since] < acted:
            raise NoFlip(f"it was {'open' if opens else 'closed'} before the change")
        wanted = len(sent) - since if opens else since
        return Flip(sent[since] - acted, sent[since] - sent[since - 1], wanted - len(arrived))

    def _send(self, number: int) -> None:
        struct.pack_into("!H", self._packet, 20, self._port)
        struct.pack_into("!I", self._packet, 28, number)
        self._port = self._port + 1 if self._port + 1 < _PORTS[1] else _PORTS[0]
        self._raw.send(self._packet)

    def _receive(self, arrived: list[int]) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                arrived.append(int.from_bytes(self._inbox.recv(64), "big"))


def _since(arrived: list[int], opens: bool) -> int:
    """The first datagram with the new verdict; a number never sent where there is none yet."""
    if opens:
        return arrived[0] if arrived else sys.maxsize
    return arrived[-1] + 1 if arrived else 0


@contextlib.contextmanager
def punctual() -> Iterator[None]:
    """This thread goes first and is woken on time, for the length of the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    # not by niceness, which counts only within a session where the kernel groups by session (sched(7), autogroup)
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    libc.prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        libc.prctl(_PR_SET_TIMERSLACK, 0, 0, 0, 0)  # the default again
