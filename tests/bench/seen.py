"""What it costs to look at what is dropped: for a sender that floods, and for the daemon; and how fast questions are.

    /usr/bin/python3 -m tests.bench.seen [--sizes 10000/1000] [--backend nft]

A pod of a node sends datagrams as fast as it can to another one, which a policy drops: with copies to NFLOG and a
daemon that reads them, and without (nflog_group = 0).  A packet is dropped within the sender's own system call, so the
rate of sending says what dropping costs.  Then all verbs that answer from what was seen are timed, from the start of
netpoldctl to its end, with a cluster of the size that is asked for.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import time

from tests.bench.bed import add_options, await_enforced, wire
from tests.bench.cluster import Size, address, local_numbers
from tests.bench.manifests import write
from tests.bench.usage import own_cpu_s
from tests.lab import Backend, Lab
from tests.lab.daemon import Daemon
from tests.test_daemon import DENY_ALL, Scene

FLOOD_S = 3.0
TIMES = 5  # that each question is asked

Figures = dict[str, float]


def flood(backend: Backend, config: str, ports: int) -> Figures:
    """`ports`: how many different ones the datagrams are for."""
    with Lab() as lab:
        scene = Scene(lab, backend, config=config)
        scene.enforce(deny=DENY_ALL)
        try:
            with scene.c.netns.entered():
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            time.sleep(1)
            target = scene.b.addresses[0]
            before, began, sent = own_cpu_s(scene.daemon.pid), time.monotonic(), 0
            while time.monotonic() < began + FLOOD_S:
                for _ in range(100):
                    sender.sendto(b"", (target, 1024 + sent % ports))
                    sent += 1
            took = time.monotonic() - began
            share = (own_cpu_s(scene.daemon.pid) - before) / took
            sender.close()
            return {
                "sent per s": sent / took,
                "us a packet": took / sent * 1e6,
                "daemon's share of a CPU, %": share * 100,
            }
        finally:
            scene.daemon.kill()


def questions(backend: Backend, size: Size) -> Figures:
    """Milliseconds for each verb, the median."""
    with Lab() as lab:
        node = lab.node(size.node)
        wire(node, size)
        daemon = Daemon(node, backend)
        write(size, daemon.manifests, "yaml", "namespace")
        daemon.start()
        try:
            await_enforced(daemon, size.policies, size.pods, size.local)
            numbers = local_numbers(size)
            with node.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for number in numbers:
                    for port in (53, 80, 9999):
                        sender.sendto(b"", (address(number), port))
            verbs = (["status"], ["monitor"], ["monitor", "-o", "json"], ["audit"], ["suggest", "team-0001"])
            return {f"{' '.join(verb)}, ms": _median(daemon, verb) for verb in verbs}
        finally:
            daemon.kill()


def _median(daemon: Daemon, verb: list[str]) -> float:
    times = []
    for _ in range(TIMES):
        began = time.monotonic()
        daemon.ctl(*verb)
        times.append((time.monotonic() - began) * 1000)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    arguments = parser.parse_args()
    found: dict[str, Figures] = {
        "no copies": flood(arguments.backend, "nflog_group = 0\n", 1),
        "one pair and port": flood(arguments.backend, "", 1),
        "10,000 ports": flood(arguments.backend, "", 10_000),
        "10,000 ports, to the journal": flood(arguments.backend, "log_drops = true\n", 10_000),
    }
    for pods, policies in arguments.sizes:
        found[f"{pods} pods, {policies} policies"] = questions(arguments.backend, Size(pods, policies, arguments.local))
    if arguments.json:
        print(json.dumps(found))
        return
    for name, figures in found.items():
        print(f"{name}:")
        for what, figure in figures.items():
            print(f"    {what:32} {figure:12.1f}")


if __name__ == "__main__":
    main()
