"""The IPv6 link-local addresses of the host itself, which network.py leaves out: no pod is known by one."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path

_TABLE = Path("/proc/thread-self/net/if_inet6")  # of the network namespace that the calling thread is in
_SCOPE = 3  # of the columns: address, index, prefix length, scope, flags, interface
_LINK = 0x20


def own_link_local() -> frozenset[str]:
    """As text; none where the host has no IPv6."""
    try:
        lines = _TABLE.read_text().splitlines()
    except OSError:
        return frozenset()
    rows = map(str.split, lines)
    return frozenset(str(IPv6Address(int(row[0], 16))) for row in rows if int(row[_SCOPE], 16) == _LINK)
