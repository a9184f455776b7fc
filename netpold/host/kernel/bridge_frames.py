"""What the filter table can't do on bridges: a table of netpold's own in nf_tables, which frames pass first and last.

Frames that the host gets a copy of begin no connection.  Of a frame with a broadcast or multicast address the host gets
a copy, of one with the address of another port itself the only one.  On its way up the kernel confirms the frame's
connection (net/bridge/br_netfilter_hooks.c, br_nf_local_in, since Linux 6.8), though no rule of the filter table has
seen it, and FORWARD may drop all others.  So one forged frame would make what "answers" it an answer, which passes
everywhere.  Such frames need no connection: those to everybody are each judged for itself, and the host throws those to
a port away.  What is for the bridge itself is for the host, passes the filter table, and is tracked.

By a port that is closed nothing leaves.  What the host routes into a bridge, or sends there itself, passes the filter
table before anybody knows by which port it leaves, so that only what comes from another port can be dropped there.  But
for who asks and says where an address is: a pod that is back is found by that.

It takes a few rules, the same for both backends and both families, since iptables has no table for bridges that comes
before conntrack, and none for ports.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress

from netpold.host.kernel.backend import KernelError
from netpold.host.run import run
from netpold.host.view import HostView

TABLE = "bridge netpold"
_GONE = f"add table {TABLE}\ndelete table {TABLE}\n"

log = logging.getLogger("netpold")


class BridgeFrames:
    """Keeps the table as it should be while there are bridges, in the network namespace of who calls.

    `warning`: why it can't.  `listing`: the table as it was made, as nft shows it; '': it could not be; None: there was
    no bridge yet.
    """

    def __init__(self) -> None:
        self.warning: str | None = None
        self.listing: str | None = None
        self._view: HostView | None = None
        self._closed: frozenset[str] = frozenset()
        self._wanted = ""
        self._followed = ""  # what was wanted when it was tried
        self._made = ""  # what was wanted when `listing` was made
        self._was_changed = False

    def follow(self, view: HostView, closed: frozenset[str] = frozenset()) -> None:
        """Take in how the host's network is now, and the names of the ports by which nothing is to leave."""
        if view is self._view and closed == self._closed:
            return
        self._view, self._closed = view, closed
        if any(link.kind == "bridge" for link in view.links.values()):
            self._wanted = _text(sorted(view.port_macs), sorted(closed))
        if self._wanted != self._followed:
            self._followed = self._wanted
            self.keep()

    def keep(self) -> None:
        """Make the table where it is not there, or is another: another program may have changed it."""
        if not self._wanted:
            return
        self.listing = self.listing or ""
        try:
            was_changed = self.listing != "" and listed() != self.listing
            if was_changed or not self.listing or self._made != self._wanted:
                run(["nft", "-f", "-"], self._wanted)
                self._was_changed |= was_changed
                self.listing, self._made = listed(), self._wanted
        except KernelError as error:
            cure = "install nftables, on a kernel with nf_tables for bridges"
            closed = ", and ports that pods have left get what is routed to them" if self._closed else ""
            risk = f"pods on bridges can open connections that policies refuse, by frames to all{closed}"
            self._warn(f"{risk}: {error}; {cure}")
        else:
            self.warning = None

    def take_repair(self) -> bool:
        """Whether, since this was asked the last time, what another program had done to the table was put right."""
        was_changed, self._was_changed = self._was_changed, False
        return was_changed

    def _warn(self, text: str) -> None:
        if text != self.warning:
            self.warning = text
            log.warning("%s", text)


def _text(macs: list[str], closed: list[str]) -> str:
    elements = f"elements = {{ {', '.join(macs)} }}" if macs else ""
    names = [f'"{each}"' for each in closed if not {'"', "*"}.intersection(each)]  # nft has no words for the others
    closing = f"""
    set closed {{
        type ifname
        elements = {{ {", ".join(names)} }}
    }}
    chain postrouting {{
        type filter hook postrouting priority 0; policy accept;
        oifname @closed meta protocol arp accept
        oifname @closed ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        oifname @closed drop
    }}"""
    return f"""{_GONE}table {TABLE} {{
    set ports {{
        type ether_addr
        {elements}
    }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        meta pkttype {{ broadcast, multicast }} notrack
        meta pkttype other ether daddr @ports notrack
    }}{closing if names else ""}
}}
"""


def listed() -> str:
    """The table as nft shows it; '' where it is not there.  Raises KernelError."""
    try:
        return run(["nft", "-s", "list", "table", *TABLE.split()])
    except KernelError as error:
        if os.strerror(errno.ENOENT) in str(error):
            return ""
        raise


def remove() -> None:
    """Take the table away; where nobody can look whether there is one, there is none."""
    found = ""
    with suppress(KernelError):
        found = listed()
    if found:
        run(["nft", "-f", "-"], _GONE)
