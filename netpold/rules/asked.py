"""What a matrix is asked about: which pods, which other ends, and where nobody says, which ports."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from netpold.policy.model import ClusterPolicy, Pod, PolicyRule, TierRule, World
from netpold.rules.ends import End
from netpold.rules.port import Port

MOST_PODS = 1000
MOST_PORTS = 12
ANY_PORT = ("TCP", 80)  # where nothing names any: what no rule names is all the same


def pods(
    world: World, namespaces: Sequence[str] = (), patterns: Sequence[str] = (), node: str | None = None
) -> list[str]:
    """The keys of the pods that take part and have an address, sorted; of these namespaces, matching one of these
    shell patterns of `namespace/pod`, and on this node, where any are given."""
    return [key for key in _meant(world, namespaces, patterns, node) if _lacking(world.pods[key]) is None]


def fault(
    world: World, found: Sequence[str], namespaces: Sequence[str], patterns: Sequence[str], node: str | None
) -> tuple[str, str] | None:
    """Why `pods` has `found` none, or which of these no pod has, and a hint; None where there is no fault, or nothing
    is said."""
    if not (namespaces or patterns or node):
        return None
    hint = "namespaces are names, pods patterns of namespace/pod, such as 'shop/*'"
    known = {pod.namespace for pod in world.pods.values()}
    if missing := [each for each in namespaces if each not in known]:
        return f"no pod is in the namespace {' or '.join(missing)}", hint
    if missing := [each for each in patterns if not any(fnmatchcase(key, each) for key in world.pods)]:
        return f"no pod is called {' or '.join(missing)}", hint
    if found:
        return None
    meant = _meant(world, namespaces, patterns, node)
    if meant:
        first, *others = meant
        more = f", and of {len(others)} others nothing can be said, too" if others else ""
        return (
            f"{first} {_lacking(world.pods[first])}{more}",
            "choose pods that policies select and that have an address",
        )
    nodes = sorted({pod.node for pod in world.pods.values() if pod.node})
    if node is not None and node not in nodes:
        near = difflib.get_close_matches(node, nodes, n=3) or nodes[:3]
        hint = f"nodes are such as {', '.join(near)}" if near else "write spec.nodeName into the pods' manifests"
        return f"no manifest names the node {node}", hint
    return "no pod is all of what is asked for", "ask about the namespace, the names or the node alone"


def _meant(
    world: World, namespaces: Sequence[str] = (), patterns: Sequence[str] = (), node: str | None = None
) -> list[str]:
    return sorted(
        key
        for key, pod in world.pods.items()
        if (not namespaces or pod.namespace in namespaces)
        and (node is None or pod.node == node)
        and (not patterns or any(fnmatchcase(key, pattern) for pattern in patterns))
    )


def _lacking(pod: Pod) -> str | None:
    """Why nothing can be asked about it; None where something can."""
    if pod.host_network:
        return "is on the host's network: policies do not select it"
    if pod.finished:
        return "has finished: its addresses are no longer its own"
    return None if pod.addresses else "has no address yet"


def once(ends: Iterable[End]) -> list[End]:
    """Each end once: one may be named twice, or be a pod that is asked about anyway."""
    found: dict[object, End] = {}
    for each in ends:
        found.setdefault(each.name if each.pod and each.name == each.pod.key else each.addresses, each)
    return list(found.values())


def ports(world: World, keys: Iterable[str]) -> tuple[list[Port], list[Port]]:
    """The ports that the named container ports of these pods and the policies of their namespaces, or of all, speak of
    (of ranges the first): the MOST_PORTS that are named most often, and the others.  Both sorted by number."""
    chosen = [world.pods[key] for key in keys]
    namespaces = {pod.namespace for pod in chosen}
    found: Counter[tuple[str, int]] = Counter((port.protocol, port.port) for pod in chosen for port in pod.ports)
    for policy in world.policies.values():
        if isinstance(policy, ClusterPolicy) or policy.namespace in namespaces:
            rules: Iterable[PolicyRule | TierRule] = (*(policy.ingress or ()), *(policy.egress or ()))
            each = {(port.protocol, port.port) for rule in rules for port in rule.ports or ()}
            found.update((protocol, number) for protocol, number in each if isinstance(number, int))
    by_number = sorted(found or [ANY_PORT], key=lambda port: (port[1], port[0]))
    most = sorted(by_number, key=lambda port: -found[port])[:MOST_PORTS]
    return [port for port in by_number if port in most], [port for port in by_number if port not in most]
