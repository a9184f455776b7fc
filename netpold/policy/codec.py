"""What a unit of a file says, as plain tuples that `marshal` takes, and back: for helpers' pipes and the cache on disk.

The file's name is in no tuple: it is told when they are decoded.  What many objects have in common (labels, ports,
selectors, peers, names of namespaces and nodes) is one object in memory for all that one Decoder decodes, so a cluster
takes a fraction of what the parser makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, make_dataclass
from ipaddress import ip_network
from typing import Any, TypeVar, cast

from netpold.policy.documents import Part
from netpold.policy.manifest import NOTHING, Object, Parsed
from netpold.policy.model import (
    Action,
    ClusterPolicy,
    ContainerPort,
    Finding,
    IPBlock,
    Namespace,
    Network,
    Node,
    NodePeer,
    Operator,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    Position,
    Requirement,
    Selector,
    Tier,
    TierPeer,
    TierRule,
)

Encoded = tuple[Any, ...]

_POD, _NAMESPACE, _POLICY, _PARSED, _CLUSTER_POLICY, _NODE = range(6)  # what a tuple begins with
MOST_LABELS = 1 << 13  # label sets that a Decoder keeps, to see whether they come again

_HOST_NETWORK, _FINISHED, _QUARANTINED = 1, 2, 4  # flags of a pod
_TERMINATING = 2  # of a namespace; 1: it is quarantined


_T = TypeVar("_T")


def _quickly(kind: type[_T]) -> Callable[..., _T]:
    """A frozen dataclass's constructor, four times as fast: a twin that is not frozen is filled and becomes one of it.
    There are a hundred thousand of them to make when the daemon starts."""
    twin: Any = make_dataclass(kind.__name__, [each.name for each in fields(kind)], slots=True)  # type: ignore[arg-type]

    def make(*values: object) -> _T:
        made = twin(*values)
        made.__class__ = kind
        return made  # type: ignore[no-any-return]

    return make


_pod, _position, _policy, _policy_rule = _quickly(Pod), _quickly(Position), _quickly(Policy), _quickly(PolicyRule)


class Encoder:
    """Turns what units say into tuples.  Those that one Encoder makes share equal parts, which marshal writes once."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def encode(self, part: Part) -> Encoded:
        """The tuple that stands for what a unit says."""
        if not isinstance(part, Parsed):
            return self._object(part)
        return (
            _PARSED,
            tuple([self._object(each) for each in part.objects]),
            tuple([_finding(each) for each in part.findings]),
            tuple(part.passed_over.items()),
            part.truncated,
        )

    def _object(self, found: Object) -> Encoded:
        line, column = _place(found.position)
        if isinstance(found, Namespace):
            flags = found.quarantined + found.terminating * _TERMINATING
            return _NAMESPACE, line, column, found.name, self._labels(found), flags, found.mode
        if isinstance(found, Node):
            return _NODE, line, column, found.name, self._labels(found), found.addresses, found.quarantined
        if isinstance(found, ClusterPolicy):
            return self._cluster_policy(found, line, column)
        namespace = self._one(found.namespace)
        if isinstance(found, Policy):
            rules = self._rules(found.ingress), self._rules(found.egress)
            selector = self._selector(found.selector)
            return _POLICY, line, column, namespace, found.name, selector, *rules, found.quarantined, found.mode
        return (
            _POD,
            line,
            column,
            namespace,
            found.name,
            self._labels(found),
            found.addresses,
            self._one(found.node),
            found.host_network * _HOST_NETWORK + found.finished * _FINISHED + found.quarantined * _QUARANTINED,
            self._one(tuple([(port.name, port.protocol, port.port) for port in found.ports])),
            found.interfaces,
        )

    def _cluster_policy(self, found: ClusterPolicy, line: int, column: int) -> Encoded:
        return (
            _CLUSTER_POLICY,
            line,
            column,
            found.kind,
            found.name,
            found.tier.value,
            found.priority,
            self._peer(found.subject),
            tuple([(rule.action.value, rule.name, rule.entries, *self._rule(rule)) for rule in found.ingress]),
            tuple([(rule.action.value, rule.name, rule.entries, *self._rule(rule)) for rule in found.egress]),
            found.quarantined,
            found.mode,
        )

    def _one(self, value: Any) -> Any:
        """The same object for equal ones."""
        return self._made.setdefault(value, value)

    def _labels(self, found: Pod | Namespace | Node) -> Encoded:
        """Keys and values in turn."""
        flat = tuple([text for item in found.labels.items() for text in item])
        return self._one(flat)  # type: ignore[no-any-return]

    def _selector(self, selector: Selector) -> Encoded:
        made = tuple([(each.key, each.operator.value, each.values) for each in selector.requirements])
        return self._one(made)  # type: ignore[no-any-return]

    def _rules(self, rules: tuple[PolicyRule, ...] | None) -> Encoded | None:
        return None if rules is None else tuple([self._rule(rule) for rule in rules])

    def _rule(self, rule: PolicyRule | TierRule) -> Encoded:
        peers = None if rule.peers is None else tuple([self._peer(peer) for peer in rule.peers])
        ports = (
            None if rule.ports is None else tuple([(each.protocol, each.port, each.end_port) for each in rule.ports])
        )
        return self._one(peers), self._one(ports), *_place(rule.position)

    def _peer(self, peer: TierPeer) -> Encoded:
        if isinstance(peer, IPBlock):
            return str(peer.cidr), tuple(map(str, peer.excepts))
        if isinstance(peer, NodePeer):
            return None, self._selector(peer.nodes)
        return self._selector(peer.pods), None if peer.namespaces is None else self._selector(peer.namespaces)


