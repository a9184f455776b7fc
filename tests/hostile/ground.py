"""A node with victims and attackers, a daemon that enforces, and frames exactly as scapy made them.

Frames leave by a packet socket inside the attacker's namespace, so its own kernel corrects nothing.  They are looked
for by a packet socket in the victim's namespace, by a token that each attack carries; what is sent to a node itself, by
raw sockets, which see only what the INPUT chain has let pass.

Nothing is waited for that should not come: right after an attack the same attacker sends the same victim a datagram
that every policy allows, on the same way.  When that is there, an attack that is not was dropped; when that does not
come, the test fails whatever the attack did.

    a  friend: no policy isolates it, b and g let it in      b  ingress from a to port 80; egress to port 80 of d
    c  attacker that no policy isolates                      d  attacker with no egress
    e  bystander that no policy isolates                     g  ingress from a without ports
    far  pod of another node, which enforces nothing         out  host outside the cluster

Everybody lets UDP 9999 pass, in and out: that is the port of the datagram, and of attacks with another fault than the
port.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.lab import Backend, Host, Lab, Pod
from tests.lab.daemon import Daemon
from tests.lab.host import family_of
from tests.lab.namespace import LabError, NetworkNamespace

Wiring = Literal["routed", "bridged"]
WIRINGS: tuple[Wiring, ...] = ("routed", "bridged")

CONTROL = 9999  # the port that everybody may use
PATIENCE = 3.0  # seconds for the datagram that is allowed
GRACE = 0.01  # seconds more for what came before it by another processor

_ETH_P_ALL = 3
_OUTGOING = 4  # sll_pkttype of what the host itself sends
_PROTOCOLS = (1, 2, 4, 6, 17, 33, 47, 58, 132, 136, 253)  # that raw sockets on the node listen to
_SO_RCVBUFFORCE = 33

_ANY_CONTROL = [{"ports": [{"protocol": "UDP", "port": CONTROL}]}]
_PORT_80 = [{"port": 80}, {"port": 80, "protocol": "UDP"}]


def _policy(pod: str, **directions: list[object]) -> dict[str, object]:
    spec = {"podSelector": {"matchLabels": {"app": pod}}, "policyTypes": [kind.title() for kind in directions]}
    metadata = {"name": f"for-{pod}", "namespace": "x"}
    head = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata}
    return {**head, "spec": {**spec, **directions}}


def _pods(name: str) -> dict[str, object]:
    return {"podSelector": {"matchLabels": {"app": name}}}


POLICIES = (
    _policy(
        "b",
        ingress=[*_ANY_CONTROL, {"from": [_pods("a")], "ports": _PORT_80}],
        egress=[*_ANY_CONTROL, {"to": [_pods("d")], "ports": _PORT_80}],
    ),
    _policy("d", egress=_ANY_CONTROL),
    _policy("g", ingress=[*_ANY_CONTROL, {"from": [_pods("a")]}]),
)


class Tap:
    """The frames that arrive in a namespace: of one packet socket, or of raw sockets behind its INPUT chain."""

    def __init__(self, netns: NetworkNamespace, behind_input: bool) -> None:
        self._sockets: list[socket.socket] = []
        with netns.entered():
            if behind_input:
                self._sockets += [_raw(socket.AF_INET, each) for each in _PROTOCOLS]
                self._sockets += [_raw(socket.AF_INET6, each) for each in _PROTOCOLS]
            else:
                self._sockets.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)))
        for each in self._sockets:
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)

    def frames(self) -> Iterator[bytes]:
        """What has arrived since the last time."""
        for each in self._sockets:
            while True:
                try:
                    data, address = each.recvfrom(65535)
                except BlockingIOError:
                    break
                if each.family != socket.AF_PACKET or address[2] != _OUTGOING:
                    yield data

    def close(self) -> None:
        for each in self._sockets:
            each.close()


def _raw(family: int, protocol: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    if family == socket.AF_INET6 and protocol == socket.IPPROTO_ICMPV6:
        made.setsockopt(socket.IPPROTO_ICMPV6, 1, b"\0" * 32)  # ICMP6_FILTER: blocks nothing
    return made


class Ground:
    """Node, pods and daemon.  `token`: what the frames of the attack that is tried now carry; `number`: the attack's;
    new ones each time."""

    def __init__(self, wiring: Wiring, backend: Backend, config: str = "") -> None:
        self.wiring, self.backend = wiring, backend
        self.token = b""
        self.number = 0
        self._stack = ExitStack()
        self._taps: dict[str, Tap] = {}
        self._senders: dict[str, socket.socket] = {}
        try:
            self._build(config)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    # Who is where ------------------------------------------------------------------------------------------------

    def address(self, name: str, family: int) -> str:
        return self.hosts[name].address(family)

    def mac(self, name: str) -> str:
        """The MAC address of a host's interface."""
        return self._macs[name]

    def gateway(self, family: int) -> str:
        """The node's address that pods send through."""
        if self.wiring == "bridged":
            return "10.72.8.1" if family == 4 else "fd72:0:0:8::1"
        return "169.254.1.1" if family == 4 else "fe80::1"

    def link_local(self, name: str, at: str = "c") -> str:
        """The IPv6 link-local address that a host's kernel has made; the node's is that at a pod's wire."""
        host = self.hosts[name]
        interface = self._node_interface(at) if name == "node" else "eth0"
        text = host.run(["ip", "-6", "-o", "addr", "show", "dev", interface, "scope", "link"])
        return next(word for word in text.split() if word.startswith("fe80::")).split("/")[0]

    def via_node(self, sender: str) -> str:
        """The MAC address of the node at the sender's wire."""
        return self._interface_mac(self.node, self._node_interface(sender))

    # Sending and seeing ------------------------------------------------------------------------------------------

    def send(self, sender: str, packet: Packet, to: str = "") -> None:
        """Send a frame, or a packet in a frame; `to`: the MAC address that it goes to, where that is not the usual."""
        self.send_frame(sender, self.frame(sender, packet, to))

    def frame(self, sender: str, packet: Packet, to: str = "") -> bytes:
        """The frame that `send` sends."""
        if not isinstance(packet, Ether):
            packet = Ether(src=self.mac(sender), dst=to or self._next(sender, packet.dst)) / packet
        return bytes(packet)

    def send_frame(self, sender: str, frame: bytes) -> None:
        self._senders[sender].send(frame)

    def allowed(self, sender: str, target: str, family: int, mark: bytes) -> Packet:
        """The datagram that everybody allows."""
        return (
            ip(self.address(sender, family), self.address(target, family))
            / UDP(sport=CONTROL, dport=CONTROL)
            / Raw(mark)
        )

    def seen(self, sender: str, target: str, family: int) -> bool:
        """Whether the token has arrived at the target; raises LabError where what is allowed does not."""
        tap = self._taps[target]
        mark = b"allowed:" + os.urandom(8)
        self.send(sender, self.allowed(sender, target, family, mark))
        found = self._find(tap, mark, self.token)
        if found is None:
            raise LabError(f"{sender} -> {target} IPv{family}: what is allowed did not arrive, either")
        return found

    def passes(self, sender: str, target: str, family: int, port: int, source: str = "") -> bool:
        """Whether a datagram to a port arrives, from the sender's own address or that of another."""
        self.fresh()
        header = ip(self.address(source or sender, family), self.address(target, family))
        self.send(sender, header / UDP(sport=1, dport=port) / Raw(self.token))
        return self.seen(sender, target, family)

    def arrives(self, target: str, mark: bytes) -> bool:
        """Whether frames with a mark arrive, within the time that an allowed one may take."""
        return self._find(self._taps[target], mark, b"\0none") is not None

    def fresh(self) -> None:
        """Forget all flows and all frames; take a new token."""
        self.node.flush_conntrack()
        self.drain()
        self.number += 1
        self.token = b"%08d" % self.number + os.urandom(8)

    def drain(self) -> None:
        """Forget all frames that have arrived."""
        for tap in self._taps.values():
            for _ in tap.frames():
                pass

    def _find(self, tap: Tap, awaited: bytes, wanted: bytes) -> bool | None:
        """Whether `wanted` is among the frames up to a while after `awaited`; None where that never comes."""
        end, found, there = time.monotonic() + PATIENCE, False, False
        while time.monotonic() < end:
            for frame in tap.frames():
                found |= wanted in frame
                if awaited in frame and not there:
                    there, end = True, time.monotonic() + GRACE
            time.sleep(0.001)
        return found if there else None

    # Building ----------------------------------------------------------------------------------------------------

    def _build(self, config: str) -> None:
        self.lab = self._stack.enter_context(Lab())
        self.node, other = self.lab.node("n1"), self.lab.node("n2")
        self.node.netns.sysctl({"ipv4/conf/all/route_localnet": 1})  # as kube-proxy sets it
        self.lab.connect(self.node, other)
        make = self.node.routed_pod if self.wiring == "routed" else self.node.bridged_pod
        self.pods: dict[str, Pod] = {name: make("x", name, labels={"app": name}) for name in "abcdeg"}
        far = other.routed_pod("x", "far", labels={"app": "far"})
        outside = self.lab.outside(self.node)
        self.hosts: dict[str, Host] = {**self.pods, "far": far, "out": outside, "node": self.node}
        self._macs = {name: self._interface_mac(host, "eth0") for name, host in self.hosts.items() if name != "node"}
        settings = self.node.site.directory / "netpold.toml"
        settings.write_text(config)
        self.daemon = Daemon(self.node, self.backend, args=["--config", str(settings)])
        self.daemon.write("pods.json", *(pod.manifest() for pod in (*self.pods.values(), far)))
        self.daemon.write("policies.json", *POLICIES)
        self._stack.enter_context(self.daemon)
        for name, host in self.hosts.items():
            tap = self._taps[name] = Tap(host.netns, behind_input=name == "node")
            self._stack.callback(tap.close)
            if name not in ("node", "far"):
                with host.netns.entered():
                    sender = self._senders[name] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                    sender.bind(("eth0", 0))
                self._stack.callback(sender.close)
        self._meet()
        self.daemon.wait(30)

    def _meet(self) -> None:
        """All hosts find each other's addresses, so that the first attack need not wait for that."""
        for name, host in self.hosts.items():
            for family in (4, 6):
                for other, peer in self.hosts.items():
                    if other != name:
                        domain = socket.AF_INET if family == 4 else socket.AF_INET6
                        with host.netns.entered(), socket.socket(domain, socket.SOCK_DGRAM) as sock:
                            sock.sendto(b"hello", (peer.address(family), CONTROL))
        time.sleep(0.2)

    def _next(self, sender: str, destination: str) -> str:
        """The MAC address that a host would send to."""
        if destination == "255.255.255.255":
            return "ff:ff:ff:ff:ff:ff"
        if destination.startswith("ff"):
            return "33:33:00:00:00:" + f"{int(destination.rpartition(':')[2], 16):02x}"
        if destination.startswith("224."):
            return "01:00:5e:00:00:" + f"{int(destination.rpartition('.')[2]):02x}"
        if self.wiring == "bridged" and sender in self.pods:
            for name, pod in self.pods.items():
                if destination in pod.addresses:
                    return self.mac(name)
        return self.via_node(sender)

    def _node_interface(self, sender: str) -> str:
        """The node's interface at a pod's or the outside host's wire."""
        if sender in self.pods:
            return "br0" if self.wiring == "bridged" else self.pods[sender].interface
        return "out0"

    def _interface_mac(self, host: Host, interface: str) -> str:
        return host.run(["cat", f"/sys/class/net/{interface}/address"]).strip()


def ip(source: str, destination: str, **fields: object) -> Packet:
    """An IP header of the addresses' family."""
    return (IPv6 if family_of(source) == 6 else IP)(src=source, dst=destination, **fields)
