"""What the control socket serves: ROUTES, by the paths of URLs, with their methods."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Protocol

from netpold.daemon.inspection import INSPECTIONS
from netpold.daemon.peer import Peer, Right
from netpold.daemon.questions import QUESTIONS, NoAnswer, Texts, Why, number
from netpold.daemon.sightings import OBSERVATIONS
from netpold.daemon.trials import Trials
from netpold.daemon.tryout import LONGEST_S
from netpold.host.kernel.backend import KernelError
from netpold.host.metrics import CONTENT_TYPE

DEFAULT_WAIT_S = 30.0
LONGEST_WAIT_S = 3600.0
AT_ONCE = 50  # things of a list that are written at once: less than a millisecond


class Controlled(Protocol):
    """What the socket controls.  All of it is called from the threads of connections."""

    trials: Trials

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

    def trace(self, parameters: Mapping[str, str], client: int, *, is_reader: bool) -> dict[str, object]:
        """What becomes of a packet (tracing.py); `client`: the descriptor of the connection.  Raises NoAnswer."""
        ...

    def metrics(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Answer:
    status: HTTPStatus
    body: bytes
    kind: str = "application/json"
    allow: str = ""


class Refusal(Exception):
    """A request that can't be served."""

    def __init__(self, status: HTTPStatus, error: str, hint: str, allow: str = "") -> None:
        super().__init__(error)
        self.answer = Answer(status, as_json({"error": error, "hint": hint}), allow=allow)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that may be served.  `connection`: its descriptor."""

    controlled: Controlled
    query: dict[str, list[str]]
    peer: Peer
    body: bytes = b""
    connection: int = -1

    @property
    def parameters(self) -> dict[str, str]:
        """Of each, the last."""
        return {name: values[-1] for name, values in self.query.items()}


def _status(request: Request) -> Answer:
    return Answer(HTTPStatus.OK, as_json(request.controlled.status()))


def _ruleset(request: Request) -> Answer:
    return Answer(HTTPStatus.OK, request.controlled.ruleset_text().encode(), "text/plain; charset=utf-8")


def _metrics(request: Request) -> Answer:
    return Answer(HTTPStatus.OK, request.controlled.metrics(), CONTENT_TYPE)


def _ask(question: str, request: Request) -> Answer:
    with _refusing():
        return Answer(HTTPStatus.OK, as_json(request.controlled.ask(question, request.parameters)))


def _trace(request: Request) -> Answer:
    is_reader = request.peer.right(None) < Right.CHANGE
    with _refusing():
        told = request.controlled.trace(request.parameters, request.connection, is_reader=is_reader)
    return Answer(HTTPStatus.OK, as_json(told))


def _wait(request: Request) -> Answer:
    with _refusing():
        timeout = number(request.parameters, "timeout", 0, LONGEST_WAIT_S, DEFAULT_WAIT_S, "seconds")
    if request.controlled.wait(timeout):
        return Answer(HTTPStatus.OK, as_json({"done": True}))
    error = f"not everything on disk is enforced after {timeout:g} s"
    raise Refusal(HTTPStatus.GATEWAY_TIMEOUT, error, "see what status says, or wait longer")


def _flush(request: Request) -> Answer:
    try:
        request.controlled.flush(str(request.peer))
    except KernelError as error:
        raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(error), "see the daemon's log, and try again") from error
    return Answer(HTTPStatus.OK, as_json({"done": True}))


def _try(request: Request) -> Answer:
    with _refusing():
        seconds = number(request.parameters, "seconds", 1, LONGEST_S, None, "seconds")
    directory = request.parameters.get("directory", "?")
    return _tried(lambda who: request.controlled.trials.begin(request.body, directory, seconds, who), request)


def _confirm(request: Request) -> Answer:
    return _tried(request.controlled.trials.confirm, request)


def _rollback(request: Request) -> Answer:
    return _tried(request.controlled.trials.go_back, request)


def _end(verb: str) -> Callable[[Request], Answer]:
    return lambda request: _tried(partial(request.controlled.trials.end, verb), request)


def _tried(change: Callable[[str], object], request: Request) -> Answer:
    """What became of it, and what is tried now."""
    with _refusing():
        done = change(str(request.peer)) is not False
    status = request.controlled.status()
    body = {
        "version": 1,
        "done": done,
        "try": status["try"],
        "rollback": status["rollback"],
        "manifests": status["manifests"],
    }
    return Answer(HTTPStatus.OK, as_json(body))


@contextmanager
def _refusing() -> Iterator[None]:
    """What has no answer is refused."""
    try:
        yield
    except NoAnswer as error:
        raise Refusal(_STATUS[error.why], str(error), error.hint) from error


_STATUS = {
    Why.WRONG: HTTPStatus.BAD_REQUEST,
    Why.UNKNOWN: HTTPStatus.NOT_FOUND,
    Why.BUSY: HTTPStatus.SERVICE_UNAVAILABLE,
    Why.FLUSHED: HTTPStatus.GONE,
}

TRACE = "/v1/trace"

_writing = threading.Lock()

# Those that take GET change nothing.
ROUTES: dict[str, tuple[str, Callable[[Request], Answer]]] = {
    "/v1/status": ("GET", _status),
    "/v1/ruleset": ("GET", _ruleset),
    "/metrics": ("GET", _metrics),
    **{f"/v1/{question}": ("GET", partial(_ask, question)) for question in (*QUESTIONS, *OBSERVATIONS, *INSPECTIONS)},
    TRACE: ("GET", _trace),
    "/v1/wait": ("POST", _wait),
    "/v1/flush": ("POST", _flush),
    "/v1/try": ("POST", _try),
    "/v1/try/confirm": ("POST", _confirm),
    "/v1/try/end": ("POST", _end("try")),
    "/v1/rollback": ("POST", _rollback),
    "/v1/rollback/end": ("POST", _end("rollback")),
}


def as_json(value: object) -> bytes:
    """A piece at a time: whoever else has something to do may do it between two of them, but not within one.  And one
    thread at a time: the loop does not have to share the interpreter with all who ask."""
    pieces, found = _pieces(value), list[str]()
    while True:
        with _writing:
            piece = next(pieces, None)
        if piece is None:
            return "".join(found).encode() + b"\n"
        found.append(piece)


def _pieces(value: object) -> Iterator[str]:
    """The same as one json.dumps would write; keys are texts."""
    if isinstance(value, dict) and value:
        before = "{"
        for key, each in value.items():
            yield f"{before}{json.dumps(key)}: "
            yield from _pieces(each)
            before = ", "
        yield "}"
    elif isinstance(value, list) and (len(value) > AT_ONCE or (value and isinstance(value, Texts))):
        for start in range(0, len(value), AT_ONCE):
            yield "[" if start == 0 else ", "
            some = value[start : start + AT_ONCE]
            yield ", ".join(some) if isinstance(value, Texts) else json.dumps(some)[1:-1]
        yield "]"
    else:
        yield json.dumps(value)
