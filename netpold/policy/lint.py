"""What is right in every manifest, and still likely not meant: policies and rules that do nothing.

All findings are warnings: the policies are in force as they are written.  What depends on which pods there are is asked
only where there are any, since a repository may hold the policies alone.  Each question is asked once for each group of
pods, not for each pod, so a thousand policies and ten thousand pods take a second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set

from netpold.policy.classes import Isolations
from netpold.policy.covered import covered
from netpold.policy.covers import is_empty
from netpold.policy.fields import nearest
from netpold.policy.groups import EVERY_POD, PodGroup
from netpold.policy.index import Index
from netpold.policy.model import (
    EVERYTHING,
    Direction,
    Finding,
    IPBlock,
    Operator,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    Position,
    Protocol,
    Selector,
    World,
)
from netpold.policy.policy_rules import PEERS
from netpold.policy.selector import describe, matches

Labels = Mapping[str, Set[str]]  # by key, the values that occur

_NOWHERE = Position("", 0)
_MOST_NAMED = 3
_DNS_CURE = "add an egress rule with `ports: [{port: 53, protocol: UDP}, {port: 53}]`"


def lint(index: Index) -> Iterator[Finding]:
    """The warnings about all policies, in no order."""
    yield from _covered_rules(index)
    yield from _empty_blocks(index)
    if any(pod.takes_part for pod in index.world.pods.values()):
        yield from _Inventory(index).findings()


def _warning(policy: Policy, rule: PolicyRule | None, code: str, path: str, fault: str, cure: str) -> Finding:
    where = (rule and rule.position) or policy.position or _NOWHERE
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
        yield _warning(narrow.policy, narrow.rule, "rule-covered", path, fault, cure)


def _policies(world: World) -> Iterator[Policy]:
    return (policy for policy in world.policies.values() if isinstance(policy, Policy))


def _empty_blocks(index: Index) -> Iterator[Finding]:
    for policy in _policies(index.world):
        for direction, path, rule in _rules(policy):
            for number, peer in enumerate(rule.peers or ()):
                if isinstance(peer, IPBlock) and is_empty(peer):
                    at = f"{path}.{PEERS[direction]}[{number}].ipBlock"
                    fault = f"the entries of `except` take away all of {peer.cidr}, so nothing is allowed by it"
                    yield _warning(policy, rule, "empty-block", at, fault, "correct `except`, or take the peer out")


class _Inventory:
    """The warnings that depend on the pods and namespaces that there are."""

    def __init__(self, index: Index) -> None:
        self._index, self._world = index, index.world
        self._pods: dict[str, list[Pod]] = defaultdict(list)  # by namespace
        for pod in self._world.pods.values():
            if pod.takes_part:
                self._pods[pod.namespace].append(pod)
        self._namespaces = sorted({*self._world.namespaces, *self._pods})
        self._members: dict[PodGroup, frozenset[str]] = {}
        self._ports: dict[PodGroup, frozenset[tuple[str, Protocol]]] = {}
        self._chosen: dict[Selector, list[str]] = {}
        self._labels: dict[tuple[str, ...], Labels] = {}

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
                        at = f"{path}.{PEERS[direction]}[{number}]"
                        yield from self._peer(policy, rule, at, peer)
                for number, port in enumerate(rule.ports or ()):
                    if isinstance(port.port, str):
                        at = f"{path}.ports[{number}].port"
                        yield from self._named_port(policy, direction, rule, at, port)
        yield from self._without_dns()

    # Pods and namespaces ------------------------------------------------------------------------------------------

    def _of(self, group: PodGroup) -> frozenset[str]:
        found = self._members.get(group)
        if found is None:
            found = self._members[group] = self._index.members(group)
        return found

    def _selected(self, policy: Policy) -> bool:
        """Whether the policy selects any pod; one that could not be read may be."""
        return bool(self._of(PodGroup(policy.namespace, EVERYTHING, policy.selector))) or any(
            pod.quarantined for pod in self._pods.get(policy.namespace, ())
        )

    def _selects_nothing(self, policy: Policy) -> Finding:
        name = policy.namespace
        if name not in self._pods:
            meant = nearest(name, self._pods)
            fault = f"there is no pod in the namespace `{name}`, so the policy selects none"
            cure = f"write `namespace: {meant}`" if meant else "add its pods' manifests, or take the policy out"
            return _warning(policy, None, "selects-no-pod", "metadata.namespace", fault, cure)
        fault = f"no pod of the namespace has {describe(policy.selector)}, so the policy selects none"
        cure = self._cure(policy.selector, self._pod_labels((name,)), "pods there have")
        return _warning(policy, None, "selects-no-pod", "spec.podSelector", fault, cure)

    def _peer(self, policy: Policy, rule: PolicyRule, path: str, peer: PodPeer) -> Iterator[Finding]:
        if self._of(PodGroup.of(peer, policy)):
            return
        names = [policy.namespace] if peer.namespaces is None else self._matching(peer.namespaces)
        if peer.namespaces is not None and not names:
            yield self._no_namespace(policy, rule, path, peer.namespaces)
            return
        where = f"`{names[0]}`" if len(names) == 1 else f"these {len(names)} namespaces"
        if not any(self._pods.get(name) for name in names):
            fault, cure = (
                f"there is no pod in {where}, so nothing is allowed by this peer",
                "add its pods, or correct it",
            )
        else:
            fault = f"no pod of {where} has {describe(peer.pods)}, so nothing is allowed by this peer"
            cure = self._cure(peer.pods, self._pod_labels(tuple(names)), "pods there have")
        yield _warning(policy, rule, "peer-selects-no-pod", f"{path}.podSelector", fault, cure)

    def _no_namespace(self, policy: Policy, rule: PolicyRule, path: str, selector: Selector) -> Finding:
        fault = f"no namespace has {describe(selector)}, so nothing is allowed by this peer"
        labels = _values(self._world.namespace(name).labels for name in self._namespaces)
        cure = self._cure(selector, labels, "namespaces have")
        bare = [name for name in self._namespaces if name not in self._world.namespaces]
        if bare:
            cure += f"; there is no Namespace object for {_named(bare)}, so no label but the name"
        return _warning(policy, rule, "selects-no-namespace", f"{path}.namespaceSelector", fault, cure)

    def _matching(self, selector: Selector) -> list[str]:
        found = self._chosen.get(selector)
        if found is None:
            spaces = [self._world.namespace(name) for name in self._namespaces]
            found = [each.name for each in spaces if not each.quarantined and matches(selector, each.labels)]
            self._chosen[selector] = found
        return found

    def _pod_labels(self, names: tuple[str, ...]) -> Labels:
        if names not in self._labels:
            self._labels[names] = _values(pod.labels for name in names for pod in self._pods.get(name, ()))
        return self._labels[names]

    def _cure(self, selector: Selector, labels: Labels, who: str) -> str:
        """What may have been meant by the first requirement that nobody meets."""
        for each in selector.requirements:
            if each.operator not in (Operator.IN, Operator.EXISTS):
                continue
            there = labels.get(each.key, frozenset())
            if not there:
                meant = nearest(each.key, labels)
                return f"write the label `{meant}`" if meant else f"{who} no label `{each.key}`: correct it"
            if each.operator is Operator.IN and there.isdisjoint(each.values):
                meant = nearest(each.values[0], there)
                return f"write `{each.key}: {meant}`" if meant else f"{who} {each.key} {_named(sorted(there))}"
        return "correct the labels: each of them occurs, but not together"

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
            yield _warning(policy, rule, "port-name-of-block", path, fault, "write the port's number")
        elif any(map(self._of, groups)):
            there = {each for group in groups for each in self._ports_of(group)}
            if (port.port, port.protocol) not in there:
                fault = f"no container {whose} has the port `{name}`, so nothing is allowed by it"
                yield _warning(policy, rule, "no-such-port", path, fault, _port_cure(port, there))

    def _ports_of(self, group: PodGroup) -> frozenset[tuple[str, Protocol]]:
        if group not in self._ports:
            pods = self._world.pods
            self._ports[group] = frozenset(
                (port.name, port.protocol) for key in self._of(group) for port in pods[key].ports
            )
        return self._ports[group]

    # DNS ----------------------------------------------------------------------------------------------------------

    def _without_dns(self) -> Iterator[Finding]:
        isolations = Isolations(self._index)
        silent: dict[str, list[str]] = defaultdict(list)  # by the policy to be told of, the pods
        known: dict[tuple[str, ...], str] = {}
        by_key: dict[str, Policy] = {}
        for namespace in sorted(self._pods):
            for pod in self._pods[namespace]:
                isolation = isolations.of(pod, Direction.EGRESS)
                if not isolation.grants or not isolation.policies:
                    continue
                keys = tuple([policy.key for policy in isolation.policies])
                if keys not in known:
                    by_key.update((policy.key, policy) for policy in isolation.policies)
                    known[keys] = self._silenced_by(isolation.policies)
                if known[keys]:
                    silent[known[keys]].append(pod.name)
        for key, names in silent.items():
            policy = by_key[key]
            who = _named(sorted(names))
            fault = f"no DNS server can be asked by {who}: none of the egress rules for them allows 53/UDP"
            yield _warning(policy, (policy.egress or (None,))[0], "dns-forgotten", "spec.egress", fault, _DNS_CURE)

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
        pods = (self._world.pods[key] for group in _far_groups(policy, rule) for key in self._of(group))
        named = (each for pod in pods for each in pod.ports)
        return port.port is None or any(
            (each.name, each.protocol, each.port) == (port.port, "UDP", 53) for each in named
        )


def _far_groups(policy: Policy, rule: PolicyRule) -> list[PodGroup]:
    """The pods among a rule's peers; every pod where it has no peers at all."""
    if rule.peers is None:
        return [EVERY_POD]
    return [PodGroup.of(peer, policy) for peer in rule.peers if isinstance(peer, PodPeer)]


def _values(several: Iterator[Mapping[str, str]]) -> Labels:
    found: dict[str, set[str]] = defaultdict(set)
    for labels in several:
        for key, value in labels.items():
            found[key].add(value)
    return found


def _named(names: list[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"


def _port_cure(port: PolicyPort, there: Set[tuple[str, Protocol]]) -> str:
    names = {name for name, protocol in there if protocol == port.protocol}
    other = sorted(protocol for name, protocol in there if name == port.port)
    if other:
        return f"write `protocol: {other[0]}`"
    meant = nearest(str(port.port), names)
    if meant:
        return f"write `port: {meant}`"
    if names:
        return f"name it in the containers, or write one that they have: {_named(sorted(names))}"
    return "name it in the pods' containers, or write its number"
