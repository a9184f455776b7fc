"""The daemon's process on a real node: what systemd hears, SIGHUP, its log, and what it saves for the next boot."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netpold import __version__
from netpold.daemon import inbox
from tests.lab import Lab, Node
from tests.lab.daemon import CHECKOUT, PYTHON, Daemon

pytestmark = pytest.mark.kernel

DENY_ALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"""
UNREADABLE = DENY_ALL.replace("podSelector: {}", "podSelector: {}, ingress: {from: []}").replace("deny", "wrong")


class Systemd:
    """What systemd would hear: the lines of sd_notify(3), in order.  It listens all the time, as systemd does: who is
    not heard is held up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while data := self._socket.recv(65536):
            self.heard += data.decode().splitlines()

    def forget(self) -> None:
        self.heard.clear()

    def reloaded(self) -> bool:
        """Whether a reload has begun and ended."""
        begun = self.heard.index("RELOADING=1") if "RELOADING=1" in self.heard else len(self.heard)
        return "READY=1" in self.heard[begun:]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def node() -> Iterator[Node]:
    with Lab() as lab:
        node = lab.node("n1")
        for name in "ab":
            node.routed_pod("x", name)
        yield node


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(made.path))
    yield made
    made.close()


def daemon(node: Node, config: str = "") -> Daemon:
    settings = node.site.directory / "netpold.toml"
    settings.write_text(config)
    made = Daemon(node, "nft", args=["--config", str(settings)])
    made.write("pods.json", *(pod.manifest(node=False) for pod in node.pods))
    return made


def rules_of(node: Node) -> str:
    return node.iptables_save("nft", 4)


def eventually(condition: Callable[[], object], timeout: float = 20.0) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def test_systemd_hears_of_readiness_state_and_life(node: Node, systemd: Systemd) -> None:
    with daemon(node) as running:
        running.write("deny.yaml", DENY_ALL)
        assert eventually(lambda: "READY=1" in systemd.heard)
        assert eventually(lambda: any("1 policy isolates 2 of 2 pods" in each for each in systemd.heard))
        assert [each for each in systemd.heard if each.startswith("STATUS=enforcing, revision ")]
        systemd.forget()
        assert eventually(lambda: systemd.heard.count("WATCHDOG=1") >= 2), "no sign of life while nothing happens"
        assert running.stop() == 0
        assert "STOPPING=1" in systemd.heard


def test_signs_of_life_come_from_who_waits_and_from_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that hangs in its work gives none."""
    monkeypatch.setattr(inbox, "ALIVE_S", 0.05)
    box, alive = inbox.Inbox(), threading.Event()
    box.alive = alive.set
    box.take(time.monotonic())
    assert not alive.wait(0.3), "nobody waits"
    waiting = threading.Thread(target=box.take, args=(time.monotonic() + 60,))
    waiting.start()
    assert alive.wait(10)
    box.wish(files=True)
    waiting.join()
    for wait in (box.take_urgent, lambda: box.take_after_failure(*[time.monotonic() + 60] * 3)):
        alive.clear()
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert alive.wait(10)
        box.wish(stop=True)
        waiting.join()
        box.wish(stop=False)


def test_a_daemon_that_can_not_enforce_lets_the_node_boot(node: Node, systemd: Systemd) -> None:
    running = daemon(node)
    with running:
        assert eventually(lambda: "READY=1" in systemd.heard)
    running.manifests.rename(running.manifests.with_name("elsewhere"))
    systemd.forget()
    with running:
        # at once where what was known before is in force again, else after a while
        assert eventually(lambda: "READY=1" in systemd.heard, 40)
        assert eventually(lambda: any(each.startswith("STATUS=degraded") for each in systemd.heard))
        assert any(each.startswith("STATUS=degraded") and "manifests" in each for each in systemd.heard)
        running.manifests.with_name("elsewhere").rename(running.manifests)
        systemd.forget()
        assert eventually(lambda: any(each.startswith("STATUS=enforcing") for each in systemd.heard), 40)


def test_sighup_takes_new_settings_in_and_keeps_the_rules(node: Node, systemd: Systemd) -> None:
    with daemon(node) as running:
        running.write("deny.yaml", DENY_ALL)
        running.wait()
        pid, rules = running.pid, rules_of(node)
        assert "NFLOG" in rules
        settings = node.site.directory / "netpold.toml"
        settings.write_text("nflog_group = 0\n")
        systemd.forget()
        os.kill(pid, signal.SIGHUP)
        assert eventually(systemd.reloaded)
        running.wait()
        assert running.pid == pid and running.running
        rules = rules_of(node)
        assert "NFLOG" not in rules and "deny" in rules
        settings.write_text('nflog_group = "many"\n')
        os.kill(pid, signal.SIGHUP)
        assert eventually(lambda: "many" in " ".join(running.status()["warnings"]))
        assert "the settings on disk are not in force: " in running.errors()
        assert running.running and "NFLOG" not in rules_of(node)
        assert running.stop() == 0


