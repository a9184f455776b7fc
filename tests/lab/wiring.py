"""How a pod is joined to its node: routed by hand, on a bridge by hand, or by one of Debian's CNI plugins.

Routed is what Calico does: a veth, a host route to each address, and a gateway 169.254.1.1 that the node answers
for by proxy ARP (fe80::1 in IPv6).  Bridged is what flannel and k3s do: the pod's veth is a port of a bridge that has
the gateway's address.  `Plugin` runs the real thing, so what the hand-made ones forget shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Protocol

from tests.lab.host import Host, family_of, full, nodad
from tests.lab.namespace import LabError, NetworkNamespace, ip, run

PLUGINS = Path("/usr/lib/cni")
_GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}


class Wiring(Protocol):
    """One way to join pods to a node."""

    def attach(self, pod: NetworkNamespace, interface: str, addresses: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Join the pod; gives the interface's name on the node and the addresses that the pod has then."""

    def detach(self, pod: NetworkNamespace, interface: str, addresses: Sequence[str]) -> None:
        """Undo that at once (a namespace's interfaces go some time after its name)."""

    def readdress(self, pod: NetworkNamespace, interface: str, old: Sequence[str], new: Sequence[str]) -> None:
        """The pod has the new addresses instead of the old ones."""


class Addresses:
    """Subnets, one of each family, and which of their addresses are taken."""

    def __init__(self, *subnets: str) -> None:
        self.subnets: tuple[IPv4Network | IPv6Network, ...] = tuple(ip_network(subnet) for subnet in subnets)
        self._next = 2  # the first one is the gateway's

    def take(self) -> tuple[str, ...]:
        number, self._next = self._next, self._next + 1
        return tuple(str(subnet[number]) for subnet in self.subnets)

    def gateways(self) -> tuple[str, ...]:
        return tuple(str(subnet[1]) for subnet in self.subnets)

    def prefixed(self, address: str) -> str:
        """The address with the length of its subnet."""
        for subnet in self.subnets:
            if ip_address(address) in subnet:
                return f"{address}/{subnet.prefixlen}"
        raise LabError(f"{address} is in none of the bridge's subnets {self.subnets}")


