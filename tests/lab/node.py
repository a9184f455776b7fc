"""A node of the laboratory: a network namespace that forwards, and that pods are joined to.

Node number i has the address 10.99.0.(i+1) and fd99::(i+1), and for its pods the blocks 10.72.(16i).0/20 and
fd72:0:0:(16i)::/60; of these routed pods have the first half (first /64), each kind of bridge a /24 (/64) further on.
Packets to nowhere leave by a veth at whose other end nobody takes them (ARP is off, so they carry the wrong MAC
address): they are lost, as on the way to a host that does not answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Literal

from tests.lab.host import Host, Site, family_of, full, nodad
from tests.lab.namespace import LabError, ip
from tests.lab.pod import Pod, Port
from tests.lab.wiring import Addresses, Bridged, Plugin, Routed, Wiring

Backend = Literal["nft", "legacy"]
BACKENDS: tuple[Backend, ...] = ("nft", "legacy")
_SYSCTL = {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
}


class Node(Host):
    """A node; `pods` are those joined to it now."""

    def __init__(self, site: Site, name: str, number: int, bridge_nf_call: bool = True) -> None:
        super().__init__(site, name, site.namespace(name), (f"10.99.0.{number + 1}", f"fd99::{number + 1:x}"))
        self.number = number
        self.pods: list[Pod] = []
        self.blocks = tuple(ip_network(block) for block in (self._v4(0, 20), self._v6(0, 60)))
        # the legacy tools lock a file, one for the whole machine: tests of several nodes would wait for each other
        self.environment = {"XTABLES_LOCKFILE": str(site.directory / f"xtables-{number}.lock")}
        self._routed = Addresses(self._v4(0, 21), self._v6(0, 64))
        self._wirings: dict[str, Wiring] = {"routed": Routed(self)}
        self._peers: list[tuple[Node, dict[int, str]]] = []
        self._announced: list[str] = []
        bridge = {f"bridge/bridge-nf-call-{tables}": int(bridge_nf_call) for tables in ("iptables", "ip6tables")}
        tagged = {f"bridge/bridge-nf-filter-{kind}-tagged": 1 for kind in ("vlan", "pppoe")}  # as the package has it
        self.netns.sysctl({**_SYSCTL, **bridge, **tagged})
        veth = "link add uplink0 arp off type veth peer name nowhere0 arp off"
        uplink = ["link set lo up", veth, "link set uplink0 up", "link set nowhere0 up"]
        own = [f"addr add {full(address)} dev lo{nodad(address)}" for address in self.addresses]
        away = zip(("0.0.0.0/0", "::/0"), self.addresses, strict=True)
        ip(self.netns, [*uplink, *own, *(f"route add {all_} dev uplink0 src {address}" for all_, address in away)])
        self.netns.await_running("uplink0", "nowhere0")

    def routed_pod(
        self,
        namespace: str,
        name: str,
        addresses: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        interface: str | None = None,
        ports: Sequence[Port] = (),
    ) -> Pod:
        """A pod by a veth and host routes; without `addresses` it gets the next of the node's block."""
        pod = self._pod(namespace, name, self._wirings["routed"], labels, ports)
        pod.plug(interface or self._interface(), addresses or self._routed.take())
        self._announce(pod.addresses)
        return pod

    def bridged_pod(
        self,
        namespace: str,
        name: str,
        addresses: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        interface: str | None = None,
        ports: Sequence[Port] = (),
    ) -> Pod:
        """A pod on the node's bridge br0; `addresses` have to be of its subnets (`bridge_addresses`)."""
        if "bridged" not in self._wirings:
            self._wirings["bridged"] = Bridged.made(self, "br0", Addresses(self._v4(8, 24), self._v6(8, 64)))
        wiring = self._wirings["bridged"]
        assert isinstance(wiring, Bridged)
        pod = self._pod(namespace, name, wiring, labels, ports)
        pod.plug(interface or self._interface(), addresses or wiring.addresses.take())
        return pod

    def cni_pod(
        self,
        namespace: str,
        name: str,
        plugin: Literal["bridge", "ptp"] = "bridge",
        addresses: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        ports: Sequence[Port] = (),
    ) -> Pod:
        """A pod that Debian's CNI plugin joins; it names the interface and, if not told, picks the addresses."""
        if plugin not in self._wirings:
            subnets = Addresses(self._v4(9 + (plugin == "ptp"), 24), self._v6(9 + (plugin == "ptp"), 64))
            options = {"bridge": "cni0", "isGateway": True} if plugin == "bridge" else {}
            store = self.site.directory / f"cni-{self.number}-{plugin}"
            self._wirings[plugin] = Plugin(self, plugin, subnets, store, options)
        pod = self._pod(namespace, name, self._wirings[plugin], labels, ports)
        pod.plug("", addresses)
        return pod

    def host_pod(self, namespace: str, name: str, labels: Mapping[str, str] | None = None) -> Pod:
        """A pod on the host's network: what it sends and gets is the node's."""
        pod = Pod(self.site, self, namespace, name, self.netns, None)
        pod.labels = dict(labels or {})
        self.pods.append(pod)
        return pod

    def remove(self, pod: Pod) -> None:
        """Take a pod away, interface and namespace."""
        self.pods.remove(pod)
        if pod.netns is not self.netns:
            pod.unplug()
            self.site.drop(pod.netns)

    def join(self, other: Node, via: Mapping[int, str]) -> None:
        """Route what is behind the other node to it, by these next hops."""
        self._peers.append((other, dict(via)))
        for target in (*map(str, other.blocks), *map(full, other.addresses), *map(full, other._announced)):
            self._reach(target, via)

    def announce(self, addresses: Sequence[str]) -> None:
        """Tell the joined nodes to route these addresses here too."""
        self._announced += addresses
        for peer, _ in self._peers:
            for node, via in peer._peers:
                if node is self:
                    for address in addresses:
                        peer._reach(full(address), via)

    def iptables(self, backend: Backend, family: int, *args: str) -> str:
        """Run iptables or ip6tables of that backend; raises LabError when it fails."""
        return self.run([f"{'ip6tables' if family == 6 else 'iptables'}-{backend}", "-w", *args])

    def iptables_save(self, backend: Backend, family: int) -> str:
        command = [f"{'ip6tables' if family == 6 else 'iptables'}-{backend}-save"]
        try:
            return self.run(command)
        except LabError as error:
            if "in kernel doesn't exist" not in str(error):
                raise
        return self.run(command)  # legacy asks for the sets' names after it has read the rules, which have changed

    def ipset_save(self) -> str:
        return self.run(["ipset", "save"])

    def flush_conntrack(self) -> None:
        """Forget all flows; a probe of a protocol without ports is else a reply to an earlier one the other way."""
        self.run(["conntrack", "-F"])

    def _pod(
        self, namespace: str, name: str, wiring: Wiring, labels: Mapping[str, str] | None, ports: Sequence[Port]
    ) -> Pod:
        netns = self.site.namespace(f"{namespace}.{name}"[:60])
        pod = Pod(self.site, self, namespace, name, netns, wiring)
        pod.labels, pod.ports = dict(labels or {}), tuple(ports)
        self.pods.append(pod)
        return pod

    def _interface(self) -> str:
        return f"veth{self.site.serial()}"

    def _announce(self, addresses: Sequence[str]) -> None:
        self.announce([a for a in addresses if not any(ip_address(a) in block for block in self.blocks)])

    def _reach(self, target: str, via: Mapping[int, str]) -> None:
        family = family_of(target)
        ip(self.netns, [f"route replace {target} via {via[family]} src {self.address(family)}"])

    def _v4(self, part: int, length: int) -> str:
        return f"10.72.{16 * self.number + part}.0/{length}"

    def _v6(self, part: int, length: int) -> str:
        return f"fd72:0:0:{16 * self.number + part:x}::/{length}"
