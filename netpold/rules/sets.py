"""The ipsets that rules refer to: what each holds, and what becomes of its members when the world changes.

A rule asks for a set by what it means, and gets its name; nothing is looked for then.  `retain` is told which sets the
finished chains refer to: these are filled, and the index is asked to watch their groups of pods.  From then on only
the addresses are looked at that the index says may be concerned, and the members change in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from netpold.policy.groups import Group
from netpold.policy.index import Index
from netpold.policy.model import Family, Pod, Protocol
from netpold.rules.ruleset import IPSet, Larger, SetChange, SetKind, short_hash


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a set is to hold: the addresses of pods and nodes (with `port`, of the port of that name on pods), or
    `members`.  `unread`: of the pods only those whose manifests can't be read.  `larger`: see IPSet."""

    family: Family
    kind: SetKind
    meaning: str
    groups: frozenset[Group] = frozenset()
    port: tuple[Protocol, str] | None = None
    members: frozenset[str] = frozenset()
    larger: Larger = "allows"
    unread: bool = False


class Sets:
    """The sets of one ruleset, by name."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._wanted: dict[str, _Wanted] = {}
        self._live: dict[str, _Live] = {}
        self._users: dict[Group, set[str]] = {}  # names of the live sets that hold a group
        self.sets: dict[str, IPSet] = {}

    def selected(self, groups: frozenset[Group], family: Family, larger: Larger = "allows") -> str:
        """The name of the set with the addresses of these pods and nodes.  `larger`: what more of them means."""
        return self._want(_Wanted(family, "hash:ip", _meaning(groups), groups, larger=larger))

    def named_port(
        self, groups: frozenset[Group], family: Family, protocol: Protocol, port: str, larger: Larger = "allows"
    ) -> str:
        """The set of address, protocol and number of the port of that name, on these pods."""
        meaning = f"port {port}/{protocol} of {_meaning(groups)}"
        return self._want(_Wanted(family, "hash:ip,port", meaning, groups, (protocol, port), larger=larger))

    def unread(self, groups: frozenset[Group], family: Family, larger: Larger) -> str:
        """The set with the addresses of those of these pods whose manifests can't be read."""
        meaning = f"of unknown ports: {_meaning(groups)}"
        return self._want(_Wanted(family, "hash:ip", meaning, groups, larger=larger, unread=True))

    def addresses(self, meaning: str, family: Family, addresses: Iterable[str]) -> str:
        """A set of the given addresses, which may be others the next time; `meaning` tells it apart."""
        return self._want(_Wanted(family, "hash:ip", meaning, members=frozenset(addresses)))

    def networks(self, members: frozenset[str], family: Family) -> str:
        """A hash:net set with these entries; what it means is what it holds."""
        return self._want(_Wanted(family, "hash:net", ", ".join(sorted(members)), members=members))

    def _want(self, wanted: _Wanted) -> str:
        used = "" if wanted.larger == "allows" else f" {wanted.larger}"
        name = f"NP{wanted.family}-{short_hash(f'{wanted.kind} {wanted.meaning}{used}')}"
        self._wanted[name] = wanted
        return name

    def retain(self, names: Set[str]) -> dict[str, SetChange]:
        """Fill the sets of these names, and let go of all others.  Returns what became of those that were there."""
        self._wanted = {name: self._wanted[name] for name in names}
        for name in self._live.keys() - names:
            self._drop(name)
        changed: dict[str, SetChange] = {}
        known: dict[frozenset[Group], frozenset[str]] = {}  # both families ask for the same pods
        for name in names:
            wanted = self._wanted[name]
            live = self._live.get(name)
            if live is None:
                self._fill(name, wanted, known)
            elif live.wanted.members != wanted.members:
                changed[name] = SetChange(wanted.members - live.wanted.members, live.wanted.members - wanted.members)
                self._drop(name)
                self._fill(name, wanted, known)
        if changed or self.sets.keys() != self._live.keys():
            self.sets = {name: live.ipset for name, live in self._live.items()}
        return changed

    def follow(self, affected: Mapping[Group, Set[str]]) -> dict[str, SetChange]:
        """Bring the members up to date at the addresses at which groups may have changed; returns what did."""
        concerned: dict[str, set[str]] = {}
        for group, addresses in affected.items():
            for name in self._users.get(group, ()):
                concerned.setdefault(name, set()).update(addresses)
        changes = {name: self._live[name].follow(addresses) for name, addresses in concerned.items()}
        return {name: change for name, change in changes.items() if change.added or change.removed}

    def _fill(self, name: str, wanted: _Wanted, known: dict[frozenset[Group], frozenset[str]]) -> None:
        live = self._live[name] = _Live(name, wanted, self._index)
        for group in wanted.groups:
            self._users.setdefault(group, set()).add(name)
            self._index.watch(group)
        if wanted.groups not in known:
            known[wanted.groups] = self._index.addresses(wanted.groups)
        live.fill(known[wanted.groups])

    def _drop(self, name: str) -> None:
        for group in self._live.pop(name).wanted.groups:
            self._index.unwatch(group)
            self._users[group].discard(name)
            if not self._users[group]:
                del self._users[group]


