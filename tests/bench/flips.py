"""Small worlds that flip between a version A and a version B, and the packets that show a mix of the two.

Each scenario has four pods, w to z, and is an island: no rule of one speaks of another's pods.  What is to be watched
is worked out by the naive evaluator of the tests, not written down: every packet between two pods of a scenario is
judged in A and in B, and in every mix of them (policies of one with pods and namespaces of the other; egress by one and
ingress by the other).  A packet that A and B agree about, and some mix does not, is tender: it is what the flood is
made of.  A scenario with no tender packet that is forbidden, or none that is allowed, is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from netpold.policy.model import World
from tests.objects import Object, to_world
from tests.reference import Packet, verdicts

Kind = Literal["forbidden", "allowed", "flips"]
KINDS: tuple[Kind, ...] = ("forbidden", "allowed", "flips")
PODS = ("w", "x", "y", "z")
ONE, TWO = 1001, 1002  # the ports, UDP
_POLICIES = ("NetworkPolicy", "ClusterNetworkPolicy")
_FLIPS_WATCHED = 1  # of a scenario and family: they only show that versions change


@dataclass(frozen=True)
class Watched:
    """Packets of one kind from a pod to a port of another, by address."""

    scenario: str
    kind: Kind
    source: str
    destination: str
    port: int

    def __str__(self) -> str:
        return f"{self.scenario}: {self.source} -> {self.destination} {self.port}/UDP ({self.kind})"


@dataclass(frozen=True)
class Island:
    """Where the pods of a scenario are.  `new`: version B is asked for."""

    name: str
    node: str
    addresses: Mapping[str, Sequence[str]]
    new: bool

    def pick(self, a: Any, b: Any) -> Any:
        return b if self.new else a

    def pod(self, name: str, ports: Sequence[Mapping[str, Any]] = (), namespace: str = "", **labels: str) -> Object:
        own = self.addresses[name]
        container = {"name": "main", "image": "none", "ports": list(ports)}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace or self.name, "name": name, "labels": labels},
            "spec": {"nodeName": self.node, "containers": [container]},
            "status": {"phase": "Running", "podIP": own[0], "podIPs": [{"ip": address} for address in own]},
        }

    def namespace(self, name: str, **labels: str) -> Object:
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}

    def policy(self, name: str, selector: Object, **fields: object) -> Object:
        """`fields`: ingress, egress, policyTypes; the types are those of the rules where they are not given."""
        types = [each for each in ("Ingress", "Egress") if each.lower() in fields]
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": self.name, "name": name},
            "spec": {"podSelector": selector, "policyTypes": types, **fields},
        }

    def tiered(self, name: str, tier: str, priority: int, subject: Object, **rules: Sequence[Object]) -> Object:
        """A policy of the cluster about pods of this scenario; `rules`: ingress, egress."""
        spec = {"tier": tier, "priority": priority, "subject": self.pods(subject), **rules}
        return {
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": f"{self.name}-{name}"},
            "spec": spec,
        }

    def pods(self, selector: Object) -> Object:
        """A subject or a peer of those."""
        here = _is(**{"kubernetes.io/metadata.name": self.name})
        return {"pods": {"namespaceSelector": here, "podSelector": selector}}

    def denied(self, side: str, role: str, port: int = 0, action: str = "Deny") -> Object:
        """A rule of those, about one role, or for '' all pods of the scenario."""
        ports = {"protocols": [{"udp": {"destinationPort": {"number": port}}}]} if port else {}
        return {"action": action, side: [self.pods(_is(role=role) if role else {})], **ports}


Scenario = Callable[[Island], list[Object]]


def home(scenario: str, pod: str) -> str:
    """The namespace of a scenario's pod."""
    return {("namespaces", "x"): "namespaces-x", ("namespaces", "z"): "namespaces-z"}.get((scenario, pod), scenario)


def _is(**labels: str) -> Object:
    return {"matchLabels": labels}


