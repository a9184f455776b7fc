"""The pods of golden cases as network namespaces, with real daemons on their nodes: what a case expects, by packets.

A pod is known by its addresses: whichever manifest claims them, the namespace that has them stays.  What has an
address outside 10.72.0.0/16 and fd72::/16, or belongs to no pod, is a host outside the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Literal

from tests.cases import Case, Step
from tests.cases import Probe as CaseProbe
from tests.lab import Backend, Host, Lab, Probe
from tests.lab.daemon import Daemon
from tests.lab.host import family_of
from tests.lab.namespace import ip
from tests.lab.wiring import Addresses, Bridged

Wiring = Literal["routed", "bridged", "nodes"]
WIRINGS: tuple[Wiring, ...] = ("routed", "bridged", "nodes")
CLUSTER = tuple(ip_network(text) for text in ("10.72.0.0/16", "fd72::/16"))
BRIDGE = Addresses("10.72.0.0/16", "fd72::/16")

Signature = tuple[frozenset[tuple[str, ...]], frozenset[str]]


def signature(case: Case) -> Signature:
    """The addresses of the pods, and those of the hosts outside, that a case needs."""
    pods = {pod.addresses for step in case.steps for pod in step.world.pods.values()}
    inside = {addresses for addresses in pods if addresses and all(map(_in_cluster, addresses))}
    for addresses in list(inside):  # an address that moves to a pod with others stays where it was first
        if any(other != addresses and set(other) & set(addresses) for other in inside):
            inside.discard(addresses)
            inside |= {(address,) for address in addresses}
    known = {address for addresses in inside for address in addresses}
    probed = {end for step in case.steps for probe in step.probes for end in _ends(probe)}
    return frozenset(inside), frozenset(probed - known)


class Ground:
    """Nodes, pods and daemons for all cases of one signature."""

    def __init__(self, of: Signature, wiring: Wiring, backend: Backend) -> None:
        self.lab = Lab()
        try:
            self._build(of, wiring, backend)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.lab.close()

    def wrong(self, step: Step) -> list[str]:
        """Enforce what a step's files say; what packets then show otherwise than expected."""
        for daemon in self.daemons:
            for old in daemon.manifests.iterdir():
                if old.name not in step.files:
                    old.unlink()
            for name, text in step.files.items():
                daemon.write(name, text)
        for daemon in self.daemons:
            daemon.wait(30)
        for node in self.nodes:
            node.flush_conntrack()
        return self.lab.differences(self._expected(step.probes))

    def _expected(self, probes: Iterable[CaseProbe]) -> Mapping[Probe, bool]:
        expected = {}
        for probe in probes:
            packet = probe.packet
            if packet.protocol in ("TCP", "UDP", "SCTP", "ICMP"):
                question = Probe(
                    self.hosts[packet.source],
                    packet.destination,
                    packet.protocol,
                    packet.port or 0,
                    family_of(packet.source),
                    source_address=packet.source,
                )
                expected[question] = probe.allowed
        return expected

    def _build(self, of: Signature, wiring: Wiring, backend: Backend) -> None:
        inside, outside = of
        self.nodes = [self.lab.node(f"node-{number}") for number in range(2 if wiring == "nodes" else 1)]
        if len(self.nodes) == 2:
            self.lab.connect(*self.nodes)
        self.hosts: dict[str, Host] = {}
        bridge = Bridged.made(self.nodes[0], "br0", BRIDGE) if wiring == "bridged" else None
        if bridge:
            self.nodes[0]._wirings["bridged"] = bridge
            # what the pods take for on-link and is outside is reached through the node
            self.nodes[0].netns.sysctl({"ipv4/conf/br0/proxy_arp": 1, "ipv6/conf/br0/proxy_ndp": 1})
        for number, addresses in enumerate(sorted(inside)):
            node = self.nodes[number % len(self.nodes)]
            make = node.bridged_pod if bridge else node.routed_pod
            pod = make("lab", f"pod{number}", addresses)
            self.hosts |= dict.fromkeys(addresses, pod)
        if outside:
            host = self.lab.outside(self.nodes[0], sorted(outside))
            self.hosts |= dict.fromkeys(outside, host)
            if bridge:
                near = [each for each in outside if ":" in each and _in_cluster(each)]
                ip(self.nodes[0].netns, [f"neigh add proxy {address} dev br0" for address in near])
        self.daemons = [Daemon(node, backend) for node in self.nodes]
        for daemon in self.daemons:
            daemon.start()


def _in_cluster(address: str) -> bool:
    return any(ip_address(address) in network for network in CLUSTER)


def _ends(probe: CaseProbe) -> tuple[str, str]:
    return probe.packet.source, probe.packet.destination
