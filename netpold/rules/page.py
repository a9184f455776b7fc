"""What `explain` says of every cell of a matrix, small enough to travel with it (docs/json.md, "explained").

Of n ends there are n * n explanations for each port, but few different parts.  Who judges a pod in a direction is a
list of steps, rules of the kernel each with the ends and ports that it matches (page_steps.py): whoever shows a cell
goes through them as the kernel does.  Where no NetworkPolicy allows it, the clauses of these (near.py) say what the far
end lacks, which does not depend on the port, and what the port lacks, which does not depend on the far end; the one
that lacks least is the nearest miss, as in `near`.  The page's own script does that; tests hold it against `explain`
for each cell.

Texts of lacks hold FAR (NEAR) where the name of the far (near) pod is to be put in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, TypeVar

from netpold.policy.classes import Isolations
from netpold.policy.index import Index
from netpold.policy.isolation import Isolation
from netpold.policy.model import ContainerPort, Direction, Family, IPBlock, Pod, PodPeer, Policy
from netpold.policy.steps import Steps, finished
from netpold.rules.answers import place_json, rule_json
from netpold.rules.ends import End, claimants, first_packet, hook
from netpold.rules.explain import AT_HOME, elsewhere, root, unsaid
from netpold.rules.matrix import Matrix
from netpold.rules.near import Clause, Far, Lack, clauses, peer_lack, port_lack
from netpold.rules.page_steps import KernelSteps, Program, Step, program
from netpold.rules.reasons import denial
from netpold.rules.ruleset import FAMILIES, Address, Goto, Jump, Origin, Ruleset
from netpold.rules.walk import holds, walk

FAR, NEAR = "\x01", "\x02"

_NAMED = re.compile(f"[^ /]*/([{FAR}{NEAR}])")
_PODS_OWN = ("NP-OUT-", "NP-IN-", "NP-HOST-")
_Owners = tuple[tuple[ContainerPort, ...], ...]  # the ports of each pod that a port's name is looked up on
_T = TypeVar("_T")
Json = dict[str, Any]


def explained(index: Index, ruleset: Ruleset, matrix: Matrix) -> Json:
    """The explanations of all cells of a matrix of this ruleset."""
    return finished(explained_in_steps(index, ruleset, matrix))


def explained_in_steps(index: Index, ruleset: Ruleset, matrix: Matrix) -> Steps[Json]:
    """The same in steps."""
    tables = _Tables(index, ruleset, matrix)
    near: dict[str, dict[str, list[Json | None]]] = {f"IPv{family}": {} for family in FAMILIES}
    around = list(product(FAMILIES, Direction))
    for part, (family, direction) in enumerate(around):
        found = near[f"IPv{family}"][str(direction)] = []
        for number, each in enumerate(matrix.ends):
            found.append(tables.near(each, family, direction))
            yield (part + number / len(matrix.ends)) / len(around) / 2
    # the table of clauses is complete only now
    told = []
    for number, clause in enumerate(tables.clauses):
        told.append(tables.clause(clause))  # of a thousand ends: some milliseconds
        yield 0.5 + number / len(tables.clauses) / 2
    return {
        "near": near,
        "far": {f"IPv{family}": tables.far(family) for family in FAMILIES},
        "judges": tables.judges,
        "steps": [tables.step(each) for each in tables.steps],
        "clauses": told,
        "policies": [_policy(index, key) for key in tables.policies],
        "rules": [tables.rule(origin) for origin in tables.rules],
        "lacks": [{"rank": each.rank, "but_for": each.but_for, "text": each.text} for each in tables.lacks],
        "masks": [f"{mask:x}" for mask in tables.masks],
    }


class _Tables:
    """The parts that are shared, each once; what refers to one has its number."""

    def __init__(self, index: Index, ruleset: Ruleset, matrix: Matrix) -> None:
        self._index = index
        self._ruleset = ruleset
        self._matrix = matrix
        self.policies: dict[str, int] = {}
        self.steps: dict[Step, int] = {}
        self.rules: dict[Origin, int] = {}
        self.clauses: dict[Clause, int] = {}
        self.lacks: dict[Lack, int] = {}
        self.masks: dict[int, int] = {}
        self.judges: list[Json] = []
        self._judges: dict[Any, int] = {}
        self._owners: dict[_Owners, int] = {}
        self._asking: dict[Clause, set[int]] = {}  # numbers of owners
        self._isolations = Isolations(index)
        self._kernel = KernelSteps(ruleset, matrix)
        self._hosts = [(number, each) for number, each in enumerate(matrix.ends) if each.is_host]
        self._fars = {family: [self._far(each, family) for each in matrix.ends] for family in FAMILIES}

    def _far(self, end: End, family: Family) -> Far | None:
        """An end as clauses see it, its pod without its name, so that many are the same to them."""
        address = end.address(family)
        if address is None:
            return None
        return Far(end.name, address, tuple(replace(pod, name=FAR) for pod in self._index.claimants(address)))

    # Who judges -------------------------------------------------------------------------------------------------------

    def near(self, end: End, family: Family, direction: Direction) -> Json | None:
        """What holds for an end in a direction: `free`, why nothing is judged; or who judges, with the reason that is
        given for a denial (for letting pass what would be denied, where policies are audited), and with the one for
        letting pass what nobody speaks of; `tiers`: whether any policy of the cluster judges it.  `home`: the same for
        what is between a pod and its own node (`ends`).
        `pod`: the name that stands for NEAR, where the end has none."""
        if end.address(family) is None:
            return None
        if end.lingerer is None and end.pod is None:
            return {"free": f"{end.name} is no pod that policies select"}
        if end.pod is not None and end.pod.host_network:
            return {"free": f"{end.name} is on the host's network: policies do not select it"}
        found = self._judged(end, family, direction, "FORWARD")
        if end.lingerer:
            found["pod"] = end.lingerer.pod.key
        ways = {
            number: way
            for number, far in self._hosts
            if (way := hook(*((end, far) if direction is Direction.EGRESS else (far, end)))) != "FORWARD"
        }
        if ways:
            (way,) = set(ways.values())
            mask = _number(self.masks, sum(1 << number for number in ways))
            found["home"] = {"ends": mask, **self._judged(end, family, direction, way)}
        return found

    def _judged(self, end: End, family: Family, direction: Direction, way: str) -> Json:
        """The same for what goes one way (`hook`)."""
        address = end.address(family) or ""
        chain, at_home = root(self._ruleset, family, way, direction)
        if end.lingerer:
            pods, isolations = [end.lingerer.pod], [end.lingerer.isolation[direction]]
        else:
            alone = [end.pod] if end.pod else []
            pods = sorted(claimants(self._index, end, address), key=lambda pod: pod.key) or alone
            isolations = [self._isolations.of(pod, direction) for pod in pods]
        before = f"{end.lingerer.said(end.name)}: " if end.lingerer else ""
        if not end.lingerer:
            if not chain or (at_home and not any(each.tiers for each in isolations)):
                return {"free": AT_HOME}
            if not any(isolations):
                return {"free": f"no policy isolates {end.name} for {direction}"}
        by_key = {policy.key: policy for each in isolations for policy in each.policies} if not at_home else {}
        keys = sorted(by_key)
        policies = [by_key[key] for key in keys]
        leaf = self._leaf(chain, address, family, direction, end)
        if leaf is None and end.lingerer:
            return {"free": before + (AT_HOME if at_home else f"none isolates it for {direction}")}
        by = {
            "isolating": [_number(self.policies, key) for key in keys],
            "tiers": any(each.tiers for each in isolations),  # also those whose rules match no end of the page
        }
        if leaf is None:
            return {"free": elsewhere(end, direction, bool(keys)), **by}
        chains, own = leaf
        granting = _granting(pods, isolations)
        judges = []
        for name in chains:
            found = program(self._ruleset.chains[family], name)
            number = self._judge(found, family, granting, pods, direction)
            judges.append([number, _reason(end, address, pods, policies, found, direction)])
        return {
            **by,
            "judges": judges,
            "self": own,
            "miss": len(pods) == 1 and not pods[0].quarantined,
            "before": before,
            "unsaid": unsaid(end, direction, bool(keys), at_home),
        }

    def _leaf(
        self, first: str, address: str, family: Family, direction: Direction, end: End
    ) -> tuple[list[str], list[str]] | None:
        """The chains of rules that judge an address, and the addresses that are the pod itself; None where it has no
        chain."""
        packet = replace(first_packet(end, end, family, "TCP", 1), source=address, destination=address)
        chains = self._ruleset.chains[family]
        for _, rule in walk(self._ruleset, first, packet).passed:
            if isinstance(rule.target, Jump | Goto) and rule.target.chain.startswith(_PODS_OWN):
                leaf = chains[rule.target.chain]
                own = [
                    m.network
                    for each in leaf
                    if each.target == "RETURN"
                    for m in each.matches
                    if isinstance(m, Address)
                ]
                judging = [each for each in leaf if all(holds(match, packet, self._ruleset) for match in each.matches)]
                targets = [each.target.chain for each in judging if isinstance(each.target, Jump | Goto)]
                return [name for name in targets if name.startswith("NP-RULES-")], own
        return None

    def _judge(
        self, found: Program, family: Family, policies: Iterable[Policy], pods: Sequence[Pod], direction: Direction
    ) -> int:
        """The number of who says what these rules of the kernel say.  `policies`: those whose clauses are looked at for
        the nearest miss."""
        numbers = [
            [_number(self.steps, each) for each in self._kernel.of(rules, family)]
            for rules in (found.admin, found.policies, found.baseline)
        ]
        near = [each for policy in policies if found.otherwise for each in clauses(policy, direction)]
        owner = _number(self._owners, (pods[0].ports,)) if near else None
        value = {
            **dict(zip(("admin", "policies", "baseline"), numbers, strict=True)),
            "otherwise": found.otherwise,
            "clauses": [_number(self.clauses, each) for each in near],
            "owner": owner,
        }
        key = repr(value)
        if key not in self._judges:
            self._judges[key] = len(self.judges)
            self.judges.append(value)
            for each in near:
                self._asking.setdefault(each, set()).add(owner or 0)
        return self._judges[key]

    def step(self, step: Step) -> Json:
        """`ends`, `ports`: those that it matches, as the numbers of masks."""
        return {
            "rule": _number(self.rules, step.origin),
            "ends": _number(self.masks, step.ends),
            "ports": _number(self.masks, step.ports),
            "audit": step.audit,
        }

    # What clauses say -------------------------------------------------------------------------------------------------

    def far(self, family: Family) -> list[Json | None]:
        """Of each end the name that stands for FAR, and whose ports the names of ports are looked up on."""
        return [None if each is None else self._named(each) for each in self._fars[family]]

    def _named(self, far: Far) -> Json:
        pods = self._index.claimants(far.address)
        return {"pod": pods[0].key if pods else "", "owner": self._owner(far)}

    def _owner(self, far: Far) -> int:
        return _number(self._owners, tuple(pod.ports for pod in far.pods))

    def clause(self, clause: Clause) -> Json:
        """What it says of each end and of each port: 0 where that is right, else one more than the number of what is
        lacking.  `peers`: null for anybody, else the ends by what it says of them; the rest lacks more than one thing.
        `ports`: by owner where it has names of ports."""
        named = any(isinstance(port.port, str) for port in clause.ports or ())
        is_ingress = clause.origin.direction is Direction.INGRESS
        owners: Iterable[int] = ()
        if named and is_ingress:
            owners = self._asking[clause]
        elif named:
            owners = {self._owner(each) for fars in self._fars.values() for each in fars if each}
        return {
            "rule": _number(self.rules, clause.origin),
            "peers": None
            if clause.peers is None
            else {f"IPv{family}": self._peers(clause, family) for family in FAMILIES},
            "ports": {str(each): self._ports(clause, each, is_ingress) for each in sorted(owners)}
            if named
            else {"": self._ports(clause, None, is_ingress)},
        }

    def _peers(self, clause: Clause, family: Family) -> list[list[int]]:
        keys = sorted(
            {
                requirement.key
                for peer in clause.peers or ()
                if isinstance(peer, PodPeer)
                for requirement in peer.pods.requirements
            }
        )
        by_address = any(isinstance(peer, IPBlock) for peer in clause.peers or ())
        known: dict[Any, int | None] = {}
        found: dict[int, int] = {}
        for number, far in enumerate(self._fars[family]):
            if far is None:
                continue
            alike: Any = number
            if len(far.pods) == 1 and not by_address:
                (pod,) = far.pods
                alike = pod.namespace, pod.quarantined, *(pod.labels.get(key) for key in keys)
            if alike not in known:
                known[alike] = self._status(peer_lack(self._index.world, clause, far))
            status = known[alike]
            if status is not None:
                found[status] = found.get(status, 0) | 1 << number
        return [[status, _number(self.masks, mask)] for status, mask in sorted(found.items())]

    def _ports(self, clause: Clause, owner: int | None, is_ingress: bool) -> list[int | None]:
        name = NEAR if is_ingress else FAR
        owners = [] if owner is None else [Pod("", name, {}, ports=ports) for ports in list(self._owners)[owner]]
        return [self._status(port_lack(clause, owners, *port)) for port in self._matrix.ports]

    def _status(self, lack: Lack | Literal["more"] | None) -> int | None:
        if lack == "more":
            return None
        return 0 if lack is None else 1 + _number(self.lacks, lack._replace(text=_NAMED.sub(r"\1", lack.text)))

    def rule(self, origin: Origin) -> Json:
        return rule_json(self._index, origin)


def _granting(pods: Sequence[Pod], isolations: Sequence[Isolation]) -> tuple[Policy, ...]:
    """The policies whose rules may be the nearest miss: of a pod that shares its address with no other."""
    if len(pods) != 1 or pods[0].quarantined:
        return ()
    return tuple(policy for policy in isolations[0].policies if not policy.quarantined)


def _reason(
    end: End, address: str, pods: Sequence[Pod], policies: Sequence[Policy], found: Program, direction: Direction
) -> str:
    """As `explain` says it, where a NetworkPolicy denies it; '' where none does."""
    why = found.why
    if not found.otherwise:
        return ""
    if found.otherwise == "audit":
        return denial(end.name, direction, policies, True)
    is_known = len(pods) > 1 or not pods[0].quarantined
    if not is_known:
        why = "its manifest failed the checks, so nothing is granted to it"
    if len(pods) > 1:
        names = " and ".join(pod.key for pod in pods)
        return f"{address} is the address of {names}; what isolates any of them holds: {why}"
    if policies and is_known:
        return denial(end.name, direction, policies, False)
    return f"{end.name} is isolated for {direction}: {why}"


def _number(table: dict[_T, int], value: _T) -> int:
    return table.setdefault(value, len(table))


def _policy(index: Index, key: str) -> Json:
    policy = index.world.policies.get(key)  # none: it holds for what lingers alone, and is written nowhere any more
    return {"policy": key, **place_json(policy.position if policy else None)}
