"""The control socket, with real sockets: http.client, curl, and clients that behave badly."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netpold import __version__
from netpold.config import Settings
from netpold.daemon import control
from netpold.daemon.control import Control
from netpold.daemon.runtime_dir import ControlError
from netpold.daemon.status import (
    Audited,
    Drifted,
    LastApply,
    PodCounts,
    PolicyCounts,
    Status,
    Table,
    Tried,
    timestamp,
)
from netpold.host.git_commit import GitCommit
from netpold.host.kernel.backend import KernelError
from netpold.policy.model import Finding, Position


class Daemon:
    """A controlled object with a memory; `ready` is what `wait` waits for."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.flushed = 0
        self.refuses = False

    def status(self) -> dict[str, object]:
        return Status.starting(Settings(node="n1"), "nft").as_json()

    def wait(self, timeout: float) -> bool:
        return self.ready.wait(timeout)

    def flush(self, who: str) -> None:
        if self.refuses:
            raise KernelError("iptables-nft-restore: no")
        self.flushed += 1

    def ruleset_text(self) -> str:
        return "*filter\nCOMMIT\n"


class Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float = 20.0) -> None:
        super().__init__("netpold", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def server(tmp_path: Path, daemon: Daemon) -> Iterator[Control]:
    made = Control(tmp_path / "run", daemon)
    made.start()
    yield made
    made.close()


def ask(server: Control, method: str, url: str, body: bytes | None = None) -> tuple[int, dict[str, object]]:
    connection = Connection(server.path)
    connection.request(method, url, body=body)
    answer = connection.getresponse()
    value = json.loads(answer.read())
    connection.close()
    return answer.status, value


def test_status(server: Control) -> None:
    status, value = ask(server, "GET", "/v1/status")
    assert status == 200
    assert (value["version"], value["state"], value["node"], value["backend"]) == (1, "starting", "n1", "nft")


def test_curl_is_a_client(server: Control) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    words = ["curl", "-sS", "--fail", "--unix-socket", str(server.path), "http://localhost/v1/ruleset"]
    assert subprocess.run(words, capture_output=True, check=True).stdout == b"*filter\nCOMMIT\n"


def test_only_the_owner_gets_at_it(server: Control) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700


def test_wait_that_comes_true(server: Control, daemon: Daemon) -> None:
    threading.Timer(0.2, daemon.ready.set).start()
    assert ask(server, "POST", "/v1/wait?timeout=10") == (200, {"done": True})


def test_wait_that_times_out(server: Control) -> None:
    began = time.monotonic()
    status, value = ask(server, "POST", "/v1/wait?timeout=0.2")
    assert 0.2 <= time.monotonic() - began < 5
    assert status == 504
    assert value["hint"]


@pytest.mark.parametrize("timeout", ["x", "-1", "nan", "inf", "1e9"])
def test_wait_refuses_nonsense(server: Control, timeout: str) -> None:
    status, value = ask(server, "POST", f"/v1/wait?timeout={timeout}")
    assert status == 400
    assert "seconds from 0" in str(value["hint"])


def test_flush(server: Control, daemon: Daemon) -> None:
    assert ask(server, "POST", "/v1/flush") == (200, {"done": True})
    assert daemon.flushed == 1
    daemon.refuses = True
    status, value = ask(server, "POST", "/v1/flush")
    assert (status, value["error"]) == (500, "iptables-nft-restore: no")


def test_unknown_path_and_wrong_method(server: Control, daemon: Daemon) -> None:
    status, value = ask(server, "GET", "/v2/status")
    assert status == 404
    assert "/v1/status" in str(value["hint"])
    status, value = ask(server, "GET", "/v1/flush")
    assert (status, value["hint"]) == (405, "use POST")
    assert daemon.flushed == 0
    assert ask(server, "POST", "/v1/status")[0] == 405


def test_one_connection_serves_many_requests(server: Control) -> None:
    connection = Connection(server.path)
    for _ in range(3):
        connection.request("POST", "/v1/wait?timeout=0", body=b"ignored")
        answer = connection.getresponse()
        assert (answer.status, answer.version) == (504, 11)
        answer.read()
        connection.request("GET", "/v1/status")
        assert connection.getresponse().read()
    connection.close()


def test_large_bodies_are_refused(server: Control) -> None:
    """Before they are sent: who sends without waiting for the answer may find the connection closed."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(server.path))
        client.sendall(b"POST /v1/wait?timeout=0 HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (control.BODY_LIMIT + 1))
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_what_is_not_http_is_refused(server: Control) -> None:
    for nonsense in (b"\x16\x03\x01\n", b"DELETE /v1/status HTTP/1.1\r\n\r\n", b"GET " + b"x" * 100_000 + b"\r\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(server.path))
            client.sendall(nonsense)
            head = client.recv(65536)
            assert head.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), head
    assert ask(server, "GET", "/v1/status")[0] == 200


def test_slow_clients_do_not_hold_up_others(server: Control) -> None:
    slow = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for client in slow:
        client.connect(str(server.path))
        client.sendall(b"GET /v1/sta")
    began = time.monotonic()
    assert ask(server, "GET", "/v1/status")[0] == 200
    assert time.monotonic() - began < 2
    for client in slow:
        client.close()


def test_silent_clients_are_dropped(server: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control._Handler, "timeout", 0.2)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(server.path))
        assert client.recv(1) == b""


def test_more_clients_than_it_serves_are_told_so(server: Control) -> None:
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(control.CONNECTIONS)]
    for client in crowd:
        client.connect(str(server.path))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(server.path))
        assert client.recv(100).startswith(b"HTTP/1.1 503")
    for client in crowd:
        client.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            assert ask(server, "GET", "/v1/status")[0] == 200
            return
        except (http.client.HTTPException, ConnectionError, ValueError):
            time.sleep(0.05)
    pytest.fail("not served again after the crowd went")


def test_a_client_that_goes_away_is_no_error(server: Control, daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection(server.path)
    connection.request("POST", "/v1/wait?timeout=5")
    connection.close()
    daemon.ready.set()
    time.sleep(0.2)
    assert ask(server, "GET", "/v1/status")[0] == 200
    assert not caplog.records


@pytest.mark.parametrize(("ends", "flushed"), [("close", 0), ("shutdown", 1)])
def test_what_a_client_asked_for_that_has_given_up_is_not_begun(
    tmp_path: Path, daemon: Daemon, ends: str, flushed: int
) -> None:
    """As where the daemon is stopped for a while.  One that only says that it sends no more waits for the answer."""
    server = control._Server(str(tmp_path / "socket"), daemon)  # listens, and takes no connection yet
    server.daemon_threads, server.block_on_close = False, True
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "socket"))
        client.sendall(b"POST /v1/flush HTTP/1.1\r\nConnection: close\r\n\r\n")
        if ends == "close":
            client.close()
        else:
            client.shutdown(socket.SHUT_WR)
        server.handle_request()
        server.server_close()  # waits for its thread
    assert daemon.flushed == flushed


def test_a_stale_socket_is_replaced(tmp_path: Path, daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / control.SOCKET_NAME))
    server = Control(tmp_path, daemon)
    server.start()
    assert ask(server, "GET", "/v1/status")[0] == 200
    server.close()
    assert not server.path.exists()


def test_a_second_daemon_is_refused(server: Control, daemon: Daemon) -> None:
    with pytest.raises(ControlError, match="another netpold serves it"):
        Control(server.path.parent, daemon).start()
    assert ask(server, "GET", "/v1/status")[0] == 200


def test_close_leaves_the_socket_of_a_successor(server: Control, daemon: Daemon) -> None:
    server.path.unlink()
    successor = Control(server.path.parent, daemon)
    successor.start()
    server.close()
    assert ask(successor, "GET", "/v1/status")[0] == 200
    successor.close()


def test_a_path_too_long_for_a_socket(tmp_path: Path, daemon: Daemon) -> None:
    with pytest.raises(ControlError, match="shorter runtime_dir"):
        Control(tmp_path / ("x" * 100), daemon).start()


def test_runtime_dir_that_is_a_file(tmp_path: Path, daemon: Daemon) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ControlError, match="correct runtime_dir"):
        Control(tmp_path / "run", daemon).start()


def test_status_shape() -> None:
    finding = Finding(
        Position("/etc/netpold/a.yaml", 3, 5), "unknown-field", "spec.x", "is unknown", "delete it", "P n/p"
    )
    status = Status(
        state="degraded",
        since="2026-01-31T08:15:30.125Z",
        node="n1",
        backend="legacy",
        manifests="/etc/netpold",
        revision=7,
        policies=PolicyCounts(3, 1),
        pods=PodCounts(10, 4, 2, 0, 1),
        unclaimed=("veth9",),
        namespaces=2,
        passed_over={"Service": 5},
        rules={"IPv4": 30, "IPv6": 28},
        sets=6,
        last_apply=LastApply("2026-01-31T08:15:30.125Z", 12.5),
        error="no",
        findings=(finding,),
        warnings=("careful",),
        audited=Audited(("x/a", "x/b"), ("x",)),
        without_interface=("x/p",),
        without_pod=("veth8",),
        tables=(Table("legacy", "IPv4", 9, 30, 3),),
        others=(("nft", "IPv6"),),
        git=GitCommit("/etc", "ab" * 20, None),
        drift=Drifted(2, "2026-01-31T08:15:30.125Z", ("nft",)),
        tried=Tried("/tmp/x", "root", "2026-01-31T08:15:30.125Z", None),
    )
    assert json.loads(json.dumps(status.as_json())) == {
        "version": 1,
        "release": __version__,
        "state": "degraded",
        "since": "2026-01-31T08:15:30.125Z",
        "node": "n1",
        "backend": "legacy",
        "revision": 7,
        "manifests": "/etc/netpold",
        "policies": {"accepted": 3, "rejected": 1},
        "cluster_policies": 0,
        "quarantined": 0,
        "last_good": {"count": 0, "objects": []},
        "pods": {"total": 10, "local": 4, "isolated": 2, "in_tiers": 0, "without_interface": 1, "lingering": 0},
        "without_interface": {"count": 1, "names": ["x/p"]},
        "lingering": {"count": 0, "names": []},
        "interfaces_without_pod": {"count": 1, "names": ["veth8"]},
        "tables": [{"backend": "legacy", "family": "IPv4", "chains": 9, "rules": 30, "sets": 3}],
        "other_tables": [{"backend": "nft", "family": "IPv6"}],
        "git": {"repository": "/etc", "commit": "ab" * 20, "branch": None},
        "drift": {"repairs": 2, "last": "2026-01-31T08:15:30.125Z", "by": ["nft"]},
        "try": {"directory": "/tmp/x", "by": "root", "since": "2026-01-31T08:15:30.125Z", "until": None},
        "rollback": None,
        "unclaimed_interfaces": ["veth9"],
        "namespaces": 2,
        "nodes": 0,
        "passed_over": {"Service": 5},
        "rules": {"IPv4": 30, "IPv6": 28},
        "sets": 6,
        "last_apply": {"at": "2026-01-31T08:15:30.125Z", "duration_ms": 12.5},
        "error": "no",
        "findings": [
            {
                "file": "/etc/netpold/a.yaml",
                "line": 3,
                "column": 5,
                "path": "spec.x",
                "code": "unknown-field",
                "severity": "error",
                "fault": "is unknown",
                "cure": "delete it",
                "subject": "P n/p",
            }
        ],
        "warnings": ["careful"],
        "audited": {"count": 2, "policies": ["x/a", "x/b"], "namespaces": ["x"], "by_settings": False},
    }
    summary = (
        "3 policies (and 1 rejected) isolate 2 of 4 pods on this node (10 known), by 58 rules and 6 sets, "
        "2 of them in audit mode: NOT ENFORCED"
    )
    assert status.summary() == summary
    assert status.line() == f"TRYING /tmp/x instead of the manifests; degraded, revision 7: {summary}; no"
    assert replace(status, tried=None).line() == f"degraded, revision 7: {summary}; no"


def test_timestamps_are_utc() -> None:
    from datetime import datetime, timedelta, timezone

    east = datetime(2026, 1, 31, 10, 0, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(east) == "2026-01-31T08:00:00.000Z"


def test_the_process_umask_does_not_matter(tmp_path: Path, daemon: Daemon) -> None:
    before = os.umask(0)
    try:
        server = Control(tmp_path / "open", daemon)
        server.start()
    finally:
        os.umask(before)
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
    server.close()
