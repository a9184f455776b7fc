"""The daemon's process: flags, log, signals, threads, and what systemd wants to hear.

A thread that ends by a defect ends the daemon, and systemd starts it again, but for the two whose owners replace them.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Protocol

from netpold import __version__
from netpold.config import ConfigError, Settings, add_flags, load
from netpold.daemon.control import Control
from netpold.daemon.reconcile import Reconciler
from netpold.daemon.runtime_dir import ControlError
from netpold.host import journal, network, watch
from netpold.host.kernel.apply import choose
from netpold.host.kernel.backend import KernelError, said
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import Nft
from netpold.host.metrics_file import MetricsFile
from netpold.host.netlink import NetlinkError
from netpold.host.notify import notify
from netpold.host.privilege import may_change_rules

READY_ANYWAY_S = 10.0  # others wait for us to be ready; a node whose daemon can't enforce has to boot, too

REPLACED = (watch.THREAD, network.THREAD)  # threads that are replaced when they end

SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

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
    # they are taken one by one, by the main thread alone (_Process); those that wait are not lost by an exec
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
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
        _exec_anew()
    return code


def _exec_anew() -> None:
    """As it was started: by its script, where there is one, so that the process keeps its name."""
    words = sys.orig_argv
    if len(words) > 1 and os.access(words[1], os.X_OK):
        os.execv(words[1], words[1:])
    os.execv(sys.executable, words)


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
        self._terminated = False  # by a signal, which wins over all else
        self._other_settings = False
        self._thread_died = False
        # What systemd knows.  It waits for READY=1 at the start, and again after RELOADING=1.
        self._ready = False
        self._ready_anyway_at = time.monotonic() + READY_ANYWAY_S
        self._reloading: int | None = None  # the rescan that a reload waits for
        self._reloads = 0
        self._told: tuple[int, str] | None = None

    def run(self) -> int:
        """Until it is to end; returns the exit code.  Raises KernelError, ControlError or NetlinkError."""
        if not may_change_rules():
            text = "the kernel's rules are for root, or who has CAP_NET_ADMIN; run it with sudo or as a service"
            print(f"netpold: {text}", file=sys.stderr)
            return 4
        settings = self._settings
        with ExitStack() as stack:
            stack.callback(setattr, threading, "excepthook", threading.excepthook)
            threading.excepthook = partial(self._thread_ended, threading.excepthook)
            backend = Nft() if choose(settings.backend) == "nft" else Legacy()
            stack.callback(backend.close)
            try:
                reconciler = Reconciler(settings, backend)
            except OSError as error:
                raise KernelError(f"the daemon can't start: {said(error)}") from error
            control = Control(settings.runtime_dir, reconciler, settings.socket_group)
            control.start()
            stack.callback(control.close)
            try:
                reconciler.start()
            except OSError as error:
                raise KernelError(f"changes of the network or of files can't be followed: {said(error)}") from error
            stack.callback(reconciler.close)
            for each in _exporters(settings, reconciler):
                reconciler.beside.append(each)
                each.start()
                stack.callback(each.close)
            reconciler.beside += [self, control]
            text = f"netpold {__version__} on node {settings.node}: {settings.manifests} to {backend.name}"
            journal.say(journal.STARTED, text)
            tell = partial(self._tell_systemd, reconciler)
            loop = threading.Thread(target=reconciler.run, args=(tell, tell), name="reconcile")
            loop.start()
            while loop.is_alive() and not (self._thread_died or self._terminated or self._other_settings):
                self._take_signal(reconciler)
            died = self._thread_died or not loop.is_alive()
            if not self._other_settings or self._terminated:
                notify("STOPPING=1")
            reconciler.stop()
            loop.join()
            if died:
                log.critical("the daemon ends since one of its threads did; the rules stay in force")
                return 1
        self._terminated |= not signal.sigpending().isdisjoint((signal.SIGTERM, signal.SIGINT))
        self.begin_anew = self._other_settings and not self._terminated
        what = "starting anew with other settings" if self.begin_anew else "stopped"
        journal.say(journal.STOPPED, f"{what}; the rules stay in force")
        return 0

    def _thread_ended(
        self, tell: Callable[[threading.ExceptHookArgs], object], arguments: threading.ExceptHookArgs
    ) -> None:
        tell(arguments)
        self._thread_died |= arguments.thread is None or arguments.thread.name not in REPLACED

    def _take_signal(self, reconciler: Reconciler) -> None:
        """Wait for a signal, a second at most, and do what it asks for.  (A handler could come in the middle of
        anything, another handler included, and wait for a lock that is held there.)"""
        came = signal.sigtimedwait(SIGNALS, 1.0)
        if came is not None and came.si_signo == signal.SIGHUP:
            self._look_anew(reconciler)
        elif came is not None and came.si_signo in SIGNALS:
            # any other number is no signal: Python makes one up where a SIGCONT ends the wait after the second is over
            self._terminated = True

    def _look_anew(self, reconciler: Reconciler) -> None:
        """What SIGHUP asks for."""
        try:
            settings, self.warning = load(vars(self._flags), self._flags.config), None
        except ConfigError as error:
            self.warning = f"the settings on disk are not in force: {error}"
            log.error("%s", self.warning)
            settings = self._settings
        # in this order: the READY=1 that ends the reload must not come before RELOADING=1
        self._ready_anyway_at = time.monotonic() + READY_ANYWAY_S
        self._reloading, self._reloads = sys.maxsize, self._reloads + 1
        self._other_settings = settings != self._settings
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._reloading = reconciler.rescan()

    def _tell_systemd(self, reconciler: Reconciler) -> None:
        """From the loop, after each round and every few seconds: that it is alive, whether it is ready, its state."""
        status = reconciler.current
        if status.state != "starting" and not gc.isenabled():
            gc.freeze()  # what is there now stays, and holds no cycles
            gc.enable()
        reloads, text = self._reloads, f"STATUS={status.line()}"
        if self._is_ready(reconciler):
            text = f"READY=1\n{text}"
        # once: systemd hands each STATUS on to whoever follows the service
        notify("WATCHDOG=1" if (reloads, text) == self._told else f"WATCHDOG=1\n{text}")
        self._told = reloads, text

    def _is_ready(self, reconciler: Reconciler) -> bool:
        """With the first ruleset in force, and at the end of each reload; others wait for it, so when enforcing fails,
        some time later all the same.  Not while the settings are about to change: what begins anew says so."""
        overdue = time.monotonic() > self._ready_anyway_at
        status = reconciler.current  # degraded, it may enforce everything but what the kernel refuses
        self._ready = self._ready or status.is_in_force or status.revision > 0 or overdue
        if self._reloading is not None and (reconciler.is_done(self._reloading) or overdue):
            self._reloading = None
        return self._ready and self._reloading is None and not self._other_settings
