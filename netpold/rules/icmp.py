"""What ICMP needs beside the policies: neighbour discovery, and errors about connections.

Errors about a known connection pass, whoever sends them: any router on the way may.  A pod is no router.  So an error
with a local pod's source address (which is its own: spoofing.py) about a connection that the pod has no part in is
forged, and dropped: else any pod could send to an isolated one, as long as it quotes a packet of some flow.  A redirect
is no error here, it would change a route.

Neighbour discovery is told by its hop limit of 255, which proves that no router has passed it on (RFC 4861): it was
bridged.  Routers' messages of pods are dropped for their sources (spoofing.py); those that come from no link-local
address come from no router.
"""

from __future__ import annotations

from collections.abc import Iterable

from netpold.policy.model import Family
from netpold.rules import dispatch
from netpold.rules.ruleset import (
    Address,
    Goto,
    HopLimit,
    IcmpType,
    Jump,
    Match,
    NotBetween,
    Proto,
    Related,
    Rule,
    Target,
)

LINK_LOCAL = "fe80::/10"  # addresses of one link
REDIRECT_V4 = 5
(
    MLD_QUERY,
    MLD_REPORT,
    MLD_DONE,
    ROUTER_SOLICITATION,
    ROUTER_ADVERTISEMENT,
    NEIGHBOR_SOLICITATION,
    NEIGHBOR_ADVERTISEMENT,
    REDIRECT_V6,
) = range(130, 138)
MLD_REPORT_V2 = 143

ERRORS = "NETPOLD-ERRORS"
FORGED_ERRORS = "NETPOLD-ERRORS@"


def protocol(family: Family) -> Proto:
    return Proto("icmp" if family == 4 else "ipv6-icmp")


def error(family: Family) -> tuple[Match, ...]:
    """An error about a known connection."""
    if family == 6:
        return (protocol(6), Related())
    return (protocol(4), Related(), IcmpType(REDIRECT_V4, negate=True))


def errors(family: Family, forged: bool, done: Target) -> tuple[list[Rule], dict[str, tuple[Rule, ...]]]:
    """The rule that lets errors pass, and its chain where there may be forged ones among them."""
    comment = "errors about known connections"
    if not forged:
        return [Rule(error(family), done, comment)], {}
    return [Rule(error(family), Goto(ERRORS), comment)], {ERRORS: (Rule((), Jump(FORGED_ERRORS)), Rule((), done))}


def forged_errors(addresses: Iterable[str]) -> dict[str, tuple[Rule, ...]]:
    """The chains that drop errors with one of these sources about connections of others; FORGED_ERRORS is the first."""
    comment = "an error about a connection of others"
    leaves = {each: (Rule((Address("src", each), NotBetween(each)), "DROP", comment),) for each in addresses}
    first, chains = dispatch.addresses(FORGED_ERRORS, leaves, "src")
    return {**chains, FORGED_ERRORS: tuple(first)} if leaves else {}


def neighbour_discovery(family: Family, done: Target = "RETURN") -> list[Rule]:
    """Lets neighbours, and hosts that look for a router, pass."""
    if family == 4:
        return []
    return [
        Rule((protocol(6), IcmpType(kind), HopLimit(255)), done, "neighbour discovery")
        for kind in (NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT, ROUTER_SOLICITATION)
    ]


def no_router() -> list[Rule]:
    """Drops routers' messages that hosts ignore, for they come from no router's address (RFC 4861, 6.1.2 and 8.1)."""
    return [
        Rule((protocol(6), IcmpType(kind), Address("src", LINK_LOCAL, negate=True)), "DROP", "from no router")
        for kind in (ROUTER_ADVERTISEMENT, REDIRECT_V6)
    ]
