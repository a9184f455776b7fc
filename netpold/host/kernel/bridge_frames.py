"""Frames that the host gets a copy of begin no connection: a table of netpold's own in nf_tables, which bridged frames
pass first.

Of a frame with a broadcast or multicast address the host gets a copy, of one with the address of another port itself
the only one.  On its way up the kernel confirms the frame's connection (net/bridge/br_netfilter_hooks.c,
br_nf_local_in, since Linux 6.8), though no rule of the filter table has seen it, and FORWARD may drop all others.  So
one forged frame would make what "answers" it an answer, which passes everywhere.  Such frames need no connection: those
to everybody are each judged for itself, and the host throws those to a port away.  What is for the bridge itself is for
the host, passes the filter table, and is tracked.

It takes static rules, the same for both backends and both families, since iptables has no table for bridges that
comes before conntrack.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from netpold.host.kernel.backend import KernelError
from netpold.host.run import run
from netpold.host.view import HostView

TABLE = "bridge netpold"
_GONE = f"add table {TABLE}\ndelete table {TABLE}\n"

log = logging.getLogger("netpold")


class BridgeFrames:
    """Keeps the table as it should be while there are bridges, in the network namespace of who calls.  `warning`: why
    it can't."""

    def __init__(self) -> None:
        self.warning: str | None = None
        self._view: HostView | None = None
        self._wanted = ""
        self._followed = ""  # what was wanted when it was tried
        self._listing = ""  # of the table as it was made; '': it could not be

    def follow(self, view: HostView) -> None:
        """Take in how the host's network is now."""
        if view is self._view:
            return
        self._view = view
        if any(link.kind == "bridge" for link in view.links.values()):
            self._wanted = _text(sorted(view.port_macs))
        if self._wanted != self._followed:
            self._followed, self._listing = self._wanted, ""
            self.keep()

    def keep(self) -> None:
        """Make the table where it is not there, or is another: another program may have changed it."""
        if not self._wanted:
            return
        try:
            if not self._listing or _listed() != self._listing:
                run(["nft", "-f", "-"], self._wanted)
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


def _text(macs: list[str]) -> str:
    elements = f"elements = {{ {', '.join(macs)} }}" if macs else ""
    return f"""{_GONE}table {TABLE} {{
    set ports {{
        type ether_addr
        {elements}
    }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        meta pkttype {{ broadcast, multicast }} notrack
        meta pkttype other ether daddr @ports notrack
    }}
}}
"""


def _listed() -> str:
    """The table as nft shows it; '' where it is not there."""
    with suppress(KernelError):
        return run(["nft", "-s", "list", "table", *TABLE.split()])
    return ""


def remove() -> None:
    """Take the table away; where nobody can look whether there is one, there is none."""
    if _listed():
        run(["nft", "-f", "-"], _GONE)
