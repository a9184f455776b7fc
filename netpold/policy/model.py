"""What should be: pods, namespaces and policies as frozen values.

Manifests are checked before they become these values, so everything here is well formed: names and labels are valid,
addresses are canonical text (`str(ipaddress.ip_address(...))`), selectors are in canonical order (equal selectors
compare equal), defaults of the API are filled in.  Nothing here does I/O.

The meaning of every field is that of the Kubernetes API reference (networking.k8s.io/v1 NetworkPolicy, v1 Pod and
v1 Namespace); where a value could not be read, `quarantined` says so and the value is the closed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

Network = IPv4Network | IPv6Network
Family = Literal[4, 6]
Protocol = Literal["TCP", "UDP", "SCTP"]
Mode = Literal["enforce", "audit"]
PolicyKind = Literal["NetworkPolicy", "ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"]
CLUSTER_KINDS: tuple[PolicyKind, ...] = ("ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy")

NAME_LABEL = "kubernetes.io/metadata.name"  # every namespace has it, also one with no Namespace object
INTERFACE_ANNOTATION = "netpold.io/interface"  # one or more interface names, separated by commas
MODE_ANNOTATION = "netpold.io/mode"  # of a policy, or of a namespace for all its policies


class Direction(StrEnum):
    """Seen from the pod that a policy selects."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Tier(StrEnum):
    """Where a ClusterNetworkPolicy stands: before the NetworkPolicies, or behind them for pods that none isolates."""

    ADMIN = "Admin"
    BASELINE = "Baseline"


class Action(StrEnum):
    """What becomes of what a rule of a ClusterNetworkPolicy matches; Pass: the rest of the tier is skipped."""

    ACCEPT = "Accept"
    DENY = "Deny"
    PASS = "Pass"


class Operator(StrEnum):
    """Label selector operators (meta/v1 LabelSelectorOperator)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where something is written: file as it was given, line and column from 1."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition on labels; `values` are sorted and without repeats (empty for Exists and DoesNotExist)."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """All requirements have to hold; no requirement at all selects everything.

    `matchLabels: {a: b}` is the requirement `a In (b)`.  Requirements are sorted and without repeats.
    """

    requirements: tuple[Requirement, ...] = ()


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods that `pods` selects, in the namespaces that `namespaces` selects (None: in the policy's own namespace)."""

    pods: Selector
    namespaces: Selector | None = None


@dataclass(frozen=True, slots=True)
class IPBlock:
    """Addresses inside `cidr` and inside none of `excepts` (each a strict subset of `cidr`, of the same family)."""

    cidr: Network
    excepts: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class NodePeer:
    """The addresses of the nodes that `nodes` selects (only in egress rules of ClusterNetworkPolicies)."""

    nodes: Selector


