"""Frames to everybody begin no connection: a table of netpold's own in nf_tables, which bridged frames pass first.

Of a frame with a broadcast or multicast address the host gets a copy, and on its way up the kernel confirms the frame's
connection (net/bridge/br_netfilter_hooks.c, br_nf_local_in, since Linux 6.8), though no rule of the filter table has
seen the copy, and FORWARD may drop all others.  So one forged frame would make what "answers" it an answer, which
passes everywhere.  Such frames need no connection: each is judged for itself.

It takes one static rule, the same for both backends and both families, since iptables has no table for bridges that
comes before conntrack.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from netpold.host.kernel.backend import KernelError
from netpold.host.run import run

TABLE = "bridge netpold"
_GONE = f"add table {TABLE}\ndelete table {TABLE}\n"
_MADE = f"""{_GONE}table {TABLE} {{
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        meta pkttype {{ broadcast, multicast }} notrack
    }}
}}
"""

log = logging.getLogger("netpold")


class BridgeFrames:
    """Keeps the table as it should be, in the network namespace of who calls.  `warning`: why it can't."""

    def __init__(self) -> None:
        self.warning: str | None = None
        self._listing = ""  # of the table as it was made

    def keep(self) -> None:
        """Make the table where it is not there, or another program changed it."""
        try:
            if not self._listing or _listed() != self._listing:
                run(["nft", "-f", "-"], _MADE)
                self._listing = _listed()
        except KernelError as error:
            cure = "install nftables, on a kernel with nf_tables for bridges"
            self._warn(f"pods on bridges can open connections that policies refuse, by frames to all: {error}; {cure}")
        else:
            self.warning = None

    def _warn(self, text: str) -> None:
        if text != self.warning:
            self.warning = text
            log.warning("%s", text)


def _listed() -> str:
    """The table as nft shows it; '' where it is not there."""
    with suppress(KernelError):
        return run(["nft", "-s", "list", "table", *TABLE.split()])
    return ""


def remove() -> None:
    """Take the table away; where nobody can look whether there is one, there is none."""
    if _listed():
        run(["nft", "-f", "-"], _GONE)
