"""What is not there any more: gone, or only away.  With real files."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from netpold.host import waiting
from netpold.host.hints import EVERYTHING_CHANGED, NOTHING_CHANGED, Happened, Hints
from netpold.host.parsed_cache import ParsedCache
from netpold.host.scan import SourceError
from netpold.host.source import Source
from tests.test_source import LIMIT, SETTLE_S, Follower, codes, hint, namespace, pod


class Before:
    """What was known before a restart."""

    def __init__(self, *paths: Path) -> None:
        self._files = [str(path) for path in paths]
        self.lost: str | None = None

    def files(self) -> Collection[str]:
        return self._files

    def fault(self) -> str | None:
        return self.lost

    def try_again(self) -> None:
        self.lost = None


@pytest.fixture
def top(tmp_path: Path) -> Path:
    made = tmp_path / "top"
    made.mkdir()
    for number in range(20):
        (made / f"{number}.yaml").write_text(namespace(f"n{number}"))
    return made


@pytest.fixture
def known(top: Path) -> Follower:
    follower = Follower(Source(top, LIMIT))
    follower.settle()
    follower.history.clear()
    return follower


def gone(top: Path, *numbers: int) -> Hints:
    for number in numbers:
        (top / f"{number}.yaml").unlink()
    return Hints({str(top / f"{number}.yaml"): Happened.GONE for number in numbers})


def read_for(follower: Follower, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        follower.read()
        time.sleep(0.002)


class TestGone:
    def test_it_is_looked_at_twice(self, known: Follower, top: Path) -> None:
        """Also where only a walk can tell, and the directory is back when it looks again."""
        (top / "sub").mkdir()
        (top / "sub/a.yaml").write_text(namespace("a"))
        known.settle()
        known.history.clear()
        (top / "sub").rename(top.parent / "away")
        known.read(EVERYTHING_CHANGED)
        (top.parent / "away").rename(top / "sub")
        known.settle(NOTHING_CHANGED)
        assert known.history == []

    def test_a_directory_that_is_really_gone(self, known: Follower, top: Path) -> None:
        (top / "sub").mkdir()
        (top / "sub/a.yaml").write_text(namespace("a"))
        known.settle()
        shutil.rmtree(top / "sub")
        known.settle(EVERYTHING_CHANGED)
        assert known.history[1:] == [{"a.yaml": None}]

    def test_several_wait_for_each_other(self, known: Follower, top: Path) -> None:
        for number in range(10):
            known.read(gone(top, number))
            time.sleep(0.004 if number else 0)
        known.settle(NOTHING_CHANGED)
        assert [len(each) for each in known.history] == [10]

    def test_but_not_for_ever(self, known: Follower, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waiting, "DEADLINE_S", 0.3)
        known.read(gone(top, 0, 1))
        for number in range(2, 19):
            known.read(gone(top, number))
            time.sleep(0.04)
        assert known.history

    def test_pods_wait_less(self, known: Follower, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waiting, "HARMLESS_S", 0.05)
        for number in range(19):
            (top / f"{number}.yaml").write_text(pod(f"p{number}"))
        known.settle()
        known.history.clear()
        for number in range(10):
            known.read(gone(top, number))
            time.sleep(0.02)
        assert known.history

    def test_one_that_is_written_anew_under_another_name_meanwhile(self, known: Follower, top: Path) -> None:
        """As rsync --delete does it with several."""
        known.read(gone(top, 0, 1))
        time.sleep(0.05)
        (top / "new.yaml").write_text(namespace("n0"))
        known.settle(hint(top / "new.yaml"))
        assert known.history == [{"0.yaml": None, "1.yaml": None, "new.yaml": ["n0"]}]


class TestNothingIsLeft:
    def test_a_tree_that_is_deleted_file_by_file(self, known: Follower, top: Path) -> None:
        for number in range(20):
            known.read(gone(top, number))
        with pytest.raises(SourceError, match="no manifest"):
            known.settle(NOTHING_CHANGED)
        for _ in range(3):
            with pytest.raises(SourceError, match="allow_empty"):
                known.read(EVERYTHING_CHANGED)
        assert known.history == []
        assert len(known.names) == 20

    def test_what_went_first_comes_back(self, known: Follower, top: Path) -> None:
        """The deletion had paused for longer than anybody waits."""
        known.settle(gone(top, 0))
        assert known.history == [{"0.yaml": None}]
        with pytest.raises(SourceError):
            known.settle(gone(top, *range(1, 20)))
        stand_ins = known.source.stand_ins()
        assert stand_ins is not None
        assert [(Path(path).name, says.objects[0].name) for path, says in stand_ins.changed.items() if says] == [
            ("0.yaml", "n0")
        ]
        assert known.source.stand_ins() is None
        assert len(known.source.parsed) == 20

    def test_what_others_took_the_place_of_does_not_come_back(self, known: Follower, top: Path) -> None:
        """A tree that is filled anew twice in a row."""
        went = gone(top, 0, 1)
        (top / "new.yaml").write_text(namespace("n0"))
        known.settle(Hints({**went.paths, **hint(top / "new.yaml").paths}))
        assert known.history == [{"0.yaml": None, "1.yaml": None, "new.yaml": ["n0"]}]
        (top / "new.yaml").unlink()
        with pytest.raises(SourceError):
            known.settle(Hints({**gone(top, *range(2, 20)).paths, **hint(top / "new.yaml", Happened.GONE).paths}))
        assert known.source.stand_ins() is None
        assert len(known.source.parsed) == 19

    def test_a_branch_without_manifests(self, tmp_path: Path) -> None:
        def git(*words: str) -> None:
            settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
            subprocess.run(["git", *settings, *words], cwd=tmp_path, check=True, capture_output=True)

        git("init")
        (tmp_path / "README").write_text("empty")
        git("add", ".")
        git("commit", "-m", "empty")
        git("checkout", "-b", "full")
        for number in range(50):
            (tmp_path / f"{number}.yaml").write_text(namespace(f"n{number}"))
        git("add", ".")
        git("commit", "-m", "full")
        follower = Follower(Source(tmp_path, LIMIT))
        follower.settle()
        git("checkout", "main")
        with pytest.raises(SourceError):
            follower.settle()
        assert len(follower.names) == 50
        git("checkout", "full")
        follower.settle()
        assert len(follower.history) == 1

    def test_a_swap_to_an_empty_tree(self, tmp_path: Path) -> None:
        top = tmp_path / "top"
        for revision in ("old", "new"):
            (top / ".trees" / revision).mkdir(parents=True)
        (top / ".trees/old/a.yaml").write_text(namespace("a"))
        (top / "current").symlink_to(".trees/old")
        follower = Follower(Source(top, LIMIT))
        follower.settle()
        (top / "next").symlink_to(".trees/new")
        (top / "next").rename(top / "current")
        with pytest.raises(SourceError):
            follower.settle(hint(top / "current", Happened.MOVED_IN))
        assert follower.names == {"a.yaml": ["a"]}

    def test_what_is_there_anew_is_one_change(self, known: Follower, top: Path) -> None:
        """Filled slowly, file by file: nothing that is still to come is taken for deleted."""
        kept = top.with_name("kept")
        shutil.copytree(top, kept)
        shutil.rmtree(top)
        for _ in range(2):
            with pytest.raises(SourceError):
                known.read(EVERYTHING_CHANGED)
        top.mkdir()
        with pytest.raises(SourceError):
            known.read(EVERYTHING_CHANGED)
        for number in range(19):
            shutil.copy(kept / f"{number}.yaml", top)
            known.read(hint(top / f"{number}.yaml"))
            read_for(known, 0.1)
            assert len(known.names) == 20
        known.settle(NOTHING_CHANGED)
        assert known.history == [{"19.yaml": None}]

    def test_it_is_allowed(self, top: Path) -> None:
        follower = Follower(Source(top, LIMIT, allow_empty=True))
        follower.settle()
        for number in range(20):
            (top / f"{number}.yaml").unlink()
        follower.settle()
        assert follower.names == {}

    def test_a_file_with_a_comment_says_so_too(self, known: Follower, top: Path) -> None:
        (top / "none.yaml").write_text("# nothing is to be enforced\n")
        known.read(hint(top / "none.yaml"))
        known.settle(gone(top, *range(20)))
        assert known.names == {"none.yaml": []}

    def test_a_file_where_the_directory_was(self, known: Follower, top: Path) -> None:
        shutil.rmtree(top)
        top.write_text(namespace("x"))
        with pytest.raises(SourceError, match="is a file now"):
            known.settle()
        assert len(known.names) == 20


TWO = namespace("x") + "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: long\n"


class TestEmptiedFiles:
    @pytest.mark.parametrize("text", ["", "\n \r\n", "\0\0\0"])
    def test_what_it_held_stays(self, known: Follower, top: Path, text: str) -> None:
        (top / "0.yaml").write_text(text)
        known.settle(hint(top / "0.yaml"))
        says = known.parsed[str(top / "0.yaml")]
        assert says.truncated
        expected = ["cut-file", "control-character"] if "\0" in text else ["emptied-file"]
        assert [each.code for each in says.findings] == expected
        known.settle(EVERYTHING_CHANGED)
        assert known.parsed[str(top / "0.yaml")].truncated
        (top / "0.yaml").write_text("# meant\n")
        known.settle(hint(top / "0.yaml"))
        assert not known.parsed[str(top / "0.yaml")].truncated

    def test_one_that_never_held_anything(self, known: Follower, top: Path) -> None:
        (top / "new.yaml").touch()
        known.settle(hint(top / "new.yaml"))
        says = known.parsed[str(top / "new.yaml")]
        assert not says.truncated and not says.findings

    def test_a_file_that_was_cut(self, known: Follower, top: Path) -> None:
        """By a program that died as it wrote: what is left is valid, and says less."""
        path = top / "0.yaml"
        path.write_text(TWO)
        known.settle(hint(path))
        for text in (TWO[:-3], "", TWO.partition("\n---")[0]):
            path.write_text(text)
            known.settle(hint(path))
            says = known.parsed[str(path)]
            code = "cut-file" if text else "emptied-file"
            assert says.truncated and [each.code for each in says.findings] == [code], text
        path.write_text(namespace("z"))
        known.settle(hint(path))
        assert known.names["0.yaml"] == ["z"] and not known.parsed[str(path)].truncated

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (namespace("x").rstrip(), namespace("y").rstrip()),  # it never ended with a newline
            (namespace("x"), '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "y"}}'),
            ("# nothing\n", namespace("y").rstrip()),
        ],
    )
    def test_one_without_a_newline_that_is_whole(self, known: Follower, top: Path, before: str, after: str) -> None:
        for text in (before, after):
            (top / "new.yaml").write_text(text)
            known.settle(hint(top / "new.yaml"))
        assert known.names["new.yaml"] == ["y"]

    def test_a_file_that_was_cut_while_the_daemon_did_not_run(self, tmp_path: Path) -> None:
        top, path = tmp_path / "top", tmp_path / "top/a.yaml"
        top.mkdir()
        path.write_text(TWO)
        for text in (None, TWO[:-3], None):
            if text:
                path.write_text(text)
            cache = ParsedCache(tmp_path / "parsed.sqlite")
            follower = Follower(Source(top, LIMIT, cache=cache, before=Before(path)))
            follower.settle()
            time.sleep(0.03)
            while follower.source.due:
                follower.read()
            while not follower.source.save(1.0):
                pass
            cache.close()
        says = follower.parsed[str(path)]
        assert says.truncated and [each.code for each in says.findings] == ["cut-file"]

    def test_known_from_before_a_restart(self, tmp_path: Path) -> None:
        for name in ("a.yaml", "b.yaml"):
            (tmp_path / name).touch()
        follower = Follower(Source(tmp_path, LIMIT, before=Before(tmp_path / "a.yaml")))
        follower.settle()
        assert {path[-6]: says.truncated for path, says in follower.parsed.items()} == {"a": True, "b": False}


def read_until_settled(source: Source) -> None:
    end = time.monotonic() + 20
    while not source.read(EVERYTHING_CHANGED, SETTLE_S).settled:
        assert time.monotonic() < end
        time.sleep(0.01)


class TestAfterARestart:
    def test_nothing_is_there(self, tmp_path: Path) -> None:
        """No directory, then an empty one, then the manifests."""
        top = tmp_path / "top"
        source = Source(top, LIMIT, before=Before(top / "a.yaml", top / "b.yaml"))
        with pytest.raises(SourceError, match="is not there"):
            source.read(EVERYTHING_CHANGED, SETTLE_S)
        stand_ins = source.stand_ins()
        assert stand_ins is not None and source.complete
        assert {path: says and says.truncated for path, says in stand_ins.changed.items()} == {
            str(top / "a.yaml"): True,
            str(top / "b.yaml"): True,
        }
        top.mkdir()
        for _ in range(3):
            with pytest.raises(SourceError, match="no manifest"):
                source.read(EVERYTHING_CHANGED, SETTLE_S)
            assert source.stand_ins() is None
        (top / "a.yaml").write_text(namespace("a"))
        end = time.monotonic() + 20
        changed = dict(source.read(EVERYTHING_CHANGED, SETTLE_S).changed)
        while not source.is_settled():
            assert time.monotonic() < end
            changed |= source.read(NOTHING_CHANGED, SETTLE_S).changed
            time.sleep(0.01)
        assert {path[-6]: says and says.objects[0].name for path, says in changed.items()} == {"a": "a", "b": None}

    def test_nothing_was_known(self, tmp_path: Path) -> None:
        source = Source(tmp_path, LIMIT, before=Before())
        while not source.read(EVERYTHING_CHANGED, SETTLE_S).settled:
            time.sleep(0.01)
        missing = Source(tmp_path / "none", LIMIT, before=Before())
        with pytest.raises(SourceError):
            missing.read(EVERYTHING_CHANGED, SETTLE_S)
        assert missing.stand_ins() is None and not missing.complete

    def test_a_directory_on_which_nothing_is_mounted_yet(self, top: Path) -> None:
        (top / "team/deep").mkdir(parents=True)
        (top / "empty").mkdir()
        before = Before(top / "0.yaml", top / "team/a.yaml", top / "team/deep/b.yaml", top / "gone/c.yaml")
        follower = Follower(Source(top, LIMIT, before=before))
        for _ in range(2):
            reading = follower.settle()
            assert codes(reading) == ["unmounted-directory"] * 2
            assert {Path(each.position.file).name for each in reading.findings} == {"team", "deep"}
        assert {path for path, says in follower.parsed.items() if says.truncated} == {
            str(top / "team/a.yaml"), str(top / "team/deep/b.yaml"),
        }  # fmt: skip
        (top / "team/a.yaml").write_text(namespace("a"))
        (top / "team/deep").rmdir()
        assert codes(follower.settle()) == []
        assert follower.names["a.yaml"] == ["a"] and "b.yaml" not in follower.names

    def test_nothing_is_known_but_rules_are_in_force(self, tmp_path: Path) -> None:
        source = Source(tmp_path, LIMIT, before=Before())
        source.was_enforced()
        for _ in range(2):
            with pytest.raises(SourceError, match="no manifest"):
                source.read(EVERYTHING_CHANGED, SETTLE_S)
        assert source.stand_ins() is None and not source.complete
        (tmp_path / "a.yaml").write_text(namespace("a"))
        follower = Follower(source)
        follower.settle()
        assert follower.names == {"a.yaml": ["a"]}

    def test_what_a_broken_file_held_is_lost(self, top: Path) -> None:
        (top / "0.yaml").write_text("kind: [")
        before = Before(top / "1.yaml")
        before.lost = "it was damaged"
        source = Source(top, LIMIT, before=before)
        source.was_enforced()
        with pytest.raises(SourceError, match=r"what .*/0.yaml, .* held before \(it was damaged\)"):
            read_until_settled(source)
        assert not source.complete and source.stand_ins() is None and before.lost is None
        follower = Follower(source)
        follower.settle()
        assert len(follower.names) == 20, "it was only out of reach"

    def test_what_the_directory_held_is_lost(self, tmp_path: Path) -> None:
        before = Before(tmp_path / "top/a.yaml")
        before.lost = "it was damaged"
        source = Source(tmp_path / "top", LIMIT, before=before)
        source.was_enforced()
        with pytest.raises(SourceError, match="is not there"):
            source.read(EVERYTHING_CHANGED, SETTLE_S)
        assert source.stand_ins() is None and not source.complete

    def test_what_lies_below_a_link_that_leads_nowhere(self, top: Path) -> None:
        (top / "git").symlink_to("nowhere")
        before = Before(top / "git/a.yaml", top / "git/deep/b.yaml", top / "gone.yaml")
        follower = Follower(Source(top, LIMIT, before=before))
        assert codes(follower.settle()) == ["dangling-symlink"]
        assert {path for path, says in follower.parsed.items() if says.truncated} == {
            str(top / "git"), str(top / "git/a.yaml"), str(top / "git/deep/b.yaml"),
        }  # fmt: skip
        (top / "git").unlink()
        (top / "git").mkdir()
        (top / "git/a.yaml").write_text(namespace("a"))
        follower.settle()
        assert [*follower.names] == sorted(["a.yaml", *(f"{number}.yaml" for number in range(20))])


def other_kind(top: Path, kind: str) -> Path:
    """Something of another kind in the place of a file or a directory; returns where."""
    path = top / ("sub/p.yaml" if "file" in kind else "sub")
    path.unlink() if path.is_file() else shutil.rmtree(path)
    if kind == "file by a directory":
        path.mkdir()
    elif kind == "file by a link":
        path.symlink_to(".")
    elif kind == "directory by a fifo":
        os.mkfifo(path)
    else:
        path.write_text("# x")
    return path


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    "kind", ["file by a directory", "file by a link", "directory by a fifo", "directory by another"]
)
def test_something_of_another_kind(known: Follower, top: Path, kind: str, restart: bool) -> None:
    (top / "sub").mkdir()
    (top / "sub/p.yaml").write_text(namespace("p"))
    known.settle()
    where = other_kind(top, kind)
    if restart:
        known = Follower(Source(top, LIMIT, before=Before(top / "sub/p.yaml")))
    for _ in range(2):
        reading = known.settle()
        assert [each.position.file for each in reading.findings] == [str(where)]
        assert known.parsed[str(top / "sub/p.yaml")].truncated if restart else known.names["p.yaml"] == ["p"]
    where.rmdir() if where.is_dir() and not where.is_symlink() else where.unlink()
    assert codes(known.settle()) == [] and "p.yaml" not in known.names


def test_a_link_by_a_name_of_a_manifest_that_led_nowhere(known: Follower, top: Path) -> None:
    (top / "link.yaml").symlink_to("sub")
    assert codes(known.settle()) == ["dangling-symlink"]
    (top / "sub").mkdir()
    assert codes(known.settle()) == []


def test_what_lies_below_a_link_that_breaks(known: Follower, top: Path) -> None:
    (top / ".store/deep").mkdir(parents=True)
    (top / ".store/deep/c.yaml").write_text(namespace("c"))
    (top / "link").symlink_to(".store")
    known.settle()
    (top / ".store").rename(top / ".away")
    assert codes(known.settle(EVERYTHING_CHANGED)) == ["dangling-symlink"]
    assert known.names["c.yaml"] == ["c"]
    (top / "link").unlink()
    known.settle(EVERYTHING_CHANGED)
    assert "c.yaml" not in known.names
    assert os.path.lexists(top / ".away")


UNMOUNT = """
import subprocess, sys, time
from pathlib import Path
from netpold.host.hints import EVERYTHING_CHANGED, NOTHING_CHANGED, Hints
from netpold.host.source import Source
top = Path(sys.argv[1])
def mount():
    subprocess.run(["mount", *sys.argv[2:], str(top / "sub")], check=True)
    (top / "sub/deep").mkdir(exist_ok=True)
    for name in ("deep/a", "b"):
        (top / f"sub/{name}.yaml").write_text("# any")
def look(hints=EVERYTHING_CHANGED):
    end = time.monotonic() + 10
    reading = source.read(hints, 0.02)
    while not reading.settled and time.monotonic() < end:
        time.sleep(0.01)
        reading = source.read(NOTHING_CHANGED, 0.02)
    print(len(source.parsed), *(finding.code for finding in reading.findings))
source = Source(top, 1 << 20)
(top / "sub").mkdir()
mount()
look()
subprocess.run(["umount", str(top / "sub")], check=True)
look(Hints({}, swapped=True))
look()
mount()
look()
subprocess.run(["umount", str(top / "sub")], check=True)
look()
(top / "sub").rmdir()
look()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_directory_below_is_unmounted(top: Path, kind: str) -> None:
    (top.parent / "far").mkdir()
    options = ["-t", "tmpfs", "none"] if kind == "tmpfs" else ["--bind", str(top.parent / "far")]
    words = ["unshare", "--mount", "/usr/bin/python3", "-c", UNMOUNT, str(top), *options]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent.parent, timeout=60)
    assert done.stdout.splitlines() == [
        "22", "22 unmounted-directory", "22 unmounted-directory", "22", "22 unmounted-directory", "20",
    ], done.stderr  # fmt: skip
