"""A laboratory of network namespaces: nodes, pods, hosts outside, and real packets between them.

    with Lab() as lab:
        node = lab.node("n1")
        a, b = node.routed_pod("default", "a"), node.bridged_pod("default", "b")
        assert lab.probe([Probe(a, b, "TCP", 80)]) == {...: Outcome.OK}

Everything is removed when the block ends; what a killed process left behind, the next laboratory sweeps up.
Needs root.  Used by the tests and by the demo, so nothing here depends on pytest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

from tests.lab.flow import Flow, Pump, Sender
from tests.lab.host import Host, Outside, Site, family_of, full, nodad
from tests.lab.namespace import LabError, ip, sweep
from tests.lab.node import BACKENDS, Backend, Node
from tests.lab.pod import Pod, namespace_manifest
from tests.lab.probe import DEADLINE, Outcome, Probe, Prober, every

__all__ = [
    "BACKENDS",
    "Backend",
    "Flow",
    "Host",
    "Lab",
    "LabError",
    "Node",
    "Outcome",
    "Outside",
    "Pod",
    "Probe",
    "every",
    "namespace_manifest",
]

_NUMBERS = itertools.count(1)


class Lab:
    """One laboratory; a context manager."""

    def __init__(self) -> None:
        sweep()
        self.site = Site(next(_NUMBERS))
        self.nodes: list[Node] = []
        self.outsides: list[Outside] = []
        self._prober = Prober(self.owners)
        self._pump = Pump()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything."""
        self._pump.close()
        self.site.close()

    def node(self, name: str, bridge_nf_call: bool = True) -> Node:
        """A node of that name; `bridge_nf_call` False: what a bridge forwards does not pass iptables."""
        node = Node(self.site, name, len(self.nodes), bridge_nf_call)
        self.nodes.append(node)
        return node

    def connect(self, one: Node, other: Node) -> None:
        """Join two nodes by a veth, with routes to each other's pods."""
        via_one, via_other = self._link(one, other, f"to{other.number}", f"to{one.number}")
        one.join(other, via_other)
        other.join(one, via_one)

    def outside(self, node: Node, addresses: Sequence[str] = ("192.0.2.1", "2001:db8::1")) -> Outside:
        """A host outside the cluster, reached through that node; it has all these addresses.

        They may lie inside the cluster's own ranges, but not in a bridge's subnet of that node.
        """
        number = len(self.outsides)
        host = Outside(self.site, f"outside{number}", self.site.namespace(f"outside{number}"), addresses)
        self.outsides.append(host)
        via_node, via_host = self._link(node, host, f"out{number}", "eth0")
        own = [f"addr add {full(a)} dev eth0{nodad(a)}" for a in addresses]
        default = [f"route add default via {via_node[f]} src {host.address(f)}" for f in host.families()]
        ip(host.netns, ["link set lo up", *own, *default])
        ip(node.netns, [f"route replace {full(a)} via {via_host[family_of(a)]}" for a in addresses])
        node.announce(addresses)
        return host

    @property
    def pods(self) -> list[Pod]:
        return [pod for node in self.nodes for pod in node.pods]

    def owners(self, address: str) -> list[Host]:
        """The hosts that have this address."""
        hosts: list[Host] = [*self.nodes, *self.pods, *self.outsides]
        return [host for host in hosts if address in host.addresses]

    def probe(self, probes: Iterable[Probe], deadline: float = DEADLINE, attempts: int = 1) -> dict[Probe, Outcome]:
        """The outcome of each probe; see Prober.probe."""
        return self._prober.probe(probes, deadline, attempts)

    def differences(self, expected: Mapping[Probe, bool], deadline: float = DEADLINE) -> list[str]:
        """What is not as expected, in words; see Prober.differences."""
        return self._prober.differences(expected, deadline)

    def flow(
        self,
        source: Host,
        destination: Host | str,
        protocol: str = "TCP",
        port: int = 80,
        sender: Sender = "both",
        family: int = 4,
        interval: float = 0.01,
        burst: int = 1,
    ) -> Flow:
        """A TCP or UDP flow that goes on until it is closed; raises LabError where it can't be opened; see flow.py."""
        address = destination if isinstance(destination, str) else destination.address(family)
        receiver = self.owners(address)[0] if isinstance(destination, str) else destination
        return self._pump.start(source, receiver, address, (protocol, port), sender, (interval, burst))

    def close_flows(self) -> None:
        """Close all flows that are still open."""
        self._pump.close()

    def _link(self, one: Host, other: Host, name: str, peer: str) -> tuple[dict[int, str], dict[int, str]]:
        """Join two hosts by a veth with these names; gives its addresses at either end."""
        number = self.site.serial()
        near = {4: f"10.98.{number % 256}.1", 6: f"fd98:0:0:{number:x}::1"}
        far = {4: f"10.98.{number % 256}.2", 6: f"fd98:0:0:{number:x}::2"}
        ip(one.netns, [f"link add {name} type veth peer name {peer} netns {other.netns.name}"])
        for host, interface, own in ((one, name, near), (other, peer, far)):
            up = f"link set {interface} up"
            ip(host.netns, [f"addr add {own[4]}/30 dev {interface}", f"addr add {own[6]}/64 dev {interface} nodad", up])
        for host, interface in ((one, name), (other, peer)):
            host.netns.await_running(interface)
            host.netns.await_link_local(interface)
        return near, far
