"""The families of cyclonus that take several steps (objects that come, change and go) or several policies."""

from __future__ import annotations

from collections.abc import Iterator

from tests.cases import Case
from tests.cases.families import (
    ANYBODY,
    BASE,
    BASE_EGRESS,
    BASE_INGRESS,
    DIRECTIONS,
    PODS,
    Expected,
    Grant,
    among,
    base_policy,
    blocks,
    case,
    cluster,
    ends,
    grant,
    with_peers,
    with_peers_granted,
    with_ports,
    with_ports_granted,
)
from tests.cases.stories import namespace_object, pod_object, policy_object
from tests.objects import Object


def cases() -> list[Case]:
    """The families of changes and of policies that seem to contradict each other."""
    return [*actions(), *conflicts()]


def actions() -> Iterator[Case]:
    base = base_policy()
    yield case(
        "create-delete-policy",
        "a policy comes and goes",
        ([*cluster(), base], [BASE]),
        (cluster(), [Expected(ends("x/a"))]),
    )
    yield case(
        "create-update-policy",
        "a policy's ports change to a named UDP port",
        ([*cluster(), base], [BASE]),
        (
            [*cluster(), with_ports("ingress", [{"protocol": "UDP", "port": "serve-81-udp"}])],
            [with_ports_granted("ingress", "81/UDP")],
        ),
    )
    second_y = [
        namespace_object("y-2", {"ns": "y"}),
        _moved(pod_object("y/a", {"pod": "a"}), "y-2", 4),
        _moved(pod_object("y/b", {"pod": "b"}), "y-2", 4),
    ]
    with_second_y = Expected(
        ends("x/a"), (grant("x/b x/c y/b y/c y-2/b"),), (grant("y/a y/b z/a z/b y-2/a y-2/b"), DNS_AND_Y_2)
    )
    yield case(
        "create-delete-namespace",
        "a namespace with the labels that are selected comes and goes with its pods",
        ([*cluster(), base], [BASE]),
        ([*cluster(), *second_y, base], [with_second_y]),
        ([*cluster(), base], [BASE]),
    )
    relabelled = with_peers("ingress", [{"namespaceSelector": {"matchLabels": {"new-ns": "qrs"}}}])
    nobody = with_peers_granted("ingress", ends(""))
    yield case(
        "label-namespace",
        "a namespace gets the label that is selected, then loses it",
        ([*cluster(), relabelled], [nobody]),
        (
            [*cluster(y={"ns": "y", "new-ns": "qrs"}), relabelled],
            [with_peers_granted("ingress", ends("y/a y/b y/c"))],
        ),
        ([*cluster(), relabelled], [nobody]),
    )
    yield case(
        "create-delete-pod",
        "a pod that nothing selects comes and goes",
        ([*cluster(), base], [BASE]),
        (
            [*cluster(), pod_object("x/d", {"pod": "d"}), base],
            [Expected(ends("x/a"), BASE_INGRESS, (*BASE_EGRESS, DNS_TO_D))],
        ),
        ([*cluster(), base], [BASE]),
    )
    labelled = with_peers(
        "ingress",
        [{"podSelector": {"matchLabels": {"new-label": "abc"}}, "namespaceSelector": among("ns", "y", "z")}],
    )
    yield case(
        "label-pod",
        "a pod gets the label that is selected, then loses it",
        ([*cluster(), labelled], [nobody]),
        (
            [*cluster(y_b={"pod": "b", "new-label": "abc"}), labelled],
            [with_peers_granted("ingress", ends("y/b"))],
        ),
        ([*cluster(), labelled], [nobody]),
    )


DNS_TO_D = grant("x/d", "53/UDP")
DNS_AND_Y_2 = grant(ANYBODY | ends("y-2/a y-2/b"), "53/UDP")


def _moved(pod: Object, namespace: str, place: int) -> Object:
    """The same pod in another namespace, on that namespace's addresses."""
    host = pod["status"]["podIP"].rpartition(".")[2]
    addresses = [f"10.72.{place}.{host}", f"fd72:{place}::{host}"]
    pod["metadata"]["namespace"] = namespace
    pod["status"].update(podIP=addresses[0], podIPs=[{"ip": address} for address in addresses])
    return pod


def conflicts() -> Iterator[Case]:
    """Policies that seem to contradict each other: what any of them grants is granted. IPv4 blocks grant IPv4 only."""
    every_pod: Object = {"namespaceSelector": {}}
    no_pod = {"namespaceSelector": {"matchLabels": {"this-will-never-happen": "qrs123"}}}
    written: dict[str, tuple[list[Object], tuple[Grant, ...]]] = {
        "deny": ([], ()),
        "allow": ([{}], (grant(ANYBODY, None),)),
        "allow-by-pod": ([{"peers": [every_pod]}], (grant(PODS, None),)),
        "allow-by-ip": ([{"peers": blocks("0.0.0.0/0")}], (grant(ANYBODY, None, (4,)),)),
        "deny-by-ip": ([{"peers": blocks("0.0.0.0/31")}], ()),
        "deny-by-pod": ([{"peers": [no_pod]}], ()),
    }
    together = [
        ("deny", "allow"),
        ("deny", "allow-by-pod"),
        ("deny", "allow-by-ip"),
        ("deny-by-ip", "allow-by-pod"),
        ("deny-by-pod", "allow-by-ip"),
        ("deny-by-ip",),
        ("deny-by-pod",),
    ]
    for direction in DIRECTIONS:
        for names in together:
            objects = [_conflicting(name, "x", "b", direction, written[name][0]) for name in names]
            grants = tuple(each for name in names for each in written[name][1])
            expected = Expected(ends("x/b"), **{direction: grants})
            yield case(f"{direction}-{'-and-'.join(names)}", "conflict", ([*cluster(), *objects], [expected]))
    for name, ingress, egress in (("egress-only-denied", "allow", "deny"), ("ingress-only-denied", "deny", "allow")):
        objects = [
            _conflicting(egress, "x", "b", "egress", written[egress][0]),
            _conflicting(ingress, "y", "c", "ingress", written[ingress][0]),
        ]
        expected_both = [
            Expected(ends("x/b"), egress=written[egress][1]),
            Expected(ends("y/c"), ingress=written[ingress][1]),
        ]
        yield case(name, "one end allows, the other does not", ([*cluster(), *objects], expected_both))


def _conflicting(name: str, namespace: str, pod: str, direction: str, rules: list[Object]) -> Object:
    far_end = "from" if direction == "ingress" else "to"
    spec = {
        "podSelector": {"matchLabels": {"pod": pod}},
        "policyTypes": [direction.capitalize()],
        direction: [{far_end: rule["peers"]} if rule else {} for rule in rules],
    }
    return policy_object(f"{name}-{direction}", namespace, spec)
