"""A pod of the laboratory: a network namespace joined to its node, and the Pod manifest that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.lab.host import Host, Site, nodad
from tests.lab.namespace import NetworkNamespace, ip
from tests.lab.wiring import Wiring

Port = tuple[str, str, int]  # name, protocol, number


class Pod(Host):
    """A pod; `wiring` None: it is on the host's network, so its namespace and addresses are the node's."""

    def __init__(
        self, site: Site, node: Host, namespace: str, name: str, netns: NetworkNamespace, wiring: Wiring | None
    ) -> None:
        super().__init__(site, f"{namespace}/{name}", netns, node.addresses if wiring is None else ())
        self.node = node
        self.namespace = namespace
        self.pod_name = name
        self.labels: dict[str, str] = {}
        self.ports: tuple[Port, ...] = ()
        self.interface = ""
        self._wiring = wiring

    def plug(self, interface: str, addresses: Sequence[str]) -> None:
        """Join it to its node by an interface of that name on the node."""
        assert self._wiring, f"{self} is on the host's network"
        self.interface, self.addresses = self._wiring.attach(self.netns, interface, addresses)

    def unplug(self) -> None:
        """Take its interface away."""
        assert self._wiring, f"{self} is on the host's network"
        self._wiring.detach(self.netns, self.interface, self.addresses)
        self.interface = ""

    def replug(self, interface: str | None = None) -> None:
        """The same addresses by another interface (or by a new one of the same name)."""
        interface = interface or self.interface
        self.unplug()
        self.plug(interface, self.addresses)

    def readdress(self, addresses: Sequence[str]) -> None:
        """Other addresses on the same interface."""
        assert self._wiring, f"{self} is on the host's network"
        self._wiring.readdress(self.netns, self.interface, self.addresses, addresses)
        self.addresses = tuple(addresses)

    def spoof(self, address: str) -> None:
        """The pod takes an address that the node knows nothing of (and that may be another pod's)."""
        ip(self.netns, [f"addr add {address} dev eth0{nodad(address)}"])

    def manifest(self, interface: bool = False, node: bool = True, phase: str = "Running") -> dict[str, Any]:
        """The v1 Pod object: with the annotation that names its interface, and with spec.nodeName, only if asked."""
        metadata: dict[str, Any] = {"name": self.pod_name, "namespace": self.namespace, "labels": dict(self.labels)}
        if interface:
            metadata["annotations"] = {"netpold.io/interface": self.interface}
        container: dict[str, Any] = {"name": "main", "image": "lab"}
        if self.ports:
            container["ports"] = [
                {"name": name, "protocol": protocol, "containerPort": number} for name, protocol, number in self.ports
            ]
        spec: dict[str, Any] = {"containers": [container]}
        if node:
            spec["nodeName"] = self.node.name
        if self._wiring is None:
            spec["hostNetwork"] = True
        status: dict[str, Any] = {"phase": phase}
        if self.addresses:
            status |= {"podIP": self.addresses[0], "podIPs": [{"ip": address} for address in self.addresses]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def namespace_manifest(name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The v1 Namespace object."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}}
