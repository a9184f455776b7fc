"""The daemon's metrics, from outside: on its socket, on its port and in its file, while packets are dropped."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from netpold import __version__
from tests.lab import Backend, Lab, Pod
from tests.lab.daemon import Daemon
from tests.lab.datagram import DOMAIN

pytestmark = pytest.mark.kernel

PORT = 9779

DENY = """apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Ingress]
"""
ONE_PORT = f"{DENY}  ingress: [{{ports: [{{port: 53, protocol: UDP}}]}}]\n"


class Socket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("netpold", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


class Scene:
    """Two pods, and a daemon that tells of itself everywhere."""

    def __init__(self, lab: Lab, backend: Backend) -> None:
        self.node = lab.node("n1")
        self.a, self.b = (self.node.routed_pod("x", name, labels={"app": name}) for name in "ab")
        for pod in (self.a, self.b):
            for family in (4, 6):
                pod.run(["ping", "-c1", "-W5", self.node.address(family)])
        self.file = self.node.site.directory / "netpold.prom"
        settings = self.node.site.directory / "netpold.toml"
        settings.write_text(f'metrics_port = {PORT}\nmetrics_textfile = "{self.file}"\nnflog_group = 0\n')
        self.daemon = Daemon(self.node, backend, args=["--config", str(settings)])

    def enforce(self, text: str) -> None:
        self.daemon.write("pods.json", self.a.manifest(), self.b.manifest())
        self.daemon.write("policy.yaml", text)
        self.daemon.wait(20)

    def metrics(self) -> dict[str, float]:
        """By name and the values of the labels, in the order of their names."""
        with closing(Socket(self.daemon.socket)) as connection:
            return parsed(fetched(connection))

    def eventually(self, name: str, wanted: float) -> float:
        """The value, when it is what it should be, or has not become so: it is read once a second."""
        end = time.monotonic() + 10
        while (found := self.metrics().get(name, 0)) != wanted and time.monotonic() < end:
            time.sleep(0.1)
        return found


def fetched(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    assert str(answer.getheader("Content-Type")).startswith("text/plain; version=0.0.4")
    return answer.read().decode()


def parsed(text: str) -> dict[str, float]:
    return {
        " ".join((sample.name, *(value for _, value in sorted(sample.labels.items())))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def send(source: Pod, destination: Pod, count: int, family: int) -> None:
    with source.netns.entered():
        sender = socket.socket(DOMAIN[family], socket.SOCK_DGRAM)
    with sender:
        for _ in range(count):
            sender.sendto(b"x", (destination.address(family), 9))


@pytest.fixture
def scene(lab: Lab, backend: Backend) -> Iterator[Scene]:
    made = Scene(lab, backend)
    with made.daemon:
        made.enforce(DENY)
        yield made


def test_what_is_sent_is_counted_over_edits_and_relabels(scene: Scene) -> None:
    pod, policy = "netpold_dropped_packets_total ingress x b", "netpold_policy_dropped_packets_total ingress x deny"
    assert scene.metrics()[pod] == scene.metrics()[policy] == 0
    for family in (4, 6):
        send(scene.a, scene.b, 100, family)
    assert scene.eventually(pod, 200) == 200
    scene.enforce(ONE_PORT)
    send(scene.a, scene.b, 100, 4)
    assert scene.eventually(pod, 300) == 300
    scene.b.labels = {"app": "b", "more": "x"}
    scene.enforce(ONE_PORT)
    send(scene.a, scene.b, 50, 6)
    assert scene.eventually(pod, 350) == 350
    scene.b.labels = {"app": "other"}  # isolated no more
    scene.enforce(ONE_PORT)
    send(scene.a, scene.b, 50, 6)
    scene.b.labels = {"app": "b"}
    scene.enforce(DENY)
    send(scene.a, scene.b, 50, 4)
    assert scene.eventually(pod, 400) == 400
    found = scene.metrics()
    assert found[policy] == 400
    assert found["netpold_drop_read_failures_total"] == 0
    assert found["netpold_state enforcing"] == 1
    assert found["netpold_isolated_pods"] == 1
    assert found["netpold_revision"] == found["netpold_apply_duration_seconds_count"] >= 4
    assert found["netpold_apply_failures_total"] == 0


def test_what_another_program_flushed_is_put_back_and_counts_go_on(scene: Scene, backend: Backend) -> None:
    name = "netpold_dropped_packets_total ingress x b"
    send(scene.a, scene.b, 30, 4)
    assert scene.eventually(name, 30) == 30
    scene.node.iptables(backend, 4, "-F", "FORWARD")
    scene.daemon.write("more.yaml", DENY.replace("deny", "deny-more"))
    scene.daemon.wait(20)
    send(scene.a, scene.b, 30, 6)
    assert scene.eventually(name, 60) == 60


def test_the_port_and_the_file_tell_the_same(scene: Scene) -> None:
    def asked(address: str) -> dict[str, float]:
        with scene.node.netns.entered(), closing(http.client.HTTPConnection(address, PORT, timeout=20)) as connection:
            return parsed(fetched(connection))

    def same(found: dict[str, float]) -> bool:
        socket = scene.metrics()
        assert found.keys() - {"process_max_fds"} == socket.keys() - {"process_max_fds"}
        return all(found[name] == socket[name] for name in socket if name.startswith("netpold_"))

    assert eventually(scene.file.exists)
    assert eventually(lambda: same(asked("127.0.0.1")))
    assert same(asked("::1"))
    with pytest.raises(ConnectionRefusedError):
        asked(scene.node.address(4))
    assert parsed(scene.file.read_text())[f"netpold_build_info {__version__}"] == 1
    assert scene.daemon.stop() == 0
    assert not scene.file.exists()


def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
