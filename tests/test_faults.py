"""Faults from outside, on a real kernel: the daemon is killed at its system calls, its tools fail, memory, processes,
files and disk run out, others hold what it needs.  The old ruleset or the new one is in force, the status says what is
wrong, and it recovers by itself when the fault goes."""

from __future__ import annotations

import fcntl
import json
import operator
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from netpold.daemon.isolate import Trials
from netpold.host.kernel import ipset
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import Nft
from netpold.policy.model import Direction
from netpold.rules.plan import Installed, plan
from netpold.rules.ruleset import InSet, IPSet, Origin, Proto, Rule, Ruleset
from tests.bench.soak import Soak, grew
from tests.lab import Backend, Lab
from tests.lab.daemon import Daemon
from tests.lab.node import Node
from tests.ptraced import Traced
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually, policy

pytestmark = pytest.mark.kernel

C_TO_B = policy(
    "a-to-b",
    """  podSelector: {matchLabels: {app: b}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: c}}}, {ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]
    ports: [{port: 80}, {port: 81, endPort: 90, protocol: UDP}]
""",
)
C_OUT = policy(
    "c-out",
    """  podSelector: {matchLabels: {app: c}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: b}}}]
""",
)


class InForce:
    """What packets meet: the chains that are reached, each set by what it holds, per family; and all own names."""

    def __init__(self, node: Node, backend: Backend) -> None:
        self._sets: dict[str, str] = {}
        held: dict[str, list[str]] = {}
        for line in node.ipset_save().splitlines():
            words = line.split()
            if words[0] == "create":
                held[words[1]] = []
            else:
                held[words[1]].append(" ".join(words[2:]).split(" packets")[0])
        self.strays: list[str] = []
        self.families = tuple(self._family(node.iptables_save(backend, family), held) for family in (4, 6))
        self.sets = set(held)

    def _family(self, saved: str, held: dict[str, list[str]]) -> str:
        rules: dict[str, list[str]] = {}
        for line in saved.splitlines():
            if line.startswith(":"):
                rules[line[1:].split()[0]] = []
            elif line.startswith("-A "):
                rules[line.split()[1]].append(line)
        reached, waiting = set(), ["INPUT", "FORWARD", "OUTPUT"]
        while waiting:
            chain = waiting.pop()
            if chain in rules and chain not in reached:
                reached.add(chain)
                waiting += re.findall(r"-[jg] (\S+)", "\n".join(rules[chain]))
        self.strays += [chain for chain in rules if chain.startswith(("NP-", "NETPOLD-")) and chain not in reached]
        text = "\n".join(line for chain in sorted(reached) for line in rules[chain])
        used = set(re.findall(r"NP[46]-\S+", text))
        for name in sorted(used, key=len, reverse=True):
            kind = "counts" if "DROPPED" in name or "SPOOFED" in name else f"{{{' '.join(sorted(held[name]))}}}"
            text = text.replace(f" {name} ", f" {kind} ")
        return text


class Change:
    """One change that touches several policies, sets and pods, back and forth."""

    def __init__(self, scene: Scene, backend: Backend) -> None:
        self.scene, self.backend = scene, backend
        pods = [pod.manifest(node=False) for pod in (scene.a, scene.b, scene.c)]
        self.old = (DENY_ALL, A_TO_B, A_OUT, *pods)
        moved = json.loads(json.dumps(pods[0]))
        moved["metadata"]["labels"]["app"] = "c"
        self.new = (DENY_ALL, C_TO_B, C_OUT, moved, *pods[1:])
        (scene.daemon.manifests / "pods.json").unlink()

    def enforce(self, objects: Sequence[object]) -> tuple[str, ...]:
        """What is then in force, once nothing is left over."""
        daemon = self.scene.daemon
        daemon.write("all.yaml", *objects)
        if not daemon.running:
            daemon.start()
        daemon.wait(30)
        assert eventually(lambda: not self.left_over(), 15), self.left_over()
        return InForce(self.scene.node, self.backend).families

    def left_over(self) -> list[str]:
        return self.left_over_of(self.scene.node, self.backend)

    @staticmethod
    def left_over_of(node: Node, backend: Backend) -> list[str]:
        """Chains that nothing leads to, and sets that no rule looks up."""
        found = InForce(node, backend)
        text = "".join(node.iptables_save(backend, family) for family in (4, 6))
        return [*found.strays, *(name for name in found.sets if f" {name} " not in text)]


