"""Old or new and never a mix: a flood of packets while manifests change and the daemon is killed.

    sudo python3 -m tests.bench.atomic [--backend nft|legacy] [--changes 2000] [--packets 10000000] [--kills 500]
                                       [--rate 40000] [--senders 2] [--seed 1] [--break] [--json]

Thirteen scenarios (tests/bench/flips.py) flip between two versions, alone, some of them or all at once; a change is one
file renamed into place, or a directory of several files whose symlink is swapped.  Half of the scenarios have routed
pods, half have pods on a bridge; both families.  The flood (tests/bench/flood.py) is made of packets that both
versions forbid or both allow and a mix of them does not.  A forbidden one that comes through the table `filter` is a
leak, an allowed one that does not is lost by netpold; what is lost elsewhere is told apart.  Packets whose verdict
flips show that the changes happen.  Exits with 1 when there is a leak or a loss, or when a scenario did not flip.

--break runs a writer that mixes (tests/bench/naive.py) in place of netpold, and exits with 1 when that is not seen in
every scenario.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from netpold.ctl.client import NotRunning, ask
from tests.bench.flips import KINDS, PODS, SCENARIOS, Island, Kind, Watched, home, watched
from tests.bench.flood import Flood, Outcome, Passed, count_on, counted, open_pairs
from tests.lab import BACKENDS, Lab, Node
from tests.lab.daemon import CHECKOUT, PYTHON, Daemon

PATIENCE_S = 60.0


def main() -> int:
    arguments = _arguments()
    with Lab() as lab:
        node = lab.node("bench")
        texts, packets = build(node)
        pairs = open_pairs(lab, packets)
        daemon = (_Naive if arguments.break_ else Daemon)(node, arguments.backend)
        settings = node.site.directory / "netpold.toml"
        settings.write_text(f'linked_trees = ["{versions(daemon)}"]\n')
        daemon.args = ["--config", str(settings)]
        changer = Changer(daemon, texts, random.Random(arguments.seed))
        count_on(node, arguments.backend)
        daemon.start()
        changer.settle()
        flood = Flood(pairs, arguments.rate, arguments.senders)
        began = time.monotonic()
        changer.run(flood, arguments.changes, arguments.packets, arguments.kills)
        outcomes = flood.stop()
        seconds = time.monotonic() - began
        status = daemon.status()
        if status["state"] != "enforcing" or status["policies"]["rejected"]:
            raise RuntimeError(f"{status} is not how it should end:\n{daemon.errors()}")
        daemon.stop()
        report = Report.of(outcomes, counted(node, arguments.backend), changer, seconds)
    print(json.dumps(asdict(report), indent=1) if arguments.json else report.text(arguments.backend))
    for line in _examples(outcomes, began):
        print(line, file=sys.stderr)
    return int(not report.mixed) if arguments.break_ else int(report.failed)


def build(node: Node) -> tuple[Mapping[str, tuple[str, str]], list[Watched]]:
    """The pods; for each scenario the manifests of both versions; and the packets to watch."""
    texts, packets = {}, []
    for number, (name, scenario) in enumerate(SCENARIOS.items()):
        make = node.bridged_pod if number % 2 else node.routed_pod
        addresses = {pod: make(home(name, pod), pod).addresses for pod in PODS}
        old, new = (scenario(Island(name, node.name, addresses, version)) for version in (False, True))
        texts[name] = ("\n---\n".join(map(json.dumps, old)), "\n---\n".join(map(json.dumps, new)))
        packets += watched(name, old, new, addresses)
    return texts, packets


def versions(daemon: Daemon) -> Path:
    """Where the directories are that the manifests lead to, one after the other."""
    return daemon.manifests.with_name("versions")


class Changer:
    """Owns the manifests and which version of each scenario they hold; changes them, and kills the daemon."""

    def __init__(self, daemon: Daemon, texts: Mapping[str, tuple[str, str]], chance: random.Random) -> None:
        self._daemon = daemon
        self._texts = texts
        self._chance = chance
        self._new = dict.fromkeys(texts, False)
        self._versions = versions(daemon)
        self._count = 0
        self._link = daemon.manifests / "current"
        self._write(several=False)
        self.changes = self.kills = 0
        self.waits: list[float] = []

    def settle(self) -> None:
        """Wait until what is on disk is enforced.  Raises RuntimeError when that fails."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                ask(self._daemon.socket, "POST", f"/v1/wait?timeout={PATIENCE_S:g}", PATIENCE_S + 10)
                return
            except NotRunning:
                if not self._daemon.running or time.monotonic() > end:
                    raise RuntimeError(f"the daemon does not answer:\n{self._daemon.errors()}") from None
                time.sleep(0.005)

    def run(self, flood: Flood, changes: int, packets: int, kills: int) -> None:
        """Change until there were so many changes and kills, and so many packets were sent."""
        while self.changes < changes or self.kills < kills or flood.sent < packets:
            flood.check()
            if self.kills * max(changes, 1) < kills * self.changes:
                self._kill()
                continue
            began = time.monotonic()
            self.change()
            self.settle()
            self.waits.append(time.monotonic() - began)

    def change(self) -> None:
        """One scenario, some or all of them get their other version, at once."""
        names = list(self._texts)
        for name in self._chance.sample(names, self._chance.choice((1, 1, self._chance.randint(2, 8), len(names)))):
            self._new[name] = not self._new[name]
        self._write(several=self._chance.random() < 0.4)
        self.changes += 1

    def _kill(self) -> None:
        """Kill the daemon somewhere in a change and start it again, sometimes after another change."""
        self.change()
        time.sleep(self._chance.uniform(0, 1.2 * statistics.median(self.waits or [0.1])))
        self._daemon.kill()
        self.kills += 1
        if self._chance.random() < 0.5:
            self.change()
        self._daemon.start()
        if self._chance.random() < 0.7:  # else the next may come before it has come to itself
            self.settle()

    def _write(self, several: bool) -> None:
        now = {name: self._texts[name][new] for name, new in self._new.items()}
        files = now if several else {"all": "\n---\n".join(now.values())}
        here = self._versions / str(self._count)
        if not several and (here / "all.yaml").exists():
            _put(here / "all.yaml", files["all"])
            return
        self._count += 1
        fresh = self._versions / str(self._count)
        fresh.mkdir(parents=True)
        for name, text in files.items():
            _put(fresh / f"{name}.yaml", text)
        draft = self._link.with_name(".current")
        draft.symlink_to(fresh)
        draft.replace(self._link)
        shutil.rmtree(self._versions / str(self._count - 5), ignore_errors=True)


