"""Going back to policies that were in force before: what is known of them, and what outlasts a restart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from netpold.daemon.questions import NoAnswer
from netpold.daemon.rollback import MOST_REVISIONS, NAME, History, Revision, digest, objects
from netpold.daemon.tryout import Tryout, read
from netpold.policy.changes import difference
from netpold.policy.model import EVERYTHING, Policy, PolicyRule, Position, World
from netpold.policy.steps import finished
from tests.lab import Backend, Lab
from tests.strategies import EVERYTHING_GOES, worlds
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually, policy
from tests.test_faults import Faulty, refuse
from tests.test_try import A_TO_C
from tests.test_try import CLOSED as ALL_CLOSED

CLOSED = Policy("x", "closed", EVERYTHING, (), (), Position("a.yaml", 3), quarantined=True)
DENY = Policy("x", "deny", EVERYTHING, (), None, Position("a.yaml", 9))


def world(*policies: Policy) -> World:
    return World({}, {}, {each.key: each for each in policies})


def test_each_state_is_kept_once_and_the_last_ones_only() -> None:
    history, now = History(), World()
    for number in range(2 * MOST_REVISIONS):
        after = world(replace(DENY, name=f"p{number // 2}"))  # every other time the same
        history.note(difference(now, after), after)
        now = after
    names = [next(iter(each.world.policies)) for each in history.revisions]
    assert names == [f"x/p{number}" for number in range(MOST_REVISIONS)]


@given(worlds(EVERYTHING_GOES), worlds(EVERYTHING_GOES))
@settings(max_examples=15, deadline=None)
def test_what_is_kept_is_read_back_as_it_was(one: World, other: World) -> None:
    """Closed versions, too: without them what they close would be open."""
    if one.policies:
        back = read(json.dumps({"objects": objects(one)}).encode())
        assert (back.policies, back.namespaces) == (one.policies, one.namespaces)
    same = (one.policies, one.namespaces) == (other.policies, other.namespaces)
    assert (finished(digest(one)) == finished(digest(other))) == same


def test_where_rules_are_written_is_kept() -> None:
    rules = tuple(PolicyRule(None, None, Position("a.yaml", line)) for line in (12, 15))
    policy = replace(DENY, ingress=rules, egress=(PolicyRule(None, None, Position("a.yaml", 20)),))
    (kept,) = objects(world(policy))
    for lines, expected in (
        (kept["rules"], [12, 15, 20]),
        ({"ingress": [7]}, [9, 9, 9]),
        ({"ingress": ["x", None], "egress": 3}, [9, 9, 9]),
        (None, [9, 9, 9]),
    ):
        back = read(json.dumps({"objects": [{**kept, "rules": lines}]}).encode()).policies["x/deny"]
        found = [*(back.ingress or ()), *(back.egress or ())]
        assert [each.position and each.position.line for each in found] == expected, lines


def test_it_goes_on_after_a_restart_where_the_manifests_say_the_same(tmp_path: Path) -> None:
    then, now = world(CLOSED, DENY), world(DENY)
    said = finished(digest(now))
    Tryout(lambda: None, tmp_path).go_back(Revision("2026-01-31T08:15:30.125Z", then), 0, said, "root")
    after = Tryout(lambda: None, tmp_path)
    resumed = after.resume(now)
    told = after.told()
    assert resumed and resumed.world.policies == then.policies
    assert told and told.rollback and told.source == "2026-01-31T08:15:30.125Z"
    with pytest.raises(NoAnswer, match="nothing is being tried"):
        after.confirm("root")
    assert after.end("root") and not (tmp_path / NAME).exists()
    assert Tryout(lambda: None, tmp_path).resume(now) is None


def test_where_they_say_something_else_they_count(tmp_path: Path) -> None:
    revision = Revision("2026-01-31T08:15:30.125Z", world(DENY))
    Tryout(lambda: None, tmp_path).go_back(revision, 0, finished(digest(world(DENY))), "root")
    after = Tryout(lambda: None, tmp_path)
    assert after.resume(world(CLOSED)) is None and after.current is None and not (tmp_path / NAME).exists()
    for damaged in ("", "{", "{}", "[]", '{"objects": 3}'):
        (tmp_path / NAME).write_text(damaged)
        assert after.resume(world(DENY)) is None and after.current is None


def test_what_cannot_be_deleted_is_over_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The loop ends it, and has more to do."""
    tryout = Tryout(lambda: None, tmp_path)
    tryout.begin(World(), "/somewhere", 60, "uid 0")
    (tmp_path / NAME).mkdir()
    assert tryout.end("a test") and tryout.current is None
    assert "can't be deleted" in caplog.text


