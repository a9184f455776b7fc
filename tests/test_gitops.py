"""Every way in which files change ends in the right ruleset, with no state in between that neither tree has.

First with a source and a watcher on real files: whatever is handed out adds up to the tree before or the tree after.
The same with the real daemon: the trees differ in labels of pods and in policies of several files, so that a mix of
them lets packets through that both refuse, or refuses some that both allow; packets go all the time.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from netpold.host import watch
from netpold.host.at_work import AtWork, is_draft
from netpold.host.hints import EVERYTHING_CHANGED
from netpold.host.source import Reading, Source, SourceError
from netpold.host.watch import Watcher
from netpold.policy.manifest import Parsed
from tests import sync
from tests.lab import Backend, Lab, Pod, Probe
from tests.lab.daemon import Daemon
from tests.test_daemon import eventually, policy, udp

SETTLE_S = 0.02
FILES = 30


def named(way: type) -> str:
    return way.__name__


class Follower:
    """Follows a directory as the daemon does.  `states`: what it knew, one after the other: objects with their
    revision."""

    def __init__(self, directory: Path) -> None:
        self.woken = threading.Event()
        self.watcher = Watcher(directory, self.woken.set)
        self.watcher.start()
        self.source = Source(directory, 1 << 20, self.watcher.follow, self.watcher.enter)
        self.states: list[set[tuple[str, str]]] = []
        self._known: dict[str, Parsed] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower")
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.watcher.close()

    def reaches(self, state: set[tuple[str, str]], timeout: float = 10.0) -> bool:
        return eventually(lambda: bool(self.states) and self.states[-1] == state, timeout)

    def _run(self) -> None:
        while not self._stop.is_set():
            due = self.source.due
            self.woken.wait(0.05 if due is None else max(0.0, min(due - time.monotonic(), 0.05)))
            if self.woken.is_set() or not self.source.complete or (due is not None and time.monotonic() >= due):
                self.woken.clear()
                self._read()

    def _read(self) -> None:
        reading: Reading | None
        try:
            reading = self.source.read(self.watcher.take(), SETTLE_S)
        except SourceError:
            reading = self.source.stand_ins()
        for path, parsed in reading.changed.items() if reading else ():
            if parsed is None:
                del self._known[path]
            else:
                self._known[path] = parsed
        if reading and reading.changed and self.source.complete:
            self.states.append(
                {(each.name, each.labels["revision"]) for parsed in self._known.values() for each in parsed.objects}
            )


@contextmanager
def following(directory: Path) -> Iterator[Follower]:
    follower = Follower(directory)
    try:
        yield follower
    finally:
        follower.close()


def tree(revision: str, shift: int, count: int = FILES) -> dict[str, str]:
    """Objects that are in other files, some of them new, than with another shift."""
    head = "apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{0}, labels: {{revision: {1}}}}}\n# {2}\n"
    return {f"{(each + shift) % (count + 5)}.yaml": head.format(each, revision, "x" * 600) for each in range(count)}


def objects(revision: str, count: int = FILES) -> set[tuple[str, str]]:
    return {(f"n{each}", revision) for each in range(count)}


def states_between(base: Path, way: type[sync.Way]) -> list[set[tuple[str, str]]]:
    """What is neither the tree before nor the one after, while one becomes the other and back."""
    old, new = tree("old", 0), tree("new", 0 if way is sync.SedInPlace else 7)
    there = way(base, old)
    try:
        with following(there.watched) as follower:
            assert follower.reaches(objects("old"))
            for revision, files in (("new", new), ("old", old)):
                there.become(files)
                assert follower.reaches(objects(revision)), follower.states[-1]
        return [state for state in follower.states if state not in (objects("old"), objects("new"))]
    finally:
        there.close()


def lacks_one(state: set[tuple[str, str]]) -> bool:
    return any(state < objects(revision) and len(state) == FILES - 1 for revision in ("old", "new"))


@pytest.mark.parametrize("way", sync.ATOMIC, ids=named)
def test_old_or_new_whatever_changes_the_files(tmp_path: Path, way: type[sync.Way]) -> None:
    """A busy machine may stall a program that deletes file by file when the first is gone, for longer than one that is
    missing is waited for (docs/design.md): then it is to be right at another time."""
    for attempt in range(3):
        (base := tmp_path / str(attempt)).mkdir()
        mixed = states_between(base, way)
        if not (mixed and all(map(lacks_one, mixed))):
            break
    assert not mixed


@pytest.mark.slow
@pytest.mark.parametrize("way", [sync.GitCheckout, sync.GitSync4, sync.Copied], ids=named)
def test_ten_thousand_files_at_once(tmp_path: Path, way: type[sync.Way]) -> None:
    old, new = tree("old", 0, 10_000), tree("new", 7, 10_000)
    there = way(tmp_path, old)
    with following(there.watched) as follower:
        assert follower.reaches(objects("old", 10_000), 60)
        there.become(new)
        assert follower.reaches(objects("new", 10_000), 60)
    assert all(state in (objects("old", 10_000), objects("new", 10_000)) for state in follower.states)


class TestAtWork:
    """What shows that a program is at work."""

    @pytest.mark.parametrize(
        "name", [".a.yaml.Xy12Zw", ".~tmp~", ".ansible_tmp1k2j3a.yaml", "sedAbCd12", "a.yml.dpkg-new", "a.yaml.oLRlvBN"]
    )
    def test_drafts(self, name: str) -> None:
        assert is_draft(name)

    @pytest.mark.parametrize("name", ["a.yaml", ".a.yaml", ".a.yaml.swp", "..data", ".git", "sediment", ".#a.yaml"])
    def test_other_names(self, name: str) -> None:
        assert not is_draft(name)

    def test_a_draft_that_was_left_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("netpold.host.at_work.DRAFT_LIFE_S", 0.5)
        draft = tmp_path / ".a.yaml.Xy12Zw"
        draft.touch()
        at_work, began = AtWork(), time.monotonic()
        at_work.hear({str(draft): began})
        assert at_work.look(began + 0.4, (), began)
        time.sleep(0.6)
        assert not at_work.look(time.monotonic(), (), began)

    def test_a_draft_that_was_there_before(self, tmp_path: Path) -> None:
        """The daemon starts in the middle of an rsync."""
        sync.write(tmp_path, tree("old", 0))
        draft = tmp_path / ".0.yaml.Xy12Zw"
        draft.write_text("half")
        source = Source(tmp_path, 1 << 20)
        assert not source.read(EVERYTHING_CHANGED, 0.0).settled
        time.sleep(0.1)
        assert not source.read(NOTHING, 0.0).settled
        draft.rename(tmp_path / "0.yaml")
        assert eventually(lambda: source.read(EVERYTHING_CHANGED, 0.0).settled)

    def test_an_rsync_that_hangs_holds_nothing_up_for_ever(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("netpold.host.looking.DEADLINE_S", 0.5)
        sync.write(tmp_path, tree("old", 0))
        with following(tmp_path) as follower:
            assert follower.reaches(objects("old"))
            draft = tmp_path / ".0.yaml.Xy12Zw"
            draft.write_text("half")
            (tmp_path / "aside").write_text(tree("new", 0)["1.yaml"])
            (tmp_path / "aside").rename(tmp_path / "1.yaml")
            time.sleep(0.3)
            assert len(follower.states) == 1
            assert follower.reaches((objects("old") - {("n1", "old")}) | {("n1", "new")})


# The watcher ------------------------------------------------------------------------------------------------------


def close_inotify(watcher: Watcher) -> None:
    os.close(watcher._inotify)


def break_reads(watcher: Watcher) -> None:
    """A read that fails, as of a broken descriptor."""
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, watcher._inotify)
    os.close(null)


def raise_in_thread(watcher: Watcher) -> None:
    def fail(*_: object) -> None:
        del watcher._note  # type: ignore[attr-defined]  # once
        raise ZeroDivisionError

    watcher._note = fail  # type: ignore[method-assign]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("harm", [close_inotify, break_reads, raise_in_thread])
def test_a_watcher_thread_that_dies_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Watcher], None]
) -> None:
    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: died.set())
    monkeypatch.setattr(watch, "POLL_S", 0.1)
    monkeypatch.setattr(watch, "REPLACE_AGAIN_S", 0.2)
    there = sync.RenamedFromOutside(tmp_path, tree("old", 0))
    with following(there.watched) as follower:
        assert follower.reaches(objects("old"))
        harm(follower.watcher)
        there.become(tree("new", 0))
        assert died.wait(5)
        assert follower.reaches(objects("new"))
        assert follower.watcher.warning
        there.become(tree("old", 0))  # its successor hears of events
        assert follower.reaches(objects("old"))


def test_a_mount_is_noticed_at_once(tmp_path: Path) -> None:
    """With no event, and no look in between that finds it by chance."""
    there = sync.BindMount(tmp_path, tree("old", 0))
    woken = threading.Event()
    watcher = Watcher(there.watched, woken.set)
    watcher.start()
    watcher.take()
    woken.clear()
    other = tmp_path / "elsewhere"
    other.mkdir()
    try:
        sync.run("mount", "--bind", tmp_path, other)
        sync.run("mount", "--make-private", other)  # what is mounted below the one is not to be below the other
        assert not woken.wait(0.3)  # a mount that does not matter
        there.become(tree("new", 0))
        assert woken.wait(5)
        assert watcher.take().everything
    finally:
        sync.run("umount", other)
        there.close()
        watcher.close()


def test_a_file_system_that_tells_of_nothing(tmp_path: Path) -> None:
    """The layer below an overlay is changed, of which the overlay makes no events: the next sweep finds it."""
    lower, upper, work, top = (tmp_path / name for name in ("lower", "upper", "work", "top"))
    for each in (lower, upper, work, top):
        each.mkdir()
    sync.write(lower, tree("old", 0))
    sync.run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", top)
    try:
        with following(top) as follower:
            assert follower.reaches(objects("old"))
            (top / "0.yaml").write_text(tree("new", 0)["0.yaml"])  # the overlay's own events
            expected = (objects("old") - {("n0", "old")}) | {("n0", "new")}
            assert follower.reaches(expected)
            (upper / "0.yaml").write_text(tree("old", 0)["0.yaml"])
            time.sleep(0.3)
            assert follower.states[-1] == expected
        woken = Source(top, 1 << 20)
        while not woken.read(EVERYTHING_CHANGED, SETTLE_S).settled:
            time.sleep(0.01)
        (upper / "0.yaml").write_text(tree("next", 0)["0.yaml"])
        while not woken.sweep(1):
            pass
        assert woken.due is not None
        assert eventually(lambda: "0.yaml" in {Path(path).name for path in woken.read(NOTHING, SETTLE_S).changed})
    finally:
        sync.run("umount", top)


NOTHING = EVERYTHING_CHANGED.__class__({})


# The daemon, by packets -------------------------------------------------------------------------------------------


class Scene:
    """Pods a, b, c, d.  In both trees a may send to c, d may not, and nobody may send to b.  But a may by another
    label, and b is closed by a policy of another name in another file."""

    def __init__(self, lab: Lab, backend: Backend, way: type[sync.Way]) -> None:
        self.lab = lab
        self.node = lab.node("n1")
        self.a, self.b, self.c, self.d = (self.node.routed_pod("x", name, labels={"app": name}) for name in "abcd")
        self.old = self._tree("old", {"a": "left", "d": "right"}, "left")
        self.new = self._tree("new", {"a": "right", "d": "left"}, "right")
        base = self.node.site.directory / "sync"
        base.mkdir()
        self.way = way(base, self.old)
        self.daemon = Daemon(self.node, backend)
        self.daemon.manifests = self.way.watched

    def _tree(self, revision: str, roles: dict[str, str], allowed: str) -> dict[str, str]:
        found = {}
        for pod in (self.a, self.b, self.c, self.d):
            manifest = json.loads(json.dumps(pod.manifest(node=False)))
            name = manifest["metadata"]["name"]
            if name in roles:
                manifest["metadata"]["labels"]["role"] = roles[name]
            found[f"pod-{name}.yaml"] = json.dumps(manifest, indent=1) + "\n"
        nobody = "  podSelector: {{matchLabels: {{app: {}}}}}\n"
        peer = f"  ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {allowed}}}}}}}]}}]\n"
        found["to-c.yaml"] = policy("to-c", nobody.format("c") + peer)
        found[f"nobody-{revision}.yaml"] = policy(f"nobody-{revision}", nobody.format("b"))
        for number in range(20):  # so that it takes a while
            found[f"other-{revision}-{number}.yaml"] = policy(f"other-{number}", nobody.format(f"{revision}{number}"))
        if revision == "new":
            found["nobody-to-d.yaml"] = policy("nobody-to-d", nobody.format("d"))
        return found

    def differences(self, revision: str) -> list[str]:
        """What is not as that tree has it, by packets between all pods."""
        expected = {}
        for source in (self.a, self.b, self.c, self.d):
            for to in (self.a, self.b, self.c, self.d):
                allowed = source is self.a if to is self.c else to is self.a or (to is self.d and revision == "old")
                if source is not to:
                    expected[Probe(source, to, "UDP", 80, 4)] = allowed
        return self.lab.differences(expected)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Packets all the time: what both trees allow arrives, what both refuse does not."""
        allowed = self.lab.flow(self.a, self.c, "UDP", 90, interval=0.002)
        refused = [(udp(self.a), udp(self.b, 91)), (udp(self.d), udp(self.c, 91))]
        stop = threading.Event()

        def flood() -> None:
            targets: list[Pod] = [self.b, self.c]
            while not stop.wait(0.001):
                for (sender, receiver), pod in zip(refused, targets, strict=True):
                    sender.sendto(b"refused", (pod.address(4), receiver.getsockname()[1]))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            missing = allowed.pause()
            allowed.close()
            passed = []
            for sender, receiver in refused:
                receiver.setblocking(False)
                with suppress(BlockingIOError):
                    passed.append(receiver.recv(100))
                sender.close()
                receiver.close()
        assert not passed
        assert not missing


