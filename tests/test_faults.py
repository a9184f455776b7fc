"""Faults from outside, on a real kernel: the daemon is killed at its system calls, its tools fail, memory, processes,
files and disk run out, others hold what it needs.  The old ruleset or the new one is in force, the status says what is
wrong, and it recovers by itself when the fault goes."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

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
        self.strays = [chain for chain in rules if chain.startswith(("NP-", "NETPOLD-")) and chain not in reached]
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
        node = self.scene.node
        found = InForce(node, self.backend)
        text = "".join(node.iptables_save(self.backend, family) for family in (4, 6))
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
    assert kill_at(lab, backend, "daemon", (15, 60, 110, 160, 210)) >= 3


@pytest.mark.slow
def test_killed_at_each_system_call(lab: Lab, backend: Backend) -> None:
    assert kill_at(lab, backend, "daemon", range(1, 2000)) > 100


def test_the_tool_is_killed_at_a_system_call(lab: Lab) -> None:
    assert kill_at(lab, "nft", "iptables-nft-restore", (1, 20, 40)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["iptables-nft-restore", "ip6tables-nft-restore"])
def test_the_tool_is_killed_at_each_system_call(lab: Lab, tool: str) -> None:
    assert kill_at(lab, "nft", tool, range(1, 500)) > 30
