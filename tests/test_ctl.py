"""netpoldctl end to end: real processes, a real control socket, real manifests."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket as sockets
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netpold.config import Settings
from netpold.ctl.client import ask
from netpold.ctl.explain import text as explained
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.verbs import VERBS
from netpold.daemon.control import Control
from netpold.daemon.status import LastApply, PodCounts, PolicyCounts, Status
from netpold.host.kernel.backend import KernelError
from netpold.policy.model import Finding, Position
from netpold.printable import printable

ROOT = Path(__file__).parent.parent
CTL = ("/usr/bin/python3", "-m", "netpold.ctl")
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")

SIX_FIRST = """\
apiVersion: v1
kind: Pod
metadata: {name: six, namespace: shop}
status: {phase: Running, podIP: "fd00::6", podIPs: [{ip: "fd00::6"}, {ip: 10.0.0.6}]}
"""
MANIFESTS = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n2}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: gone, namespace: shop, labels: {app: db}}
status: {phase: Succeeded, podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.9}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from: [{ipBlock: {cidr: 192.0.2.0/24}}]
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 5432}]
"""

BAD = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: bad, namespace: shop}
spec:
  podSelector: {}
  ingres: []
"""


def ctl(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run netpoldctl without a terminal."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    variables.pop("COLUMNS", None) if "COLUMNS" not in environment else None
    return subprocess.run([*CTL, *words], capture_output=True, text=True, env=variables, cwd=ROOT, timeout=60)


@contextlib.contextmanager
def answering(path: Path, says: bytes) -> Iterator[None]:
    """Another program at that socket: it takes the beginning of what one client sends, says that, and hangs up."""

    def serve() -> None:
        with server.accept()[0] as client:
            client.recv(100)
            client.sendall(says)

    with sockets.socket(sockets.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(60)


def in_shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60)


def on_terminal(columns: int, *words: str | Path, **environment: str) -> str:
    """What netpoldctl prints on a terminal of that width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment}
    for name in ("COLUMNS", "NO_COLOR"):
        if name not in environment:
            variables.pop(name, None)
    with subprocess.Popen([*CTL, *words], stdout=slave, stderr=subprocess.PIPE, env=variables, cwd=ROOT):
        os.close(slave)
        chunks = []
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while chunk := os.read(master, 65536):
                chunks.append(chunk)
        os.close(master)
    return b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "shop.yaml").write_text(MANIFESTS)
    return directory


