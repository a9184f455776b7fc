"""The ends of all pairs as bits, and what each pod's rules say of them: the same pieces for two worlds.

An end is a class of pods (difference.py says which pods are one), or a piece of the address space outside of them.
Each of a pod's rules is about some services from or to some ends; so what they say together is a partition: for each
number of services, the ends for which it is what is allowed.  Rules of tiers, of which the first that matches counts,
are put upon what comes after the tier from the last to the first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from ipaddress import ip_network
from typing import NamedTuple

from netpold.policy.index import Index
from netpold.policy.model import Action, Direction, Family, IPBlock, Network, Pod
from netpold.rules.judged import Judge, Judged, Judges
from netpold.rules.ruleset import Address, InSet, IPSet, Origin, Rule
from netpold.rules.said import Said, both, narrowed, passed, widened
from netpold.rules.services import Services
from netpold.rules.space import Space

# rules by the bit of each end, where there are few; and those with many ends
_Origins = tuple[dict[int, list[tuple[int, Origin]]], list[tuple[int, int, Origin]]]

_FEW = 8


class End(NamedTuple):
    """A pod that is in both worlds, with its address of the family in each, and who judges it: sending before and
    after, receiving before and after.  Where it is on the host's network, nobody does."""

    pod: str
    addresses: tuple[str, str]
    judges: tuple[Judges, Judges, Judges, Judges]


def ends(before: Judged, after: Judged, family: Family, only: Set[str] | None = None) -> list[End]:
    """All pods of both worlds that can be compared and that have an address of the family in both; of these `only`
    (keys), if that is said."""
    found: list[End] = []
    for key, old in before.index.world.pods.items():
        if only is not None and key not in only:
            continue
        new = after.index.world.pods.get(key)
        if new is None or not can_be_compared(old, new):
            continue
        was, now = own_address(before.index, old, family), own_address(after.index, new, family)
        if was and now:
            judges = (
                before.judges(old, was, Direction.EGRESS),
                after.judges(new, now, Direction.EGRESS),
                before.judges(old, was, Direction.INGRESS),
                after.judges(new, now, Direction.INGRESS),
            )
            found.append(End(key, (was, now), judges))
    return found


def can_be_compared(old: Pod, new: Pod) -> bool:
    """Whether policies select the pod before or after, and its addresses are its own before and after: what goes to
    the host's network is opened by that, what finishes has no more to be asked about."""
    return (old.takes_part or new.takes_part) and not (old.finished or new.finished)


def own_address(index: Index, pod: Pod, family: Family) -> str:
    """The pod's first address of the family, '' where it has none.  On the host's network it has none that is a pod's:
    what is sent there is judged as that pod's."""
    address = next((each for each in pod.addresses if (":" in each) == (family == 6)), "")
    return "" if pod.host_network and index.claimants(address) else address


