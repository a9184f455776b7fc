"""Scans of real directories: what is a manifest, where symlinks lead, what can't be read."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from netpold.host import gitlock
from netpold.host.gitlock import GitRepositories
from netpold.host.scan import Ambiguous, Fingerprint, SourceError, Tree, Walk, changed_ns, look, size_of
from netpold.host.trust import Trustees
from netpold.policy.model import Finding

LIMIT = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """What a whole walk found."""

    files: dict[str, Fingerprint]
    unreadable: frozenset[str]
    findings: tuple[Finding, ...]
    tree: Tree
    locked: bool

    def changes(self, other: Snapshot) -> set[str]:
        return {path for path, _ in self.files.items() ^ other.files.items()}


def scan(directory: Path, limit: int, trustees: Trustees = Trustees()) -> Snapshot:  # noqa: B008  frozen
    walk = Walk(directory, limit, trustees=trustees)
    seen = list(walk)
    files = {path: each for path, each in seen if isinstance(each, bytes)}
    assert len({path for path, _ in seen}) == len(seen)
    findings = {path: each for path, each in seen if isinstance(each, Finding)}
    git = GitRepositories(walk.git).look()
    return Snapshot(files, frozenset(findings), (*walk.notes, *findings.values(), *git.stale), walk.tree, git.locked)


def files(snapshot: Snapshot, root: Path) -> list[str]:
    return sorted(str(Path(path).relative_to(root)) for path in snapshot.files)


def codes(snapshot: Snapshot) -> list[str]:
    return sorted(each.code for each in snapshot.findings)


def test_what_is_a_manifest(tmp_path: Path) -> None:
    taken = ["a.yaml", "b.yml", "c.json", "deep/er/d.yaml", "e.yaml/f.yaml", "deep/netpold.toml.d/g.yaml"]
    others = [
        ".hidden.yaml",
        ".git/config.yaml",
        "x.yaml~",
        ".x.yaml.swp",
        "x.yaml.swp",
        "x.yaml.tmp",
        "x.txt",
        "X.YAML",
        "netpold.toml",
        "netpold.toml.d/a.yaml",
        "old~/a.yaml",
    ]
    for name in taken + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    snapshot = scan(tmp_path, LIMIT)
    assert files(snapshot, tmp_path) == sorted(taken)
    assert not snapshot.findings
    assert not snapshot.unreadable


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("one")
    first = scan(tmp_path, LIMIT)
    assert first == scan(tmp_path, LIMIT)
    assert first.changes(scan(tmp_path, LIMIT)) == frozenset()
    time.sleep(0.02)
    os.utime(file, ns=(1, file.stat().st_mtime_ns))  # the modification time is kept; the change time can't be
    second = scan(tmp_path, LIMIT)
    assert first.changes(second) == {str(file)}
    (tmp_path / "b.yaml").write_text("new")
    assert second.changes(scan(tmp_path, LIMIT)) == {str(tmp_path / "b.yaml")}


def test_one_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "any.txt"
    file.write_text("x")
    assert list(scan(file, LIMIT).files) == [str(file)]


def test_an_empty_directory_is_no_error(tmp_path: Path) -> None:
    snapshot = scan(tmp_path, LIMIT)
    assert (snapshot.files, snapshot.findings) == ({}, ())


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not there; make it"):
        scan(tmp_path / "absent", LIMIT)


def test_a_dangling_link_as_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(SourceError):
        scan(tmp_path / "link", LIMIT)


def test_git_sync(tmp_path: Path) -> None:
    """Hidden work trees, and a visible link that is swapped."""
    for revision in ("r1", "r2"):
        (tmp_path / ".worktrees" / revision).mkdir(parents=True)
        (tmp_path / ".worktrees" / revision / "a.yaml").write_text(revision)
    (tmp_path / "current").symlink_to(".worktrees/r1")
    first = scan(tmp_path, LIMIT)
    assert files(first, tmp_path) == ["current/a.yaml"]
    (tmp_path / "new").symlink_to(".worktrees/r2")
    (tmp_path / "new").rename(tmp_path / "current")
    second = scan(tmp_path, LIMIT)
    assert files(second, tmp_path) == ["current/a.yaml"]
    assert first.changes(second) == {str(tmp_path / "current/a.yaml")}


def test_config_map_volume(tmp_path: Path) -> None:
    for revision in ("..1", "..2"):
        (tmp_path / revision).mkdir()
        (tmp_path / revision / "a.yaml").write_text(revision)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    first = scan(tmp_path, LIMIT)
    assert files(first, tmp_path) == ["a.yaml"]
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    second = scan(tmp_path, LIMIT)
    assert files(second, tmp_path) == ["a.yaml"]
    assert first != second


def test_each_file_is_known_by_one_name(tmp_path: Path) -> None:
    (tmp_path / "z.yaml").write_text("")
    (tmp_path / "a.yaml").symlink_to("z.yaml")
    (tmp_path / "real").mkdir()
    (tmp_path / "real/b.yaml").write_text("")
    (tmp_path / "another").symlink_to("real")
    assert files(scan(tmp_path, LIMIT), tmp_path) == ["real/b.yaml", "z.yaml"]


def test_loops_end(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "up").symlink_to(".")
    for each in ("a", "b", "c", "d"):
        (tmp_path / f".{each}").mkdir()
        (tmp_path / f".{each}" / "x.yaml").write_text(each)
        for other in ("a", "b", "c", "d"):
            (tmp_path / f".{each}" / other).symlink_to(f"../.{other}")
    (tmp_path / "in").symlink_to(".a")
    snapshot = scan(tmp_path, LIMIT)
    assert len(snapshot.files) == 4
    assert codes(snapshot) == ["unreadable-file"]  # `self`: too many levels


def test_links_into_directories_that_the_settings_name_are_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.yaml").write_text("")
    (tmp_path / "single.yaml").write_text("")
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(tmp_path / "outside")
    (top / "s.yaml").symlink_to("../single.yaml")
    assert files(scan(top, LIMIT, Trustees(linked_trees=(str(tmp_path),))), top) == ["link/a.yaml", "s.yaml"]


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"#" * (LIMIT + 1))
    (tmp_path / "exact.yaml").write_bytes(b"#" * LIMIT)
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    snapshot = scan(tmp_path, LIMIT)
    assert files(snapshot, tmp_path) == ["exact.yaml"]
    assert codes(snapshot) == ["dangling-symlink", "file-too-large", "link-out-of-tree", "not-a-file"]
    assert {Path(path).name for path in snapshot.unreadable} == {
        "large.yaml",
        "fifo.yaml",
        "device.yaml",
        "dangling.yaml",
    }
    assert all(each.cure for each in snapshot.findings)


def test_names_that_cannot_be_printed(tmp_path: Path) -> None:
    (tmp_path / "a\nb.yaml").write_text("")
    (tmp_path / os.fsdecode(b"\xff.yaml")).touch()
    snapshot = scan(tmp_path, LIMIT)
    assert not snapshot.files
    assert codes(snapshot) == ["unprintable-name"] * 2
    for each in snapshot.findings:
        str(each).encode()
        assert "\n" not in str(each)


@pytest.mark.parametrize("name", [b"\xe4.yaml", "\u00a0.yaml".encode(), b"a\nb.yaml"])
def test_what_gets_a_name_that_cannot_be_printed_is_there(tmp_path: Path, name: bytes) -> None:
    """A file, a directory with files, and a symlink: something is there that nobody reads, and nothing is deleted."""
    bare = name.removesuffix(b".yaml")
    (tmp_path / os.fsdecode(name)).write_text("")
    (tmp_path / os.fsdecode(bare)).mkdir()
    for number in range(3):
        (tmp_path / os.fsdecode(bare) / f"{number}.yaml").write_text("")
    (tmp_path / os.fsdecode(b"1" + name)).symlink_to("nowhere")
    snapshot = scan(tmp_path, LIMIT)
    here = os.fsencode(tmp_path) + b"/"
    assert snapshot.unreadable == {os.fsdecode(here + each) for each in (name, bare, b"1" + name)}
    assert codes(snapshot) == ["dangling-symlink", "unprintable-name", "unprintable-name"]


@pytest.mark.parametrize("second", [-(2**40), 2**33, 2**40])
def test_times_that_no_64_bit_number_of_ns_holds(tmp_path: Path, second: int) -> None:
    """tmpfs and xfs know them; `touch -d 2300-01-01` is enough."""
    (tmp_path / "a.yaml").write_text("")
    os.utime(tmp_path / "a.yaml", (second, second))
    os.utime(tmp_path, (second, second))
    assert files(scan(tmp_path, LIMIT), tmp_path) == ["a.yaml"]


def test_an_unreadable_directory_is_said(tmp_path: Path) -> None:
    """As an ordinary user: root may read everything."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed/a.yaml").write_text("")
    (tmp_path / "closed").chmod(0)
    for parent in (tmp_path, *tmp_path.parents):
        if "pytest" in str(parent):  # pytest's own directories are for their owner alone
            parent.chmod(parent.stat().st_mode | 0o055)
    program = (
        "import sys; from pathlib import Path; from netpold.host.scan import Walk\n"
        "print([(path, each.code) for path, each in Walk(Path(sys.argv[1]), 100)])"
    )
    words = ["/usr/bin/python3", "-c", program, str(tmp_path)]
    if os.geteuid() == 0:
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stdout == f"{[(str(tmp_path / 'closed'), 'unreadable-directory')]}\n", done.stderr


