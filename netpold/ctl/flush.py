"""`netpoldctl flush`: everything of netpold's out of the kernel, through the daemon or, when none runs, directly."""

from __future__ import annotations

import argparse
import os

from netpold.config import ConfigError, load
from netpold.ctl.client import DEFAULT_SOCKET, NotRunning, ask
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.output import say, say_json
from netpold.ctl.progress import progress
from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.flush import flush
from netpold.host.snapshot import remove

FLUSH_S = 90.0  # a large ruleset takes a while, and the daemon may be in the middle of a round


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    by_daemon = True
    try:
        with progress("taking everything out of the kernel"):
            ask(arguments.socket, "POST", "/v1/flush", FLUSH_S)
    except NotRunning:
        by_daemon = False
        _directly()
        if arguments.socket == DEFAULT_SOCKET:
            _forget_snapshot()
    if arguments.output == "json":
        say_json({"version": 1, "done": True, "by_daemon": by_daemon})
    elif by_daemon:
        say("netpold's rules and sets are out of the kernel; the daemon enforces nothing until it is restarted.")
    else:
        say("netpold's rules and sets are out of the kernel.")
    return Exit.FINE


def _directly() -> None:
    if os.geteuid() != 0:
        fault = "only root may take rules out of the kernel"
        raise Failure(fault, "run netpoldctl as root, or with sudo", Exit.NOT_PERMITTED)
    try:
        with progress("taking everything out of the kernel"):
            flush()
    except KernelError as error:
        hint = "see with `iptables -S` and `ipset list` what is left, and try again"
        raise Failure(str(error), hint, Exit.NO) from error


def _forget_snapshot() -> None:
    """Else the next boot would put the rules back."""
    try:
        remove(load().state_dir)
    except (ConfigError, OSError) as error:
        fault = f"the rules are out of the kernel, but those that are saved for the next boot are still there: {error}"
        raise Failure(fault, "remove the directory `snapshot` in netpold's state directory", Exit.NO) from error
