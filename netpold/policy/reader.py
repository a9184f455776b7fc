"""Strict YAML with positions: bytes to plain trees, built from libyaml's events.

A file is cut into chunks, one for each document (`chunks.py`), and each becomes a tree (`tree.py`) of Map, Seq and
Scalar.  A Scalar is libyaml's own event: it has the text, whether it was plain, and its place, and costs nothing more
to make; its text gets a type only where someone asks.  The entries of a List are handed out one by one and then
forgotten, so a file that holds a whole cluster takes no more memory than its largest object.

Refused, each with a Fault: aliases, anchors, tags, merge keys, duplicate keys, keys that are not text, depth, size.
What a fault leaves in doubt is replaced by Unread, so that nobody takes it for read.  After a syntax error the tree so
far is given with `broken` set, and maps and lists that were still open, or may have more entries than were read, have
`whole` False.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from yaml import events
from yaml._yaml import CParser
from yaml.error import MarkedYAMLError

from netpold.policy.chunks import LIMITS, Limits, refuse_file, split
from netpold.policy.faults import TEMPLATE_CURE, TEMPLATE_FAULT, Fault, clean, syntax_fault
from netpold.policy.tree import Map, Node, Place, Seq, Unread, is_flow, new_map, new_seq, shown

# libyaml's events have what Scalar has; to the type checker they are Any.
_ALIAS: Any = events.AliasEvent
_DOCUMENT: Any = events.DocumentStartEvent
_MAP: Any = events.MappingStartEvent
_MAP_END: Any = events.MappingEndEvent
_SCALAR: Any = events.ScalarEvent
_SEQ_END: Any = events.SequenceEndEvent


@dataclass(slots=True)
class Document:
    """A document, or one entry of a List.

    `root` None: nothing could be read.  `start`, `end`: its chunk's bytes in the file; `line`: the chunk's first line,
    from 0, from which places count.  `broken`: reading stopped in it, and what the rest of the chunk says is unknown.
    `item`: its index, where it is an entry of a List; `head` then has the List's own fields so far.
    """

    root: Node | None
    start: int
    end: int
    line: int
    faults: list[Fault] = field(default_factory=list)
    broken: bool = False
    item: int | None = None
    head: Map | None = None


_VALUE_CURE = "write the value out, or quote it if it is text"
_MARK_CURE = "take it out, or quote the value if it is text"
_DIRECTIVE = re.compile(rb"^%", re.MULTILINE)
_BEGIN = Place()


def read(data: bytes, limits: Limits = LIMITS) -> Iterator[Document]:
    """The documents of a file in order, of a List its entries and then itself.  Raises nothing, whatever the bytes."""
    refusal = refuse_file(data, limits)
    if refusal:
        yield Document(None, 0, len(data), 0, [refusal], broken=True)
        return
    for count, (start, end, line) in enumerate(split(data)):
        if count >= limits.documents:
            fault = f"more than {limits.documents} documents: the rest is not read"
            refusal = Fault(Place(), "too-many-documents", fault, "split the file")
            yield Document(None, start, len(data), line, [refusal], broken=True)
            return
        yield from read_chunk(data[start:end], start, line, limits)


def read_chunk(chunk: bytes, start: int, line: int, limits: Limits) -> Iterator[Document]:
    """The documents of one chunk, which begins at that byte and in that line (from 0) of its file."""
    if not chunk.startswith(b"---") or chunk[3:].strip():
        yield from _Builder(chunk, start, line, limits).documents()


class _StopReading(Exception):
    """Nothing more is to be read of this chunk; a fault says why."""


class _Builder:
    """Builds the trees of one chunk.  Its recursion is safe: the depth is limited before it."""

    def __init__(self, chunk: bytes, start: int, line: int, limits: Limits) -> None:
        self._start, self._end, self._line, self._limits = start, start + len(chunk), line, limits
        self._chunk, self._bad = clean(chunk)
        self._faults: list[Fault] = []
        self._told: list[Fault] | None = None  # has the fault about bad text already
        self._left = limits.nodes
        self._next: Callable[[], Any] = CParser(self._chunk).get_event
        self._get: Callable[[], Any] = self._next if not self._bad and len(chunk) <= limits.scalar else self._checked
        self._marked = b"&" in chunk or b"*" in chunk or b"!" in chunk  # there may be anchors, aliases, tags
        self._torn: list[Map] = []  # may have entries that could not be read
        self._broken = False
        self._root = new_seq(_BEGIN)  # holds the document that is being read, and the next one the entry of a List
        self._entry = new_seq(_BEGIN)
        self._index = 0

    def documents(self) -> Iterator[Document]:
        """The documents of the chunk (several only where `...` ends one), and what could be read of a broken one."""
        try:
            if not self._only_directives():
                self._get()
                while self._get().__class__ is _DOCUMENT:
                    yield from self._document(self._get())
                    self._get()
        except MarkedYAMLError as error:
            self._faults.append(syntax_fault(error, self._chunk))
        except _StopReading:
            pass
        else:
            if self._faults:  # about what stands after the last document
                yield self._made()
            return
        self._broken = True
        if self._entry:
            yield self._made_entry()
        yield self._made()

    def _only_directives(self) -> bool:
        """Whether nothing but `%` lines and comments stand here.  Other `%` lines are refused, as kubectl refuses them
        (libyaml's work on many of them is quadratic)."""
        directive = _DIRECTIVE.search(self._chunk) if b"%" in self._chunk else None
        if not directive:
            return False
        if all(line.lstrip()[:1] in (b"", b"#", b"%") for line in self._chunk.splitlines()):
            return True
        place = Place(self._chunk.count(b"\n", 0, directive.start()))
        self._refuse(place, "directive", "a line that begins with `%` is a YAML directive", "take it out")
        raise _StopReading

    def _document(self, event: Any) -> Iterator[Document]:
        if event.__class__ is _MAP and not event.anchor and not event.tag:
            root = new_map(event.start_mark)
            self._root.append(root)
            while (entries := self._fill_map(root, 1, "items")) is not None:
                root["items"] = new_seq(entries.start_mark)
                yield from self._entries(root["items"])
        else:
            self._append(self._root, event, 1)
        yield self._made()
        self._root.clear()

    def _entries(self, entries: Seq) -> Iterator[Document]:
        """The entries of a List, each forgotten when the next is asked for."""
        self._index = 0
        while (event := self._get()).__class__ is not _SEQ_END:
            self._append(self._entry, event, 3)
            yield self._made_entry()
            self._entry.clear()
            self._index += 1
        entries.whole = True

    def _made(self) -> Document:
        return self._with_faults(self._root[0] if self._root else None)

    def _made_entry(self) -> Document:
        document = self._with_faults(self._entry[0])
        document.item, document.head = self._index, self._root[0]
        return document

    def _with_faults(self, root: Node | None) -> Document:
        faults, self._faults = self._faults, []
        self._left = self._limits.nodes
        return Document(root, self._start, self._end, self._line, faults, self._broken)

    def _fill_map(self, node: Map, depth: int, pause: str | None = None) -> Any:
        """Read a mapping to its end (gives None), or to the list at the key `pause` (gives the event that opens it, and
        goes on after it when called again).  `depth` is the mapping's own.

        A map or list is put into its place before it is filled, so that what was read of it is there if that fails."""
        if depth > self._limits.depth:
            self._too_deep(node)
        get, scalars, marked = self._get, node.scalars, self._marked
        for _ in range(self._left):
            key_event = get()
            if key_event.__class__ is _MAP_END:
                break
            if key_event.__class__ is not _SCALAR:
                self._refuse_key(node, key_event, depth)
                continue
            key = key_event.value
            if key in scalars or (marked and (key_event.anchor or key_event.tag)):
                self._refuse_entry(node, key_event, get(), depth)
                continue
            scalars[key] = key_event
            event = get()
            kind = event.__class__
            if marked and (event.anchor or event.tag):
                node[key] = self._marked_value(event, depth + 1)
            elif kind is _SCALAR:
                node[key] = event
            elif kind is _MAP:
                node[key] = child = new_map(event.start_mark)
                self._fill_map(child, depth + 1)
            elif key == pause:
                return event
            else:
                node[key] = entries = new_seq(event.start_mark)
                self._fill_seq(entries, depth + 1)
        else:
            self._too_large(node)
        self._left -= len(node)
        if "<<" in scalars and scalars["<<"].implicit[0]:
            self._refuse(
                scalars["<<"].start_mark, "merge-key", "a merge key (`<<`) is not read", "write the fields out"
            )
            self._torn.append(node)
        node.whole = not self._torn or all(torn is not node for torn in self._torn)
        return None

    def _fill_seq(self, node: Seq, depth: int) -> None:
        if depth > self._limits.depth:
            self._too_deep(node)
        for _ in range(self._left):
            event = self._get()
            if event.__class__ is _SEQ_END:
                break
            self._append(node, event, depth + 1)
        else:
            self._too_large(node)
        self._left -= len(node)
        node.whole = True

    def _append(self, holder: Seq, event: Any, depth: int) -> None:
        """Read the value that the event begins, at that depth, into the holder."""
        kind = event.__class__
        if self._marked and (event.anchor or event.tag):
            holder.append(self._marked_value(event, depth))
        elif kind is _SCALAR:
            holder.append(event)
        elif kind is _MAP:
            node = new_map(event.start_mark)
            holder.append(node)
            self._fill_map(node, depth)
        else:
            entries = new_seq(event.start_mark)
            holder.append(entries)
            self._fill_seq(entries, depth)

    def _marked_value(self, event: Any, depth: int) -> Node:
        """A value with an anchor counts as it is, but the document does not; one with a tag, or an alias, is unread."""
        place = event.start_mark
        if event.__class__ is _ALIAS:
            self._refuse(place, "alias", "an alias (text that begins with `*`) is not read", _VALUE_CURE)
            return Unread(place)
        self._refuse_marks(event)
        value = self._skipped(event, depth)
        return Unread(place) if event.tag else value

    def _skipped(self, event: Any, depth: int) -> Any:
        """Read the value that the event begins, whose own marks do not matter any more."""
        if event.__class__ is _ALIAS:
            return Unread(event.start_mark)
        if event.__class__ is _SCALAR:
            return event
        if event.__class__ is _MAP:
            node = new_map(event.start_mark)
            self._fill_map(node, depth)
            return node
        entries = new_seq(event.start_mark)
        self._fill_seq(entries, depth)
        return entries

    def _too_large(self, node: Node) -> None:
        fault = f"more than {self._limits.nodes} values in one object"
        self._refuse(node.start_mark, "too-large", fault, "split the object")
        raise _StopReading

    def _too_deep(self, node: Node) -> None:
        fault = f"more than {self._limits.depth} levels of maps and lists"
        self._refuse(node.start_mark, "too-deep", fault, "write it with fewer levels")
        raise _StopReading

    def _checked(self) -> Any:
        """The next event, where the chunk is not clean, or large enough to hold an oversize scalar."""
        event = self._next()
        end = event.end_mark.index
        if self._bad and self._bad.before(end):
            if self._told is not self._faults:  # once for a document
                self._faults.append(self._bad.fault())
                self._told = self._faults
            self._bad.pass_over(end)
        if event.__class__ is _SCALAR and len(event.value) > self._limits.scalar:
            fault = f"a text of {len(event.value)} characters, the limit is {self._limits.scalar}"
            self._refuse(event.start_mark, "scalar-too-large", fault, "make it shorter")
            raise _StopReading
        return event

    def _refuse_marks(self, event: Any) -> None:
        """None is quoted: where somebody forgot the quotes, it is a value's text, mostly a password's."""
        if event.anchor:
            self._refuse(event.start_mark, "anchor", "an anchor (text that begins with `&`) is not read", _MARK_CURE)
        if event.tag:
            self._refuse(event.start_mark, "tag", "a tag (text that begins with `!`) is not read", _MARK_CURE)

    def _refuse_entry(self, node: Map, key_event: Any, event: Any, depth: int) -> None:
        """A key that is there already, or has an anchor or a tag: neither value counts.

        Without quotes between braces it is not quoted here: it may be the rest of a value with a comma in it."""
        key = key_event.value
        first = node.scalars.setdefault(key, key_event)
        if first is not key_event:
            line = first.start_mark.line + self._line + 1
            name = "a key" if is_flow(node) and key_event.implicit[0] else f"the key `{shown(key)}`"
            fault = f"{name} is here twice, first in line {line}"
            self._refuse(key_event.start_mark, "duplicate-key", fault, "keep one of them")
        self._refuse_marks(key_event)
        node[key] = Unread(key_event.start_mark)
        self._skipped(event, depth + 1)

    def _refuse_key(self, node: Map, key_event: Any, depth: int) -> None:
        """A key that is a map, a list or an alias: the map may have any fields."""
        self._torn.append(node)
        told = len(self._faults)
        self._skipped(key_event, depth + 1)
        if key_event.__class__ is _MAP and key_event.start_mark.index == node.start_mark.index + 1:  # `{{`
            self._refuse(key_event.start_mark, "key-not-text", TEMPLATE_FAULT, TEMPLATE_CURE)
        elif all(fault.fault != TEMPLATE_FAULT for fault in self._faults[told:]):  # else the key has a fault already
            self._refuse(key_event.start_mark, "key-not-text", "a key is not text", "write `name: value`")
        self._skipped(self._get(), depth + 1)

    def _refuse(self, place: Place, code: str, fault: str, cure: str) -> None:
        place = Place(place.line, place.column, place.index)
        self._faults.append(Fault(place, code, fault, cure))
        if len(self._faults) >= self._limits.faults:
            fault = f"more than {self._limits.faults} faults in one document: the rest is not read"
            self._faults.append(Fault(place, "too-many-faults", fault, "mend these first"))
            raise _StopReading