def _from(*roles: str, port: int | str = 0) -> Object:
    return _rule("from", roles, port)


def _to(*roles: str, port: int | str = 0) -> Object:
    return _rule("to", roles, port)


def _rule(side: str, roles: Sequence[str], port: int | str) -> Object:
    ports = {"ports": [{"protocol": "UDP", "port": port}]} if port else {}
    return {side: [{"podSelector": _is(role=role)} for role in roles], **ports}


def _directions(at: Island) -> list[Object]:
    """A: the sender's egress allows, the receiver's ingress forbids; B: the other way round."""
    return [
        at.pod("x", role="x"),
        at.pod("y", role="y"),
        at.pod("z", role="z"),
        at.pod("w", role=at.pick("t", "u")),
        at.policy("sender", _is(role="x"), egress=at.pick([_to("y")], [])),
        at.policy("receiver", _is(role="y"), ingress=at.pick([], [_from("x")])),
        at.policy("moving", _is(role="z"), egress=[_to(at.pick("t", "u"))]),
        at.policy("both", _is(role="y"), egress=[_to("t", port=ONE), _to("u", port=TWO), _to("t", "u", port=TWO)]),
    ]


def _labels(at: Island) -> list[Object]:
    """Two pods change places in two sets, and the peers of the rule change with them."""
    return [
        at.pod("x", role=at.pick("a", "b")),
        at.pod("z", role=at.pick("b", "a")),
        at.pod("y", role="y"),
        at.pod("w", role="w"),
        at.policy("peers", _is(role="y"), ingress=[_from(at.pick("a", "b"))]),
        at.policy("both", _is(role="w"), ingress=[_from("a", port=ONE), _from("b", port=TWO)]),
    ]


def _ports(at: Island) -> list[Object]:
    """The same, and the ports of two rules change places."""
    first, second = at.pick((ONE, TWO), (TWO, ONE))
    return [
        at.pod("x", role=at.pick("a", "b")),
        at.pod("z", role=at.pick("b", "a")),
        at.pod("y", role="y"),
        at.pod("w", role="c"),
        at.policy("ports", _is(role="y"), ingress=[_from("a", port=first), _from("b", port=second)]),
        at.policy("third", _is(role="y"), ingress=[_from("c", port=first)]),
    ]


def _namespaces(at: Island) -> list[Object]:
    """Two namespaces are relabelled, and the rule follows."""

    def stage(which: str, *ports: int) -> Object:
        limit = {"ports": [{"protocol": "UDP", "port": port} for port in ports]} if ports else {}
        return {"from": [{"namespaceSelector": _is(stage=which)}], **limit}

    near, far = home(at.name, "x"), home(at.name, "z")
    return [
        at.namespace(near, stage=at.pick("blue", "green")),
        at.namespace(far, stage=at.pick("green", "blue")),
        at.pod("x", namespace=near),
        at.pod("z", namespace=far),
        at.pod("y", role="y"),
        at.pod("w", role="w"),
        at.policy("stage", _is(role="y"), ingress=[stage(at.pick("blue", "green"))]),
        at.policy("both", _is(role="w"), ingress=[stage("blue", ONE), stage("green", TWO)]),
    ]


def _selectors(at: Island) -> list[Object]:
    """The policy selects by another label, and two pods change that label: always the same pod is isolated."""
    return [
        at.pod("x", role="x"),
        at.pod("y", side=at.pick("left", "right")),
        at.pod("z", side=at.pick("right", "left")),
        at.pod("w", side="none"),
        at.policy("selector", _is(side=at.pick("left", "right")), ingress=[]),
        at.policy("sometimes", _is(side=at.pick("nobody", "none")), ingress=[]),
    ]


