"""Reading one file that other programs may be writing to: it comes whole and as the fingerprint says, or not at all."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import time

from netpold.host.scan import Fingerprint, changed_ns, fingerprint_of, size_of
from netpold.host.trust import held

# A file that is open for writing counts as whole when it was last changed longer ago than this.
FORGOTTEN_S = 10.0

# Within these after a change, one more change may leave the same fingerprint: the kernel stamps files by its tick, and
# some file systems by the second or two (then the change time is a whole number of seconds).
FINE_STAMPS_NS = 20_000_000
COARSE_STAMPS_NS = 2_000_000_000


class Moving(Exception):
    """The file is being changed."""


def read_file(path: str, expected: Fingerprint, is_sure: bool = True) -> bytes:
    """The bytes of a file that has that fingerprint, before and after.

    Raises OSError, and Moving when it has another one, or a program has it open for writing and wrote lately, or
    nobody can tell when (`is_sure` is false).
    """
    # nothing else that took the file's place is ever opened, be it a FIFO, a device or somebody else's file
    with held(path, follow=True) as there:
        if fingerprint_of(os.fstat(there)) != expected:
            raise Moving
        try:
            fd = _opened(there)
        except BlockingIOError as error:
            raise Moving from error
    try:
        if (not is_sure or _is_recent(expected)) and is_open_for_writing(fd):
            raise Moving
        size = size_of(expected)
        data = os.read(fd, size + 1)
        if len(data) != size or fingerprint_of(os.fstat(fd)) != expected:
            raise Moving
        return data
    finally:
        os.close(fd)


def racy_s(fingerprint: Fingerprint, now_ns: int) -> float:
    """For how many seconds from `now_ns` on a change may leave this fingerprint as it is; 0: it can not."""
    changed = changed_ns(fingerprint)
    left = changed + (FINE_STAMPS_NS if changed % 1_000_000_000 else COARSE_STAMPS_NS) - now_ns
    return max(left, 0) / 1e9


def still_s(fingerprint: Fingerprint, now_ns: int) -> float:
    """For how many seconds the file has been as it is, by its own stamps; 0: too short to tell by them."""
    left = now_ns - changed_ns(fingerprint) - COARSE_STAMPS_NS
    return max(left, 0) / 1e9


def _is_recent(fingerprint: Fingerprint) -> bool:
    """Whether the last change is so fresh that a program with the file open may be about to write more."""
    return time.time_ns() - changed_ns(fingerprint) < FORGOTTEN_S * 1e9


def _opened(there: int) -> int:
    """Open a file for reading that is held.  Raises OSError; BlockingIOError while a program has a lease on it, which
    it is asked to give up: to wait for that could take a minute (/proc/sys/fs/lease-break-time)."""
    return os.open(f"/proc/self/fd/{there}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def is_being_written(path: str) -> bool:
    """Whether a program has the file at that path open for writing; False where it can't be told."""
    try:
        with held(path, follow=True) as there:
            if not stat.S_ISREG(os.fstat(there).st_mode):
                return False
            fd = _opened(there)
    except BlockingIOError:
        return True
    except OSError:
        return False
    try:
        return is_open_for_writing(fd)
    finally:
        os.close(fd)


def is_open_for_writing(fd: int) -> bool:
    """Ask for a read lease (fcntl(2), F_SETLEASE): the kernel refuses it while any program can write to the file."""
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # for the instant that we hold it: the default, SIGIO, kills
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no leases on this file system, or not our file
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
