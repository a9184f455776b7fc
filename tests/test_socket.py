"""Who gets at the control socket, and what clients that mean harm can do to it: real users, real sockets."""

# ruff: noqa: E501, RUF005  (tables)

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.config import Settings
from netpold.daemon import control
from netpold.daemon.control import Control
from netpold.daemon.runtime_dir import ControlError
from netpold.daemon.status import Status

STRANGER, GROUP = 64999, 64998  # no user, no group of the machine's

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes other users")

CLIENT = """
import socket, sys
path, request = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(10)
    try:
        client.connect(path)
    except PermissionError:
        print("no way in")
        sys.exit()
    client.sendall(f"{request} HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n".encode())
    answer = b""
    while part := client.recv(65536):
        answer += part
print(answer.decode())
"""


class Daemon:
    """What the socket controls."""

    def __init__(self) -> None:
        self.flushed_for: list[str] = []

    def status(self) -> dict[str, object]:
        return Status.starting(Settings(node="n1"), "nft").as_json()

    def wait(self, timeout: float) -> bool:
        return True

    def flush(self, who: str) -> None:
        self.flushed_for.append(who)

    def ruleset_text(self) -> str:
        return "x" * (8 << 20)

    def metrics(self) -> bytes:
        return b"netpold_up 1\n"


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A place that other users can reach as far as its own mode says."""
    with TemporaryDirectory(prefix="netpold-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "run"


def serve(runtime: Path, daemon: Daemon, group: str | None = None) -> Control:
    made = Control(runtime, daemon, group)
    made.start()
    return made


@pytest.fixture
def server(runtime: Path, daemon: Daemon) -> Iterator[Control]:
    made = serve(runtime, daemon)
    yield made
    made.close()


@pytest.fixture
def shared(runtime: Path, daemon: Daemon) -> Iterator[Control]:
    """With a group that may look."""
    made = serve(runtime, daemon, str(GROUP))
    yield made
    made.close()


def ask(server: Control, request: str, *, uid: int = 0, gid: int = 0, groups: str = "--clear-groups") -> str:
    """The answer to a request, as that user, with no capabilities."""
    become = ["setpriv", f"--reuid={uid}", f"--regid={gid}", groups]
    command = [*become, "/usr/bin/python3", "-c", CLIENT, str(server.path), request]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def open_wide(server: Control) -> None:
    """As if the modes did not hold others back: then what the kernel says of the client still does."""
    server.path.chmod(0o666)
    server.path.parent.chmod(0o755)


def test_strangers_do_not_get_in(server: Control, daemon: Daemon) -> None:
    assert ask(server, "GET /v1/status").startswith("HTTP/1.1 200")
    assert ask(server, "GET /v1/status", uid=STRANGER, gid=STRANGER) == "no way in\n"


@pytest.mark.parametrize("request_", ["GET /v1/status", "GET /metrics", "POST /v1/flush", "POST /v1/wait?timeout=0"])
def test_strangers_who_get_in_are_refused(server: Control, daemon: Daemon, request_: str) -> None:
    open_wide(server)
    answer = ask(server, request_, uid=STRANGER, gid=STRANGER)
    assert answer.startswith("HTTP/1.1 403")
    assert '"error": "not permitted"' in answer
    assert not daemon.flushed_for


@pytest.mark.parametrize("how", [{"gid": GROUP}, {"gid": STRANGER, "groups": f"--groups={GROUP},12345"}])
def test_the_group_may_look_and_change_nothing(shared: Control, daemon: Daemon, how: dict[str, object]) -> None:
    assert stat.S_IMODE(shared.path.parent.stat().st_mode) == 0o710
    assert stat.S_IMODE(shared.path.stat().st_mode) == 0o660
    for url in ("/v1/status", "/metrics", "/v1/ruleset"):
        assert ask(shared, f"GET {url}", uid=STRANGER, **how).startswith("HTTP/1.1 200")  # type: ignore[arg-type]
    for verb in ("/v1/flush", "/v1/wait?timeout=0"):
        answer = ask(shared, f"POST {verb}", uid=STRANGER, **how)  # type: ignore[arg-type]
        assert answer.startswith("HTTP/1.1 403")
        assert "may look" in answer
    assert not daemon.flushed_for
    assert ask(shared, "GET /v1/status", uid=STRANGER, gid=STRANGER) == "no way in\n"


def test_the_group_is_no_longer_let_in_once_the_settings_do_not_name_it(
    shared: Control, daemon: Daemon, runtime: Path
) -> None:
    shared.close()
    alone = serve(runtime, daemon)
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert ask(alone, "GET /v1/status", uid=STRANGER, gid=GROUP) == "no way in\n"
    alone.close()


def test_a_group_that_there_is_not_opens_nothing(runtime: Path, daemon: Daemon) -> None:
    server = serve(runtime, daemon, "no-such-group")
    assert server.warning is not None
    assert "groupadd" in server.warning
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    server.close()


def test_a_group_that_can_not_be_given_opens_nothing(runtime: Path) -> None:
    """The service's user is no member of it."""
    runtime.mkdir(mode=0o700)
    os.chown(runtime, STRANGER, STRANGER)
    program = (
        "import sys; from pathlib import Path; from netpold.daemon.control import Control; from tests.test_socket import "
        "Daemon\nserver = Control(Path(sys.argv[1]), Daemon(), sys.argv[2]); server.start(); print(server.warning)"
    )
    become = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "--inh-caps=-all"]
    words = [*become, "/usr/bin/python3", "-c", program, str(runtime), str(GROUP)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=60, check=False)
    assert "SupplementaryGroups=64998" in done.stdout, done.stderr
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


