"""Who reaches whom, for many ends at once.

Each row is a number whose bits are the destinations, so that thousands of pairs are judged by a few operations
(sweep.py): first what each destination lets in from all sources, then what each source may send to all destinations.
What comes out is what `explain` says of each pair; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from netpold.policy.index import Index
from netpold.policy.model import Family, Protocol
from netpold.policy.steps import Steps, finished, stretch
from netpold.rules.ends import End, end, first_packet, hook
from netpold.rules.explain import Decision, fate
from netpold.rules.ruleset import FAMILIES, Match, Ruleset
from netpold.rules.sweep import Fan, Outcome, Sweeper

Port = tuple[str, int | None]  # protocol and number, as `explain` takes them
_RECEIVER = "NETPOLD-TO"
STEP = 20  # sweeps between two pauses: a few milliseconds


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of a matrix; `families` has the verdict for each family that both ends have, `verdict` is that of the
    first of them: the one that `explain` judges.  `audit`: it passes because policies are audited only."""

    source: str
    destination: str
    protocol: Protocol | Literal["ICMP"]
    port: int | None
    verdict: Decision
    families: tuple[tuple[Family, Decision], ...]
    audit: bool = False


class _Of(NamedTuple):
    """What a matrix is of: ends by number."""

    numbers: tuple[int, ...]  # of those that have an address of the family
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """All pairs of some ends.

    `has`: by family, the ends (bit n: `ends[n]`) that have an address of it.  `allowed`: by family and number of the
    port, for each source the destinations that it reaches, as bits; pairs that have no such address in common are 0.
    `audited`: likewise those that it reaches because policies are audited only.
    """

    ends: tuple[End, ...]
    ports: tuple[Port, ...]
    has: Mapping[Family, int]
    allowed: Mapping[tuple[Family, int], tuple[int, ...]]
    audited: Mapping[tuple[Family, int], tuple[int, ...]]

    def families(self, source: int, destination: int) -> tuple[Family, ...]:
        """The families that the two have in common, the one that `explain` judges first; none where neither is a
        pod's address, for such pairs are nobody's business."""
        if self.ends[source].pod is None and self.ends[destination].pod is None:
            return ()
        both = tuple(family for family in FAMILIES if self.has[family] >> source & self.has[family] >> destination & 1)
        return both[::-1] if len(both) == 2 and ":" in self.ends[source].addresses[0] else both

    def decision(self, family: Family, port: int, source: int, destination: int) -> Decision:
        return "allow" if self.allowed[family, port][source] >> destination & 1 else "deny"

    def is_audited(self, family: Family, port: int, source: int, destination: int) -> bool:
        return bool(self.audited[family, port][source] >> destination & 1)

    def rows(self) -> Iterator[Row]:
        """All cells: by source, destination and port."""
        numbers = range(len(self.ends))
        for source in numbers:
            for destination in numbers:
                common = self.families(source, destination)
                for port, (protocol, number) in enumerate(self.ports) if common else ():
                    found = tuple((family, self.decision(family, port, source, destination)) for family in common)
                    names = self.ends[source].name, self.ends[destination].name
                    audit = self.is_audited(common[0], port, source, destination)
                    yield Row(*names, protocol, number, found[0][1], found, audit)  # type: ignore[arg-type]


def matrix(index: Index, ruleset: Ruleset, pods: Iterable[str], others: Iterable[str], ports: Iterable[Port]) -> Matrix:
    """All pairs of the pods (keys) and other addresses, asked of no node.  Raises UnknownEndpoint."""
    return finished(matrix_in_steps(index, ruleset, [end(index, name) for name in (*pods, *others)], ports))


