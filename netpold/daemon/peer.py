"""Who is at the other end of the control socket, and what they may ask for.

The kernel says who connected (unix(7), SO_PEERCRED and SO_PEERGROUPS).  Root and the user that netpold runs as may ask
for everything; the members of one group, where the settings name one, for what changes nothing; others for nothing.
"""

from __future__ import annotations

import errno
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum, auto
from pathlib import Path

from netpold.printable import printable

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python does not name it
_MOST_GROUPS = 256  # Python hands over no more than 1024 bytes; who is in more groups is known by the first one
_ROOT = 0


class Right(IntEnum):
    """What somebody may ask for; each includes those before it."""

    NOTHING = auto()
    READ = auto()
    CHANGE = auto()


@dataclass(frozen=True, slots=True)
class Peer:
    """A process that connected, as it was then."""

    pid: int
    uid: int
    groups: frozenset[int]

    def right(self, readers: int | None) -> Right:
        """What it may ask for; `readers`: the group whose members may look."""
        if self.uid in (_ROOT, os.geteuid()):
            return Right.CHANGE
        return Right.READ if readers is not None and readers in self.groups else Right.NOTHING

    def __str__(self) -> str:
        """`user root (0), process 123 (netpoldctl)`, as far as that can be seen."""
        try:
            user = f"{pwd.getpwuid(self.uid).pw_name} ({self.uid})"
        except KeyError:
            user = str(self.uid)
        try:
            program = f" ({Path(f'/proc/{self.pid}/comm').read_bytes().decode(errors='replace').strip()})"
        except OSError:  # ended, or none of the processes that the service may see
            program = ""
        return printable(f"user {user}, process {self.pid}{program}")


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end.  Raises OSError."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        groups = b""
    return Peer(pid, uid, frozenset((gid, *memoryview(groups).cast("I"))))
