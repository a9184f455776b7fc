"""The daemon's process: flags, log, signals, threads, and what systemd wants to hear."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from systemd import daemon as systemd
from systemd.journal import JournalHandler

from netpold.config import ConfigError, Settings, add_flags, load
from netpold.daemon.control import Control, ControlError
from netpold.daemon.reconcile import Reconciler
from netpold.host.kernel.apply import choose
from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import Nft
from netpold.host.netlink import NetlinkError

log = logging.getLogger("netpold")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or SIGINT.  Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="netpold", description="Enforces Kubernetes network policies on this node, from files."
    )
    add_flags(parser)
    flags = parser.parse_args(arguments)
    _log_to_journal_or_stderr()
    gc.disable()  # until everything is read: looking through it again and again is half of a cold start
    sys.setswitchinterval(0.001)  # s; status answers while much is read
    try:
        settings = load(vars(flags), flags.config)
        return _serve(settings)
    except ConfigError as error:
        print(f"netpold: {error}", file=sys.stderr)
        return 2
    except (KernelError, ControlError, NetlinkError) as error:
        print(f"netpold: {error}", file=sys.stderr)
        return 1


def _serve(settings: Settings) -> int:
    if os.geteuid() != 0:
        print("netpold: only root may change the kernel's rules; run it with sudo or as a service", file=sys.stderr)
        return 4
    stopping = threading.Event()
    with ExitStack() as stack:
        backend = Nft() if choose(settings.backend) == "nft" else Legacy()
        stack.callback(backend.close)
        reconciler = Reconciler(settings, backend)
        control = Control(settings.runtime_dir, reconciler)
        control.start()
        stack.callback(control.close)
        try:
            reconciler.start()
        except OSError as error:
            raise KernelError(f"changes of the network or of files can't be followed: {error.strerror}") from error
        stack.callback(reconciler.close)

        def stop(number: int, frame: object) -> None:
            stopping.set()

        def reload(number: int, frame: object) -> None:
            threading.Thread(target=reconciler.rescan).start()  # a signal handler must not wait for a lock

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)
        loop = threading.Thread(target=reconciler.run, args=(_tell_systemd(reconciler),), name="reconcile")
        loop.start()
        while loop.is_alive() and not stopping.wait(1.0):
            pass
        systemd.notify("STOPPING=1")
        reconciler.stop()
        loop.join()
        if not stopping.is_set():
            log.critical("the reconciling loop ended by itself; the rules stay in force")
            return 1
    log.info("stopped; the rules stay in force")
    return 0


def _log_to_journal_or_stderr() -> None:
    if os.environ.get("JOURNAL_STREAM"):
        handler: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER="netpold")
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _tell_systemd(reconciler: Reconciler) -> Callable[[], None]:
    """What runs after each round: the service is ready with the first ruleset in force, and shows its state."""

    def tell() -> None:
        status = reconciler.current
        ready = "READY=1\n" if status.state == "enforcing" else ""
        if ready and not gc.isenabled():
            gc.freeze()  # what is there now stays, and holds no cycles
            gc.enable()
        systemd.notify(f"{ready}WATCHDOG=1\nSTATUS={status.summary()}")

    return tell
