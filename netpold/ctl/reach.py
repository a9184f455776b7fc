"""A matrix as netpoldctl has it: what the daemon, or the manifests, say in short (rules/answers.py) as pairs again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from netpold.ctl.ports import Port

Verdict = Literal["allow", "deny"]


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
    """All pairs of `ends`, by number, for each of `ports`, by number."""

    ends: Sequence[End]
    ports: Sequence[Port]
    rows: Sequence[int]
    reach: Mapping[str, Sequence[Sequence[int]]]  # by family and port, the number of each source's row
    audited: Mapping[str, Sequence[Sequence[int]]]  # likewise, what passes because policies are audited only

    @staticmethod
    def of(answer: Mapping[str, Any]) -> Reach:
        """From the JSON of rules/answers.py."""
        ends = [
            End(each["name"], each["pod"] or "", each["namespace"] or "", each["labels"], tuple(each["addresses"]))
            for each in answer["ends"]
        ]
        ports = [(each["protocol"], each["port"]) for each in answer["ports"]]
        return Reach(ends, ports, [int(row, 16) for row in answer["rows"]], answer["reach"], answer["audited"])

    def families(self, source: int, destination: int) -> Sequence[str]:
        """What both have an address of, that which `explain` judges first; none where neither is a pod's."""
        here, there = self.ends[source], self.ends[destination]
        if not (here.pod or there.pod):
            return ()
        return [family for family in here.families if family in there.families]

    def in_family(self, family: str, port: int, source: int, destination: int) -> Verdict:
        return "allow" if self.rows[self.reach[family][port][source]] >> destination & 1 else "deny"

    def verdict(self, port: int, source: int, destination: int) -> Verdict | None:
        """As `explain` has it; None where the two have no family in common."""
        families = self.families(source, destination)
        return self.in_family(families[0], port, source, destination) if families else None

    def is_mixed(self, port: int, source: int, destination: int) -> bool:
        """Whether one family passes and the other does not."""
        return len({self.in_family(each, port, source, destination) for each in self.families(source, destination)}) > 1

    def is_audited(self, port: int, source: int, destination: int) -> bool:
        """Whether it passes because policies are audited only, in the family that `explain` judges."""
        families = self.families(source, destination)
        return bool(families) and bool(self.rows[self.audited[families[0]][port][source]] >> destination & 1)

    def count(self, port: int) -> tuple[int, int]:
        """How many pairs of different ends pass, and of how many."""
        found = [
            verdict for source, destination in self.pairs() if (verdict := self.verdict(port, source, destination))
        ]
        return found.count("allow"), len(found)

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
                yield {
                    "source": self.ends[source].name,
                    "destination": there.name,
                    "protocol": protocol,
                    "port": number,
                    "verdict": verdicts[families[0]],
                    "families": verdicts,
                    "audit": self.is_audited(port, source, destination),
                }
