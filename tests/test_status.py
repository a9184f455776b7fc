"""What status says beyond counts: the git commit, names, drift, and what is in force beside netpold."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from netpold.config import Settings
from netpold.ctl.status import text
from netpold.daemon.status import Audited, Drifted, Status
from netpold.host.git_commit import GitCommit, commit_of
from tests.lab import Backend, Lab
from tests.test_daemon import DENY_ALL, Scene, eventually


def git(directory: Path, *words: str) -> str:
    names = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    people = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names, **people}
    done = subprocess.run(["git", "-C", directory, *words], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    top = tmp_path / "repository"
    (top / "manifests").mkdir(parents=True)
    git(top, "init", "-q", "-b", "release/1")
    (top / "manifests" / "a.yaml").write_text("")
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "first")
    return top


def said(status: Status) -> str:
    return "\n".join(text(json.loads(json.dumps(status.as_json())), datetime.now(UTC)))


def test_what_makes_it_degraded_is_told_once() -> None:
    start = Status.starting(Settings(), "nft")
    status = replace(start, state="degraded", error="the bridge", warnings=("the bridge",))
    assert said(status).count("the bridge") == 1
    failed = replace(status, error="ipset failed")
    states = (start, replace(start, state="enforcing"), status, failed)
    assert [each.is_in_force for each in states] == [False, True, True, False], "the host's doing is none of netpold's"


def test_who_says_that_policies_are_audited() -> None:
    keys, start = ("x/a", "x/b"), Status.starting(Settings(), "nft")
    assert "2 policies in audit mode: x/a, x/b;" in said(replace(start, audited=Audited(keys)))
    for audited, words in (
        (Audited(keys, ("x",)), "(as they say themselves, or as namespace x says)"),
        (Audited(keys, ("x", "y"), True), "or as the namespaces x, y say, or as the settings say of all that say"),
    ):
        assert words in said(replace(start, audited=audited))


def test_no_work_tree(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
    assert commit_of(tmp_path / "absent") is None


def test_the_commit_is_the_one_that_git_names(repository: Path, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    assert commit_of(repository / "manifests") == GitCommit(str(repository), first, "release/1")
    git(repository, "pack-refs", "--all")
    assert commit_of(repository / "manifests") == GitCommit(str(repository), first, "release/1")
    git(repository, "commit", "-q", "--allow-empty", "-m", "second")
    second = git(repository, "rev-parse", "HEAD")
    assert commit_of(repository) == GitCommit(str(repository), second, "release/1"), "the loose ref goes before"
    git(repository, "checkout", "-q", first)
    assert commit_of(repository) == GitCommit(str(repository), first, None)
    link = tmp_path / "current"
    link.symlink_to(repository / "manifests")
    assert commit_of(link) == GitCommit(str(repository), first, None)


def test_a_linked_work_tree(repository: Path, tmp_path: Path) -> None:
    git(repository, "branch", "other")
    git(repository, "pack-refs", "--all")
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"), "other")
    commit = git(repository, "rev-parse", "other")
    assert commit_of(tmp_path / "tree" / "manifests") == GitCommit(str(tmp_path / "tree"), commit, "other")


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert commit_of(tmp_path) is None


@pytest.mark.parametrize(
    "head",
    [
        "",
        "ref: HEAD",
        "ref: ../../secret",
        "ref: /etc/hostname",
        "no hash at all",
        "ref: refs/heads/.invalid",
        "f" * 41,
    ],
)
def test_what_is_no_head_says_nothing(head: str, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "secret").write_text("0" * 40)
    (tmp_path / ".git" / "HEAD").write_text(head)
    assert commit_of(tmp_path) is None


def test_nothing_but_regular_files_is_read(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    assert commit_of(tmp_path) is None
    (tmp_path / ".git" / "HEAD").unlink()
    (tmp_path / ".git" / "HEAD").symlink_to("HEAD")
    assert commit_of(tmp_path) is None


def test_names_come_with_their_number() -> None:
    status = replace(
        Status.starting(Settings(node="n1"), "nft"),
        without_interface=tuple(f"x/p{number}" for number in range(7)),
        without_pod=("veth9",),
        lingering=("x/gone",),
        others=(("legacy", "IPv4"),),
        git=GitCommit("/etc/netpold", "ab" * 20, "main"),
        drift=Drifted(3, "2026-01-31T08:15:30.125Z", ("iptables", "nft")),
    )
    lines = text(status.as_json(), datetime(2026, 1, 31, 8, 16, tzinfo=UTC))
    said = "\n".join(lines)
    assert "7 pods: x/p0, x/p1, x/p2, x/p3, x/p4, ..." in said
    assert "1 pod: x/gone: the manifest is gone, and the interface is still there" in said
    assert "1 interface: veth9" in said and "legacy IPv4" in said
    assert "abababababab, branch main, of /etc/netpold" in said
    assert re.search(r"put back 3 times since the start, last .* \(29 s ago\): iptables, nft had changed it", said)


@pytest.mark.kernel
def test_status_names_what_is_there(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    manifests = scene.daemon.manifests
    git(manifests, "init", "-q", "-b", "main")
    git(manifests, "commit", "-q", "--allow-empty", "-m", "first")
    ghost = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ghost", "namespace": "x"}}
    scene.daemon.write("ghost.json", {**ghost, "spec": {"nodeName": "n1"}, "status": {"podIP": "10.72.0.99"}})
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        status = scene.daemon.status()
        assert status["git"] == {
            "repository": str(manifests),
            "commit": git(manifests, "rev-parse", "HEAD"),
            "branch": "main",
        }
        assert status["without_interface"] == {"count": 1, "names": ["x/ghost"]}
        assert status["interfaces_without_pod"] == {"count": 0, "names": []} and status["drift"] is None
        assert [(each["backend"], each["family"]) for each in status["tables"]] == [
            (backend, "IPv4"),
            (backend, "IPv6"),
        ]
        assert sum(each["rules"] for each in status["tables"]) == sum(status["rules"].values())
        assert sum(each["sets"] for each in status["tables"]) == status["sets"]
        scene.node.routed_pod("x", "d", labels={"app": "d"})
        assert eventually(lambda: scene.daemon.status()["interfaces_without_pod"]["count"] == 1)
        scene.node.iptables(backend, 4, "-F", "NETPOLD-FORWARD")
        assert eventually(lambda: (scene.daemon.status()["drift"] or {}).get("repairs") == 1)
