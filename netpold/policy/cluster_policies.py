"""ClusterNetworkPolicy (policy.networking.k8s.io) from its tree to model.ClusterPolicy; and AdminNetworkPolicy and
BaselineAdminNetworkPolicy, which it replaces, translated.

Checked as their schemas have it.  A policy with errors becomes its closed version: it has the subject, tier and
priority as far as they could be read, or else every pod, Admin and 0; and of its rules those that may deny
(`cluster_rules.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from netpold.policy.checks import SUBDOMAIN_RULE, is_dns_subdomain
from netpold.policy.cluster_forms import ADMIN, BASELINE, CLUSTER, LAST_PRIORITY, NEWEST, Form
from netpold.policy.cluster_rules import CLOSED, NO_RULES, Rules, pods_of, tier_rules
from netpold.policy.fields import Fields, nearest
from netpold.policy.metadata import cluster_metadata, made_up_name, mode
from netpold.policy.model import EVERYTHING, ClusterPolicy, Direction, PodPeer, Tier
from netpold.policy.selectors import beside, selector
from netpold.policy.tree import Map, Scalar, Seq, Unread, is_null, is_sure, shown
from netpold.policy.whole import only_field, whole_map

EVERY_POD = PodPeer(EVERYTHING, EVERYTHING)

_POLICY = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_SUBJECT = frozenset({"namespaces", "pods"})
_TIERS = {tier.value: tier for tier in Tier}
_SUBJECT_CURE = "write `namespaces:` or `pods:` below it; `namespaces: {}` is about all pods"
_SPEC_HINTS = {
    "podSelector": "write `subject:`, with `pods:` above it",
    "namespaceSelector": "write `subject:`, with `namespaces:` and what stands below it",
    "selector": "write `subject:`, with `pods:` or `namespaces:` below it",
    "policyTypes": "take it out: the rules say which directions there are",
    "rules": "write `ingress:` or `egress:`",
    "from": "write `ingress:`, and `- from:` below it",
    "to": "write `egress:`, and `- to:` below it",
    "action": "write it in each rule",
}
_SUBJECT_HINTS = {
    "podSelector": "write `pods:` above it",
    "namespaceSelector": "write `namespaces:` with what stands below it, or `pods:` above it",
    "matchLabels": "write `namespaces:` above it, or `pods:` and `podSelector:`",
    "matchExpressions": "write `namespaces:` above it, or `pods:` and `podSelector:`",
}


def reader(form: Form) -> Callable[[Fields, Map], ClusterPolicy | None]:
    """What reads the documents of a kind."""
    return lambda fields, root: _read(fields, root, form)


def _read(fields: Fields, root: Map, form: Form) -> ClusterPolicy:
    version = root.get("apiVersion")
    if form is CLUSTER and isinstance(version, Scalar) and version.value == CLUSTER.versions[1]:
        form = NEWEST
    fields.known(root, _POLICY)
    about = cluster_metadata(fields, root, is_dns_subdomain, SUBDOMAIN_RULE)
    fields.subject = f"{form.kind} {about.name or '?'}"
    position = fields.position(root)
    says_mode = mode(fields, root, about)
    if form.is_old:
        cure = f"write a ClusterNetworkPolicy (`apiVersion: {CLUSTER.versions[0]}`)"
        fields.warn(root, "deprecated-kind", f"{form.kind} is deprecated; it is in force as it is written", cure)
    if form is BASELINE and about.name not in ("default", None):
        fault = f'there is one {form.kind}, and its name is "default"'
        fields.error(root["metadata"]["name"], "name", fault, "write `name: default`, or a ClusterNetworkPolicy")
    tier, priority, subject, rules = _spec(fields, root, form)
    ingress, egress = (rules[each].denials if fields.failed else rules[each].rules for each in Direction)
    return ClusterPolicy(
        name=about.name or made_up_name("", position),
        tier=tier,
        priority=priority,
        subject=subject,
        ingress=ingress,
        egress=egress,
        kind=form.kind,
        position=position,
        quarantined=fields.failed,
        mode=None if fields.failed else says_mode,
    )


_Spec = tuple[Tier, int, PodPeer, dict[Direction, Rules]]


def _spec(fields: Fields, root: Map, form: Form) -> _Spec:
    closed = dict.fromkeys(Direction, CLOSED)
    node = root.get("spec")
    if node is None or is_null(node):
        fields.missing(root, "spec", "write `spec:`, and below it `subject:` and the rules")
        return form.tier or Tier.ADMIN, _default_priority(form), EVERY_POD, NO_SPEC if root.whole else closed
    spec = fields.map(node, "write `subject:` and the rules below it")
    if spec is None:
        return form.tier or Tier.ADMIN, _default_priority(form), EVERY_POD, closed
    fields.failed |= not spec.whole
    names = {"subject", "ingress", "egress"}
    if form.tier is None:
        names.add("tier")
    if form is not BASELINE:
        names.add("priority")
    misplaced = beside(spec, ("subject",))
    fields.known(spec, frozenset(names), {**_hints(form), **misplaced})
    rules = {each: tier_rules(fields, spec, each, form) for each in Direction}
    for each in Direction:
        if each not in spec and (not is_sure(root, "spec") or _may_have(spec, each, names)):
            rules[each] = CLOSED
    subject = EVERY_POD if misplaced else _subject(fields, spec, form)
    return _tier(fields, spec) if form.tier is None else form.tier, _priority(fields, spec, form), subject, rules


NO_SPEC = dict.fromkeys(Direction, NO_RULES)


def _hints(form: Form) -> dict[str, str]:
    if form is BASELINE:
        return {**_SPEC_HINTS, "priority": "take it out: there is only one BaselineAdminNetworkPolicy"}
    return {**_SPEC_HINTS, "tier": f"take it out: the tier of a {form.kind} is always {form.tier}"}


def _may_have(spec: Map, direction: Direction, names: set[str]) -> bool:
    """Whether the rules of a direction, which is not there, may be there under another name, or further down."""
    for key, node in spec.items():
        if key in names or not isinstance(node, Seq | Unread):
            continue
        if key != "policyTypes" and nearest(key, tuple(Direction)) in (direction, None):
            return True
    return False


def _tier(fields: Fields, spec: Map) -> Tier:
    node = spec.get("tier")
    if node is None or (isinstance(node, Scalar) and is_null(node)):
        fields.missing(spec, "tier", "write `tier: Admin`, or `tier: Baseline` for what NetworkPolicies may override")
        return Tier.ADMIN
    name = fields.text(node)
    if name is None or name in _TIERS:
        return _TIERS.get(name or "", Tier.ADMIN)
    meant = nearest(name, _TIERS)
    cure = f"write `{meant}`" if meant else "write `Admin` or `Baseline`"
    fields.error(node, "tier", f'there is no tier "{shown(name)}"', cure)
    return Tier.ADMIN


def _default_priority(form: Form) -> int:
    return LAST_PRIORITY if form is BASELINE else 0


def _priority(fields: Fields, spec: Map, form: Form) -> int:
    if form is BASELINE:
        return LAST_PRIORITY
    node = spec.get("priority")
    if node is None or (isinstance(node, Scalar) and is_null(node)):
        fields.missing(spec, "priority", f"write `priority:` and a number from 0 (first) to {LAST_PRIORITY}")
        return 0
    number = fields.number(node)
    if number is not None and not 0 <= number <= LAST_PRIORITY:
        cure = f"write a number from 0 (first) to {LAST_PRIORITY}"
        fields.error(node, "priority", f"there is no priority {shown(str(number))}", cure)
        return 0
    return number or 0


def _subject(fields: Fields, spec: Map, form: Form) -> PodPeer:
    """Whom it is about; what is wrong of it selects everything."""
    if "subject" not in spec:
        fields.missing(spec, "subject", "write `subject:`; `subject: {namespaces: {}}` is about all pods")
        return EVERY_POD
    found = whole_map(fields, spec["subject"], _SUBJECT_CURE)
    if found is None:
        return EVERY_POD
    misplaced = beside(found, _SUBJECT)
    known = fields.known(found, _SUBJECT, {**_SUBJECT_HINTS, **misplaced})
    if not is_sure(spec, "subject"):
        return EVERY_POD
    match only_field(fields, found, "`subject`", _SUBJECT, known):
        case "namespaces":
            return PodPeer(EVERYTHING, selector(fields, found["namespaces"]) or EVERYTHING)
        case "pods":
            return pods_of(fields, found["pods"], form)
    return EVERY_POD


READERS = {form.kind: reader(form) for form in (CLUSTER, ADMIN, BASELINE)}
