"""The live view of the host's interfaces, routes and bridges: one thread that listens to route netlink.

The thread subscribes, dumps everything, then applies each change to its tables and publishes a new frozen view, so no
lock is needed: the thread alone owns the tables, everybody else reads the last view.  Whatever goes wrong (the kernel's
buffer overran, a message can't be read, a socket broke) ends in the same place: new sockets and a dump of everything.
A dump is also made every five minutes, should a change ever come without a message.  A thread that ends by a defect is
replaced by the next who wants a view, with tables that are empty and sockets that are new.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from netpold.host.netlink import DUMPS, FdbMessage, Netlink, NetlinkError
from netpold.host.tables import Tables
from netpold.host.threads import started
from netpold.host.view import HostView
from netpold.policy.model import Family

THREAD: Final = "network"
TICK = 2.0  # seconds between looks at what sends no messages (sysctls), at probes, and at what can wait
RESYNC = 300.0
PAUSES = (0.05, 0.2, 1.0)  # after the first, second, and any further failure in a row
REPLACE_AGAIN_S = 1.0  # a thread that ended sooner than this is not replaced yet: that would be a storm of dumps
PROBE_INTERVAL = 5.0  # for one address
PROBE_AGAIN = 0.2  # when something is heard on a bridge, which may be the pod that comes up
PROBES = 64  # in one tick: the kernel's neighbour table is small (gc_thresh3), and the wire is shared
ATTEMPTS = 5  # at a list that changes while it is read
DRAIN = 500  # messages taken in before a view is made of them

_BRIDGE_NF: tuple[tuple[Family, Path], ...] = (
    (4, Path("/proc/sys/net/bridge/bridge-nf-call-iptables")),
    (6, Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables")),
)
_BRIDGE_NF_TAGGED = tuple(
    (kind, Path(f"/proc/sys/net/bridge/bridge-nf-filter-{kind}-tagged")) for kind in ("vlan", "pppoe")
)

log = logging.getLogger(__name__)


class Network:
    """Keeps a `HostView` of the network namespace in which `start` and `view` are called.  `warning` says so when the
    thread had to be replaced."""

    def __init__(self, wake: Callable[[], None], *, receive_buffer: int = 8 << 20) -> None:
        """`wake` is called, from this object's thread, when there is another view; it must only wake somebody up."""
        self._wake = wake
        self._receive_buffer = receive_buffer
        self._sockets: tuple[Netlink, Netlink] | None = None  # for changes, for requests
        self._tables = Tables()
        self._view = HostView()
        self._wanted: frozenset[str] = frozenset()
        self._probed: dict[str, float] = {}
        self._unpublished = False  # changes that can wait for the next tick
        self._next_tick = self._next_resync = 0.0
        self._closed = threading.Event()
        self._signal = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._began = 0.0  # the thread
        self._failed = False  # the thread; it may still be alive, to tell why
        self._replaced = 0  # threads
        self._trouble = ""  # why the network can't be followed just now

    @property
    def warning(self) -> str | None:
        if self._trouble:
            return f"the network can't be followed, so pods are placed by how it was before: {self._trouble}"
        if not self._replaced:
            return None
        return f"the thread that follows the network was replaced ({self._replaced} times); please report the log"

    def start(self) -> None:
        """Returns when the first view is there.  Raises OSError or NetlinkError where netlink can't be used."""
        self._connect()
        self._began = time.monotonic()
        self._thread.start()

    def view(self) -> HostView:
        """The latest view.  Raises NetlinkError where nobody keeps it up to date; call it again later."""
        if self._failed:
            self._replace()
        return self._view

    def _replace(self) -> None:
        """Read everything anew, and have another thread follow it."""
        if time.monotonic() < self._began + REPLACE_AGAIN_S:
            raise NetlinkError("the thread that follows the network ends again and again; report the log of netpold")
        self._began = time.monotonic()
        self._replaced += 1
        self._disconnect()
        self._tables = Tables()
        try:
            self._connect()
        except OSError as error:
            raise NetlinkError(f"the network can't be followed any more: {error.strerror}") from error
        self._thread = started(self._run, THREAD)
        self._failed = False

    def probe(self, addresses: Iterable[str]) -> None:
        """Find the bridge ports of these addresses (in place of those asked for before).

        For each address that a bridge has on-link and whose port is not known the kernel is made to ask by ARP or
        neighbour discovery, again and again every few seconds until the port is known.
        """
        self._wanted = frozenset(addresses)
        os.eventfd_write(self._signal, 1)

    def close(self) -> None:
        """Ends the thread and closes the sockets."""
        self._closed.set()
        os.eventfd_write(self._signal, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._disconnect()
        os.close(self._signal)

    def _run(self) -> None:
        failures = 0
        try:
            while not self._closed.is_set():
                failures = 0 if self._step() else failures + 1
                if failures:
                    self._closed.wait(PAUSES[min(failures, len(PAUSES)) - 1])
        finally:
            self._failed = not self._closed.is_set()
            self._wake()  # should this thread ever die of a defect, view() replaces it

    def _step(self) -> bool:
        """Follow the network to the next change or tick; False where that failed."""
        try:
            self._follow(*(self._sockets or self._connect()))
        except (OSError, NetlinkError) as error:
            if not self._trouble:
                log.warning("the state of the network will be read again: %s", error)
            self._trouble = str(error)
            self._disconnect()
            self._wake()  # status has something to say
            return False
        self._trouble = ""
        return True

    def _connect(self) -> tuple[Netlink, Netlink]:
        events = Netlink(subscribe=True, receive_buffer=self._receive_buffer)
        try:
            self._sockets = events, Netlink()
        except OSError:
            events.close()
            raise
        self._synchronise(self._sockets[1])
        return self._sockets

    def _disconnect(self) -> None:
        for netlink in self._sockets or ():
            netlink.close()
        self._sockets = None

    def _follow(self, events: Netlink, requests: Netlink) -> None:
        """Wait for something to do, and do it."""
        probe = _wait(events.fileno(), self._signal)
        changed = heard = False
        for _ in range(DRAIN):
            messages = events.events()
            if messages is None:
                break
            for message in messages:
                changed |= self._tables.apply(message)
                self._unpublished = True
                heard |= isinstance(message, FdbMessage) and not message.gone
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK
            probe = True
            seen = self._view.bridge_nf_call, self._view.bridge_nf_misses
            changed |= self._unpublished or seen != (_bridge_nf_call(), _bridge_nf_misses())
        if changed:
            self._publish()
        if now >= self._next_resync or (probe and self._tables.doubtful):
            self._synchronise(requests)
        if probe or changed or heard:
            self._ask(requests, now, PROBE_AGAIN if changed or heard else PROBE_INTERVAL)

    def _synchronise(self, requests: Netlink) -> None:
        """Read everything.  What changes meanwhile comes as events as well, after this."""
        tables = Tables()
        complete = True
        for kind, request in DUMPS:
            for _ in range(ATTEMPTS):
                messages, whole = requests.dump(kind, request)
                if whole:
                    break
            complete &= whole
            for message in messages:
                tables.apply(message)
        tables.inherit(self._tables)
        self._tables = tables
        self._next_resync = time.monotonic() + (RESYNC if complete else TICK)
        self._publish()

    def _publish(self) -> None:
        self._unpublished = False
        view = self._tables.view(_bridge_nf_call(), _bridge_nf_misses())
        if view != self._view:
            self._view = view
            self._wake()

    def _ask(self, requests: Netlink, now: float, interval: float) -> None:
        """Have the kernel resolve the wanted addresses whose port is unknown, those asked for longest ago first."""
        view = self._view
        unknown = {address: bridge for address in self._wanted if (bridge := _unresolved(view, address)) is not None}
        last = self._probed = {address: when for address, when in self._probed.items() if address in unknown}
        due = [address for address in unknown if now - last.get(address, -interval) >= interval]
        due.sort(key=lambda address: last.get(address, 0.0))
        budget = max(PROBES - sum(now - when < TICK for when in last.values()), 0)
        requests.resolve([(view.links[unknown[address]].index, address) for address in due[:budget]])
        last.update(dict.fromkeys(due[:budget], now))


def _wait(events: int, signal: int) -> bool:
    """Wait until the tick for events or for the signal; whether it was the signal."""
    poll = select.poll()
    poll.register(events, select.POLLIN)
    poll.register(signal, select.POLLIN)
    if signal not in dict(poll.poll(TICK * 1000)):
        return False
    os.eventfd_read(signal)
    return True


def _unresolved(view: HostView, address: str) -> str | None:
    """The bridge on which an address has to be asked for, None where its place is known, or no bridge has it."""
    neighbour = view.neighbours.get(address)
    if neighbour is not None and (neighbour.fixed or view.port(address) is not None or address in view.contested):
        return None
    if address in view.own:
        return None
    device = view.routes.get(address)
    if device is None:
        return view.bridge(address)
    return device if view.links[device].kind == "bridge" else None


def _bridge_nf_call() -> frozenset[Family]:
    """The families whose bridged packets iptables sees (the kernel module br_netfilter and its sysctls)."""
    return frozenset(family for family, path in _BRIDGE_NF if _is_on(path))


def _bridge_nf_misses() -> frozenset[str]:
    """The kinds of frames with IP inside that iptables does not see, though it sees bridged packets."""
    return frozenset(kind for kind, path in _BRIDGE_NF_TAGGED if _bridge_nf_call() and not _is_on(path))


def _is_on(path: Path) -> bool:
    try:
        return path.read_text().strip() != "0"
    except FileNotFoundError:
        return False