WAYS = (
    sync.GitCheckout,
    sync.GitSync4,
    sync.ConfigMap,
    sync.Rsync,
    sync.RsyncDeleteInPlace,
    sync.BindMount,
    sync.DirectoryAway,
)


def _switch_there_and_back(lab: Lab, backend: Backend, way: type[sync.Way], rounds: int) -> None:
    scene = Scene(lab, backend, way)
    try:
        with scene.daemon as daemon:
            daemon.wait(20)
            scene.way.inside = ("nsenter", "-t", str(daemon.pid), "-m")  # `ip netns exec` made a mount namespace, too
            assert not scene.differences("old")
            with scene.watched():
                for _ in range(rounds):
                    for files in (scene.new, scene.old):
                        scene.way.become(files)
                        daemon.wait(20)
                scene.way.become(scene.new)
                daemon.wait(20)
            assert not scene.differences("new")
    finally:
        scene.way.close()


@pytest.mark.kernel
@pytest.mark.parametrize("way", WAYS, ids=named)
def test_packets_see_the_old_tree_or_the_new(lab: Lab, way: type[sync.Way]) -> None:
    _switch_there_and_back(lab, "nft", way, 1)


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.parametrize("way", [each for each in sync.ATOMIC if each is not sync.SedInPlace], ids=named)
def test_packets_see_the_old_tree_or_the_new_again_and_again(lab: Lab, backend: Backend, way: type[sync.Way]) -> None:
    _switch_there_and_back(lab, backend, way, 5)


