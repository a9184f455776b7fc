"""The metrics as Prometheus reads them: names, labels and values; on a port, and in a file."""

from __future__ import annotations

import http.client
import logging
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from netpold.host.drops import DropTotals
from netpold.host.kernel.set_members import Count
from netpold.host.metrics import BUCKETS, CONTENT_TYPE, Metrics
from netpold.host.metrics_file import MetricsFile
from netpold.host.metrics_port import CONNECTIONS, MetricsPort
from netpold.policy.model import Direction, Finding, Position
from tests.lab.namespace import NetworkNamespace, inside

ROOT = Path(__file__).parent.parent
IN, OUT = Direction.INGRESS, Direction.EGRESS
PLACE = Position("a.yaml", 1, 1)


@dataclass(frozen=True)
class Policies:
    accepted: int = 3
    rejected: int = 2
    quarantined: int = 1


@dataclass(frozen=True)
class Pods:
    total: int = 9
    local: int = 5
    isolated: int = 4
    in_tiers: int = 2
    without_interface: int = 1


@dataclass(frozen=True)
class Audited:
    policies: tuple[str, ...] = ("shop/deny-all", "shop/web")


@dataclass(frozen=True)
class Figures:
    """As netpold.daemon.status.Status."""

    state: str = "enforcing"
    backend: str = "nft"
    revision: int = 7
    policies: Policies = Policies()
    pods: Pods = Pods()
    audited: Audited = Audited()
    namespaces: int = 2
    rules: tuple[tuple[str, int], ...] | dict[str, int] = ()
    sets: int = 6
    findings: tuple[Finding, ...] = (
        Finding(PLACE, "unknown-field", "spec.x", "no such field", "take it out"),
        Finding(PLACE, "unknown-field", "spec.y", "no such field", "take it out"),
        Finding(PLACE, "host-bits", "spec.z", "host bits", "take them out", severity="warning"),
    )
    warnings: tuple[str, ...] = ("a sysctl is wrong",)


FIGURES = Figures(rules={"IPv4": 20, "IPv6": 10})
DROPS = DropTotals(
    pods={("shop/web", IN): Count(5, 500), ("shop/web", OUT): Count(0, 0), ("shop/db", IN): Count(2**53, 2**60)},
    policies={
        ("shop/deny-all", IN): Count(5, 500),
        ("deny-metadata", IN): Count(7, 700),
        ("AdminNetworkPolicy/old", IN): Count(8, 800),
    },
    spoofed={4: Count(3, 180), 6: Count(0, 0)},
    failures=2,
)


def made(drops: DropTotals = DROPS) -> Metrics:
    return Metrics("0.1.0", lambda: drops)