def cut(change: Change, old: tuple[str, ...], new: tuple[str, ...], which: str, at: int) -> bool:
    """Kill the daemon, or its tool of a family, at that stop; False: it did not come to that."""
    daemon = change.scene.daemon
    traced = Traced(daemon.pid if which == "daemon" else _tool(daemon, which))
    try:
        daemon.write("all.yaml", *change.new)
        reached = traced.run(lambda stops: stops >= at, 3)
    finally:
        traced.kill()
    if which == "daemon":
        daemon.kill()
        now = InForce(change.scene.node, change.backend).families
        for family, (before, after) in enumerate(zip(old, new, strict=True)):
            assert now[family] in (before, after), f"a mix at stop {at}"
        daemon.start()
    daemon.wait(30)
    assert InForce(change.scene.node, change.backend).families == new
    assert eventually(lambda: not change.left_over(), 15), change.left_over()
    return reached >= at


def _tool(daemon: Daemon, program: str) -> int:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")
            name = Path(path.parent, "cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if int(words[2].split()[1]) == daemon.pid and Path(name).name == program:
            return int(path.parent.name)
    raise LookupError(program)


def kill_at(lab: Lab, backend: Backend, which: str, points: Sequence[int]) -> int:
    """Kill it at each of these stops; how many were reached."""
    scene = Scene(lab, backend)
    change = Change(scene, backend)
    with scene.daemon:
        old = change.enforce(change.old)
        new = change.enforce(change.new)
        assert old[0] != new[0]
        assert old[1] != new[1]
        reached = 0
        for at in points:
            assert change.enforce(change.old) == old
            if not cut(change, old, new, which, at):
                break
            reached += 1
        return reached


def test_killed_at_a_system_call_the_old_rules_or_the_new_ones_are_in_force(lab: Lab, backend: Backend) -> None:
    assert kill_at(lab, backend, "daemon", (40, 150)) == 2


@pytest.mark.slow
def test_killed_at_each_system_call(lab: Lab, backend: Backend) -> None:
    assert kill_at(lab, backend, "daemon", range(1, 2000)) > 100


def test_the_tool_is_killed_at_a_system_call(lab: Lab) -> None:
    assert kill_at(lab, "nft", "iptables-nft-restore", (20,)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["iptables-nft-restore", "ip6tables-nft-restore"])
def test_the_tool_is_killed_at_each_system_call(lab: Lab, tool: str) -> None:
    assert kill_at(lab, "nft", tool, range(1, 500)) > 30


# Tools that fail ------------------------------------------------------------------------------------------------------

TOOLS = ("iptables-nft-restore", "ip6tables-nft-restore")


class Faulty(Scene):
    """A scene in which a script stands in front of the tools; it does what `fault` says, if anything, and counts."""

    def __init__(self, lab: Lab, backend: Backend = "nft", config: str = "") -> None:
        super().__init__(lab, backend, config=config)
        self._bin = self.node.site.directory / "bin"
        self._bin.mkdir()
        for tool in TOOLS:
            script = self._bin / tool
            fault = f"[ ! -s {self._bin}/fault ] || {{ echo >>{self._bin}/count; . {self._bin}/fault; }}"
            script.write_text(f'#!/bin/bash\n{fault}\nexec /usr/sbin/{tool} "$@"\n')
            script.chmod(0o755)
        self.node.environment["PATH"] = f"{self._bin}:{os.environ['PATH']}"

    def fault(self, script: str) -> None:
        """From now on; what is kept open is gone."""
        draft = self._bin / "draft"
        draft.write_text(script)
        draft.replace(self._bin / "fault")
        for tool in TOOLS if self.daemon.running else ():
            for pid in _children(self.daemon.pid):
                if tool in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)

    @property
    def count(self) -> int:
        """How often the script was started with a fault."""
        path = self._bin / "count"
        return len(path.read_text()) if path.exists() else 0

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.daemon.ctl("status", "-o", "json").stdout)
        return status

    def held(self) -> tuple[int, int]:
        """Open files and children of the daemon."""
        return len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir())), len(_children(self.daemon.pid))

    def held_at_rest(self) -> tuple[int, int]:
        """The same when it has not changed for two seconds: databases are opened when there is something to write."""
        held, since, end = self.held(), time.monotonic(), time.monotonic() + 30
        while time.monotonic() < min(since + 2, end):
            time.sleep(0.1)
            if self.held() != held:
                held, since = self.held(), time.monotonic()
        return held


