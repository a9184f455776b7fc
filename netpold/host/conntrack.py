"""Open flows, by the conntrack program: one process to list a family, one to forget any number of flows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from shutil import which

from netpold.host.run import run
from netpold.policy.model import Family
from netpold.rules.revoke import Flow

FAMILY_NAME: dict[Family, str] = {4: "ipv4", 6: "ipv6"}
PORTS = {"tcp": True, "udp": True, "sctp": True, "icmp": False, "icmpv6": False}
_FIELD = re.compile(r"\b(src|dst|sport|dport|type|code|id)=(\S+)")


def available() -> bool:
    """Whether the conntrack program is installed."""
    return which("conntrack") is not None


def flows(family: Family, addresses: frozenset[str]) -> Iterator[Flow]:
    """The flows that any of these addresses takes part in.  Raises KernelError."""
    for line in run(["conntrack", "-L", "-f", FAMILY_NAME[family]]).splitlines():
        flow = parse(line)
        if flow and (flow.source in addresses or flow.peer in addresses):
            yield flow


def parse(line: str) -> Flow | None:
    """One line of `conntrack -L`; None for what has no such protocol.  The reply's tuple comes second."""
    protocol = line.split(None, 1)[0] if line else ""
    if protocol not in PORTS:
        return None
    fields: dict[str, list[str]] = {"src": [], "dst": [], "sport": [], "dport": []}
    for name, value in _FIELD.findall(line):
        fields.setdefault(name, []).append(value)
    if len(fields["src"]) != 2:
        return None
    ports = PORTS[protocol] and len(fields["sport"]) == 2
    return Flow(
        "ipv6-icmp" if protocol == "icmpv6" else protocol,
        fields["src"][0],
        fields["dst"][0],
        int(fields["sport"][0]) if ports else None,
        int(fields["dport"][0]) if ports else None,
        fields["src"][1],
        int(fields["sport"][1]) if ports else None,
    )


def forget(gone: Iterable[Flow]) -> int:
    """Delete the entries of these flows in one go; how many were asked for.  Raises KernelError."""
    commands = [_delete(flow) for flow in gone]
    if commands:
        # one that ended by itself meanwhile is no error to a batch
        run(["conntrack", "-R", "-"], "".join(commands))
    return len(commands)


def _delete(flow: Flow) -> str:
    protocol = "icmpv6" if flow.protocol == "ipv6-icmp" else flow.protocol
    family = FAMILY_NAME[6 if ":" in flow.source else 4]
    words = ["-D", "-f", family, "-p", protocol, "--orig-src", flow.source, "--orig-dst", flow.destination]
    if flow.source_port is not None:
        words += ["--orig-port-src", str(flow.source_port), "--orig-port-dst", str(flow.destination_port)]
    return " ".join(words) + "\n"
