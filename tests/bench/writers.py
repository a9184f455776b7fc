"""What it costs to write sets and rules, beside the tools that would do it: one process for each change.

    sudo python3 -m tests.bench.writers

Medians, in a network namespace of its own.  Of sets: each size made by netlink and by `ipset restore`, in turns, and
one member added to a set of 1,000.  Of rules (nft): one chain of six rules replaced among 300 such chains, with pauses
in which nf_tables frees what the last commit removed, and without.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial

from netpold.host.kernel import ipset
from netpold.host.kernel.backend import Commit
from netpold.host.kernel.nft import Nft
from netpold.rules.plan import ChangeSet, CreateSet
from netpold.rules.render import options, set_header
from netpold.rules.ruleset import Address, IPSet, Ports, Proto, Rule

SIZES = (1, 1_000, 10_000, 100_000)
NAME = "NP4-bench"
PAUSE_S = 0.05


def of_size(count: int, tail: str = "") -> IPSet:
    members = frozenset(f"10.{each >> 16}.{each >> 8 & 255}.{each & 255}{tail}" for each in range(1, count + 1))
    return IPSet(NAME, 4, "hash:ip,port" if tail else "hash:ip", "", members)


def by_program(wanted: IPSet) -> None:
    lines = [f"create {NAME} {set_header(wanted)}", *(f"add {NAME} {each}" for each in wanted.members)]
    subprocess.run(["ipset", "restore"], input="\n".join(lines) + "\n", text=True, check=True)


def gone() -> None:
    ipset.destroy([NAME])


def by_netlink(wanted: IPSet) -> None:
    ipset.create([CreateSet(NAME, wanted, "")])


def median_ms(work: Callable[[], object], times: int, after: Callable[[], object] = lambda: None) -> float:
    """How long `work` takes, in ms: the median of so many runs, each followed by `after`."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
        after()
    return statistics.median(spent) * 1000


def sets() -> None:
    print("sets, IPv4                            netlink  ipset restore   read back")
    for tail in ("", ",tcp:80"):
        for count in SIZES:
            wanted = of_size(count, tail)
            times = 3 if count == SIZES[-1] else 9

            mine = median_ms(partial(by_netlink, wanted), times, gone)
            theirs = median_ms(partial(by_program, wanted), times, gone)
            by_netlink(wanted)
            read = median_ms(lambda: ipset.members(NAME), times)
            gone()
            print(f"  {wanted.kind:14} {count:>7,} members  {mine:8.2f} ms {theirs:9.2f} ms {read:8.2f} ms")
    by_netlink(of_size(1_000))
    one = [ChangeSet(NAME, frozenset(("11.0.0.1",)), frozenset(), "")]
    mine = median_ms(lambda: ipset.change(one), 100)
    words = ["ipset", "-exist", "add", NAME, "11.0.0.1"]
    print(f"  one member of 1,000              {mine:8.2f} ms {median_ms(lambda: subprocess.run(words), 20):9.2f} ms")


def rules() -> None:
    rule = Rule((Address("src", "10.0.0.0/8"), Proto("tcp"), Ports(((80, 80), (443, 443)))), "RETURN", "x/policy [0]")
    chain = tuple(options(rule, 4, str) for _ in range(6))
    kept = Nft()
    kept.commit(Commit(4, {f"NP-RULES-{number}": chain for number in range(300)}))
    one = Commit(4, {"NP-RULES-7": chain})

    def fresh() -> None:
        backend = Nft()
        backend.commit(one)
        backend.close()

    print("nft, one chain of 300                kept open  process each")
    for text, pause in ((f"{PAUSE_S * 1000:.0f} ms apart", PAUSE_S), ("at once", 0.0)):
        wait = partial(time.sleep, pause)
        wait()
        mine, theirs = median_ms(lambda: kept.commit(one), 30, wait), median_ms(fresh, 30, wait)
        print(f"  {text:30}  {mine:8.2f} ms {theirs:9.2f} ms")
    kept.close()


def main() -> None:
    """Print a table."""
    ctypes.CDLL(None).unshare(0x40000000)  # CLONE_NEWNET
    sets()
    rules()


if __name__ == "__main__":
    main()
