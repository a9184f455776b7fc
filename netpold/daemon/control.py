"""The control socket: HTTP/1.1 and JSON on a Unix socket, so that `curl --unix-socket` is a client.

    GET  /v1/status               what the daemon says about itself
    GET  /v1/ruleset              the ruleset in force, as text
    GET  /v1/explain, ...         what is asked about what is in force (questions.py)
    GET  /v1/drops, ...           what is asked about packets that were seen (sightings.py)
    GET  /v1/pod, ...             what is asked that needs a look into the kernel (inspection.py)
    GET  /metrics                 for Prometheus
    POST /v1/wait?timeout=S       200 when everything that is on disk now is enforced or rejected, 504 after S seconds
    POST /v1/flush                take all rules and sets out of the kernel
    POST /v1/try?directory=&seconds=S, /v1/try/confirm, /v1/try/end      (tryout.py)
    POST /v1/rollback, /v1/rollback/end

Only root and the user that netpold runs as get at it, and, for what changes nothing, the members of one group, if the
settings name one: by the modes of directory and socket (`runtime_dir.py`), and by what the kernel says of each client
(`peer.py`).

Each connection has a thread of its own, at most CONNECTIONS of them (READERS for that group, so that they never shut
others out).  A request has to come within IDLE_S, and with no more bytes than HEAD_LIMIT and BODY_LIMIT; an answer has
to be taken within IDLE_S.  So no client holds up another for long, and none the loop.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from netpold.daemon.bounded import BoundedReader, TooMuch
from netpold.daemon.inspection import INSPECTIONS
from netpold.daemon.peer import Peer, Right, peer_of
from netpold.daemon.questions import QUESTIONS, NoAnswer, Why
from netpold.daemon.runtime_dir import SOCKET_OWN, ControlError, admit, prepare
from netpold.daemon.sightings import OBSERVATIONS
from netpold.daemon.tryout import LONGEST_S
from netpold.host.kernel.backend import KernelError
from netpold.host.metrics import CONTENT_TYPE

log = logging.getLogger("netpold")

SOCKET_NAME = "netpold.sock"
NO_FILES_S = 0.1  # the pause where no connection can be taken
CONNECTIONS, READERS = 64, 16
IDLE_S = 10.0
HEAD_LIMIT = 32 * 1024
BODY_LIMIT = 64 * 1024
LARGE_BODY_LIMIT = 64 * 1024 * 1024  # of requests that are about policies, by those who may change anything
DEFAULT_WAIT_S = 30.0
LONGEST_WAIT_S = 3600.0


class Controlled(Protocol):
    """What the socket controls.  All of it is called from the threads of connections."""

    def status(self) -> dict[str, object]: ...

    def wait(self, timeout: float) -> bool:
        """Until everything that is on disk now is enforced or rejected; False after `timeout` seconds."""
        ...

    def flush(self, who: str) -> None:
        """`who` asks for it.  Raises KernelError."""
        ...

    def ruleset_text(self) -> str: ...

    def ask(self, question: str, parameters: Mapping[str, str]) -> dict[str, object]:
        """The answer to one of QUESTIONS, OBSERVATIONS or INSPECTIONS.  Raises NoAnswer."""
        ...

    def begin_try(self, body: bytes, directory: str, seconds: float, who: str) -> None:
        """Have policies in force instead of those of the manifests.  Raises NoAnswer."""
        ...

    def go_back(self, who: str) -> None:
        """Have the policies in force that were before.  Raises NoAnswer."""
        ...

    def confirm_try(self, who: str) -> None:
        """Raises NoAnswer."""
        ...

    def end_try(self, who: str) -> bool:
        """Whether anything was tried.  Raises NoAnswer."""
        ...

    def metrics(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    kind: str = "application/json"
    allow: str = ""


class _Refusal(Exception):
    """A request that can't be served."""

    def __init__(self, status: HTTPStatus, error: str, hint: str, allow: str = "") -> None:
        super().__init__(error)
        self.answer = _Answer(status, _json({"error": error, "hint": hint}), allow=allow)


