"""Every process that netpold starts for one answer goes through here."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from netpold.host.kernel.backend import KernelError

TIMEOUT = 60.0  # seconds; a tool that takes longer waits for a lock that nobody gives back


def run(arguments: Sequence[str], stdin: str = "") -> str:
    """Run a program with text on its standard input and return its standard output.

    Raises KernelError with what it wrote to standard error when it fails, is missing, or takes longer than TIMEOUT.
    """
    try:
        done = subprocess.run(
            arguments,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # others' comments and names may hold any bytes, and come back as the same
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise KernelError(f"{arguments[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise KernelError(f"{arguments[0]} did not finish within {TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        raise KernelError(complaint(arguments[0], done.stderr, done.returncode))
    return done.stdout


def complaint(program: str, said: str, code: int) -> str:
    """One sentence for a program that failed: what it said, in one line, or its exit code."""
    return f"{program} failed: {' / '.join(said.splitlines()).strip(' /') or f'exit code {code}'}"
