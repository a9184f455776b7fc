"""When manifests are acted on, with real files: quiet ones, half-written ones, unreadable ones, moving ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netpold.host import source as source_module
from netpold.host.scan import Snapshot
from netpold.host.source import Reading, Source, SourceError
from netpold.policy import manifest
from netpold.policy.chunks import Limits
from netpold.policy.manifest import Parsed

LIMIT = 1 << 20


def namespace(name: str) -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n"


def names(reading: Reading) -> dict[str, list[str]]:
    """What the files say: names of objects by file name."""
    return {Path(path).name: [each.name for each in parsed.objects] for path, parsed in sorted(reading.parsed.items())}


def codes(reading: Reading) -> list[str]:
    return sorted(each.code for each in reading.findings)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "a.yaml").write_text(namespace("a"))
    (tmp_path / "b.yaml").write_text(namespace("b"))
    return Source(tmp_path, LIMIT)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were parsed, in order."""
    seen: list[str] = []
    original = manifest.parse

    def parse(data: bytes, file: str, limits: Limits) -> Parsed:
        seen.append(Path(file).name)
        return original(data, file, limits)

    monkeypatch.setattr(manifest, "parse", parse)
    return seen


class Steps:
    """Stands in for the pause between two scans: what the world does meanwhile, one step for each pause."""

    def __init__(self, *steps: Callable[[], object], forever: Callable[[], object] | None = None) -> None:
        self.steps = list(steps)
        self.forever = forever
        self.pauses = 0

    def __call__(self, seconds: float) -> None:
        self.pauses += 1
        step = self.steps.pop(0) if self.steps else self.forever
        if step:
            step()
        time.sleep(0.02)


def test_read(source: Source) -> None:
    reading = source.read()
    assert names(reading) == {"a.yaml": ["a"], "b.yaml": ["b"]}
    assert not reading.findings
    assert not reading.moving


def test_only_what_changed_is_parsed_again(source: Source, tmp_path: Path, parses: list[str]) -> None:
    source.read()
    assert sorted(parses) == ["a.yaml", "b.yaml"]
    source.read()
    assert len(parses) == 2
    (tmp_path / "b.yaml").write_text(namespace("c"))
    assert names(source.read())["b.yaml"] == ["c"]
    assert parses[2:] == ["b.yaml"]
    (tmp_path / "b.yaml").write_text(namespace("c"))  # other times, same bytes: as after a git checkout
    source.read()
    assert len(parses) == 3


def test_what_is_deleted_is_gone(source: Source, tmp_path: Path) -> None:
    source.read()
    (tmp_path / "a.yaml").unlink()
    assert names(source.read()) == {"b.yaml": ["b"]}
    (tmp_path / "b.yaml").unlink()
    assert names(source.read()) == {}


def test_a_renamed_file(source: Source, tmp_path: Path) -> None:
    source.read()
    (tmp_path / "a.yaml").rename(tmp_path / "z.yaml")
    assert names(source.read()) == {"b.yaml": ["b"], "z.yaml": ["a"]}


def test_it_waits_until_nothing_changes(source: Source, tmp_path: Path) -> None:
    """Ten files, one in each pause, are one change."""
    steps = Steps(*(lambda n=n: (tmp_path / f"n{n}.yaml").write_text(namespace(f"n{n}")) for n in range(10)))
    reading = source.read(sleep=steps)
    assert steps.pauses == 11
    assert len(reading.parsed) == 12


def test_a_deletion_is_waited_for_too(source: Source, tmp_path: Path) -> None:
    """A file replaced by deleting it and writing it anew is never gone."""
    steps = Steps((tmp_path / "a.yaml").unlink, lambda: (tmp_path / "a.yaml").write_text(namespace("new")))
    assert names(source.read(sleep=steps)) == {"a.yaml": ["new"], "b.yaml": ["b"]}
    assert steps.pauses == 3


def test_it_waits_while_git_holds_its_lock(source: Source, tmp_path: Path) -> None:
    lock = tmp_path / ".git/index.lock"
    lock.parent.mkdir()
    lock.touch()
    steps = Steps(lambda: None, lambda: None, lambda: None, lock.unlink)
    reading = source.read(sleep=steps, deadline_s=0)  # the deadline is for writers without a lock
    assert steps.pauses == 4
    assert len(reading.parsed) == 2


