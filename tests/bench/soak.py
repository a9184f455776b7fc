"""Memory, descriptors, threads and kernel objects over very many changes: nothing may grow.

    sudo python3 -m tests.bench.soak [--backend nft|legacy] [--changes 100000] [--samples 50] [--pods 300] [--seed 1]
                                     [--json]

Pods come, go and change their labels, policies come, go and change, a local pod loses its interface and gets another,
on a real kernel; at the end of each stretch the world is again what it was at the start, and a line is printed.  The
slope is that of resident memory over the second half.  Exits with 1 when descriptors, threads, chains or sets at the
end are more than after the first stretch.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from netpold.ctl.client import ask
from tests.lab import BACKENDS, Lab, Node
from tests.lab.daemon import Daemon
from tests.lab.namespace import LabError

BATCH = 5  # changes between two waits
NAMESPACES = ("shop", "bank", "mail")
LABELS = ("web", "api", "db", "cache")


@dataclass(frozen=True)
class Sample:
    """After so many changes: KiB of resident memory, of the daemon's own processes the descriptors, threads and
    children, and what the kernel holds."""

    changes: int
    rss: int
    descriptors: int
    threads: int
    chains: int
    sets: int


def main() -> int:
    arguments = _arguments()
    with Lab() as lab:
        node = lab.node("soak")
        samples = []
        daemon = Daemon(node, arguments.backend)
        soak = Soak(node, daemon, random.Random(arguments.seed), arguments.pods)
        with daemon:
            stretch = max(arguments.changes // arguments.samples, BATCH)
            for sample in soak.run(stretch, arguments.samples):
                samples.append(sample)
                if not arguments.json:
                    print(_line(sample), flush=True)
            if daemon.status()["state"] != "enforcing":
                raise RuntimeError(daemon.errors())
    if arguments.json:
        print(json.dumps({"samples": [asdict(each) for each in samples], "slope": slope(samples)}, indent=1))
    else:
        print(f"resident memory over the second half: {slope(samples):+.1f} KiB in 1,000 changes")
    grown = grew(samples)
    for each in grown:
        print(each, file=sys.stderr)
    return int(bool(grown))


class Soak:
    """Owns the manifests.  `run` changes them."""

    def __init__(self, node: Node, daemon: Daemon, chance: random.Random, pods: int) -> None:
        self._node, self._daemon, self._chance = node, daemon, chance
        self._local = [node.routed_pod(NAMESPACES[0], f"local{number}", labels={"app": "web"}) for number in range(4)]
        self._remote = [f"pod{number}" for number in range(pods)]
        self._actions: tuple[Callable[[], None], ...] = (self._relabel, self._relabel, self._policy, self._come_or_go)
        self._count = 0
        self._reset()

    def run(self, stretch: int, stretches: int) -> Iterator[Sample]:
        """So many stretches of so many changes each."""
        self._daemon.wait(60)
        for _ in range(stretches):
            for number in range(stretch):
                self._chance.choice(self._actions)()
                self._count += 1
                if number % BATCH == BATCH - 1:
                    self._settle()
            pod = self._chance.choice(self._local)
            pod.replug(f"soak{self._count % 100000}")
            self._reset()
            self._settle()
            yield self._sample()

    def _settle(self) -> None:
        ask(self._daemon.socket, "POST", "/v1/wait?timeout=60", 70)

    def _reset(self) -> None:
        """The world as it was at the start."""
        for pod in self._local:
            self._daemon.write(f"local-{pod.name}.json", pod.manifest(node=True))
        for name in self._remote:
            self._put(name, LABELS[0])
        for number in range(8):
            self._put_policy(number, LABELS[0], 80)

    def _relabel(self) -> None:
        self._put(self._chance.choice(self._remote), self._chance.choice(LABELS))

    def _come_or_go(self) -> None:
        name = self._chance.choice(self._remote)
        path = self._daemon.manifests / f"{name}.json"
        if path.exists():
            path.unlink()
        else:
            self._put(name, self._chance.choice(LABELS))

    def _policy(self) -> None:
        number = self._chance.randrange(8)
        path = self._daemon.manifests / f"policy{number}.json"
        if path.exists() and self._chance.random() < 0.3:
            path.unlink()
        else:
            self._put_policy(number, self._chance.choice(LABELS), self._chance.randint(1, 65535))

    def _put(self, name: str, app: str) -> None:
        number = int(name.removeprefix("pod"))
        addresses = [f"10.98.{number // 250}.{number % 250 + 1}", f"fd98::{number + 1:x}"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACES[number % 3], "labels": {"app": app}},
            "spec": {"nodeName": "elsewhere"},
            "status": {"phase": "Running", "podIPs": [{"ip": each} for each in addresses]},
        }
        self._daemon.write(f"{name}.json", pod)

    def _put_policy(self, number: int, app: str, port: int) -> None:
        peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}
        block = {"ipBlock": {"cidr": f"192.0.2.{port % 16 * 16}/28", "except": [f"192.0.2.{port % 16 * 16}/30"]}}
        policy = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"policy{number}", "namespace": NAMESPACES[0]},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [peer, block], "ports": [{"port": port}]}],
                "egress": [{"to": [peer]}],
            },
        }
        self._daemon.write(f"policy{number}.json", policy)

    def _sample(self) -> Sample:
        if not self._daemon.running:
            raise RuntimeError(f"the daemon has ended:\n{self._daemon.errors()}")
        pid = self._daemon.pid
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        backend = self._daemon.backend
        saved = ""
        while not saved:  # it fails where a set goes while it lists
            with suppress(LabError):
                saved = "".join(self._node.iptables_save(backend, family) for family in (4, 6))
        return Sample(
            self._count,
            int(status["VmRSS"].split()[0]),
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            int(status["Threads"]),
            saved.count("\n:NP-") + saved.count("\n:NETPOLD-"),
            self._node.ipset_save().count("create NP"),
        )


def slope(samples: list[Sample]) -> float:
    """KiB of memory in 1,000 changes, over the second half."""
    half = samples[len(samples) // 2 :]
    if len(half) < 2:
        return 0.0
    return statistics.linear_regression([each.changes for each in half], [each.rss for each in half]).slope * 1000


def grew(samples: list[Sample]) -> list[str]:
    """What there is more of at the end; chains and sets that wait to be taken away come and go."""
    first, last = samples[0], samples[-1]
    pairs = [
        ("descriptors", max(each.descriptors for each in samples[:3]) + 4, last.descriptors),
        ("threads", max(each.threads for each in samples[:3]) + 2, last.threads),
        ("chains", first.chains * 2, last.chains),
        ("sets", first.sets * 2, last.sets),
    ]
    return [f"more {name} than at first: {now}, not {most} at most" for name, most, now in pairs if now > most]


def _line(sample: Sample) -> str:
    return (
        f"{sample.changes:>8,} changes  {sample.rss:>8,} KiB  {sample.descriptors:>4} descriptors  "
        f"{sample.threads:>3} threads  {sample.chains:>5} chains  {sample.sets:>5} sets"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=BACKENDS, default="nft")
    parser.add_argument("--changes", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--pods", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