def _put(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(text)
    draft.replace(path)


class _Naive(Daemon):
    """The writer that mixes, run as the daemon is."""

    def start(self) -> None:
        where = ["--manifests", str(self.manifests), "--state-dir", str(self.state), "--runtime-dir", str(self.runtime)]
        which = ["--node", self.node.name, "--backend", self.backend]
        with self.log.open("ab") as log:
            self._process = self.node.spawn(
                [PYTHON, "-m", "tests.bench.naive", *where, *which, *self.args],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.node.environment},
            )


# What comes out -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kinds:
    """All packets of one kind: sent, seen before and after the table `filter`, arrived."""

    pairs: int
    sent: int
    before: int
    after: int
    arrived: int

    @property
    def elsewhere(self) -> int:
        """Lost on the way to the table or behind it."""
        return self.sent - self.before + self.after - self.arrived


@dataclass(frozen=True)
class Seen:
    """What the receivers saw of one scenario: how often a packet's verdict flipped, packets leaked and missing."""

    flips: int
    leaks: int
    missing: int

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Seen:
        flips = leaks = missing = 0
        for each in outcomes:
            match each.watched.kind:
                case "flips":
                    flips += 2 * len(each.spells)
                case "forbidden":
                    leaks += each.received
                case "allowed":
                    missing += each.sent - each.received
        return cls(flips, leaks, missing)