def families(text: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def values(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float:
    return values(text)[name, frozenset(labels.items())]


def full() -> bytes:
    metrics = made()
    metrics.applied(0.03)
    return metrics.text(FIGURES)


# What is told --------------------------------------------------------------------------------------------------------


def test_what_the_status_says_is_told() -> None:
    text = full()
    assert value(text, "netpold_build_info", version="0.1.0") == 1
    assert value(text, "netpold_backend_info", backend="nft") == 1
    states = {state: value(text, "netpold_state", state=state) for state in ("starting", "enforcing", "degraded")}
    assert states == {"starting": 0, "enforcing": 1, "degraded": 0}
    assert value(text, "netpold_revision") == 7
    assert value(text, "netpold_policies", result="accepted") == 3
    assert value(text, "netpold_policies", result="rejected") == 2
    assert value(text, "netpold_quarantined_policies") == 1
    assert value(text, "netpold_audited_policies") == 2
    assert value(text, "netpold_pods") == 9
    assert value(text, "netpold_local_pods") == 5
    assert value(text, "netpold_isolated_pods") == 4
    assert value(text, "netpold_pods_in_tiers") == 2
    assert value(text, "netpold_pods_without_interface") == 1
    assert value(text, "netpold_namespaces") == 2
    assert value(text, "netpold_rules", family="ipv4") == 20
    assert value(text, "netpold_rules", family="ipv6") == 10
    assert value(text, "netpold_sets") == 6
    assert value(text, "netpold_findings", severity="error", code="unknown-field") == 2
    assert value(text, "netpold_findings", severity="warning", code="host-bits") == 1
    assert value(text, "netpold_warnings") == 1


def test_drops_are_told_by_pod_and_policy_and_direction() -> None:
    text = full()
    assert value(text, "netpold_dropped_packets_total", namespace="shop", pod="web", direction="ingress") == 5
    assert value(text, "netpold_dropped_packets_total", namespace="shop", pod="web", direction="egress") == 0
    assert value(text, "netpold_dropped_bytes_total", namespace="shop", pod="db", direction="ingress") == 2**60
    named = {"namespace": "shop", "policy": "deny-all", "direction": "ingress"}
    assert value(text, "netpold_policy_dropped_packets_total", **named) == 5
    for name, packets in (("deny-metadata", 7), ("AdminNetworkPolicy/old", 8)):
        of_cluster = {"namespace": "", "policy": name, "direction": "ingress"}
        assert value(text, "netpold_policy_dropped_packets_total", **of_cluster) == packets
    assert value(text, "netpold_spoofed_packets_total", family="ipv4") == 3
    assert value(text, "netpold_drop_read_failures_total") == 2


def test_what_the_loop_counts_is_told() -> None:
    metrics = made()
    before = metrics.text(FIGURES)
    assert "netpold_last_apply_timestamp_seconds" not in families(before)
    assert value(before, "netpold_apply_duration_seconds_count") == 0
    for seconds in (0.0005, 0.001, 0.02, 60.0):
        metrics.applied(seconds)
    metrics.failed()
    metrics.repaired()
    metrics.repaired()
    metrics.cut(40)
    metrics.cut(2)
    text = metrics.text(FIGURES)
    buckets = {
        bound: value(text, "netpold_apply_duration_seconds_bucket", le=bound)
        for bound in ("0.001", "0.01", "0.025", "10.0", "+Inf")
    }
    assert buckets == {"0.001": 2, "0.01": 2, "0.025": 3, "10.0": 3, "+Inf": 4}
    assert value(text, "netpold_apply_duration_seconds_count") == 4
    assert value(text, "netpold_apply_duration_seconds_sum") == pytest.approx(60.0215)
    assert value(text, "netpold_last_apply_duration_seconds") == 60
    assert abs(value(text, "netpold_last_apply_timestamp_seconds") - time.time()) < 600
    assert value(text, "netpold_apply_failures_total") == 1
    assert value(text, "netpold_drift_repairs_total") == 2
    assert value(text, "netpold_flows_cut_total") == 42


def test_each_duration_is_in_the_bucket_that_ends_at_it_or_behind_it() -> None:
    for number, bound in enumerate(BUCKETS):
        metrics = made()
        metrics.applied(bound)
        text = metrics.text(FIGURES)
        counts = [value(text, "netpold_apply_duration_seconds_bucket", le=str(each)) for each in BUCKETS]
        assert counts == [0] * number + [1] * (len(BUCKETS) - number)


def test_the_process_is_told_of() -> None:
    text = full()
    assert value(text, "process_cpu_seconds_total") > 0
    assert value(text, "process_resident_memory_bytes") > 1e6
    assert value(text, "process_open_fds") > 0


def test_names_in_manifests_can_not_forge_lines() -> None:
    drops = DropTotals(pods={('x/a"\n} 1\nforged 2\\', IN): Count(1, 1)})
    assert value(
        made(drops).text(FIGURES),
        "netpold_dropped_packets_total",
        namespace="x",
        pod='a"\n} 1\nforged 2\\',
        direction="ingress",
    )


def test_the_library_is_not_loaded_before_somebody_asks() -> None:
    code = (
        "import sys; from netpold.host.metrics import Metrics; from netpold.host.drops import Drops\n"
        "Metrics('1', Drops().totals).applied(1.0); print([m for m in sys.modules if m.startswith('prometheus')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


# How it is told ------------------------------------------------------------------------------------------------------


def test_all_names_follow_the_rules() -> None:
    """What `promtool check metrics` asks for, and https://prometheus.io/docs/practices/naming."""
    for line in full().decode().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z_]+(\{.*\})? [0-9e.+-]+", line), line
    for name, family in families(full()).items():
        assert name.startswith(("netpold_", "process_"))
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
        assert family.documentation.endswith((".", "1.")), name
        assert family.type in ("gauge", "counter", "histogram"), name
        samples = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert samples <= {f"{name}_total"}
        else:
            assert not name.endswith(("_total", "_count", "_sum", "_bucket"))
        words = set(name.split("_"))
        assert not words & {"ms", "milliseconds", "minutes", "hours", "kilobytes", "kb", "mb", "percent", "gauge"}
        assert not words & {"counter", "histogram", "summary"}
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels)
            assert not sample.name.endswith("_info") or sample.value == 1


def test_the_list_in_the_docs_is_complete() -> None:
    """docs/metrics.md: `| name | type | labels | meaning |`."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \|(.*?)\| .+ \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    listed = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", labels)))) for name, kind, labels in rows
    }
    told = {
        f"{name}_total" if family.type == "counter" else name: (
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels if label != "le"),
        )
        for name, family in families(full()).items()
        if name.startswith("netpold_")
    }
    assert listed == told


# The port ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with inside("metrics") as there:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in ("10.3.3.3/32", "fd03::3/128"):
            subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
        yield there


@contextmanager
def serving(timeout: float = 5.0, retry: float = 10.0, addresses: int = 2) -> Iterator[MetricsPort]:
    port = MetricsPort(9, lambda: full(), timeout, retry)
    port.start()
    with closing(port):
        assert eventually(lambda: len(port.listening) == addresses)
        yield port


def eventually(condition: Callable[[], object], timeout: float = 10.0) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def connected() -> socket.socket:
    return socket.create_connection(("127.0.0.1", 9), 20)


def answers() -> bool:
    with suppress(ConnectionError):
        return ask()[0].status == 200
    return False


Answer = tuple[http.client.HTTPResponse, bytes]


def ask(address: str = "127.0.0.1", path: str = "/metrics", method: str = "GET") -> Answer:
    with closing(http.client.HTTPConnection(address, 9, timeout=20)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer, answer.read()


kernel = pytest.mark.kernel


@kernel
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_port_answers_at_both_loopback_addresses(namespace: NetworkNamespace, address: str) -> None:
    with serving():
        answer, body = ask(address)
        assert (answer.status, answer.getheader("Content-Type")) == (200, CONTENT_TYPE)
        assert int(answer.getheader("Content-Length") or 0) == len(body)
        assert value(body, "netpold_revision") == 7


@kernel
def test_the_port_is_not_there_at_other_addresses(namespace: NetworkNamespace) -> None:
    with serving():
        for address in ("10.3.3.3", "fd03::3", "127.0.0.2"):
            with pytest.raises(ConnectionRefusedError):
                ask(address)


@kernel
def test_the_port_refuses_what_it_does_not_know(namespace: NetworkNamespace) -> None:
    with serving():
        assert ask(path="/")[0].status == 404
        answer = ask(method="POST")[0]
        assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD")
        answer, body = ask(method="HEAD")
        assert (answer.status, body) == (200, b"")
        assert int(answer.getheader("Content-Length") or 0) > 1000
        assert ask(path="/metrics?x=y")[0].status == 200
        for request in (b"hello\r\n\r\n", b"GET /metrics\r\n\r\n", b"\x16\x03\x01" * 8000, b"GET /metrics HTTP/1.1"):
            with connected() as client:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(20).startswith(b"HTTP/1.1 400")
        assert ask()[0].status == 200


def hung_up(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@kernel
def test_slow_clients_hold_nobody_up_and_are_hung_up_on(namespace: NetworkNamespace) -> None:
    with serving(timeout=1.0), ExitStack() as stack:
        slow = [stack.enter_context(connected()) for _ in range(CONNECTIONS - 2)]
        for client in slow:
            client.sendall(b"GET /met")
        assert ask()[0].status == 200
        for _ in range(15):  # a byte every now and then does not keep it open
            time.sleep(0.1)
            with suppress(BrokenPipeError, ConnectionResetError):
                slow[0].sendall(b"r")
        assert all(map(hung_up, slow))


@kernel
def test_a_client_that_does_not_read_is_hung_up_on(namespace: NetworkNamespace) -> None:
    with closing(MetricsPort(9, lambda: bytes(64 << 20), timeout=0.5)) as port:
        port.start()
        assert eventually(lambda: port.listening)
        with connected() as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert ask(method="HEAD")[0].status == 200
            assert eventually(lambda: port.connections == 0)
            rest = sum(map(len, iter(lambda: client.recv(1 << 20), b"")))
            assert rest < 64 << 20


@kernel
def test_there_is_a_limit_of_connections_and_they_end(namespace: NetworkNamespace) -> None:
    with serving(timeout=2.0), ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(connected())
        with connected() as client:
            assert client.recv(12) == b"HTTP/1.1 503"
        assert eventually(answers)


@kernel
def test_a_host_without_ipv6_is_no_warning(namespace: NetworkNamespace) -> None:
    namespace.sysctl({"ipv6/conf/lo/disable_ipv6": 1})
    with serving(addresses=1) as port:
        assert port.listening == {"127.0.0.1"}
        assert port.warning is None
        assert ask()[0].status == 200


@kernel
def test_a_port_that_is_taken_is_a_warning_and_tried_again(
    namespace: NetworkNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with socket.create_server(("127.0.0.1", 9)) as other, serving(retry=0.05, addresses=1) as port:
        assert port.listening == {"::1"}
        assert port.warning == "no metrics at 127.0.0.1 port 9: Address already in use"
        assert ask("::1")[0].status == 200
        other.close()
        assert eventually(lambda: port.warning is None)
        assert ask()[0].status == 200
    assert len(caplog.records) == 1
    assert "choose another metrics_port" in caplog.text


@kernel
def test_it_ends_at_once_whoever_is_connected(namespace: NetworkNamespace) -> None:
    with serving(timeout=60.0) as port, connected():
        port.close()
        assert port.listening == frozenset()
        with pytest.raises(ConnectionRefusedError):
            ask()


def test_a_port_that_never_started_can_be_closed() -> None:
    MetricsPort(9, full).close()


# The file ------------------------------------------------------------------------------------------------------------


def test_the_file_is_always_whole_and_goes_with_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "netpold.prom"
    revisions = iter(range(10**6))
    file = MetricsFile(path, lambda: made().text(replace(FIGURES, revision=next(revisions))), 0.001)
    before = os.umask(0o077)
    try:
        file.start()
        assert eventually(path.exists)
        seen = set()
        end = time.monotonic() + 60
        while len(seen) < 5 and time.monotonic() < end:
            text = path.read_bytes()
            assert text.endswith(b"\n")
            assert value(text, "netpold_spoofed_packets_total", family="ipv6") == 0
            seen.add(value(text, "netpold_revision"))
        assert len(seen) >= 5
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert file.warning is None
    finally:
        os.umask(before)
        file.close()
    assert list(tmp_path.iterdir()) == []


def test_where_the_file_can_not_be_written_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "none" / "netpold.prom"
    file = MetricsFile(path, full, 0.01)
    with caplog.at_level(logging.WARNING):
        file.start()
        assert eventually(lambda: file.warning)
        time.sleep(0.1)
        assert file.warning == f"{path}: the metrics can't be written: No such file or directory"
        assert len(caplog.records) == 1
        path.parent.mkdir()
        assert eventually(path.exists)
        assert eventually(lambda: file.warning is None)
    file.close()


def test_what_lies_in_the_way_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    directory = tmp_path / "exporter"
    directory.mkdir()
    (directory / ".netpold.prom.new").symlink_to(victim)
    (directory / "netpold.prom").symlink_to(victim)
    file = MetricsFile(directory / "netpold.prom", full, 0.01)
    file.start()
    assert eventually(lambda: file.warning)
    file.close()
    assert victim.read_text() == "mine"


def test_a_file_that_never_started_can_be_closed(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "netpold.prom", full).close()