def test_a_flush_says_who_asked(server: Control, daemon: Daemon) -> None:
    assert ask(server, "POST /v1/flush").startswith("HTTP/1.1 200")
    [who] = daemon.flushed_for
    assert who.startswith("user root (0), process ")
    assert who.endswith("(python3)")


class TestTheDirectory:
    def test_rights_of_others_are_taken_away(self, runtime: Path, daemon: Daemon) -> None:
        runtime.mkdir(mode=0o777)
        runtime.chmod(0o777)
        serve(runtime, daemon).close()
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700

    def test_one_that_others_may_need_is_refused_and_left_as_it_is(self, runtime: Path, daemon: Daemon) -> None:
        runtime.mkdir()
        runtime.chmod(0o1777)
        (runtime / "theirs").touch()
        with pytest.raises(ControlError, match="runtime_dir that is netpold's alone"):
            serve(runtime, daemon)
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o1777

    def test_somebody_elses_is_refused(self, runtime: Path, daemon: Daemon) -> None:
        runtime.mkdir(mode=0o700)
        os.chown(runtime, STRANGER, STRANGER)
        with pytest.raises(ControlError, match=f"belongs to user {STRANGER}"):
            serve(runtime, daemon)

    def test_a_symlink_is_refused(self, runtime: Path, daemon: Daemon) -> None:
        runtime.with_name("elsewhere").mkdir()
        runtime.symlink_to("elsewhere")
        with pytest.raises(ControlError, match="a symlink is none"):
            serve(runtime, daemon)

    def test_a_symlink_in_the_sockets_place_is_replaced_and_its_target_stays(
        self, runtime: Path, daemon: Daemon, tmp_path: Path
    ) -> None:
        runtime.mkdir(mode=0o700)
        target = tmp_path / "target"
        target.write_text("precious")
        (runtime / control.SOCKET_NAME).symlink_to(target)
        server = serve(runtime, daemon)
        assert stat.S_ISSOCK(server.path.lstat().st_mode)
        server.close()
        assert target.read_text() == "precious"


# Clients that mean harm -----------------------------------------------------------------------------------------------


def connect(server: Control) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(server.path))
    return client


def is_served(server: Control) -> bool:
    with connect(server) as client:
        client.sendall(b"GET /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n")
        return client.recv(100).startswith(b"HTTP/1.1 200")


def answer_of(client: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionResetError):
        while part := client.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET " + b"x" * 1_000_000,
        b"GET /v1/status HTTP/1.1\r\n" + b"x: y\r\n" * 200_000,
        b"GET /v1/status HTTP/1.1\r\nx: " + b"y" * 1_000_000,
        b"GET /v1/status HTTP/1.1\r\n" + b" y\r\n" * 200_000,
        b"\r\n" * 500_000,
        b"\0" * 1_000_000,
    ],
    ids=["line", "headers", "header", "folded", "empty lines", "nul"],
)
def test_a_request_without_end_is_refused(server: Control, request_: bytes) -> None:
    with connect(server) as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(request_)
        answer = answer_of(client)
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:100]
    assert is_served(server)


