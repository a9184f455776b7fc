"""One world out of many files, kept up to date file by file, with the last good version where a manifest is bad.

The order of files never matters.  An object is, in this order: its one good version; where its manifest is rejected,
the good version that it had before (a pod's, if the rejected manifest does not say that it is elsewhere); else its
closed version.

A file that could not be read to its end is broken: it may hold any object, be it one of its own or one that was moved
there.  So as long as a file is broken, a policy or a namespace that is in no file any more stays as it was, closed ones
too.  Pods and nodes come and go, and their addresses are given to others: one stays only where the file that it stood
in is broken, or a file broke in the change that it went with.

What was in force before a restart is asked for in the first update, and only where that is needed (LastGood): so the
world is the one that it would be without a restart.

Of what the files say only the objects are looked at that changed files hold now or held before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from netpold.policy.changes import Changes
from netpold.policy.closed import closed_any_policy, closed_namespace, closed_node, closed_pod
from netpold.policy.findings import MOST_IN_ALL, MOST_IN_FILE, Findings
from netpold.policy.manifest import Object, Parsed
from netpold.policy.model import (
    AnyPolicy,
    ClusterPolicy,
    Finding,
    Namespace,
    Node,
    Pod,
    Policy,
    Position,
    World,
    policy_kind,
    policy_title,
)
from netpold.policy.priorities import Priorities

_T = TypeVar("_T", bound=Object)

_NOWHERE = Position("", 0)
_NOTHING = Parsed((), (), {}, truncated=False)
_NO_FILES: frozenset[str] = frozenset()


class LastGood(Protocol):
    """What was in force before a restart, closed versions included."""

    def version(self, kind: str, key: str) -> Object | None:
        """The object of that kind and key."""

    def names(self) -> Iterable[tuple[str, str]]:
        """The kind and key of each object."""


class Assembly:
    """What should be in force.  `world` is always the same object; its mappings change with every `update`."""

    def __init__(self, last_good: LastGood | None = None) -> None:
        self._pods = _Table[Pod]("Pod", closed_pod, comes_and_goes=True)
        self._namespaces = _Table[Namespace]("Namespace", closed_namespace)
        self._policies = _Table[AnyPolicy]("", closed_any_policy)
        self._nodes = _Table[Node]("Node", closed_node, comes_and_goes=True)
        self._by_type: Mapping[type, _Table[Any]] = {
            Pod: self._pods,
            Namespace: self._namespaces,
            Policy: self._policies,
            ClusterPolicy: self._policies,
            Node: self._nodes,
        }
        self._priorities = Priorities()
        self._last_good = last_good  # None from the first update on: then all that was good is in the world
        self._parsed: dict[str, Parsed] = {}
        self._broken: frozenset[str] = frozenset()
        self._with_findings: set[str] = set()
        self.passed_over: Counter[str] = Counter()
        self.world = World(self._pods.objects, self._namespaces.objects, self._policies.objects, self._nodes.objects)

    def update(self, files: Mapping[str, Parsed | None]) -> Changes:
        """Take in what these files say now; None: the file is gone.  Returns what became of the objects."""
        for file, says in files.items():
            self._take(file, self._parsed.get(file, _NOTHING), says or _NOTHING)
            if says is None:
                self._parsed.pop(file, None)
            else:
                self._parsed[file] = says
        last_good, self._last_good = self._last_good, None
        broken = self._break(files, is_first=last_good is not None)
        if last_good is not None and broken.files:
            tables = {table.kind: table for table in self._tables()}
            for kind, key in last_good.names():
                table = tables.get(kind) or (self._policies if kind == policy_kind(key) else None)
                if table is not None:
                    table.touch(key)
        changes = Changes(
            self._pods.settle(broken, last_good),
            self._namespaces.settle(broken, last_good),
            self._policies.settle(broken, last_good),
            self._nodes.settle(broken, last_good),
        )
        self._priorities.update(changes)
        return changes

    def _break(self, files: Mapping[str, Parsed | None], is_first: bool) -> _Broken:
        """Note which files are broken now; what stays because of others is to be looked at again."""
        changed = frozenset(file for file, says in files.items() if says and says.truncated)
        before, self._broken = self._broken, (self._broken - files.keys()) | changed
        if self._broken != before:
            for table in self._tables():
                table.touch_kept()
        # in the first update all are new, whenever they broke
        return _Broken(self._broken, _NO_FILES if is_first else changed, min(self._broken, default=""))

    @property
    def rejected(self) -> frozenset[str]:
        """`Kind namespace/name`, or `Kind name`, of the objects whose manifests are not in force as they are written:
        an earlier version is, or a closed one."""
        return frozenset(table.title(key) for table in self._tables() for key in table.rejected)

    @property
    def last_good(self) -> frozenset[str]:
        """`Kind namespace/name` of those of the rejected ones of which an earlier good version is in force."""
        return frozenset(table.title(key) for table in self._tables() for key in table.as_before())

    @property
    def rejected_policies(self) -> int:
        return len(self._policies.rejected)

    @property
    def quarantined_policies(self) -> int:
        """Of the rejected ones, those of which a closed version is in force."""
        found = map(self._policies.objects.get, self._policies.rejected)
        return sum(each is not None and each.quarantined for each in found)

    def findings(self) -> list[Finding]:
        """Those of the files and those between files; of very many the first (by their files' names), and a count."""
        found = Findings(MOST_IN_ALL)
        for file in sorted(self._with_findings):
            found.add(self._parsed[file].findings)
        for table in self._tables():
            for key in sorted(table.notes):
                found.add(table.notes[key])
        found.add(self._priorities.findings())
        return found.told("these files")

    def _tables(self) -> tuple[_Table[Pod], _Table[Namespace], _Table[AnyPolicy], _Table[Node]]:
        return self._pods, self._namespaces, self._policies, self._nodes

    def _take(self, file: str, before: Parsed, now: Parsed) -> None:
        stays = {id(each) for each in before.objects} & {id(each) for each in now.objects} if before.objects else ()
        for each in before.objects:
            if id(each) not in stays:
                self._by_type[type(each)].leave(each)
        for each in now.objects:
            if id(each) not in stays:
                self._by_type[type(each)].enter(each)
        _set(self._with_findings, file, bool(now.findings))
        self.passed_over.subtract(before.passed_over)
        self.passed_over.update(now.passed_over)


class _Broken(NamedTuple):
    """The files that are broken; of these, those that changed in this update; and the first of them, by name."""

    files: frozenset[str]
    changed: frozenset[str]
    first: str


class _Table(Generic[_T]):
    """The objects of one kind, and what of them can't be told from the objects alone.  `kind` '': policies, whose keys
    tell it.  `comes_and_goes`: an object that is in no file any more is given up sooner."""

    def __init__(self, kind: str, close: Callable[[Sequence[_T]], _T], *, comes_and_goes: bool = False) -> None:
        self.kind = kind
        self._comes_and_goes = comes_and_goes
        self.objects: dict[str, _T] = {}
        self.rejected: set[str] = set()
        self.notes: dict[str, list[Finding]] = {}
        self._close: Callable[[Sequence[_T]], _T] = close
        # what the files say of a key, where that is anything else than the one object that is in force
        self._copies: dict[str, list[_T]] = {}
        self._kept: dict[str, frozenset[str]] = {}  # by key that stays, the broken files that may hold it
        self._touched: dict[str, list[_T]] = {}  # since `settle`: what the files say now

    def kind_of(self, key: str) -> str:
        return self.kind or policy_kind(key)

    def title(self, key: str) -> str:
        """`Kind namespace/name`, or `Kind name`."""
        return f"{self.kind} {key}" if self.kind else policy_title(key)

    def leave(self, each: _T) -> None:
        copies = self._said(each.key)
        at = next((at for at, copy in enumerate(copies) if copy is each), None)
        if at is not None:  # mostly the first: no work that grows with the square of the copies
            del copies[at]

    def enter(self, each: _T) -> None:
        key = each.key
        if key in self.objects or key in self._touched or key in self._copies:
            self._said(key).append(each)
        else:
            self._touched[key] = [each]

    def as_before(self) -> Iterable[str]:
        """The keys of which an earlier good version is in force."""
        return (key for key in self.rejected if not self.objects[key].quarantined)

    def touch(self, key: str) -> None:
        """This key is to be looked at, whatever the files say of it."""
        self._said(key)

    def touch_kept(self) -> None:
        """What stays because files are broken is to be looked at again."""
        for key in self._kept:
            self._said(key)

    def _said(self, key: str) -> list[_T]:
        copies = self._touched.get(key)
        if copies is None:
            copies = self._touched[key] = self._copies[key][:] if key in self._copies else self._only(key)
        return copies

    def _only(self, key: str) -> list[_T]:
        return [self.objects[key]] if key in self.objects else []

    def settle(self, broken: _Broken, last_good: LastGood | None) -> dict[str, tuple[_T | None, _T | None]]:
        """Decide on every object that was touched; returns those that are others now, before and after.

        `last_good`: the first time, what was in force before.
        """
        changed: dict[str, tuple[_T | None, _T | None]] = {}
        for key, copies in self._touched.items():
            before = self.objects.get(key)
            now = self._decide(key, copies, before, broken, last_good)
            if now is before:
                continue
            changed[key] = before, now
            if now is None:
                del self.objects[key]
            else:
                self.objects[key] = now
        self._touched = {}
        return changed

    def _decide(
        self, key: str, copies: list[_T], before: _T | None, broken: _Broken, last_good: LastGood | None
    ) -> _T | None:
        if len(copies) == 1 and not copies[0].quarantined:  # almost always
            if key in self._copies:
                self._forget(key)
            return copies[0]
        kept = self._kept.get(key, _NO_FILES)
        self._forget(key)
        if last_good is not None:
            before = cast(_T | None, last_good.version(self.kind_of(key), key))
        good = before if before is not None and not before.quarantined else None
        if not copies:
            if before is None or not broken.files:
                return None
            where = place(before)
            kept = broken.files & (kept or broken.changed | {where.file}) if self._comes_and_goes else broken.files
            if not kept:
                return None
            self._kept[key] = kept
            if where.file not in kept:
                holder = broken.first if broken.first in kept else min(kept)
                self.notes[key] = [may_be_there(self.title(key), where, holder)]
            now, rejected = before, True
        else:
            copies.sort(key=place)
            same = all(copy == copies[0] for copy in copies)
            if len(copies) > 1:
                notes = Findings(MOST_IN_FILE)
                notes.add(_notes(self.title(key), copies, same))
                self.notes[key] = notes.told("these files")
            rejected = not same or copies[0].quarantined
            now = copies[0] if same else self._close(copies)
            if rejected and good is not None and _is_where(good, copies):
                now = good
        self._copies[key] = copies
        if rejected:
            self.rejected.add(key)
        return now

    def _forget(self, key: str) -> None:
        self._copies.pop(key, None)
        self._kept.pop(key, None)
        self.notes.pop(key, None)
        self.rejected.discard(key)


def _set(names: set[str], name: str, belongs: bool) -> None:
    if belongs:
        names.add(name)
    else:
        names.discard(name)


def _notes(subject: str, copies: Sequence[_T], same: bool) -> Iterable[Finding]:
    first = copies[0].position
    for copy in copies[1:]:
        where = copy.position or _NOWHERE
        if same and copy.quarantined:  # compared are closed versions, in which what differs may be left out
            fault = f"{subject} is here and in {first}, with errors in both"
            cure = "keep the one that is meant: whether they say the same is not known before the errors are mended"
            yield Finding(where, "duplicate-object", "", fault, cure, subject, "warning")
        elif same:
            fault = f"{subject} is here and, the same, in {first}"
            yield Finding(where, "duplicate-object", "", fault, "keep one of them", subject, "warning")
        else:
            fault = f"{subject} is here and, different, in {first}: neither is in force"
            yield Finding(where, "conflicting-objects", "", fault, "keep one of them", subject)


def may_be_there(subject: str, where: Position, holder: str) -> Finding:
    """About an object that is in no file, and stays."""
    fault = (
        f"{subject}, which was in {where}, is in no file any more; this one can't be read to its end and may hold it, "
        "so it stays in force as it was"
    )
    cure = "mend this file or take it away; what no file holds goes when all files can be read to their ends"
    return Finding(Position(holder, 1), "may-be-here", "", fault, cure, subject)


def place(found: Object) -> Position:
    """Where it is written."""
    return found.position or _NOWHERE


def _is_where(good: Object, copies: Sequence[Object]) -> bool:
    """Whether a good version is in the places that rejected ones say.  One that is elsewhere would leave these to
    nobody's rules: it can't stand for them."""
    if isinstance(good, Pod):
        pods = [each for each in copies if isinstance(each, Pod)]
        places = {place for each in pods for place in (*each.addresses, *each.interfaces)}
        return places <= {*good.addresses, *good.interfaces}
    if isinstance(good, Node):
        nodes = [each for each in copies if isinstance(each, Node)]
        return {address for each in nodes for address in each.addresses} <= {*good.addresses}
    return True
