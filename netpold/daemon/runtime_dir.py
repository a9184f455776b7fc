"""The directory of the control socket: ours alone, or open for one group to reach the socket in it.

It is made for its owner alone.  One that is there already has to be ours; where it holds nothing but the socket, rights
that others have in it are taken away, else it is refused: it may be a directory that others need.
"""

from __future__ import annotations

import grp
import logging
import os
import stat
from pathlib import Path

OWN, OWN_AND_GROUP = 0o700, 0o710
SOCKET_OWN, SOCKET_GROUP = 0o600, 0o660

log = logging.getLogger("netpold")


class ControlError(Exception):
    """The socket can't be made.  One sentence, with a hint."""


def prepare(directory: Path, socket_name: str) -> None:
    """Make the directory, and make sure that it is only ours.  Raises ControlError or OSError."""
    directory.mkdir(mode=OWN, parents=True, exist_ok=True)
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:  # a symlink as well
        raise ControlError(f"{directory}: is no directory (a symlink is none); correct runtime_dir") from error
    try:
        status = os.fstat(fd)
        if status.st_uid not in (0, os.geteuid()):
            raise ControlError(
                f"{directory}: belongs to user {status.st_uid}, who could take the socket's place; "
                f"`chown` it to the user that netpold runs as, or use another runtime_dir"
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077 == 0:
            return
        if {each.name for each in directory.iterdir()} - {socket_name}:
            raise ControlError(
                f"{directory}: others than its owner may enter it (mode {mode:04o}), and it holds more than the "
                f"socket; `chmod 0700` it, or use a runtime_dir that is netpold's alone"
            )
        os.fchmod(fd, OWN)
        if mode != OWN_AND_GROUP:
            log.warning("%s could be entered by others than its owner (mode %04o); now it can not", directory, mode)
    finally:
        os.close(fd)


def admit(directory: Path, socket_name: str, group: str) -> tuple[int | None, str | None]:
    """Let the members of a group reach the socket.  Returns its number, or None and why that can't be: then nobody but
    the owner reaches it."""
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        return None, f"socket_group names {group}, which is no group here: make it (`groupadd --system {group}`)"
    try:
        for path, mode in ((directory / socket_name, SOCKET_GROUP), (directory, OWN_AND_GROUP)):
            if path.lstat().st_gid != number:
                os.chown(path, -1, number, follow_symlinks=False)
            path.chmod(mode)
    except OSError as error:
        directory.chmod(OWN)
        return None, (
            f"the socket can't be given to the group {group} ({error.strerror}): make the user that netpold runs as a "
            f"member of it, by a drop-in with `SupplementaryGroups={group}` and `SystemCallFilter=@chown`"
        )
    return number, None
