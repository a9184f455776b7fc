"""Families of cases as cyclonus generates them (mattfenwick/cyclonus, pkg/generator), restated with their verdicts.

Nine pods x/a ... z/c as in the stories. One base policy isolates x/a both ways; each case changes one thing of it:
the target, a rule, a peer, a port. What has to come of it is stated beside the change as `Grant`s (which ends, on which
ports), so that a verdict never comes from reading the policy.

    base policy "x/base", podSelector pod=a:
      ingress 80/TCP from pods b and c in namespaces x and y
      egress  80/TCP to   pods a and b in namespaces y and z, and 53/UDP to anybody
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tests.cases import Case, Probe, ends_of, probes_between
from tests.cases.stories import make_step, namespace_object, pod_object, policy_object
from tests.objects import Object

SPACES = ("x", "y", "z")
NAMES = ("a", "b", "c")
PODS = frozenset(f"{space}/{name}" for space in SPACES for name in NAMES)
OUTSIDE = ("203.0.113.9", "2001:db8::9")
ANYBODY = PODS | set(OUTSIDE)
PROBED = ("80/TCP", "80/UDP", "80/SCTP", "81/TCP", "81/UDP", "81/SCTP", "53/UDP", "ICMP")
DIRECTIONS = ("ingress", "egress")


@dataclass(frozen=True, slots=True)
class Grant:
    """Ends that may be talked with, on these ports, over these families."""

    ends: frozenset[str]
    ports: frozenset[str]
    families: tuple[int, ...] = (4, 6)


@dataclass(frozen=True, slots=True)
class Expected:
    """Which pods are isolated, and what they are granted; None: not isolated in that direction."""

    targets: frozenset[str]
    ingress: tuple[Grant, ...] | None = None
    egress: tuple[Grant, ...] | None = None


def ends(text: str) -> frozenset[str]:
    return frozenset(text.split())


def grant(whom: str | frozenset[str], ports: str | None = "80/TCP", families: tuple[int, ...] = (4, 6)) -> Grant:
    """`ports` None: everything, also what has no ports."""
    return Grant(
        ends(whom) if isinstance(whom, str) else whom, frozenset(PROBED if ports is None else ports.split()), families
    )


BASE_INGRESS = (grant("x/b x/c y/b y/c"),)
DNS = grant(ANYBODY, "53/UDP")
BASE_EGRESS = (grant("y/a y/b z/a z/b"), DNS)
BASE = Expected(ends("x/a"), BASE_INGRESS, BASE_EGRESS)


# The base world and policy --------------------------------------------------------------------------------------------

PORT_80 = {"protocol": "TCP", "port": 80}


def among(key: str, *values: str) -> Object:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": list(values)}]}


def base_spec() -> Object:
    return {
        "podSelector": {"matchLabels": {"pod": "a"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "ports": [PORT_80],
                "from": [{"podSelector": among("pod", "b", "c"), "namespaceSelector": among("ns", "x", "y")}],
            }
        ],
        "egress": [
            {
                "ports": [PORT_80],
                "to": [{"podSelector": among("pod", "a", "b"), "namespaceSelector": among("ns", "y", "z")}],
            },
            {"ports": [{"protocol": "UDP", "port": 53}]},
        ],
    }


def base_policy(namespace: str = "x", **changes: Any) -> Object:
    return policy_object("base", namespace, {**base_spec(), **changes})


def with_peers(direction: str, peers: list[Object]) -> Object:
    spec = base_spec()
    spec[direction][0]["from" if direction == "ingress" else "to"] = peers
    return policy_object("base", "x", spec)


def with_ports(direction: str, ports: list[Object]) -> Object:
    spec = base_spec()
    spec[direction][0]["ports"] = ports
    return policy_object("base", "x", spec)


def with_peers_granted(direction: str, whom: frozenset[str]) -> Expected:
    if direction == "ingress":
        return Expected(BASE.targets, (grant(whom),), BASE_EGRESS)
    return Expected(BASE.targets, BASE_INGRESS, (grant(whom), DNS))


def with_ports_granted(direction: str, ports: str | None) -> Expected:
    if direction == "ingress":
        return Expected(BASE.targets, (grant("x/b x/c y/b y/c", ports),), BASE_EGRESS)
    return Expected(BASE.targets, BASE_INGRESS, (grant("y/a y/b z/a z/b", ports), DNS))


def cluster(**more: Mapping[str, str]) -> list[Object]:
    """The namespaces and pods; `more` gives other labels by `x_a` or `y`."""
    spaces = [namespace_object(space, more.get(space, {"ns": space})) for space in SPACES]
    return spaces + [
        pod_object(f"{space}/{name}", more.get(f"{space}_{name}", {"pod": name})) for space in SPACES for name in NAMES
    ]


def probes(objects: Iterable[Object], expected: Sequence[Expected]) -> Iterator[Probe]:
    """Every pair with an isolated pod at an end, and one without, on every port."""
    known = ends_of(objects)
    isolated = frozenset[str]().union(*(one.targets for one in expected))
    everybody = [*known, *OUTSIDE]
    pairs = [
        (source, destination)
        for source in everybody
        for destination in everybody
        if (source != destination and {source, destination} & isolated) or (source, destination) == ("y/b", "z/c")
    ]
    for source, destination in pairs:
        for port in PROBED:
            for family in (4, 6):
                allowed = all(
                    _granted(one.egress, destination, port, family) for one in expected if source in one.targets
                ) and all(_granted(one.ingress, source, port, family) for one in expected if destination in one.targets)
                yield from probes_between(source, destination, [port], allowed, known, [family])


def _granted(grants: tuple[Grant, ...] | None, whom: str, port: str, family: int) -> bool:
    return grants is None or any(
        whom in each.ends and port in each.ports and family in each.families for each in grants
    )


def case(name: str, about: str, *steps: tuple[list[Object], Sequence[Expected]]) -> Case:
    return Case(
        f"cyclonus-{name}",
        about,
        tuple(
            make_step(str(number) if len(steps) > 1 else "", objects, probes(objects, expected))
            for number, (objects, expected) in enumerate(steps, 1)
        ),
    )


def one_policy(name: str, about: str, policy: Object, expected: Expected) -> Case:
    return case(name, about, ([*cluster(), policy], [expected]))


def cases() -> list[Case]:
    """The families of one policy."""
    return [
        *targets(),
        *rules(),
        *peers(),
        *selectors(),
        *ports(),
        *port_pairs(),
        *port_ranges(),
    ]


# The families ---------------------------------------------------------------------------------------------------------


def targets() -> Iterator[Case]:
    for space in SPACES:
        expected = Expected(ends(f"{space}/a"), BASE_INGRESS, BASE_EGRESS)
        yield one_policy(f"target-namespace-{space}", "the policy's namespace", base_policy(space), expected)
    for name, selector, selected in (
        ("everything", {}, "x/a x/b x/c"),
        ("a", {"matchLabels": {"pod": "a"}}, "x/a"),
        ("a-or-b", among("pod", "a", "b"), "x/a x/b"),
    ):
        expected = Expected(ends(selected), BASE_INGRESS, BASE_EGRESS)
        yield one_policy(f"target-pods-{name}", "the pods selected", base_policy(podSelector=selector), expected)


def rules() -> Iterator[Case]:
    everything = (grant(ANYBODY, None),)
    yield one_policy(
        "ingress-deny-all", "no ingress rule", base_policy(ingress=[]), Expected(ends("x/a"), (), BASE_EGRESS)
    )
    yield one_policy(
        "egress-deny-all", "no egress rule", base_policy(egress=[]), Expected(ends("x/a"), BASE_INGRESS, ())
    )
    yield one_policy(
        "ingress-allow-all",
        "an empty ingress rule",
        base_policy(ingress=[{}]),
        Expected(ends("x/a"), everything, BASE_EGRESS),
    )
    yield one_policy(
        "egress-allow-all",
        "an empty egress rule",
        base_policy(egress=[{}]),
        Expected(ends("x/a"), BASE_INGRESS, everything),
    )
    yield one_policy(
        "ingress-only",
        "rules of a direction that policyTypes does not list are not in force",
        base_policy(policyTypes=["Ingress"]),
        Expected(ends("x/a"), BASE_INGRESS, None),
    )
    yield one_policy(
        "egress-only",
        "rules of a direction that policyTypes does not list are not in force",
        base_policy(policyTypes=["Egress"]),
        Expected(ends("x/a"), None, BASE_EGRESS),
    )


def peers() -> Iterator[Case]:
    ns_x = {"matchLabels": {"ns": "x"}}
    pod_c = {"matchLabels": {"pod": "c"}}
    of_x, all_c = "x/a x/b x/c", "x/c y/c z/c"
    table: list[tuple[str, list[Object], frozenset[str]]] = [
        ("anybody", [], ANYBODY),
        ("own-namespace", [{"podSelector": {}}], ends(of_x)),
        ("namespace-x", [{"podSelector": {}, "namespaceSelector": ns_x}], ends(of_x)),
        ("namespace-x-no-pod-selector", [{"namespaceSelector": ns_x}], ends(of_x)),
        ("all-namespaces", [{"podSelector": {}, "namespaceSelector": {}}], PODS),
        ("all-namespaces-no-pod-selector", [{"namespaceSelector": {}}], PODS),
        ("pod-c", [{"podSelector": pod_c}], ends("x/c")),
        ("pod-c-in-namespace-x", [{"podSelector": pod_c, "namespaceSelector": ns_x}], ends("x/c")),
        ("pod-c-in-all-namespaces", [{"podSelector": pod_c, "namespaceSelector": {}}], ends(all_c)),
        (
            "namespace-by-name",
            [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "z"}}}],
            ends("z/a z/b z/c"),
        ),
        ("ipblock", blocks("10.72.3.0/24", "fd72:3::/64"), ends("z/a z/b z/c")),
        ("ipblock-except-all", blocks("10.72.3.0/24 10.72.3.0/28", "fd72:3::/64 fd72:3::/123"), ends("")),
        ("ipblock-except-some", blocks("10.72.3.0/24 10.72.3.12/31", "fd72:3::/64 fd72:3::12/127"), ends("z/a")),
        (
            "ipblock-excepts-of-both-sizes",
            blocks("10.72.0.0/16 10.72.3.0/24 10.72.2.11/32", "fd72::/28 fd72:3::/32 fd72:2::11/128"),
            ends("x/a x/b x/c y/b y/c"),
        ),
        ("two-peers", [{"podSelector": pod_c}, *blocks("10.72.3.11/32", "fd72:3::11/128")], ends("x/c z/a")),
        ("ipblock-everywhere", blocks("0.0.0.0/0", "::/0"), ANYBODY),
    ]
    for direction in DIRECTIONS:
        for name, written, whom in table:
            yield one_policy(
                f"{direction}-peers-{name}",
                f"{direction} peers",
                with_peers(direction, written),
                with_peers_granted(direction, whom),
            )


def blocks(*written: str) -> list[Object]:
    """ipBlock peers, each "cidr" or "cidr except except"."""
    found = []
    for text in written:
        cidr, *excepts = text.split()
        found.append({"ipBlock": {"cidr": cidr, "except": excepts} if excepts else {"cidr": cidr}})
    return found


def selectors() -> Iterator[Case]:
    """Each operator, of pods (in the own namespace) and of namespaces; x/b is also big, z is also old."""
    table: list[tuple[str, Object, str]] = [
        ("in", {"key": "{}", "operator": "In", "values": ["{2}", "absent"]}, "2"),
        ("in-missing-key", {"key": "missing", "operator": "In", "values": ["{2}", ""]}, ""),
        ("not-in", {"key": "{}", "operator": "NotIn", "values": ["{2}"]}, "13"),
        ("not-in-missing-key", {"key": "missing", "operator": "NotIn", "values": ["{2}"]}, "123"),
        ("not-in-sparse-key", {"key": "extra", "operator": "NotIn", "values": [""]}, "13"),
        ("in-empty-value", {"key": "extra", "operator": "In", "values": [""]}, "2"),
        ("exists", {"key": "extra", "operator": "Exists"}, "2"),
        ("does-not-exist", {"key": "extra", "operator": "DoesNotExist"}, "13"),
    ]
    world = cluster(x_b={"pod": "b", "extra": ""}, y={"ns": "y", "extra": ""})
    for direction in DIRECTIONS:
        for kind in ("pods", "namespaces"):
            key, second = ("pod", "b") if kind == "pods" else ("ns", "y")
            for name, written, places in table:
                expression: Object = {**written, "key": key if written["key"] == "{}" else written["key"]}
                if "values" in expression:
                    expression["values"] = [second if value == "{2}" else value for value in expression["values"]]
                selector = {"matchExpressions": [expression]}
                if kind == "pods":
                    peer, whom = {"podSelector": selector}, [f"x/{NAMES[int(place) - 1]}" for place in places]
                else:
                    peer = {"namespaceSelector": selector}
                    whom = [f"{SPACES[int(place) - 1]}/{pod}" for place in places for pod in NAMES]
                yield case(
                    f"{direction}-{kind}-{name}",
                    f"{direction} peers by {kind}: {expression}",
                    (
                        [*world, with_peers(direction, [peer])],
                        [with_peers_granted(direction, frozenset(whom))],
                    ),
                )


# What each port of a policy means where every pod serves 80 and 81 by name.
PORT_MEANINGS: list[tuple[str, Object, str]] = [
    ("nothing", {}, "80/TCP 81/TCP"),
    ("81", {"port": 81}, "81/TCP"),
    ("named", {"port": "serve-81-tcp"}, "81/TCP"),
    ("tcp", {"protocol": "TCP"}, "80/TCP 81/TCP"),
    ("tcp-81", {"protocol": "TCP", "port": 81}, "81/TCP"),
    ("tcp-named", {"protocol": "TCP", "port": "serve-81-tcp"}, "81/TCP"),
    ("udp", {"protocol": "UDP"}, "53/UDP 80/UDP 81/UDP"),
    ("udp-81", {"protocol": "UDP", "port": 81}, "81/UDP"),
    ("udp-named-as-tcp", {"protocol": "UDP", "port": "serve-81-tcp"}, ""),
    ("sctp", {"protocol": "SCTP"}, "80/SCTP 81/SCTP"),
    ("sctp-81", {"protocol": "SCTP", "port": 81}, "81/SCTP"),
    ("sctp-named-as-tcp", {"protocol": "SCTP", "port": "serve-81-tcp"}, ""),
]


def ports() -> Iterator[Case]:
    more: list[tuple[str, Object, str]] = [
        ("udp-named", {"protocol": "UDP", "port": "serve-81-udp"}, "81/UDP"),
        ("sctp-named", {"protocol": "SCTP", "port": "serve-80-sctp"}, "80/SCTP"),
        ("named-by-nobody", {"port": "serve-82-tcp"}, ""),
    ]
    for direction in DIRECTIONS:
        yield one_policy(
            f"{direction}-no-ports",
            f"{direction} with an empty list of ports",
            with_ports(direction, []),
            with_ports_granted(direction, None),
        )
        for name, port, meaning in [*PORT_MEANINGS, *more]:
            yield one_policy(
                f"{direction}-port-{name}",
                f"{direction} with the port {port}",
                with_ports(direction, [port]),
                with_ports_granted(direction, meaning),
            )


def port_pairs() -> Iterator[Case]:
    for direction in DIRECTIONS:
        for (name, port, meaning), (other_name, other_port, other_meaning) in combinations(PORT_MEANINGS, 2):
            yield one_policy(
                f"{direction}-ports-{name}-and-{other_name}",
                f"{direction} with the ports {port} and {other_port}",
                with_ports(direction, [port, other_port]),
                with_ports_granted(direction, f"{meaning} {other_meaning}"),
            )


def port_ranges() -> Iterator[Case]:
    table: list[tuple[str, Object, str]] = [
        ("both", {"port": 80, "endPort": 81}, "80/TCP 81/TCP"),
        ("one", {"port": 81, "endPort": 81}, "81/TCP"),
        ("from-80", {"port": 80, "endPort": 65535}, "80/TCP 81/TCP"),
        ("up-to-80", {"port": 1, "endPort": 80}, "80/TCP"),
        ("below", {"port": 1, "endPort": 79}, ""),
        ("above", {"port": 82, "endPort": 65535}, ""),
        ("udp", {"protocol": "UDP", "port": 54, "endPort": 80}, "80/UDP"),
        ("sctp", {"protocol": "SCTP", "port": 81, "endPort": 90}, "81/SCTP"),
    ]
    for direction in DIRECTIONS:
        for name, port, meaning in table:
            yield one_policy(
                f"{direction}-range-{name}",
                f"{direction} with the range {port}",
                with_ports(direction, [port]),
                with_ports_granted(direction, meaning),
            )
