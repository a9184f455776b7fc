"""What a process and its descendants use: CPU time, memory, and how many processes they start.

CPU: the process's own in nanoseconds from its CPU clock (clock_getcpuclockid(3)); that of children, which counts when
they have been waited for, from proc(5) in ticks of 10 ms.  Memory: the sum over the tree, sampled; PSS shares out pages
that several processes have, RSS counts them once for each.  Processes: the kernel's report of every fork and exit on
the machine (its connector's process events), so none is too short to be seen.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)
_SAMPLE_S = 0.05
_PSS_EVERY = 5  # samples: the kernel walks all page tables for it

_SO_RCVBUFFORCE = 33
_NETLINK_CONNECTOR = 11
_NLMSG_DONE = 3
_CN_IDX_PROC = _CN_VAL_PROC = 1
_PROC_CN_MCAST_LISTEN = 1
_FORK, _EXIT = 1, 0x80000000
_EVENT = 16 + 20  # struct nlmsghdr, struct cn_msg
_DATA = _EVENT + 16  # what, cpu, timestamp of struct proc_event
_BUFFER = 1 << 24

QUIET_S = 0.06  # longer than the daemon waits for files to become quiet
_IDLE_SHARE = 0.01  # threads that look around from time to time are no work


def own_cpu_s(pid: int) -> float:
    """CPU seconds of the process, all threads, without children."""
    return time.clock_gettime((~pid << 3) | 2)


def cpu_s(pid: int) -> float:
    """CPU seconds of the process and of the children that it has waited for."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
    return own_cpu_s(pid) + sum(map(int, ticks)) * _TICK_S


def peak_rss_mib(pid: int) -> float:
    """The process's own largest resident memory so far (VmHWM), in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def tree(pid: int) -> list[int]:
    """The process and its living descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


class Beside:
    """A context manager with a thread that does `_run` until `_done` is set."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError


class MemorySampler(Beside):
    """Samples the memory of a process tree; `rss_mib` and `pss_mib` are the largest sums."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.rss_mib = self.pss_mib = 0.0
        self._pid = pid

    def _run(self) -> None:
        count = 0
        while not self._done.wait(_SAMPLE_S):
            pids = tree(self._pid)
            self.rss_mib = max(self.rss_mib, sum(map(_rss_mib, pids)))
            if count % _PSS_EVERY == 0:
                self.pss_mib = max(self.pss_mib, sum(map(_pss_mib, pids)))
            count += 1


def _rss_mib(pid: int) -> float:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MIB
    return 0.0


def _pss_mib(pid: int) -> float:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


class Activity:
    """Follows what a process does: `started` processes so far, it and its descendants.  Close it in the end.

    Needs root in the first network and process namespace: the kernel reports to nobody else.  Raises OSError.
    """

    def __init__(self, pid: int) -> None:
        self.started = 0
        self._pid = pid
        self._family = {pid}
        self._living: set[int] = set()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind((0, _CN_IDX_PROC))
        body = struct.pack("=IIIIHHI", _CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0, _PROC_CN_MCAST_LISTEN)
        self._socket.send(struct.pack("=IHHII", 16 + len(body), _NLMSG_DONE, 0, 0, 0) + body)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def update(self) -> None:
        """Take in the reports so far.  Raises OSError (ENOBUFS) where some were lost."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(self._socket.recv(4096))

    def await_idle(self, patience_s: float) -> None:
        """Until it has done nothing for QUIET_S: no CPU time but for a trifle, no descendants.  Raises TimeoutError."""
        end = time.monotonic() + patience_s
        since, used = time.monotonic(), own_cpu_s(self._pid)
        while time.monotonic() - since < QUIET_S:
            time.sleep(0.005)
            self.update()
            now, cpu = time.monotonic(), own_cpu_s(self._pid)
            if self._living or cpu - used > _IDLE_SHARE * QUIET_S:
                since, used = now, cpu
            if now > end:
                raise TimeoutError(f"process {self._pid} is still busy after {patience_s:g} s")

    def _take(self, message: bytes) -> None:
        (what,) = struct.unpack_from("=I", message, _EVENT)
        if what == _FORK:
            _, parent, child, group = struct.unpack_from("=IIII", message, _DATA)
            if parent in self._family and child == group:  # else it is a thread
                self.started += 1
                self._family.add(child)
                self._living.add(child)
        elif what == _EXIT:
            process, group = struct.unpack_from("=II", message, _DATA)
            if process == group and process in self._living:
                self._living.discard(process)
                self._family.discard(process)
