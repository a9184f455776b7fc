"""The control socket: HTTP/1.1 and JSON on a Unix socket, so that `curl --unix-socket` is a client.

    GET  /v1/status               what the daemon says about itself
    GET  /v1/ruleset              the ruleset in force, as text
    GET  /v1/explain, ...         what is asked about what is in force (questions.py)
    GET  /v1/drops, ...           what is asked about packets that were seen (sightings.py)
    GET  /v1/pod, ...             what is asked that needs a look into the kernel (inspection.py)
    GET  /v1/trace                what becomes of a packet that comes by (tracing.py)
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
to be taken within IDLE_S.  So no client holds up another for long, and none the loop.  What would change something is
not begun for a client that has given up: it may have done something else since.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from urllib.parse import parse_qs, urlsplit

from netpold.daemon.bounded import BoundedReader, TooMuch
from netpold.daemon.peer import Peer, Right, peer_of
from netpold.daemon.routes import ROUTES, TRACE, Answer, Controlled, Refusal, Request, as_json
from netpold.daemon.runtime_dir import SOCKET_OWN, ControlError, admit, prepare

log = logging.getLogger("netpold")

SOCKET_NAME = "netpold.sock"
NO_FILES_S = 0.1  # the pause where no connection can be taken
SPARE = 4  # connections that can be taken where no more files may be opened
CONNECTIONS, READERS = 64, 16
IDLE_S = 10.0
HEAD_LIMIT = 32 * 1024
BODY_LIMIT = 64 * 1024
LARGE_BODY_LIMIT = 64 * 1024 * 1024  # of requests that are about policies, by those who may change anything


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


def _has_gone(connection: socket.socket) -> bool:
    """Whether the client has closed its end, not only for sending."""
    asked = select.poll()
    asked.register(connection, 0)
    return any(events & select.POLLHUP for _, events in asked.poll(0))


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, controlled: Controlled) -> None:
        self.controlled = controlled
        self.alone = False  # the thread that takes connections serves one itself
        self.readers: int | None = None  # the group whose members may look
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self.free_for_readers = threading.BoundedSemaphore(READERS)
        super().__init__(path, _Handler)
        self._spare = [os.dup(self.fileno()) for _ in range(SPARE)]  # each given up for a connection

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
        """A connection, also where no more files may be opened: a few are held open for that."""
        while True:
            try:
                return super().get_request()
            except OSError as error:
                if error.errno != errno.EMFILE or not self._spare:
                    time.sleep(NO_FILES_S)  # it is asked again at once
                    raise
            os.close(self._spare.pop())  # which is our connection's place, unless another thread opens a file first

    def close_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Where a spare file was given up, the connection becomes one: closed, its place could be taken by others."""
        if isinstance(request, tuple) or len(self._spare) >= SPARE:
            super().close_request(request)
            return
        place = request.detach()
        try:
            os.dup2(self.fileno(), place, inheritable=False)
        except OSError:  # nothing is served any more
            os.close(place)
        else:
            self._spare.append(place)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def server_close(self) -> None:
        super().server_close()
        while self._spare:
            os.close(self._spare.pop())

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
        except Refusal as refusal:
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

    def _answer(self) -> Answer:
        if self.right is Right.NOTHING:
            raise Refusal(HTTPStatus.FORBIDDEN, "not permitted", "ask as root, or with sudo")
        body = self._body()
        try:
            url = urlsplit(self.path)
        except ValueError as wrong:
            hint = f"there are {', '.join(ROUTES)}"
            raise Refusal(HTTPStatus.BAD_REQUEST, f"this is no URL: {wrong}", hint) from wrong
        route = ROUTES.get(url.path)
        if route is None:
            hint = f"there are {', '.join(ROUTES)}"
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is no {url.path}", hint)
        method, serve = route
        if self.command != method:
            error = f"{url.path} does not take {self.command}"
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, error, f"use {method}", method)
        if method != "GET" and self.right < Right.CHANGE:
            error = f"not permitted: members of the socket's group may look, and {url.path} is more than that"
            raise Refusal(HTTPStatus.FORBIDDEN, error, "ask as root, or with sudo")
        if (method != "GET" or url.path == TRACE) and self.server.alone:
            error = "the machine has no thread to spare for what may take long"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, error, "try again later; `status` says how things are")
        if method != "GET" and _has_gone(self.connection):
            log.info("%s was asked for by %s, who did not wait for it: it is not done", url.path, self.peer)
            raise ConnectionAbortedError
        query = parse_qs(url.query)
        if self.server.alone:
            query.pop("wait", None)  # others wait to be connected
        return serve(Request(self.server.controlled, query, self.peer, body, self.connection.fileno()))

    def _body(self) -> bytes:
        """Few requests need a body; of others a short one is read and dropped, so that the connection can go on."""
        large = self.path.startswith("/v1/try?") and self.right is Right.CHANGE
        limit = LARGE_BODY_LIMIT if large else BODY_LIMIT
        length = self.headers.get("Content-Length", "0")
        is_number = length.isascii() and length.isdecimal() and len(length) < 10
        if "Transfer-Encoding" in self.headers or not is_number or int(length) > limit:
            self.close_connection = True
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            raise Refusal(status, "the request has too large a body", "send none: everything is in the URL")
        self._incoming.allow_more(int(length))
        return self.rfile.read(int(length))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses (a malformed request), as JSON too."""
        self.close_connection = True
        status = HTTPStatus(code)
        body = as_json({"error": message or status.phrase, "hint": "send HTTP/1.1, as `curl --unix-socket` does"})
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
        except (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, TimeoutError):
            return  # the client did not wait for the answer, or does not take it
        finally:
            if self.right is Right.READ:
                self.server.free_for_readers.release()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