def refuse(*patterns: str) -> str:
    """A tool that refuses what has one of these in it."""
    found = " ".join(f"-e '{each}'" for each in patterns)
    said = "line 7: RULE_APPEND failed (Invalid argument): rule in chain X"
    return (
        f'input=$(cat); if grep -q {found} <<<"$input"; then echo "{said}" >&2; exit 4; fi; '
        'exec /usr/sbin/${0##*/} "$@" <<<"$input"'
    )


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'no luck' >&2; exit 1", "no luck"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("yes 'nothing but words' | head -c 20000000; exit 3", "exit code 3"),
        ("yes 'nothing but words' | head -c 20000000 >&2; exit 3", "nothing but words"),
        pytest.param("exec sleep 1000", "for the kernel's rules or their tool|did not finish", marks=pytest.mark.slow),
    ],
    ids=["fails", "crashes", "prints", "complains", "hangs"],
)
def test_a_tool_that_fails_leaves_the_old_rules_and_the_daemon_recovers_with_it(
    lab: Lab, script: str, said: str
) -> None:
    scene = Faulty(lab)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        scene.enforce(allow=A_TO_B)
        held = scene.held_at_rest()
        scene.fault(script)
        scene.daemon.write("out.yaml", A_OUT)
        assert eventually(lambda: scene.state() == "degraded", 15)
        status = scene.status()
        assert re.search(said, status["error"])
        assert len(status["error"]) < 1000
        assert not scene.passes(scene.a, scene.b)
        assert eventually(lambda: scene.count >= 3, 40)
        assert scene.status()["policies"]["rejected"] == 0
        assert scene.count <= 20  # some attempts, with pauses, each of one or two starts and a trial
        scene.fault("")
        assert eventually(lambda: scene.state() == "enforcing", 40)
        assert scene.status()["error"] is None
        assert scene.passes(scene.a, scene.b)
        assert eventually(lambda: all(map(operator.le, scene.held(), held)), 10), (held, scene.held())
        assert eventually(lambda: not Change.left_over_of(scene.node, "nft"), 10)