def test_what_cannot_be_kept_is_not_done(tmp_path: Path) -> None:
    tryout = Tryout(lambda: None, tmp_path / "absent")
    with pytest.raises(NoAnswer, match="can't be kept"):
        tryout.go_back(Revision("2026-01-31T08:15:30.125Z", world(DENY)), 0, "", "root")
    assert tryout.current is None


def test_one_that_does_not_come_into_force_leaves_the_one_before(tmp_path: Path) -> None:
    tryout = Tryout(lambda: None, tmp_path)
    first, second = world(DENY), world(CLOSED)
    one = tryout.go_back(Revision("2026-01-31T08:15:30.125Z", first), 1, finished(digest(World())), "root")
    two = tryout.go_back(Revision("2026-01-31T08:10:00.000Z", second), 0, finished(digest(World())), "uid 7")
    tryout.withdraw(two)
    assert tryout.current == one
    resumed = Tryout(lambda: None, tmp_path).resume(World())
    assert resumed and (resumed.source, resumed.who, resumed.world.policies) == (one.source, "root", first.policies)
    tryout.withdraw(two)
    assert tryout.current == one, "it was over already"
    tryout.withdraw(one)
    assert tryout.current is None and not (tmp_path / NAME).exists()


SHUT = policy("shut", "  podSelector: {}\n  ingress: [{ports: [{port: 6666}]}]\n")


def states(scene: Scene) -> None:
    """In one state after the other a reaches none, c, b, and both."""
    for policies in ((SHUT,), (A_TO_C,), (A_TO_B,), (A_TO_B, A_TO_C)):
        scene.enforce(all="---\n".join((ALL_CLOSED, *policies)))


def reached(scene: Scene) -> str:
    return "".join(pod.name[-1] for pod in (scene.b, scene.c) if scene.passes(scene.a, pod))


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["nft", pytest.param("legacy", marks=pytest.mark.slow)])
def test_from_one_to_the_next_where_the_manifests_are_gone(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    daemon = scene.daemon
    with daemon:
        states(scene)
        assert daemon.ctl("rollback").returncode == 0 and reached(scene) == "b"
        daemon.manifests.rename(daemon.manifests.with_name("away"))
        assert eventually(lambda: scene.state() == "degraded", 20)
        done = daemon.ctl("rollback")
        assert done.returncode == 0 and reached(scene) == "c", done.stderr
        done = daemon.ctl("rollback", "--end")
        assert done.stdout.startswith("Ended") and reached(scene) == "bc", done.stderr


@pytest.mark.slow
@pytest.mark.kernel
def test_one_that_the_kernel_refuses_leaves_the_one_before(lab: Lab) -> None:
    scene = Faulty(lab)
    daemon = scene.daemon
    with daemon:
        states(scene)
        daemon.ctl("rollback")
        before = json.loads(daemon.ctl("rollback", "-o", "json").stdout)["rollback"]
        assert reached(scene) == "c"
        assert eventually(lambda: "6666" not in scene.node.iptables_save("nft", 4)), "else it needs not be made again"
        scene.fault(refuse("6666"))
        failed = daemon.ctl("rollback")
        assert failed.returncode == 5 and f"; the rollback to {before['to']} counts" in failed.stderr
        assert scene.status()["rollback"] == before and reached(scene) == "c"
        assert json.loads((daemon.state / NAME).read_text())["to"] == before["to"]


@pytest.mark.kernel
def test_back_and_over_a_restart_until_the_manifests_change(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    daemon = scene.daemon
    with daemon:
        scene.enforce(deny=DENY_ALL)
        nothing = daemon.ctl("rollback")
        assert nothing.returncode == 2 and "no earlier policies are known" in nothing.stderr
        scene.enforce(allow=A_TO_B, out=A_OUT)
        assert scene.passes(scene.a, scene.b)
        while json.loads(daemon.ctl("rollback", "-o", "json").stdout or "{}").get("done"):  # as far as it goes
            pass
        assert not scene.passes(scene.a, scene.b)
        assert "ROLLED BACK: the policies of " in daemon.ctl("status").stdout
        daemon.kill()
        daemon.start()
        daemon.wait(20)
        assert daemon.status()["rollback"] and not scene.passes(scene.a, scene.b)
        daemon.write("more.yaml", policy("more", "  podSelector: {matchLabels: {app: nobody}}\n"))
        daemon.wait(20)
        assert daemon.status()["rollback"] is None and scene.passes(scene.a, scene.b)
        daemon.write("more.yaml", DENY_ALL.replace("deny-all", "deny-more"))
        daemon.wait(20)
        assert daemon.ctl("rollback").returncode == 0 and daemon.status()["rollback"]
        done = daemon.ctl("rollback", "--end")
        assert done.stdout.startswith("Ended") and daemon.status()["rollback"] is None
        assert not (daemon.state / NAME).exists()
