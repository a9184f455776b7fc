"""The rules of a ClusterNetworkPolicy, and of what it replaces: entries of `ingress` and `egress` to model.TierRule.

Checked as the schemas of policy.networking.k8s.io have it, with their CEL rules; null is refused.  A rule that could
not be read whole may be about anything: one that denies, or passes, or does not say what it does, denies all; one that
accepts grants nothing (as the API wants it of who meets a peer that he does not know).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from netpold.policy.blocks import CIDR_CURE, short_cidr
from netpold.policy.cluster_forms import Form
from netpold.policy.cluster_ports import NAMED, named, ports
from netpold.policy.fields import Fields, nearest
from netpold.policy.lists import entries
from netpold.policy.model import EVERYTHING, Action, Direction, IPBlock, NodePeer, PodPeer, TierPeer, TierRule
from netpold.policy.policy_rules import PEERS
from netpold.policy.selectors import beside, selector
from netpold.policy.tree import Map, Node, Scalar, Seq, is_null, is_sure, shown
from netpold.policy.whole import at_most, only_field, whole_list, whole_map

_IN_CLUSTER = frozenset({"namespaces", "pods"})
_PODS = frozenset({"namespaceSelector", "podSelector"})
_MOST_NETWORKS = 25
_LONGEST_NAME = 100
_TIMES_TOO_MANY = 10  # so many times more rules than there may be are still looked at
_DOMAIN = re.compile(
    r"(?:\*\.)?(?:[a-zA-Z0-9](?:[-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9](?:[-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?"
)
_OTHER_ACTIONS = {"Allow": Action.ACCEPT, "Accept": Action.ACCEPT, "Pass": Action.PASS, "Drop": Action.DENY}
_PODS_CURE = "write `podSelector:` below it, and `namespaceSelector:` unless it is about all namespaces"
_PEER_HINTS = {
    "podSelector": "write `pods:` above it",
    "namespaceSelector": "write `namespaces:` with what stands below it, or `pods:` above it",
    "ipBlock": "write `networks: [10.0.0.0/8]`; what `except` takes out is a rule of its own before this one",
    "cidr": "write `networks: [10.0.0.0/8]`",
    "matchLabels": "write `namespaces:` above it, or `pods:` and `podSelector:`",
    "matchExpressions": "write `namespaces:` above it, or `pods:` and `podSelector:`",
    "namespacedPods": "write `pods:`",
}
_NOT_IN_INGRESS = "ingress rules have pods and namespaces as their peers, and nothing else"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a direction.  `denials`: those of them that may deny something, as they count where the policy is
    refused."""

    rules: tuple[TierRule, ...]
    denials: tuple[TierRule, ...]


NO_RULES = Rules((), ())


def deny_all(action: Action = Action.DENY, name: str = "") -> TierRule:
    """What may be anything, and so is taken for all."""
    return TierRule(action, None, None, name)


CLOSED = Rules((), (deny_all(),))


def tier_rules(fields: Fields, spec: Map, direction: Direction, form: Form) -> Rules:
    """The rules below `ingress` or `egress`.  Absent and empty: none."""
    if direction not in spec:
        return NO_RULES
    node = spec[direction]
    if not fields.required(node, f"write the rules, or take `{direction}` out"):
        return CLOSED
    found = entries(fields, node, direction, f"`{direction}: []` for no rules")
    if found is None:
        fields.failed = True
        return CLOSED
    at_most(fields, found, direction, form.most)
    most = form.most * _TIMES_TOO_MANY
    rules = [_rule(fields, entry, direction, form) for entry in found[:most]]
    denials = [_closed(rule, right) for rule, right in rules if not right or rule.action is Action.DENY]
    denials = [rule for rule in denials if rule.action is Action.DENY]
    if len(found) > most or not is_sure(spec, direction):
        denials.append(deny_all())
    return Rules(tuple([rule for rule, _ in rules]), _that_count(denials))


def _that_count(denials: list[TierRule]) -> tuple[TierRule, ...]:
    """Up to the first that denies all: behind that none counts."""
    for number, rule in enumerate(denials):
        if rule.peers is None and rule.ports is None:
            return tuple(denials[: number + 1])
    return tuple(denials)