def test_a_policy_that_the_kernel_refuses_is_quarantined_and_everything_else_enforced(lab: Lab) -> None:
    scene = Faulty(lab)
    bad = policy("bad", "  podSelector: {matchLabels: {app: c}}\n  ingress: [{ports: [{port: 6666}]}]\n")
    worse = policy("worse", "  podSelector: {matchLabels: {app: c}}\n  ingress: [{}, {ports: [{port: 7777}]}]\n")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        scene.fault(refuse("6666", "x/worse"))
        for name, text in {"allow": A_TO_B, "out": A_OUT, "bad": bad, "worse": worse}.items():
            scene.daemon.write(f"{name}.yaml", text)
        scene.daemon.wait(40)
        status = scene.status()
        assert status["policies"] == {"accepted": 3, "rejected": 2}
        assert status["state"] == "degraded"
        found = {each["subject"]: each for each in status["findings"]}
        assert found.keys() == {"NetworkPolicy x/bad", "NetworkPolicy x/worse"}
        assert found["NetworkPolicy x/bad"]["file"].endswith("bad.yaml")
        assert found["NetworkPolicy x/bad"]["path"] == "spec.ingress[0]"
        assert "Invalid argument" in found["NetworkPolicy x/bad"]["fault"]
        assert scene.passes(scene.a, scene.b)
        assert not scene.passes(scene.a, scene.c)
        text = "".join(scene.node.iptables_save("nft", family) for family in (4, 6))
        assert "~" not in text
        # a policy that is another one is tried at once; the rest by itself
        scene.enforce(bad=bad.replace("6666", "6667"))
        assert scene.status()["policies"] == {"accepted": 4, "rejected": 1}
        scene.fault("")
        assert eventually(lambda: scene.state() == "enforcing", 30)
        assert scene.status()["policies"] == {"accepted": 5, "rejected": 0}
        assert eventually(lambda: not Change.left_over_of(scene.node, "nft"), 10)


def test_the_last_good_version_stays_where_the_kernel_refuses_a_later_one(lab: Lab) -> None:
    scene = Faulty(lab)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        scene.fault(refuse("6666"))
        scene.enforce(allow=A_TO_B.replace("port: 80}", "port: 6666}", 1))
        assert "last good version" in scene.status()["findings"][0]["fault"]
        assert scene.passes(scene.a, scene.b)
        (scene.daemon.manifests / "allow.yaml").unlink()
        scene.daemon.wait(20)
        assert scene.state() == "enforcing"
        assert not scene.passes(scene.a, scene.b)


def test_a_restart_keeps_what_was_in_force_where_the_kernel_refuses_a_later_version(lab: Lab) -> None:
    scene = Faulty(lab)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        scene.fault(refuse("6666"))
        scene.enforce(allow=A_TO_B.replace("port: 80}", "port: 6666}", 1))
        for _ in range(2):
            scene.daemon.stop()
            scene.daemon.start()
            scene.daemon.wait(40)
            assert "last good version" in scene.status()["findings"][0]["fault"]
            assert scene.passes(scene.a, scene.b)


@pytest.mark.slow
def test_a_pod_whose_interface_the_kernel_refuses_is_enforced_by_address(lab: Lab) -> None:
    scene = Faulty(lab)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        scene.fault(refuse(f"NP-[A-Z]*-{scene.a.interface}"))
        scene.enforce(allow=A_TO_B, out=A_OUT)
        scene.node.iptables("nft", 4, "-F", f"NP-IN-{scene.a.interface}")
        assert eventually(lambda: scene.state() == "degraded", 30)
        assert eventually(lambda: bool(scene.status()["findings"]), 30)
        (found,) = scene.status()["findings"]
        assert found["subject"] == "Pod x/a"
        assert scene.a.interface in found["fault"]
        assert scene.passes(scene.a, scene.b)
        assert not scene.passes(scene.b, scene.a)


def test_a_set_that_the_kernel_refuses_leads_to_its_policies(lab: Lab, backend: Backend) -> None:
    node = lab.node("n1")
    bad = IPSet("NP4-bad", 4, "hash:net", "everything", frozenset(("0.0.0.0/0",)), None)  # which the kernel takes not
    good = IPSet("NP4-good", 4, "hash:ip", "one", frozenset(("192.0.2.1",)))
    rules = tuple(
        Rule((InSet(each.name, "src"), Proto("tcp")), "RETURN", key, Origin(key, Direction.INGRESS, 0))
        for each, key in ((good, "x/good"), (bad, "x/bad"))
    )
    ruleset = Ruleset({4: {"NP-RULES-a": rules}, 6: {}}, {each.name: each for each in (bad, good)}, {})
    with node.netns.entered():
        kernel = Nft() if backend == "nft" else Legacy()
        trials = Trials(kernel, lambda: None)
        try:
            (found,) = trials.culprits(plan(Installed(), ruleset))
            assert (found.policy, found.ipset) == ("x/bad", bad)
            assert "0.0.0.0/0" in found.said
            assert trials.is_refused(found)
            assert not ipset.names() - trials.take_left()
            assert not kernel.chains(4)
        finally:
            kernel.close()


