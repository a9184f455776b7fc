"""What was good stays good: over restarts, with manifests that break while nobody looks, on the real kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netpold.daemon.reconcile import LAST_GOOD_NAME
from netpold.host import last_good_database
from netpold.policy.canonical import kind_of, written
from netpold.policy.manifest import parse
from tests.lab import Lab
from tests.test_daemon import A_OUT, Scene, eventually, policy, udp

pytestmark = pytest.mark.kernel

TO_B = policy(
    "b", "  podSelector: {matchLabels: {app: b}}\n  ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]\n"
)
OTHER_B = policy("b", "  podSelector: {matchLabels: {app: b}}\n  ingress: [{}]\n")
BROKEN_B = TO_B.replace("ingress: [", "ingress: {").replace("}]}]\n", "}]}}\n")
GARBAGE = "}{ not a manifest from its first line on: [\n"
BLANK = ("\n", "\0" * 300)
SLOW = pytest.mark.slow


def status(scene: Scene) -> dict[str, Any]:
    """Also where it is degraded."""
    found: dict[str, Any] = json.loads(scene.daemon.ctl("status", "-o", "json").stdout)
    return found


def kill(scene: Scene) -> None:
    """Once all that is in force is on disk, too, which takes some milliseconds, or as long as the disk takes."""
    files = [each for each in scene.daemon.manifests.rglob("*") if each.suffix in (".yaml", ".json")]
    objects = [each for path in files for each in parse(path.read_bytes(), str(path)).objects]
    wanted = {(kind_of(each), each.key): written(each) for each in objects}

    def kept() -> bool:
        rows = last_good_database.read(scene.daemon.state / LAST_GOOD_NAME).rows
        return wanted == {name: row.manifest for name, row in rows.items()}

    assert wanted and eventually(kept, 20)
    scene.daemon.kill()


def restart(scene: Scene, how: str = "stop") -> None:
    if scene.daemon.running:
        kill(scene) if how == "kill" else scene.daemon.stop()
    scene.daemon.start()
    assert eventually(lambda: scene.daemon.ctl("status").returncode in (0, 1), 20), scene.daemon.errors()


def b_is_as_before(scene: Scene) -> None:
    """a may come in, nobody else."""
    assert scene.passes(scene.a, scene.b)
    assert not scene.passes(scene.c, scene.b), f"{status(scene)}\n{scene.daemon.errors()}"


def reboot(scene: Scene) -> None:
    """One that brings no snapshot back."""
    if scene.daemon.running:
        scene.daemon.kill()
    for tool in ("iptables", "ip6tables"):
        scene.node.run(["sh", "-c", f"{tool}-nft -F; {tool}-nft -X"])
    scene.node.run(["ipset", "destroy"])
    restart(scene)


@pytest.mark.parametrize(
    "text",
    [BROKEN_B, pytest.param(GARBAGE, marks=SLOW), "", *(pytest.param(each, marks=SLOW) for each in BLANK)],
    ids=["field", "garbage", "zero", "blank", "nul"],
)
def test_a_manifest_that_breaks_while_the_daemon_is_down(lab: Lab, text: str) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(b=TO_B)
        restart(scene, "kill")  # the version that is kept was kept over a restart before
        scene.daemon.wait(20)
        kill(scene)
        (scene.daemon.manifests / "b.yaml").write_text(text)
        for _ in range(2):
            reboot(scene)
            scene.daemon.wait(20)
            b_is_as_before(scene)
        found = status(scene)
        assert found["last_good"] == {"count": 1, "objects": ["NetworkPolicy x/b"]}
        finding = found["findings"][0]
        assert finding["file"].endswith("/b.yaml") and finding["cure"]
        assert "NetworkPolicy x/b" in scene.daemon.ctl("status").stdout
        scene.enforce(b=OTHER_B)
        assert scene.passes(scene.c, scene.b) and status(scene)["last_good"]["count"] == 0


def test_it_breaks_right_after_it_was_put_in_force(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        for text, open_to_c in ((OTHER_B, True), (TO_B, False), (OTHER_B, True), (TO_B, False)):
            scene.enforce(b=text)
            kill(scene)
            (scene.daemon.manifests / "b.yaml").write_text(GARBAGE)
            restart(scene)
            scene.daemon.wait(20)
            assert scene.passes(scene.c, scene.b) is open_to_c


def test_what_was_removed_while_the_daemon_was_down_is_not_remembered(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(b=TO_B, out=A_OUT)
        scene.daemon.stop()
        (scene.daemon.manifests / "b.yaml").unlink()
        restart(scene)
        scene.daemon.wait(20)
        assert scene.passes(scene.c, scene.b)
        scene.daemon.stop()
        scene.daemon.write("b.yaml", BROKEN_B)
        restart(scene)
        scene.daemon.wait(20)
        assert not scene.passes(scene.a, scene.b), "never known as good: closed"


def test_a_conflict_that_came_while_the_daemon_was_down(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(b=TO_B)
        kill(scene)
        scene.daemon.write("a-second.yaml", OTHER_B)
        for _ in range(2):
            restart(scene)
            scene.daemon.wait(20)
            b_is_as_before(scene)
        (finding,) = (each for each in status(scene)["findings"] if each["code"] == "conflicting-objects")
        assert "a-second.yaml" in finding["fault"] and finding["file"].endswith("/b.yaml")
        scene.daemon.kill()
        shutil.rmtree(scene.daemon.state)
        restart(scene)
        scene.daemon.wait(20)
        assert not scene.passes(scene.a, scene.b), "nothing is known: closed"


def remove(manifests: Path) -> None:
    shutil.rmtree(manifests)


def empty(manifests: Path) -> None:
    for path in sorted(manifests.iterdir()):
        path.unlink()


def replace_by_file(manifests: Path) -> None:
    shutil.rmtree(manifests)
    manifests.write_text("what is this")


@pytest.mark.parametrize("harm", [pytest.param(remove, marks=SLOW), empty, pytest.param(replace_by_file, marks=SLOW)])
def test_nothing_is_left(lab: Lab, harm: Any) -> None:
    """While it runs, and after a reboot; then the manifests come back."""
    scene = Scene(lab, "nft")
    manifests = scene.daemon.manifests
    kept = manifests.with_name("kept")
    with scene.daemon:
        scene.enforce(b=TO_B)
        shutil.copytree(manifests, kept)
        harm(manifests)
        assert eventually(lambda: scene.state() == "degraded")
        b_is_as_before(scene)
        reboot(scene)
        assert eventually(lambda: scene.state() == "degraded" and not scene.passes(scene.c, scene.b), 20)
        b_is_as_before(scene)
        found = status(scene)
        assert "policies known before stay in force" in found["error"]
        assert found["last_good"]["count"] == 4
        if not manifests.is_dir():
            manifests.unlink(missing_ok=True)
            manifests.mkdir()
        for path in sorted(kept.iterdir(), reverse=True):
            shutil.copy(path, manifests)
        assert eventually(lambda: scene.state() == "enforcing", 20)
        scene.daemon.wait(20)
        b_is_as_before(scene)
        assert status(scene)["last_good"]["count"] == 0


@pytest.mark.parametrize("lost", ["all", "last good"])
def test_nothing_is_known_but_what_the_kernel_holds(lab: Lab, lost: str) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(b=TO_B)
        scene.daemon.stop()
        if lost == "all":
            empty(scene.daemon.manifests)
            shutil.rmtree(scene.daemon.state)
        else:
            (scene.daemon.state / "last-good.sqlite").write_bytes(b"junk" * 5000)
            (scene.daemon.manifests / "b.yaml").write_text(GARBAGE)
        restart(scene)
        assert eventually(lambda: scene.state() == "degraded")
        b_is_as_before(scene)
        if lost == "last good":
            assert "/b.yaml, which can't be read to its end" in str(status(scene)["error"])
            scene.enforce(b=OTHER_B)
            assert scene.passes(scene.c, scene.b)


def test_a_manifest_that_is_renamed_and_broken(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(b=TO_B)
        for end in ("b2.yaml", "b3.yaml"):
            (path,) = scene.daemon.manifests.glob("b*.yaml")
            if end == "b3.yaml":
                scene.daemon.stop()
            path.write_text(GARBAGE)
            path.rename(path.with_name(end))
            if end == "b3.yaml":
                restart(scene)
            scene.daemon.wait(20)
            b_is_as_before(scene)
            assert any(each["code"] == "may-be-here" for each in status(scene)["findings"])


@pytest.mark.parametrize("harm", ["file", "directory"])
def test_what_gets_a_name_that_cannot_be_printed_keeps_its_policies(lab: Lab, harm: str) -> None:
    scene = Scene(lab, "nft")
    team = scene.daemon.manifests / "team"
    with scene.daemon:
        team.mkdir()
        (team / "b.yaml").write_text(TO_B)
        scene.enforce()
        was = team / "b.yaml" if harm == "file" else team
        now = was.with_name(os.fsdecode(b"\xe4.yaml"))
        was.rename(now)
        for _ in range(2):
            scene.daemon.wait(20)
            b_is_as_before(scene)
            assert {each["code"] for each in status(scene)["findings"]} == {"may-be-here", "unprintable-name"}
            restart(scene)
        now.rename(was)
        scene.daemon.wait(20)
        b_is_as_before(scene)
        assert not status(scene)["findings"]


def test_an_empty_directory_by_the_settings(lab: Lab) -> None:
    scene = Scene(lab, "nft", config="allow_empty = true\n")
    with scene.daemon:
        scene.enforce(b=TO_B)
        empty(scene.daemon.manifests)
        scene.daemon.wait(20)
        found = status(scene)
        assert found["state"] == "enforcing" and found["policies"]["accepted"] == found["pods"]["total"] == 0


def test_a_fresh_install_with_an_empty_directory_enforces(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    empty(scene.daemon.manifests)
    with scene.daemon:
        scene.enforce()
        assert scene.state() == "enforcing"
        restart(scene)
        scene.daemon.wait(20)


def test_a_directory_that_is_not_mounted_at_the_start(lab: Lab) -> None:
    """Beside the mount point there is another manifest, so that the tree is not empty."""
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(b=TO_B)
        far = scene.daemon.manifests.with_name("far")
        far.mkdir()
        link = scene.daemon.manifests / "git"
        (scene.daemon.manifests / "b.yaml").rename(scene.daemon.manifests / "b.yam")
        link.mkdir()
        (link / "b.yaml").write_text(TO_B)
        scene.daemon.wait(20)
        link.rename(far / "git")
        link.symlink_to("../far/nowhere")
        scene.daemon.wait(20)
        b_is_as_before(scene)
        reboot(scene)
        scene.daemon.wait(20)
        b_is_as_before(scene)
        link.unlink()
        scene.daemon.wait(20)
        assert eventually(lambda: scene.passes(scene.c, scene.b))


@pytest.mark.parametrize("order", ["ab", pytest.param("ba", marks=SLOW)])
def test_two_pods_that_claim_one_address_get_what_both_may(lab: Lab, order: str) -> None:
    """c says that it has a's address, too: from there only what both may send and receive."""
    scene = Scene(lab, "nft")
    thief = scene.c.manifest(node=False)
    thief["metadata"]["name"] = "thief"
    thief["status"] = scene.a.manifest(node=False)["status"]
    with scene.daemon:
        scene.enforce(b=TO_B)
        b_is_as_before(scene)
        scene.daemon.write(f"{order[0]}.json", thief)
        for _ in range(2):
            scene.daemon.wait(20)
            assert not scene.passes(scene.a, scene.b), "the thief may not"
            assert any(each["code"] == "address-claimed-twice" for each in status(scene)["findings"])
            restart(scene, "kill")
        (scene.daemon.manifests / f"{order[0]}.json").unlink()
        scene.daemon.wait(20)
        assert eventually(lambda: scene.passes(scene.a, scene.b))


