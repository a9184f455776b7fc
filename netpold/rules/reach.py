"""Whether policies do what their tests expect: for all ends that are meant, on all ports, at once.

The same classes and pieces as in difference.py, of one world.  So "nothing in 10.0.0.0/8 reaches the database" is asked
of every address there, and not of some.

A node's own address and that node's pods are judged as explain.py judges them: the node reaches them, and they reach it
as far as tiers do not deny that, unless the settings say otherwise.  Such pairs count where the address is named, and
not where it is one of a block: else nothing could be said of everything outside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address
from itertools import islice
from typing import NamedTuple

from netpold.policy.index import Index
from netpold.policy.model import EVERYTHING, Direction, Family, IPBlock, Network
from netpold.policy.selector import matches
from netpold.rules.ends import NOWHERE, Home, node_at, node_of
from netpold.rules.expectations import Expectation, Group, Selected
from netpold.rules.judged import Judged, Judges
from netpold.rules.pieces import Pieces, ends
from netpold.rules.ruleset import FAMILIES
from netpold.rules.services import Services, Span
from netpold.rules.settings import CompileSettings

_MOST_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Wrong:
    """Ends and services for which the verdict is not the one that is expected.  `node`: whose own addresses these are,
    where the other end is pods of that node."""

    sources: frozenset[str]
    from_outside: tuple[IPBlock, ...]
    destinations: frozenset[str]
    to_outside: tuple[IPBlock, ...]
    services: tuple[Span, ...]
    families: tuple[Family, ...]
    node: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a test.  `fault`: why there was nothing to test, or ''.  `pairs`: how many pairs of pods were
    tested."""

    wrong: tuple[Wrong, ...] = ()
    fault: str = ""
    pairs: int = 0

    @property
    def passed(self) -> bool:
        return not self.wrong and not self.fault


class _Chosen(NamedTuple):
    """Who is meant, in one family: pods, the bits of their classes and of pieces outside."""

    pods: frozenset[str]
    ends: int

    def only(self, pods: Set[str]) -> _Chosen:
        return self._replace(pods=self.pods & pods)

    def without(self, pods: Set[str]) -> _Chosen:
        return self._replace(pods=self.pods - pods)


class _Between(NamedTuple):
    """Some of the ends that are meant, each as bits, and what is allowed between these.  `node`: as in Wrong."""

    source: _Chosen
    destination: _Chosen
    here: int
    there: int
    allowed: int
    node: str = ""


