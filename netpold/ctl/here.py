"""The directory that a command is run in."""

from __future__ import annotations

from pathlib import Path

from netpold.ctl.failure import Exit, Failure


def here() -> Path:
    """Raises Failure where it was deleted meanwhile, as a CI job's may be."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        hint = "change to one that is there, such as `cd /`"
        raise Failure("the current directory was deleted", hint, Exit.USAGE) from error
