"""Golden cases: manifests, and the verdicts that they have to give, stated by hand. README.md describes the formats.

A case is one or more steps. Each step is everything that the watched directory holds then (file name to text), and
probes with the verdict expected of each. `all_cases()` gives them all; the folders here, the restated tests of
Kubernetes (`stories`) and the families that cyclonus generates (`families`, `families_more`) differ only in how they
are written down.

Nothing here uses netpold's own reader or compiler, so that both can be checked with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from netpold.policy.model import World
from tests.objects import Object, to_world
from tests.reference import Packet

FOLDER = Path(__file__).parent
VERDICTS = {".": True, "X": False}
NOT_PROBED = "-"


@dataclass(frozen=True, slots=True)
class Probe:
    """One packet, its ends as the case names them (`namespace/pod` or an address), and whether it has to pass."""

    source: str
    destination: str
    packet: Packet
    allowed: bool

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination} ({self.packet}): {'allow' if self.allowed else 'deny'}"


@dataclass(frozen=True, slots=True)
class Step:
    """What the watched directory holds, and what has to come of it. `name` is '' where a case has one step only."""

    name: str
    files: Mapping[str, str]
    probes: tuple[Probe, ...]

    @property
    def objects(self) -> list[Object]:
        return objects_of(self.files)

    @property
    def world(self) -> World:
        """The world as these tests read it (tests.objects), not as netpold does."""
        return to_world(self.objects)


@dataclass(frozen=True, slots=True)
class Case:
    """`about` says what the case shows and where it comes from."""

    name: str
    about: str
    steps: tuple[Step, ...]


def all_cases() -> list[Case]:
    """Every case there is; names are unique."""
    from tests.cases import families, families_more, stories  # they need the types above

    cases = [
        *folder_cases(),
        *stories.cases(FOLDER / "kubernetes-e2e.yaml"),
        *families.cases(),
        *families_more.cases(),
    ]
    names = [case.name for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"cases of one name: {', '.join(sorted(twice))}")
    return cases


def folder_cases() -> list[Case]:
    """The cases that are folders beside this file, and those of policies in tiers, which share their pods."""
    tiers = FOLDER / "tiers"
    return [
        *(load(folder) for folder in sorted(FOLDER.iterdir()) if (folder / "manifests").is_dir()),
        *(load(folder, tiers / "base") for folder in sorted(tiers.iterdir()) if (folder / "manifests").is_dir()),
    ]


def load(folder: Path, base: Path | None = None) -> Case:
    """One folder: `manifests/` and `expected.yaml`, or a folder like that for each step, laid over the common files,
    and these over those in `base`."""
    common = {**(read_files(base) if base else {}), **read_files(folder / "manifests")}
    described = yaml.safe_load((folder / "expected.yaml").read_text())
    steps = []
    for place in sorted(path.parent for path in folder.glob("*/expected.yaml")) or [folder]:
        over = read_files(place / "manifests") if place != folder else {}
        # A step takes a file of the common ones away by having an empty one of its name.
        files = {name: text for name, text in {**common, **over}.items() if text.strip()}
        expected = described if place == folder else yaml.safe_load((place / "expected.yaml").read_text())
        probes = tuple(probe for table in expected["tables"] for probe in read_table(table, ends_of(objects_of(files))))
        steps.append(Step("" if place == folder else place.name, files, probes))
    return Case(f"tiers-{folder.name}" if base else folder.name, described["about"], tuple(steps))


def read_files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def objects_of(files: Mapping[str, str]) -> list[Object]:
    return [
        written
        for text in files.values()
        for written in yaml.load_all(text, Loader=yaml.CSafeLoader)
        if written is not None
    ]


# What is probed -------------------------------------------------------------------------------------------------------


Ends = Mapping[str, tuple[str, ...]]


def ends_of(objects: Iterable[Object]) -> Ends:
    """Addresses of each pod by `namespace/name`."""
    return {
        f"{written['metadata']['namespace']}/{written['metadata']['name']}": tuple(
            entry["ip"] for entry in written.get("status", {}).get("podIPs", ())
        )
        for written in objects
        if written["kind"] == "Pod"
    }


def probes_between(
    source: str, destination: str, ports: Iterable[str], allowed: bool, ends: Ends, families: Iterable[int] = (4, 6)
) -> Iterator[Probe]:
    """A probe for each family that both ends have, each pair of addresses, and each port (`80/TCP` or `ICMP`)."""
    for family in families:
        for sender in _addresses(source, family, ends):
            for receiver in _addresses(destination, family, ends):
                for port in ports:
                    number, _, protocol = port.rpartition("/")
                    packet = Packet(sender, receiver, protocol, int(number) if number else None)
                    yield Probe(source, destination, packet, allowed)


def _addresses(end: str, family: int, ends: Ends) -> list[str]:
    addresses = ends[end] if "/" in end else (end,)
    return [address for address in addresses if (":" in address) == (family == 6)]


def read_table(table: Mapping[str, Any], ends: Ends) -> Iterator[Probe]:
    """A table of verdicts: a row for each sender, a column for each receiver, `.` allow, `X` deny, `-` not probed."""
    head, *rows = [line.split() for line in table["verdicts"].splitlines() if line.strip()]
    columns = head[1:]  # the corner says which way to read it
    ports = [port.strip() for port in table["ports"].split(",")]
    for source, *cells in rows:
        if len(cells) != len(columns):
            raise ValueError(f"{source}: {len(cells)} verdicts for {len(columns)} columns")
        for destination, cell in zip(columns, cells, strict=True):
            if cell != NOT_PROBED:
                found = [
                    probe
                    for one in meant(source, ends)
                    for other in meant(destination, ends)
                    for probe in probes_between(
                        one, other, ports, VERDICTS[cell] or one == other, ends, table.get("families", (4, 6))
                    )
                ]
                if not found:
                    raise ValueError(f"{source} -> {destination}: no address family in common; write {NOT_PROBED}")
                yield from found


def meant(end: str, ends: Ends) -> list[str]:
    """All pods of a namespace for `namespace/*`, else the end itself."""
    if not end.endswith("/*"):
        return [end]
    found = [key for key in ends if key.startswith(end[:-1])]
    if not found:
        raise ValueError(f"{end}: no such pods")
    return found


def probes_of_pairs(ends: Ends, ports: Iterable[str], verdicts: Mapping[tuple[str, str], bool]) -> Iterator[Probe]:
    """Every pod to every pod: what `verdicts` say of the pair, else allowed; a pod always reaches itself."""
    for source in ends:
        for destination in ends:
            allowed = source == destination or verdicts.get((source, destination), True)
            yield from probes_between(source, destination, ports, allowed, ends)
