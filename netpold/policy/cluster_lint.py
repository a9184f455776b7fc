"""What is right in the manifests of policies of the cluster, and still likely not meant: rules that match nothing, or
that others hide.

Warnings all, and where they stand; see lint.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netpold.policy.cluster_forms import FORMS
from netpold.policy.cluster_ports import NAMED
from netpold.policy.covers import rule_within
from netpold.policy.groups import EVERY_POD, PodGroup
from netpold.policy.lint_inventory import Inventory, namespace_cure, port_cure, selector_cure, values_of
from netpold.policy.model import (
    Action,
    ClusterPolicy,
    Direction,
    Finding,
    NodePeer,
    PodPeer,
    PolicyPort,
    Position,
    Selector,
    TierRule,
    World,
    policy_title,
)
from netpold.policy.policy_rules import PEERS
from netpold.policy.selector import describe, matches

_NOWHERE = Position("", 0)
_DOES = {Action.ACCEPT: "accepted", Action.DENY: "denied", Action.PASS: "passed"}


def cluster_lint(world: World, there: Inventory | None) -> Iterator[Finding]:
    """The warnings about policies of the cluster; `there`: the pods, None where there are none."""
    for policy in world.policies.values():
        if isinstance(policy, ClusterPolicy) and not policy.quarantined:
            yield from _hidden(policy)
            if there is not None:
                yield from _WithPods(world, there, policy).findings()


def _hidden(policy: ClusterPolicy) -> Iterator[Finding]:
    """Rules of which one before them matches all."""
    anywhere = World().namespace("")
    for direction in Direction:
        rules = policy.rules(direction)
        for number, rule in enumerate(rules):
            by = next((at for at in range(number) if rule_within(rule, rules[at], anywhere)), None)
            if by is not None:
                where = rules[by].position or policy.position
                fault = f"whatever this rule matches, the rule {direction}[{by}] ({where}) matches before it"
                cure = "take it out, or put it before that one"
                yield _warning(policy, "rule-hidden", f"spec.{direction}[{number}]", fault, cure)


def _warning(policy: ClusterPolicy, code: str, path: str, fault: str, cure: str) -> Finding:
    return Finding(policy.position or _NOWHERE, code, path, fault, cure, policy_title(policy.key), "warning")


def _as_written(ports: Iterable[PolicyPort]) -> Iterator[PolicyPort]:
    """One for each entry: a name comes once for each protocol."""
    return (port for port in ports if not isinstance(port.port, str) or port.protocol == "TCP")


class _WithPods:
    """The warnings about one policy that depend on which pods, namespaces and nodes there are."""

    def __init__(self, world: World, there: Inventory, policy: ClusterPolicy) -> None:
        self._world, self._there, self._policy = world, there, policy

    def findings(self) -> Iterator[Finding]:
        subject = self._policy.subject
        if not self._there.of(PodGroup.of(subject, self._policy, possible=True)):
            yield self._selects_nothing(subject)
            return
        for direction in Direction:
            for number, rule in enumerate(self._policy.rules(direction)):
                path = f"spec.{direction}[{number}]"
                for at, peer in enumerate(rule.peers or ()):
                    entry = f"{path}.{PEERS[direction]}[{rule.entries[at] if rule.entries else at}]"
                    if isinstance(peer, PodPeer):
                        yield from self._pods(rule, entry, peer)
                    elif isinstance(peer, NodePeer):
                        yield from self._nodes(rule, f"{entry}.nodes", peer.nodes)
                for at, port in enumerate(_as_written(rule.ports or ())):
                    if isinstance(port.port, str):
                        yield from self._named_port(direction, rule, f"{path}.{self._name_of_port(at)}", port)

    def _selects_nothing(self, subject: PodPeer) -> Finding:
        why, cure = self._why_nobody(subject)
        return _warning(self._policy, "selects-no-pod", "spec.subject", f"{why}, so the policy selects none", cure)

    def _why_nobody(self, peer: PodPeer) -> tuple[str, str]:
        """Why no pod is meant, and what may have been."""
        assert peer.namespaces is not None
        names = self._there.matching(peer.namespaces)
        if not names:
            cure = namespace_cure(self._there, self._world, peer.namespaces)
            return f"no namespace has {describe(peer.namespaces)}", cure
        where = f"`{names[0]}`" if len(names) == 1 else f"these {len(names)} namespaces"
        if not any(self._there.pods.get(name) for name in names):
            return f"there is no pod in {where}", "add its pods, or correct it"
        labels = self._there.pod_labels(tuple(names))
        return f"no pod of {where} has {describe(peer.pods)}", selector_cure(peer.pods, labels, "pods there have")

    def _pods(self, rule: TierRule, path: str, peer: PodPeer) -> Iterator[Finding]:
        if self._there.of(PodGroup.of(peer, self._policy)):
            return
        why, cure = self._why_nobody(peer)
        code = "peer-selects-no-pod" if self._there.matching(peer.namespaces or Selector()) else "selects-no-namespace"
        yield _warning(self._policy, code, path, f"{why}, so nothing is {_DOES[rule.action]} by this peer", cure)

    def _nodes(self, rule: TierRule, path: str, selector: Selector) -> Iterator[Finding]:
        nodes = self._world.nodes.values()
        if any(node.quarantined or matches(selector, node.labels) for node in nodes):
            return
        why, cure = f"no node has {describe(selector)}", "correct the labels"
        if not nodes:
            why, cure = "there are no Node objects", "add them: `kubectl get nodes -o yaml`"
        elif selector.requirements:
            cure = selector_cure(selector, values_of(node.labels for node in nodes), "nodes have")
        fault = f"{why}, so nothing is {_DOES[rule.action]} by this peer"
        yield _warning(self._policy, "selects-no-node", path, fault, cure)

    def _named_port(self, direction: Direction, rule: TierRule, path: str, port: PolicyPort) -> Iterator[Finding]:
        whose, groups = "of the pods that the policy selects", [PodGroup.of(self._policy.subject, self._policy)]
        if direction is Direction.EGRESS:
            whose, groups = "of the peers' pods", list(self._far_groups(rule))
        if not any(map(self._there.of, groups)):
            return
        there = {each for group in groups for each in self._there.ports_of(group)}
        if not any(name == port.port for name, _ in there):
            fault = f"no container {whose} has the port `{port.port}`, so nothing is {_DOES[rule.action]} by it"
            yield _warning(self._policy, "no-such-port", path, fault, port_cure(port, there))

    def _name_of_port(self, at: int) -> str:
        """The field that has the port's name, in that entry of a rule's ports."""
        form = FORMS[self._policy.kind]
        return f"{form.ports}[{at}].{NAMED[form.is_old]}"

    def _far_groups(self, rule: TierRule) -> Iterable[PodGroup]:
        if rule.peers is None:
            return [EVERY_POD]
        return [PodGroup.of(peer, self._policy) for peer in rule.peers if isinstance(peer, PodPeer)]