@pytest.mark.kernel
def test_events_that_are_lost(lab: Lab) -> None:
    """The kernel's queue runs over while the daemon is stopped."""
    scene = Scene(lab, "nft", sync.Copied)
    with scene.daemon as daemon:
        daemon.wait(20)
        with scene.watched():
            os.kill(daemon.pid, signal.SIGSTOP)
            for number in range(6000):
                noise = scene.way.watched / f".{number}"
                noise.touch()  # CREATE, CLOSE_WRITE, DELETE
                noise.unlink()
            scene.way.become(scene.new)
            time.sleep(1.1)  # longer than it waits for a signal
            os.kill(daemon.pid, signal.SIGCONT)
            assert eventually(lambda: not scene.differences("new"), 20)
        assert daemon.running


# Threads of the daemon --------------------------------------------------------------------------------------------

INJECT = """
import os, threading, time

def wait():
    while not os.path.exists({trigger!r}):
        time.sleep(0.02)
{harm}

threading.Thread(target=wait, daemon=True).start()
"""
FAIL_WATCHER = """
    from netpold.host.watch import Watcher
    note = Watcher._note
    def fail(*_):
        Watcher._note = note  # once
        raise ZeroDivisionError
    Watcher._note = fail
"""
FAIL_CUTTER = """
    from netpold.daemon.cutter import Cutter
    Cutter._look = lambda *_: 1 / 0
"""