def _place(position: Position | None) -> tuple[int, int]:
    """Line and column; lines count from 1, and 0 stands for no position."""
    return (0, 0) if position is None else (position.line, position.column)


def _finding(finding: Finding) -> Encoded:
    place = _place(finding.position)
    return *place, finding.code, finding.path, finding.fault, finding.cure, finding.subject, finding.severity


class Decoder:
    """Turns tuples back into what units say.  It keeps what it decoded as long as it lives: make one for each load."""

    def __init__(self) -> None:
        self._one = cast(Callable[[Any, Any], Any], {}.setdefault)  # the same object for equal ones
        self._labels: dict[Encoded, dict[str, str]] = {}
        self._ports: dict[Encoded, tuple[ContainerPort, ...]] = {}
        self._selectors: dict[Encoded, Selector] = {}
        self._peers: dict[Encoded, tuple[TierPeer, ...]] = {}
        self._policy_ports: dict[Encoded, tuple[PolicyPort, ...]] = {}
        self._networks: dict[str, Network] = {}

    def decode(self, encoded: Encoded, file: str) -> Part:
        """What a unit of that file says."""
        if encoded[0] != _PARSED:
            return self._object(encoded, file)
        _, objects, findings, passed_over, truncated = encoded
        return Parsed(
            tuple([self._object(each, file) for each in objects]),
            tuple([Finding(Position(file, line, column), *rest) for line, column, *rest in findings]),
            dict(passed_over) or NOTHING,
            truncated,
        )

    def _object(self, encoded: Encoded, file: str) -> Object:
        kind = encoded[0]
        if kind == _POD:
            return self._pod(encoded, file)
        if kind == _POLICY:
            return self._policy(encoded, file)
        if kind == _CLUSTER_POLICY:
            return self._cluster_policy(encoded, file)
        if kind == _NODE:
            _, line, column, name, labels, addresses, quarantined = encoded
            return Node(name, self._label_map(labels), addresses, _where(file, line, column), quarantined)
        _, line, column, name, labels, flags, mode = encoded
        place, ends = _where(file, line, column), flags & _TERMINATING != 0
        return Namespace(self._one(name, name), self._label_map(labels), place, flags & 1 != 0, ends, mode)

    def _pod(self, encoded: Encoded, file: str) -> Pod:
        _, line, column, namespace, name, labels, addresses, node, flags, ports, interfaces = encoded
        return _pod(
            self._one(namespace, namespace),
            name,
            self._labels.get(labels) or self._label_map(labels),
            addresses,
            self._one(node, node),
            flags & _HOST_NETWORK != 0,
            flags & _FINISHED != 0,
            self._ports.get(ports) or self._container_ports(ports),
            interfaces,
            _where(file, line, column),
            flags & _QUARANTINED != 0,
        )

    def _policy(self, encoded: Encoded, file: str) -> Policy:
        _, line, column, namespace, name, selector, ingress, egress, quarantined, mode = encoded
        return _policy(
            self._one(namespace, namespace),
            name,
            self._selectors.get(selector) or self._selector(selector),
            ingress and self._rules(ingress, file),
            egress and self._rules(egress, file),
            _where(file, line, column),
            quarantined,
            mode,
        )

    def _cluster_policy(self, encoded: Encoded, file: str) -> ClusterPolicy:
        _, line, column, kind, name, tier, priority, subject, ingress, egress, quarantined, mode = encoded
        return ClusterPolicy(
            name,
            Tier(tier),
            priority,
            cast(PodPeer, self._rule_peers((subject,))[0]),
            self._tier_rules(ingress, file),
            self._tier_rules(egress, file),
            kind,
            _where(file, line, column),
            quarantined,
            mode,
        )

    def _label_map(self, flat: Encoded) -> dict[str, str]:
        found = self._labels.get(flat)
        if found is None:
            if len(self._labels) >= MOST_LABELS:
                self._labels.clear()
            texts = [self._one(text, text) for text in flat]
            found = self._labels[flat] = dict(zip(texts[::2], texts[1::2], strict=True))
        return found

    def _container_ports(self, ports: Encoded) -> tuple[ContainerPort, ...]:
        found = self._ports.get(ports)
        if found is None:
            found = self._ports[ports] = tuple([ContainerPort(*port) for port in ports])
        return found

    def _selector(self, selector: Encoded) -> Selector:
        found = self._selectors.get(selector)
        if found is None:
            requirements = [Requirement(key, Operator(operator), values) for key, operator, values in selector]
            found = self._selectors[selector] = Selector(tuple(requirements))
        return found

    def _rules(self, rules: Encoded, file: str) -> tuple[PolicyRule, ...]:
        return tuple(
            [
                _policy_rule(
                    peers and self._rule_peers(peers),
                    ports and self._rule_ports(ports),
                    _where(file, line, column),
                )
                for peers, ports, line, column in rules
            ]
        )

    def _tier_rules(self, rules: Encoded, file: str) -> tuple[TierRule, ...]:
        return tuple(
            [
                TierRule(
                    Action(action),
                    peers and self._rule_peers(peers),
                    ports and self._rule_ports(ports),
                    name,
                    _where(file, line, column),
                    entries,
                )
                for action, name, entries, peers, ports, line, column in rules
            ]
        )

    def _rule_peers(self, peers: Encoded) -> tuple[Any, ...]:
        found = self._peers.get(peers)
        if found is None:
            found = self._peers[peers] = tuple([self._peer(*peer) for peer in peers])
        return found

    def _peer(self, first: Any, second: Any) -> TierPeer:
        if first is None:
            return NodePeer(self._selector(second))
        if isinstance(first, str):
            return IPBlock(self._network(first), tuple(map(self._network, second)))
        return PodPeer(self._selector(first), second if second is None else self._selector(second))

    def _rule_ports(self, ports: Encoded) -> tuple[PolicyPort, ...]:
        found = self._policy_ports.get(ports)
        if found is None:
            found = self._policy_ports[ports] = tuple([PolicyPort(*port) for port in ports])
        return found

    def _network(self, text: str) -> Network:
        found = self._networks.get(text)
        if found is None:
            found = self._networks[text] = ip_network(text)
        return found


def _where(file: str, line: int, column: int) -> Position | None:
    return _position(file, line, column) if line else None
