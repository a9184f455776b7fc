"""Network namespaces of the laboratory: made, entered, removed, and swept up when an earlier process left them.

A name says which process owns it: `np-lab-PID-START-...`, where START is the process's start time in clock ticks
(proc(5), stat field 22), so that a pid used again is not taken for the owner.  `sweep()` removes what dead owners left:
processes inside, the namespaces, and directories below /tmp named in the same way.

A socket belongs to the network namespace in which it was made, whoever uses it later (network_namespaces(7)).  So
one process can own sockets in all of them: `with namespace.entered(): socket.socket(...)`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_IFF_RUNNING = 0x40
_SCOPE_LINK, _TENTATIVE = 0x20, 0x40  # linux/ipv6.h, linux/if_addr.h
_MS_BIND = 4096
_MNT_DETACH = 2
_SIOCGIFFLAGS = 0x8913
_LIBC = ctypes.CDLL(None, use_errno=True)
_RUN = Path("/run/netns")
_OWNED = re.compile(r"np-lab-(\d+)-(\d+)-")


class LabError(Exception):
    """The laboratory could not be built, or a command in it failed; the text says which and why."""


def run(
    args: Sequence[str],
    stdin: str = "",
    check: bool = True,
    timeout: float = 30,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command and give its output; raises LabError with its complaint."""
    variables = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(args, input=stdin, capture_output=True, text=True, timeout=timeout, env=variables)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(args)}: {error}") from error
    if check and done.returncode:
        raise LabError(f"{' '.join(args)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}\n{stdin}")
    return done.stdout


def ip(namespace: NetworkNamespace, lines: Sequence[str], must: bool = True) -> None:
    """Run lines of ip(8) inside, in one process; raises LabError at the first that fails, if they `must` work."""
    force = [] if must else ["-force"]
    run(["ip", *force, "-n", namespace.name, "-batch", "-"], "".join(f"{line}\n" for line in lines), check=must)


@cache
def owner() -> str:
    """The prefix of everything that this process makes."""
    return f"np-lab-{os.getpid()}-{_started(os.getpid())}-"


class NetworkNamespace:
    """A network namespace of that name, made as `ip netns add` makes it, but within the process: it takes no 10 ms."""

    def __init__(self, name: str) -> None:
        self.name = name
        _RUN.mkdir(parents=True, exist_ok=True)
        path = _RUN / name
        path.touch(0o444, exist_ok=False)
        with _restored():
            _call(_LIBC.unshare, _CLONE_NEWNET)
            _call(_LIBC.mount, b"/proc/thread-self/ns/net", bytes(path), None, _MS_BIND, None)
            self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside for the length of the block; other threads are not."""
        with _restored():
            _call(_LIBC.setns, self._fd, _CLONE_NEWNET)
            yield

    def sysctl(self, values: Mapping[str, int]) -> None:
        """Set sysctls below /proc/sys/net, named by their path there (`ipv4/ip_forward`)."""
        with self.entered():
            for key, value in values.items():
                Path("/proc/sys/net", key).write_text(f"{value}\n")

    def await_running(self, *interfaces: str) -> None:
        """Wait until the kernel has noticed the interfaces' carrier; what is sent by them before that is lost.

        It notices in a work queue (net/core/link_watch.c), on a busy machine some 100 ms after the other end went up.
        """
        with self.entered():
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end = time.monotonic() + 10
        with asking:
            for interface in interfaces:
                while not _flags(asking, interface) & _IFF_RUNNING:
                    if time.monotonic() > end:
                        raise LabError(f"{interface} in {self.name} is not running: is its other end up?")
                    time.sleep(0.001)

    def await_link_local(self, *interfaces: str) -> None:
        """Wait until the interfaces have link-local addresses that are usable: before that no neighbour is asked for by
        them, and what is forwarded there waits for a second, or is lost.

        They are usable when a work queue has seen to it that all namespaces share (ipv6_addrconf), at times seconds
        after the carrier came.
        """
        end = time.monotonic() + 20
        while not self._with_link_local().issuperset(interfaces):
            if time.monotonic() > end:
                raise LabError(f"{' or '.join(interfaces)} in {self.name} has no link-local address")
            time.sleep(0.001)

    def _with_link_local(self) -> set[str]:
        with self.entered():
            lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
        # the address, then in hexadecimal index, prefix length, scope and flags, then the name
        fields = (line.split() for line in lines)
        return {each[5] for each in fields if int(each[3], 16) == _SCOPE_LINK and not int(each[4], 16) & _TENTATIVE}

    def pids(self) -> list[int]:
        """The processes that are inside."""
        return pids_in([self.name])

    def remove(self) -> None:
        """Take the name away; the kernel removes the rest when no process and no socket is inside any more."""
        os.close(self._fd)
        _unmount(self.name)


def directory() -> Path:
    """A fresh directory that carries the owner's name."""
    return Path(tempfile.mkdtemp(prefix=owner()))


def sweep() -> list[str]:
    """Remove what laboratories of dead processes left behind; gives the names of the namespaces."""
    stale = [path.name for path in _RUN.glob("np-lab-*") if _ownerless(path.name)] if _RUN.is_dir() else []
    kill_in(stale)
    for name in stale:
        _unmount(name)
    for path in Path(tempfile.gettempdir()).glob("np-lab-*"):
        if _ownerless(path.name):
            shutil.rmtree(path, ignore_errors=True)
    return stale


@contextlib.contextmanager
def inside(name: str) -> Iterator[NetworkNamespace]:
    """The calling thread is inside a new namespace for the length of the block; the name is any of this process's."""
    sweep()
    made = NetworkNamespace(f"{owner()}{name}")
    try:
        with made.entered():
            yield made
    finally:
        made.remove()


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """The calling thread is in the same network namespace after the block as before it."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            _call(_LIBC.setns, before, _CLONE_NEWNET)
        finally:
            os.close(before)


def _unmount(name: str) -> None:
    _LIBC.umount2(bytes(_RUN / name), _MNT_DETACH)  # fails where an interrupted start left a bare file
    with contextlib.suppress(OSError):  # `ip netns add` may have mounted the directory over itself since
        (_RUN / name).unlink(missing_ok=True)


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments):
        raise LabError(f"{function.__name__}: {os.strerror(ctypes.get_errno())}")


def pids_in(names: Sequence[str]) -> list[int]:
    """The processes, other than this one, inside the network namespaces of these names."""
    wanted = {_identity(_RUN / name) for name in names} - {None}
    entries = [path for path in Path("/proc").iterdir() if path.name.isdigit() and int(path.name) != os.getpid()]
    return [int(path.name) for path in entries if _identity(path / "ns/net") in wanted]


def kill_in(names: Sequence[str]) -> None:
    """Kill the processes inside the network namespaces of these names, and wait until they are gone."""
    end = time.monotonic() + 10
    while (pids := pids_in(names)) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:  # the process has ended meanwhile
        return None
    return found.st_dev, found.st_ino


def _flags(asking: socket.socket, interface: str) -> int:
    reply = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sH22x", interface.encode(), 0))
    flags: int = struct.unpack_from("H", reply, 16)[0]
    return flags


def _ownerless(name: str) -> bool:
    owned = _OWNED.match(name)
    return owned is not None and _started(int(owned[1])) != int(owned[2])


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None: there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])
