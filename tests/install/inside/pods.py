"""Pods as network namespaces of the machine, the way Calico wires them: a veth and a host route each.

Neighbours are permanent entries, so no packet waits for an ARP answer and none is lost to one.  The guestbook's pods
have the addresses that its manifests say; the flood's have addresses of both families, and manifests of their own.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from .machine import run
from .report import Failure

PORTS = (7000, 7009)  # of the flood, UDP
NODE = "node-1"
NODE_ADDRESS = "10.72.0.1"
_GATEWAYS = {4: "169.254.1.1", 6: "fe80::1"}
_GATEWAY_MAC = "ee:ee:ee:ee:ee:ee"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Pod:
    """A network namespace of that name with eth0; `interface` is the other end of it, on the node."""

    name: str
    addresses: tuple[str, ...]
    interface: str
    port: int = 0
    names_its_node: bool = False  # in its manifest

    def address(self, family: int) -> str:
        return next(each for each in self.addresses if ip_address(each).version == family)


def _pod(name: str, number: int, *addresses: str, port: int = 0, names_its_node: bool = False) -> Pod:
    return Pod(name, addresses, f"veth{number}", port, names_its_node)


GUESTBOOK = (
    _pod("ui", 1, "10.244.1.11", port=80),
    _pod("api", 2, "10.244.1.12", port=8080),
    _pod("db", 3, "10.244.1.13", port=6379),
    _pod("prometheus", 4, "10.244.2.11", port=9090),
)
FLOOD = (
    _pod("sender", 5, "10.244.3.11", "fd00:244:3::11", names_its_node=True),
    _pod("stranger", 6, "10.244.3.12", "fd00:244:3::12"),
    _pod("receiver", 7, "10.244.3.13", "fd00:244:3::13"),
    _pod("bystander", 8, "10.244.3.14", "fd00:244:3::14"),
)
ELSEWHERE = {"office": "10.72.5.20", "visitors": "10.72.10.20", "internet": "192.0.2.20"}
OUTSIDE = Pod("outside", tuple(ELSEWHERE.values()), "uplink", port=443)
EVERYBODY = (*FLOOD, *GUESTBOOK, OUTSIDE)

# Who reaches whom under all of the guestbook's policies; packaging/demo.py shows the way there.
MATRIX = """
             ui   api  db   prometheus  internet
ui           -    yes  no   no          no
api          no   -    yes  no          no
db           no   no   -    no          no
prometheus   yes  yes  yes  -           yes
office       yes  no   no   yes         -
visitors     no   no   no   yes         -
internet     no   no   no   yes         -
"""


def flood_manifests() -> dict[str, Any]:
    """The flood's pods, and policies: `sender` may send to `receiver` only, and `receiver` hears `sender` only."""

    def item(kind: str, version: str, name: str, **rest: object) -> dict[str, Any]:
        metadata = {"namespace": "flood", "name": name, **({"labels": {"app": name}} if kind == "Pod" else {})}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

    def policy(name: str, pod: str, **rest: object) -> dict[str, Any]:
        spec = {"podSelector": {"matchLabels": {"app": pod}}, **rest}
        return item("NetworkPolicy", "networking.k8s.io/v1", name, spec=spec)

    def peer(pod: str) -> list[dict[str, Any]]:
        return [{"podSelector": {"matchLabels": {"app": pod}}}]

    def member(pod: Pod) -> dict[str, Any]:
        node = {"spec": {"nodeName": NODE}} if pod.names_its_node else {}
        addresses = {"podIP": pod.addresses[0], "podIPs": [{"ip": ip} for ip in pod.addresses]}
        return item("Pod", "v1", pod.name, **node, status=addresses)

    ports = [{"protocol": "UDP", "port": PORTS[0], "endPort": PORTS[1]}]
    heard = policy("receiver-in", "receiver", ingress=[{"from": peer("sender"), "ports": ports}])
    sent = policy("sender-out", "sender", policyTypes=["Egress"], egress=[{"to": peer("receiver")}])
    return {"apiVersion": "v1", "kind": "List", "items": [*map(member, FLOOD), heard, sent]}


# Namespaces -----------------------------------------------------------------------------------------------------------


def make_namespaces() -> None:
    """One for each, without interfaces yet.  Those that are there stay."""
    for pod in EVERYBODY:
        if not Path("/run/netns", pod.name).exists():
            run("ip", "netns", "add", pod.name)


def wire() -> None:
    """Give each its interface, address and way, one after the other.  Those that have one keep it."""
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", key).write_text("1")
    for number, pod in enumerate(EVERYBODY, 1):
        if not Path("/sys/class/net", pod.interface).exists():
            _wire(pod, f"02:00:00:00:00:{number:02x}")


