"""The metrics as a file, for the textfile collector of Prometheus' node exporter.

It is written anew each PERIOD_S under another name, and renamed: who reads it finds the whole of one or of the next.
The daemon takes it away when it ends, so that nobody takes old figures for those of now.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("netpold")

PERIOD_S = 15.0  # Prometheus' usual interval
MODE = 0o644  # node exporter runs as another user

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class MetricsFile:
    """`text` is called in a thread of this file's own.  Where the file can't be written, that is a warning."""

    def __init__(self, path: Path, text: Callable[[], bytes], period: float = PERIOD_S) -> None:
        self._path = path
        self._beside = path.with_name(f".{path.name}.new")  # a name that node exporter passes over
        self._text = text
        self._period = period
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-file", daemon=True)
        self.warning: str | None = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write no more, and take the file away."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._warn(self._write())
            if self._stop.wait(self._period):
                break
        self._warn(self._remove())

    def _write(self) -> OSError | None:
        try:
            with os.fdopen(os.open(self._beside, _FLAGS, MODE), "wb") as file:
                os.fchmod(file.fileno(), MODE)  # whatever the umask
                file.write(self._text())
            self._beside.replace(self._path)
        except OSError as error:
            return error
        return None

    def _remove(self) -> OSError | None:
        try:
            self._path.unlink(missing_ok=True)
            self._beside.unlink(missing_ok=True)
        except OSError as error:
            return error
        return None

    def _warn(self, error: OSError | None) -> None:
        """Say once what goes wrong, and not each time."""
        before, self.warning = self.warning, None
        if error is not None:
            self.warning = f"{self._path}: the metrics can't be written: {error.strerror}"
            if self.warning != before:
                log.warning("%s; correct metrics_textfile, or what the service may write to", self.warning)