class TestGitLock:
    """git writes `index.lock` while it changes the work tree."""

    def test_in_the_directory(self, tmp_path: Path) -> None:
        (tmp_path / ".git").mkdir()
        assert not scan(tmp_path, LIMIT).locked
        (tmp_path / ".git/index.lock").write_text("")
        assert scan(tmp_path, LIMIT).locked

    def test_in_a_work_tree_below(self, tmp_path: Path) -> None:
        (tmp_path / "repository/.git").mkdir(parents=True)
        (tmp_path / "repository/.git/index.lock").write_text("")
        assert scan(tmp_path, LIMIT).locked

    def test_in_the_work_tree_above(self, tmp_path: Path) -> None:
        (tmp_path / "repository/.git").mkdir(parents=True)
        (tmp_path / "repository/.git/index.lock").write_text("")
        (tmp_path / "repository/clusters/one").mkdir(parents=True)
        (tmp_path / "link").symlink_to("repository/clusters/one")
        assert scan(tmp_path / "repository/clusters/one", LIMIT).locked
        assert scan(tmp_path / "link", LIMIT).locked

    def test_in_a_linked_work_tree(self, tmp_path: Path) -> None:
        (tmp_path / "main/.git/worktrees/w").mkdir(parents=True)
        (tmp_path / "w").mkdir()
        (tmp_path / "w/.git").write_text("gitdir: ../main/.git/worktrees/w\n")
        assert not scan(tmp_path / "w", LIMIT).locked
        (tmp_path / "main/.git/worktrees/w/index.lock").write_text("")
        assert scan(tmp_path / "w", LIMIT).locked

    @pytest.mark.parametrize("target", ["repository/manifests", "repository/manifests/a.yaml"])
    def test_above_what_a_link_leads_to(self, tmp_path: Path, target: str) -> None:
        top, repository = tmp_path / "top", tmp_path / "repository"
        top.mkdir()
        (repository / "manifests").mkdir(parents=True)
        (repository / "manifests/a.yaml").touch()
        (repository / ".git").mkdir()
        (top / "link.yaml").symlink_to(tmp_path / target)
        trustees = Trustees(linked_trees=(str(repository),))
        assert not scan(top, LIMIT, trustees).locked
        (repository / ".git/index.lock").touch()
        assert scan(top, LIMIT, trustees).locked

    def test_left_behind(self, tmp_path: Path) -> None:
        (tmp_path / ".git").mkdir()
        lock = tmp_path / ".git/index.lock"
        lock.write_text("")
        old = time.time() - gitlock.LOCK_LIFE_S - 1
        os.utime(lock, (old, old))
        snapshot = scan(tmp_path, LIMIT)
        assert not snapshot.locked
        assert [(each.code, each.severity) for each in snapshot.findings] == [("stale-git-lock", "warning")]

    def test_one_that_git_has_open_is_not_left_behind(self, tmp_path: Path) -> None:
        """A checkout through slow filters takes longer than any lock lives."""
        (tmp_path / ".git").mkdir()
        lock = tmp_path / ".git/index.lock"
        with lock.open("w"):
            os.utime(lock, (1, 1))
            assert scan(tmp_path, LIMIT).locked
        assert not scan(tmp_path, LIMIT).locked

    def test_a_clock_that_is_set_makes_no_lock_older(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / ".git").mkdir()
        repositories = GitRepositories([str(tmp_path / ".git")])
        assert not repositories.look().locked
        lock = tmp_path / ".git/index.lock"
        lock.touch()
        os.utime(lock, (1, 1))
        assert repositories.look().locked
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 1e6)  # it was suspended
        assert repositories.look().locked
        monkeypatch.setattr(gitlock, "LOCK_LIFE_S", gitlock.MOST_PAUSE_S)
        assert not repositories.look().locked

    @pytest.mark.parametrize("sign", ["rebase-merge", "sequencer", "MERGE_AUTOSTASH"])
    def test_between_two_steps_it_is_at_work(self, tmp_path: Path, sign: str) -> None:
        (tmp_path / ".git" / sign).mkdir(parents=True)
        assert scan(tmp_path, LIMIT).locked
        os.utime(tmp_path / ".git" / sign, (1, 1))
        assert [each.code for each in scan(tmp_path, LIMIT).findings] == ["stale-git-lock"]

    def test_a_git_that_came_and_went_is_noticed(self, tmp_path: Path) -> None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git/index").write_text("old")
        repositories = GitRepositories([str(tmp_path / ".git")])
        before = repositories.look()
        assert repositories.look() == before
        (tmp_path / ".git/index.lock").write_text("new")
        (tmp_path / ".git/index.lock").rename(tmp_path / ".git/index")
        after = repositories.look()
        assert not after.locked
        assert after != before