# The machine ----------------------------------------------------------------------------------------------------------


def test_a_lock_that_another_holds_is_named_and_waited_for(lab: Lab) -> None:
    scene = Faulty(lab, "legacy")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B)
        with Path(scene.node.environment["XTABLES_LOCKFILE"]).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            scene.daemon.write("out.yaml", A_OUT)
            assert eventually(lambda: scene.state() == "degraded", 20)
            assert eventually(lambda: f"(process {os.getpid()})" in scene.status()["error"], 20)
            assert not scene.passes(scene.a, scene.b)
        assert eventually(lambda: scene.state() == "enforcing", 20)
        assert scene.passes(scene.a, scene.b)


def test_a_set_that_another_program_uses_stays_until_it_is_free(lab: Lab) -> None:
    scene = Faulty(lab, config="rescan_s = 1\n")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B)
        name = next(
            line.split()[1]
            for line in scene.node.ipset_save().splitlines()
            if line.startswith("add NP4-") and "DROPPED" not in line and "SPOOFED" not in line
        )
        rule = ("OUTPUT", "-m", "set", "--match-set", name, "dst")
        scene.node.iptables("nft", 4, "-A", *rule)
        (scene.daemon.manifests / "allow.yaml").unlink()
        scene.daemon.wait(20)
        scene.enforce(allow=A_TO_B, out=A_OUT)
        assert scene.passes(scene.a, scene.b)
        (scene.daemon.manifests / "allow.yaml").unlink()
        scene.daemon.wait(20)
        assert scene.state() == "enforcing"
        scene.node.iptables("nft", 4, "-D", *rule)
        assert eventually(lambda: name not in scene.node.ipset_save(), 15)


@pytest.mark.slow
def test_a_full_disk_is_a_warning_and_nothing_else(lab: Lab) -> None:
    scene = Faulty(lab)
    state = scene.daemon.state
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", state], check=True)
    try:
        with (state / "full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
            while True:
                full.write(bytes(4096))
        with scene.daemon:
            scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
            assert scene.passes(scene.a, scene.b)
            assert eventually(lambda: bool(scene.status()["warnings"]), 15)
            assert scene.state() == "enforcing"
            subprocess.run(["mount", "-o", "remount,size=10m", state], check=True)
            scene.enforce(extra=policy("extra", "  podSelector: {matchLabels: {app: c}}\n"))
            assert eventually(lambda: not scene.status()["warnings"], 50), scene.status()["warnings"]
    finally:
        subprocess.run(["umount", "-l", state], check=True)


@contextmanager
def injected(pid: int, what: str) -> Iterator[None]:
    """All threads of a process get that error of these system calls (strace(1), --inject)."""
    tracer = subprocess.Popen(
        ["strace", "-f", "-q", "-o", "/dev/null", "-p", str(pid), f"--inject={what}", f"--trace={what.split(':')[0]}"],
        stderr=subprocess.PIPE,
    )
    try:
        assert eventually(lambda: "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text(), 10)
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("clone,clone3,fork,vfork:error=EAGAIN", "Resource temporarily unavailable"),
        ("clone,clone3,fork,vfork:error=ENOMEM", "Cannot allocate memory"),
        ("pipe2:error=EMFILE", "Too many open files"),
        ("socket:error=ENOBUFS", "No buffer space"),
    ],
    ids=["no process", "no memory", "no files", "no buffers"],
)
def test_what_the_machine_can_not_do_is_said_and_tried_again(lab: Lab, what: str, said: str) -> None:
    scene = Faulty(lab)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B)
        scene.fault("")
        with injected(scene.daemon.pid, what):
            scene.daemon.write("out.yaml", A_OUT)
            assert eventually(lambda: said in (scene.status()["error"] or ""), 15), scene.daemon.errors()
            assert scene.state() == "degraded"
            assert scene.status()["policies"]["rejected"] == 0
            assert not scene.passes(scene.a, scene.b)
        assert eventually(lambda: scene.state() == "enforcing", 20)
        assert scene.passes(scene.a, scene.b)