class Daemon:
    """A controlled object with a status of its own; `ready` is what `wait` waits for."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.flushed = 0
        self.refuses = False
        self.now = Status(
            state="enforcing",
            since="2026-01-31T08:15:30.125Z",
            node="n1",
            backend="nft",
            manifests="/etc/netpold",
            revision=7,
            policies=PolicyCounts(3, 1),
            pods=PodCounts(10, 4, 2, 0, 1),
            namespaces=2,
            passed_over={"Service": 5, "Deployment": 1},
            rules={"IPv4": 30, "IPv6": 28},
            sets=6,
            last_apply=LastApply("2026-01-31T08:15:30.125Z", 12.5),
            findings=(
                Finding(
                    Position("/etc/netpold/b.yaml", 9), "host-bits", "spec", "is masked", "write it so", "", "warning"
                ),
                Finding(
                    Position("/etc/netpold/a.yaml", 3, 5), "unknown-field", "spec.x", "is \x1b[31munknown", "delete it"
                ),
            ),
            warnings=("bridge-nf-call-iptables is off: traffic between pods behind a bridge is not filtered",),
        )

    def status(self) -> dict[str, object]:
        return self.now.as_json()

    def wait(self, timeout: float) -> bool:
        return self.ready.wait(timeout)

    def flush(self, who: str) -> None:
        if self.refuses:
            raise KernelError("ipset: no")
        self.flushed += 1

    def ruleset_text(self) -> str:
        return ""


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def socket(tmp_path: Path, daemon: Daemon) -> Iterator[Path]:
    server = Control(tmp_path / "run", daemon)
    server.start()
    yield server.path
    server.close()


class TestCommandLine:
    def test_every_verb_explains_itself(self) -> None:
        listing = ctl("--help")
        assert listing.returncode == 0
        for verb in VERBS:
            assert verb.summary in " ".join(listing.stdout.split())
            assert ctl(verb.name, "--help").returncode == 0

    @pytest.mark.parametrize(
        ("line", "sentence", "hint"),
        [
            ("", "the following arguments are required: COMMAND", "`netpoldctl --help` shows what it takes"),
            ("staus", "there is no command 'staus'", "did you mean status?"),
            ("-o json status", "there is no command 'json'", "`netpoldctl status -o json`"),
            ("status -o xml", "-o/--output can't be 'xml'", "it is one of text, json"),
            ("matrix -o mardkown", "-o/--output can't be 'mardkown'", "did you mean markdown?"),
            ("status now", "netpoldctl status takes no argument 'now'", "`netpoldctl status --help`"),
            ("status --wacht", "netpoldctl status takes no option '--wacht'", "did you mean --watch?"),
            ("wait --timeout soon", "--timeout: 'soon' is not a number of seconds from 0 to 3600", "wait --help"),
            ("wait --timeout -1", "--timeout: '-1' is not a number of seconds from 0 to 3600", "wait --help"),
            ("top --interval 0", "--interval: '0' is not a number of seconds from 0.5 to 3600", "top --help"),
            ("top --interval -1", "--interval: '-1' is not a number of seconds from 0.5 to 3600", "top --help"),
            ("monitor --for 0s", "--for: '0s' is not a time from 1s on", "monitor --help"),
            ("check", "the following arguments are required: DIR", "`netpoldctl check --help`"),
            ("explain a/b c/d", "the following arguments are required: PORT/PROTO", "`netpoldctl explain --help`"),
            ("explain a/b c/d 80-90/TCP", "'80-90/TCP' is no port", "ask about one port of the range"),
        ],
    )
    def test_wrong_usage(self, line: str, sentence: str, hint: str) -> None:
        done = ctl(*line.split())
        assert (done.returncode, done.stdout) == (2, "")
        first, second = done.stderr.splitlines()
        assert first == f"netpoldctl: {sentence}"
        assert second.startswith("hint: ") and hint in second

    @pytest.mark.parametrize("verb", ["status", "wait"])
    def test_no_daemon(self, verb: str, tmp_path: Path) -> None:
        done = ctl("--socket", tmp_path / "absent.sock", verb)
        assert done.returncode == 3
        assert done.stderr.splitlines() == [
            f"netpoldctl: netpold does not run: nobody serves {tmp_path / 'absent.sock'}",
            "hint: start it with `systemctl start netpold`, or name its socket with --socket",
        ]

    @needs_root
    def test_not_permitted(self, socket: Path) -> None:
        words = [*AS_NOBODY, *CTL, "status", "--socket", str(socket)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 4, done.stderr
        assert "hint: run netpoldctl as root" in done.stderr

    @pytest.mark.parametrize(
        ("says", "told"),
        [
            (b"220 smtp\r\n", ": 220 smtp"),
            (b"\x1b[31mred\x07\r\n", r": \x1b[31mred\x07"),
            (b"x" * 5000 + b"\n", ": " + "x" * 60 + "..."),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", ": HTTP status 200 of nobody"),
            (b"HTTP/1.0 404 No\r\nServer: Docker/1\r\n\r\n[]", ": HTTP status 404 of Docker/1"),
            (b"HTTP/1.0 200 OK\r\n\r\n", ": no JSON"),
        ],
    )
    def test_a_socket_that_is_no_netpold(self, says: bytes, told: str, tmp_path: Path) -> None:
        with answering(tmp_path / "s", says):
            done = ctl("status", "--socket", tmp_path / "s")
        assert done.returncode == 3
        first, hint = done.stderr.splitlines()
        assert first == f"netpoldctl: {tmp_path / 's'} does not answer as netpold does{told}"
        assert hint.startswith("hint: see whether --socket")

    @pytest.mark.parametrize(
        ("says", "code", "told"),
        [
            (b"", Exit.NOT_RUNNING, "netpold has ended, or was restarted"),
            (b"HTTP/1.1 200 OK\r\nServer: netpold\r\nContent-Length: 9\r\n\r\n{", Exit.NOT_RUNNING, "has ended"),
            (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", Exit.TIMED_OUT, "too many clients"),
        ],
    )
    def test_a_daemon_that_hangs_up_while_it_is_asked(self, says: bytes, code: Exit, told: str, tmp_path: Path) -> None:
        """More is sent to it than it takes: that is a broken pipe."""
        with answering(tmp_path / "s", says), pytest.raises(Failure, match=told) as failure:
            ask(tmp_path / "s", "POST", "/v1/try", body=b" " * (4 << 20))
        assert failure.value.code == code

    def test_a_daemon_that_ends_before_it_has_answered(self, tmp_path: Path) -> None:
        with answering(tmp_path / "s", b""):
            done = ctl("monitor", "--follow", "--socket", tmp_path / "s")
        assert done.returncode == 3
        assert "netpold has ended, or was restarted" in done.stderr

    def test_too_little_memory_is_no_verdict(self, tmp_path: Path) -> None:
        pod = "{apiVersion: v1, kind: Pod, metadata: {name: p%d, namespace: x}}"
        (tmp_path / "pods.yaml").write_text("\n---\n".join(pod % number for number in range(30_000)))
        program = f"""import resource, sys
