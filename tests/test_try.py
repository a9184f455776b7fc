"""Policies that are tried: in force for a while, and then, however it ends, what is written is in force again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.daemon.questions import NoAnswer
from netpold.daemon.tryout import Tryout, read
from netpold.policy.changes import Changes
from netpold.policy.instead import Instead
from netpold.policy.model import Position, World
from tests.lab import Backend, Lab
from tests.lab.daemon import Daemon
from tests.live import Live
from tests.strategies import EVERYTHING_GOES, histories, worlds
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually, policy

# What is shown ------------------------------------------------------------------------------------------------------


def shown(written: World, tried: World | None) -> World:
    if tried is None:
        return World(dict(written.pods), dict(written.namespaces), dict(written.policies), dict(written.nodes))
    namespaces = {**written.namespaces, **tried.namespaces}
    return World(dict(written.pods), namespaces, dict(tried.policies), dict(written.nodes))


@given(st.data(), histories(EVERYTHING_GOES, steps=6))
@settings(max_examples=15, deadline=None)
def test_what_counts_is_what_is_tried_until_something_else_is_written(
    data: st.DataObject, history: list[World]
) -> None:
    live = Live(history[0])
    instead = Instead(live.world)
    follower = Live(shown(instead.world, None))
    for world in history:
        before = instead.tried
        written = live.become(world)
        changes = instead.update(written)
        real = any(was != now for was, now in (*written.policies.values(), *written.namespaces.values()))
        assert instead.tried is (None if real else before)
        follow(follower, changes)
        assert follower.world == shown(live.world, instead.tried) == instead.world
        if data.draw(st.booleans()):
            follow(follower, instead.put(data.draw(st.none() | worlds(EVERYTHING_GOES))))
            assert follower.world == shown(live.world, instead.tried) == instead.world


def follow(follower: Live, changes: Changes) -> None:
    """By the changes alone, each of which has to say what was there before."""
    for table, pairs in (
        (follower.world.pods, changes.pods),
        (follower.world.namespaces, changes.namespaces),
        (follower.world.policies, changes.policies),
        (follower.world.nodes, changes.nodes),
    ):
        for key, (before, now) in pairs.items():
            assert table.get(key) == before  # type: ignore[attr-defined]
            if now is None:
                table.pop(key, None)  # type: ignore[attr-defined]
            else:
                table[key] = now  # type: ignore[index]


@given(worlds())
@settings(max_examples=10, deadline=None)
def test_what_only_stands_elsewhere_ends_no_trial(world: World) -> None:
    instead = Instead(world)
    tried = World()
    instead.put(tried)
    moved = {key: (each, replace(each, position=Position("moved.yaml", 9))) for key, each in world.policies.items()}
    assert not instead.update(Changes(policies=moved)) and instead.tried is tried


# Requests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "can't be read"),
        (b"[]", "can't be read"),
        (b'{"objects": [7]}', "can't be read"),
        (b'{"objects": []}', "everything would be open"),
        (b'{"objects": [{"manifest": {"kind": "Pod"}, "file": "x", "line": 1}]}', "is no policy or namespace"),
    ],
)
def test_what_is_no_request(body: bytes, said: str) -> None:
    with pytest.raises(NoAnswer, match=said):
        read(body)


def test_one_trial_at_a_time_and_it_ends_in_time(tmp_path: Path) -> None:
    woken = []
    tryout = Tryout(lambda: woken.append(1), tmp_path)
    first = tryout.begin(World(), "/one", 0.05, "root")
    with pytest.raises(NoAnswer, match="the trial of /one is under way"):
        tryout.begin(World(), "/two", 60, "root")
    assert tryout.take() is first and tryout.due is not None
    time.sleep(max(tryout.due - time.monotonic(), 0))
    assert tryout.take() is None and tryout.told() is None and len(woken) == 2
    tryout.begin(World(), "/two", 0.05, "root")
    tryout.confirm("root")
    time.sleep(0.06)
    told = tryout.told()
    assert tryout.take() is not None and tryout.due is None and told and told.until is None
    assert tryout.end("root") and not tryout.end("root")
    with pytest.raises(NoAnswer, match="nothing is being tried"):
        tryout.confirm("root")


# On a kernel --------------------------------------------------------------------------------------------------------

A_TO_C = policy(
    "a-to-c", "  podSelector: {matchLabels: {app: c}}\n  ingress:\n  - from: [{podSelector: {matchLabels: {app: a}}}]\n"
)
CLOSED = policy("deny-all", "  podSelector: {}\n  policyTypes: [Ingress]\n")


class Trial:
    """A node where a reaches b, and a directory by which it reaches c instead."""

    def __init__(self, lab: Lab, backend: Backend) -> None:
        self.scene = Scene(lab, backend)
        self.daemon = self.scene.daemon
        self.directory = self.scene.node.site.directory / "tried"
        self.directory.mkdir()
        (self.directory / "policies.yaml").write_text(f"{CLOSED}---\n{A_TO_C}")

    def reaches(self) -> str:
        """Whom of b and c a reaches."""
        return "".join(pod.name[-1] for pod in (self.scene.b, self.scene.c) if self.scene.passes(self.scene.a, pod))

    def begin(self, how_long: str = "60s") -> None:
        done = self.daemon.ctl("try", str(self.directory), "--for", how_long)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("TRYING 2 policies of ")

    def is_over(self) -> bool:
        return self.daemon.status()["try"] is None


@contextmanager
def on_a_node(lab: Lab, backend: Backend = "nft") -> Iterator[Trial]:
    """With a daemon that has what is written in force."""
    trial = Trial(lab, backend)
    with trial.daemon:
        trial.scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        assert trial.reaches() == "b"
        yield trial


@pytest.mark.kernel
def test_a_trial_is_in_force_and_ends_in_time(lab: Lab, backend: Backend) -> None:
    with on_a_node(lab, backend) as trial:
        trial.begin("5s")
        assert trial.reaches() == "c"
        assert eventually(trial.is_over, 10) and trial.reaches() == "b"
        log = trial.daemon.errors()
        assert "tries the policies of" in log and "its time is over" in log and "user root" in log


@pytest.mark.kernel
def test_status_is_loud_and_the_end_can_be_asked_for(lab: Lab) -> None:
    with on_a_node(lab) as trial:
        daemon = trial.daemon
        trial.begin()
        status = daemon.status()
        assert status["try"]["directory"] == str(trial.directory) and "user root" in status["try"]["by"]
        assert "TRYING: the policies of" in daemon.ctl("status").stdout
        again = daemon.ctl("try", str(trial.directory))
        assert again.returncode == 2 and "is under way" in again.stderr
        other = daemon.ctl("rollback", "--end")
        assert other.returncode == 2 and "nothing was rolled back: the trial of" in other.stderr
        assert "`netpoldctl try --end`" in other.stderr and not trial.is_over()
        assert "2 policies isolate 3 of 3 pods" in daemon.errors(), "what counts is what is in force"
        lines = (trial.directory / "policies.yaml").read_text().splitlines()
        told = json.loads(daemon.ctl("explain", "x/a", "x/c", "80/TCP", "-o", "json").stdout)
        assert "from:" in lines[told["ingress"]["allowed_by"]["line"] - 1], "where the rule is written, not its policy"
        words = ("explain", "x/a", "x/c", "80/TCP"), ("matrix",), ("pod", "x/a"), ("verify",)
        warning = f"TRYING {trial.directory}: it is not the manifests"
        assert [warning in daemon.ctl(*each).stderr for each in words] == [True] * 4
        done = daemon.ctl("try", "--end", "-o", "json")
        assert not [each for each in words if daemon.ctl(*each).stderr]
        assert json.loads(done.stdout)["done"] is True and trial.is_over() and trial.reaches() == "b"
        assert json.loads(daemon.ctl("try", "--end", "-o", "json").stdout)["done"] is False


@pytest.mark.kernel
def test_a_confirmed_trial_stays_until_the_manifests_change(lab: Lab) -> None:
    with on_a_node(lab) as trial:
        daemon = trial.daemon
        trial.begin("2s")
        assert "To make them lasting" in daemon.ctl("try", "--confirm").stdout
        time.sleep(2.5)
        assert not trial.is_over() and trial.reaches() == "c"
        daemon.write(
            "pods2.json",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "z", "namespace": "x"},
                "status": {"podIP": "10.99.0.9"},
            },
        )
        daemon.wait(20)
        assert not trial.is_over(), "pods come and go"
        daemon.write("more.yaml", policy("more", "  podSelector: {matchLabels: {app: nobody}}\n"))
        daemon.wait(20)
        assert trial.is_over() and trial.reaches() == "b"
        assert "the manifests say something else" in daemon.errors()


@pytest.mark.kernel
@pytest.mark.parametrize(("backend", "left"), [("nft", None), ("legacy", "notes.txt")])
def test_where_the_manifests_are_gone(lab: Lab, backend: Backend, left: str | None) -> None:
    """What is known of them stays in force, and what is tried comes and goes as ever."""
    with on_a_node(lab, backend) as trial:
        daemon = trial.daemon
        daemon.manifests.rename(daemon.manifests.with_name("away"))
        if left:
            daemon.manifests.mkdir()
            (daemon.manifests / left).write_text("no manifest")
        assert eventually(lambda: trial.scene.state() == "degraded", 20)
        trial.begin()
        assert trial.reaches() == "c"
        done = daemon.ctl("try", "--end")
        assert done.returncode == 0 and done.stdout.startswith("Ended") and trial.reaches() == "b", done.stderr
        trial.begin("2s")  # by now the pauses between two attempts to read them are longer
        assert eventually(lambda: "its time is over" in daemon.errors(), 4) and trial.reaches() == "b"


def kept(daemon: Daemon) -> str:
    """All that is on disk for the next start."""
    return "".join(path.read_text(errors="replace") for path in daemon.state.rglob("*") if path.is_file())


@pytest.mark.kernel
def test_a_daemon_that_was_killed_knows_of_no_trial(lab: Lab) -> None:
    with on_a_node(lab) as trial:
        daemon = trial.daemon
        assert eventually(lambda: "x/a-to-b" in kept(daemon))
        trial.begin()
        assert trial.reaches() == "c"
        assert "x/a-to-b" in kept(daemon) and "x/a-to-c" not in kept(daemon), "what is tried is not for the next boot"
        daemon.kill()
        assert trial.reaches() == "c", "what is in force stays"
        daemon.start()
        daemon.wait(20)
        assert trial.is_over() and trial.reaches() == "b"


@pytest.mark.kernel
def test_what_was_tried_is_no_last_good_version(lab: Lab) -> None:
    with on_a_node(lab) as trial:
        daemon = trial.daemon
        trial.begin()
        time.sleep(0.5)  # so that whatever is to be kept is
        daemon.kill()
        for name in ("deny", "allow", "out"):
            (daemon.manifests / f"{name}.yaml").write_text("a: [\n")
        daemon.start()
        daemon.wait(20)
        assert trial.reaches() == "b"
        assert daemon.status()["last_good"]["count"] == 3


@pytest.mark.kernel
def test_what_has_faults_is_not_tried(lab: Lab, tmp_path: Path) -> None:
    with on_a_node(lab) as trial:
        daemon = trial.daemon
        (trial.directory / "bad.yaml").write_text(policy("bad", "  podSelector: {}\n  ingres: []\n"))
        bad = daemon.ctl("try", str(trial.directory))
        assert bad.returncode == 1 and "only what is right is tried" in bad.stderr
        empty = daemon.ctl("try", str(tmp_path))
        assert empty.returncode == 2 and "there is no policy to try" in empty.stderr
        nothing = daemon.ctl("try")
        assert nothing.returncode == 2 and "give either DIR" in nothing.stderr
        assert trial.is_over() and trial.reaches() == "b"