def test_no_more_files_may_be_opened(lab: Lab, backend: Backend) -> None:
    scene = Faulty(lab, backend)
    with scene.daemon, ExitStack() as clients:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B)
        files = Path(f"/proc/{scene.daemon.pid}/fd")
        limit = resource.prlimit(scene.daemon.pid, resource.RLIMIT_NOFILE)
        full = max(int(file.name) for file in files.iterdir()) + 1
        resource.prlimit(scene.daemon.pid, resource.RLIMIT_NOFILE, (full, limit[1]))
        while len(list(files.iterdir())) < full:  # connections that ask nothing fill it up
            clients.enter_context(socket.socket(socket.AF_UNIX)).connect(str(scene.daemon.socket))
            time.sleep(0.05)
        scene.daemon.write("out.yaml", A_OUT)
        for _ in range(3):
            assert scene.status()["rules"]["IPv4"]  # it answers
            assert not scene.passes(scene.b, scene.a)
        assert "Too many open files" in scene.daemon.errors()
        resource.prlimit(scene.daemon.pid, resource.RLIMIT_NOFILE, limit)
        assert eventually(lambda: scene.state() == "enforcing", 40), scene.daemon.errors()
        assert eventually(lambda: scene.passes(scene.a, scene.b), 10)


# A file system whose server never answers: mounted by a process that has its device open, and does nothing with it.
DEAF = """
import ctypes, os, sys, time
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
if ctypes.CDLL(None, use_errno=True).mount(b"deaf", sys.argv[1].encode(), b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
print(flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_file_system_that_does_not_answer_is_told(lab: Lab) -> None:
    scene = Faulty(lab)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B)
        inside = ["nsenter", "-t", str(scene.daemon.pid), "-m"]
        command = [*inside, sys.executable, "-c", DEAF, str(scene.daemon.manifests)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout and server.stderr
                assert server.stdout.readline(), server.stderr.read()
                assert eventually(lambda: "does not answer" in (scene.status()["error"] or ""), 30)
                assert not scene.passes(scene.b, scene.a)
            finally:
                server.kill()
        subprocess.run([*inside, "umount", "-l", str(scene.daemon.manifests)], check=True)
        assert eventually(lambda: scene.state() == "enforcing", 60)


def test_what_is_in_force_is_told_from_the_start_on(lab: Lab, backend: Backend) -> None:
    scene = Faulty(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B)
        before = scene.status()
        scene.daemon.kill()
        scene.daemon.manifests.rename(scene.daemon.manifests.with_name("away"))
        scene.daemon.start()
        assert eventually(lambda: bool(scene.daemon.ctl("status", "-o", "json").stdout), 15)  # a socket is left behind
        assert eventually(lambda: scene.state() == "degraded", 15)
        assert scene.status()["rules"] == before["rules"]
        assert scene.status()["sets"] == before["sets"]


def test_nothing_grows_with_the_number_of_changes(lab: Lab) -> None:
    node = lab.node("soak")
    daemon = Daemon(node, "nft")
    soak = Soak(node, daemon, random.Random(1), 20)
    with daemon:
        samples = list(soak.run(40, 6))
        assert not grew(samples), samples
        assert daemon.status()["state"] == "enforcing"