class _Live:
    """A set with its members, which change in place."""

    def __init__(self, name: str, wanted: _Wanted, index: Index) -> None:
        self.wanted = wanted
        self.members: set[str] = set()
        held: Set[str] = self.members if wanted.groups else wanted.members
        # `nomatch` entries of networks count the other way
        larger = None if wanted.kind == "hash:net" else wanted.larger
        self.ipset = IPSet(name, wanted.family, wanted.kind, wanted.meaning, held, larger)
        self._index = index
        self._at: dict[str, frozenset[str]] = {}  # by address, for sets of named ports

    def fill(self, addresses: Iterable[str]) -> None:
        """Take in all addresses (of any family) of the groups."""
        own = [address for address in addresses if (":" in address) == (self.wanted.family == 6)]
        if self.wanted.port or self.wanted.unread:
            self.follow(own)
        else:
            self.members.update(own)

    def follow(self, addresses: Iterable[str]) -> SetChange:
        """Hold what is right now at these addresses (of any family)."""
        added: set[str] = set()
        removed: set[str] = set()
        for address in addresses:
            if (":" in address) != (self.wanted.family == 6):
                continue
            before, now = self._before(address), self._now(address)
            added |= now - before
            removed |= before - now
            if self.wanted.port and now:
                self._at[address] = now
            else:
                self._at.pop(address, None)
        self.members |= added
        self.members -= removed
        return SetChange(frozenset(added), frozenset(removed))

    def _before(self, address: str) -> frozenset[str]:
        if self.wanted.port:
            return self._at.get(address, frozenset())
        return frozenset((address,)) if address in self.members else frozenset()

    def _now(self, address: str) -> frozenset[str]:
        if not self._index.holds(self.wanted.groups, address):
            return frozenset()
        claimants = self._index.claimants(address)
        if self.wanted.larger == "forbids":
            claimants = [*claimants, *self._index.left_at(address)]
        if not self.wanted.port:
            held = not self.wanted.unread or any(pod.quarantined for pod in claimants)
            return frozenset((address,)) if held else frozenset()
        protocol, port = self.wanted.port
        claims = [numbers(pod, protocol, port) for pod in claimants]
        both = frozenset[int].union if self.wanted.larger == "forbids" else frozenset[int].intersection
        return frozenset(f"{address},{protocol.lower()}:{number}" for number in both(*claims))


def numbers(pod: Pod, protocol: Protocol, name: str) -> frozenset[int]:
    """The numbers that a port name stands for on a pod; none where no container has it, or nobody knows that."""
    ports = () if pod.quarantined else pod.ports
    return frozenset(port.port for port in ports if port.name == name and port.protocol == protocol)


def _meaning(groups: frozenset[Group]) -> str:
    return "; ".join(sorted(map(str, groups)))
