"""Standard output and standard error, which may be closed, full, or read by nobody any more.

What is said on them is the answer, and the exit code is its verdict: so where the answer can't be given, the code is
none that a verdict has.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import TextIO, cast

from netpold.ctl.failure import Exit

BROKEN_PIPE = 128 + signal.SIGPIPE  # what a shell says of a program that the signal ends
_HINT = "hint: give it a file or a pipe that takes it; the exit code says nothing about what was asked"


class OutputError(Exception):
    """Standard output does not take what is written to it; `reason` is the system's."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason.strerror)
        self.reason = reason


class _Output(io.TextIOWrapper):
    """Standard output, whose errors are told from others.  Raises OutputError."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputError(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputError(error) from error


def ready() -> bool:
    """Whether there is a standard output.  A standard error that nobody wants is no reason not to answer."""
    output, errors = cast("tuple[io.TextIOWrapper | None, TextIO | None]", (sys.stdout, sys.stderr))
    if errors is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  to the end
    if output is None:
        print(f"netpoldctl: standard output is closed\n{_HINT}", file=sys.stderr)
        return False
    binary = open(output.fileno(), "wb", closefd=False)  # noqa: SIM115  to the end
    lines = output.isatty()
    sys.stdout = _Output(binary, encoding=output.encoding, errors="backslashreplace", line_buffering=lines)
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    return True


def after(error: OutputError, code: int | None) -> int:
    """The exit code after that error.  `code`: the verdict, where it was known before."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not written at the end, either
    if isinstance(error.reason, BrokenPipeError):  # `| head` has seen enough
        return BROKEN_PIPE if code is None else code
    print(f"netpoldctl: standard output can't be written: {error}\n{_HINT}", file=sys.stderr)
    return Exit.USAGE
