"""The test bed of the benchmarks: a node with its pods' interfaces, and the real daemon on it."""

from __future__ import annotations

import argparse
import time
from typing import Any

from netpold.ctl.client import NotRunning, ask
from netpold.ctl.failure import Exit, Failure
from tests.bench.cluster import Size, address, address6, local_numbers
from tests.bench.manifests import LAYOUTS
from tests.lab import BACKENDS, Node
from tests.lab.daemon import Daemon
from tests.lab.namespace import ip

SIZES = "1000/100,10000/1000,100000/10000"
PATIENCE_S = 1800.0
LOOK_S = 30.0  # how often to see whether it has failed while it is waited for


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all benchmarks of the whole daemon have."""
    parser.add_argument("--sizes", type=sizes, default=SIZES, metavar="PODS/POLICIES,...", help=f"default: {SIZES}")
    parser.add_argument("--local", type=int, default=110, help="pods of this node (default: 110)")
    parser.add_argument("--backend", choices=BACKENDS, default="nft")
    parser.add_argument("--files", choices=LAYOUTS, default="namespace", help="one file for each")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def sizes(text: str) -> list[tuple[int, int]]:
    """Numbers of pods and policies.  Raises ValueError."""
    found = []
    for each in text.split(","):
        pods, _, policies = each.partition("/")
        found.append((int(pods), int(policies)))
    return found


def wire(node: Node, size: Size) -> None:
    """An interface and routes for each local pod of the cluster."""
    lines = []
    for index, number in enumerate(local_numbers(size)):
        name = f"cali{index:08x}"
        lines += [f"link add {name} type veth peer name peer{index}", f"link set {name} up", f"link set peer{index} up"]
        lines += [f"route add {address(number)}/32 dev {name}", f"route add {address6(number)}/128 dev {name}"]
    ip(node.netns, lines)


def await_enforced(daemon: Daemon, policies: int, pods: int, local: int) -> tuple[float, dict[str, Any]]:
    """Wait until a daemon that has been started enforces everything.

    Gives the moment of its answer (monotonic clock) and its status then; raises RuntimeError when it is not to be had.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            ask(daemon.socket, "POST", f"/v1/wait?timeout={LOOK_S:g}", LOOK_S + 10)
            break
        except NotRunning:
            if not daemon.running or time.monotonic() > end:
                raise RuntimeError(f"the daemon does not answer:\n{daemon.errors()}") from None
            time.sleep(0.005)
        except Failure as failure:
            degraded = ask(daemon.socket, "GET", "/v1/status", LOOK_S)["state"] == "degraded"
            if failure.code is not Exit.TIMED_OUT or degraded or time.monotonic() > end:
                raise RuntimeError(f"not enforced: {failure}\n{daemon.errors()}") from None
    answered = time.monotonic()
    status: dict[str, Any] = ask(daemon.socket, "GET", "/v1/status", LOOK_S)
    reached = (status["state"], status["policies"]["accepted"], status["pods"]["total"], status["pods"]["local"])
    if reached != ("enforcing", policies, pods, local):
        raise RuntimeError(
            f"{reached} is not {('enforcing', policies, pods, local)} as it should be:\n{daemon.errors()}"
        )
    return answered, status
