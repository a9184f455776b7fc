"""Source addresses: what a pod sends has to come from an address of its own.

NETPOLD-SPOOF       drops
NETPOLD-ALIEN       first lets pass what a host sends without its address, or before it has one:
                    IPv4   a question to all DHCP servers
                    IPv6   from the unspecified address: detection of duplicates, looking for routers, groups;
                           from link-local addresses: all but what only routers and servers send, errors about
                           connections (those are between other addresses), and the host's own addresses
NETPOLD-LOOPBACK    127.0.0.0/8 is reached by lo alone, also where route_localnet is on (CVE-2020-8558).  What the
                    host's own rules have led there passes, and what answers the host itself
"""

from __future__ import annotations

from netpold.policy.model import Family
from netpold.rules import icmp
from netpold.rules.count import dropped_spoofed
from netpold.rules.icmp import LINK_LOCAL
from netpold.rules.ruleset import (
    Address,
    Goto,
    IcmpType,
    InSet,
    Interface,
    Jump,
    Log,
    OwnSource,
    Ports,
    Proto,
    Related,
    Reply,
    Rule,
    SourcePort,
    Target,
    Translated,
)
from netpold.rules.sets import Sets

SPOOF, ALIEN, LOOPBACK = "NETPOLD-SPOOF", "NETPOLD-ALIEN", "NETPOLD-LOOPBACK"

DHCP_CLIENT, DHCP_SERVER = 68, 67
DHCPV6_SERVER = 547


def others(own: list[str], pods: str, target: Target, family: Family, sets: Sets) -> Rule:
    """Sends packets with other sources than these addresses to `target`; `pods`: whose they are, as text."""
    if not own:
        return Rule((), target)
    if len(own) == 1:
        return Rule((Address("src", own[0], negate=True),), target)
    name = sets.addresses(f"addresses of {pods}", family, own)
    return Rule((InSet(name, "src", negate=True),), target)


def chains(chain: str, family: Family, nflog_group: int) -> dict[str, tuple[Rule, ...]]:
    """SPOOF, and ALIEN where `chain` is that."""
    log = [Rule((), Log(nflog_group, "netpold drop spoofed"))] if nflog_group else []
    spoof = (*log, *dropped_spoofed(family, "not the pod's own source address"))
    if chain == SPOOF:
        return {SPOOF: spoof}
    return {SPOOF: spoof, ALIEN: (*(_without_address_v4() if family == 4 else _without_address_v6()), _SPOOFED)}


def loopback(family: Family) -> tuple[list[Rule], dict[str, tuple[Rule, ...]]]:
    """The rule for INPUT, and its chain; none in IPv6, where the kernel drops such packets itself."""
    if family == 6:
        return [], {}
    passes = (
        Rule((Interface("src", "lo"),), "RETURN"),
        Rule((Reply(),), "RETURN", "replies"),
        Rule((Translated(),), "RETURN", "led here by the host's own rules"),
        Rule((), "DROP", "loopback is the host's own"),
    )
    return [Rule((Address("dst", "127.0.0.0/8"),), Jump(LOOPBACK))], {LOOPBACK: passes}


_SPOOFED = Rule((), Goto(SPOOF))


def _without_address_v4() -> list[Rule]:
    to_all = Address("src", "0.0.0.0/32"), Address("dst", "255.255.255.255/32")
    ports = SourcePort(DHCP_CLIENT), Ports(((DHCP_SERVER, DHCP_SERVER),))
    return [Rule((*to_all, Proto("udp"), *ports), "RETURN", "DHCP")]


def before_addresses(family: Family) -> list[Rule]:
    """Lets pass what a host sends to find out which addresses it may have."""
    if family == 4:
        return _without_address_v4()
    kinds = (
        icmp.NEIGHBOR_SOLICITATION,
        icmp.ROUTER_SOLICITATION,
        icmp.MLD_REPORT,
        icmp.MLD_REPORT_V2,
        icmp.MLD_DONE,
    )
    unspecified, why = Address("src", "::/128"), "before it has an address"
    return [Rule((unspecified, icmp.protocol(6), IcmpType(kind)), "RETURN", why) for kind in kinds]


def _without_address_v6() -> list[Rule]:
    is_icmp, link_local = icmp.protocol(6), Address("src", LINK_LOCAL)
    routers = (icmp.ROUTER_ADVERTISEMENT, icmp.REDIRECT_V6, icmp.MLD_QUERY)
    return [
        *(Rule((is_icmp, IcmpType(kind)), Goto(SPOOF)) for kind in routers),
        Rule((is_icmp, Related()), Goto(SPOOF)),
        Rule((link_local, Proto("udp"), SourcePort(DHCPV6_SERVER)), Goto(SPOOF)),
        Rule((link_local, OwnSource()), Goto(SPOOF)),
        Rule((link_local,), "RETURN", "link-local"),
        *before_addresses(6),
    ]