def test_sighup_with_the_same_settings_looks_at_the_files(node: Node, systemd: Systemd, tmp_path: Path) -> None:
    """Also at those of which no event tells: what is written by another name of a file comes from another directory.
    The reload is over when what they say is in force."""
    elsewhere = tmp_path / "deny"
    elsewhere.write_text("# nothing yet\n")
    with daemon(node, "rescan_s = 3600\n") as running:
        (running.manifests / "deny.yaml").hardlink_to(elsewhere)
        running.wait()
        elsewhere.write_text(DENY_ALL)
        systemd.forget()
        os.kill(running.pid, signal.SIGHUP)
        assert eventually(systemd.reloaded)
        assert "x/deny" in rules_of(node)
        assert running.errors().count(f"netpold {__version__} on node") == 1, "it did not start anew"


def test_ready_after_a_reload_is_said_by_who_has_the_new_settings(node: Node, systemd: Systemd) -> None:
    with daemon(node) as running:
        running.write("deny.yaml", DENY_ALL)
        running.wait()
        systemd.forget()
        (node.site.directory / "netpold.toml").write_text("nflog_group = 0\n")
        os.kill(running.pid, signal.SIGHUP)
        assert eventually(systemd.reloaded)
        anew = running.errors().partition("starting anew with other settings")[2]
        assert re.search(r"INFO revision \d+ in ", anew), anew
        assert "STOPPING=1" not in systemd.heard


@pytest.mark.parametrize("gap_s", [0.0, 0.005, 0.02, 0.05])
def test_sigterm_wins_over_a_reload(node: Node, gap_s: float) -> None:
    with daemon(node) as running:
        running.wait()
        (node.site.directory / "netpold.toml").write_text("nflog_group = 0\n")
        os.kill(running.pid, signal.SIGHUP)
        time.sleep(gap_s)
        running.stop(15)


def test_nobody_needs_to_listen(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A systemd that is busy, or gone, holds nothing up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        for path in (tmp_path / "deaf", tmp_path / "nowhere"):
            monkeypatch.setenv("NOTIFY_SOCKET", str(path))
            with daemon(node) as running:
                for number in range(30):  # more than a socket holds
                    running.write("deny.yaml", DENY_ALL.replace("deny", f"deny{number}"))
                    running.wait()
                assert running.stop() == 0


def test_settings_can_be_checked(tmp_path: Path) -> None:
    """As `systemctl reload` does it first, so that it fails where the settings do."""
    settings = tmp_path / "netpold.toml"
    for text, code in (("nflog_group = 1\n", 0), ("nflog_group = true\n", 2)):
        settings.write_text(text)
        command = [PYTHON, "-m", "netpold", "--check-settings", "--config", str(settings)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=30)
        assert done.returncode == code
        assert ("nflog_group" in done.stderr) is bool(code)


def test_the_log_tells_each_change_once(node: Node) -> None:
    with daemon(node) as running:
        running.wait()
        running.write("deny.yaml", DENY_ALL)
        running.wait()
        running.write("wrong.yaml", UNREADABLE)
        running.wait()
        running.write("wrong.yaml", DENY_ALL.replace("deny", "wrong"))
        running.wait()
        log = running.errors()
    assert len(re.findall(r"INFO revision \d+ in [\d.]+ ms: policy x/deny added; ", log)) == 1
    assert (
        len(re.findall(r"wrong.yaml:5:.*NetworkPolicy x/wrong is quarantined, what it selects is isolated", log)) == 1
    )
    assert len(re.findall(r"INFO NetworkPolicy x/wrong is in force as it is written", log)) == 1
    assert log.count("x/deny added") == 1


def test_rules_are_saved_for_the_next_boot_and_a_flush_forgets_them(node: Node) -> None:
    with daemon(node) as running:
        saved = running.state / "snapshot/current/ipv4.rules"
        running.write("deny.yaml", DENY_ALL)
        running.wait()
        assert eventually(lambda: saved.exists() and "deny" in saved.read_text())
        (running.manifests / "deny.yaml").unlink()
        running.wait()
        running.stop()
        assert "deny" not in saved.read_text(), "what changed last is saved at the end"
        running.start()
        running.wait()
        assert running.ctl("flush").returncode == 0
        assert not saved.exists()


def test_a_pod_is_isolated_before_it_is_back(node: Node) -> None:
    """A reboot as the rules see it: the pods are gone, the daemon starts, they come back.  No manifest names a node."""
    address = node.pods[0].address(4)
    with daemon(node) as running:
        running.write("deny.yaml", DENY_ALL)
        running.wait()
        node.run(["ip", "link", "del", node.pods[0].interface])
        assert eventually(lambda: running.status()["pods"]["without_interface"] == 1)
        assert f"-s {address}/32" in rules_of(node)
        running.stop()
        node.run(["iptables-nft", "-F"])
        node.run(["iptables-nft", "-X"])
        running.start()
        running.wait()
        assert f"-s {address}/32" in rules_of(node)
        running.write("pods.json", node.pods[1].manifest(node=False))
        running.wait()
        assert eventually(lambda: address not in rules_of(node))


def test_a_user_with_the_capability_is_enough(node: Node) -> None:
    """As the service runs it; and without the capability, it says what is missing."""
    command = [PYTHON, "-m", "netpold", "--manifests", "/nonexistent"]
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 4
    assert "CAP_NET_ADMIN" in done.stderr