def _closed(rule: TierRule, right: bool) -> TierRule:
    if right or rule.action is Action.ACCEPT:
        return rule
    return TierRule(Action.DENY, None, None, rule.name, rule.position)


def _rule(fields: Fields, node: Node, direction: Direction, form: Form) -> tuple[TierRule, bool]:
    """A rule, and whether it could be read whole."""
    failed, fields.failed = fields.failed, False
    rule = _read_rule(fields, node, direction, form)
    right = not fields.failed
    fields.failed = failed or not right
    return rule, right


def _read_rule(fields: Fields, node: Node, direction: Direction, form: Form) -> TierRule:
    peers_key = PEERS[direction]
    found = whole_map(fields, node, f"write `action:` and `{peers_key}:`")
    if found is None:
        return deny_all()
    fields.known(found, frozenset({"name", "action", peers_key, form.ports}), _rule_hints(direction, form))
    name = _name(fields, found)
    action = _action(fields, found, form)
    of_ports = ports(fields, found, form)
    peers: dict[TierPeer, int] = {}  # in order and each once, and the entry that said it first
    written = whole_list(fields, found, peers_key, form.most, "write whom the rule is about: `- namespaces: {}`")
    for number, entry in enumerate(written):
        for peer in _peer(fields, entry, direction, form, action):
            peers.setdefault(peer, number)
    if named(of_ports):
        _refuse_names(fields, found, peers_key, form)
    entries = () if list(peers.values()) == list(range(len(peers))) else tuple(peers.values())
    return TierRule(action or Action.DENY, tuple(peers), of_ports, name, fields.position(found), entries)


def _rule_hints(direction: Direction, form: Form) -> dict[str, str]:
    peers_key = PEERS[direction]
    cures = {
        "to": "ingress rules have `from`",
        "from": "egress rules have `to`",
        "peers": f"write `{peers_key}:`",
        "match": f"write what stands below it one level up: `{peers_key}:` and `{form.ports}:`",
        "tier": "write it below `spec:`",
        "priority": "write it below `spec:`; of rules the first that matches counts",
    }
    if form.is_old:
        return {**cures, "protocols": "write `ports:`, with `- portNumber: {protocol: TCP, port: 80}` below it"}
    return {**cures, "ports": "write `protocols:`, with `- tcp: {destinationPort: {number: 80}}` below it"}


def _name(fields: Fields, found: Map) -> str:
    name = (fields.text(found["name"]) if "name" in found else None) or ""
    if len(name) > _LONGEST_NAME:
        fault = f"the name has {len(name)} characters, the limit is {_LONGEST_NAME}"
        fields.error(found["name"], "rule-name", fault, "make it shorter")
        return ""
    return name


def _action(fields: Fields, found: Map, form: Form) -> Action | None:
    """The action; also where it is wrong and sure what is meant: another case of the word, or another API's word."""
    node = found.get("action")
    choices = ", ".join(form.actions)
    if node is None or (isinstance(node, Scalar) and is_null(node)):
        fields.missing(found, "action", f"write `action:` and one of {choices}")
        return None
    word = fields.text(node)
    if word is None or word in form.actions:
        return form.actions.get(word or "")
    action = form.actions.get(word.capitalize()) or _OTHER_ACTIONS.get(word.capitalize())
    meant = next((each for each, value in form.actions.items() if value is action), None)
    meant = meant or nearest(word, form.actions)
    cure = f"write `{meant}`" if meant else f"actions are {choices}"
    fields.error(node, "action", f'there is no action "{shown(word)}" here', cure)
    return action


# Peers ----------------------------------------------------------------------------------------------------------------


