"""What tells the kinds of policies of the cluster apart: ClusterNetworkPolicy (v1alpha2 and later), and what it
replaces, AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netpold.policy.model import Action, PolicyKind, Tier

GROUP = "policy.networking.k8s.io"
LAST_PRIORITY = 1000


@dataclass(frozen=True, slots=True)
class Form:
    """How a kind is written.

    `versions`: its apiVersions, the one to write first.  `tier`: where it always stands; None: as it says itself.
    `actions`: what they are called.  `most`: entries of a list of rules, peers or ports.  `ports`: the field of a rule
    for them.  `is_old`: v1alpha1, whose ports look otherwise, and whose `pods` must have a `namespaceSelector`.
    `is_masked`: v1beta1, whose CIDRs may have no bits set beyond the prefix.
    """

    kind: PolicyKind
    versions: tuple[str, ...]
    tier: Tier | None
    actions: Mapping[str, Action]
    most: int
    ports: str
    is_old: bool = False
    is_masked: bool = False
    egress_peers: frozenset[str] = field(default=frozenset({"namespaces", "pods", "nodes", "networks", "domainNames"}))


CLUSTER = Form(
    "ClusterNetworkPolicy",
    (f"{GROUP}/v1alpha2", f"{GROUP}/v1beta1"),
    None,
    {"Accept": Action.ACCEPT, "Deny": Action.DENY, "Pass": Action.PASS},
    25,
    "protocols",
)
ADMIN = Form(
    "AdminNetworkPolicy",
    (f"{GROUP}/v1alpha1",),
    Tier.ADMIN,
    {"Allow": Action.ACCEPT, "Deny": Action.DENY, "Pass": Action.PASS},
    100,
    "ports",
    is_old=True,
)
BASELINE = Form(
    "BaselineAdminNetworkPolicy",
    (f"{GROUP}/v1alpha1",),
    Tier.BASELINE,
    {"Allow": Action.ACCEPT, "Deny": Action.DENY},
    100,
    "ports",
    is_old=True,
    egress_peers=frozenset({"namespaces", "pods", "nodes", "networks"}),
)
NEWEST = replace(CLUSTER, is_masked=True)  # v1beta1
FORMS: Mapping[PolicyKind, Form] = {form.kind: form for form in (CLUSTER, ADMIN, BASELINE)}
