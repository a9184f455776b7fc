"""From flows that were seen to the NetworkPolicies that allow them, and nothing else.

Pods are told by labels that outlive a rollout: those that people name things by (`app`, `app.kubernetes.io/name`, ...)
where there are some, else all but such as a controller makes up (`pod-template-hash`).  Pods with the same lasting
labels are one group.  What the labels chosen so select beyond the group is shut out by further labels, so that a policy
selects these pods of the inventory and no others.

A rule can't tell protocols without ports: what was seen of ICMP and others is said, and not allowed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import yaml

from netpold.policy.model import NAME_LABEL, Direction, Pod, World
from netpold.policy.steps import finished

IDENTITY = (
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app",
    "k8s-app",
    "component",
    "role",
    "tier",
    "name",
    "run",
)
PASSING = frozenset(
    (
        "app.kubernetes.io/managed-by",
        "app.kubernetes.io/version",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/job-name",
        "chart",
        "controller-revision-hash",
        "controller-uid",
        "helm.sh/chart",
        "heritage",
        "job-name",
        "pod-template-generation",
        "pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
        "version",
    )
)
PROTOCOLS = ("TCP", "UDP", "SCTP")
MOST_NAME = 60  # characters of a made-up name
STEP = 200  # pods or uses between two pauses

Json = dict[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """A pod as it was when it was seen: it may be gone by now."""

    namespace: str
    name: str
    labels: Labels = field(compare=False, hash=False)

    @staticmethod
    def of(pod: Pod) -> Member:
        return Member(pod.namespace, pod.name, pod.labels)


@dataclass(frozen=True, slots=True)
class Use:
    """A pod's traffic in a direction.  `peer`: another pod, or an address; `seen`: how, in words; `why_not`: why no
    rule is to allow it, '' where one is."""

    pod: Member
    direction: Direction
    peer: Member | str
    protocol: str
    port: int | None
    seen: str = ""
    why_not: str = ""

    @property
    def can_be_allowed(self) -> bool:
        """Whether a rule can, which allows nothing else."""
        return self.protocol in PROTOCOLS and self.port is not None and not self.why_not


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`manifest`: a NetworkPolicy; `notes`: what a person should know of it; `pods`: of which it is."""

    manifest: Json
    notes: tuple[str, ...]
    pods: tuple[str, ...]

    def text(self) -> str:
        """As YAML."""
        comments = "".join(f"# {note}\n" for note in self.notes)
        return comments + yaml.dump(self.manifest, Dumper=_Dumper, sort_keys=False, default_flow_style=False)


