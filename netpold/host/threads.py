"""Threads that may not be there to be had."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any


def started(target: Callable[..., None], name: str, *args: Any) -> threading.Thread:
    """A thread that runs, and that nobody waits for at the end.  Raises OSError where the machine has none to give,
    which Python calls a RuntimeError."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"no thread can be started for {name}") from error
    return thread