class Control:
    """The server.  It listens from `start` to `close`.  `warning`: why the group that may look can't."""

    def __init__(self, runtime_dir: Path, controlled: Controlled, group: str | None = None) -> None:
        self.path = runtime_dir / SOCKET_NAME
        self.warning: str | None = None
        self._controlled = controlled
        self._group = group
        self._server: _Server | None = None
        self._identity = (0, 0)

    def start(self) -> None:
        """Make the socket and serve it.  A socket that nobody serves any more is replaced.  Raises ControlError."""
        if len(os.fsencode(self.path)) > 107:  # sun_path of unix(7)
            raise ControlError(
                f"{self.path}: longer than the 107 bytes of a socket's path; choose a shorter runtime_dir"
            )
        try:
            prepare(self.path.parent, SOCKET_NAME)
            if _is_served(self.path):
                raise ControlError(f"{self.path}: another netpold serves it; stop that one, or use another runtime_dir")
            self.path.unlink(missing_ok=True)
            self._server = _Server(str(self.path), self._controlled)
            status = self.path.lstat()
        except OSError as error:
            raise ControlError(f"{self.path}: {error.strerror}; correct runtime_dir, or its permissions") from error
        if self._group:
            self._server.readers, self.warning = admit(self.path.parent, SOCKET_NAME, self._group)
            if self.warning:
                log.warning("%s", self.warning)
        self._identity = (status.st_dev, status.st_ino)
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="netpold-control", daemon=True).start()

    def close(self) -> None:
        """Stop listening.  Requests under way end with their threads."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        try:
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:  # else it is our successor's
                self.path.unlink()
        except FileNotFoundError:
            return


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as error:
            return error.errno == errno.EAGAIN  # its queue is full
        return True


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, controlled: Controlled) -> None:
        self.controlled = controlled
        self._spare = socket.socket(socket.AF_UNIX)  # given up for a connection
        self.alone = False  # the thread that takes connections serves one itself
        self.readers: int | None = None  # the group whose members may look
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self.free_for_readers = threading.BoundedSemaphore(READERS)
        super().__init__(path, _Handler)

    def server_bind(self) -> None:
        os.fchmod(self.socket.fileno(), SOCKET_OWN)  # before bind: that is the mode the socket's file gets
        super().server_bind()

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        if not self._free.acquire(blocking=False):
            if isinstance(request, socket.socket):
                request.sendall(_BUSY)  # fits the empty buffer of a new connection, so it does not block
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started: this one answers, after which it takes the next connection
            self.alone = True
            try:
                self.process_request_thread(request, client_address)
            finally:
                self.alone = False

    def get_request(self) -> tuple[socket.socket, object]:
        """A connection, also where no more files may be opened: one is held open for that."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self._spare.close()
        try:
            return super().get_request()
        except OSError:
            time.sleep(NO_FILES_S)  # it is asked again at once
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()
            if self._spare.fileno() < 0:
                with contextlib.suppress(OSError):
                    self._spare = socket.socket(socket.AF_UNIX)

    def server_close(self) -> None:
        super().server_close()
        self._spare.close()

    def handle_error(self, request: object, client_address: object) -> None:
        log.exception("a request on the control socket failed")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    peer: Peer
    right: Right
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # what is no HTTP at all gets an answer with a head, too
    server_version = "netpold"
    sys_version = ""
    timeout = IDLE_S

    def setup(self) -> None:
        super().setup()
        self.peer = peer_of(self.connection)
        self.right = self.peer.right(self.server.readers)
        self._incoming = BoundedReader(self.connection)
        self.rfile.close()
        self.rfile = io.BufferedReader(self._incoming)

    def handle_one_request(self) -> None:
        self._incoming.allow(HEAD_LIMIT, self.timeout)
        try:
            super().handle_one_request()
        except TooMuch:  # in the request's first line; in the head below it, http.server says so itself
            self.requestline, self.request_version, self.command = "", "", ""
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        try:
            answer = self._answer()
        except _Refusal as refusal:
            answer = refusal.answer
        if self.right is Right.NOTHING:
            self.close_connection = True
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.allow:
            self.send_header("Allow", answer.allow)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    def _answer(self) -> _Answer:
        if self.right is Right.NOTHING:
            raise _Refusal(HTTPStatus.FORBIDDEN, "not permitted", "ask as root, or with sudo")
        body = self._body()
        try:
            url = urlsplit(self.path)
        except ValueError as wrong:
            hint = f"there are {', '.join(_ROUTES)}"
            raise _Refusal(HTTPStatus.BAD_REQUEST, f"this is no URL: {wrong}", hint) from wrong
        route = _ROUTES.get(url.path)
        if route is None:
            hint = f"there are {', '.join(_ROUTES)}"
            raise _Refusal(HTTPStatus.NOT_FOUND, f"there is no {url.path}", hint)
        method, serve = route
        if self.command != method:
            error = f"{url.path} does not take {self.command}"
            raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, error, f"use {method}", method)
        if method != "GET" and self.right < Right.CHANGE:
            error = f"not permitted: members of the socket's group may look, and {url.path} is more than that"
            raise _Refusal(HTTPStatus.FORBIDDEN, error, "ask as root, or with sudo")
        if method != "GET" and self.server.alone:
            error = "the machine has no thread to spare for what may take long"
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, error, "try again later; `status` says how things are")
        query = parse_qs(url.query)
        if self.server.alone:
            query.pop("wait", None)  # others wait to be connected
        return serve(_Request(self.server.controlled, query, self.peer, body))

    def _body(self) -> bytes:
        """Few requests need a body; of others a short one is read and dropped, so that the connection can go on."""
        large = self.path.startswith("/v1/try?") and self.right is Right.CHANGE
        limit = LARGE_BODY_LIMIT if large else BODY_LIMIT
        length = self.headers.get("Content-Length", "0")
        is_number = length.isascii() and length.isdecimal() and len(length) < 10
        if "Transfer-Encoding" in self.headers or not is_number or int(length) > limit:
            self.close_connection = True
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            raise _Refusal(status, "the request has too large a body", "send none: everything is in the URL")
        self._incoming.allow_more(int(length))
        return self.rfile.read(int(length))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses (a malformed request), as JSON too."""
        self.close_connection = True
        status = HTTPStatus(code)
        body = _json({"error": message or status.phrase, "hint": "send HTTP/1.1, as `curl --unix-socket` does"})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        if self.right is Right.READ and not self.server.free_for_readers.acquire(blocking=False):
            self.wfile.write(_BUSY)
            return
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            return  # the client did not wait for the answer, or does not take it
        finally:
            if self.right is Right.READ:
                self.server.free_for_readers.release()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that may be served."""

    controlled: Controlled
    query: dict[str, list[str]]
    peer: Peer
    body: bytes = b""