class _Dumper(yaml.CSafeDumper):
    """No anchors for parts that come twice (netpold reads none), and y and n in quotes."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]$"), list("yYnN"))


def lasting(labels: Labels) -> dict[str, str]:
    """The labels that outlive a rollout."""
    return {key: value for key, value in sorted(labels.items()) if key not in PASSING}


@dataclass(frozen=True, slots=True)
class _Group:
    """The pods of a namespace with the same lasting labels."""

    namespace: str
    labels: tuple[tuple[str, str], ...]

    @staticmethod
    def of(each: Member) -> _Group:
        return _Group(each.namespace, tuple(lasting(each.labels).items()))


class Inventory:
    """The pods that there are, by namespace, and the policies, whose names are taken."""

    def __init__(self, policies: Collection[str]) -> None:
        self._groups: dict[str, set[_Group]] = defaultdict(set)
        self._policies = policies
        self._taken: set[str] = set()
        self._selectors: dict[_Group, Json] = {}

    def add(self, pod: Pod) -> None:
        if pod.takes_part:
            self._groups[pod.namespace].add(_Group.of(Member.of(pod)))

    def selector(self, group: _Group) -> Json:
        """Selects this group and none of the others that there are."""
        if group not in self._selectors:
            self._selectors[group] = self._selector(group)
        return self._selectors[group]

    def _selector(self, group: _Group) -> Json:
        own = dict(group.labels)
        others = [dict(each.labels) for each in self._groups[group.namespace] if each != group]
        chosen = {key: own[key] for key in IDENTITY if key in own} or dict(own)
        extra = [each for each in others if chosen.items() <= each.items()]
        for key in own:
            if any(each.get(key) != own[key] for each in extra):
                chosen[key] = own[key]
                extra = [each for each in extra if each.get(key) == own[key]]
        absent: set[str] = set()
        for each in extra:  # these have all of the group's labels, and others
            if absent.isdisjoint(each):
                absent.add(min(each.keys() - own.keys()))
        selector: Json = {"matchLabels": {key: chosen[key] for key in sorted(chosen)}} if chosen else {}
        if absent:
            selector["matchExpressions"] = [{"key": key, "operator": "DoesNotExist"} for key in sorted(absent)]
        return selector

    def name(self, group: _Group, pods: Sequence[str]) -> str:
        """A name for a policy that no other has, of what the pods are told by."""
        own = dict(group.labels)
        words = dict.fromkeys(own[key] for key in IDENTITY if own.get(key))
        stem = "-".join(words) or min(pods).partition("/")[2]
        stem = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:MOST_NAME].rstrip("-") or "pods"
        for number in range(1, len(self._policies) + len(self._taken) + 2):
            name = f"suggested-{stem}" if number == 1 else f"suggested-{stem}-{number}"
            key = f"{group.namespace}/{name}"
            if key not in self._policies and key not in self._taken:
                break
        self._taken.add(key)
        return name


def suggest(world: World, uses: Iterable[Use], directions: Sequence[Direction] | None = None) -> list[Suggestion]:
    """A policy for each group of pods that is used.  `directions`: in which it isolates; None: in those that anything
    was seen of."""
    return finished(suggest_in_steps(world, uses, directions))


def suggest_in_steps(
    world: World, uses: Iterable[Use], directions: Sequence[Direction] | None = None
) -> Generator[None, None, list[Suggestion]]:
    """The same, with a pause every few milliseconds, for who has other things to do; the world may not change."""
    inventory = Inventory(world.policies)
    for number, pod in enumerate(world.pods.values()):
        inventory.add(pod)
        if number % STEP == 0:
            yield
    groups: dict[_Group, list[Use]] = defaultdict(list)
    for number, use in enumerate(uses):
        groups[_Group.of(use.pod)].append(use)
        if number % STEP == 0:
            yield
    found = []
    for group in sorted(groups, key=lambda each: (each.namespace, each.labels)):
        found.append(_suggestion(inventory, group, groups[group], directions))
        yield
    return found


def _suggestion(
    inventory: Inventory, group: _Group, uses: list[Use], directions: Sequence[Direction] | None
) -> Suggestion:
    pods = sorted({f"{use.pod.namespace}/{use.pod.name}" for use in uses})
    seen = {direction: [use for use in uses if use.direction is direction] for direction in Direction}
    types = [each for each in Direction if (seen[each] if directions is None else each in directions)]
    spec: Json = {
        "podSelector": inventory.selector(group),
        "policyTypes": [str(each).capitalize() for each in types],
    }
    notes: list[str] = []
    for direction in types:
        spec[str(direction)] = list(_rules(inventory, group, seen[direction], direction))
        notes += _notes(seen[direction], direction)
    manifest = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": inventory.name(group, pods), "namespace": group.namespace},
        "spec": spec,
    }
    return Suggestion(manifest, tuple(notes), tuple(pods))


def _rules(inventory: Inventory, group: _Group, uses: list[Use], direction: Direction) -> Iterator[Json]:
    """Peers that use the same ports are in one rule."""
    ports: dict[_Group | str, set[tuple[str, int]]] = defaultdict(set)
    for use in uses:
        if use.can_be_allowed and use.port is not None:
            peer = use.peer if isinstance(use.peer, str) else _Group.of(use.peer)
            ports[peer].add((use.protocol, use.port))
    peers: dict[tuple[tuple[str, int], ...], list[_Group | str]] = defaultdict(list)
    for each, used in ports.items():
        peers[tuple(sorted(used))].append(each)
    for used_ports, users in sorted(peers.items()):
        yield {
            "from" if direction is Direction.INGRESS else "to": [
                _peer(inventory, group, each) for each in sorted(users, key=_order)
            ],
            "ports": [{"protocol": protocol, "port": port} for protocol, port in used_ports],
        }


def _order(peer: _Group | str) -> tuple[bool, str, object]:
    if isinstance(peer, str):
        return True, "", (ip_address(peer).version, int(ip_address(peer)))
    return False, peer.namespace, peer.labels


def _peer(inventory: Inventory, group: _Group, peer: _Group | str) -> Json:
    if isinstance(peer, str):
        return {"ipBlock": {"cidr": f"{peer}/{ip_address(peer).max_prefixlen}"}}
    selector = inventory.selector(peer)
    if peer.namespace == group.namespace:
        return {"podSelector": selector}
    return {"namespaceSelector": {"matchLabels": {NAME_LABEL: peer.namespace}}, "podSelector": selector}


def _notes(uses: list[Use], direction: Direction) -> Iterator[str]:
    """What was seen, and what of it no rule can allow alone."""
    if not uses:
        yield f"{direction}: nothing was seen, so nothing is allowed; without it in `policyTypes` it stays as it is"
    for use in sorted(uses, key=lambda each: (str(each.peer), each.protocol, each.port or 0)):
        name = use.peer if isinstance(use.peer, str) else f"{use.peer.namespace}/{use.peer.name}"
        arrow = "from" if direction is Direction.INGRESS else "to"
        port = use.protocol if use.port is None else f"{use.port}/{use.protocol}"
        line = f"{direction} {arrow} {name} {port} {use.seen}".rstrip()
        if use.why_not:
            yield f"{line} is NOT allowed: {use.why_not}"
        elif not use.can_be_allowed:
            yield f"{line} is NOT allowed: only a rule for every port could"
        else:
            yield line
