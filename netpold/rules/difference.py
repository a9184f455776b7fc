"""What two worlds let through otherwise: between all pods of both, from and to any address, on every port.

Pairs are not looked at one by one.  Pods that both worlds treat alike are one class: the same rules judge them, and the
same sets and networks hold them.  Classes, and pieces of the address space (space.py), are bits of a number; ports are
bits of another (services.py).  What one pod's rules say is then a few pieces (these ends, these services), the same for
all pods with the same rules.  Where what the sender's side says before and after meets what the receiver's side says, a
change is a rectangle: these senders, these receivers, these services.  What rules say of which nothing changed is only
asked where the other end's did.

Compared are pods that are in both worlds, each by its first address of a family, as `matrix` does; one that goes to the
host's network, or comes from there, as a pod that no policy selects there.  A pod to itself is free, whatever the
policies say.  Each family is a world of its own; changes that are the same in both are told once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from typing import Literal, NamedTuple

from netpold.policy.index import Index
from netpold.policy.model import Action, Direction, Family, IPBlock, Mode
from netpold.policy.steps import Steps, finished, stretch
from netpold.rules import cause
from netpold.rules.cause import Cause, Causes
from netpold.rules.judged import Judged, Judges
from netpold.rules.own_node import OwnNodes
from netpold.rules.pieces import End, Pieces, ends, ones
from netpold.rules.ruleset import FAMILIES, Origin
from netpold.rules.said import Said
from netpold.rules.services import Services, Span


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a change: pods (keys), and addresses that are no pods'."""

    pods: frozenset[str]
    outside: tuple[IPBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What is allowed now and was not, and the other way round, from each of `source` to each of `destination` (but
    from a pod to itself).  `node`: whose own address the destination is, where this is about its pods alone."""

    source: Party
    destination: Party
    opens: tuple[Span, ...]
    closes: tuple[Span, ...]
    causes: tuple[Cause, ...]
    families: tuple[Family, ...]
    node: str = ""

    @property
    def pairs(self) -> int:
        """How many pairs of pods it is about."""
        both = len(self.source.pods & self.destination.pods)
        return len(self.source.pods) * len(self.destination.pods) - both


HostAccess = Literal["allow", "policy"]


def difference(old: Index, new: Index, mode: Mode = "enforce", host_access: HostAccess = "allow") -> list[Change]:
    """All changes, in no order; no two of them are about the same pair and service.  `mode`, `host_access`: those of
    the settings."""
    return finished(difference_in_steps(old, new, mode, host_access))


def difference_in_steps(
    old: Index, new: Index, mode: Mode = "enforce", host_access: HostAccess = "allow"
) -> Steps[list[Change]]:
    """The same in steps."""
    if old.world == new.world:
        return []
    before = Judged(old, mode)
    after = Judged(new, mode, before)
    both: dict[Family, list[End]] = {}
    for number, family in enumerate(FAMILIES):  # the shares are those of time, with 10,000 pods and 1,000 policies
        yield 0.2 * number
        both[family] = ends(before, after, family)
    for number, half in enumerate((before, after)):
        yield 0.4 + 0.15 * number
        half.fill()
    rules = [*before.rules(), *after.rules()]
    named = {
        member.partition(",")[2]
        for half in (before, after)
        for each in half.sets.values()
        if each.kind == "hash:ip,port"
        for member in each.members
    }
    services = Services(rules, named)
    at_home = OwnNodes(old, new) if host_access == "allow" else None
    found: dict[_Same, dict[Family, _Shape]] = defaultdict(dict)
    for number, family in enumerate(FAMILIES):
        first = 0.7 + 0.15 * number
        yield first
        asked = at_home.addresses(both[family]) if at_home else ()
        comparison = _Comparison(Pieces(before, after, both[family], services, family, asked), services)
        yield from stretch(comparison.into(found, at_home), first + 0.1, first + 0.15)
    return [_change(same, shapes, services) for same, shapes in found.items()]


_FEW = 8  # ends that are looked at one by one
_MANY = 32  # parts; with more of them, they are looked up
_NONE: Causes = frozenset()


class _Effect(NamedTuple):
    """`rules`: the policy rules that are the cause; rectangles that have these in common are made one."""

    opens: int
    closes: int
    rules: Causes


class _Rectangle(NamedTuple):
    """`isolation`: policies that are a cause because they isolate or did; of rectangles made one, those of all."""

    sources: int
    destinations: int
    isolation: Causes


class _Same(NamedTuple):
    """What changes of two families have in common when they are one."""

    opens: int
    closes: int
    causes: Causes
    sources: frozenset[str]
    destinations: frozenset[str]
    from_outside: bool
    to_outside: bool
    node: str = ""


class _Shape(NamedTuple):
    """What only the family can say: addresses outside."""

    sources: tuple[IPBlock, ...]
    destinations: tuple[IPBlock, ...]


class _Between(NamedTuple):
    """What the judges of one side say of some ends, before and after."""

    ends: int
    before: int
    after: int


class _Side:
    """Ends that are judged alike in a direction: `mask`; and what is said of other ends, in parts.  Those of a side of
    which nothing changed are worked out when they are asked for."""

    def __init__(
        self,
        direction: Direction,
        mask: int,
        judges: tuple[Judges, Judges] | None,
        says: Callable[[], Iterable[_Between]],
    ) -> None:
        self.direction, self.mask = direction, mask
        self.before: Judges | None = judges[0] if judges else None
        self.after: Judges | None = judges[1] if judges else None
        self._ask = says
        self._known: list[_Between] | None = None
        self.changed: list[_Between] = []
        if judges and judges[0] is not judges[1]:
            self.changed = [each for each in self._says if each.before != each.after]
        self._touched = reduce(or_, (each.ends for each in self.changed), 0)
        self._at: dict[int, _Between] | None = None  # by the number of an end, but for those of the largest part
        self._largest = _Between(0, 0, 0)

    @property
    def _says(self) -> list[_Between]:
        if self._known is None:
            self._known = list(self._ask())
        return self._known

    def may_change(self, other: _Side) -> bool:
        """Whether anything may be another one between the two: what one of them says of any of the other's ends is."""
        touches, is_touched = self._touched, other._touched  # most are 0, and the others long numbers
        return bool((touches and touches & other.mask) or (is_touched and is_touched & self.mask))

    def parts(self, ends: int) -> Iterable[_Between]:
        """The parts that any of these ends is in."""
        if len(self._says) <= _MANY or ends.bit_count() > _FEW:
            return [part for part in self._says if part.ends & ends]
        if self._at is None:
            # most ends are in the largest part: to hold them one by one, for each side, would take gigabytes
            self._largest, *rest = sorted(self._says, key=lambda part: -part.ends.bit_count())
            self._at = {bit.bit_length(): part for part in rest for bit in ones(part.ends)}
        at = (self._at.get(bit.bit_length(), self._largest) for bit in ones(ends))
        return {id(part): part for part in at if part.ends & ends}.values()


class _Comparison:
    """One family."""

    def __init__(self, pieces: Pieces, services: Services) -> None:
        self._pieces = pieces
        self._everything = services.everything
        self._rules: dict[tuple[int, int, int], set[Origin]] = {}
        self._isolation: dict[tuple[Direction, int], Causes] = {}

    def into(self, found: dict[_Same, dict[Family, _Shape]], at_home: OwnNodes | None) -> Steps[None]:
        """Put the changes there."""
        effects: dict[_Effect, list[_Rectangle]] = defaultdict(list)
        senders, receivers = self._sides()
        changing = [each for each in receivers if each.changed]
        for number, sender in enumerate(senders):
            yield number / len(senders)
            for receiver in receivers if sender.changed else changing:
                if sender.may_change(receiver):
                    self._meet(sender, receiver, effects)
        for effect, rectangles in effects.items():
            for rectangle in _joined(rectangles):
                self._note(effect, rectangle, found)
        for node, pods, addresses, opens, closes, causes in at_home.changes(self._pieces) if at_home else ():
            same = _Same(opens, closes, causes, pods, frozenset(), False, True, node)
            found[same][self._pieces.family] = _Shape((), self._pieces.blocks(addresses))

    def _sides(self) -> tuple[list[_Side], list[_Side]]:
        """All ends, by what judges them as senders, and as receivers; addresses that are no pods' are judged by nobody.
        What does not change for some matters to those of the other direction alone for which something may."""
        both = {direction: self._pieces.by_judges(direction) for direction in (Direction.EGRESS, Direction.INGRESS)}
        may_change = {
            direction: reduce(or_, (mask for (before, after), mask in some.items() if before is not after), 0)
            for direction, some in both.items()
        }
        senders = self._of(Direction.EGRESS, both[Direction.EGRESS], may_change[Direction.INGRESS])
        return senders, self._of(Direction.INGRESS, both[Direction.INGRESS], may_change[Direction.EGRESS])

    def _of(self, direction: Direction, some: Mapping[tuple[Judges, Judges], int], others: int) -> list[_Side]:
        """`others`: the ends that judges of which none changed are asked about."""
        pieces = self._pieces

        def said(before: Judges, after: Judges) -> Iterable[_Between]:
            among = others if before is after else pieces.everything
            return _compared(pieces.says(0, before, among=among), pieces.says(1, after, among=among))

        sides = [_Side(direction, mask, judges, partial(said, *judges)) for judges, mask in some.items()]
        nobody = (_Between(pieces.everything, self._everything, self._everything),)
        return [*sides, _Side(direction, pieces.outside, None, lambda: nobody)]

    def _meet(self, sender: _Side, receiver: _Side, effects: dict[_Effect, list[_Rectangle]]) -> None:
        for sent in sender.parts(receiver.mask):
            destinations = sent.ends & receiver.mask
            few = sent.before == sent.after and len(receiver.changed) <= _FEW
            for got in receiver.changed if few else receiver.parts(sender.mask):
                before, after = sent.before & got.before, sent.after & got.after
                sources = got.ends & sender.mask
                if before == after or not sources:
                    continue
                opens, closes = after & ~before, before & ~after
                why = [
                    self._why(sender, sent, destinations, opens & ~sent.before, closes & ~sent.after),
                    self._why(receiver, got, sources, opens & ~got.before, closes & ~got.after),
                ]
                rules, isolation = why[0][0] | why[1][0], why[0][1] | why[1][1]
                effects[_Effect(opens, closes, rules)].append(_Rectangle(sources, destinations, isolation))

    def _why(self, side: _Side, part: _Between, peers: int, opens: int, closes: int) -> tuple[Causes, Causes]:
        """Why one side allows (`opens`) or refuses (`closes`) now what it did not before: rules, and isolation."""
        rules = isolation = _NONE
        if side.before is None or side.after is None:
            return rules, isolation
        if opens:
            rules |= self._because(side, peers & part.ends, opens, now=True)
            if not side.after.isolating:
                isolation |= self._isolating(side.direction, side.before, now=False)
        if closes:
            rules |= self._because(side, peers & part.ends, closes, now=False)
            if not side.before.isolating:
                isolation |= self._isolating(side.direction, side.after, now=True)
        return rules, isolation

    def _because(self, side: _Side, peers: int, services: int, *, now: bool) -> Causes:
        """The rules that allow now (`now`) or allowed before; and of those that decide otherwise, or leave it to
        others, what is another one."""
        assert side.before is not None and side.after is not None
        before, after = (self._about(judges, peers, services, now=which) for which, judges in
                         ((False, side.before), (True, side.after)))  # fmt: skip
        allowing = {each for each in (after if now else before) if each.action is Action.ACCEPT}
        gone, come = before - after, after - before
        denying = {each for each in (gone if now else come) if each.action is Action.DENY}
        found = {(each, now) for each in allowing} | {(each, not now) for each in denying}
        found |= {(each, which) for which, some in ((False, gone), (True, come)) for each in some
                  if each.action is Action.PASS}  # fmt: skip
        return cause.rules(found)

    def _about(self, judges: Judges, peers: int, services: int, *, now: bool) -> set[Origin]:
        key = id(judges), peers, services
        found = self._rules.get(key)
        if found is None:
            found = self._rules[key] = self._pieces.about(int(now), judges, peers, services)
        return found

    def _isolating(self, direction: Direction, judges: Judges, *, now: bool) -> Causes:
        found = self._isolation.get((direction, id(judges)))
        if found is None:
            found = cause.isolation(direction, judges.isolating, now=now)
            self._isolation[direction, id(judges)] = found
        return found

    def _note(self, effect: _Effect, rectangle: _Rectangle, found: dict[_Same, dict[Family, _Shape]]) -> None:
        pieces = self._pieces
        shape = _Shape(pieces.blocks(rectangle.sources), pieces.blocks(rectangle.destinations))
        senders, receivers = pieces.pods(rectangle.sources), pieces.pods(rectangle.destinations)
        if len(receivers) == 1 and not shape.destinations:  # not to itself
            senders -= receivers
        if len(senders) == 1 and not shape.sources:
            receivers -= senders
        if (senders or shape.sources) and (receivers or shape.destinations):
            causes = effect.rules | rectangle.isolation
            outside = bool(shape.sources), bool(shape.destinations)
            same = _Same(effect.opens, effect.closes, causes, senders, receivers, *outside)
            found[same][pieces.family] = shape


def _compared(before: Said, after: Said) -> Iterator[_Between]:
    """The ends by what is said of them before and after."""
    for services, some in before.items():
        same = some & after.get(services, 0)
        if same:
            yield _Between(same, services, services)
        rest = some & ~same
        for now, others in after.items() if rest else ():
            if both := rest & others:
                yield _Between(both, services, now)
                rest &= ~both
                if not rest:
                    break


def _joined(rectangles: Iterable[_Rectangle]) -> list[_Rectangle]:
    """The same pairs in fewer rectangles."""
    by_destinations: dict[int, _Rectangle] = {}
    for each in rectangles:
        sources, destinations, isolation = by_destinations.get(each.destinations, each)
        by_destinations[destinations] = _Rectangle(sources | each.sources, destinations, isolation | each.isolation)
    by_sources: dict[int, _Rectangle] = {}
    for each in by_destinations.values():
        sources, destinations, isolation = by_sources.get(each.sources, each)
        by_sources[sources] = _Rectangle(sources, destinations | each.destinations, isolation | each.isolation)
    return list(by_sources.values())


def _change(same: _Same, shapes: Mapping[Family, _Shape], services: Services) -> Change:
    sources = tuple(block for shape in shapes.values() for block in shape.sources)
    destinations = tuple(block for shape in shapes.values() for block in shape.destinations)
    return Change(
        Party(same.sources, sources),
        Party(same.destinations, destinations),
        services.spans(same.opens),
        services.spans(same.closes),
        tuple(sorted(same.causes)),
        tuple(shapes),
        same.node,
    )
