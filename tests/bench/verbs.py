"""How long a person waits for netpoldctl's answers.

    sudo python3 -m tests.bench.verbs [--sizes 10000/1000] [--local 110] [--backend nft|legacy] [--files namespace]
                                      [--cluster-policies 0] [--repeat 7] [--json]

Each verb is a process of its own, as in a shell, from its start to its end: medians of milliseconds, and the longest.
Those that are named first ask a running daemon, the others read the manifests themselves.  `--cluster-policies`: so
many ClusterNetworkPolicies as those of `tests.bench.tiers` are there, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from netpold.ctl.client import ask
from tests.bench.bed import add_options, await_enforced, wire
from tests.bench.cluster import Size
from tests.bench.manifests import text, write
from tests.bench.table import table
from tests.bench.tiers import manifest as cluster_policy
from tests.lab import Lab
from tests.lab.daemon import CHECKOUT, PYTHON, Daemon

Verbs = Iterator[tuple[str, list[str]]]


def online(daemon: Daemon) -> Verbs:
    """Verbs that ask the daemon, of pods and policies that there are."""
    socket = ["--socket", str(daemon.socket)]
    known = ask(daemon.socket, "GET", "/v1/names", 60)
    rows = ask(daemon.socket, "GET", "/v1/matrix?ports=80/TCP", 60)
    here = [each["name"] for each in rows["ends"]]
    away = next(each for each in known["pods"] if each not in here)
    yield "status", ["status", *socket]
    yield "explain, two local pods", ["explain", *socket, here[0], here[-1], "80/TCP"]
    yield "explain, to a pod of another node", ["explain", *socket, here[0], away, "80/TCP"]
    yield "explain, from an address", ["explain", *socket, "192.0.2.1", here[0], "80/TCP"]
    yield "explain, no such pod", ["explain", *socket, here[0], f"{away}x", "80/TCP"]
    yield "matrix of all local pods, one port", ["matrix", *socket, "-o", "json", "--ports", "80/TCP"]
    yield "matrix of all local pods, its own ports", ["matrix", *socket, "-o", "json"]
    yield "matrix -o html", ["matrix", *socket, "-o", "html"]
    yield "pod", ["pod", *socket, here[0]]
    yield "policy", ["policy", *socket, known["policies"][0]]
    yield "verify", ["verify", *socket]


def offline(manifests: Path, fewer: Path) -> Verbs:
    """Verbs that read manifests; `fewer`: the same without one policy."""
    where = ["--manifests", str(manifests)]
    yield "check", ["check", str(manifests)]
    yield "explain --manifests", ["explain", *where, "192.0.2.1", "10.64.0.2", "80/TCP"]
    yield "diff with itself", ["diff", str(manifests), str(manifests)]
    yield "diff, a policy less", ["diff", str(manifests), str(fewer)]


def taken(words: list[str], repeat: int) -> list[float]:
    """Milliseconds of each run.  Raises RuntimeError where the verb is not there or fails."""
    found = []
    for _ in range(repeat):
        began = time.monotonic()
        done = subprocess.run([PYTHON, "-m", "netpold.ctl", *words], cwd=CHECKOUT, capture_output=True, text=True)
        found.append((time.monotonic() - began) * 1000)
        if done.returncode > 2:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    return found


def measure(size: Size, options: argparse.Namespace) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="netpold-bench-") as directory, Lab() as lab:
        source, fewer = Path(directory, "manifests"), Path(directory, "fewer")
        write(size, source, "yaml", options.files)
        tiers = [cluster_policy(number) for number in range(options.cluster_policies)]
        (source / "tiers.yaml").write_text(text(tiers))
        shutil.copytree(source, fewer)
        _take_one_away(fewer)
        node = lab.node(size.node)
        wire(node, size)
        with Daemon(node, options.backend, args=("--manifests", str(source))) as daemon:
            daemon.start()
            await_enforced(daemon, size.policies + len(tiers), size.pods, size.local)
            found = {name: taken(words, options.repeat) for name, words in online(daemon)}
            return found | {name: taken(words, 3) for name, words in offline(source, fewer)}


def _take_one_away(manifests: Path) -> None:
    """The first NetworkPolicy, in the order of files."""
    for path in sorted(manifests.rglob("*.yaml")):
        documents = path.read_text().split("---\n")
        for number, document in enumerate(documents):
            if "kind: NetworkPolicy\n" in document:
                path.write_text("---\n".join([*documents[:number], *documents[number + 1 :]]))
                return


def main() -> int:
    parser = argparse.ArgumentParser(prog="verbs", description="How long netpoldctl's answers take.")
    add_options(parser)
    parser.set_defaults(sizes=[(10_000, 1_000)])
    parser.add_argument("--cluster-policies", type=int, default=0, help="how many (default: none)")
    parser.add_argument("--repeat", type=int, default=7, help="runs of each verb that asks the daemon")
    options = parser.parse_args()
    results = {}
    for pods, policies in options.sizes:
        size = Size(pods, policies, min(options.local, pods))
        results[f"{pods:,}/{policies:,}"] = measure(size, options)
    if options.json:
        print(json.dumps(results, indent=1))
        return 0
    for column, found in results.items():
        rows = {name: [median(times), max(times)] for name, times in found.items()}
        print(f"backend {options.backend}, {options.local} local pods of {column} pods/policies")
        print(table("verb, ms", ["median", "longest"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
