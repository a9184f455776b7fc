"""What a matrix is asked about where nobody says: which pods, and which ports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from netpold.policy.model import ClusterPolicy, PolicyRule, TierRule, World

MOST_PODS = 1000
MOST_PORTS = 12
NO_POD = "no pod that takes part is so called", "namespaces are names, pods patterns of namespace/pod, such as 'shop/*'"
ANY_PORT = ("TCP", 80)  # where nothing names any: what no rule names is all the same


def pods(
    world: World, namespaces: Sequence[str] = (), patterns: Sequence[str] = (), node: str | None = None
) -> list[str]:
    """The keys of the pods that take part and have an address, sorted; of these namespaces, matching one of these
    shell patterns of `namespace/pod`, and on this node, where any are given."""
    return sorted(
        key
        for key, pod in world.pods.items()
        if pod.takes_part
        and pod.addresses
        and (not namespaces or pod.namespace in namespaces)
        and (node is None or pod.node == node)
        and (not patterns or any(fnmatchcase(key, pattern) for pattern in patterns))
    )


def ports(world: World, keys: Iterable[str]) -> list[tuple[str, int | None]]:
    """The ports that the named container ports of these pods and the policies of their namespaces, or of all, speak of
    (of ranges the first); of more than MOST_PORTS those that are named most often.  Sorted by number."""
    chosen = [world.pods[key] for key in keys]
    namespaces = {pod.namespace for pod in chosen}
    found: Counter[tuple[str, int]] = Counter((port.protocol, port.port) for pod in chosen for port in pod.ports)
    for policy in world.policies.values():
        if isinstance(policy, ClusterPolicy) or policy.namespace in namespaces:
            rules: Iterable[PolicyRule | TierRule] = (*(policy.ingress or ()), *(policy.egress or ()))
            each = {(port.protocol, port.port) for rule in rules for port in rule.ports or ()}
            found.update((protocol, number) for protocol, number in each if isinstance(number, int))
    most = [port for port, _ in found.most_common(MOST_PORTS)] or [ANY_PORT]
    return [*sorted(most, key=lambda port: (port[1], port[0]))]
