"""File events, with real files: each change wakes and says where to look, our own reading does not."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netpold.host import watch
from netpold.host.hints import NOTHING_CHANGED, Happened, Hints
from netpold.host.scan import SourceError, Walk
from netpold.host.trust import Trustees
from netpold.host.watch import Watcher, hops

QUIET_S = 0.15


def walk(directory: Path, watcher: Watcher | None = None) -> int:
    """Look through a directory, as a Source does; gives the number of files."""
    anywhere = Trustees(linked_trees=("/",))
    found = Walk(directory, 1 << 20, watcher.enter if watcher else lambda path: None, trustees=anywhere)
    count = sum(1 for _ in found)
    if watcher:
        watcher.follow(found.tree)
    return count


class Watched:
    """A watcher as the daemon uses it: every wake-up is followed by a walk, and the walk by `follow`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.woken = threading.Event()
        self.count = 0
        self.watcher = Watcher(directory, self._wake)
        self.watcher.start()
        self.rest()

    def _wake(self) -> None:
        self.count += 1
        self.woken.set()

    def _scan(self) -> None:
        self.watcher.take()
        try:
            walk(self.directory, self.watcher)
        except SourceError:
            self.watcher.follow(None)

    def rest(self) -> None:
        """Scan until nothing wakes us any more."""
        self._scan()
        deadline = time.monotonic() + 10
        while self.woken.wait(QUIET_S):
            assert time.monotonic() < deadline, "it never comes to rest: scanning wakes it up"
            self.woken.clear()
            self._scan()

    def hints(self, change: Callable[[], object]) -> Hints:
        """What a change says, as soon as it is quiet; afterwards it is at rest again."""
        assert self.watcher.take() == NOTHING_CHANGED
        change()
        time.sleep(0.05)
        hints = self.watcher.take()
        self.rest()
        return hints

    def wakes(self, change: Callable[[], object]) -> bool:
        """Whether a change wakes within a second; afterwards it is at rest again."""
        self.woken.clear()
        change()
        woken = self.woken.wait(1.0)
        self.rest()
        return woken


@pytest.fixture
def top(tmp_path: Path) -> Path:
    directory = tmp_path / "top"
    directory.mkdir()
    (directory / "a.yaml").write_text("a")
    (directory / "sub").mkdir()
    (directory / "sub/b.yaml").write_text("b")
    return directory


@pytest.fixture
def watched(top: Path) -> Iterator[Watched]:
    made = Watched(top)
    yield made
    made.watcher.close()