@contextmanager
def full(state: Path) -> Iterator[Path]:
    """A state directory on a tiny file system that has no room left."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(state)], check=True)
    ballast = state / "ballast"
    try:
        yield ballast
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_a_full_disk(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with full(scene.daemon.state) as ballast, scene.daemon:
        subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=1k"], capture_output=True, check=False)
        scene.enforce(b=TO_B)
        assert eventually(lambda: any("can't be written" in each for each in status(scene)["warnings"]), 20)
        b_is_as_before(scene)
        ballast.unlink()
        assert eventually(lambda: not any("last good" in each for each in status(scene)["warnings"]), 20)
        kill(scene)
        (scene.daemon.manifests / "b.yaml").write_text(GARBAGE)
        restart(scene)
        scene.daemon.wait(20)
        b_is_as_before(scene)
        scene.daemon.stop()


def test_nothing_leaks_while_the_tree_is_deleted_or_unmounted(lab: Lab) -> None:
    """Three hundred policies beside each other, packets all the time: rm -rf, and then an unmount."""
    scene = Scene(lab, "nft")
    manifests = scene.daemon.manifests
    kept = manifests.with_name("kept")
    for number in range(300):
        each = TO_B.replace("name: b,", f"name: b{number},")
        scene.daemon.write(f"{number // 30}/{number}.yaml", each)
    shutil.copytree(manifests, kept)

    def in_daemon(*words: str) -> None:
        """Its mounts are its own."""
        subprocess.run(["nsenter", "-t", str(scene.daemon.pid), "-m", *words], check=True)

    with scene.daemon:
        scene.enforce()
        allowed = lab.flow(scene.a, scene.b, "UDP", 81)
        stop, sender, receiver = threading.Event(), udp(scene.c), udp(scene.b, 80)
        receiver.setblocking(False)

        def flood() -> None:
            while not stop.wait(0.0005):
                sender.sendto(b"denied", (scene.b.address(4), 80))

        flooder = threading.Thread(target=flood)
        flooder.start()
        try:
            subprocess.run(["rm", "-rf", str(manifests)], check=True)
            assert eventually(lambda: scene.state() == "degraded")
            manifests.mkdir()
            assert eventually(lambda: "no manifest" in str(status(scene)["error"]))
            in_daemon("mount", "--bind", str(kept), str(manifests))
            scene.daemon.ctl("wait", "--timeout", "20")
            assert eventually(lambda: scene.state() == "enforcing", 20)
            in_daemon("umount", str(manifests))
            assert eventually(lambda: scene.state() == "degraded", 40)
            b_is_as_before(scene)
        finally:
            stop.set()
            flooder.join()
        with pytest.raises(BlockingIOError):
            receiver.recv(10)
        allowed.pause()
        assert allowed.forward.missing == 0