class Pieces:
    """The ends of one family.  `outside`: the bits of pieces of the address space; `everything`: with those of pods.

    The two worlds are asked by number: 0 before, 1 after.  `asked`: networks that are asked about beside those of
    rules.
    """

    def __init__(
        self,
        before: Judged,
        after: Judged,
        ends: list[End],
        services: Services,
        family: Family,
        asked: Iterable[Network] = (),
    ) -> None:
        self.family = family
        self._halves = before, after
        self._number = (0, 0) if before.shares_sets(after) else (0, 1)  # what is the same is looked at once
        self._services = services
        self._nodes = _nodes(before, family), _nodes(after, family)
        prefixes = {prefix for half in self._halves for prefix in _prefixes(half, family)}
        prefixes.update(
            prefix for number, half in enumerate(self._halves) for prefix in _named(half, self._nodes[number])
        )
        prefixes.update(each for each in asked if each.version == family)
        unmoved = (was for _, (was, now), _ in ends if was == now)
        self._space = Space(family, prefixes, dict.fromkeys(unmoved))
        self._first = self._space.everything.bit_length()  # the bit of the first class
        self.outside = self._space.everything & ~self._space.taken
        self._classes: list[list[End]] = []
        self._class_of: dict[str, int] = {}  # by pod, the bit
        self._hold = defaultdict[tuple[int, str], int](int)  # by world and set, the classes that the set holds
        self._ports = defaultdict[tuple[int, str], Said](dict)  # of sets with ports, by services
        self._at_piece = defaultdict[tuple[int, int], int](int)  # by world and piece, the classes with addresses in it
        self._at_address = defaultdict[tuple[int, str], int](int)  # of those that are free to some pods
        self._sort(ends)
        self.everything = self.outside | (((1 << len(self._classes)) - 1) << self._first)
        self._said: dict[tuple[int, int, bool, int], Said] = {}
        self._origins: dict[tuple[int, int], _Origins] = {}
        self._of_rule: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._pods: dict[int, frozenset[str]] = {}
        self._blocks: dict[int, tuple[IPBlock, ...]] = {}

    # Classes ------------------------------------------------------------------------------------------------------

    def _sort(self, ends: list[End]) -> None:
        """Put the pods into classes, and note what holds each."""
        holders = [_holders(half.sets.values(), {each.addresses[number] for each in ends}, self.family)
                   for number, half in enumerate(self._halves[: self._number[1] + 1])]  # fmt: skip
        special = [half.own() for half in self._halves]
        classes: dict[object, list[End]] = {}
        for end in ends:
            was, now = end.addresses
            alone = end.pod if was in special[0] or now in special[1] else ""
            pieces = self._space.piece(was), self._space.piece(now)
            key = (tuple(map(id, end.judges)), holders[0].get(was), holders[-1].get(now), pieces, alone)
            classes.setdefault(key, []).append(end)
        for same in classes.values():
            bit = 1 << (self._first + len(self._classes))
            self._classes.append(same)
            self._class_of.update((end.pod, bit) for end in same)
            for world in range(len(holders)):
                address = same[0].addresses[world]
                self._at_piece[world, self._space.piece(address)] |= bit
                if address in special[world]:
                    self._at_address[world, address] |= bit
                ports: dict[str, int] = defaultdict(int)
                for name, port in holders[world].get(address, ()):
                    if port:
                        ports[name] |= self._services.named(port)
                    else:
                        self._hold[world, name] |= bit
                for name, allowed in ports.items():
                    said = self._ports[world, name]
                    said[allowed] = said.get(allowed, 0) | bit

    def by_judges(self, direction: Direction) -> dict[tuple[Judges, Judges], int]:
        """The pods by who judges them, before and after."""
        at = 0 if direction is Direction.EGRESS else 2
        found: dict[tuple[Judges, Judges], int] = defaultdict(int)
        for number, same in enumerate(self._classes):
            judges = same[0].judges
            found[judges[at], judges[at + 1]] |= 1 << (self._first + number)
        return found

    def pods(self, some: int) -> frozenset[str]:
        """The keys of the pods among these ends."""
        found = self._pods.get(some)
        if found is None:
            found = self._pods[some] = frozenset(
                end.pod for bit in ones(some >> self._first) for end in self._classes[bit.bit_length() - 1]
            )
        return found

    @property
    def known(self) -> Set[str]:
        """The keys of all pods that have an address of the family."""
        return self._class_of.keys()

    def classes(self, pods: Iterable[str]) -> int:
        """The classes of these pods, of which others may be of the same."""
        found = 0
        for bit in {self._class_of.get(pod, 0) for pod in pods}:
            found |= bit
        return found

    def inside(self, network: Network) -> int:
        """The ends in a network that was asked about, pods by their address after."""
        return self._in_pieces(self._number[1], self._space.of({network: True}))

    def single(self) -> Iterator[tuple[str, int]]:
        """The addresses outside that are pieces by themselves, and their bits."""
        return ((address, piece) for address, piece in self._space.single() if piece & self.outside)

    def blocks(self, some: int) -> tuple[IPBlock, ...]:
        """The addresses outside among these ends."""
        pieces = some & self.outside
        found = self._blocks.get(pieces)
        if found is None:
            found = self._blocks[pieces] = self._space.blocks(pieces) if pieces else ()
        return found

    # What rules say -----------------------------------------------------------------------------------------------

    def says(self, world: int, judges: Judges, at_home: bool = False, among: int = -1) -> Said:
        """What these judges allow, from or to whom; `at_home`: as a pod's own node does, where NetworkPolicies leave
        all to the tiers (at_home.py).  `among`: the ends that are asked about, or all: with few, it costs little."""
        world, asked = self._number[world], self.everything & among
        found = self._said.get((world, id(judges), at_home, asked))
        if found is None:
            found = {self._services.everything: asked}
            for judge in judges.judges:
                found = both(found, self._judge_says(world, judge, at_home, asked))
            own = 0
            for address in judges.own:
                own |= self._at_address.get((world, address), 0)
            if own:
                found = widened(found, own, self._services.everything)
            self._said[world, id(judges), at_home, asked] = found
        return found

    def _judge_says(self, world: int, judge: Judge, at_home: bool, asked: int) -> Said:
        everything = {self._services.everything: asked}
        if at_home and judge.selected:
            then = everything
        elif judge.isolate:
            then = self._one_says(world, judge.policies, asked)
        else:
            then = self._tier_says(world, judge.policies, self._tier_says(world, judge.baseline, everything))
        return self._tier_says(world, judge.admin, then)

    def _tier_says(self, world: int, rules: tuple[Rule, ...], then: Said) -> Said:
        """What rules say of which the first that matches counts; `then`: what is said of what none of them matches, or
        what passes."""
        said = then
        for rule in reversed(rules):
            action = rule.origin.action if rule.origin else Action.ACCEPT
            for some, services in self._allowed_by(world, rule):
                if action is Action.ACCEPT:
                    said = widened(said, some, services)
                elif action is Action.DENY:
                    said = narrowed(said, some, services)
                else:
                    said = passed(said, some, services, then)
        return said

    def _one_says(self, world: int, rules: tuple[Rule, ...], asked: int) -> Said:
        """What the rules of NetworkPolicies allow.  Most name a few ends, and are looked at end by end; the others one
        by one."""
        together: dict[int, int] = defaultdict(int)  # by ends, the services
        for rule in rules:
            for some, services in self._allowed_by(world, rule):
                if some & asked:
                    together[some & asked] |= services
        said: Said = {0: asked}
        single: dict[int, int] = defaultdict(int)  # by the bit of an end
        for some, services in together.items():
            if some.bit_count() <= _FEW:
                for end in ones(some):
                    single[end] |= services
            else:
                said = widened(said, some, services)
        moved: Said = defaultdict(int)
        for end, services in single.items():
            given = next((given for given, where in said.items() if where & end), None)
            if given is not None and given | services != given:
                said[given] &= ~end
                moved[given | services] |= end
        for services, some in moved.items():
            said[services] = said.get(services, 0) | some
        return {services: some for services, some in said.items() if some}

    def about(self, world: int, judges: Judges, peers: int, services: int) -> set[Origin]:
        """The policy rules that match any of these services from or to any of these ends."""
        world = self._number[world]
        key = world, id(judges)
        if key not in self._origins:
            self._origins[key] = self._sorted_rules(world, judges)
        few, many = self._origins[key]
        ends = ones(peers) if peers.bit_count() <= len(few) else (end for end in few if end & peers)
        found = {origin for end in ends for given, origin in few.get(end, ()) if given & services}
        found.update(origin for some, given, origin in many if some & peers and given & services)
        return found

    def _sorted_rules(self, world: int, judges: Judges) -> _Origins:
        few: dict[int, list[tuple[int, Origin]]] = defaultdict(list)
        many: list[tuple[int, int, Origin]] = []
        for rule in (rule for judge in judges.judges for rule in judge.rules):
            for some, services in self._allowed_by(world, rule):
                if rule.origin is None:
                    continue
                if some.bit_count() <= _FEW:
                    for end in ones(some):
                        few[end].append((services, rule.origin))
                else:
                    many.append((some, services, rule.origin))
        return few, many

    def _allowed_by(self, world: int, rule: Rule) -> list[tuple[int, int]]:
        """What one rule matches: ends, and services."""
        key = world, id(rule)  # rules live as long as the halves that made them
        found = self._of_rule.get(key)
        if found is None:
            found = [(self.everything, self._services.of(rule.matches))]
            for match in rule.matches:
                if isinstance(match, InSet) and match.side == "dst,dst":
                    ports = self._ports.get((world, match.name), {})
                    found = [(some, services) for services, some in ports.items()]
                elif isinstance(match, InSet):
                    found = [(some & self._in_set(world, match.name), services) for some, services in found]
                elif isinstance(match, Address):
                    inside = self._space.of({ip_network(match.network): True})
                    found = [(some & self._in_pieces(world, inside), services) for some, services in found]
            self._of_rule[key] = found
        return found

    def _in_set(self, world: int, name: str) -> int:
        ipset = self._halves[world].sets[name]
        if ipset.kind == "hash:net":
            return self._in_pieces(world, self._space.of(_table(ipset)))
        found = self._hold.get((world, name), 0)
        nodes = self._nodes[world] & ipset.members
        return found | (self._in_pieces(world, self._space.of(_hosts(nodes))) & self.outside) if nodes else found

    def _in_pieces(self, world: int, pieces: int) -> int:
        found = pieces & self.outside
        for (where, piece), classes in self._at_piece.items():
            if where == world and pieces >> piece & 1:
                found |= classes
        return found


