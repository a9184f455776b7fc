"""Any sequence of what programs do to files, heard of through a real Watcher: in the end everything is known.

After it is quiet, what the source knows is what a fresh one reads; and the changes that it handed out one after the
other add up to the same.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from netpold.host.parsed_cache import ParsedCache
from netpold.host.source import EVERYTHING_CHANGED, NOTHING_CHANGED, Hints, Source, SourceError
from netpold.host.watch import Watcher
from netpold.policy.manifest import Parsed
from tests.test_documents import CHUNKS, pods

SETTLE_S = 0.01
QUIET_S = 0.03
OTHER_KIND = {"not-a-file", "not-a-directory"}

DIRECTORIES = st.sampled_from(["", "d", "d/e", "f", ".hidden"])
NAMES = st.sampled_from(["a.yaml", "b.yaml", "c.json", "d.yaml~", ".e.yaml", "link", "link.yaml"])
TEXTS = st.lists(st.sampled_from([*CHUNKS[:8], pods("x"), pods("y", "z")]), max_size=3).map(b"---\n".join)


class Files(RuleBasedStateMachine):
    """One process that changes files, and one that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="netpold-states-"))
        self.top = self.base / "top"
        self.top.mkdir()
        self.woken = threading.Event()
        self.watcher = Watcher(self.top, self.woken.set)
        self.watcher.start()
        cache = ParsedCache(self.base / "cache.db")
        self.source = Source(self.top, 1 << 20, self.watcher.follow, self.watcher.enter, cache, allow_empty=True)
        self.cache = cache
        self.followed: dict[str, Parsed] = {}
        self.other_kind: set[str] = set()
        self.read(EVERYTHING_CHANGED)

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.watcher.close()
            self.cache.close()
        restarted = Source(self.top, 1 << 20, cache=ParsedCache(self.base / "cache.db"))
        while not (reading := restarted.read(NOTHING_CHANGED, SETTLE_S)).settled:
            time.sleep(0.005)
        refused = {each.position.file for each in reading.findings}  # they may have changed before they were saved
        refused |= self._only_remembered()
        assert _plain(restarted.parsed, refused) == _plain(self.followed, refused)
        shutil.rmtree(self.base)

    def read(self, hints: Hints = NOTHING_CHANGED) -> bool:
        """Read once; whether it is settled."""
        try:
            reading = self.source.read(hints or self.watcher.take(), SETTLE_S)
        except SourceError:
            return False
        for path, parsed in reading.changed.items():
            if parsed is None:
                del self.followed[path]
            else:
                self.followed[path] = parsed
        assert self.source.complete or not reading.changed
        return reading.settled

    @rule()
    def settle(self) -> None:
        """It becomes quiet."""
        end = time.monotonic() + 20
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + QUIET_S or self.source.due:
            assert time.monotonic() < end
            due = self.source.due
            self.woken.wait(0.005 if due is None else max(0.0, min(due - time.monotonic(), 0.005)))
            if self.woken.is_set() or (due is not None and time.monotonic() >= due):
                self.woken.clear()
                if not self.read():
                    quiet_since = time.monotonic()
            self.source.save(0.001)
        fresh = Source(self.top, 1 << 20)
        reading = fresh.read_as_it_is()
        assert _plain(self.followed) == _plain(self.source.parsed)
        told = self.source.read(NOTHING_CHANGED, SETTLE_S)
        self.other_kind = {each.position.file for each in told.findings if each.code in OTHER_KIND}
        out_of_sight = tuple(f"{each.position.file}/" for each in reading.findings)
        assert reading.findings == tuple(
            each
            for each in told.findings
            if each.code not in OTHER_KIND and not each.position.file.startswith(out_of_sight)
        )
        assert all(map(self._is_held, self.other_kind))
        refused = {each.position.file for each in reading.findings}  # they keep what they said before
        refused |= self._only_remembered()
        assert _plain(self.followed, refused) == _plain(fresh.parsed, refused)

    def _is_held(self, path: str) -> bool:
        """Whether anything is held for a file or a directory in whose place something else is."""
        return any(_holds(says) for file, says in self.followed.items() if f"{file}/".startswith(f"{path}/"))

    def _only_remembered(self) -> set[str]:
        """The files whose place was taken by nothing that can be believed."""
        return self.other_kind | {path for path, says in self.followed.items() if _is_emptied(says)}

    @rule()
    def look(self) -> None:
        """The daemon is quick."""
        time.sleep(0.002)
        self.read()

    @rule()
    def sweep(self) -> None:
        self.source.sweep(0)

    @rule(directory=DIRECTORIES, name=NAMES, text=TEXTS)
    def write_in_place(self, directory: str, name: str, text: bytes) -> None:
        path = self._directory(directory) / name
        if not path.is_dir():
            with suppress(FileNotFoundError, NotADirectoryError):  # a symlink that leads into no directory
                path.write_bytes(text)

    @rule(directory=DIRECTORIES, name=NAMES, text=TEXTS)
    def rename_into_place(self, directory: str, name: str, text: bytes) -> None:
        aside = self.base / "aside"
        aside.write_bytes(text)
        path = self._directory(directory) / name
        if path.is_symlink() or not path.is_dir():
            aside.rename(path)

    @rule(directory=DIRECTORIES, name=NAMES)
    def unlink(self, directory: str, name: str) -> None:
        path = self._directory(directory) / name
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)

    @rule(directory=DIRECTORIES, name=NAMES, to=DIRECTORIES, new=NAMES)
    def rename_inside(self, directory: str, name: str, to: str, new: str) -> None:
        path, target = self._directory(directory) / name, self._directory(to) / new
        if path.is_file() and not path.is_symlink() and not target.is_dir():
            path.rename(target)

    @rule(directory=DIRECTORIES.filter(bool), to=st.sampled_from(["d", "f", "g.yaml", ".hidden"]))
    def rename_directory(self, directory: str, to: str) -> None:
        path, target = self._directory(directory), self.top / to
        if target.exists() or target.is_symlink() or target.is_relative_to(path):
            return
        path.rename(target)

    @rule(directory=DIRECTORIES.filter(bool))
    def remove_directory(self, directory: str) -> None:
        shutil.rmtree(self._directory(directory))

    @rule(
        directory=DIRECTORIES,
        name=st.sampled_from(["link", "link.yaml"]),
        leads=st.sampled_from([".hidden", "d", "a.yaml", ".hidden/a.yaml", "nowhere", "."]),
    )
    def swap_symlink(self, directory: str, name: str, leads: str) -> None:
        path = self._directory(directory) / name
        if path.is_dir() and not path.is_symlink():
            return
        aside = self.base / "link"
        aside.symlink_to(self.top / leads)
        aside.rename(path)

    @rule()
    def replace_everything(self) -> None:
        """By another directory, as a new release of a volume."""
        shutil.copytree(self.top, self.base / "next", symlinks=True)
        self.top.rename(self.base / "old")
        (self.base / "next").rename(self.top)
        shutil.rmtree(self.base / "old")

    def _directory(self, name: str) -> Path:
        path = self.top / name
        for above in path.parents:
            if above.is_relative_to(self.top) and not above.is_dir():  # written through a symlink that led nowhere
                above.unlink(missing_ok=True)
        if path.is_file() or path.is_symlink():
            path.unlink()
        path.mkdir(parents=True, exist_ok=True)
        return path


