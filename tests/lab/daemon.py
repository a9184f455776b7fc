"""The netpold daemon of this checkout, run on a node of the laboratory as an administrator would run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.host import Host
from tests.lab.namespace import LabError
from tests.lab.node import Backend

PYTHON = "/usr/bin/python3"
NOT_RUNNING = 3  # netpoldctl's exit code
CHECKOUT = Path(__file__).resolve().parents[2]


class Daemon:
    """A daemon on a node; a context manager that starts it, and stops it if it still runs.

    `manifests`, `state` and `runtime` are its directories, made where they do not exist; `log` is the file that has
    its stderr, of all its lives.
    """

    def __init__(self, node: Host, backend: Backend, directory: Path | None = None, args: Sequence[str] = ()) -> None:
        base = directory or node.site.directory / f"netpold-{node.site.serial()}"
        self.node = node
        self.backend = backend
        self.manifests, self.state, self.runtime = base / "manifests", base / "state", base / "run"
        self.log = base / "stderr"
        self.args = list(args)
        self._process: subprocess.Popen[bytes] | None = None
        for path in (self.manifests, self.state, self.runtime):
            path.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.running:
            self.kill()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def socket(self) -> Path:
        return self.runtime / "netpold.sock"

    def start(self) -> None:
        """Start it; gives back control at once (`wait` waits)."""
        where = ["--manifests", str(self.manifests), "--state-dir", str(self.state), "--runtime-dir", str(self.runtime)]
        which = ["--node", self.node.name, "--backend", self.backend]
        command = [PYTHON, "-m", "netpold", *where, *which, *self.args]
        with self.log.open("ab") as log:
            environment = {**os.environ, **self.node.environment, "PYTHONUNBUFFERED": "1"}
            self._process = self.node.spawn(
                command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def wait(self, timeout: float = 10) -> None:
        """Wait until what is on disk now is enforced or rejected; raises LabError with the log when it is not."""
        end = time.monotonic() + timeout
        while not self.socket.exists():
            if not self.running or time.monotonic() > end:
                raise LabError(f"netpold on {self.node} does not answer:\n{self.errors()}")
            time.sleep(0.01)
        while True:
            done = self.ctl("wait", "--timeout", f"{max(end - time.monotonic(), 0.1):.1f}")
            # a socket left behind by one that was killed is there before its successor serves it
            if done.returncode != NOT_RUNNING or not self.running or time.monotonic() > end:
                break
        if done.returncode:
            raise LabError(f"netpoldctl wait: exit {done.returncode}: {done.stderr}\n{self.errors()}")

    def ctl(self, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run netpoldctl against it."""
        command = [PYTHON, "-m", "netpold.ctl", "--socket", str(self.socket), *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=CHECKOUT)

    def status(self) -> dict[str, Any]:
        """What `status -o json` says; raises LabError when it fails."""
        done = self.ctl("status", "-o", "json")
        if done.returncode:
            raise LabError(f"netpoldctl status: exit {done.returncode}: {done.stderr}\n{self.errors()}")
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def write(self, name: str, *objects: object) -> Path:
        """Put a manifest into the watched directory, complete from the start: YAML text, or objects (as JSON)."""
        text = "\n---\n".join(each if isinstance(each, str) else json.dumps(each, indent=1) for each in objects)
        path = self.manifests / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}")
        draft.write_text(text + "\n")
        draft.replace(path)
        return path

    def errors(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-8000:] if self.log.exists() else ""

    def stop(self, timeout: float = 10) -> int:
        """SIGTERM; gives the exit status.  Raises LabError when it does not end in time."""
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> int:
        """SIGKILL."""
        return self._end(signal.SIGKILL, 10)

    def _end(self, number: signal.Signals, timeout: float) -> int:
        assert self._process, "it was not started"
        self._process.send_signal(number)
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"netpold on {self.node} still runs {timeout} s after {number.name}") from error
        self.node.site.stop(self._process)
        self._process = None
        return status
