"""How long from the start of the daemon until all manifests are enforced, and how much memory that takes.

    sudo python3 -m tests.bench.cold_start [--pods 10000] [--policies 1000] [--local 110] [--backend nft|legacy]
                                           [--format yaml|json] [--files namespace|object] [--full-pods] [--runs 3]
                                           [--limit S] [--json]

The daemon is the real one, in a network namespace that has a route and an interface for each local pod, with both
families.  Cold: no rules in the kernel, no state directory.  The clock runs from the exec to the answer of
`POST /v1/wait`.  A second start with the rules in force is measured after it.  Exits with 1 when a run did not come to
enforce everything, or took longer than --limit seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from netpold.ctl.client import NotRunning, ask
from tests.bench.cluster import Size, address, address6, local_numbers, manifests
from tests.lab import BACKENDS, Lab, Node
from tests.lab.daemon import Daemon
from tests.lab.namespace import ip

PATIENCE_S = 300.0


@dataclass(frozen=True)
class Run:
    """One start: seconds until everything was enforced, CPU seconds (children too) and peak memory until then."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    apply_ms: float
    rules: int
    sets: int


def main() -> int:
    arguments = _arguments()
    size = Size(arguments.pods, arguments.policies, arguments.local, arguments.full_pods)
    with tempfile.TemporaryDirectory(prefix="netpold-bench-") as name:
        source = Path(name)
        count, octets = write(size, source, arguments.format, arguments.files)
        cold, warm = [], []
        with Lab() as lab:
            for _ in range(arguments.runs):
                node = lab.node(size.node)
                wire(node, size)
                daemon = Daemon(node, arguments.backend)
                shutil.copytree(source, daemon.manifests, dirs_exist_ok=True)
                cold.append(start(daemon, size))
                daemon.stop()
                warm.append(start(daemon, size))
                daemon.stop()
    report = {
        "size": asdict(size),
        "backend": arguments.backend,
        "manifests": {"files": count, "bytes": octets, "format": arguments.format},
        "cold": [asdict(run) for run in cold],
        "restart": [asdict(run) for run in warm],
    }
    print(json.dumps(report, indent=1) if arguments.json else _text(report, cold, warm))
    slowest = max(run.seconds for run in cold)
    if arguments.limit and slowest > arguments.limit:
        print(f"cold_start: {slowest:.2f} s is more than the limit of {arguments.limit:g} s", file=sys.stderr)
        return 1
    return 0


class _Dumper(yaml.CSafeDumper):
    """Writes what is there twice twice, as kubectl does: no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def write(size: Size, directory: Path, kind: str, files: str) -> tuple[int, int]:
    """Write the manifests; gives the number of files and their bytes."""
    count = octets = 0
    for name, objects in manifests(size):
        parts = [objects] if files == "namespace" else [[each] for each in objects]
        for index, part in enumerate(parts):
            if kind == "json":
                text = json.dumps({"apiVersion": "v1", "kind": "List", "items": part}, indent=1)
            else:
                text = yaml.dump_all(part, Dumper=_Dumper, sort_keys=False)
            path = directory / name / f"{index:05}.{kind}"
            path.parent.mkdir(exist_ok=True)
            octets += path.write_text(text)
            count += 1
    return count, octets


def wire(node: Node, size: Size) -> None:
    """An interface and routes for each local pod."""
    lines = []
    for index, number in enumerate(local_numbers(size)):
        name = f"cali{index:08x}"
        lines += [f"link add {name} type veth peer name peer{index}", f"link set {name} up", f"link set peer{index} up"]
        lines += [f"route add {address(number)}/32 dev {name}", f"route add {address6(number)}/128 dev {name}"]
    ip(node.netns, lines)


def start(daemon: Daemon, size: Size) -> Run:
    """Start it and wait until everything is enforced; raises RuntimeError when it is not."""
    begun = time.monotonic()
    daemon.start()
    while True:
        try:
            ask(daemon.socket, "POST", f"/v1/wait?timeout={PATIENCE_S:g}", PATIENCE_S + 10)
            break
        except NotRunning:
            if not daemon.running or time.monotonic() - begun > PATIENCE_S:
                raise RuntimeError(f"the daemon does not answer:\n{daemon.errors()}") from None
            time.sleep(0.005)
    seconds = time.monotonic() - begun
    status = ask(daemon.socket, "GET", "/v1/status")
    reached = (status["state"], status["policies"]["accepted"], status["pods"]["total"], status["pods"]["local"])
    if reached != ("enforcing", size.policies, size.pods, size.local):
        raise RuntimeError(f"{reached} is not what it should come to:\n{daemon.errors()}")
    peak, cpu = _usage(daemon.pid)
    applied = status["last_apply"]["duration_ms"] if status["last_apply"] else 0.0
    return Run(seconds, cpu, peak, applied, sum(status["rules"].values()), status["sets"])


def _usage(pid: int) -> tuple[float, float]:
    """Peak resident memory in MiB of a process, and CPU seconds of it and of what it ran (proc(5): status, stat)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return peak / 1024, sum(map(int, times)) / 100


def _text(report: dict[str, Any], cold: list[Run], warm: list[Run]) -> str:
    size, files = report["size"], report["manifests"]
    lines = [
        f"{size['policies']} policies, {size['pods']} pods ({size['local']} local), backend {report['backend']}, "
        f"{files['files']} {files['format'].upper()} files of {files['bytes'] / 1e6:.1f} MB"
    ]
    for name, runs in (("cold start", cold), ("restart", warm)):
        middle = statistics.median(run.seconds for run in runs)
        each = ", ".join(f"{run.seconds:.2f}" for run in runs)
        lines.append(
            f"{name:<11} {middle:6.2f} s (median of {each}), {max(run.cpu_seconds for run in runs):.2f} s of CPU, "
            f"peak {max(run.peak_mib for run in runs):.0f} MiB, {runs[0].rules} rules, {runs[0].sets} sets, "
            f"last apply {max(run.apply_ms for run in runs):.0f} ms"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cold_start", description="Measures a cold start of netpold.")
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--policies", type=int, default=1_000)
    parser.add_argument("--local", type=int, default=110, help="pods of this node")
    parser.add_argument("--backend", choices=BACKENDS, default="nft")
    parser.add_argument("--format", choices=("yaml", "json"), default="yaml")
    parser.add_argument("--files", choices=("namespace", "object"), default="namespace", help="one file for each")
    parser.add_argument("--full-pods", action="store_true", help="pods as long as kubectl shows them")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0.0, metavar="S", help="fail when a cold start takes longer")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
