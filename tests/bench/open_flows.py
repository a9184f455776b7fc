"""What it costs to look at open flows after a change, on a node that has 100,000 of them.

    sudo python3 -m tests.bench.open_flows

Medians of several runs, in a network namespace of its own.  The flows are UDP over loopback, the same number for each
of 200 addresses; who sends them is one address, that nobody asks for.
"""

from __future__ import annotations

import ctypes
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from netpold.daemon.cutter import Cutter
from netpold.host import conntrack
from netpold.host.kernel import ipset
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.plan import CreateSet
from netpold.rules.revoke import REVOKED, Enforced, revoked_set
from netpold.rules.ruleset import FAMILIES, Address, Rule, Ruleset

FLOWS, ADDRESSES, RUNS = 100_000, 200, 7
NAMES: Mapping[str, str] = {REVOKED[family]: REVOKED[family] for family in FAMILIES}
PODS = [f"127.1.0.{number}" for number in range(1, ADDRESSES + 1)]


def populate() -> None:
    """Make the flows, in a fresh network namespace."""
    ctypes.CDLL(None).unshare(0x40000000)  # CLONE_NEWNET
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    tracked = ["iptables-nft", "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"]
    subprocess.run(tracked, check=True)
    Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").write_text("3600")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 1024))
        for address in PODS:
            for port in range(2000, 2000 + FLOWS // ADDRESSES):
                sender.sendto(b"x", (address, port))


def cpu_ms(work: Callable[[], object]) -> float:
    """Processor time, ms."""
    taken = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken) * 1000


def cut(address: str) -> tuple[float, float, float]:
    """From a change that isolates one pod to its flows being gone: seconds, processor seconds, and how long the loop
    was held up at most."""
    pod = Endpoint("x/pod", (address,), (Interface("veth1"),))
    chains = {4: {"OWN": (Rule((Address("dst", address),), "DROP"),)}, 6: {}}
    sets = {each.name: each for each in map(revoked_set, FAMILIES)}
    enforced = Enforced(Ruleset(chains, sets, {"FORWARD": "OWN"}), {pod.pod: pod})  # type: ignore[arg-type]
    found = threading.Event()
    cutter = Cutter(found.set)
    cutter.start()
    began, began_cpu = time.perf_counter(), time.process_time()
    cutter.look(enforced, frozenset(pod.addresses))
    gone, longest = 0, 0.0
    while gone < FLOWS // ADDRESSES:
        found.wait()
        found.clear()
        held = time.perf_counter()
        gone += cutter.settle(enforced, NAMES)
        longest = max(longest, time.perf_counter() - held)
    taken = time.perf_counter() - began, time.process_time() - began_cpu, longest
    cutter.close()
    return taken


def main() -> None:
    """Print a table."""
    populate()
    ipset.create(CreateSet(each.name, each, "") for each in map(revoked_set, FAMILIES))
    print(f"{Path('/proc/sys/net/netfilter/nf_conntrack_count').read_text().strip()} flows; processor time")
    for number in (1, 2, 3, 4, 5, ADDRESSES):
        wanted = frozenset(PODS[:number])
        spent = cpu_ms(lambda wanted=wanted: sum(1 for _ in conntrack.flows(4, wanted)))  # type: ignore[misc]
        print(f"list those of {number:3} addresses    {spent:8.1f} ms")
    cuts = [cut(address) for address in PODS[:RUNS]]
    whole, spent, held = (statistics.median(each) * 1000 for each in zip(*cuts, strict=True))
    print(f"cut the {FLOWS // ADDRESSES} flows of one pod   {spent:8.1f} ms")
    print(f"  from the change to the last {whole:8.1f} ms; the loop held up for {held:.1f} ms at most")


if __name__ == "__main__":
    main()