def _types(at: Island) -> list[Object]:
    """Policies change their policyTypes and keep their rules; so isolation moves from one end to the other."""
    types, others = at.pick((["Ingress"], ["Egress"]), (["Egress"], ["Ingress"]))
    return [
        at.pod("x", role=at.pick("a", "b")),
        at.pod("y", role="y"),
        at.pod("z", role="z"),
        at.pod("w", role="w"),
        at.policy("receiver", _is(role="y"), policyTypes=types, ingress=[_from("a")], egress=[]),
        at.policy("sends", _is(role="z"), policyTypes=others, ingress=[], egress=[]),
        at.policy("gets", _is(role="w"), policyTypes=others, ingress=[], egress=[]),
    ]


def _blocks(at: Island) -> list[Object]:
    """A: a wide block with an exception; B: a selector, and a block that is of no use."""
    four, six = at.addresses["z"]
    wide = [
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"{four}/32"]}},
        {"ipBlock": {"cidr": "fd00::/8", "except": [f"{six}/128"]}},
    ]
    narrow = [{"ipBlock": {"cidr": "192.0.2.0/24"}}, {"podSelector": _is(role="b")}]
    return [
        at.pod("x", role=at.pick("a", "b")),
        at.pod("z", role=at.pick("b", "a")),
        at.pod("y", role="y"),
        at.pod("w", role="w"),
        at.policy("blocks", _is(role="y"), ingress=[{"from": at.pick(wide, narrow)}]),
        at.policy("both", _is(role="w"), ingress=[_from("a", port=ONE), _from("b", port=TWO)]),
    ]


def _named(at: Island) -> list[Object]:
    """The number behind a port's name changes, and a rule changes from the name to the old number."""
    ports = [{"name": "web", "containerPort": at.pick(ONE, TWO), "protocol": "UDP"}]
    return [
        at.pod("x", role="x"),
        at.pod("y", role="y", ports=ports),
        at.pod("z", role="z"),
        at.pod("w", role="w"),
        at.policy("named", _is(role="x"), egress=[_to("y", port=at.pick("web", ONE))]),
        at.policy("always", _is(role="w"), egress=[_to("y", port="web")]),
    ]


def _sets(at: Island) -> list[Object]:
    """The egress rule stays and only its set changes; at the other end the rule changes."""
    return [
        at.pod("x", app="x", role="r"),
        at.pod("y", app="y", role=at.pick("s", "t")),
        at.pod("z", app="z", role=at.pick("q", "r")),
        at.pod("w", app="w", role="w"),
        at.policy("sender", _is(app="x"), egress=[_to("s")]),
        at.policy("always", _is(app="w"), egress=[_to("s")]),
        at.policy("receiver", _is(app="y"), ingress=[_from(at.pick("q", "r"), "w")]),
    ]


def _tier_peers(at: Island) -> list[Object]:
    """A Deny's peers change, and two pods change places in the sets of its peers."""
    return [
        at.pod("x", role=at.pick("a", "b")),
        at.pod("z", role=at.pick("b", "a")),
        at.pod("y", role="y"),
        at.pod("w", role="w"),
        at.tiered("peers", "Admin", 10, _is(role="y"), ingress=[at.denied("from", at.pick("a", "b"))]),
        at.tiered(
            "both", "Admin", 10, _is(role="w"), ingress=[at.denied("from", "a", ONE), at.denied("from", "b", TWO)]
        ),
    ]


def _tier_sets(at: Island) -> list[Object]:
    """The sender's Deny stays and only its set shrinks or grows; at the receiver the rule changes."""
    return [
        at.pod("x", app="x", role="r"),
        at.pod("y", app="y", role=at.pick("s", "t")),
        at.pod("z", app="z", role=at.pick("r", "q")),
        at.pod("w", app="w", role="w"),
        at.tiered("sender", "Admin", 10, _is(app="x"), egress=[at.denied("to", "s")]),
        at.tiered("always", "Baseline", 10, _is(app="w"), egress=[at.denied("to", "s")]),
        at.tiered("receiver", "Admin", 10, _is(app="y"), ingress=[at.denied("from", at.pick("q", "r"))]),
    ]