@dataclass(frozen=True)
class Report:
    """What came of it.  `change_ms`: median time from a rename until it was enforced."""

    kinds: Mapping[Kind, Kinds]
    scenarios: Mapping[str, Seen]
    changes: int
    kills: int
    seconds: float
    change_ms: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], passed: Mapping[Kind, Passed], changer: Changer, seconds: float) -> Report:
        kinds = {}
        for kind in KINDS:
            own = [each for each in outcomes if each.watched.kind == kind]
            sent, arrived = sum(each.sent for each in own), sum(each.received for each in own)
            kinds[kind] = Kinds(len(own), sent, passed[kind].before, passed[kind].after, arrived)
        seen = {name: Seen.of(each for each in outcomes if each.watched.scenario == name) for name in SCENARIOS}
        median = statistics.median(changer.waits or [0.0]) * 1000
        return cls(kinds, seen, changer.changes, changer.kills, seconds, median)

    @property
    def leaks(self) -> int:
        kind = self.kinds["forbidden"]
        return max(kind.after, kind.arrived)

    @property
    def lost(self) -> int:
        return self.kinds["allowed"].before - self.kinds["allowed"].after

    @property
    def failed(self) -> bool:
        return bool(self.leaks or self.lost) or not all(seen.flips for seen in self.scenarios.values())

    @property
    def mixed(self) -> bool:
        """Whether both faults were seen, and in each scenario one of them."""
        return bool(self.leaks and self.lost) and all(seen.leaks or seen.missing for seen in self.scenarios.values())

    def text(self, backend: str) -> str:
        total = sum(kind.sent for kind in self.kinds.values())
        lines = [
            f"{backend}: {self.changes:,} changes (median {self.change_ms:.0f} ms), {self.kills:,} kills, "
            f"{total:,} packets in {self.seconds:.0f} s ({total / self.seconds:,.0f}/s)",
            f"{'':<10} {'pairs':>5} {'sent':>12} {'at filter':>12} {'past it':>12} {'arrived':>12} {'elsewhere':>9}",
        ]
        lines += [
            f"{name:<10} {kind.pairs:>5} {kind.sent:>12,} {kind.before:>12,} {kind.after:>12,} {kind.arrived:>12,} "
            f"{kind.elsewhere:>9,}"
            for name, kind in self.kinds.items()
        ]
        lines += ["", f"{'scenario':<10} {'flips':>8} {'leaks':>8} {'missing':>8}"]
        lines += [f"{name:<10} {s.flips:>8,} {s.leaks:>8,} {s.missing:>8,}" for name, s in self.scenarios.items()]
        return "\n".join([*lines, "", f"leaks {self.leaks:,}, lost by netpold {self.lost:,}"])


def _examples(outcomes: Sequence[Outcome], began: float) -> list[str]:
    """Of each scenario and kind the first pair whose packets leaked or are missing, with when (s)."""
    told: dict[tuple[str, Kind], str] = {}
    for each in outcomes:
        key = each.watched.scenario, each.watched.kind
        if each.watched.kind == "forbidden" and each.first:
            at = each.first.seconds - began
            told.setdefault(key, f"leak: {each.watched}: {each.received:,}, the first at {at:.3f} s")
        if each.watched.kind == "allowed" and each.spells:
            at, missing = each.spells[0].seconds - began, each.sent - each.received
            told.setdefault(key, f"missing: {each.watched}: {missing:,}, the first at {at:.3f} s")
    return list(told.values())


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="atomic", description="Looks for packets that meet a mix of old and new.")
    parser.add_argument("--backend", choices=BACKENDS, default="nft")
    parser.add_argument("--changes", type=int, default=2_000, help="at least so many")
    parser.add_argument("--packets", type=int, default=10_000_000, help="at least so many")
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs of the daemon, spread over the changes")
    parser.add_argument("--rate", type=float, default=40_000, help="packets a second, all senders together")
    parser.add_argument("--senders", type=int, default=2, help="processes that send")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of changes and of moments to kill")
    parser.add_argument("--break", dest="break_", action="store_true", help="run a writer that mixes")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
