"""What the size of the cluster costs: cold start, restart, memory, CPU time, and how fast `status` answers meanwhile.

    sudo python3 -m tests.bench.scale [--sizes 1000/100,10000/1000,100000/10000] [--local 110] [--backend nft|legacy]
                                      [--files namespace|object] [--format yaml|json] [--full-pods] [--runs 3]
                                      [--limit S] [--json]

The daemon is the real one, in a network namespace that has a route and an interface for each local pod, with both
families.  Cold: no rules in the kernel, an empty state directory.  Restart: the daemon is stopped and started again,
with its rules in the kernel and its state directory kept.  The clock runs from the exec to the answer of
`POST /v1/wait`.  Meanwhile `GET /v1/status` is asked every 20 ms, each time by a connection of its own; an answer that
takes longer counts once more for every question that it held up.

Figures are medians of the runs, of `status` the quantiles of all runs together.  Exits with 1 when a run did not come
to enforce everything, or when a cold start took longer than --limit seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from netpold.ctl.client import NotRunning, ask
from tests.bench.bed import add_options, await_enforced, wire
from tests.bench.cluster import Size
from tests.bench.manifests import FORMATS, write
from tests.bench.table import quantile, table
from tests.bench.usage import Beside, MemorySampler, cpu_s, peak_rss_mib
from tests.lab import Backend, Lab
from tests.lab.daemon import Daemon

POLL_S = 0.02


@dataclass(frozen=True)
class Start:
    """One start until everything was enforced.  `peak_hwm_mib` is the daemon's alone; `status_ms`: every answer."""

    seconds: float
    cpu_seconds: float
    peak_hwm_mib: float
    peak_rss_mib: float
    peak_pss_mib: float
    apply_ms: float
    rules: int
    sets: int
    status_ms: list[float]


@dataclass(frozen=True)
class Result:
    """All starts of one size."""

    size: Size
    files: int
    octets: int
    cold: list[Start]
    restart: list[Start]


class StatusPoller(Beside):
    """Asks for the status every POLL_S; `taken_ms` is how long the answers took."""

    def __init__(self, socket: Path) -> None:
        super().__init__()
        self.taken_ms: list[float] = []
        self._socket = socket

    def _run(self) -> None:
        due = time.monotonic()
        while not self._done.wait(max(due - time.monotonic(), 0.0)):
            try:
                ask(self._socket, "GET", "/v1/status", 60.0)
            except NotRunning:
                due += POLL_S
                continue
            answered = time.monotonic()
            while due <= answered:
                self.taken_ms.append((answered - due) * 1000)
                due += POLL_S


def start(daemon: Daemon, size: Size) -> Start:
    """Start the daemon and wait until everything is enforced; raises RuntimeError when it is not."""
    begun = time.monotonic()
    daemon.start()
    with MemorySampler(daemon.pid) as memory, StatusPoller(daemon.socket) as poller:
        answered, status = await_enforced(daemon, size.policies, size.pods, size.local)
    applied = status["last_apply"]["duration_ms"] if status["last_apply"] else 0.0
    return Start(
        answered - begun,
        cpu_s(daemon.pid),
        peak_rss_mib(daemon.pid),
        memory.rss_mib,
        memory.pss_mib,
        applied,
        sum(status["rules"].values()),
        status["sets"],
        poller.taken_ms,
    )


def measure(size: Size, backend: Backend, source: Path, runs: int) -> tuple[list[Start], list[Start]]:
    """Cold starts and the restarts after them, each pair on a node of its own."""
    cold: list[Start] = []
    restart: list[Start] = []
    for _ in range(runs):
        with Lab() as lab:
            node = lab.node(size.node)
            wire(node, size)
            daemon = Daemon(node, backend, args=("--manifests", str(source)))
            for into in (cold, restart):
                into.append(start(daemon, size))
                daemon.stop(60)
    return cold, restart


def main() -> int:
    options = _options()
    results = []
    for pods, policies in options.sizes:
        size = Size(pods, policies, min(options.local, pods), options.full_pods)
        with tempfile.TemporaryDirectory(prefix="netpold-bench-") as directory:
            files, octets = write(size, Path(directory), options.format, options.files)
            try:
                cold, restart = measure(size, options.backend, Path(directory), options.runs)
            except RuntimeError as error:
                print(f"scale: {pods:,} pods, {policies:,} policies: {error}", file=sys.stderr)
                return 1
        results.append(Result(size, files, octets, cold, restart))
    print(json.dumps([asdict(each) for each in results], indent=1) if options.json else _text(results, options))
    slowest = max(run.seconds for result in results for run in result.cold)
    if options.limit and slowest > options.limit:
        print(f"scale: a cold start of {slowest:.2f} s; the limit is {options.limit:g} s", file=sys.stderr)
        return 1
    return 0


def _text(results: list[Result], options: argparse.Namespace) -> str:
    rows: dict[str, list[float | None]] = {
        "files": [each.files for each in results],
        "manifests, MB": [each.octets / 1e6 for each in results],
        "rules in the kernel": [each.cold[0].rules for each in results],
        "sets in the kernel": [each.cold[0].sets for each in results],
    }
    for name, kind in (("cold start", "cold"), ("restart", "restart")):
        starts: list[list[Start]] = [getattr(each, kind) for each in results]
        rows[f"{name}, s"] = _medians([run.seconds for run in runs] for runs in starts)
        rows[f"{name}, CPU s"] = _medians([run.cpu_seconds for run in runs] for runs in starts)
        rows[f"{name}, last apply, ms"] = _medians([run.apply_ms for run in runs] for runs in starts)
        rows[f"{name}, peak PSS of all, MiB"] = _medians([run.peak_pss_mib for run in runs] for runs in starts)
        rows[f"{name}, peak RSS of all, MiB"] = _medians([run.peak_rss_mib for run in runs] for runs in starts)
        rows[f"{name}, VmHWM, MiB"] = _medians([run.peak_hwm_mib for run in runs] for runs in starts)
        taken = [[each for run in runs for each in run.status_ms] for runs in starts]
        for share, label in ((0.5, "p50"), (0.99, "p99"), (1.0, "max")):
            rows[f"{name}, status {label}, ms"] = [quantile(each, share) for each in taken]
    columns = [f"{each.size.pods:,}/{each.size.policies:,}" for each in results]
    head = (
        f"backend {options.backend}, {results[0].size.local} local pods, {options.format.upper()}, "
        f"one file for each {options.files}, {options.runs} runs"
    )
    return f"{head}\n{table('pods/policies', columns, rows)}"


def _medians(values: Iterable[list[float]]) -> list[float | None]:
    return [statistics.median(each) for each in values]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scale", description="Measures starts of netpold in clusters of several sizes."
    )
    add_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="yaml")
    parser.add_argument("--full-pods", action="store_true", help="pods as long as kubectl shows them")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0.0, metavar="S", help="fail when a cold start takes longer")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
