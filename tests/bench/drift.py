"""How long another program's change of netpold's rules or sets lets packets pass, and what it costs to watch for it.

    sudo python3 -m tests.bench.drift [--rules 10,1000,10000] [--backends nft,legacy] [--repeat 50] [--idle 20] [--json]

The daemon is the real one.  Beside a pod that nobody may reach it has others, with policies that make so many rules.
Datagrams to the first go out every millisecond; those that arrive mark the gap, from the first to the last.  Of the gap
the daemon says how long it took to put things back (`last_apply`); what is left is the time until that began: noticed.

Idle: processor time of the daemon while nothing happens, in percent of a processor.

Exits with 1 when a change was not undone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from netpold.ctl.client import ask
from tests.bench.probe import punctual
from tests.bench.table import quantile, table
from tests.bench.usage import cpu_s
from tests.lab import BACKENDS, Backend, Host, Lab, Node, Pod
from tests.lab.daemon import Daemon

PORT = 80
CALM_S = 0.35  # without a datagram: the gap is over; looks for members may take longer (`late`)
PATIENCE_S = 20.0
PORTS_EACH = 100  # in each of the policies that only make rules, a rule each (IPv4)


@dataclass(frozen=True)
class Gap:
    """Milliseconds: from the first to the last datagram that passed, and until putting back began."""

    kind: str
    gap_ms: float
    noticed_ms: float


def policy(name: str, app: str, ingress: list[object]) -> object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "x"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def ballast(rules: int, node: Node) -> Iterator[object]:
    """Pods that are known by their addresses only, and policies for them."""
    for number in range(rules // PORTS_EACH):
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"p{number}", "namespace": "x", "labels": {"app": f"p{number}"}},
            "spec": {"nodeName": node.name},
            "status": {"podIP": f"10.77.{number // 250}.{number % 250 + 1}"},
        }
        ports = range(1000 + number, 1000 + number + PORTS_EACH)
        yield policy(f"p{number}", f"p{number}", [{"ports": [{"port": port}]} for port in ports])


class Datagrams:
    """From one host to another."""

    def __init__(self, sender: Host, receiver: Host) -> None:
        with receiver.netns.entered():
            self._inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._inbox.bind((receiver.address(4), PORT))
        self._inbox.setblocking(False)
        with sender.netns.entered():
            self._outbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._outbox.connect((receiver.address(4), PORT))

    def passes(self) -> bool:
        """Send another one; whether any has arrived since the last time."""
        with contextlib.suppress(OSError):  # an ICMP error about an earlier one
            self._outbox.send(b"x")
        arrived = False
        with contextlib.suppress(BlockingIOError):
            while self._inbox.recv(16):
                arrived = True
        return arrived

    def close(self) -> None:
        self._inbox.close()
        self._outbox.close()


class Scene:
    """A node with a closed pod, and who sends to it from outside."""

    def __init__(self, lab: Lab, backend: Backend, rules: int) -> None:
        self.node, self.backend = lab.node("n1"), backend
        self.pod: Pod = self.node.routed_pod("x", "a", labels={"app": "a"})
        self.friend: Pod = self.node.routed_pod("x", "b", labels={"app": "b"})
        self.sender: Host = lab.outside(self.node)
        self.daemon = Daemon(self.node, backend)
        peers: list[object] = [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]
        self.daemon.write("pods.json", self.pod.manifest(node=False), self.friend.manifest(node=False))
        self.daemon.write("closed.json", policy("closed", "a", peers), *ballast(rules, self.node))

    def harms(self) -> dict[str, Callable[[], object]]:
        """What another program does, each a way to open the pod."""
        tool = f"iptables-{self.backend}"
        peers = next(
            words[1]
            for words in map(str.split, self.node.ipset_save().splitlines())
            if words[0] == "add" and words[2] == self.friend.address(4) and "packets" not in words
        )
        saved = self.node.iptables_save(self.backend, 4).splitlines()
        entry = next(line.split()[1] for line in saved if line.startswith("-A NP-RULES-") and f" {peers} " in line)
        source = self.sender.address(4)
        return {
            "iptables -F": lambda: self.node.run([tool, "-w", "-F"]),
            "the jump is deleted": lambda: self.node.run([tool, "-w", "-D", "FORWARD", "-j", "NETPOLD-FORWARD"]),
            "a rule is exchanged": lambda: self.node.run([tool, "-w", "-R", entry, "1", "-j", "RETURN"]),
            "a member is added": lambda: self.node.run(["ipset", "add", peers, source]),
        }

    def gap(self, kind: str, harm: Callable[[], object]) -> Gap | None:
        """None where the change was never seen, or never undone."""
        arrived: list[float] = []
        revision = self._status()["revision"]
        end = time.monotonic() + PATIENCE_S
        with contextlib.closing(Datagrams(self.sender, self.pod)) as flow:
            thread = threading.Thread(target=harm)
            thread.start()
            while time.monotonic() < end:
                if flow.passes():
                    arrived.append(time.monotonic())
                calm = time.monotonic() - arrived[-1] if arrived else 0.0
                if calm > CALM_S and self._status()["revision"] > revision:
                    break
                time.sleep(0.001)
            thread.join()
        status = self._status()
        if not arrived or status["revision"] == revision or time.monotonic() >= end:
            return None
        gap = (arrived[-1] - arrived[0]) * 1000
        return Gap(kind, gap, max(gap - status["last_apply"]["duration_ms"], 0.0))

    def idle_percent(self, seconds: float) -> float:
        before = cpu_s(self.daemon.pid)
        time.sleep(seconds)
        return (cpu_s(self.daemon.pid) - before) / seconds * 100

    def rules(self) -> int:
        return sum(self._status()["rules"].values())

    def _status(self) -> dict[str, Any]:
        found: dict[str, Any] = ask(self.daemon.socket, "GET", "/v1/status", 30)
        return found


def measure(backend: Backend, rules: int, repeat: int, idle_s: float) -> tuple[int, float, list[Gap]]:
    """How many rules there were, idle cost in percent, and the gaps.  Raises RuntimeError where one did not end."""
    with Lab() as lab:
        scene = Scene(lab, backend, rules)
        with scene.daemon:
            scene.daemon.wait(120)
            time.sleep(2)
            idle = scene.idle_percent(idle_s)
            found = []
            for kind, harm in scene.harms().items():
                for _ in range(repeat):
                    with punctual():
                        gap = scene.gap(kind, harm)
                    if gap is None:
                        raise RuntimeError(f"{backend}, {kind}: not undone\n{scene.daemon.errors()}")
                    found.append(gap)
            return scene.rules(), idle, found


def main() -> int:
    options = _options()
    figures = []
    for backend in options.backends:
        columns: dict[str, tuple[float, list[Gap]]] = {}
        for rules in options.rules:
            try:
                there, idle, gaps = measure(backend, rules, options.repeat, options.idle)
            except RuntimeError as error:
                print(f"drift: {error}", file=sys.stderr)
                return 1
            columns[f"{there:,} rules"] = idle, gaps
            figures.append({"backend": backend, "rules": there, "idle_percent": idle, "gaps": list(map(asdict, gaps))})
        if not options.json:
            print(_text(backend, columns), flush=True)
    if options.json:
        print(json.dumps(figures, indent=1))
    return 0


def _text(backend: Backend, columns: dict[str, tuple[float, list[Gap]]]) -> str:
    rows: dict[str, list[float | None]] = {"idle, % of a processor": [idle for idle, _ in columns.values()]}
    for kind in dict.fromkeys(gap.kind for _, gaps in columns.values() for gap in gaps):
        for what, field in (("noticed", "noticed_ms"), ("repaired", "gap_ms")):
            for label, share in (("p50", 0.5), ("max", 1.0)):
                rows[f"{kind}: {what}, {label}"] = [
                    quantile([getattr(gap, field) for gap in gaps if gap.kind == kind], share)
                    for _, gaps in columns.values()
                ]
    return table(f"{backend}, ms", list(columns), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="drift", description="Measures how soon what others change is put back.")
    parser.add_argument("--rules", type=lambda text: [int(each) for each in text.split(",")], default="10,1000,10000")
    parser.add_argument("--backends", type=lambda text: text.split(","), default=",".join(BACKENDS))
    parser.add_argument("--repeat", type=int, default=50, help="how often each change is made")
    parser.add_argument("--idle", type=float, default=20, help="seconds over which the idle cost is measured")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