def test_a_git_checkout_is_one_change(tmp_path: Path) -> None:
    """Real git, with a watcher that reads as fast as it can: no reading mixes two commits."""

    def git(*words: str) -> None:
        settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
        subprocess.run(["git", *settings, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    for revision in ("old", "new"):
        for number in range(200):
            (tmp_path / f"{number}.yaml").write_text(namespace(revision))
        git("add", ".")
        git("commit", "-m", revision)
        git("branch", revision)
    source = Source(tmp_path, LIMIT)
    assert _revisions(source.read()) == {"new"}
    readings = 0
    done = threading.Event()

    def switch() -> None:
        for revision in ("old", "new") * 5:
            git("checkout", "-q", revision)
        done.set()

    writer = threading.Thread(target=switch)
    writer.start()
    while not done.is_set():
        assert len(_revisions(source.read(settle_s=0.005))) == 1
        readings += 1
    writer.join()
    assert readings
    assert _revisions(source.read()) == {"new"}


def _revisions(reading: Reading) -> set[str]:
    return {each.name for parsed in reading.parsed.values() for each in parsed.objects}


def test_a_swapped_symlink_is_one_change(tmp_path: Path) -> None:
    for revision in ("old", "new"):
        (tmp_path / ".trees" / revision).mkdir(parents=True)
        for number in range(20):
            (tmp_path / ".trees" / revision / f"{number}.yaml").write_text(namespace(revision))
    (tmp_path / "current").symlink_to(".trees/old")
    source = Source(tmp_path, LIMIT)
    assert _revisions(source.read()) == {"old"}

    def swap() -> None:
        (tmp_path / "next").rename(tmp_path / "current")
        shutil.rmtree(tmp_path / ".trees/old")

    (tmp_path / "next").symlink_to(".trees/new")
    assert _revisions(source.read(sleep=Steps(swap))) == {"new"}


@contextmanager
def half_written(path: Path, text: str) -> Iterator[None]:
    """Another process has written half of the text and keeps the file open; it ends with the block."""
    program = (
        "import sys\n"
        "with open(sys.argv[1], 'w') as f:\n"
        "    f.write(sys.argv[2]); f.flush(); print('half', flush=True); sys.stdin.read()"
    )
    words = ["/usr/bin/python3", "-c", program, str(path), text[: len(text) // 2]]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        writer.stdout.readline()
        try:
            yield
        finally:
            writer.communicate()


def test_a_half_written_file_is_waited_for(source: Source, tmp_path: Path) -> None:
    """It is quiet for long, and what is there is valid YAML: only the open file tells."""
    source.read()
    whole = namespace("a") + "---\n" + namespace("x")
    path = tmp_path / "a.yaml"
    with half_written(path, whole):
        time.sleep(0.1)
        steps = Steps()
        reading = source.read(sleep=steps, deadline_s=0.3)
        assert steps.pauses > 5
        assert names(reading)["a.yaml"] == ["a"]
        assert reading.moving == {str(path)}
        assert codes(reading) == ["still-changing"]
    path.write_text(whole)
    reading = source.read()
    assert names(reading)["a.yaml"] == ["a", "x"]
    assert not reading.findings


def test_a_half_written_file_does_not_hold_up_others_twice(source: Source, tmp_path: Path) -> None:
    source.read()
    with half_written(tmp_path / "a.yaml", namespace("new")):
        source.read(deadline_s=0.1)
        (tmp_path / "b.yaml").write_text(namespace("other"))
        steps = Steps()
        reading = source.read(sleep=steps)
        assert steps.pauses <= 2
        assert names(reading) == {"a.yaml": ["a"], "b.yaml": ["other"]}


def test_a_file_that_stays_open_is_read_in_the_end(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that forgot to close it: after DEADLINE_S without a change it counts as whole."""
    monkeypatch.setattr(source_module, "DEADLINE_S", 0.2)
    with (tmp_path / "a.yaml").open("w") as forgotten:
        forgotten.write(namespace("whole"))
        forgotten.flush()
        assert names(source.read(deadline_s=5))["a.yaml"] == ["whole"]


def test_a_writer_is_not_disturbed(source: Source, tmp_path: Path) -> None:
    """The lease that we ask for is given back at once, so opening the file for writing never blocks, nor kills us."""
    path = tmp_path / "a.yaml"
    done = threading.Event()

    def rewrite() -> None:
        for number in range(300):
            path.write_text(namespace(f"n{number}"))
        done.set()

    writer = threading.Thread(target=rewrite)
    began = time.monotonic()
    writer.start()
    while not done.is_set():
        source.read(settle_s=0.001, deadline_s=0.01)
    writer.join()
    assert time.monotonic() - began < 20
    assert names(source.read())["a.yaml"] == ["n299"]


def test_a_write_in_the_middle_of_reading(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program writes after we looked at the file and before we read it: once, then it leaves it alone."""
    original = source_module._is_open_for_writing
    path = tmp_path / "a.yaml"

    def write_meanwhile(fd: int) -> bool:
        monkeypatch.setattr(source_module, "_is_open_for_writing", original)
        path.write_text(namespace("half") + "---\n" + namespace("other"))
        return False

    monkeypatch.setattr(source_module, "_is_open_for_writing", write_meanwhile)
    steps = Steps()
    assert names(source.read(sleep=steps))["a.yaml"] == ["half", "other"]
    assert steps.pauses > 1


def test_a_writer_that_comes_while_we_hold_the_lease(tmp_path: Path) -> None:
    """The kernel signals us, which must not kill the daemon, and the writer goes on as soon as we have the answer."""
    program = (
        "import fcntl, os, sys, threading, time\n"
        "from netpold.host import source\n"
        "opened = threading.Event()\n"
        "def write():\n"
        "    os.close(os.open(sys.argv[1], os.O_WRONLY))\n"
        "    opened.set()\n"
        "original = fcntl.fcntl\n"
        "def slowly(fd, command, argument):\n"
        "    result = original(fd, command, argument)\n"
        "    if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_RDLCK):\n"
        "        threading.Thread(target=write).start()\n"
        "        time.sleep(0.2)\n"
        "    return result\n"
        "fcntl.fcntl = slowly\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "print(source._is_open_for_writing(fd), opened.wait(2))\n"
    )
    (tmp_path / "a.yaml").touch()
    words = ["/usr/bin/python3", "-c", program, str(tmp_path / "a.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stdout) == (0, "False True\n"), done.stderr


def test_a_writer_that_never_stops(source: Source, tmp_path: Path) -> None:
    """The restless file keeps its version from before, the quiet ones are acted on, and only once that takes long."""
    source.read()
    count = iter(range(1_000_000))

    def write() -> None:
        (tmp_path / "a.yaml").write_text(namespace(f"n{next(count)}"))

    (tmp_path / "b.yaml").write_text(namespace("changed"))
    first = Steps(forever=write)
    reading = source.read(sleep=first, deadline_s=0.3)
    assert first.pauses > 5
    assert names(reading) == {"a.yaml": ["a"], "b.yaml": ["changed"]}
    assert reading.moving == {str(tmp_path / "a.yaml")}

    (tmp_path / "b.yaml").write_text(namespace("again"))
    second = Steps(forever=write)
    reading = source.read(sleep=second, deadline_s=5)
    assert second.pauses == 1
    assert names(reading) == {"a.yaml": ["a"], "b.yaml": ["again"]}

    last = f"n{next(count) - 1}"
    reading = source.read()  # the writer has stopped
    assert names(reading) == {"a.yaml": [last], "b.yaml": ["again"]}
    assert not reading.moving


def test_a_new_restless_file_is_not_read_but_known_to_be_there(tmp_path: Path) -> None:
    source = Source(tmp_path, LIMIT)
    write = iter(range(1_000_000))
    steps = Steps(forever=lambda: (tmp_path / "a.yaml").write_text(namespace(f"n{next(write)}")))
    reading = source.read(sleep=steps, deadline_s=0.2)
    assert reading.parsed[str(tmp_path / "a.yaml")].truncated


RACE = """
import sys
from pathlib import Path
from netpold.host.source import Source
top = Path(sys.argv[1])
source = Source(top, 1 << 20)
for _ in range(200):
    (top / "a.yaml").write_text("apiVersion: v1\\nkind: Namespace\\nmetadata: {name: one}\\n")
    early = source.scan()
    source.load(early)
    with (top / "a.yaml").open("r+") as file:
        file.write("apiVersion: v1\\nkind: Namespace\\nmetadata: {name: two}\\n")
    late = source.scan()
    if late == early:
        print("same", [each.name for parsed in source.load(late).parsed.values() for each in parsed.objects])
        break
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_two_changes_within_one_tick_of_the_clock(tmp_path: Path) -> None:
    """Same inode, size and times, other bytes: git's racily clean file.  So a file read that early is read again.

    On a ramfs, which stamps files by the kernel's tick, as all file systems do before Linux 6.13.
    """
    script = 'mount -t ramfs none "$1" && exec /usr/bin/python3 -c "$2" "$1"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), RACE]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stdout == "same ['two']\n", done.stderr


def test_nothing_changed_costs_one_scan(source: Source, tmp_path: Path) -> None:
    time.sleep(0.05)
    first = source.read()
    steps = Steps()
    assert source.read(sleep=steps) is first
    assert steps.pauses == 0
    (tmp_path / "a.yaml").touch()
    assert source.read(sleep=steps) is not first
    assert steps.pauses == 1


def test_a_file_that_becomes_unreadable_keeps_what_it_said(source: Source, tmp_path: Path) -> None:
    source.read()
    (tmp_path / "a.yaml").unlink()
    os.mkfifo(tmp_path / "a.yaml")
    reading = source.read()
    assert names(reading)["a.yaml"] == ["a"]
    assert codes(reading) == ["not-a-file"]
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "a.yaml").symlink_to("nowhere")
    assert names(source.read())["a.yaml"] == ["a"]
    (tmp_path / "a.yaml").unlink()
    assert names(source.read()) == {"b.yaml": ["b"]}


def test_a_file_that_grows_too_large_keeps_what_it_said(source: Source, tmp_path: Path) -> None:
    source.read()
    (tmp_path / "a.yaml").write_text("#" * (LIMIT + 1))
    reading = source.read()
    assert names(reading)["a.yaml"] == ["a"]
    assert codes(reading) == ["file-too-large"]


def test_an_unreadable_file_that_was_never_known(tmp_path: Path) -> None:
    """It may hold anything that was known before a restart, so it is there, and truncated."""
    os.mkfifo(tmp_path / "a.yaml")
    reading = Source(tmp_path, LIMIT).read()
    assert reading.parsed[str(tmp_path / "a.yaml")] == source_module.UNKNOWN
    assert source_module.UNKNOWN.truncated


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes nobody for a while")
class TestWithoutRoot:
    """Root may read everything, so these run as nobody."""

    @pytest.fixture(autouse=True)
    def nobody(self, tmp_path: Path) -> Iterator[None]:
        for parent in [tmp_path, *tmp_path.parents]:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        tmp_path.chmod(0o755)
        yield
        os.seteuid(0)

    @pytest.fixture
    def source(self, source: Source) -> Source:
        os.seteuid(65534)
        return source

    @contextmanager
    def as_root(self) -> Iterator[None]:
        os.seteuid(0)
        yield
        os.seteuid(65534)

    def test_a_file(self, source: Source, tmp_path: Path) -> None:
        assert len(source.read().parsed) == 2
        with self.as_root():
            (tmp_path / "a.yaml").write_text(namespace("changed"))
            (tmp_path / "a.yaml").chmod(0o600)
        reading = source.read()
        assert names(reading) == {"a.yaml": ["a"], "b.yaml": ["b"]}
        assert codes(reading) == ["unreadable-file"]
        with self.as_root():
            (tmp_path / "a.yaml").chmod(0o644)
        assert names(source.read())["a.yaml"] == ["changed"]

    def test_a_directory(self, source: Source, tmp_path: Path) -> None:
        with self.as_root():
            (tmp_path / "sub/deep").mkdir(parents=True)
            (tmp_path / "sub/deep/c.yaml").write_text(namespace("c"))
        source.read()
        with self.as_root():
            (tmp_path / "sub").chmod(0o700)
        reading = source.read()
        assert names(reading)["c.yaml"] == ["c"]
        assert codes(reading) == ["unreadable-directory"]
        with self.as_root():
            (tmp_path / "sub").chmod(0o755)
            (tmp_path / "sub/deep/c.yaml").unlink()
        assert "c.yaml" not in names(source.read())

    def test_the_directory_itself(self, source: Source, tmp_path: Path) -> None:
        source.read()
        with self.as_root():
            tmp_path.chmod(0o700)
        with pytest.raises(SourceError, match="can't be read: Permission denied"):
            source.read()
        with self.as_root():
            tmp_path.chmod(0o755)
        assert len(source.read().parsed) == 2


def test_a_vanished_directory_is_an_error_and_not_empty(source: Source, tmp_path: Path) -> None:
    source.read()
    shutil.rmtree(tmp_path)
    with pytest.raises(SourceError, match="is not there"):
        source.read()
    tmp_path.mkdir()
    assert names(source.read()) == {}


def test_a_directory_that_vanishes_while_it_is_read(source: Source, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        source.read(sleep=Steps(lambda: shutil.rmtree(tmp_path)))


def test_a_watcher_is_told(tmp_path: Path) -> None:
    told: list[Snapshot | None] = []
    source = Source(tmp_path / "top", LIMIT, told.append)
    with pytest.raises(SourceError):
        source.read()
    (tmp_path / "top").mkdir()
    reading = source.read()
    assert told == [None, reading.snapshot]


def test_of_many_files_only_the_changed_one_is_parsed(tmp_path: Path, parses: list[str]) -> None:
    for number in range(2_000):
        (tmp_path / f"{number}.yaml").write_text("")
    source = Source(tmp_path, LIMIT)
    source.read()
    parses.clear()
    (tmp_path / "1.yaml").write_text("# changed\n")
    source.read()
    assert parses == ["1.yaml"]
