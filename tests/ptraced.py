"""Processes stopped at each of their system calls by ptrace(2), so that they can be killed there.

A tracer is a thread, so an object of these is for the thread that made it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

_SEIZE, _INTERRUPT, _SYSCALL, _DETACH = 0x4206, 0x4207, 24, 17
_SYSGOOD = 1  # PTRACE_O_TRACESYSGOOD: a stop at a system call can be told from a signal
_WALL = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


class Traced:
    """All threads that a process has now; new ones run freely."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._tids = {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()}
        for tid in self._tids:
            if _LIBC.ptrace(_SEIZE, tid, None, _SYSGOOD):
                raise OSError(ctypes.get_errno(), f"ptrace {tid}")
            _LIBC.ptrace(_INTERRUPT, tid, None, None)

    def run(self, until: Callable[[int], bool], timeout: float) -> int:
        """Let it run until `until` says so: asked at every stop at a system call, its entry and its end, with their
        number so far, and while it waits; at most for `timeout` seconds.  Returns that number."""
        stops, end = 0, time.monotonic() + timeout
        while self._tids and not until(stops):
            if time.monotonic() > end:
                break
            quiet = True
            for tid in list(self._tids):
                try:
                    found, status = os.waitpid(tid, os.WNOHANG | _WALL)
                except ChildProcessError:
                    self._tids.discard(tid)
                    continue
                if not found:
                    continue
                quiet = False
                if not os.WIFSTOPPED(status):
                    self._tids.discard(tid)
                    continue
                number = os.WSTOPSIG(status)
                if number == signal.SIGTRAP | 0x80:
                    stops += 1
                    if until(stops):
                        return stops
                    number = 0
                elif status >> 16:
                    number = 0
                _LIBC.ptrace(_SYSCALL, tid, None, number)
            if quiet:
                time.sleep(0.0001)
        return stops

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.run(lambda _: False, 10)