def test_a_walk_pauses_and_tells_directories_before_it_lists_them(tmp_path: Path) -> None:
    told: list[str] = []
    for name in ("x/y", "z"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.yaml").touch()

    def entering(path: str) -> None:
        told.append(path)
        (Path(path) / "late.yaml").touch()  # comes when the watch is set already

    found = {}
    for path, seen in Walk(tmp_path, LIMIT, entering):
        found[path] = seen
        assert any(path.startswith(each) for each in told)
    assert sorted(told) == sorted(str(tmp_path / name) for name in ("", "x", "x/y", "z"))
    assert len([path for path in found if path.endswith("late.yaml")]) == 4


def test_look_at_one_path(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    assert look(str(file), LIMIT) is None
    file.write_text("four")
    seen = look(str(file), LIMIT)
    assert isinstance(seen, bytes)
    assert (size_of(seen), changed_ns(seen)) == (4, file.stat().st_ctime_ns)
    assert scan(tmp_path, LIMIT).files == {str(file): seen}
    refused = look(str(file), 3)
    assert isinstance(refused, Finding)
    assert refused.code == "file-too-large"
    (tmp_path / "link.yaml").symlink_to("a.yaml")
    assert look(str(tmp_path / "link.yaml"), LIMIT, is_link=True) == seen
    for name in ("link.yaml", ".", "a.yaml/b.yaml"):
        with pytest.raises(Ambiguous):
            look(str(tmp_path / name), LIMIT)