def _holds(says: Parsed) -> bool:
    return bool(says.objects) or says.truncated


def _is_emptied(says: Parsed) -> bool:
    return any(finding.code == "emptied-file" for finding in says.findings)


def _plain(parsed: object, without: object = ()) -> dict[str, object]:
    """But for the files `without`, and those below them: where a symlink leads nowhere any more, nobody can tell."""
    assert isinstance(parsed, dict)
    assert isinstance(without, set | tuple)
    below = tuple(f"{each}/" for each in without)
    return {path: asdict(says) for path, says in parsed.items() if path not in without and not path.startswith(below)}


class TestFiles(Files.TestCase):
    """The same sequences in each run; new ones are tried in the slow one."""

    settings = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)


@pytest.mark.slow
class TestAnyFiles(Files.TestCase):
    settings = settings(max_examples=400, stateful_step_count=25, deadline=None)


def test_what_is_said_of_a_link_that_led_nowhere_ends_where_it_leads_to_a_directory() -> None:
    files = Files()
    files.rename_into_place(directory="", name="link.yaml", text=CHUNKS[0])
    files.look()
    files.swap_symlink(directory="", leads=".hidden", name="link.yaml")
    files.look()
    files.rename_directory(directory="d", to=".hidden")
    files.teardown()


def test_a_link_to_a_directory_that_leads_to_a_file() -> None:
    """What the directory held stays, and nothing is known of the file."""
    files = Files()
    files.rename_into_place(directory=".hidden", name="a.yaml", text=CHUNKS[0])
    files.rename_into_place(directory="", name="a.yaml", text=b"")
    files.swap_symlink(directory="d", leads=".hidden", name="link.yaml")
    files.look()
    files.swap_symlink(directory="d", leads="a.yaml", name="link.yaml")
    files.teardown()


LABELLED = """apiVersion: v1
kind: Pod
metadata: {{name: p{name}, namespace: x, labels: {{revision: "{number}"}}}}
spec: {{containers: [{{name: c, image: i}}]}}
"""


def test_a_symlink_that_is_swapped_all_the_time_never_shows_a_mix(tmp_path: Path) -> None:
    """As git-sync does it, faster than anybody can follow; the old versions are deleted meanwhile."""
    top, versions = tmp_path / "top", tmp_path / "top/.versions"
    top.mkdir()
    chance = random.Random(1)

    def swap(number: int) -> None:
        fresh = versions / str(number)
        fresh.mkdir(parents=True)
        texts = [LABELLED.format(name=each, number=number) for each in range(12)]
        parts = texts if number % 3 else ["---\n".join(texts)]
        for each, text in enumerate(parts):
            (fresh / f"{number % 2}-{each}.yaml").write_text(text)
        draft = top / ".current"
        draft.symlink_to(fresh)
        draft.replace(top / "current")
        shutil.rmtree(versions / str(number - 3), ignore_errors=True)

    def swap_all() -> None:
        for number in range(1, 400):
            swap(number)
            time.sleep(chance.choice((0, 0.001, 0.004)))
        done.set()

    swap(0)
    woken, done = threading.Event(), threading.Event()
    watcher = Watcher(top, woken.set)
    watcher.start()
    source = Source(top, 1 << 20, watcher.follow, watcher.enter)
    swapper = threading.Thread(target=swap_all)
    swapper.start()
    followed: dict[str, Parsed] = {}
    seen: set[str] = set()
    settled = False
    while not (done.is_set() and settled):
        woken.wait(0.01)
        woken.clear()
        hints = watcher.take()
        reading = source.read(replace(hints, everything=True) if chance.random() < 0.3 else hints, SETTLE_S)
        settled = reading.settled and not hints
        followed = {path: says for path, says in {**followed, **reading.changed}.items() if says is not None}
        if not source.complete:
            assert not followed
            continue
        labels = [each.labels["revision"] for says in followed.values() for each in says.objects]
        assert len(labels) == 12 and len(set(labels)) == 1, labels
        seen.add(labels[0])
    swapper.join()
    watcher.close()
    assert seen >= {"399"} and len(seen) > 3
