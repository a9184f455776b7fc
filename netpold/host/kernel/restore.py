"""An iptables-nft-restore process that is kept open and fed one transaction after the other.

It carries a transaction out when it reads the COMMIT line.  With `-v` it repeats comment lines on its standard output
at once, so a comment behind COMMIT comes back when the kernel has the transaction.  When its input ends, it ends too,
and drops a transaction that has no COMMIT yet: so it ends with this process, however that ends, and nothing is half
done.  (iptables/xtables-restore.c, the same in iptables 1.8.9 and 1.8.11.)

A version that does not repeat a comment at once can't be kept open (nor can a script in its place that reads all of its
input first): there each transaction gets its own process, which ends with its input.  From time to time it is tried
again.
"""

from __future__ import annotations

import contextlib
import logging
import time

from netpold.host import run
from netpold.host.kernel.backend import KernelError, Trouble

PATIENCE = 3.0  # seconds in which a new process has to repeat its first comment
KEEP_AGAIN = 600.0  # seconds after which one that could not be kept open is tried again
_PIDS = 8  # of processes that may have ended already while others read of what they did

log = logging.getLogger(__name__)


class Restore:
    """`program --noflush` in the network namespace of the thread that starts it, by its first transaction.

    For one thread at a time, but for `pids`: of the last processes, which tell its transactions from those of others.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._process: _Process | None = None
        self.pids: tuple[int, ...] = ()
        self._keep_from = 0.0  # when (time.monotonic()) to try to keep one open

    def commit(self, transaction: str) -> None:
        """Carry out the lines from `*filter` to COMMIT, whole or not at all.

        Raises KernelError with what the program said, and Trouble when it takes longer than run.TIMEOUT.
        """
        kept = self._process
        if kept is not None:
            try:
                self._give(kept, transaction)
                return
            except KernelError:
                if not kept.ended:
                    raise
            # somebody killed it, or what it knew was out of date, or the transaction is bad: a new process tells
        process = self._started() if time.monotonic() >= self._keep_from else None
        if process is not None:
            self._give(process, transaction)
        else:
            run.run([self._program, "--noflush"], transaction, self._note)

    def close(self) -> None:
        """End the process; another transaction would start another."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _give(self, process: _Process, transaction: str) -> None:
        """Afterwards this is the process that is kept, if it is still there."""
        self._process = None
        try:
            answered = process.answers(transaction, run.TIMEOUT)
        except BaseException:
            process.end()
            raise
        if not answered:
            process.kill()
            raise Trouble(f"{self._program} did not finish within {run.TIMEOUT:.0f} s")
        self._process = process

    def _note(self, pid: int) -> None:
        self.pids = (*self.pids, pid)[-_PIDS:]

    def _started(self) -> _Process | None:
        """A new process; None where that can't be kept open."""
        process = _Process(self._program)
        self._note(process.pid)
        try:
            if process.answers("", PATIENCE):
                return process
        except BaseException:
            process.end()
            raise
        process.kill()
        if not self._keep_from:
            log.warning("%s can't be kept open: each change of the rules starts it again", self._program)
        self._keep_from = time.monotonic() + KEEP_AGAIN
        return None


class _Process:
    """`ended`: it did so by itself, and did not answer."""

    def __init__(self, program: str) -> None:
        self.ended = False
        self._program = program
        self._given = 0
        self._child = run.Child([program, "--noflush", "-v"], kept=True)

    @property
    def pid(self) -> int:
        return self._child.pid

    def answers(self, text: str, timeout: float) -> bool:
        """Give it lines and a comment; whether the comment came back in time (s).

        Raises KernelError with what it said where it ended instead.
        """
        self._given += 1
        comment = f"# done {self._given}\n".encode()
        if not self._child.talk(text.encode(errors="surrogateescape") + comment, timeout, until=comment):
            return False
        if self._child.output.endswith(comment):
            return True
        self.ended = True
        raise run.failure(self._program, self._child.complaint, self._child.wait(run.LAST_S))

    def end(self) -> None:
        """Let it end by itself."""
        with contextlib.suppress(KernelError):
            self._child.finish(PATIENCE)
        self._child.kill()

    def kill(self) -> None:
        self._child.kill()