@dataclass(frozen=True)
class Routed:
    """A veth and host routes for each pod."""

    node: Host

    def attach(self, pod: NetworkNamespace, interface: str, addresses: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        here = self.node.netns
        ip(here, [f"link add {interface} type veth peer name eth0 netns {pod.name}"])
        here.sysctl({f"ipv4/conf/{interface}/proxy_arp": 1, f"ipv4/neigh/{interface}/proxy_delay": 0})
        up = [f"addr add fe80::1/64 dev {interface} nodad", f"link set {interface} up"]
        ip(here, [*up, *(self._route("replace", address, interface) for address in addresses)])
        ip(pod, ["link set lo up", "link set eth0 up", *(_add(full(a)) for a in addresses), *_default(addresses)])
        here.await_running(interface)
        return interface, tuple(addresses)

    def detach(self, pod: NetworkNamespace, interface: str, addresses: Sequence[str]) -> None:
        ip(self.node.netns, [f"link del {interface}"])

    def readdress(self, pod: NetworkNamespace, interface: str, old: Sequence[str], new: Sequence[str]) -> None:
        gone, added = [a for a in old if a not in new], [a for a in new if a not in old]
        stale = [self._route("del", address, interface) for address in gone]
        ip(self.node.netns, stale, must=False)  # another pod may have taken the address over already
        changes = [*(_add(full(a)) for a in added), *(f"addr del {full(a)} dev eth0" for a in gone)]
        ip(pod, [*changes, *_default(new)])
        ip(self.node.netns, [self._route("replace", address, interface) for address in added])

    def _route(self, verb: str, address: str, interface: str) -> str:
        source = f" src {self.node.address(family_of(address))}" if verb != "del" else ""
        return f"route {verb} {full(address)} dev {interface}{source}"


@dataclass(frozen=True)
class Bridged:
    """Ports of a bridge that has the gateways' addresses; `ports` are the pods at them, `known` all addresses ever."""

    node: Host
    bridge: str
    addresses: Addresses
    ports: list[NetworkNamespace] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    @classmethod
    def made(cls, node: Host, bridge: str, addresses: Addresses) -> Bridged:
        gateways = [f"addr add {addresses.prefixed(gw)} dev {bridge} nodad" for gw in addresses.gateways()]
        # with an address of its own: else it has its ports' lowest, and the pods lose their gateway when a port comes
        made = f"link add {bridge} address 02:00:00:00:00:01 type bridge mcast_snooping 0"
        ip(node.netns, [made, *gateways, f"link set {bridge} up"])
        return cls(node, bridge, addresses)

    def attach(self, pod: NetworkNamespace, interface: str, addresses: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        veth = f"link add {interface} type veth peer name eth0 netns {pod.name}"
        ip(self.node.netns, [veth, f"link set {interface} master {self.bridge} up"])
        own = [_add(self.addresses.prefixed(address)) for address in addresses]
        ip(pod, ["link set lo up", "link set eth0 up", *own, *self._default(addresses)])
        self.node.netns.await_running(interface, self.bridge)
        self.node.netns.await_link_local(self.bridge)
        self.ports.append(pod)
        if not self.known.isdisjoint(addresses):
            self._announce(pod)
        self.known.update(addresses)
        return interface, tuple(addresses)

    def detach(self, pod: NetworkNamespace, interface: str, addresses: Sequence[str]) -> None:
        self.ports.remove(pod)
        ip(self.node.netns, [f"link del {interface}"])

    def readdress(self, pod: NetworkNamespace, interface: str, old: Sequence[str], new: Sequence[str]) -> None:
        prefixed = self.addresses.prefixed
        added = [_add(prefixed(a)) for a in new if a not in old]
        gone = [f"addr del {prefixed(a)} dev eth0" for a in old if a not in new]
        ip(pod, [*added, *gone, *self._default(new)])
        self._announce(pod)
        self.known.update(new)

    def _announce(self, pod: NetworkNamespace) -> None:
        """The others forget whose an address was before, as a CNI plugin's gratuitous ARP makes them."""
        ip(self.node.netns, [f"neigh flush dev {self.bridge}"])
        for other in self.ports:
            if other is not pod:
                ip(other, ["neigh flush dev eth0"])

    def _default(self, addresses: Sequence[str]) -> list[str]:
        families = {family_of(address) for address in addresses}
        gateways = [gateway for gateway in self.addresses.gateways() if family_of(gateway) in families]
        return [f"route replace default via {gateway}" for gateway in gateways]


@dataclass(frozen=True)
class Plugin:
    """A CNI plugin with host-local address management; containernetworking.github.io/cni has the calling convention."""

    node: Host
    kind: str
    addresses: Addresses
    store: Path
    options: Mapping[str, object] = field(default_factory=dict)

    def attach(self, pod: NetworkNamespace, interface: str, addresses: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        ip(pod, ["link set lo up"])  # the plugin `loopback` does that in life
        result = json.loads(self._call("ADD", pod, addresses))
        names = [entry["name"] for entry in result["interfaces"] if not entry.get("sandbox")]
        self.node.netns.await_running(*names)
        return names[-1], tuple(str(ip_address(entry["address"].split("/")[0])) for entry in result["ips"])

    def detach(self, pod: NetworkNamespace, interface: str, addresses: Sequence[str]) -> None:
        self._call("DEL", pod, addresses)

    def readdress(self, pod: NetworkNamespace, interface: str, old: Sequence[str], new: Sequence[str]) -> None:
        raise LabError(f"the CNI plugin {self.kind} gives an address once: remove the pod and make it again")

    def _call(self, command: str, pod: NetworkNamespace, addresses: Sequence[str]) -> str:
        ranges = [[{"subnet": str(subnet), "gateway": str(subnet[1])}] for subnet in self.addresses.subnets]
        routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        ipam = {"type": "host-local", "dataDir": str(self.store), "ranges": ranges, "routes": routes}
        request = {"args": {"cni": {"ips": list(addresses)}}} if addresses else {}
        head = {"cniVersion": "0.4.0", "name": f"lab-{self.kind}", "type": self.kind, "ipMasq": False}
        config = {**head, **self.options, "ipam": ipam, **request}
        where = {"CNI_NETNS": f"/run/netns/{pod.name}", "CNI_IFNAME": "eth0", "CNI_PATH": str(PLUGINS)}
        identity = {"CNI_COMMAND": command, "CNI_CONTAINERID": pod.name}
        inside = ["ip", "netns", "exec", self.node.netns.name, str(PLUGINS / self.kind)]
        return run(inside, json.dumps(config), environment={**where, **identity})


def _default(addresses: Sequence[str]) -> list[str]:
    """Routes of a routed pod, for the families that it has; they go with a family's last address."""
    families = {family_of(address) for address in addresses}
    link = ["route replace 169.254.1.1 dev eth0"] if 4 in families else []
    return link + [f"route replace default via {_GATEWAY[family]} dev eth0" for family in sorted(families)]


def _add(prefix: str) -> str:
    return f"addr add {prefix} dev eth0{nodad(prefix)}"
