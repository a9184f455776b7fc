"""What `explain` says of every cell of a matrix, small enough to travel with it (docs/json.md, "explained").

Of n ends there are n * n explanations for each port, but few different parts: what each clause of a policy rule
(near.py) says of the far end, which does not depend on the port, and what it says of the port, which does not depend on
the far end.  So these two are written down, and whoever shows a cell looks for the first clause of the pod's policies
of which both parts hold, as the kernel does, or for the one that lacks least, as `near` does.  The page's own script
does that; tests hold it against `explain` for each cell.

Texts of lacks hold FAR (NEAR) where the name of the far (near) pod is to be put in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, TypeVar

from netpold.policy.index import Index
from netpold.policy.model import ContainerPort, Direction, Family, IPBlock, Pod, PodPeer, Policy, Position
from netpold.policy.steps import Steps, finished
from netpold.rules.audit import lets_through
from netpold.rules.ends import End, first_packet
from netpold.rules.matrix import Matrix
from netpold.rules.near import Clause, Far, Lack, clauses, peer_lack, port_lack
from netpold.rules.ruleset import FAMILIES, Address, Goto, Jump, Origin, Rule, Ruleset
from netpold.rules.walk import walk

FAR, NEAR = "\x01", "\x02"

_NAMED = re.compile(f"[^ /]*/([{FAR}{NEAR}])")
_ROOTS = {Direction.EGRESS: "NETPOLD-FROM", Direction.INGRESS: "NETPOLD-TO"}
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
        self.rules: dict[Origin, int] = {}
        self.clauses: dict[Clause, int] = {}
        self.lacks: dict[Lack, int] = {}
        self.masks: dict[int, int] = {}
        self.judges: list[Json] = []
        self._judges: dict[Any, int] = {}
        self._owners: dict[_Owners, int] = {}
        self._asking: dict[Clause, set[int]] = {}  # numbers of owners
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
        given for a denial (for letting pass what would be denied, where policies are audited)."""
        address = end.address(family)
        if address is None:
            return None
        pods = sorted(self._index.claimants(address), key=lambda pod: pod.key)
        if not pods:
            return {"free": f"{end.name} is no pod that policies select"}
        isolations = [(pod, self._index.isolation(pod, direction)) for pod in pods]
        isolations = [(pod, isolation) for pod, isolation in isolations if isolation]
        if not isolations:
            return {"free": f"no policy isolates {end.name} for {direction}"}
        keys = sorted({policy.key for _, isolation in isolations for policy in isolation.policies})
        chains, own = self._leaf(address, family, direction, end)
        judges = []
        for (pod, isolation), rules in zip(isolations, chains, strict=False):
            granting = isolation.policies if isolation.grants else ()
            judges.append(
                [self._judge(pod, granting, rules, direction), _reason(end, address, pods, keys, rules, direction)]
            )
        there = end.pod.node if end.pod else None
        return {
            "isolating": [_number(self.policies, key) for key in keys],
            "judges": judges,
            "elsewhere": f"{end.name} is isolated for {direction} on {there or 'its own node'}, which is not this one",
            "self": own,
            "miss": len(pods) == 1 and not pods[0].quarantined,
        }

    def _leaf(
        self, address: str, family: Family, direction: Direction, end: End
    ) -> tuple[list[tuple[Rule, ...]], list[str]]:
        """The chains of rules that judge an address, and the addresses that are the pod itself."""
        packet = replace(first_packet(end, end, family, "TCP", 1), source=address, destination=address)
        chains = self._ruleset.chains[family]
        for _, rule in walk(self._ruleset, _ROOTS[direction], packet).passed:
            if isinstance(rule.target, Jump | Goto) and rule.target.chain.startswith(("NP-IN-", "NP-OUT-")):
                leaf = chains[rule.target.chain]
                own = [
                    m.network
                    for each in leaf
                    if each.target == "RETURN"
                    for m in each.matches
                    if isinstance(m, Address)
                ]
                targets = [each.target.chain for each in leaf if isinstance(each.target, Jump | Goto)]
                return [chains[name] for name in targets if name.startswith("NP-RULES-")], own
        return [], []

    def _judge(self, pod: Pod, policies: Iterable[Policy], rules: tuple[Rule, ...], direction: Direction) -> int:
        """The number of who says what these rules of the kernel say for a pod with these ports."""
        found = [each for policy in policies if not policy.quarantined for each in clauses(policy, direction)]
        numbers = tuple(_number(self.clauses, each) for each in found)
        everything = rules[0].origin if len(rules) == 1 and not rules[0].matches else None
        owner = _number(self._owners, (pod.ports,))
        audit = lets_through(rules[-1])
        key = numbers, owner, everything, audit
        if key not in self._judges:
            self._judges[key] = len(self.judges)
            whole = None if everything is None else _number(self.rules, everything)
            self.judges.append({"clauses": list(numbers), "owner": owner, "everything": whole, "audit": audit})
            for each in found:
                self._asking.setdefault(each, set()).add(owner)
        return self._judges[key]

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
        policy = self._index.world.policies[origin.policy]
        rule = (policy.rules(origin.direction) or ())[origin.index]
        position = rule.position or policy.position
        return {"policy": origin.policy, "direction": str(origin.direction), "rule": origin.index, **_place(position)}


def _reason(
    end: End, address: str, pods: Sequence[Pod], keys: Sequence[str], rules: tuple[Rule, ...], direction: Direction
) -> str:
    """As `explain` says it."""
    if lets_through(rules[-1]):
        return f"audited: {end.name} would be isolated for {direction}, and no rule of {' '.join(keys)} allows it"
    why = rules[-1].comment
    if end.pod is not None and end.pod.quarantined:
        why = "its manifest failed the checks, so nothing is granted to it"
    if len(pods) > 1:
        names = " and ".join(pod.key for pod in pods)
        return f"{address} is the address of {names}; what isolates any of them holds: {why}"
    return f"{end.name} is isolated for {direction}: {why}"


def _number(table: dict[_T, int], value: _T) -> int:
    return table.setdefault(value, len(table))


def _policy(index: Index, key: str) -> Json:
    return {"policy": key, **_place(index.world.policies[key].position)}


def _place(position: Position | None) -> Json:
    return {"file": position.file if position else None, "line": position.line if position else None}
