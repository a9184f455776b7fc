"""The lock that all legacy iptables programs take around read, change, write of a table: /run/xtables.lock.

It is an flock(2), so it ends with the process that holds it.  iptables-legacy(8), -w, and xtables_lock() in its
source are the definition; the environment's XTABLES_LOCKFILE names another file, as there.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netpold.host.kernel.backend import Trouble

_DEFAULT = "/run/xtables.lock"
_POLL = 0.005  # seconds; flock itself knows no time limit


def lock_path() -> str:
    """The file that is locked."""
    return os.environ.get("XTABLES_LOCKFILE") or _DEFAULT


@contextmanager
def xtables_lock(limit: float) -> Iterator[None]:
    """Hold the lock.  Raises Trouble when it is not free within `limit` seconds, or its file can't be opened."""
    path = lock_path()
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Trouble(f"{path}: {error.strerror}; netpold must be able to lock it, as iptables does") from error
    try:
        _take(lock, path, limit)
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough where another thread has just forked
        os.close(lock)


def _take(lock: int, path: str, limit: float) -> None:
    deadline = time.monotonic() + limit
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = _holder(lock) or "another program that changes iptables rules"
                message = f"{path} was not free for {limit:g} s; {holder} may hold it (see `fuser -v {path}`)"
                raise Trouble(message) from None
        time.sleep(_POLL)


def _holder(lock: int) -> str:
    """Name and process id of who /proc/locks says holds the lock; empty when that can't be told."""
    stat = os.fstat(lock)
    place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4711 00:1a:1234 0 EOF (waiting ones have `->` behind the number)
            words = line.split()
            if words[1] == "FLOCK" and words[5] == place:
                name = Path(f"/proc/{words[4]}/comm").read_text().strip()
                return f"{name} (process {words[4]})"
    except (OSError, IndexError):
        return ""
    return ""
