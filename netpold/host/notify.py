"""Telling systemd how the service is: sd_notify(3)'s datagram, sent so that nobody waits for it.

python3-systemd's `daemon.notify` raises where nobody listens, and where systemd is busy it blocks the whole process
(it keeps Python's lock meanwhile): a firewall must stop for neither.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Send lines such as READY=1 to who started this service, if anybody did; lost where it does not listen."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.sendto(state.encode(), address)