def _prefixes(half: Judged, family: Family) -> Iterator[Network]:
    """All networks that rules of the family look addresses up in."""
    for ipset in half.sets.values():
        if ipset.kind == "hash:net" and ipset.family == family:
            yield from _table(ipset)
    for rule in half.rules():
        for match in rule.matches:
            if isinstance(match, Address) and (":" in match.network) == (family == 6):
                yield ip_network(match.network)


def _nodes(half: Judged, family: Family) -> frozenset[str]:
    """The addresses of nodes that are no pod's."""
    addresses = (address for node in half.index.world.nodes.values() for address in node.addresses)
    return frozenset(each for each in addresses if (":" in each) == (family == 6) and not half.index.claimants(each))


def _named(half: Judged, nodes: Set[str]) -> Iterator[Network]:
    """The addresses of nodes that rules look for."""
    yield from _hosts(
        {each for ipset in half.sets.values() if ipset.kind == "hash:ip" for each in nodes & ipset.members}
    )


def _hosts(addresses: Iterable[str]) -> dict[Network, bool]:
    return {ip_network(each): True for each in addresses}


def _table(ipset: IPSet) -> dict[Network, bool]:
    return {ip_network(each.removesuffix(" nomatch")): not each.endswith(" nomatch") for each in ipset.members}


def _holders(sets: Iterable[IPSet], wanted: set[str], family: Family) -> dict[str, tuple[tuple[str, str], ...]]:
    """By address, the sets that hold it, each with the port (`tcp:80`) or ''."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for ipset in sets:
        if ipset.family != family or ipset.kind == "hash:net":
            continue
        for member in ipset.members:
            address, _, port = member.partition(",")
            if address in wanted:
                found[address].append((ipset.name, port))
    return {address: tuple(sorted(names)) for address, names in found.items()}


def ones(number: int) -> Iterator[int]:
    """Each bit, as a number with that bit alone."""
    while number:
        low = number & -number
        yield low
        number ^= low
