"""The daemon's process: flags, log, signals, threads, and what systemd wants to hear.

SIGTERM and SIGINT end it, and the rules stay.  SIGHUP makes it look at all files; where its settings say something else
now it starts itself anew, in the same process, and takes the rules over as after any other restart.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

from netpold import __version__
from netpold.config import ConfigError, Settings, add_flags, load
from netpold.daemon.control import Control, ControlError
from netpold.daemon.reconcile import Reconciler
from netpold.host import journal
from netpold.host.kernel.apply import choose
from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import Nft
from netpold.host.metrics_file import MetricsFile
from netpold.host.netlink import NetlinkError
from netpold.host.privilege import may_change_rules
from systemd import daemon as systemd

READY_ANYWAY_S = 10.0  # others wait for us to be ready; a node whose daemon can't enforce has to boot, too

log = logging.getLogger(journal.LOGGER)


def parser() -> argparse.ArgumentParser:
    """The daemon's command line."""
    made = argparse.ArgumentParser(
        prog="netpold", description="Enforces Kubernetes network policies on this node, from files."
    )
    made.add_argument("--version", action="version", version=f"netpold {__version__}")
    made.add_argument("--check-settings", action="store_true", help="Say whether the settings can be used, and end.")
    add_flags(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or SIGINT.  Returns the exit code."""
    flags = parser().parse_args(arguments)
    journal.log_to_journal_or_stderr()
    gc.disable()  # until everything is read: looking through it again and again is half of a cold start
    sys.setswitchinterval(0.001)  # s; status answers while much is read
    try:
        settings = load(vars(flags), flags.config)
        if flags.check_settings:
            return 0
        process = _Process(settings, flags)
        code = process.run()
    except ConfigError as error:
        print(f"netpold: {error}", file=sys.stderr)
        return 2
    except (KernelError, ControlError, NetlinkError) as error:
        print(f"netpold: {error}", file=sys.stderr)
        return 1
    if process.begin_anew:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a handler again
        os.execv(sys.executable, sys.orig_argv)
    return code


class _Exporter(Protocol):
    warning: str | None

    def start(self) -> None: ...

    def close(self) -> None: ...


def _exporters(settings: Settings, reconciler: Reconciler) -> Iterator[_Exporter]:
    """Where the metrics go, beside the control socket."""
    if settings.metrics_port:
        from netpold.host.metrics_port import MetricsPort  # with asyncio, which few need

        yield MetricsPort(settings.metrics_port, reconciler.metrics)
    if settings.metrics_textfile:
        yield MetricsFile(settings.metrics_textfile, reconciler.metrics)


class _Process:
    """One run of the daemon.  `begin_anew`: it ended because the settings say something else now.  `warning`: why those
    on disk are not in force."""

    def __init__(self, settings: Settings, flags: argparse.Namespace) -> None:
        self.begin_anew = False
        self.warning: str | None = None
        self._settings = settings
        self._flags = flags
        self._began = time.monotonic()
        self._woken = threading.Event()
        self._stopping = False
        self._reload = False
        self._ready = False
        self._told = ""  # to systemd

    def run(self) -> int:
        """Until it is to end; returns the exit code.  Raises KernelError, ControlError or NetlinkError."""
        if not may_change_rules():
            text = "the kernel's rules are for root, or who has CAP_NET_ADMIN; run it with sudo or as a service"
            print(f"netpold: {text}", file=sys.stderr)
            return 4
        settings = self._settings
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
            for each in _exporters(settings, reconciler):
                reconciler.beside.append(each)
                each.start()
                stack.callback(each.close)
            reconciler.beside.append(self)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, self._signalled)
            text = f"netpold {__version__} on node {settings.node}: {settings.manifests} to {backend.name}"
            journal.say(journal.STARTED, text)
            loop = threading.Thread(
                target=reconciler.run,
                args=(lambda: self._tell_systemd(reconciler), lambda: systemd.notify("WATCHDOG=1")),
                name="reconcile",
            )
            loop.start()
            while loop.is_alive() and not self._stopping:
                self._woken.wait(1.0)
                self._woken.clear()
                if self._reload:
                    self._reload = False
                    self._look_anew(reconciler)
            systemd.notify("RELOADING=1" if self.begin_anew else "STOPPING=1")
            reconciler.stop()
            loop.join()
            if not self._stopping:
                log.critical("the reconciling loop ended by itself; the rules stay in force")
                return 1
        journal.say(
            journal.STOPPED, "starting anew with other settings" if self.begin_anew else "stopped; the rules stay"
        )
        return 0

    def _signalled(self, number: int, frame: object) -> None:
        """Only notes what is to do: a signal handler must not wait for a lock."""
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stopping = True
        self._woken.set()

    def _look_anew(self, reconciler: Reconciler) -> None:
        """What SIGHUP asks for."""
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            settings, self.warning = load(vars(self._flags), self._flags.config), None
        except ConfigError as error:
            self.warning = f"the settings on disk are not in force: {error}"
            log.error("%s", self.warning)
            settings = self._settings
        if settings != self._settings:
            self.begin_anew = self._stopping = True
            return
        reconciler.rescan()
        systemd.notify("READY=1" if self._ready else "")

    def _tell_systemd(self, reconciler: Reconciler) -> None:
        """After each round: the service is ready with the first ruleset in force, and shows its state."""
        status = reconciler.current
        if status.state == "enforcing" and not gc.isenabled():
            gc.freeze()  # what is there now stays, and holds no cycles
            gc.enable()
        if not self._ready:
            self._ready = status.state == "enforcing" or time.monotonic() > self._began + READY_ANYWAY_S
        text = "\n".join(["WATCHDOG=1"] + ["READY=1"] * self._ready + [f"STATUS={status.line()}"])
        # systemd hands each STATUS on to whoever follows the service
        systemd.notify("WATCHDOG=1" if text == self._told else text)
        self._told = text
