"""Every process that netpold starts goes through here.

A tool may do anything: fail, hang, die by a signal, print without end, leave children behind.  So a process has a time
limit and a process group of its own, which is killed as a whole, and of what it says no more is kept than is needed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from netpold.host.kernel.backend import MACHINE, KernelError, Trouble, said

TIMEOUT = 25.0  # seconds, less than systemd's watchdog; a tool that takes longer waits for what nobody gives back
LAST_S = 5.0  # for a process that was killed to be gone
MOST_OUTPUT = 256 << 20  # bytes that a tool may print; a table of 100,000 rules takes some 20 MiB
MOST_COMPLAINT = 500  # characters of a tool's complaint that a person gets to see
_READ = 1 << 16

# what programs say, whatever they were asked for, when it is the machine that can't
_MACHINE = tuple(map(os.strerror, MACHINE))
_ENDED = frozenset((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE))


def run(arguments: Sequence[str], stdin: str = "", began: Callable[[int], None] = lambda _: None) -> str:
    """Run a program with text on its standard input and return its standard output.  `began` gets its process id
    before it has any input.

    Raises KernelError with what it wrote to standard error when it fails, and Trouble when it is missing, can't be
    started, takes longer than TIMEOUT or prints more than MOST_OUTPUT.
    """
    child = Child(arguments)
    try:
        began(child.pid)
        # others' comments and names may hold any bytes, and come back as the same
        if not child.talk(stdin.encode(errors="surrogateescape"), TIMEOUT):
            raise Trouble(f"{arguments[0]} did not finish within {TIMEOUT:.0f} s")
        code = child.wait(LAST_S)
    finally:
        child.kill()
    if code != 0:
        raise failure(arguments[0], child.complaint, code)
    return child.output.decode(errors="surrogateescape")


class Child:
    """A program that runs, with pipes to and from it.  `output`: what it wrote to standard output, of late where that
    is `kept` open; `complaint`: the end of what it wrote to standard error.  Raises Trouble when it can't be started.
    """

    def __init__(self, arguments: Sequence[str], *, kept: bool = False) -> None:
        self.output = bytearray()
        self.complaint = ""
        self._name = arguments[0]
        self._most = _READ if kept else MOST_OUTPUT
        self._kept = kept
        try:
            self._process = subprocess.Popen(
                arguments,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        except FileNotFoundError:
            raise Trouble(f"{self._name} is not installed") from None
        except OSError as error:
            raise Trouble(f"{self._name} can't be started: {said(error)}") from error
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        os.set_blocking(self._stdin.fileno(), False)
        self._errors = bytearray()

    @property
    def pid(self) -> int:
        return self._process.pid

    def talk(self, data: bytes, timeout: float, until: bytes = b"") -> bool:
        """Give it `data` and read what it says; False: that took longer than `timeout` seconds.

        Without `until`, that is the end of its input, and all is read.  Else the end is where standard output ends with
        that, and its input stays open; `ended` tells whether it closed its outputs instead.
        """
        deadline = time.monotonic() + timeout
        left = memoryview(data)
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        talking = {self._stdout.fileno(): self.output, self._stderr.fileno(): self._errors}
        for output in talking:
            poll.register(output, select.POLLIN)
        try:
            while talking:
                ready = poll.poll(max(deadline - time.monotonic(), 0) * 1000)
                if not ready or time.monotonic() > deadline:
                    return False
                for descriptor, _ in ready:
                    if descriptor not in talking:
                        left = left[self._write(left) :]
                        if not left:
                            poll.unregister(descriptor)
                            if not until:
                                self._stdin.close()
                    elif said := os.read(descriptor, _READ):
                        self._keep(talking[descriptor], said)
                    else:
                        poll.unregister(descriptor)
                        del talking[descriptor]
                if until and self.output.endswith(until):
                    return True
            return True
        finally:
            self.complaint = self._errors.decode(errors="replace")

    def _keep(self, held: bytearray, said: bytes) -> None:
        held += said
        most = self._most if held is self.output else _READ
        if len(held) > most:
            if held is self.output and not self._kept:
                raise Trouble(f"{self._name} printed more than {most >> 20} MiB")
            del held[:-most]

    def _write(self, data: memoryview) -> int:
        """How much of it needs no writing any more: all, when nobody reads."""
        try:
            return os.write(self._stdin.fileno(), data) if data else 0
        except BrokenPipeError:
            return len(data)
        except BlockingIOError:
            return 0

    def finish(self, timeout: float) -> int | None:
        """End its input and read what it still says; its exit code, None when it has not ended in time (s)."""
        deadline = time.monotonic() + timeout
        if not self._stdin.closed and not self.talk(b"", timeout):
            return None
        return self.wait(max(deadline - time.monotonic(), 0.0))

    def wait(self, timeout: float) -> int:
        """Its exit code.  Raises Trouble when it has not ended in time (s)."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Trouble(f"{self._name} closed its outputs and does not end") from None

    def kill(self) -> None:
        """End it and whatever it started, if they still run, and give everything back."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
        with suppress(subprocess.TimeoutExpired):  # then the kernel does not let go of it
            self._process.wait(LAST_S)


def failure(program: str, said: str, code: int) -> KernelError:
    """For a program that failed: Trouble where it says, or its end shows, that it is the machine that can't."""
    if code < 0:  # a crash may come of what it was given; that somebody ended it, does not
        kind: type[KernelError] = Trouble if -code in _ENDED else KernelError
        return kind(f"{complaint(program, said, code)} (ended by {_signal(-code)})")
    kind = Trouble if any(each in said for each in _MACHINE) else KernelError
    return kind(complaint(program, said, code))


def complaint(program: str, said: str, code: int) -> str:
    """One sentence for a program that failed: what it said, in one line, or its exit code."""
    text = " / ".join(said.splitlines()).strip(" /") or f"exit code {code}"
    if len(text) > MOST_COMPLAINT:
        text = f"{text[: MOST_COMPLAINT // 2]} ... {text[-MOST_COMPLAINT // 2 :]}"
    return f"{program} failed: {text}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