def _peer(fields: Fields, node: Node, direction: Direction, form: Form, action: Action | None) -> Iterator[TierPeer]:
    kinds = _IN_CLUSTER if direction is Direction.INGRESS else form.egress_peers
    found = whole_map(fields, node, "write `namespaces:` or `pods:` after the `- `")
    if found is None:
        return
    hints = {**_PEER_HINTS, **beside(found, kinds)}
    if direction is Direction.INGRESS:
        hints |= dict.fromkeys(("networks", "nodes", "domainNames", "ipBlock", "cidr"), _NOT_IN_INGRESS)
    known = fields.known(found, kinds, hints)
    match only_field(fields, found, "a peer", kinds, known):
        case "namespaces":
            chosen = selector(fields, found["namespaces"])
            if chosen is not None:
                yield PodPeer(EVERYTHING, chosen)
        case "pods":
            yield pods_of(fields, found["pods"], form)
        case "nodes":
            chosen = selector(fields, found["nodes"])
            if chosen is not None:
                yield NodePeer(chosen)
        case "networks":
            yield from _networks(fields, found, form)
        case "domainNames":
            _refuse_domains(fields, found, action)


def pods_of(fields: Fields, node: Node, form: Form) -> PodPeer:
    """Pods by their labels and their namespaces'; what is wrong of it selects everything."""
    found = whole_map(fields, node, _PODS_CURE)
    if found is None:
        return PodPeer(EVERYTHING, EVERYTHING)
    misplaced = beside(found, _PODS)
    fields.known(found, _PODS, {"matchLabels": "write `podSelector:` above it", **misplaced})
    chosen = {"namespaceSelector": EVERYTHING, "podSelector": EVERYTHING}
    for key in chosen:
        if key in found and not misplaced:
            chosen[key] = selector(fields, found[key]) or EVERYTHING
        elif key not in found and (key == "podSelector" or form.is_old):
            fields.missing(found, key, f"write `{key}: {{}}`, if all are meant")
    return PodPeer(chosen["podSelector"], chosen["namespaceSelector"])


def _networks(fields: Fields, found: Map, form: Form) -> Iterator[IPBlock]:
    seen: dict[str, None] = {}
    for entry in whole_list(fields, found, "networks", _MOST_NETWORKS, CIDR_CURE, of_text=True):
        _once(fields, entry, seen)
        network = short_cidr(fields, entry, is_masked=form.is_masked)
        if network is not None:
            yield IPBlock(network)


def _once(fields: Fields, entry: Node, seen: dict[str, None]) -> None:
    if isinstance(entry, Scalar):
        if entry.value in seen:
            fields.error(entry, "duplicate-entry", f"`{shown(entry.value)}` is here twice", "take one of them out")
        seen[entry.value] = None


def _refuse_domains(fields: Fields, found: Map, action: Action | None) -> None:
    """Names are checked as the API has it, and then refused: docs/semantics.md says why."""
    node, seen = found["domainNames"], dict[str, None]()
    cure = "write a name (`example.com`), or `*.` and a name"
    for entry in whole_list(fields, found, "domainNames", _MOST_NETWORKS, cure, of_text=True):
        _once(fields, entry, seen)
        name = fields.text(entry) if fields.required(entry, cure) else None
        if name is not None and not _DOMAIN.fullmatch(name):
            fields.error(entry, "domain-name", f'"{shown(name)}" is no domain name', cure)
    if action not in (Action.ACCEPT, None):
        fields.error(node, "domain-names", "`domainNames` are only for rules that accept", "write `networks`")
        return
    fault = "`domainNames` are not enforced: which addresses a name has is known only once a pod has asked for it"
    fields.error(found.scalars["domainNames"], "domain-names", fault, "write the addresses as `networks`")


def _refuse_names(fields: Fields, rule: Map, peers_key: str, form: Form) -> None:
    """Ports have names in the containers of pods, and nowhere else."""
    peers = rule.get(peers_key)
    without = ("networks", "nodes", "domainNames")
    found = [name for each in (peers if isinstance(peers, Seq) else ()) if isinstance(each, Map) for name in each]
    wrong = next((name for name in without if name in found), None)
    if wrong:
        name = NAMED[form.is_old]
        fault = f"`{name}` stands in a rule with `{wrong}`, whose ports have no names"
        fields.error(rule.scalars[form.ports], "named-port-peer", fault, "write numbers, or make two rules of it")
