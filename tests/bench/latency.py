"""How long from a changed manifest to the changed verdict in the kernel, in clusters of several sizes.

    sudo python3 -m tests.bench.latency [--sizes 1000/100,10000/1000,100000/10000] [--local 110] [--backend nft|legacy]
                                        [--files namespace|object] [--repeat 100] [--kinds WORD] [--asking N] [--json]

The clock runs from the rename of a file into place (or its removal) to the first datagram that the kernel judges by
the new policies; tests/bench/probe.py says how that is seen, tests/bench/changes.py what is changed.  The daemon is the
real one, enforcing a made-up cluster of that size.  A change is made when the daemon has been idle, after a random
pause; each pair of changes is made once before it counts.

CPU is that of the daemon and its children from the change until it is idle again; children's time comes in ticks of
10 ms, so only the mean over many changes says something.  Processes are all that the daemon and its children started.
The first size's figures are what the ratios of the others refer to.  With --asking, so many clients ask for the whole
matrix with all explanations, over and over; then nothing is ever idle, and CPU and processes say nothing of a change.

Exits with 1 when a change did not show, or when a datagram had the verdict of neither before nor after.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from netpold.ctl.client import ask
from netpold.ctl.failure import Failure
from tests.bench.bed import add_options, await_enforced, wire
from tests.bench.changes import ELSEWHERE, Change, Manifest, World, changes, replace, standing, wired
from tests.bench.cluster import Size
from tests.bench.manifests import Layout, write
from tests.bench.probe import Flip, Flow, NoFlip, punctual
from tests.bench.table import quantile, table
from tests.bench.usage import Activity, cpu_s
from tests.lab import Backend, Host, Lab
from tests.lab.daemon import Daemon

LEAD_S = 0.005  # of datagrams before a change
PAUSE_S = 0.06  # the longest pause before that
PATIENCE_S = 120.0
REST_S = 0.25  # between two changes, where the daemon is never idle


@dataclass(frozen=True)
class Sample:
    """One change: when its verdict was there, and what the daemon used until it was idle again."""

    kind: str
    flip: Flip
    cpu_seconds: float
    processes: int


@dataclass(frozen=True)
class Bench:
    """A daemon that enforces the cluster and the world, and the host that sends."""

    daemon: Daemon
    world: World
    sender: Host
    activity: Activity
    asking: bool = False

    def samples(self, change: Change, repeat: int) -> Iterator[Sample]:
        """Make the change forth and back, `repeat` times and once before that.  Raises NoFlip, TimeoutError."""
        self._rest()
        with contextlib.closing(Flow(self.sender, change.source, change.receiver, change.port)) as flow:
            for number in range(repeat + 1):
                forth = self._sample(change.forth, change.key, change.after, flow, change.opens)
                back = self._sample(change.back, change.key, change.before, flow, not change.opens)
                if number:
                    yield from (forth, back)

    def _rest(self) -> None:
        if self.asking:
            time.sleep(REST_S)
        else:
            self.activity.await_idle(PATIENCE_S)

    def _sample(self, kind: str, key: str, manifest: Manifest | None, flow: Flow, opens: bool) -> Sample:
        time.sleep(random.uniform(0, PAUSE_S))
        move = self.world.draft(key, manifest)
        self.activity.update()
        cpu, processes = cpu_s(self.daemon.pid), self.activity.started
        try:
            flip = flow.flip(lambda: replace(*move), opens, LEAD_S, PATIENCE_S)
        except NoFlip as error:
            raise NoFlip(f"{kind}: {error}\n{self.daemon.errors()}") from None
        self._rest()
        return Sample(kind, flip, cpu_s(self.daemon.pid) - cpu, self.activity.started - processes)


def ask_on(daemon: Daemon, end: threading.Event) -> None:
    """Ask for the largest answer there is, until the end, whether there is one or the daemon is too busy."""
    while not end.is_set():
        with contextlib.suppress(Failure):
            ask(daemon.socket, "GET", "/v1/matrix?explained=1", PATIENCE_S)


def measure(size: Size, backend: Backend, layout: Layout, repeat: int, kinds: str, asking: int) -> list[Sample]:
    """All changes, on a node of their own.  Raises NoFlip, RuntimeError, TimeoutError."""
    with Lab() as lab, contextlib.ExitStack() as stack:
        node = lab.node(size.node)
        wire(node, size)
        server, free, late = wired(node)
        sender = lab.outside(node, (ELSEWHERE,))
        # what flows leave behind in conntrack would be a cost of the next change
        node.netns.sysctl({"netfilter/nf_conntrack_udp_timeout": 1})
        daemon = Daemon(node, backend)
        write(size, daemon.manifests, "yaml", layout)
        drafts = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=daemon.manifests.parent)))
        world = World(daemon.manifests, drafts, layout)
        wanted = [each for each in changes(server, free, late) if kinds in each.forth or kinds in each.back]
        world.put(standing(server, free))
        world.put({each.key: each.before for each in wanted if each.before})
        stack.enter_context(daemon)
        local = size.local + 2 + any(each.receiver is late for each in wanted)
        await_enforced(daemon, size.policies + world.policies, size.pods + world.pods, local)
        activity = stack.enter_context(contextlib.closing(Activity(daemon.pid)))
        bench = Bench(daemon, world, sender, activity, asking > 0)
        end = threading.Event()
        clients = [threading.Thread(target=ask_on, args=(daemon, end)) for _ in range(asking)]
        for each in clients:
            each.start()
            stack.callback(each.join)
        stack.callback(end.set)  # called first
        with punctual():
            return [sample for change in wanted for sample in bench.samples(change, repeat)]


def main() -> int:
    options = _options()
    found: dict[str, list[Sample]] = {}
    for pods, policies in options.sizes:
        size = Size(pods, policies, min(options.local, pods))
        name = f"{pods:,}/{policies:,}"
        try:
            found[name] = measure(size, options.backend, options.files, options.repeat, options.kinds, options.asking)
        except (NoFlip, RuntimeError, TimeoutError) as error:
            print(f"latency: {name}: {error}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps({name: [asdict(each) for each in samples] for name, samples in found.items()}, indent=1))
    else:
        print(_text(found, options))
    mixed = sum(sample.flip.mixed for samples in found.values() for sample in samples)
    if mixed:
        print(f"latency: {mixed} datagrams had a verdict that they should not have had", file=sys.stderr)
    return 1 if mixed else 0


def _text(found: dict[str, list[Sample]], options: argparse.Namespace) -> str:
    kinds = list(dict.fromkeys(sample.kind for sample in next(iter(found.values()))))
    delays: dict[str, list[float | None]] = {}
    costs: dict[str, list[float | None]] = {}
    for kind in kinds:
        chosen = [[sample for sample in samples if sample.kind == kind] for samples in found.values()]
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            delays[f"{kind}, {label}"] = [quantile([s.flip.after_s * 1000 for s in each], share) for each in chosen]
        costs[f"{kind}, CPU ms"] = [statistics.mean(s.cpu_seconds * 1000 for s in each) for each in chosen]
        costs[f"{kind}, processes"] = [statistics.mean(s.processes for s in each) for each in chosen]
    gaps = [sample.flip.gap_s * 1000 for samples in found.values() for sample in samples]
    return "\n".join(
        (
            f"backend {options.backend}, {options.local} local pods, one file for each {options.files}, "
            f"{options.repeat} times each",
            f"resolution: datagrams around a flip are {quantile(gaps, 0.5):.2f} ms apart (p50), "
            f"{quantile(gaps, 0.99):.2f} ms (p99), {max(gaps):.2f} ms (max)",
            "",
            table("from the rename to the verdict, ms", list(found), delays),
            "",
            table("cost of one change, mean", list(found), costs),
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="latency", description="Measures how long changes take to be in force.")
    add_options(parser)
    parser.add_argument("--repeat", type=int, default=100, help="how often each change is made, forth and back")
    parser.add_argument("--kinds", default="", metavar="WORD", help="only the changes that have this in their names")
    parser.add_argument("--asking", type=int, default=0, metavar="N", help="clients that ask for matrices meanwhile")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
