"""Catches one packet that comes by, and tells the way that it took through the kernel's rules.

A table of its own marks packets (kernel/trace_table.py), the kernel tells where marked ones pass
(kernel/trace_events.py), and here the events of the first one are gathered until it is at the end of its way, dropped,
or not heard of any more.  The kernel calls a packet by a number, which changes where a bridge hands it up; then its
headers tell that it is it, or a copy (copies.py).

What rules say is read afterwards (`way`), when nothing waits for it.  Lines of legacy tables come by another socket:
each is put before the first station that comes after its hook and table.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netpold.host.copies import Way, lines_of, ways
from netpold.host.kernel import rule_list
from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.rule_list import Saved
from netpold.host.kernel.trace_events import Event, Line, TraceEvents, TraceLines, why_no_lines
from netpold.host.kernel.trace_table import CHAINS, PREFIX, REPLY, SAID, STATES, Aim, TraceTable
from netpold.host.nflog import Heading
from netpold.rules.traced import Hook, Step
from netpold.rules.walk import Packet

QUIET_S = 0.5  # after which a packet of which nothing more is heard is taken to have gone
COPIES_S = 0.1  # for what is told of its copies, once one is at its end
LINES_S = 0.3  # for lines of legacy tables, which come a little later
MOST_EVENTS = 20000  # of one packet, and its copies

_INET = 1  # NFPROTO_INET
_TOOLS: dict[int, str] = {socket.AF_INET: "iptables-nft", socket.AF_INET6: "ip6tables-nft"}
_FAMILIES = {4: "ip", 6: "ip6"}
_HOOK_ORDER = {"PREROUTING": 0, "OUTPUT": 0, "INPUT": 1, "FORWARD": 1, "POSTROUTING": 2}
_PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
_FILTERS: dict[str, Hook] = {
    "before-fwd": "FORWARD",
    "before-in": "INPUT",
    "before-out": "OUTPUT",
}
_EITHER = ("before-fwd", "before-in")  # no packet passes both


@dataclass(frozen=True, slots=True)
class Caught:
    """A packet that came by, or a copy of it.

    `packet`: as it was when it came to the filter table, or else first; `state`: what conntrack said of it, '' where it
    was not asked; `from_bridge`: it came in by a bridge; `bridged`: and it goes on to another port of that; `port`:
    that, '' where it is not told; `stations`: the chains of the table that it passed; `at`: time.time().
    """

    packet: Packet
    from_bridge: bool
    bridged: bool
    port: str
    state: str
    hook: Hook
    stations: frozenset[str]
    steps: tuple[Step, ...]
    by_rules: bool
    at: float

    @property
    def is_at_its_end(self) -> bool:
        """Whether it was about to leave, or to be handed to the node."""
        return not self.stations.isdisjoint(("end-in", "end-post"))


class Trace:
    """Waits for a packet, in the network namespace of the thread that makes it, until it is closed.

    `legacy`: rules of legacy tables matter.  `note`: why those can't be told one by one, '' where they can.  Raises
    KernelError.
    """

    def __init__(self, aims: Sequence[Aim], *, legacy: bool) -> None:
        self._lines: TraceLines | None = None
        self._events = TraceEvents()
        self.note = why_no_lines() if legacy else ""
        try:
            if legacy and not self.note:
                try:
                    self._lines = TraceLines()
                except KernelError as error:
                    self.note = str(error)
            self._table = TraceTable(aims)
            try:
                self._marks = _own_rules(self._table.name, len(aims))
            except KernelError:
                self._table.close()
                raise
        except KernelError:
            self._close_sockets()
            raise
        self._legacy = legacy
        self._numbers: set[int] = set()
        self._headings: list[Heading] = []
        self._found: list[Event] = []
        self._log: list[Line] = []
        self._at = 0.0
        self._heard = 0.0
        self._over: float | None = None

    def filenos(self) -> list[int]:
        """What to wait for."""
        return [each.fileno() for each in (self._events, self._lines) if each is not None]

    def close(self) -> None:
        """Trace nothing any more."""
        self._table.close()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._events.close()
        if self._lines is not None:
            self._lines.close()

    # Gathering ----------------------------------------------------------------------------------------------------

    def read(self) -> bool:
        """Take in what has come; whether a packet is caught.  Raises KernelError."""
        for event in self._events.read():
            self._take(event)
        if self._lines is not None:
            self._log = [*self._log, *self._lines.read()][-MOST_EVENTS:]  # those of other packets are sorted out later
        if not self._found:
            return False
        now = time.monotonic()
        return now - self._heard >= QUIET_S or (self._over is not None and now >= self._over)

    @property
    def due(self) -> float | None:
        """When (time.monotonic()) to `read` even if nothing comes."""
        if not self._found:
            return None
        return self._heard + QUIET_S if self._over is None else min(self._over, self._heard + QUIET_S)

    def _take(self, event: Event) -> None:
        is_station = event.nfproto == _INET and event.table == self._table.name
        is_mark = is_station and event.kind == "rule" and self._marks.get(event.handle) == "mark"
        if not self._found:
            if not is_mark:
                return
            self._at = time.time()
        elif event.number not in self._numbers and event.heading not in self._headings:
            return
        if len(self._found) >= MOST_EVENTS:
            return
        self._numbers.add(event.number)
        if event.heading is not None and event.heading not in self._headings:
            self._headings.append(event.heading)
        self._found.append(event)
        self._heard = time.monotonic()
        if event.verdict == "drop" or (is_station and event.chain in ("end-in", "end-post")):
            self._over = self._over or self._heard + (LINES_S if self._lines is not None else COPIES_S)

    # The way ------------------------------------------------------------------------------------------------------

    def caught(self) -> list[Caught]:
        """The packet, or its copies, once `read` said so; reads what the rules say.  Raises KernelError."""
        texts, copies = _Texts(), 0
        lines = [line for line in self._log if line.heading in self._headings]
        found = []
        for way in ways(self._found, [(_INET, self._table.name, name) for name in _EITHER]):
            is_copy = any(self._is_station(each) and each.chain == "before-fwd" for each in way)
            found.append(self._caught(way, lines_of(lines, copies if is_copy else None), texts))
            copies += is_copy
        return found

    def _caught(self, way: Way, lines: Sequence[Line], texts: _Texts) -> Caught:
        stations = {each.chain: each for each in reversed(way) if self._is_station(each)}  # each's first event
        name = next((name for name in _FILTERS if name in stations), "")
        first, last = way[0], stations.get(name)
        seen = first if last is None or last.heading is None else last
        state = self._state(way)
        packet = self._packet(seen, state)
        from_bridge = _is_bridge(packet.in_interface)
        # who routes a packet takes one off
        bridged = from_bridge and packet.in_interface == packet.out_interface and seen.hop_limit == first.hop_limit
        return Caught(
            packet=packet,
            from_bridge=from_bridge,
            bridged=bridged,
            port=next((_name(line.outgoing) for line in lines if line.hook == "FORWARD"), "") if bridged else "",
            state=state,
            hook=_FILTERS.get(name, ""),
            stations=frozenset(stations),
            steps=tuple(self._steps(way, lines, texts)),
            by_rules=not (self._legacy and self._lines is None),
            at=self._at,
        )

    def _is_station(self, event: Event) -> bool:
        return event.nfproto == _INET and event.table == self._table.name

    def _state(self, way: Way) -> str:
        said = [self._marks.get(each.handle, "") for each in way if self._is_station(each)]
        return next((each for each in said if each in STATES), "") + (f", {REPLY}" if REPLY in said else "")

    def _packet(self, seen: Event, state: str) -> Packet:
        heading = seen.heading or self._headings[0]
        return Packet(
            heading.source,
            heading.destination,
            heading.protocol,
            heading.port,
            _name(seen.incoming),
            _name(seen.outgoing),
            source_port=heading.source_port,
            icmp_type=heading.icmp_type,
            hop_limit=seen.hop_limit,
            reply=state == f"established, {REPLY}",
            related=state.startswith("related"),
            known=state.startswith("established"),
            middle=heading.protocol == "tcp" and not state.startswith("new"),
        )

    def _steps(self, way: Way, lines: Sequence[Line], texts: _Texts) -> list[Step]:
        left = list(lines)
        found: list[Step] = []
        for event in way:
            if self._is_station(event):
                if event.chain == SAID:
                    continue
                here = _rank(*CHAINS[event.chain])
                while left and _rank(left[0].hook, _PRIORITIES.get(left[0].table, 0)) < here:
                    found.append(texts.of_line(left.pop(0)))
            elif event.kind != "return" and not event.table.startswith(PREFIX):  # there may be other traces
                found.append(texts.of_event(event))
        found += [texts.of_line(each) for each in left]
        return [each for each in found if each.number or each.verdict != "return"]


class _Texts:
    """Events and lines as steps, with what rules say; each table is read once."""

    def __init__(self) -> None:
        self._handles: dict[tuple[int, str], Mapping[str, Sequence[int]]] = {}
        self._saved: dict[tuple[str, str], Saved | None] = {}
        self._listed: dict[tuple[int, str, str], Mapping[int, str]] = {}

    def of_event(self, event: Event) -> Step:
        family = rule_list.NAMES.get(event.nfproto, str(event.nfproto))
        verdict = "continue" if event.verdict == "break" else event.verdict
        if event.kind == "policy":
            return Step(family, event.table, event.chain, None, "", verdict)
        key = event.nfproto, event.table
        if key not in self._handles:
            self._handles[key] = rule_list.handles(*key)
        rules = self._handles[key].get(event.chain, ())
        number = rules.index(event.handle) + 1 if event.handle in rules else 0
        return Step(family, event.table, event.chain, number, self._text(event, number), verdict, event.target)

    def _text(self, event: Event, number: int) -> str:
        tool = _TOOLS.get(event.nfproto)
        saved = self._saved_by(tool, event.table) if tool and event.table in rule_list.TABLES else None
        if saved is not None:
            rules = saved.rules.get(event.chain, ())
            return rules[number - 1] if 0 < number <= len(rules) else ""
        key = event.nfproto, event.table, event.chain
        if key not in self._listed:
            try:
                self._listed[key] = rule_list.listed(*key)
            except KernelError:  # the chain has gone meanwhile
                self._listed[key] = {}
        return self._listed[key].get(event.handle, "")

    def of_line(self, line: Line) -> Step:
        version = 6 if ":" in line.heading.source else 4
        saved = self._saved_by(f"{'ip6tables' if version == 6 else 'iptables'}-legacy", line.table)
        rules = saved.rules.get(line.chain, ()) if saved else ()
        if line.number > len(rules):
            policy = saved.policies.get(line.chain, "-") if saved else "-"
            verdict = "drop" if policy == "DROP" else "return" if policy == "-" else "accept"
            return Step(_FAMILIES[version], line.table, line.chain, None, "", verdict)
        text = rules[line.number - 1]
        return Step(_FAMILIES[version], line.table, line.chain, line.number, text, *_verdict(text, saved))

    def _saved_by(self, tool: str, table: str) -> Saved | None:
        if (tool, table) not in self._saved:
            self._saved[tool, table] = rule_list.saved(tool, table)
        return self._saved[tool, table]


def _verdict(text: str, saved: Saved | None) -> tuple[str, str]:
    """What a rule does, by its words, and the chain that it leads to."""
    words = text.split()
    for option, verdict in (("-j", "jump"), ("-g", "goto")):
        if option in words[:-1]:
            target = words[len(words) - 1 - words[::-1].index(option) + 1]
            if saved is not None and target in saved.rules:
                return verdict, target
            final = {"DROP": "drop", "REJECT": "drop", "ACCEPT": "accept", "RETURN": "return", "NFQUEUE": "queue"}
            return final.get(target, "continue"), ""
    return "continue", ""


def _own_rules(table: str, aims: int) -> dict[int, str]:
    """By handle, what a match of the table's own rules tells: "mark", one of STATES, or REPLY.  Raises KernelError."""
    found: dict[int, str] = {}
    for chain, handles in rule_list.handles(_INET, table).items():
        meanings = [*STATES, REPLY] if chain == SAID else ["mark"] * aims
        found.update(zip(handles, meanings, strict=False))  # jumps to SAID stand behind those that mark
    return found


def _rank(hook: str, priority: int) -> tuple[int, int]:
    return _HOOK_ORDER.get(hook, 1), priority


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:  # it is gone
        return ""


def _is_bridge(interface: str) -> bool:
    return bool(interface) and Path("/sys/class/net", interface, "bridge").exists()
