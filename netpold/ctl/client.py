"""Questions to the daemon, over its control socket (netpold.daemon.control)."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
from pathlib import Path
from typing import Any

from netpold.ctl.failure import Exit, Failure
from netpold.printable import printable

DEFAULT_SOCKET = Path("/run/netpold/netpold.sock")
_TAGGED = {"vlan": "VLAN-tagged", "pppoe": "PPPoE"}
SERVER = "netpold"  # what the daemon calls itself in every answer that has a body
MOST_SAID = 60  # letters of what another program says
ANSWER_S = 15.0  # how long the daemon may take for an answer that does not wait for anything


class NotRunning(Failure):
    """Nobody serves the socket."""


class Flushed(Failure):
    """The daemon runs, and all that it had in force was flushed."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("netpold", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, url: str, timeout: float = ANSWER_S, body: bytes | None = None) -> Any:
    """The answer's JSON.  Raises Failure (NotRunning where there is no daemon); a 504 is TIMED_OUT."""
    return _value(path, *_asked(path, method, url, timeout, body))


def warn(answer: Any) -> None:
    """Say on standard error where other policies than the manifests' are what an answer is about, and where packets go
    past their rules."""
    if answer.get("instead"):
        print(f"netpoldctl: {printable(answer['instead'])}: it is not the manifests that are in force", file=sys.stderr)
    for each in answer.get("unfiltered", ()):
        print(f"netpoldctl: whatever is said here, {printable(each)}", file=sys.stderr)
    tagged = [_TAGGED.get(each, printable(each)) for each in answer.get("unfiltered_tagged", ())]
    if tagged:
        what = f"{' and '.join(tagged)} packets pass a bridge unfiltered"
        print(f"netpoldctl: {what}: see `netpoldctl status`", file=sys.stderr)


def ask_text(path: Path, url: str, timeout: float = ANSWER_S) -> str:
    """What GET gives that is no JSON.  Raises Failure, as `ask`."""
    status, body = _asked(path, "GET", url, timeout)
    if status != 200:
        _value(path, status, body)
    return body.decode(errors="replace")


def _asked(path: Path, method: str, url: str, timeout: float, body: bytes | None = None) -> tuple[int, bytes]:
    """The answer's status and body."""
    connection = _Connection(path, timeout)
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its answer may be there even so: too many
            connection.request(method, url, body)
        answer = connection.getresponse()
        status, said = answer.status, answer.read()
        server = answer.getheader("Server", "")
    except (FileNotFoundError, ConnectionRefusedError) as error:
        hint = "start it with `systemctl start netpold`, or name its socket with --socket"
        raise NotRunning(f"netpold does not run: nobody serves {path}", hint, Exit.NOT_RUNNING) from error
    except PermissionError as error:
        raise Failure(
            f"not permitted to use {path}", "run netpoldctl as root, or with sudo", Exit.NOT_PERMITTED
        ) from error
    except TimeoutError as error:
        hint = "see the daemon's log: `journalctl -u netpold`"
        if method != "GET":
            hint += "; if it was begun it goes on, as `netpoldctl status` says then"
        raise Failure(f"no answer from {path} within {timeout:g} s", hint, Exit.TIMED_OUT) from error
    except (http.client.RemoteDisconnected, http.client.IncompleteRead, ConnectionError) as error:
        hint = "ask again when it runs: `systemctl status netpold`"
        raise Failure("netpold has ended, or was restarted, before it answered", hint, Exit.NOT_RUNNING) from error
    except (OSError, http.client.HTTPException) as error:
        raise _another(path, str(error)) from error
    finally:
        connection.close()
    if said and not server.startswith(SERVER):
        raise _another(path, f"HTTP status {status} of {server or 'nobody'}")
    return status, said


def _another(path: Path, said: str) -> Failure:
    """It is another program that serves the socket; `said`: what it says, or what is wrong."""
    said = printable(said.strip())
    shown = said if len(said) <= MOST_SAID else f"{said[:MOST_SAID]}..."
    hint = "see whether --socket names the socket of netpold"
    return Failure(f"{path} does not answer as netpold does{': ' if shown else ''}{shown}", hint, Exit.NOT_RUNNING)


def _value(path: Path, status: int, body: bytes) -> Any:
    if status == 503 and not body:
        raise Failure("the daemon has too many clients", "try again in a moment", Exit.TIMED_OUT)
    try:
        value = json.loads(body)
    except ValueError as error:
        raise _another(path, "no JSON") from error
    if status != 200:
        code = {
            504: Exit.TIMED_OUT,
            503: Exit.TIMED_OUT,
            410: Exit.USAGE,  # no verdict
            403: Exit.NOT_PERMITTED,
            404: Exit.USAGE,
            400: Exit.USAGE,
        }.get(status, Exit.NO)
        kind = Flushed if status == 410 else Failure
        raise kind(str(value.get("error", status)), str(value.get("hint", "see the daemon's log")), code)
    return value