def _tier_order(at: Island) -> list[Object]:
    """Two policies that accept change places around one that denies."""
    first, last = at.pick((1, 3), (3, 1))
    return [
        at.pod("x", role=at.pick("a", "b")),
        at.pod("z", role=at.pick("b", "a")),
        at.pod("y", role="y"),
        at.pod("w", role="a"),
        at.tiered("a", "Admin", first, _is(role="y"), ingress=[at.denied("from", "a", action="Accept")]),
        at.tiered("all", "Admin", 2, _is(role="y"), ingress=[at.denied("from", "")]),
        at.tiered("b", "Admin", last, _is(role="y"), ingress=[at.denied("from", "b", action="Accept")]),
    ]


def _tier_moves(at: Island) -> list[Object]:
    """A: what the Baseline denies; B: the Admin tier denies it, and a NetworkPolicy allows everything."""
    tier = at.pick("Baseline", "Admin")
    passing = at.pick(
        [], [at.tiered("pass", "Admin", 0, _is(role="y"), ingress=[at.denied("from", "a", action="Pass")])]
    )
    return [
        at.pod("x", role=at.pick("a", "b")),
        at.pod("z", role=at.pick("b", "a")),
        at.pod("y", role="y"),
        at.pod("w", role="a"),
        at.tiered("moves", tier, 10, _is(role="y"), ingress=[at.denied("from", at.pick("a", "b"))]),
        *passing,
        *at.pick([], [at.policy("all", _is(role="y"), ingress=[{}])]),
    ]


SCENARIOS: Mapping[str, Scenario] = {
    "directions": _directions,
    "labels": _labels,
    "ports": _ports,
    "namespaces": _namespaces,
    "selectors": _selectors,
    "types": _types,
    "blocks": _blocks,
    "named": _named,
    "sets": _sets,
    "tier-peers": _tier_peers,
    "tier-sets": _tier_sets,
    "tier-order": _tier_order,
    "tier-moves": _tier_moves,
}


def watched(
    scenario: str, old: list[Object], new: list[Object], addresses: Mapping[str, Sequence[str]]
) -> list[Watched]:
    """The packets of a scenario that are worth sending.  Raises ValueError where the scenario could show nothing."""
    worlds = [to_world(_mixed(policies, rest)) for policies, rest in itertools.product((old, new), repeat=2)]
    found = list(_judged(scenario, worlds, addresses))
    for kind in KINDS:
        if not any(each.kind == kind for each in found):
            raise ValueError(f"scenario {scenario} has no packet that would show a mix: {kind}")
    flips = [each for each in found if each.kind == "flips"]
    few = [each for six in (False, True) for each in [f for f in flips if (":" in f.source) == six][:_FLIPS_WATCHED]]
    return [each for each in found if each.kind != "flips"] + few


def _mixed(policies: list[Object], rest: list[Object]) -> list[Object]:
    return [
        *(each for each in policies if each["kind"] in _POLICIES),
        *(each for each in rest if each["kind"] not in _POLICIES),
    ]


def _judged(scenario: str, worlds: list[World], addresses: Mapping[str, Sequence[str]]) -> Iterator[Watched]:
    """`worlds`: A, A's policies with B's pods, B's policies with A's pods, B."""
    pairs = itertools.permutations(PODS, 2)
    for (source, destination), port, family in itertools.product(pairs, (ONE, TWO), (0, 1)):
        ends = addresses[source][family], addresses[destination][family]
        said = [verdicts(world, Packet(*ends, "UDP", port)) for world in worlds]
        before, after = all(said[0]), all(said[-1])
        mixes = {sender.egress and receiver.ingress for sender, receiver in itertools.product(said, repeat=2)}
        if before != after:
            yield Watched(scenario, "flips", *ends, port)
        elif mixes != {before}:
            yield Watched(scenario, "allowed" if before else "forbidden", *ends, port)