class Reach:
    """One world, cut as these tests need it."""

    def __init__(
        self, index: Index, settings: CompileSettings, tests: Iterable[Expectation], home: Home = NOWHERE
    ) -> None:
        """`home`: the node that is asked, if any is."""
        tests = list(tests)
        self._index = index
        self._selected: dict[Selected, frozenset[str]] = {}
        judged = Judged(index, settings.mode)
        meant = self._meant(end for test in tests for group in (test.source, test.destination)
                            for end in (*group.ends, *group.excepts))  # fmt: skip
        both = {family: ends(judged, judged, family, meant) for family in FAMILIES}
        judged.fill()
        named = {
            member.partition(",")[2]
            for each in judged.sets.values()
            if each.kind == "hash:ip,port"
            for member in each.members
        }
        spans = [span for test in tests for span in test.services or ()]
        self._services = Services(judged.rules(), named, spans)
        networks: list[Network] = [
            end
            for test in tests
            for group in (test.source, test.destination)
            for end in (*group.ends, *group.excepts)
            if not isinstance(end, Selected)
        ]
        self._pieces = {
            family: Pieces(judged, judged, both[family], self._services, family, networks) for family in FAMILIES
        }
        self._settings = settings
        self._on = _by_node(index, home)
        self._own = {family: self._nodes(pieces, home) for family, pieces in self._pieces.items()}

    def _nodes(self, pieces: Pieces, home: Home) -> dict[str, int]:
        """The pieces that are addresses of a node, by those nodes that have pods."""
        found: dict[str, int] = defaultdict(int)
        for address, piece in pieces.single():
            node = node_at(self._index, address, home)
            if node in self._on:
                found[node] |= piece
        return found

    def _meant(self, several: Iterable[Selected | Network]) -> Set[str]:
        """The pods (keys) that any test is about: nobody else's rules matter."""
        ends = set(several)
        networks: list[Network] = [
            *collapse_addresses(each for each in ends if isinstance(each, IPv4Network)),
            *collapse_addresses(each for each in ends if isinstance(each, IPv6Network)),
        ]
        pods = self._index.world.pods
        found = {key for key, pod in pods.items() if any(_is_in(networks, address) for address in pod.addresses)}
        return found.union(*(self._pods(each) for each in ends if isinstance(each, Selected)))

    def judge(self, test: Expectation) -> Outcome:
        """What becomes of one of the tests."""
        for group, key in ((test.source, "from"), (test.destination, "to")):
            if fault := self._unknown(group):
                return Outcome(fault=f"`{key}`: {fault}")
        wanted = self._services.everything if test.services is None else self._services.within(test.services)
        wrong: list[Wrong] = []
        pairs, outside = 0, False
        for pieces in self._pieces.values():
            source, destination = self._chosen(test.source, pieces), self._chosen(test.destination, pieces)
            pairs = max(pairs, len(source.pods) * len(destination.pods) - len(source.pods & destination.pods))
            outside |= bool(source.pods and destination.ends & pieces.outside)
            outside |= bool(destination.pods and source.ends & pieces.outside)
            rectangles: dict[tuple[int, int], int] = defaultdict(int)  # by services and destinations, the sources
            for here, there, allowed in self._rectangles(pieces, source.ends, destination.ends):
                if services := wanted & (~allowed if test.verdict == "allow" else allowed):
                    rectangles[services, there] |= here
            fewer: dict[tuple[int, int], int] = defaultdict(int)  # by services and sources, the destinations
            for (services, there), here in rectangles.items():
                fewer[services, here] |= there
            for (services, here), there in fewer.items():
                for part in self._away(pieces, _Between(source, destination, here, there, services)):
                    wrong += self._wrong(pieces, part, services)
            for part in self._at_home(pieces, test, source, destination):
                if services := wanted & (~part.allowed if test.verdict == "allow" else part.allowed):
                    wrong += self._wrong(pieces, part, services)
        if not pairs and not outside:
            return Outcome(fault=self._nothing(test))
        return Outcome(tuple(_joined(wrong)), "", pairs)

    def examples(self, test: Expectation) -> Iterator[tuple[str, str, Span]]:
        """Some pairs of pods that the test is about, each with a port: one for each way in which pods are judged.  And
        pairs of a node's address that it names and pods of that node."""
        wanted = self._services.everything if test.services is None else self._services.within(test.services)
        span = self._services.spans(wanted)[0]
        for pieces in self._pieces.values():
            source, destination = self._chosen(test.source, pieces), self._chosen(test.destination, pieces)
            rectangles = self._rectangles(pieces, source.ends, destination.ends)
            for here, there, _ in islice(rectangles, _MOST_EXAMPLES):
                senders, receivers = pieces.pods(here) & source.pods, pieces.pods(there) & destination.pods
                pair = next(
                    ((one, other) for one in sorted(senders) for other in sorted(receivers) if one != other), None
                )
                if pair:
                    yield (*pair, span)
            for part in islice(self._at_home(pieces, test, source, destination), _MOST_EXAMPLES):
                senders, receivers = pieces.pods(part.here) & part.source.pods, pieces.pods(part.there)
                receivers &= part.destination.pods
                for address in _addresses(pieces, part.here):
                    yield address, min(receivers), span
                for address in _addresses(pieces, part.there):
                    yield min(senders), address, span

    # Who is meant -------------------------------------------------------------------------------------------------

    def _unknown(self, group: Group) -> str:
        """Why a pod that is named can't be an end of a connection; '' where all can."""
        for end in (*group.ends, *group.excepts):
            if not isinstance(end, Selected) or not end.name:
                continue
            key = f"{end.namespace}/{end.name}"
            pod = self._index.world.pods.get(key)
            if pod is None:
                return f"no manifest declares the pod {key}"
            if pod.host_network:
                return f"{key} is on the host's network: policies do not select it; name its node's address"
            if pod.finished:
                return f"{key} has finished; its addresses are no longer its own"
            if not pod.addresses:
                return f"{key} has no address yet"
        return ""

    def _nothing(self, test: Expectation) -> str:
        for group, key in ((test.source, "from"), (test.destination, "to")):
            if not any(self._chosen(group, pieces).ends for pieces in self._pieces.values()):
                return f"`{key}` selects no pod that has an address, so nothing is tested"
        return "no policy judges these: no pair of a pod and another end, with addresses of one family, is among them"

    def _chosen(self, group: Group, pieces: Pieces) -> _Chosen:
        """Those of the ends, but for the excepts, of one family."""
        pods, outside = self._all(group.ends, pieces)
        without, outside_without = self._all(group.excepts, pieces)
        chosen = frozenset(pods - without) & pieces.known
        return _Chosen(chosen, pieces.classes(chosen) | (outside & ~outside_without))

    def _all(self, several: Iterable[Selected | Network], pieces: Pieces) -> tuple[frozenset[str], int]:
        pods: frozenset[str] = frozenset()
        outside = 0
        for end in several:
            if isinstance(end, Selected):
                pods |= self._pods(end)
            elif end.version == pieces.family:
                inside = pieces.inside(end)
                outside |= inside & pieces.outside
                pods |= pieces.pods(inside)
        return pods, outside

    def _pods(self, end: Selected) -> frozenset[str]:
        found = self._selected.get(end)
        if found is None:
            found = self._selected[end] = frozenset(self._matching(end))
        return found

    def _matching(self, end: Selected) -> Iterator[str]:
        world = self._index.world
        if end.name:
            yield f"{end.namespace}/{end.name}"
            return
        for key, pod in world.pods.items():
            if not pod.takes_part or (end.namespace and pod.namespace != end.namespace):
                continue
            if pod.quarantined and end.pods != EVERYTHING:
                continue  # its labels may be wrong
            if end.namespaces != EVERYTHING:
                namespace = world.namespace(pod.namespace)
                if namespace.quarantined or not matches(end.namespaces, namespace.labels):
                    continue
            if matches(end.pods, pod.labels):
                yield key

    # What is let through ------------------------------------------------------------------------------------------

    def _rectangles(self, pieces: Pieces, sources: int, destinations: int) -> Iterator[tuple[int, int, int]]:
        """Some of the sources, some of the destinations, and what is allowed between these; all pairs are in one."""
        receivers = [each for each in self._sides(pieces, Direction.INGRESS) if each[1] & destinations]
        for sending, senders in self._sides(pieces, Direction.EGRESS):
            if not senders & sources:
                continue
            for sent, to in self._says(pieces, sending).items():
                for receiving, mask in receivers:
                    there = to & mask & destinations
                    if not there or (sending is None and receiving is None):
                        continue
                    for got, by in self._says(pieces, receiving).items():
                        if here := by & senders & sources:
                            yield here, there, sent & got

    def _wrong(self, pieces: Pieces, between: _Between, services: int) -> Iterator[Wrong]:
        """One, or none where all that is meant is a pod to itself."""
        sources = pieces.pods(between.here) & between.source.pods
        destinations = pieces.pods(between.there) & between.destination.pods
        blocks = [pieces.blocks(some) for some in (between.here, between.there)]
        if len(destinations) == 1 and not blocks[1]:
            sources -= destinations
        if len(sources) == 1 and not blocks[0]:
            destinations -= sources
        if (sources or blocks[0]) and (destinations or blocks[1]):
            spans = self._services.spans(services)
            yield Wrong(sources, blocks[0], destinations, blocks[1], spans, (pieces.family,), between.node)

    # A node and its own pods --------------------------------------------------------------------------------------

    def _away(self, pieces: Pieces, between: _Between) -> Iterator[_Between]:
        """The same, in parts, without what is between a node and its own pods and not judged as this was."""
        source, destination, here, there, *_ = between
        for node, own in self._own[pieces.family].items():
            pods = self._on[node]
            if there & own and self._settings.host_access == "allow" and not pods.isdisjoint(pieces.pods(here)):
                yield between._replace(source=source.without(pods), there=there & own)
                there &= ~own
            if here & own and self._settings.host_to_pods == "allow" and not pods.isdisjoint(pieces.pods(there)):
                yield between._replace(destination=destination.without(pods), here=here & own)
                here &= ~own
        yield between._replace(here=here, there=there)

    def _at_home(self, pieces: Pieces, test: Expectation, source: _Chosen, destination: _Chosen) -> Iterator[_Between]:
        """What is between nodes whose addresses are named, and their own pods, and what of that is allowed."""
        named = [_named(group, pieces) & chosen.ends for group, chosen in (
            (test.source, source), (test.destination, destination))]  # fmt: skip
        for node, own in self._own[pieces.family].items():
            senders, receivers = (each.only(self._on[node]) for each in (source, destination))
            if self._settings.host_to_pods == "allow" and (here := named[0] & own) and receivers.pods:
                there = pieces.classes(receivers.pods)
                yield _Between(source, receivers, here, there, self._services.everything, node)
            if self._settings.host_access == "allow" and (there := named[1] & own) and senders.pods:
                yield from self._to_own_node(pieces, senders, destination, there, node)

    def _to_own_node(
        self, pieces: Pieces, source: _Chosen, destination: _Chosen, addresses: int, node: str
    ) -> Iterator[_Between]:
        sources = pieces.classes(source.pods)
        found: dict[tuple[int, int], int] = defaultdict(int)  # by what is allowed to which addresses, from whom
        for judges, senders in self._sides(pieces, Direction.EGRESS):
            if judges and senders & sources:
                for allowed, to in pieces.says(1, judges, at_home=True).items():
                    if there := to & addresses:
                        found[allowed, there] |= senders & sources
        for (allowed, there), here in found.items():
            yield _Between(source, destination, here, there, allowed, node)

    def _sides(self, pieces: Pieces, direction: Direction) -> list[tuple[Judges | None, int]]:
        sides = [(judges, mask) for (judges, _), mask in pieces.by_judges(direction).items()]
        return [*sides, (None, pieces.outside)]

    def _says(self, pieces: Pieces, judges: Judges | None) -> dict[int, int]:
        return pieces.says(1, judges) if judges else {self._services.everything: pieces.everything}


