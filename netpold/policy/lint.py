"""What is right in every manifest, and still likely not meant: policies and rules that do nothing.

All findings are warnings: the policies are in force as they are written.  What depends on which pods there are is asked
only where there are any, since a repository may hold the policies alone.  Each question is asked once for each group of
pods, not for each pod, so a thousand policies and ten thousand pods take a second.  Every finding stands where its
policy begins, with the path from there; `located.py` knows where that leads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from netpold.policy.classes import Isolations
from netpold.policy.cluster_lint import cluster_lint
from netpold.policy.covered import covered
from netpold.policy.covers import is_empty
from netpold.policy.fields import nearest
from netpold.policy.groups import EVERY_POD, PodGroup
from netpold.policy.index import Index
from netpold.policy.isolation import Isolation
from netpold.policy.lint_inventory import Inventory, named, namespace_cure, port_cure, selector_cure
from netpold.policy.model import (
    EVERYTHING,
    Action,
    Direction,
    Finding,
    IPBlock,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    Position,
    Selector,
    World,
)
from netpold.policy.policy_rules import PEERS
from netpold.policy.selector import describe

_NOWHERE = Position("", 0)
_DNS_CURE = "add an egress rule with `ports: [{port: 53, protocol: UDP}, {port: 53}]`"


def lint(index: Index) -> Iterator[Finding]:
    """The warnings about all policies, in no order."""
    yield from _covered_rules(index)
    yield from _empty_blocks(index)
    there = Inventory(index) if any(pod.takes_part for pod in index.world.pods.values()) else None
    if there is not None:
        yield from _WithPods(index, there).findings()
    yield from cluster_lint(index.world, there)


def _warning(policy: Policy, code: str, path: str, fault: str, cure: str) -> Finding:
    where = policy.position or _NOWHERE
    return Finding(where, code, path, fault, cure, f"NetworkPolicy {policy.key}", "warning")


def _rules(policy: Policy) -> Iterator[tuple[Direction, str, PolicyRule]]:
    """The rules that are in force, with their field paths."""
    for direction in Direction:
        for number, rule in enumerate(policy.rules(direction) or ()):
            yield direction, f"spec.{direction}[{number}]", rule


def _covered_rules(index: Index) -> Iterator[Finding]:
    for narrow, wide in covered(index.world):
        where = wide.rule.position or wide.policy.position
        fault = f"whatever this rule allows, {wide} ({where}) allows for the same pods, too"
        cure = "take the rule out, or narrow the other one if that is too wide"
        path = f"spec.{narrow.direction}[{narrow.number}]"
        yield _warning(narrow.policy, "rule-covered", path, fault, cure)


def _policies(world: World) -> Iterator[Policy]:
    return (policy for policy in world.policies.values() if isinstance(policy, Policy))


def _empty_blocks(index: Index) -> Iterator[Finding]:
    for policy in _policies(index.world):
        for direction, path, rule in _rules(policy):
            for number, peer in enumerate(rule.peers or ()):
                if isinstance(peer, IPBlock) and is_empty(peer):
                    at = f"{path}.{PEERS[direction]}[{number}].ipBlock"
                    fault = f"the entries of `except` take away all of {peer.cidr}, so nothing is allowed by it"
                    yield _warning(policy, "empty-block", at, fault, "correct `except`, or take the peer out")


class _WithPods:
    """The warnings that depend on the pods and namespaces that there are."""

    def __init__(self, index: Index, there: Inventory) -> None:
        self._index, self._world, self._there = index, index.world, there

    def findings(self) -> Iterator[Finding]:
        for policy in _policies(self._world):
            if policy.quarantined:
                continue
            if not self._selected(policy):
                yield self._selects_nothing(policy)
                continue
            for direction, path, rule in _rules(policy):
                for number, peer in enumerate(rule.peers or ()):
                    if isinstance(peer, PodPeer):
                        yield from self._peer(policy, f"{path}.{PEERS[direction]}[{number}]", peer)
                for number, port in enumerate(rule.ports or ()):
                    if isinstance(port.port, str):
                        at = f"{path}.ports[{number}].port"
                        yield from self._named_port(policy, direction, rule, at, port)
        yield from self._without_dns()

    # Pods and namespaces ------------------------------------------------------------------------------------------

    def _selected(self, policy: Policy) -> bool:
        """Whether the policy selects any pod; one that could not be read may be."""
        return bool(self._there.of(PodGroup(policy.namespace, EVERYTHING, policy.selector))) or any(
            pod.quarantined for pod in self._there.pods.get(policy.namespace, ())
        )

    def _selects_nothing(self, policy: Policy) -> Finding:
        name = policy.namespace
        if name not in self._there.pods:
            meant = nearest(name, self._there.pods)
            fault = f"there is no pod in the namespace `{name}`, so the policy selects none"
            cure = f"write `namespace: {meant}`" if meant else "add its pods' manifests, or take the policy out"
            return _warning(policy, "selects-no-pod", "metadata.namespace", fault, cure)
        fault = f"no pod of the namespace has {describe(policy.selector)}, so the policy selects none"
        cure = selector_cure(policy.selector, self._there.pod_labels((name,)), "pods there have")
        return _warning(policy, "selects-no-pod", "spec.podSelector", fault, cure)

    def _peer(self, policy: Policy, path: str, peer: PodPeer) -> Iterator[Finding]:
        if self._there.of(PodGroup.of(peer, policy)):
            return
        names = [policy.namespace] if peer.namespaces is None else self._there.matching(peer.namespaces)
        if peer.namespaces is not None and not names:
            yield self._no_namespace(policy, path, peer.namespaces)
            return
        where = f"`{names[0]}`" if len(names) == 1 else f"these {len(names)} namespaces"
        field = "podSelector"
        if not any(self._there.pods.get(name) for name in names):
            field = field if peer.namespaces is None else "namespaceSelector"
            fault, cure = (
                f"there is no pod in {where}, so nothing is allowed by this peer",
                "add its pods, or correct it",
            )
        else:
            fault = f"no pod of {where} has {describe(peer.pods)}, so nothing is allowed by this peer"
            cure = selector_cure(peer.pods, self._there.pod_labels(tuple(names)), "pods there have")
        yield _warning(policy, "peer-selects-no-pod", f"{path}.{field}", fault, cure)

    def _no_namespace(self, policy: Policy, path: str, selector: Selector) -> Finding:
        fault = f"no namespace has {describe(selector)}, so nothing is allowed by this peer"
        cure = namespace_cure(self._there, self._world, selector)
        return _warning(policy, "selects-no-namespace", f"{path}.namespaceSelector", fault, cure)

    # Ports --------------------------------------------------------------------------------------------------------

    def _named_port(
        self, policy: Policy, direction: Direction, rule: PolicyRule, path: str, port: PolicyPort
    ) -> Iterator[Finding]:
        name = f"{port.port}/{port.protocol}"
        groups = [PodGroup(policy.namespace, EVERYTHING, policy.selector)]
        whose = "of the pods that the policy selects"
        if direction is Direction.EGRESS:
            whose = "of the peers' pods"
            groups = _far_groups(policy, rule)
        if not groups:
            fault = f"the port `{name}` is looked up in the containers of the peers, and addresses have none"
            yield _warning(policy, "port-name-of-block", path, fault, "write the port's number")
        elif any(map(self._there.of, groups)):
            there = {each for group in groups for each in self._there.ports_of(group)}
            if (port.port, port.protocol) not in there:
                fault = f"no container {whose} has the port `{name}`, so nothing is allowed by it"
                yield _warning(policy, "no-such-port", path, fault, port_cure(port, there))

    # DNS ----------------------------------------------------------------------------------------------------------

    def _without_dns(self) -> Iterator[Finding]:
        isolations = Isolations(self._index)
        silent: dict[str, list[str]] = defaultdict(list)  # by the policy to be told of, the pods
        known: dict[tuple[str, ...], str] = {}
        by_key: dict[str, Policy] = {}
        for namespace in sorted(self._there.pods):
            for pod in self._there.pods[namespace]:
                isolation = isolations.of(pod, Direction.EGRESS)
                if not isolation.grants or not isolation.policies or _may_ask_dns(isolation):
                    continue
                keys = tuple([policy.key for policy in isolation.policies])
                if keys not in known:
                    by_key.update((policy.key, policy) for policy in isolation.policies)
                    known[keys] = self._silenced_by(isolation.policies)
                if known[keys]:
                    silent[known[keys]].append(pod.name)
        for key, names in silent.items():
            policy = by_key[key]
            who = named(sorted(names))
            fault = f"no DNS server can be asked by {who}: none of the egress rules for them allows 53/UDP"
            yield _warning(policy, "dns-forgotten", "spec.egress", fault, _DNS_CURE)

    def _silenced_by(self, policies: tuple[Policy, ...]) -> str:
        """The first of these policies that lets pods send, where none lets them ask a DNS server; else ''."""
        if any(policy.quarantined for policy in policies):
            return ""
        if any(self._allows_dns(policy, rule) for policy in policies for rule in policy.egress or ()):
            return ""
        return next((policy.key for policy in policies if policy.egress), "")

    def _allows_dns(self, policy: Policy, rule: PolicyRule) -> bool:
        """Whether a rule says 53/UDP; that its peers are there is another question."""
        return rule.ports is None or any(
            self._is_dns(policy, rule, port) for port in rule.ports if port.protocol == "UDP"
        )

    def _is_dns(self, policy: Policy, rule: PolicyRule, port: PolicyPort) -> bool:
        if isinstance(port.port, int):
            return port.port <= 53 <= (port.end_port or port.port)
        pods = (self._world.pods[key] for group in _far_groups(policy, rule) for key in self._there.of(group))
        named = (each for pod in pods for each in pod.ports)
        return port.port is None or any(
            (each.name, each.protocol, each.port) == (port.port, "UDP", 53) for each in named
        )


def _may_ask_dns(isolation: Isolation) -> bool:
    """Whether a policy of the Admin tier may let the pod ask a DNS server, whatever its NetworkPolicies say."""
    accepting = (rule for each in isolation.admin for rule in each.egress if rule.action is Action.ACCEPT)
    return any(rule.ports is None or any(_may_be_dns(port) for port in rule.ports) for rule in accepting)


def _may_be_dns(port: PolicyPort) -> bool:
    return port.protocol == "UDP" and (
        not isinstance(port.port, int) or port.port <= 53 <= (port.end_port or port.port)
    )


def _far_groups(policy: Policy, rule: PolicyRule) -> list[PodGroup]:
    """The pods among a rule's peers; every pod where it has no peers at all."""
    if rule.peers is None:
        return [EVERY_POD]
    return [PodGroup.of(peer, policy) for peer in rule.peers if isinstance(peer, PodPeer)]