def test_a_request_that_drips_is_ended(server: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is not enough to stay."""
    monkeypatch.setattr(control._Handler, "timeout", 0.5)
    with connect(server) as client:
        ended = False
        for _ in range(200):
            try:
                client.sendall(b"x")
            except (BrokenPipeError, ConnectionResetError):
                ended = True
                break
            time.sleep(0.05)
        assert ended


def test_a_client_that_never_reads_holds_up_nobody(server: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control._Handler, "timeout", 0.5)
    deaf = [connect(server) for _ in range(control.CONNECTIONS - 1)]
    for client in deaf:
        client.sendall(b"GET /v1/ruleset HTTP/1.1\r\n\r\n" * 3)
    assert is_served(server)
    deadline = time.monotonic() + 30
    while sum(each.name.startswith("Thread-") for each in threading.enumerate()) > 2:
        assert time.monotonic() < deadline, "they hold their threads"
        time.sleep(0.05)
    for client in deaf:
        client.close()


def test_the_group_can_not_shut_root_out(shared: Control) -> None:
    program = (
        "import socket, sys, time\nclients = []\nfor _ in range(int(sys.argv[2])):\n"
        "    client = socket.socket(socket.AF_UNIX); client.connect(sys.argv[1]); clients.append(client)\n"
        "print('all', flush=True); time.sleep(60)"
    )
    become = ["setpriv", f"--reuid={STRANGER}", f"--regid={GROUP}", "--clear-groups"]
    words = [*become, "/usr/bin/python3", "-c", program, str(shared.path), str(control.CONNECTIONS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as crowd:
        try:
            assert crowd.stdout
            assert crowd.stdout.readline() == b"all\n"
            deadline = time.monotonic() + 10
            while not is_served(shared):
                assert time.monotonic() < deadline
        finally:
            crowd.kill()


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://[::1/v1/status HTTP/1.1\r\n\r\n",
        b"GET //[/ HTTP/1.1\r\n\r\n",
        b"POST /v1/wait HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /v1/wait HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/wait HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n",
        b"POST /v1/wait HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"GET /v1/status HTTP/1.1 x\r\n\r\n",
        b"GET /\xff\xfe%00%ff HTTP/1.1\r\n\r\n",
        b"POST /v1/wait?timeout=" + b"1" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/wait?" + b"timeout=0&" * 3_000 + b"timeout=x HTTP/1.1\r\n\r\n",
    ],
)
def test_what_can_not_be_served_gets_an_answer(server: Control, head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with connect(server) as client:
        client.sendall(head)
        client.shutdown(socket.SHUT_WR)
        answer = answer_of(client)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505")), answer[:200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["hint"]
    assert not caplog.records


PIECES = st.sampled_from(
    [b"GET", b"POST", b"HEAD", b" ", b"/v1/status", b"/v1/wait", b"?timeout=", b"0", b"nan", b"HTTP/1.1", b"HTTP/1.0", b"\r\n"]
    + [b"\r\n\r\n", b"\n", b"\r", b":", b"Content-Length", b": 5", b"Expect: 100-continue", b"Connection: keep-alive", b"%", b"\0"]
    + [b"http://", b"[", b"//", b"#", b"\xff", b"\x80", b"Transfer-Encoding: chunked", b"/v1/flush"]
)  # fmt: skip


@settings(max_examples=250)
@given(st.lists(PIECES | st.binary(max_size=6), max_size=14).map(b"".join))
def test_no_request_breaks_it(request_: bytes) -> None:
    """Whatever comes is answered or ended, and nothing is logged: a thread that fails is."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("netpold").addHandler(handler)
    try:
        with connect(FUZZED) as client:
            with suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(request_)
                client.shutdown(socket.SHUT_WR)
            answer_of(client)
    finally:
        logging.getLogger("netpold").removeHandler(handler)
    assert not records, records[0].getMessage()


@pytest.fixture(autouse=True, scope="module")
def _fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    global FUZZED
    FUZZED = serve(tmp_path_factory.mktemp("fuzzed") / "run", Daemon())
    yield
    assert is_served(FUZZED)
    FUZZED.close()


FUZZED: Control