Peer = PodPeer | IPBlock
TierPeer = Peer | NodePeer


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """A destination port: a number, a range up to and with `end_port`, a container port's name, or (None) all."""

    protocol: Protocol = "TCP"
    port: int | str | None = None
    end_port: int | None = None


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One entry of `ingress` or `egress`.

    `peers` None: anybody (`from`/`to` absent or empty).  `ports` None: every protocol and port (absent or empty).
    """

    peers: tuple[Peer, ...] | None
    ports: tuple[PolicyPort, ...] | None
    position: Position | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """A NetworkPolicy.

    `ingress` (`egress`) None: the policy does not isolate in that direction (`policyTypes` says so, or its default).
    An empty tuple: it isolates and allows nothing.
    `quarantined`: the manifest failed the checks; the policy isolates what it may select and grants nothing.
    `mode`: as its annotation says; None: as its namespace's, or the settings, do.
    """

    namespace: str
    name: str
    selector: Selector
    ingress: tuple[PolicyRule, ...] | None
    egress: tuple[PolicyRule, ...] | None
    position: Position | None = field(default=None, compare=False)
    quarantined: bool = False
    mode: Mode | None = None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def kind(self) -> PolicyKind:
        return "NetworkPolicy"

    def rules(self, direction: Direction) -> tuple[PolicyRule, ...] | None:
        """The rules of one direction; None where the policy does not isolate in it."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class TierRule:
    """One entry of `ingress` or `egress` of a ClusterNetworkPolicy; of a tier's rules the first that matches counts.

    `peers` None: anybody (only a rule of a closed policy says so; one that is written names its peers).
    `ports` None: every protocol and port.  A port name stands for that of any protocol, so it comes once for each.
    `name`: what people call it, '' for nothing.  `entries`: of each peer, the index of the entry of `from` or `to` that
    says it; (): every entry says one peer.
    """

    action: Action
    peers: tuple[TierPeer, ...] | None
    ports: tuple[PolicyPort, ...] | None
    name: str = ""
    position: Position | None = field(default=None, compare=False)
    entries: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """A ClusterNetworkPolicy; or, translated, an AdminNetworkPolicy or the BaselineAdminNetworkPolicy (`kind`).

    `subject`: the pods that it is about; its `namespaces` is never None.  `priority`: 0 to 1000, the lower the sooner.
    `ingress`, `egress`: its rules in order; with none it says nothing of that direction.  It isolates nobody by itself.
    `quarantined`: the manifest failed the checks; what is left is what it denies, or may deny.
    `mode`: as its annotation says; None: as the settings do.
    """

    name: str
    tier: Tier
    priority: int
    subject: PodPeer
    ingress: tuple[TierRule, ...]
    egress: tuple[TierRule, ...]
    kind: PolicyKind = "ClusterNetworkPolicy"
    position: Position | None = field(default=None, compare=False)
    quarantined: bool = False
    mode: Mode | None = None

    @property
    def key(self) -> str:
        """No NetworkPolicy has it: these have a namespace before a slash, which begins with no capital letter."""
        return self.name if self.kind == "ClusterNetworkPolicy" else f"{self.kind}/{self.name}"

    @property
    def order(self) -> tuple[int, str]:
        """Sorts policies of a tier; of those with one priority any may come first, so here it is the same always."""
        return self.priority, self.key

    def rules(self, direction: Direction) -> tuple[TierRule, ...]:
        """The rules of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


AnyPolicy = Policy | ClusterPolicy


def policy_kind(key: str) -> PolicyKind:
    """The kind of the policy that has this key."""
    if "/" not in key:
        return "ClusterNetworkPolicy"
    return next((kind for kind in CLUSTER_KINDS if key.startswith(f"{kind}/")), "NetworkPolicy")


def policy_title(key: str) -> str:
    """`Kind name` (of a NetworkPolicy `NetworkPolicy namespace/name`), for people."""
    kind = policy_kind(key)
    return f"{kind} {key.removeprefix(f'{kind}/')}"


def policy_key(kind: str, name: str) -> str:
    """The key of what `policy_title` calls by this kind and name; of an object of another kind its name."""
    return f"{kind}/{name}" if kind in ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy") else name


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A named port of a container (or of an init container that stays: restartPolicy Always)."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the cluster.

    `addresses`: status.podIPs (and podIP), canonical text, without repeats, in order.
    `node`: spec.nodeName, None where none is written.  `finished`: phase Succeeded or Failed, so that its addresses
    are no longer its own.  `interfaces`: what the annotation netpold.io/interface names.
    `quarantined`: the manifest failed the checks; labels may be wrong, so it is nobody's peer by selector, and it is
    isolated in each direction in which any policy of its namespace isolates.
    """

    namespace: str
    name: str
    labels: Mapping[str, str]
    addresses: tuple[str, ...] = ()
    node: str | None = None
    host_network: bool = False
    finished: bool = False
    ports: tuple[ContainerPort, ...] = ()
    interfaces: tuple[str, ...] = ()
    position: Position | None = field(default=None, compare=False)
    quarantined: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def takes_part(self) -> bool:
        """Whether policies select it or its addresses by labels: not on the host's network, not finished."""
        return not self.host_network and not self.finished


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace; `labels` always hold NAME_LABEL.  `quarantined`: its labels are unknown, no selector matches it.
    `terminating`: it is being deleted, with all that is in it (status.phase).  `mode`: of its policies, but for those
    with one of their own; None: as the settings say."""

    name: str
    labels: Mapping[str, str]
    position: Position | None = field(default=None, compare=False)
    quarantined: bool = False
    terminating: bool = False
    mode: Mode | None = None

    @property
    def key(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.  `addresses`: status.addresses, those that are IP addresses, canonical text, without
    repeats, in order.  `quarantined`: the manifest failed the checks; its labels are unknown."""

    name: str
    labels: Mapping[str, str]
    addresses: tuple[str, ...] = ()
    position: Position | None = field(default=None, compare=False)
    quarantined: bool = False

    @property
    def key(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class World:
    """Everything that the manifests say: objects by key (`namespace/name`, for namespaces and nodes the name, for
    policies of the cluster see ClusterPolicy)."""

    pods: Mapping[str, Pod] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    policies: Mapping[str, AnyPolicy] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)

    def namespace(self, name: str) -> Namespace:
        """The namespace of that name; one with no Namespace object has the name label alone."""
        return self.namespaces.get(name) or Namespace(name, {NAME_LABEL: name})


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in a manifest, for a person: where it is, what is wrong, how to mend it.

    `code` is stable (lower-case words with dashes: `unknown-field`); `path` is the field path (`spec.ingress[0].from`);
    `subject` the object's `Kind namespace/name` as far as it could be read, else ''.
    `severity` "error": the object is rejected; "warning": it is in force as the finding says.
    """

    position: Position
    code: str
    path: str
    fault: str
    cure: str
    subject: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = f"{self.position.file}:{self.position.line}:{self.position.column}"
        path = f"{self.path}: " if self.path else ""
        return f"{where}: {self.severity}: {path}{self.fault}; {self.cure} [{self.code}]"