@pytest.fixture
def inject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Have the next daemon harm itself as soon as the file is there that this gives."""

    def prepare(harm: str) -> Path:
        (tmp_path / "usercustomize.py").write_text(INJECT.format(trigger=str(tmp_path / "now"), harm=harm))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return tmp_path / "now"

    return prepare


@pytest.mark.kernel
def test_the_daemon_replaces_a_dead_watcher_and_says_so(lab: Lab, inject: Callable[[str], Path]) -> None:
    now = inject(FAIL_WATCHER)
    scene = Scene(lab, "nft", sync.LinkSwapped)

    def died() -> bool:
        (scene.way.watched / ".poke").touch()  # an event that means nothing
        return "thread netpold-watch ended" in daemon.errors()

    with scene.daemon as daemon:
        daemon.wait(20)
        with scene.watched():
            now.touch()
            assert eventually(died, 10)
            scene.way.become(scene.new)
            assert eventually(lambda: not scene.differences("new"), 10)
        assert any("was replaced" in each for each in daemon.status()["warnings"])


@pytest.mark.kernel
def test_another_thread_that_dies_ends_the_daemon_and_the_next_goes_on(
    lab: Lab, inject: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = inject(FAIL_CUTTER)
    scene = Scene(lab, "nft", sync.LinkSwapped)
    with scene.daemon as daemon:
        daemon.wait(20)
        with scene.watched():
            now.touch()
            time.sleep(0.2)
            scene.way.become(scene.new)
            assert eventually(lambda: not daemon.running)
            assert "thread cutter ended" in daemon.errors()
            monkeypatch.delenv("PYTHONPATH")
            daemon.start()
            daemon.wait(20)
        assert not scene.differences("new")