def test_each_kind_of_change_wakes(watched: Watched, top: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text("")
    assert watched.wakes(lambda: (top / "a.yaml").write_text("changed"))
    assert watched.wakes(lambda: (top / "sub/b.yaml").write_text("changed"))
    assert watched.wakes(lambda: (top / "new.yaml").touch())
    assert watched.wakes(lambda: (tmp_path / "outside.yaml").rename(top / "moved-in.yaml"))
    assert watched.wakes(lambda: (top / "moved-in.yaml").rename(tmp_path / "out-again.yaml"))
    assert watched.wakes(lambda: (top / "new.yaml").rename(top / "sub/new.yaml"))
    assert watched.wakes(lambda: (top / "a.yaml").unlink())
    assert watched.wakes(lambda: (top / "sub/b.yaml").chmod(0o600))
    assert watched.wakes(lambda: shutil.rmtree(top / "sub"))


def test_reading_wakes_nobody(watched: Watched, top: Path) -> None:
    watched.woken.clear()
    for _ in range(3):
        (top / "a.yaml").read_text()
        list((top / "sub").iterdir())
        walk(top)
    assert not watched.woken.wait(QUIET_S)


def test_new_directories_are_watched(watched: Watched, top: Path, tmp_path: Path) -> None:
    assert watched.wakes(lambda: (top / "x/y/z").mkdir(parents=True))
    assert watched.wakes(lambda: (top / "x/y/z/c.yaml").touch())
    (tmp_path / "ready/deep").mkdir(parents=True)
    assert watched.wakes(lambda: (tmp_path / "ready").rename(top / "moved"))
    assert watched.wakes(lambda: (top / "moved/deep/d.yaml").touch())  # watchdog's own observer is deaf here
    assert watched.wakes(lambda: (top / "moved").rename(top / "renamed"))
    assert watched.wakes(lambda: (top / "renamed/deep/e.yaml").touch())


def test_a_directory_made_again(watched: Watched, top: Path) -> None:
    for _ in range(3):
        assert watched.wakes(lambda: shutil.rmtree(top / "sub"))
        assert watched.wakes(lambda: (top / "sub").mkdir())
        assert watched.wakes(lambda: (top / "sub/again.yaml").touch())


def test_the_watched_directory_made_again(watched: Watched, top: Path) -> None:
    for _ in range(3):
        assert watched.wakes(lambda: shutil.rmtree(top))
        assert watched.wakes(top.mkdir)
        assert watched.wakes(lambda: (top / "again.yaml").touch())


def test_the_watched_directory_replaced(watched: Watched, top: Path, tmp_path: Path) -> None:
    def replace() -> None:
        top.rename(tmp_path / "old")
        (tmp_path / "next").rename(top)

    (tmp_path / "next").mkdir()
    assert watched.wakes(replace)
    assert watched.wakes(lambda: (top / "again.yaml").touch())
    assert not watched.wakes(lambda: (tmp_path / "old/a.yaml").touch())


def test_a_directory_that_comes_later(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "not/yet/there")
    assert watched.wakes(lambda: (tmp_path / "not").mkdir())
    assert watched.wakes(lambda: (tmp_path / "not/yet").mkdir())
    assert watched.wakes(lambda: (tmp_path / "not/yet/there").mkdir())
    assert watched.wakes(lambda: (tmp_path / "not/yet/there/a.yaml").touch())
    watched.watcher.close()


def test_a_directory_that_is_a_swapped_symlink(tmp_path: Path) -> None:
    for revision in ("r1", "r2"):
        (tmp_path / "git" / revision / "policies").mkdir(parents=True)
    (tmp_path / "git/current").symlink_to("r1")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/netpold").symlink_to(tmp_path / "git/current/policies")
    watched = Watched(tmp_path / "etc/netpold")

    def swap() -> None:
        (tmp_path / "git/new").symlink_to("r2")
        (tmp_path / "git/new").rename(tmp_path / "git/current")

    assert watched.wakes(lambda: (tmp_path / "git/r1/policies/a.yaml").touch())
    assert not watched.wakes(lambda: (tmp_path / "git/r2/policies/a.yaml").touch())
    assert watched.wakes(swap)
    assert watched.wakes(lambda: (tmp_path / "git/r2/policies/b.yaml").touch())
    assert not watched.wakes(lambda: (tmp_path / "git/r1/policies/b.yaml").touch())
    watched.watcher.close()


def test_links_inside_to_elsewhere(watched: Watched, top: Path, tmp_path: Path) -> None:
    """git-sync beside the directory: the link in the directory stays, one on the way is swapped."""
    for revision in ("r1", "r2"):
        (tmp_path / "git" / revision / "pods").mkdir(parents=True)
    (tmp_path / "git/current").symlink_to("r1")
    (tmp_path / "single.yaml").write_text("")
    assert watched.wakes(lambda: (top / "pods").symlink_to("../git/current/pods"))
    assert watched.wakes(lambda: (top / "single.yaml").symlink_to("../single.yaml"))
    assert watched.wakes(lambda: (tmp_path / "git/r1/pods/a.yaml").touch())
    assert watched.wakes(lambda: (tmp_path / "single.yaml").write_text("changed in place"))
    assert not watched.wakes(lambda: (tmp_path / "neighbour.yaml").touch())

    def swap() -> None:
        (tmp_path / "git/new").symlink_to("r2")
        (tmp_path / "git/new").rename(tmp_path / "git/current")

    assert watched.wakes(swap)
    assert watched.wakes(lambda: (tmp_path / "git/r2/pods/a.yaml").touch())


def test_a_dangling_link_that_gets_its_target(watched: Watched, top: Path, tmp_path: Path) -> None:
    assert watched.wakes(lambda: (top / "late").symlink_to(tmp_path / "target"))
    assert watched.wakes(lambda: (tmp_path / "target").mkdir())
    assert watched.wakes(lambda: (tmp_path / "target/a.yaml").touch())


def test_a_burst_costs_little(watched: Watched, top: Path) -> None:
    """Thousands of files from another process: the last one is seen, and the kernel's queue has not run over."""
    program = "import sys\nfor i in range(5000):\n    with open(f'{sys.argv[1]}/{i}.yaml', 'w') as f: f.write('x' * 99)"
    watched.woken.clear()
    writer = subprocess.Popen(["/usr/bin/python3", "-c", program, str(top)])
    seen = 0
    while writer.poll() is None:
        watched.woken.wait(0.1)
        watched.woken.clear()
        seen = walk(top)
    while watched.woken.wait(0.5):
        watched.woken.clear()
        seen = walk(top)
    assert writer.returncode == 0
    assert seen == 5002


def test_lost_events_wake(watched: Watched) -> None:
    """The kernel says IN_Q_OVERFLOW (watch -1) when its queue ran over."""
    overflow = watch._EVENT.pack(-1, watch.Inotify.IN_Q_OVERFLOW, 0, 0)
    unknown = watch._EVENT.pack(999, watch.Inotify.IN_MODIFY, 0, 16) + b"name".ljust(16, b"\0")
    watched.watcher._note(unknown)
    assert not watched.watcher.take()
    watched.watcher._note(unknown + overflow)
    assert watched.watcher.take().everything


class TestHints:
    """What is said of each change."""

    def test_one_file(self, watched: Watched, top: Path, tmp_path: Path) -> None:
        a, b, outside = top / "a.yaml", top / "sub/b.yaml", tmp_path / "outside.yaml"

        def written_aside() -> None:
            (top / ".a.yaml.tmp").write_text("whole")
            (top / ".a.yaml.tmp").rename(a)

        def edited_by_vim() -> None:
            a.rename(top / "a.yaml~")
            a.write_text("new")

        outside.touch()
        assert watched.hints(lambda: a.write_text("x")) == Hints({str(a): Happened.WRITTEN})
        assert watched.hints(lambda: a.chmod(0o600)) == Hints({str(a): Happened.WRITTEN})
        assert watched.hints(written_aside) == Hints({str(a): Happened.MOVED_IN})
        assert watched.hints(lambda: (written_aside(), a.chmod(0o644))) == Hints({str(a): Happened.MOVED_IN})
        assert watched.hints(lambda: (written_aside(), a.write_text("y"))) == Hints({str(a): Happened.WRITTEN})
        assert watched.hints(lambda: a.rename(b)) == Hints({str(a): Happened.RENAMED, str(b): Happened.MOVED_IN})
        assert watched.hints(lambda: (b.rename(a), b.touch())) == Hints(
            {str(b): Happened.WRITTEN, str(a): Happened.MOVED_IN}
        )
        assert watched.hints(edited_by_vim) == Hints({str(a): Happened.WRITTEN})
        assert watched.hints(b.unlink) == Hints({str(b): Happened.GONE})
        assert watched.hints(lambda: a.rename(tmp_path / "gone.yaml")) == Hints({str(a): Happened.GONE})
        assert watched.hints(lambda: outside.rename(a)) == Hints({str(a): Happened.MOVED_IN})

    def test_names_that_are_passed_over_say_nothing(self, watched: Watched, top: Path) -> None:
        for name in (".hidden.yaml", "a.yaml~", "a.yaml.swp", "a.yaml.tmp"):
            assert watched.hints((top / name).touch) == NOTHING_CHANGED
        assert watched.hints((top / ".hidden").mkdir) == NOTHING_CHANGED

    def test_what_needs_a_walk(self, watched: Watched, top: Path, tmp_path: Path) -> None:
        assert watched.hints((top / "new").mkdir).everything
        assert watched.hints((top / ".git").mkdir).everything
        (tmp_path / "ready").mkdir()
        assert watched.hints(lambda: (tmp_path / "ready").rename(top / "ready")).swapped
        assert watched.hints(lambda: (top / "ready").rename(tmp_path / "away")).everything
        (top / "..data").symlink_to("sub")
        (top / "b.yaml").symlink_to("..data/b.yaml")
        watched.rest()
        (top / "..next").symlink_to("sub")
        assert watched.hints(lambda: (top / "..next").rename(top / "..data")).swapped


@pytest.mark.parametrize("limit", ["instances", "watches"])
def test_without_inotify_it_polls(top: Path, limit: str) -> None:
    """The kernel's limits, lowered in a user namespace of the test's own."""
    program = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from netpold.host import watch\n"
        "from netpold.host.scan import Walk\n"
        "watch.POLL_S = 0.05\n"
        "woken = threading.Semaphore(0)\n"
        "watcher = watch.Watcher(Path(sys.argv[1]), woken.release)\n"
        "watcher.start()\n"
        "walk = Walk(Path(sys.argv[1]), 100, watcher.enter)\n"
        "list(walk)\n"
        "watcher.follow(walk.tree)\n"
        "assert all(woken.acquire(timeout=5) for _ in range(5))\n"
        "watcher.close()\n"
        "print(watcher.warning)\n"
    )
    number = {"instances": 0, "watches": 1}[limit]
    lower = f'echo {number} > /proc/sys/user/max_inotify_{limit} && exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", lower, "sh", "/usr/bin/python3", "-c", program]
    done = subprocess.run([*words, str(top)], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert "file events can't be had" in done.stdout, done.stderr
    assert f"raise the sysctl fs.inotify.max_user_{limit}" in done.stdout


def test_close_gives_everything_back(top: Path) -> None:
    others = threading.enumerate()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        watcher = Watcher(top, lambda: None)
        watcher.start()
        walk(top, watcher)
        watcher.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not [each for each in threading.enumerate() if each not in others]


def test_watches_not_needed_any_more_are_given_back(watched: Watched, top: Path, tmp_path: Path) -> None:
    def watches() -> int:
        return Path(f"/proc/self/fdinfo/{watched.watcher._inotify}").read_text().count("inotify wd:")

    before = watches()
    (top / "many").mkdir()
    for number in range(10):
        (top / "many" / str(number)).mkdir()
    watched.rest()
    assert watches() == before + 11
    (top / "many").rename(tmp_path / "away")
    watched.rest()
    assert watches() == before


def test_what_happened_before_a_directory_was_watched(top: Path) -> None:
    """Between the walk that listed a directory and its watch, files may have come: so a new watch wakes, once."""
    woken: list[None] = []
    watcher = Watcher(top, lambda: woken.append(None))
    watcher.start()
    watcher.take()
    woken.clear()
    found = Walk(top, 1 << 20)
    list(found)
    watcher.follow(found.tree)
    assert len(woken) == 1
    assert watcher.take().everything
    watcher.follow(found.tree)
    assert len(woken) == 1
    watcher.close()


def test_a_directory_that_is_watched_before_it_is_listed_needs_no_second_look(top: Path) -> None:
    watcher = Watcher(top, lambda: None)
    watcher.start()
    watcher.take()
    walk(top, watcher)
    assert watcher.take() == NOTHING_CHANGED
    watcher.close()


def test_hops(tmp_path: Path) -> None:
    real = tmp_path.resolve()
    (real / "a/b").mkdir(parents=True)
    (real / "l1").symlink_to("a")
    (real / "l2").symlink_to(real / "l1/b")
    (real / "loop").symlink_to("loop")
    assert list(hops(str(real / "a/b"))) == [str(real / "a/b")]
    assert list(hops(str(real / "l2"))) == [str(real / "l2"), str(real / "l1"), str(real / "a/b")]
    assert list(hops(str(real / "l1/../a/./b/gone/x"))) == [str(real / "l1"), str(real / "a/b/gone")]
    assert next(hops(str(real / "loop"))) == str(real / "loop")
