"""NetworkPolicy (networking.k8s.io/v1) from its tree to model.Policy.

Checked as in Kubernetes' apis/networking/validation, after strict decoding.  A policy with errors becomes its closed
version: it selects what could be read of its selector, or else every pod of its namespace, isolates them in the
directions that it may have, and grants nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from netpold.policy.checks import SUBDOMAIN_RULE, is_dns_subdomain
from netpold.policy.fields import MOST_FINDINGS, Fields, nearest
from netpold.policy.metadata import made_up_name, metadata, mode
from netpold.policy.model import EVERYTHING, Policy, PolicyRule, Selector
from netpold.policy.policy_rules import rules
from netpold.policy.selectors import beside, selector
from netpold.policy.tree import Map, Scalar, Seq, is_null, is_sure, shown

_POLICY = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_SPEC = frozenset({"podSelector", "policyTypes", "ingress", "egress"})
_SPEC_HINTS = {
    "selector": "write `podSelector`",
    "from": "write `ingress:`, and `- from:` below it",
    "to": "write `egress:`, and `- to:` below it",
}
_TYPES = frozenset({"Ingress", "Egress"})
_BOTH = (True, True)


def read_policy(fields: Fields, root: Map) -> Policy | None:
    """The policy of a document; None where its namespace can't be read."""
    fields.known(root, _POLICY)
    about = metadata(fields, root, is_dns_subdomain, SUBDOMAIN_RULE)
    fields.subject = f"NetworkPolicy {about.namespace or '?'}/{about.name or '?'}"
    position = fields.position(root)
    says_mode = mode(fields, root, about)
    node = root.get("spec")
    if node is None or is_null(node):
        fault = "there is no `spec`: all pods of the namespace are selected, and nothing may come in"
        if root.whole:
            fields.warn(root if node is None else node, "no-spec", fault, "write what is meant below `spec:`")
        says = _Spec((True, not root.whole), EVERYTHING, (), ())
    else:
        says = _spec(fields, node)
    if about.namespace is None:
        return None
    name = about.name or made_up_name(about.namespace, position)
    return Policy(
        namespace=about.namespace,
        name=name,
        selector=says.selector,
        ingress=(() if fields.failed else says.ingress) if says.isolates[0] else None,
        egress=(() if fields.failed else says.egress) if says.isolates[1] else None,
        position=position,
        quarantined=fields.failed,
        mode=None if fields.failed else says_mode,
    )


@dataclass(frozen=True, slots=True)
class _Spec:
    """What `spec` says; `isolates`: for ingress, for egress."""

    isolates: tuple[bool, bool]
    selector: Selector
    ingress: tuple[PolicyRule, ...]
    egress: tuple[PolicyRule, ...]


def _spec(fields: Fields, node: object) -> _Spec:
    spec = fields.map(node, "write `podSelector:` and the rules below it")
    if spec is None:
        return _Spec(_BOTH, EVERYTHING, (), ())
    misplaced = beside(spec, ("podSelector",))
    known = fields.known(spec, _SPEC, {**_SPEC_HINTS, **misplaced})
    chosen = EVERYTHING if misplaced else _pod_selector(fields, spec, known)
    types = _policy_types(fields, spec)
    ingress = rules(fields, spec.get("ingress"), "ingress")
    egress = rules(fields, spec.get("egress"), "egress")
    if fields.failed:
        return _Spec(_closed_directions(spec, types, known), chosen, (), ())
    if types is None:
        types = (True, bool(egress))
    _warn_of_unused(fields, spec, types, ingress)
    return _Spec(types, chosen, ingress, egress)


def _closed_directions(spec: Map, types: tuple[bool, bool] | None, known: bool) -> tuple[bool, bool]:
    """The directions that a policy with errors may have: as `policyTypes` says, or by default, or else both."""
    if "policyTypes" in spec and not is_sure(spec, "policyTypes"):
        return _BOTH
    if types is not None:
        return types
    node = spec.get("policyTypes")
    says_nothing = node is None or is_null(node) or (isinstance(node, Seq) and not node)
    return (True, "egress" in spec) if says_nothing and known and spec.whole else _BOTH


def _pod_selector(fields: Fields, spec: Map, known: bool) -> Selector:
    """The selector; with an unknown field in `spec`, that may be it, and it is not said to be missing."""
    node = spec.get("podSelector")
    if node is not None and not is_null(node):
        return selector(fields, node) or EVERYTHING
    if spec.whole and known:
        fault = "there is no `podSelector`: all pods of the namespace are selected"
        if node is not None:
            fault = "nothing stands behind `podSelector:`: all pods of the namespace are selected"
        fields.warn(spec, "no-pod-selector", fault, "write `podSelector: {}` if that is meant", "podSelector")
    return EVERYTHING


def _policy_types(fields: Fields, spec: Map) -> tuple[bool, bool] | None:
    """Whether `policyTypes` has Ingress and Egress; None where it is absent, empty or wrong."""
    node = spec.get("policyTypes")
    if isinstance(node, Scalar) and not is_null(node):
        cure = f"write a list: `policyTypes: [{shown(node.value)}]`"
    else:
        cure = "write a list: `policyTypes: [Ingress, Egress]`"
    found = fields.seq(node, cure)
    if not found:
        return None
    names = [fields.text(entry) if fields.required(entry, "write Ingress or Egress") else None for entry in found]
    for entry, name in zip(found[:MOST_FINDINGS], names, strict=False):
        if name is not None and name not in _TYPES:
            cure = f"write `{nearest(name, _TYPES) or 'Ingress` or `Egress'}`"
            fields.error(entry, "policy-type", f'there is no policy type "{shown(name)}"', cure)
    if len(found) > len(_TYPES):
        fields.error(found, "policy-type", "there are more than two policy types", "write each one once")
    if not found.whole or not _TYPES.issuperset(names):
        return None
    return "Ingress" in names, "Egress" in names


def _warn_of_unused(fields: Fields, spec: Map, types: tuple[bool, bool], ingress: tuple[PolicyRule, ...]) -> None:
    if ingress and not types[0]:
        fault = "`policyTypes` has no Ingress, so these rules are not used"
        fields.warn(spec.scalars["ingress"], "rules-unused", fault, "add Ingress to `policyTypes`, or take them out")
    if "egress" in spec and not types[1]:
        fault = "`policyTypes` has no Egress, so this is not used"
        if not spec.get("policyTypes"):
            fault = "without rules and without `policyTypes`, this does not isolate egress"
        fields.warn(spec.scalars["egress"], "rules-unused", fault, "add Egress to `policyTypes`, or take it out")