from netpold.ctl import check, main
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {5 << 20},) * 2)
sys.exit(main.main(["check", {str(tmp_path)!r}]))"""
        words = [CTL[0], "-c", program]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert done.stderr.splitlines()[-2] == "netpoldctl: there is not enough memory for this"


class TestStatus:
    def test_json(self, socket: Path, daemon: Daemon) -> None:
        done = ctl("--socket", socket, "status", "-o", "json")
        assert done.returncode == 0
        assert json.loads(done.stdout) == daemon.status()

    def test_text(self, socket: Path) -> None:
        done = ctl("status", "--socket", socket, TZ="UTC")
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert lines[0].startswith("netpold is enforcing since 2026-01-31 08:15:30 (")
        for expected in (
            "  node         n1",
            "  policies     3 accepted, 1 rejected",
            "  pods         10 known, 4 on this node, 2 of them isolated, 1 without an interface",
            "  rules        30 IPv4, 28 IPv6; 6 sets",
            "  passed over  1 Deployment, 5 Service",
        ):
            assert expected in lines
        assert lines[-3:] == [
            "warning: bridge-nf-call-iptables is off: traffic between pods behind a bridge is not filtered",
            "/etc/netpold/a.yaml:3:5: error: spec.x: is \\x1b[31munknown; delete it [unknown-field]",
            "/etc/netpold/b.yaml:9:1: warning: spec: is masked; write it so [host-bits]",
        ]
        assert "\x1b" not in done.stdout

    def test_degraded(self, socket: Path, daemon: Daemon) -> None:
        daemon.now = replace(daemon.now, state="degraded", error="ipset refused")
        done = ctl("status", "--socket", socket)
        assert done.returncode == 1
        assert "error: ipset refused" in done.stdout.splitlines()

    def test_just_started(self, socket: Path, daemon: Daemon) -> None:
        daemon.now = Status.starting(Settings(node="n1"), "legacy")
        done = ctl("status", "--socket", socket)
        assert done.returncode == 0
        assert "netpold is starting" in done.stdout
        assert "warning" not in done.stdout

    def test_many_findings_are_cut(self, socket: Path, daemon: Daemon) -> None:
        daemon.now = replace(daemon.now, findings=daemon.now.findings * 100)
        done = ctl("status", "--socket", socket)
        assert done.stdout.splitlines()[-1] == "... and 150 more; `netpoldctl check /etc/netpold` shows all"

    def test_colours_on_a_terminal(self, socket: Path) -> None:
        assert "\x1b[32menforcing" in on_terminal(100, "status", "--socket", socket)
        assert "\x1b" not in on_terminal(100, "status", "--socket", socket, NO_COLOR="1")
        assert "\x1b" not in on_terminal(100, "status", "--socket", socket, TERM="dumb")

    def test_narrow_terminal(self, socket: Path) -> None:
        lines = on_terminal(40, "status", "--socket", socket, NO_COLOR="1").splitlines()
        facts = lines[: lines.index("")]
        assert "  pods         10 known, 4 on this node," in facts
        assert all(len(line) <= 40 for line in facts[1:])

    def test_watch_shows_each_change(self, socket: Path, daemon: Daemon) -> None:
        words = [*CTL, "status", "--watch", "-o", "json", "--socket", str(socket)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout
            assert json.loads(process.stdout.readline())["revision"] == 7
            daemon.now = replace(daemon.now, revision=8)
            assert json.loads(process.stdout.readline())["revision"] == 8
            process.terminate()


class TestWaitAndFlush:
    def test_wait(self, socket: Path, daemon: Daemon) -> None:
        daemon.ready.set()
        done = ctl("wait", "--timeout", "5", "--socket", socket, "-o", "json")
        assert (done.returncode, json.loads(done.stdout)) == (0, {"version": 1, "done": True})

    def test_wait_times_out(self, socket: Path) -> None:
        done = ctl("wait", "--timeout", "0.1", "--socket", socket)
        assert (done.returncode, done.stdout) == (5, "")
        assert "not everything on disk is enforced after 0.1 s" in done.stderr

    def test_flush_through_the_daemon(self, socket: Path, daemon: Daemon) -> None:
        done = ctl("flush", "--socket", socket)
        assert (done.returncode, daemon.flushed) == (0, 1)
        assert "until it is restarted" in done.stdout

    def test_flush_that_the_kernel_refuses(self, socket: Path, daemon: Daemon) -> None:
        daemon.refuses = True
        done = ctl("flush", "--socket", socket)
        assert done.returncode == 1
        assert done.stderr.startswith("netpoldctl: ipset: no\nhint: ")

    @pytest.mark.kernel
    def test_flush_without_a_daemon(self, tmp_path: Path) -> None:
        """In a network namespace of its own, with a chain and a set of netpold's and one of somebody else's."""
        script = (
            "set -e\n"
            "for chain in NETPOLD-FORWARD OTHER; do iptables-nft -N $chain; iptables-nft -A FORWARD -j $chain; done\n"
            "ipset create NP4-x hash:ip; ipset create other hash:ip\n"
            f"{' '.join(CTL)} --socket {tmp_path}/absent flush -o json\n"
            "iptables-nft -S; ipset list -n\n"
        )
        words = ["unshare", "--net", "sh", "-c", script]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 0, done.stderr
        first, *rest = done.stdout.splitlines()
        assert json.loads(first) == {"version": 1, "done": True, "by_daemon": False}
        assert "-A FORWARD -j OTHER" in rest
        assert "other" in rest
        assert not [line for line in rest if "NETPOLD" in line or "NP4" in line]

    @needs_root
    def test_flush_without_a_daemon_and_without_root(self) -> None:
        words = [*AS_NOBODY, *CTL, "flush", "--socket", "/nonexistent"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 4, done.stderr
        assert "hint: run netpoldctl as root" in done.stderr


class TestCheck:
    def test_good(self, manifests: Path) -> None:
        done = ctl("check", manifests)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout == "1 file, 1 policy, 3 pods, 0 namespaces: 0 errors, 0 warnings\n"

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        done = ctl("check", tmp_path / "nowhere")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines() == [
            f"netpoldctl: {tmp_path}/nowhere is not there",
            "hint: name a directory or a file of manifests",
        ]

    @needs_root
    def test_what_may_not_be_read(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(0o700)
        words = [*AS_NOBODY, *CTL, "check", str(closed)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 4
        assert done.stderr.startswith(f"netpoldctl: not permitted to read {closed}\nhint: ")

    def test_bad(self, manifests: Path) -> None:
        bad = manifests / "bad.yaml"
        bad.write_text(BAD)
        done = ctl("check", manifests)
        assert done.returncode == 1
        assert f"{bad}:6:3: error: " in done.stdout
        assert "write `ingress`" in done.stdout
        value = json.loads(ctl("check", manifests, "-o", "json").stdout)
        assert (value["version"], value["files"], value["objects"]["pods"]) == (1, 2, 3)
        assert [(each["file"], each["line"], each["severity"]) for each in value["findings"]] == [
            (str(bad), 6, "error")
        ]
        assert value["findings"][0]["cure"]

    def test_other_kinds_are_counted(self, manifests: Path) -> None:
        kinds = ("Service", "Deployment", "Service")
        (manifests / "others.yaml").write_text("".join(f"---\napiVersion: v1\nkind: {kind}\n" for kind in kinds))
        done = ctl("check", manifests)
        assert (done.returncode, done.stdout.splitlines()[1:]) == (
            0,
            ["passed over, netpold has no use for them: 1 Deployment, 2 Service"],
        )
        value = json.loads(ctl("check", manifests, "-o", "json").stdout)
        assert value["passed_over"] == {"Deployment": 1, "Service": 2}

    def test_single_files(self, manifests: Path) -> None:
        (manifests / "bad.txt").write_text(BAD)
        assert ctl("check", manifests / "shop.yaml").returncode == 0
        assert ctl("check", manifests / "shop.yaml", manifests / "bad.txt").returncode == 1

    def test_a_name_that_cannot_be_printed(self, manifests: Path) -> None:
        (manifests / "shop.yaml").rename(manifests / "a\tb.yaml")
        done = ctl("check", manifests)
        assert done.returncode == 1
        cure = "rename it to printable UTF-8; until then a running netpold goes by what it said before"
        assert cure in done.stdout

    def test_a_git_hook_may_check(self, manifests: Path) -> None:
        """git holds its lock while a pre-commit hook runs."""
        (manifests / ".git").mkdir()
        (manifests / ".git/index.lock").touch()
        assert ctl("check", manifests).returncode == 0

    def test_output_cut_short(self, manifests: Path) -> None:
        for number in range(300):
            (manifests / f"{number}.yaml").write_text(BAD.replace("bad", f"bad{number}"))
        done = in_shell(f"set -o pipefail; {' '.join(CTL)} check {manifests} | head -n 1")
        assert done.stdout.count("\n") == 1
        assert not done.stderr
        assert done.returncode in (1, 128 + signal.SIGPIPE), "as much as was known when head went"

    @pytest.mark.parametrize(
        ("redirected", "code", "told"),
        [
            ("| true", 1, ""),
            (">&-", 2, "standard output is closed"),
            (">/dev/full", 2, "standard output can't be written: No space left on device"),
            ("2>&-", 1, ""),
        ],
    )
    def test_the_verdict_stands_whatever_becomes_of_the_output(
        self, manifests: Path, redirected: str, code: int, told: str
    ) -> None:
        (manifests / "bad.yaml").write_text(BAD)
        done = in_shell(f"set -o pipefail; {' '.join(CTL)} check {manifests} {redirected}")
        assert done.returncode == code
        assert told in done.stderr and "Traceback" not in done.stderr and bool(told) is bool(done.stderr)
        assert ("ingres" in done.stdout) is (redirected == "2>&-")

    @pytest.mark.parametrize("words", ["--help", "--version", "explain --help"])
    def test_nor_is_it_told_by_a_traceback_where_help_is_asked_for(self, words: str) -> None:
        done = in_shell(f"set -o pipefail; {' '.join(CTL)} {words} | true")
        assert not done.stderr and done.returncode in (0, 128 + signal.SIGPIPE)
        done = in_shell(f"{' '.join(CTL)} {words} >/dev/full")
        assert "standard output can't be written" in done.stderr and "Traceback" not in done.stderr
        assert done.returncode == 2


class TestExplain:
    def test_allowed_by_a_rule(self, manifests: Path) -> None:
        done = ctl("explain", "shop/web", "shop/db", "5432/TCP", "--manifests", manifests)
        assert done.returncode == 0, done.stderr
        text = done.stdout
        assert text.startswith("allow  shop/web (10.0.0.1) -> shop/db (10.0.0.2) 5432/TCP\n")
        egress, ingress = text.split("\negress: ")[1].split("\ningress: ")
        assert egress.startswith("allow\n")
        assert "no policy isolates shop/web" in egress
        assert ingress.startswith("allow\n")
        assert f"isolated by  shop/db ({manifests}/shop.yaml:18)" in ingress
        assert f"allowed by   shop/db ingress[1] ({manifests}/shop.yaml:25)" in ingress
        assert "chain        NP-RULES-" in ingress
        assert "rule         -m set" in ingress or "rule         --protocol tcp" in ingress

    def test_denied(self, manifests: Path) -> None:
        done = ctl("--manifests", manifests, "explain", "shop/web", "shop/db", "80/tcp")
        assert done.returncode == 1
        assert done.stdout.startswith("deny  ")
        assert "allowed by    no rule of these policies" in done.stdout
        miss = "nearest miss  shop/db ingress[1] would allow it but for the port: it has 5432/TCP"
        assert f"{miss} ({manifests}/shop.yaml:25)" in done.stdout
        assert "pods app=web in namespace shop; 1 member, 10.0.0.1 is one of them" in done.stdout
        assert "-j DROP" in done.stdout

    def test_json(self, manifests: Path) -> None:
        done = ctl("explain", "shop/web", "shop/db", "5432/TCP", "--manifests", manifests, "-o", "json")
        value = json.loads(done.stdout)
        assert (value["version"], value["verdict"], value["protocol"], value["port"]) == (1, "allow", "TCP", 5432)
        assert value["source"] == {"name": "shop/web", "address": "10.0.0.1"}
        assert value["egress"]["isolating"] == []
        assert value["egress"]["allowed_by"] is None
        assert value["ingress"]["isolating"] == ["shop/db"]
        assert value["ingress"]["allowed_by"] == {
            "policy": "shop/db",
            "direction": "ingress",
            "rule": 1,
            "tier": "NetworkPolicy",
            "action": "Accept",
            "name": "",
            "closed": False,
            "file": str(manifests / "shop.yaml"),
            "line": 25,
        }
        assert value["ingress"]["chain"].startswith("NP-RULES-")
        denied = json.loads(
            ctl("explain", "shop/web", "shop/db", "1/UDP", "--manifests", manifests, "-o", "json").stdout
        )
        assert (denied["verdict"], denied["ingress"]["verdict"], denied["egress"]["verdict"]) == (
            "deny",
            "deny",
            "allow",
        )

    def test_why_it_is_denied(self, manifests: Path) -> None:
        done = ctl("explain", "shop/web", "shop/db", "80/TCP", "--manifests", manifests)
        assert (
            "  because       shop/db is isolated for ingress by shop/db, and no rule of it allows it\n" in done.stdout
        )
        (manifests / "closed.yaml").write_text(
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: faulty, namespace: shop},"
            " spec: {podSelector: {}, ingress: {}}}"
        )
        done = ctl("explain", "shop/web", "shop/db", "80/TCP", "--manifests", manifests)
        because = "by shop/db and shop/faulty, and the manifest of shop/faulty failed the checks, so that it is closed"
        assert f"shop/db is isolated for ingress {because}, and no rule of the others allows it\n" in done.stdout
        done = ctl("explain", "shop/db", "shop/web", "80/TCP", "--manifests", manifests)
        because = "by shop/faulty, whose manifest failed the checks, so that it is closed"
        assert f"shop/web is isolated for ingress {because}\n" in done.stdout

    def test_by_whom_it_is_judged(self, manifests: Path) -> None:
        done = ctl("explain", "shop/web", "shop/db", "5432/TCP", "--manifests", manifests, "-o", "json")
        value = json.loads(done.stdout)
        for node, words in (("n9", "by its own node, n9, not by this one"), (None, "by its own node, not by this one")):
            value["ingress"] |= {"in_force": False, "node": node}
            assert f"  judged       {words}" in explained(value)

    def test_audited(self, manifests: Path) -> None:
        text = MANIFESTS.replace(
            "{name: db, namespace: shop}\nspec:", "{name: db, namespace: shop, annotations: AUDIT}\nspec:"
        )
        (manifests / "shop.yaml").write_text(text.replace("AUDIT", "{netpold.io/mode: audit}"))
        done = ctl("explain", "shop/web", "shop/db", "80/TCP", "--manifests", manifests)
        assert done.returncode == 0, done.stderr
        assert "ingress: allow (audit mode; else it would be denied)\n" in done.stdout
        assert "nearest miss  shop/db ingress[1] would allow it but for the port: it has 5432/TCP" in done.stdout

    @pytest.mark.parametrize(
        ("source", "destination", "port", "code"),
        [
            ("192.0.2.7", "shop/db", "1/TCP", 0),
            ("192.0.3.7", "shop/db", "1/TCP", 1),
            ("10.0.0.1", "10.0.0.2", "5432/TCP", 0),
            ("fd00::1", "shop/db", "5432/TCP", 0),
            ("fd00::7", "shop/db", "5432/TCP", 1),
            ("192.0.2.7", "shop/db", "ICMP", 0),
            ("shop/web", "shop/db", "icmp", 1),
            ("shop/db", "shop/web", "53/udp", 0),
        ],
    )
    def test_addresses_and_protocols(
        self, manifests: Path, source: str, destination: str, port: str, code: int
    ) -> None:
        done = ctl("explain", source, destination, port, "--manifests", manifests)
        assert done.returncode == code, done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("words", "fault", "hint"),
        [
            (("shop/wep", "shop/db", "1/TCP"), "no manifest declares the pod shop/wep", "did you mean shop/web"),
            (("shop/gone", "shop/db", "1/TCP"), "the pod shop/gone has finished", ""),
            (
                ("10.0.0.1", "fd00::2", "1/TCP"),
                "10.0.0.1 and fd00::2 have no address of the same family",
                "ask with addresses of the same family",
            ),
            (("10.0.0.0/8", "shop/db", "1/TCP"), "10.0.0.0/8 is a block of addresses", "ask about one address of it"),
            (("fe80::1%eth0", "shop/db", "1/TCP"), "'fe80::1%eth0' has a zone", "leave out the %"),
            (("fe80::1", "shop/db", "1/TCP"), "fe80::1 is a link-local address", "ask about the pod"),
            (("shop/db", "febf::1", "1/TCP"), "febf::1 is a link-local address", "by another address"),
            (("web", "shop/db", "1/TCP"), "'web' is neither an address nor namespace/pod", ""),
            (("shop/web", "shop/db", "80"), "'80' is no port", "80/TCP"),
            (("shop/web", "shop/db", "http/TCP"), "'http/TCP' is no port", "number"),
            (("shop/web", "shop/db", "80/ICMP"), "'80/ICMP' is no port", "ICMP without a port"),
            (("shop/web", "shop/db", "0/TCP"), "'0/TCP' is no port", "1 to 65535"),
            (("shop/web", "shop/db", "65536/TCP"), "'65536/TCP' is no port", "1 to 65535"),
        ],
    )
    def test_wrong_questions(self, manifests: Path, words: tuple[str, ...], fault: str, hint: str) -> None:
        done = ctl("explain", *words, "--manifests", manifests)
        assert (done.returncode, done.stdout) == (2, "")
        first, second = done.stderr.splitlines()
        assert first.startswith(f"netpoldctl: {fault}")
        assert second.startswith("hint: ")
        assert hint in second

    def test_bad_manifests_are_said_on_standard_error(self, manifests: Path) -> None:
        (manifests / "bad.yaml").write_text(BAD)
        done = ctl("explain", "shop/db", "shop/web", "1/TCP", "--manifests", manifests, "-o", "json")
        assert json.loads(done.stdout)["verdict"] == "deny"  # quarantined: it isolates what it may select
        assert "bad.yaml:6:3: error" in done.stderr
        assert f"1 error, 0 warnings in {manifests}" in done.stderr


class TestMatrix:
    def test_json(self, manifests: Path) -> None:
        done = ctl("matrix", "--ports", "5432/TCP,80/TCP", "--manifests", manifests, "-o", "json")
        value = json.loads(done.stdout)
        assert (done.returncode, value["version"]) == (0, 1)
        rows = {(row["source"], row["destination"], row["port"]): row["verdict"] for row in value["rows"]}
        assert rows == {
            ("shop/db", "shop/db", 5432): "allow",
            ("shop/db", "shop/db", 80): "allow",
            ("shop/db", "shop/web", 5432): "allow",
            ("shop/db", "shop/web", 80): "allow",
            ("shop/web", "shop/db", 5432): "allow",
            ("shop/web", "shop/db", 80): "deny",
            ("shop/web", "shop/web", 5432): "allow",
            ("shop/web", "shop/web", 80): "allow",
        }
        assert value["rows"][0]["families"] == {"IPv4": "allow", "IPv6": "allow"}

    def test_verdict_is_of_the_family_that_explain_judges(self, tmp_path: Path) -> None:
        (tmp_path / "all.yaml").write_text(MANIFESTS.replace("{cidr: 192.0.2.0/24}", '{cidr: "fd00::/64"}'))
        (tmp_path / "six.yaml").write_text(SIX_FIRST)
        done = ctl("matrix", "--ports", "80/TCP", "--manifests", tmp_path, "-o", "json")
        rows = {(row["source"], row["destination"]): row for row in json.loads(done.stdout)["rows"]}
        for source, verdict in (("shop/web", "deny"), ("shop/six", "allow")):
            row = rows[source, "shop/db"]
            assert (row["verdict"], row["families"]) == (verdict, {"IPv4": "deny", "IPv6": "allow"})
            asked = ctl("explain", source, "shop/db", "80/TCP", "--manifests", tmp_path, "-o", "json")
            assert json.loads(asked.stdout)["verdict"] == verdict

    def test_agrees_with_explain(self, manifests: Path) -> None:
        words = ("matrix", "--ports", "5432/TCP,ICMP", "--addresses", "192.0.2.1,fd00::99", "--manifests", manifests)
        rows = json.loads(ctl(*words, "-o", "json").stdout)["rows"]
        assert len(rows) == 2 * (4 + 8)
        for row in rows[::3]:
            port = "ICMP" if row["protocol"] == "ICMP" else f"{row['port']}/{row['protocol']}"
            done = ctl("explain", row["source"], row["destination"], port, "--manifests", manifests)
            assert done.stdout.startswith(row["verdict"]), row

    def test_text(self, manifests: Path) -> None:
        done = ctl("matrix", "--ports", "80/TCP", "--addresses", "192.0.2.1", "--manifests", manifests)
        assert done.stdout.splitlines() == [
            "80/TCP  5 of 6 pairs pass",
            "from \\ to  shop/db  shop/web  192.0.2.1",
            "shop/db    allow    allow     allow",
            "shop/web   deny     allow     allow",
            "192.0.2.1  allow    allow     -",
            "",
        ]

    def test_narrow_terminal(self, manifests: Path) -> None:
        """The table takes 28 columns."""
        words = ("matrix", "--ports", "80/TCP", "--manifests", manifests)
        wide = on_terminal(28, *words)
        assert wide.splitlines()[2:4] == [
            "shop/db    \x1b[32mallow  \x1b[0m  \x1b[32mallow   \x1b[0m",
            "shop/web   \x1b[31mdeny   \x1b[0m  \x1b[32mallow   \x1b[0m",
        ]
        assert on_terminal(27, *words, NO_COLOR="1").splitlines() == [
            "80/TCP  1 of 2 pairs pass",
            "            12",
            "shop/db  1  ●●",
            "shop/web 2  ·●",
            "● passes  · does not",
            "",
        ]
        assert on_terminal(13, *words, NO_COLOR="1").splitlines() == [
            "80/TCP  1 of 2 pairs pass",
            "  shop/db   reaches all",
            "  shop/web  reaches nobody",
            "",
        ]

    def test_what_is_chosen(self, manifests: Path) -> None:
        words = ("matrix", "--manifests", manifests, "-o", "csv", "--ports", "80/TCP")
        assert len(ctl(*words, "--namespace", "shop").stdout.splitlines()) == 1 + 4
        assert ctl(*words, "--pods", "*/db").stdout.splitlines()[1:] == ["shop/db,shop/db,TCP,80,allow,allow,allow,"]
        assert len(ctl(*words, "--node", "n1", "--addresses", "192.0.2.1,192.0.2.1").stdout.splitlines()) == 1 + 3
        some = (("--namespace", "shpo"), ("--namespace", "shop,shpo"), ("--pods", "shop/x*"), ("--node", "n3"))
        for option, names in some:
            done = ctl(*words, option, names)
            chosen = names.removeprefix("shop,")
            assert (done.returncode, done.stdout) == (2, "")
            assert chosen in done.stderr.splitlines()[0] and done.stderr.splitlines()[1].startswith("hint: ")

    def test_ports_are_those_that_are_named(self, manifests: Path) -> None:
        value = json.loads(ctl("matrix", "--manifests", manifests, "-o", "json").stdout)
        assert {(row["protocol"], row["port"]) for row in value["rows"]} == {("TCP", 5432)}

    @pytest.mark.parametrize(
        ("form", "begins"), [("html", "<!doctype html>"), ("svg", "<svg "), ("dot", "digraph"), ("markdown", "### ")]
    )
    def test_other_forms(self, manifests: Path, form: str, begins: str) -> None:
        done = ctl("matrix", "--manifests", manifests, "-o", form)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(begins)


class TestRender:
    def test_text_is_what_iptables_takes(self, manifests: Path) -> None:
        done = ctl("render", "--manifests", manifests)
        assert done.returncode == 0
        assert "create NP4-" in done.stdout
        assert "-A NETPOLD-FORWARD" in done.stdout

    def test_json(self, manifests: Path) -> None:
        value = json.loads(ctl("render", "--manifests", manifests, "-o", "json").stdout)
        assert value["version"] == 1
        assert value["hooks"]["FORWARD"] == "NETPOLD-FORWARD"
        assert set(value["chains"]) == {"IPv4", "IPv6"}
        members = [set(each["members"]) for each in value["sets"].values()]
        assert {"10.0.0.1"} in members
        assert {"fd00::1"} in members

    def test_one_node(self, manifests: Path) -> None:
        """Only the isolated pod's node has rules for it."""
        here = ctl("render", "--manifests", manifests, "--node", "n2").stdout
        elsewhere = ctl("render", "--manifests", manifests, "--node", "n1").stdout
        assert "NP-RULES-" in here
        assert "NP-RULES-" not in elsewhere


class TestSettings:
    def test_wrong_settings_are_no_traceback(self, manifests: Path, tmp_path: Path) -> None:
        """In a mount namespace of its own, where /etc is ours."""
        (tmp_path / "etc/netpold").mkdir(parents=True)
        (tmp_path / "etc/netpold/netpold.toml").write_text("acept = true\n")
        words = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"mount --bind {tmp_path}/etc /etc && exec {' '.join(CTL)} check {manifests}",
        ]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "netpoldctl: /etc/netpold/netpold.toml: acept: there is no such setting",
            "hint: did you mean accept?",
        ]


def test_nothing_that_a_terminal_would_obey() -> None:
    assert printable("a\x1b[2Jb\u202e\nü") == "a\\x1b[2Jb\\u202e\\nü"
