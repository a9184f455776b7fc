"""Headless Chromium, driven by the DevTools protocol over a pair of pipes (--remote-debugging-pipe)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
PATIENCE_S = 60


class Browser:
    """One page of a browser."""

    def __init__(self, to: int, back: int) -> None:
        self._to = to
        self._back = back
        self._rest = b""
        self._count = 0
        self.session = ""
        self.requested: list[str] = []  # URLs of all that was asked for

    def command(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its answer.  Raises RuntimeError when it fails."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            more = os.read(self._back, 1 << 20)
            if not more:
                raise RuntimeError("the browser has gone")
            self._rest += more
        first, _, self._rest = self._rest.partition(b"\0")
        value = json.loads(first)
        if value.get("method") == "Network.requestWillBeSent":
            self.requested.append(value["params"]["request"]["url"])
        return value

    def run(self, script: str) -> Any:
        """The value of an expression in the page.  Raises RuntimeError with what it throws."""
        found = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a page and wait until it says that it is ready."""
        self.command("Page.navigate", url="about:blank")
        self.command("Page.navigate", url=f"file://{path}{fragment}")
        self.run(
            "new Promise((done, fail) => { let left = 600; const look = () => document.documentElement?.dataset.ready"
            " ? done() : --left ? setTimeout(look, 50) : fail('never ready'); look(); })"
        )

    def key(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.command("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.command("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def printed(self) -> bytes:
        return base64.b64decode(self.command("Page.printToPDF")["data"])


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a page of 1400 x 900."""
    child_in, to = os.pipe()
    back, child_out = os.pipe()
    flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe"
    with TemporaryDirectory() as home:
        words = [CHROMIUM, *flags.split(), "--window-size=1400,900", f"--user-data-dir={home}", "about:blank"]
        shell = ["bash", "-c", f'exec "$@" 3<&{child_in} 4>&{child_out}', "bash", *words]
        process = subprocess.Popen(
            shell,
            pass_fds=(child_in, child_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": home},
            start_new_session=True,
        )
        os.close(child_in)
        os.close(child_out)
        try:
            found = Browser(to, back)
            targets = found.command("Target.getTargets")["targetInfos"]
            target = next(each["targetId"] for each in targets if each["type"] == "page")
            session = found.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            found.session = session
            found.command("Page.enable")
            found.command("Network.enable")
            yield found
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(to)
            os.close(back)
