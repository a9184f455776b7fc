"""An iptables-nft-restore process that is kept open and fed one transaction after the other.

It carries a transaction out when it reads the COMMIT line.  With `-v` it repeats comment lines on its standard output
at once, so a comment behind COMMIT comes back when the kernel has the transaction.  When its input ends, it ends too,
and drops a transaction that has no COMMIT yet: so it ends with this process, however that ends, and nothing is half
done.  (iptables/xtables-restore.c, the same in iptables 1.8.9 and 1.8.11.)

A version that does not repeat a comment at once can't be kept open: there each transaction gets its own process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import time

from netpold.host import run
from netpold.host.kernel.backend import KernelError

PATIENCE = 10.0  # seconds in which a new process has to repeat its first comment
_READ = 1 << 16

log = logging.getLogger(__name__)


class Restore:
    """`program --noflush` in the network namespace of the thread that starts it, by its first transaction.

    For one thread at a time.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._process: _Process | None = None
        self._keeps = True

    def commit(self, transaction: str) -> None:
        """Carry out the lines from `*filter` to COMMIT, whole or not at all.

        Raises KernelError with what the program said, or when it takes longer than run.TIMEOUT.
        """
        if self._process is not None:
            with contextlib.suppress(_Ended):
                self._give(self._process, transaction)
                return
            # somebody killed it, or what it knew was out of date, or the transaction is bad: a new process tells
        process = self._started() if self._keeps else None
        if process is not None:
            self._give(process, transaction)
        else:
            run.run([self._program, "--noflush"], transaction)

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
        except _Ended:
            process.end()
            raise
        if not answered:
            process.kill()
            raise KernelError(f"{self._program} did not finish within {run.TIMEOUT:.0f} s")
        self._process = process

    def _started(self) -> _Process | None:
        """A new process; None where that can't be kept open."""
        process = _Process(self._program)
        try:
            if process.answers("", PATIENCE):
                return process
        except _Ended:
            process.end()
            raise
        process.kill()
        log.warning("%s can't be kept open: each change of the rules starts it again", self._program)
        self._keeps = False
        return None


class _Ended(KernelError):
    """The process ended and did not answer."""


class _Process:
    def __init__(self, program: str) -> None:
        self._program = program
        self._given = 0
        try:
            self._process = subprocess.Popen(
                [program, "--noflush", "-v"],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except FileNotFoundError:
            raise KernelError(f"{program} is not installed") from None
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        os.set_blocking(self._stdin.fileno(), False)

    def answers(self, text: str, timeout: float) -> bool:
        """Give it lines and a comment; whether the comment came back in time (s).  Raises _Ended."""
        self._given += 1
        comment = f"# done {self._given}\n".encode()
        left = memoryview(text.encode(errors="surrogateescape") + comment)
        deadline = time.monotonic() + timeout
        said = {self._stdout.fileno(): b"", self._stderr.fileno(): b""}
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        for output in said:
            poll.register(output, select.POLLIN)
        talking = set(said)
        while talking:
            ready = poll.poll(max(deadline - time.monotonic(), 0) * 1000)
            if not ready:
                return False
            for descriptor, _ in ready:
                if descriptor not in said:
                    left = left[self._write(left) :]
                    if not left:
                        poll.unregister(descriptor)
                elif data := os.read(descriptor, _READ):
                    said[descriptor] += data
                else:
                    poll.unregister(descriptor)
                    talking.discard(descriptor)
            if said[self._stdout.fileno()].endswith(comment):
                return True
        errors = said[self._stderr.fileno()].decode(errors="replace")
        raise _Ended(run.complaint(self._program, errors, self._process.wait()))

    def _write(self, data: memoryview) -> int:
        """How much of it needs no writing any more: all, when nobody reads."""
        try:
            return os.write(self._stdin.fileno(), data)
        except BrokenPipeError:
            return len(data)

    def end(self) -> None:
        """Let it end by itself."""
        self._stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        self._process.kill()
        self._stdin.close()
        self._reap()

    def _reap(self) -> None:
        self._process.wait()
        self._stdout.close()
        self._stderr.close()
