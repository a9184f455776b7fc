"""What the parts cost, each alone: a look at files, a parse beside the share of libyaml, commits to the legacy backend.

    sudo python3 -m tests.bench.parts

Medians of several runs; the commits go into a network namespace of their own.
"""

from __future__ import annotations

import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from yaml.cyaml import CParser

from netpold.host.kernel.backend import Commit
from netpold.host.kernel.legacy import Legacy
from netpold.host.scan import Walk
from netpold.policy.manifest import parse
from netpold.rules.render import options
from netpold.rules.ruleset import Address, Ports, Proto, Rule

FILES = 10_000
CHAINS, RULES = 300, 10
POD = b"""apiVersion: v1
kind: Pod
metadata:
  name: web-1
  namespace: shop
  labels:
    app: web
    tier: front
spec:
  nodeName: node-1
  containers:
  - name: main
    ports:
    - {name: http, containerPort: 80}
status:
  phase: Running
  podIP: 10.244.1.11
"""


def median_ms(work: Callable[[], object], times: int) -> float:
    """How long `work` takes, in ms: the median of so many runs."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def events() -> None:
    """What libyaml alone does."""
    parser = CParser(POD)
    while not isinstance(parser.get_event(), yaml.StreamEndEvent):
        pass


def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as directory:
        for number in range(FILES):
            (Path(directory) / f"{number}.yaml").touch()
        walk_ms = median_ms(lambda: list(Walk(Path(directory), 1 << 20)), 7)
        print(f"look at {FILES:,} files             {walk_ms:8.1f} ms")
    libyaml, whole = median_ms(events, 500), median_ms(lambda: parse(POD, "pod.yaml"), 500)
    print(f"one Pod, libyaml's events alone  {libyaml * 1000:8.1f} us")
    print(f"one Pod, parsed and checked      {whole * 1000:8.1f} us   {whole / libyaml:.1f} times")
    ctypes.CDLL(None).unshare(0x40000000)  # CLONE_NEWNET
    rule = Rule(
        (Address("src", "10.0.0.0/8"), Proto("tcp"), Ports(((80, 80), (443, 443)))), "RETURN", "x/policy ingress[0]"
    )
    chain = tuple(options(rule, 4, str) for _ in range(RULES))
    full = {f"NP-RULES-{number}": chain for number in range(CHAINS)}
    legacy = Legacy()
    print(
        f"legacy, all {CHAINS * RULES:,} rules         {median_ms(lambda: legacy.commit(Commit(4, full)), 7):8.1f} ms"
    )
    one = Commit(4, {"NP-RULES-7": chain})
    print(f"legacy, one chain of {RULES} in these  {median_ms(lambda: legacy.commit(one), 15):8.1f} ms")


if __name__ == "__main__":
    main()