def _joined(wrong: Iterable[Wrong]) -> Iterator[Wrong]:
    """What is said of pods alone in both families, once."""
    same: dict[Wrong, list[Family]] = {}
    for each in wrong:
        same.setdefault(replace(each, families=()), []).extend(each.families)
    for each, families in same.items():
        yield replace(each, families=tuple(families))


def _by_node(index: Index, home: Home) -> dict[str, set[str]]:
    """The pods that policies select, by the nodes that they are on, as far as these are known."""
    found: dict[str, set[str]] = defaultdict(set)
    for key, pod in index.world.pods.items():
        if pod.takes_part and (node := node_of(pod, home)):
            found[node].add(key)
    return found


def _is_in(networks: Iterable[Network], address: str) -> bool:
    where = ip_address(address)
    return any(where in network for network in networks)


def _named(group: Group, pieces: Pieces) -> int:
    """The addresses that a group names one by one."""
    found = 0
    for end in group.ends:
        if not isinstance(end, Selected) and end.version == pieces.family and end.prefixlen == end.max_prefixlen:
            found |= pieces.inside(end) & pieces.outside
    return found


def _addresses(pieces: Pieces, some: int) -> Iterator[str]:
    """Those of a node."""
    return (str(block.cidr.network_address) for block in pieces.blocks(some))