def _status(request: _Request) -> _Answer:
    return _Answer(HTTPStatus.OK, _json(request.controlled.status()))


def _ruleset(request: _Request) -> _Answer:
    return _Answer(HTTPStatus.OK, request.controlled.ruleset_text().encode(), "text/plain; charset=utf-8")


def _metrics(request: _Request) -> _Answer:
    return _Answer(HTTPStatus.OK, request.controlled.metrics(), CONTENT_TYPE)


def _ask(question: str, request: _Request) -> _Answer:
    parameters = {name: values[-1] for name, values in request.query.items()}
    try:
        return _Answer(HTTPStatus.OK, _json(request.controlled.ask(question, parameters)))
    except NoAnswer as error:
        raise _Refusal(_STATUS[error.why], str(error), error.hint) from error


def _wait(request: _Request) -> _Answer:
    text = request.query.get("timeout", [str(DEFAULT_WAIT_S)])[-1]
    try:
        timeout = float(text)
    except ValueError:
        timeout = -1.0
    if not 0 <= timeout <= LONGEST_WAIT_S:  # NaN is refused too
        hint = f"give seconds from 0 to {LONGEST_WAIT_S:g}"
        raise _Refusal(HTTPStatus.BAD_REQUEST, f"timeout={text[:40]} can't be", hint)
    if request.controlled.wait(timeout):
        return _Answer(HTTPStatus.OK, _json({"done": True}))
    error = f"not everything on disk is enforced after {timeout:g} s"
    raise _Refusal(HTTPStatus.GATEWAY_TIMEOUT, error, "see what status says, or wait longer")


def _flush(request: _Request) -> _Answer:
    try:
        request.controlled.flush(str(request.peer))
    except KernelError as error:
        raise _Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(error), "see the daemon's log, and try again") from error
    return _Answer(HTTPStatus.OK, _json({"done": True}))


def _try(request: _Request) -> _Answer:
    text = request.query.get("seconds", [""])[-1]
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 1 <= seconds <= LONGEST_S:  # NaN is refused too
        raise _Refusal(HTTPStatus.BAD_REQUEST, f"seconds={text[:40]} can't be", f"give seconds from 1 to {LONGEST_S:g}")
    directory = request.query.get("directory", ["?"])[-1]
    return _tried(lambda who: request.controlled.begin_try(request.body, directory, seconds, who), request)


def _confirm(request: _Request) -> _Answer:
    return _tried(request.controlled.confirm_try, request)


def _rollback(request: _Request) -> _Answer:
    return _tried(request.controlled.go_back, request)


def _end(request: _Request) -> _Answer:
    return _tried(request.controlled.end_try, request)


def _tried(change: Callable[[str], object], request: _Request) -> _Answer:
    """What became of it, and what is tried now."""
    try:
        done = change(str(request.peer)) is not False
    except NoAnswer as error:
        raise _Refusal(_STATUS[error.why], str(error), error.hint) from error
    status = request.controlled.status()
    body = {
        "version": 1,
        "done": done,
        "try": status["try"],
        "rollback": status["rollback"],
        "manifests": status["manifests"],
    }
    return _Answer(HTTPStatus.OK, _json(body))


_STATUS = {
    Why.WRONG: HTTPStatus.BAD_REQUEST,
    Why.UNKNOWN: HTTPStatus.NOT_FOUND,
    Why.BUSY: HTTPStatus.SERVICE_UNAVAILABLE,
}

# Those that take GET change nothing.
_ROUTES: dict[str, tuple[str, Callable[[_Request], _Answer]]] = {
    "/v1/status": ("GET", _status),
    "/v1/ruleset": ("GET", _ruleset),
    "/metrics": ("GET", _metrics),
    **{f"/v1/{question}": ("GET", partial(_ask, question)) for question in (*QUESTIONS, *OBSERVATIONS, *INSPECTIONS)},
    "/v1/wait": ("POST", _wait),
    "/v1/flush": ("POST", _flush),
    "/v1/try": ("POST", _try),
    "/v1/try/confirm": ("POST", _confirm),
    "/v1/try/end": ("POST", _end),
    "/v1/rollback": ("POST", _rollback),
    "/v1/rollback/end": ("POST", _end),
}


_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"