def take_away() -> None:
    """All interfaces of pods, and then their namespaces."""
    for pod in EVERYBODY:
        run("ip", "link", "del", pod.interface, must=False)
        run("ip", "netns", "del", pod.name, must=False)


def _wire(pod: Pod, mac: str) -> None:
    gateway = f"address {_GATEWAY_MAC} type veth peer name eth0 address {mac} netns {pod.name}"
    here = [f"link add {pod.interface} {gateway}", f"addr add fe80::1/64 dev {pod.interface} nodad"]
    here += [f"addr add {NODE_ADDRESS}/32 dev {pod.interface}"] if pod is OUTSIDE else []
    here += [f"link set {pod.interface} up"]
    there = ["link set lo up", "link set eth0 up", "route add 169.254.1.1 dev eth0"]
    for address in pod.addresses:
        there += [f"addr add {address} dev eth0" + (" nodad" if ":" in address else "")]
        here += [f"route add {address} dev {pod.interface}"]
        here += [f"neigh replace {address} lladdr {mac} dev {pod.interface} nud permanent"]
    for family in {ip_address(address).version for address in pod.addresses}:
        there += [f"neigh replace {_GATEWAYS[family]} lladdr {_GATEWAY_MAC} dev eth0 nud permanent"]
        there += [f"route add default via {_GATEWAYS[family]} dev eth0"]
    for lines, where in ((here, []), (there, ["-n", pod.name])):
        for line in lines:
            run("ip", *where, *line.split())


@contextmanager
def entered(name: str) -> Iterator[None]:
    """In the network namespace `name`, or the machine's own where that is empty; for the calling thread."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(f"/run/netns/{name}" if name else "/proc/1/ns/net", os.O_RDONLY)
    try:
        _set(other)
        yield
    finally:
        _set(own)
        os.close(own)
        os.close(other)


def _set(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


# Connections ----------------------------------------------------------------------------------------------------------


def reaches(source: str, destination: str, port: int) -> bool:
    """Whether a TCP connection from a namespace opens; a denied one takes two seconds."""
    with entered(source):
        client = socket.socket()
    with client:
        client.settimeout(2)
        return client.connect_ex((destination, port)) == 0


def matrix_differences(text: str = MATRIX) -> list[str]:
    """Tries every connection of a matrix; gives those that are not as it says, in words."""
    wanted = expected(text)
    hosts = {pod.name: pod for pod in GUESTBOOK}
    listeners = {}
    for pod in (*GUESTBOOK, OUTSIDE):
        with entered(pod.name):
            listeners[pod.name] = socket.create_server(("0.0.0.0", pod.port), backlog=64)
        listeners[pod.name].setblocking(False)
    try:
        answers = _try(wanted, hosts)
        return [
            f"{source} to {destination} should be {'allowed' if allowed else 'denied'} but is not"
            for (source, destination), allowed in wanted.items()
            if answers[source, destination] is not allowed
        ]
    finally:
        for listener in listeners.values():
            listener.close()


def expect_matrix() -> None:
    """Raises Failure where a connection is not as the guestbook's policies have it."""
    if differences := matrix_differences():
        raise Failure(", ".join(differences))


def _try(expected: Mapping[tuple[str, str], bool], hosts: Mapping[str, Pod]) -> dict[tuple[str, str], bool]:
    """All connections at once: a client whose handshake is done after two seconds has reached its destination."""
    clients = {}
    for source, destination in expected:
        with entered(source if source in hosts else OUTSIDE.name):
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        clients[source, destination] = client
        if source in ELSEWHERE:
            client.bind((ELSEWHERE[source], 0))
        host = hosts.get(destination)
        target = (host.addresses[0], host.port) if host else (ELSEWHERE[destination], OUTSIDE.port)
        error = client.connect_ex(target)
        if error not in (0, 115):
            raise Failure(f"{source} can't send to {destination}: {os.strerror(error)}")
    time.sleep(2.2)
    answers = {pair: _connected(client) for pair, client in clients.items()}
    for client in clients.values():
        client.close()
    return answers


def _connected(client: socket.socket) -> bool:
    try:
        client.getpeername()
    except OSError:
        return False
    return True


def expected(text: str) -> dict[tuple[str, str], bool]:
    """Of each pair of a matrix that is to be tried: whether it is allowed."""
    head, *rows = (line.split() for line in text.strip().splitlines())
    return {
        (source, destination): word == "yes"
        for source, *words in rows
        for destination, word in zip(head, words, strict=True)
        if word != "-"
    }