def matrix_in_steps(index: Index, ruleset: Ruleset, between: Iterable[End], ports: Iterable[Port]) -> Steps[Matrix]:
    """All pairs of some ends, in steps."""
    ends, wanted = tuple(between), tuple(ports)
    parts = len(FAMILIES) * len(wanted)
    has: dict[Family, int] = {}
    allowed: dict[tuple[Family, int], tuple[int, ...]] = {}
    audited: dict[tuple[Family, int], tuple[int, ...]] = {}
    for family in FAMILIES:
        found = [(number, address) for number, each in enumerate(ends) if (address := each.address(family))]
        of = _Of(tuple(number for number, _ in found), tuple(address for _, address in found))
        has[family] = sum(1 << number for number in of.numbers)
        masks: tuple[dict[Match, int], dict[Match, int]] = {}, {}
        for number, port in enumerate(wanted):
            rows: list[Outcome] = []
            if found:
                part = FAMILIES.index(family) * len(wanted) + number
                steps = _forwarded(ruleset, ends, of, family, port, masks)
                rows = yield from stretch(steps, part / parts, (part + 1) / parts)
            passed = _spread([each.returned | each.accepted for each in rows], of.numbers, len(ends))
            let_through = _spread([each.audited & ~each.dropped for each in rows], of.numbers, len(ends))
            _at_home(ruleset, ends, family, port, passed, let_through)
            _to_itself(found, passed, let_through)
            allowed[family, number], audited[family, number] = tuple(passed), tuple(let_through)
    return Matrix(ends, wanted, has, allowed, audited)


def _forwarded(
    ruleset: Ruleset,
    ends: tuple[End, ...],
    of: _Of,
    family: Family,
    port: Port,
    masks: tuple[dict[Match, int], dict[Match, int]],
) -> Steps[list[Outcome]]:
    """By source, what becomes in FORWARD of packets to all destinations; both as counted in `of`."""
    everything = (1 << len(of.numbers)) - 1
    chain = ruleset.hooks.get("FORWARD", "")
    if not chain:
        return [Outcome(everything, 0, 0)] * len(of.numbers)
    first = ends[of.numbers[0]]
    packet = first_packet(first, first, family, *port)
    receiving = Sweeper(ruleset, Fan(packet, "src", of.addresses), masks[0])
    sending = Sweeper(ruleset, Fan(packet, "dst", of.addresses), masks[1])
    received = []
    for number, address in enumerate(of.addresses):
        received.append(receiving.sweep(_RECEIVER, address))
        if number % STEP == 0:
            yield number / len(of.numbers) / 2
    fields = (_transposed([outcome[field] for outcome in received]) for field in range(len(Outcome._fields)))
    rows = []
    for number, (address, known) in enumerate(zip(of.addresses, map(Outcome, *fields), strict=True)):
        rows.append(sending.sweep(chain, address, {_RECEIVER: known}))
        if number % STEP == 0:
            yield 0.5 + number / len(of.numbers) / 2
    return rows


def _at_home(
    ruleset: Ruleset, ends: tuple[End, ...], family: Family, port: Port, passed: list[int], audited: list[int]
) -> None:
    """Put in what does not pass FORWARD: between the pods of a node and the node itself, or pods on its network."""
    hosts = {number for number, each in enumerate(ends) if each.is_host}
    for source, here in enumerate(ends if hosts else ()):
        for destination, there in enumerate(ends):
            if source not in hosts and destination not in hosts:
                continue
            if hook(here, there) != "FORWARD" and here.address(family) and there.address(family):
                packet = first_packet(here, there, family, *port)
                decision, audit = fate(ruleset, packet, here, there)
                bit = 1 << destination
                passed[source] = passed[source] | bit if decision == "allow" else passed[source] & ~bit
                audited[source] = audited[source] | bit if audit else audited[source] & ~bit


def _to_itself(addresses: Iterable[tuple[int, str]], passed: list[int], audited: list[int]) -> None:
    """What a pod sends to itself always passes; where the kernel tells it by its interface, a sweep can't see that."""
    alike: dict[str, int] = {}
    for number, address in addresses:
        alike[address] = alike.get(address, 0) | 1 << number
    for number, address in addresses:
        passed[number] |= alike[address]
        audited[number] &= ~alike[address]


def _transposed(rows: Sequence[int]) -> list[int]:
    """A square of bits, with columns for rows."""
    texts = [f"{row:0{len(rows)}b}"[::-1] for row in rows]
    return [int("".join(reversed(column)), 2) for column in zip(*texts, strict=True)]


def _spread(rows: Sequence[int], numbers: tuple[int, ...], count: int) -> list[int]:
    """Rows over some ends as rows over all of them, in which the others reach nobody."""
    if len(numbers) == count:
        return list(rows)
    result = [0] * count
    for number, row in zip(numbers, rows, strict=True):
        result[number] = sum(1 << other for place, other in enumerate(numbers) if row >> place & 1)
    return result
