"""A matrix as netpoldctl has it: what the daemon, or the manifests, say in short (rules/answers.py) as pairs again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from netpold.ctl.ports import Port

Verdict = Literal["allow", "deny"]


class Cell(NamedTuple):
    """What becomes of a pair on a port, all families together: those that both ends have an address of, those of them
    in which it passes, and of these those in which it passes because policies are audited only."""

    families: tuple[str, ...]
    passing: tuple[str, ...]
    audited: tuple[str, ...]

    @property
    def is_partly(self) -> bool:
        """Whether it passes in one family and not in the other."""
        return 0 < len(self.passing) < len(self.families)

    def __str__(self) -> str:
        """`allow`, `deny`, `audited`, `IPv6 only`, `IPv6 only, audited` or `allow, audited in IPv6`."""
        if not self.passing:
            return "deny"
        told = f"{self.passing[0]} only" if self.is_partly else "allow"
        if not self.audited:
            return told
        if len(self.audited) < len(self.passing):
            return f"{told}, audited in {self.audited[0]}"
        return f"{told}, audited" if self.is_partly else "audited"


class Count(NamedTuple):
    """Of pairs of different ends: how many of them pass in some family, of how many, and of those that pass how many do
    so in one of their two families only, and how many because policies are audited only."""

    passed: int
    every: int
    partly: int
    audited: int


@dataclass(frozen=True, slots=True)
class End:
    """`pod`: its key, '' where it is an address of none; `families`: those it has an address of, by name, the one that
    is judged first before the other."""

    name: str
    pod: str
    namespace: str
    labels: Mapping[str, str]
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """All pairs of `ends`, by number, for each of `ports`, by number.  `left_out`: ports that are named, too, where
    nobody said which ones to ask about."""

    ends: Sequence[End]
    ports: Sequence[Port]
    rows: Sequence[int]
    reach: Mapping[str, Sequence[Sequence[int]]]  # by family and port, the number of each source's row
    audited: Mapping[str, Sequence[Sequence[int]]]  # likewise, what passes because policies are audited only
    left_out: Sequence[Port] = ()

    @staticmethod
    def of(answer: Mapping[str, Any]) -> Reach:
        """From the JSON of rules/answers.py."""
        ends = [
            End(each["name"], each["pod"] or "", each["namespace"] or "", each["labels"], tuple(each["addresses"]))
            for each in answer["ends"]
        ]
        ports, left_out = (
            [(each["protocol"], each["port"]) for each in some]
            for some in (answer["ports"], answer.get("ports_left_out", ()))
        )
        rows = [int(row, 16) for row in answer["rows"]]
        return Reach(ends, ports, rows, answer["reach"], answer["audited"], left_out)

    def families(self, source: int, destination: int) -> Sequence[str]:
        """What both have an address of, that which `explain` judges first; none where neither is a pod's."""
        here, there = self.ends[source], self.ends[destination]
        if not (here.pod or there.pod):
            return ()
        return [family for family in here.families if family in there.families]

    def in_family(self, family: str, port: int, source: int, destination: int) -> Verdict:
        return "allow" if self.rows[self.reach[family][port][source]] >> destination & 1 else "deny"

    def audited_in(self, family: str, port: int, source: int, destination: int) -> bool:
        """Whether it passes because policies are audited only."""
        return bool(self.rows[self.audited[family][port][source]] >> destination & 1)

    def cell(self, port: int, source: int, destination: int) -> Cell | None:
        """None where the two have no family in common."""
        families = tuple(self.families(source, destination))
        if not families:
            return None
        passing = tuple(each for each in families if self.in_family(each, port, source, destination) == "allow")
        audited = tuple(each for each in passing if self.audited_in(each, port, source, destination))
        return Cell(families, passing, audited)

    def count(self, port: int) -> Count:
        """Of all pairs of different ends."""
        cells = [each for pair in self.pairs() if (each := self.cell(port, *pair))]
        passed = [each for each in cells if each.passing]
        return Count(
            len(passed), len(cells), sum(each.is_partly for each in passed), sum(bool(each.audited) for each in passed)
        )

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Sources and destinations that are not the same."""
        numbers = range(len(self.ends))
        return ((source, destination) for source in numbers for destination in numbers if source != destination)

    def cells(self, source: int) -> Iterator[dict[str, Any]]:
        """One row for each destination and port (docs/json.md)."""
        for destination, there in enumerate(self.ends):
            families = self.families(source, destination)
            for port, (protocol, number) in enumerate(self.ports) if families else ():
                verdicts = {each: self.in_family(each, port, source, destination) for each in families}
                audited = [each for each in families if self.audited_in(each, port, source, destination)]
                yield {
                    "source": self.ends[source].name,
                    "destination": there.name,
                    "protocol": protocol,
                    "port": number,
                    "verdict": verdicts[families[0]],
                    "families": verdicts,
                    "audit": families[0] in audited,
                    "audited": audited,
                }
