"""What the API text leaves open: netpold's own choices, as worlds that no valid manifest describes, and their verdicts.

Each has a name that says what was chosen. Quarantine is for manifests that failed the checks (netpold.policy.model).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    ContainerPort,
    IPBlock,
    Namespace,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    World,
)
from tests.objects import to_selector
from tests.reference import Packet, Verdicts

A, B, C = "10.72.0.2", "10.72.0.3", "10.72.0.4"
ALLOWED, NOT_SENT, NOT_TAKEN, NEITHER = (
    Verdicts(egress, ingress) for egress, ingress in ((True, True), (False, True), (True, False), (False, False))
)
ANYTHING = PolicyRule(peers=None, ports=None)
HTTP = (ContainerPort("http", "TCP", 80),)


@dataclass(frozen=True, slots=True)
class Choice:
    """A world, and the verdicts on packets to port 80/TCP in it, by source and destination."""

    name: str
    world: World
    verdicts: Mapping[tuple[str, str], Verdicts]

    def packets(self) -> list[tuple[Packet, Verdicts]]:
        return [(Packet(*ends, "TCP", 80), verdict) for ends, verdict in self.verdicts.items()]


def pod(key: str, address: str, labels: str = "", **more: Any) -> Pod:
    namespace, name = key.split("/")
    pairs = dict(pair.split("=") for pair in labels.split(",") if pair)
    return replace(Pod(namespace, name, pairs, (address,)), **more)


def policy(key: str, selector: str = "", **more: Any) -> Policy:
    namespace, name = key.split("/")
    labels = dict(pair.split("=") for pair in selector.split(",") if pair)
    return replace(Policy(namespace, name, to_selector({"matchLabels": labels}), None, None), **more)


def world_of(*items: Pod | Namespace | Policy) -> World:
    return World(
        {item.key: item for item in items if isinstance(item, Pod)},
        {item.key: item for item in items if isinstance(item, Namespace)},
        {item.key: item for item in items if isinstance(item, Policy)},
    )


def from_pods(namespaces: bool = False, labels: str = "", ports: tuple[PolicyPort, ...] | None = None) -> PolicyRule:
    chosen = to_selector({"matchLabels": dict(pair.split("=") for pair in labels.split(",") if pair)})
    return PolicyRule((PodPeer(chosen, EVERYTHING if namespaces else None),), ports)


def choices() -> list[Choice]:
    return [*_quarantined_pods(), *_quarantined_policies(), *_quarantined_namespaces(), *_contested_addresses()]


def _quarantined_pods() -> list[Choice]:
    broken = pod("x/a", A, quarantined=True)
    return [
        Choice(
            "a quarantined pod is isolated by any policy of its namespace",
            world_of(broken, pod("x/b", B), policy("x/p", "app=other", ingress=(ANYTHING,))),
            {(B, A): NOT_TAKEN, (A, B): ALLOWED, (A, A): ALLOWED},
        ),
        Choice(
            "a quarantined pod is free where no policy of its namespace isolates",
            world_of(broken, pod("y/b", B), policy("y/p", egress=())),
            {(B, A): NOT_SENT, (A, B): ALLOWED},
        ),
        Choice(
            "a quarantined pod is nobody's peer by selector",
            world_of(broken, pod("y/b", B), pod("y/c", C), policy("y/p", ingress=(from_pods(namespaces=True),))),
            {(A, B): NOT_TAKEN, (C, B): ALLOWED},
        ),
        Choice(
            "a quarantined pod is a peer by its address",
            world_of(
                broken,
                pod("y/b", B),
                policy("y/p", ingress=(PolicyRule((IPBlock(ip_network("10.72.0.0/16")),), None),)),
            ),
            {(A, B): ALLOWED},
        ),
        Choice(
            "a quarantined pod has no named ports",
            world_of(
                replace(broken, ports=HTTP),
                pod("y/b", B),
                pod("y/c", C, ports=HTTP),
                policy("y/p", egress=(PolicyRule(None, (PolicyPort("TCP", "http"),)),)),
            ),
            {(B, A): NOT_SENT, (B, C): ALLOWED},
        ),
    ]


def _quarantined_policies() -> list[Choice]:
    return [
        Choice(
            "a quarantined policy isolates in its directions and grants nothing",
            world_of(pod("x/a", A, "app=a"), pod("x/b", B), policy("x/p", "app=a", ingress=(), quarantined=True)),
            {(B, A): NOT_TAKEN, (A, B): ALLOWED},
        ),
        Choice(
            "a good policy grants beside a quarantined one",
            world_of(
                pod("x/a", A),
                pod("y/b", B),
                pod("y/c", C, "app=c"),
                policy("x/bad", ingress=(), quarantined=True),
                policy("x/good", ingress=(from_pods(namespaces=True, labels="app=c"),)),
            ),
            {(B, A): NOT_TAKEN, (C, A): ALLOWED},
        ),
    ]


def _quarantined_namespaces() -> list[Choice]:
    broken = Namespace("y", {NAME_LABEL: "y"}, quarantined=True)
    named = (PolicyPort("TCP", "http"),)
    return [
        Choice(
            "no namespaceSelector matches a quarantined namespace, its own pods are peers within it",
            world_of(
                broken,
                pod("x/a", A),
                pod("y/b", B),
                pod("y/c", C),
                policy("x/from-anywhere", ingress=(from_pods(namespaces=True),)),
                policy("y/from-here", ingress=(from_pods(),)),
            ),
            {(B, A): NOT_TAKEN, (B, C): ALLOWED, (A, C): NOT_TAKEN},
        ),
        Choice(
            "a port's name alone means pods of namespaces that can be selected",
            world_of(
                broken,
                pod("x/a", A),
                pod("y/b", B, ports=HTTP),
                pod("x/c", C, ports=HTTP),
                policy("x/p", egress=(PolicyRule(None, named),)),
            ),
            {(A, B): NOT_SENT, (A, C): ALLOWED},
        ),
        Choice(
            "in a quarantined namespace a pod's own port names hold",
            world_of(broken, pod("y/b", B, ports=HTTP), policy("y/p", ingress=(PolicyRule(None, named),))),
            {(A, B): ALLOWED},
        ),
    ]


def _contested_addresses() -> list[Choice]:
    isolated = policy("x/p", "app=a", ingress=(), egress=())
    found = [
        Choice(
            "of two pods with one address, both have to allow",
            world_of(pod("x/a", A, "app=a"), pod("y/b", A), pod("x/c", C), isolated),
            {(C, A): NOT_TAKEN, (A, C): NOT_SENT, (A, A): ALLOWED},
        ),
        Choice(
            "of two isolated pods with one address, both have to allow",
            world_of(
                pod("x/a", A, "app=a"),
                pod("y/b", A),
                pod("z/b", B, "friend=both"),
                pod("z/c", C, "friend=one"),
                policy("x/p", ingress=(from_pods(namespaces=True, labels="friend=both"),)),
                policy("y/p", ingress=(from_pods(namespaces=True),)),
            ),
            {(B, A): ALLOWED, (C, A): NOT_TAKEN},
        ),
    ]
    rule = from_pods(labels="app=a", ports=(PolicyPort("TCP", "http"),))
    for name, second, verdict in (
        ("the same", pod("x/b", A, "app=a", ports=HTTP), ALLOWED),
        ("other labels", pod("x/b", A, "app=b", ports=HTTP), NOT_SENT),
        ("another namespace", pod("y/b", A, "app=a", ports=HTTP), NOT_SENT),
        ("another number", pod("x/b", A, "app=a", ports=(ContainerPort("http", "TCP", 81),)), NOT_SENT),
        ("finished", pod("x/b", A, "app=b", finished=True), ALLOWED),
        ("on the host's network", pod("x/b", A, "app=b", host_network=True), ALLOWED),
    ):
        found.append(
            Choice(
                f"an address of two pods is a peer only if both are; the other is {name}",
                world_of(
                    pod("x/t", C, "app=target"),
                    pod("x/a", A, "app=a", ports=HTTP),
                    second,
                    policy("x/p", "app=target", egress=(rule,)),
                ),
                {(C, A): verdict},
            )
        )
    return found
