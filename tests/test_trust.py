"""Trees of manifests that others can write near: whose files count, where symlinks may lead, what is ever opened."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from netpold.config import Settings
from netpold.host import trust
from netpold.host.files import Moving, is_being_written, read_file
from netpold.host.scan import Ambiguous, Walk, look
from netpold.host.source import EVERYTHING_CHANGED, Source
from netpold.host.trust import Trustees, trustees
from netpold.policy.model import Finding
from tests.lab import Lab
from tests.lab.daemon import Daemon

STRANGER = 64999  # no user of the machine's
LIMIT = 1 << 20
SECRET = "root:$6$a-secret-that-no-finding-may-quote"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives files to others")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    made = tmp_path / "top"
    made.mkdir()
    return made


def walked(top: Path, trustees: Trustees = Trustees()) -> tuple[list[str], dict[str, str], list[str]]:  # noqa: B008
    """The names of the files that count, the codes of what does not, by name, and those of the notes."""
    walk = Walk(top, LIMIT, trustees=trustees)
    seen = {str(Path(path).relative_to(top)): each for path, each in walk}
    refused = {name: each for name, each in seen.items() if isinstance(each, Finding)}
    for each in (*refused.values(), *walk.notes):
        assert each.cure
    return (
        sorted(seen.keys() - refused.keys()),
        {name: each.code for name, each in refused.items()},
        [each.code for each in walk.notes],
    )


def policy(name: str) -> str:
    head = f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n"
    return f"{head}spec: {{podSelector: {{}}}}\n"


# Owners and modes -----------------------------------------------------------------------------------------------------


def test_files_of_others_are_refused_unless_they_are_trusted(top: Path) -> None:
    for name in ("root.yaml", "theirs.yaml"):
        (top / name).touch()
    os.chown(top / "theirs.yaml", STRANGER, -1)
    assert walked(top) == (["root.yaml"], {"theirs.yaml": "foreign-file"}, [])
    assert walked(top, Trustees(frozenset({STRANGER})))[0] == ["root.yaml", "theirs.yaml"]
    assert walked(top, Trustees(None))[0] == ["root.yaml", "theirs.yaml"]
    os.chown(top, STRANGER, -1)  # git-sync owns its tree
    assert walked(top) == (["root.yaml", "theirs.yaml"], {}, [])


def test_directories_of_others_and_for_everybody_are_refused(top: Path) -> None:
    for name in ("theirs", "open", "sticky", "fine"):
        (top / name).mkdir()
        (top / name / "a.yaml").touch()
    os.chown(top / "theirs", STRANGER, -1)
    (top / "open").chmod(0o777)
    (top / "sticky").chmod(0o1777)
    files, refused, notes = walked(top)
    assert files == ["fine/a.yaml", "sticky/a.yaml"]
    assert refused == {"theirs": "foreign-directory", "open": "world-writable-directory"}
    assert not notes


def test_files_for_everybody_are_refused(top: Path) -> None:
    (top / "open.yaml").touch()
    (top / "open.yaml").chmod(0o666)
    assert walked(top) == ([], {"open.yaml": "world-writable-file"}, [])
    assert walked(top, Trustees(None))[0] == ["open.yaml"]


def test_a_volume_that_kubelet_made_for_everybody_is_read_with_a_warning(top: Path) -> None:
    """A ConfigMap's volume is `drwxrwsrwx root`, and all that is in it is root's."""
    top.chmod(0o2777)
    (top / "..2024_01_01").mkdir(mode=0o755)
    (top / "..2024_01_01/a.yaml").write_text(policy("a"))
    (top / "..data").symlink_to("..2024_01_01")
    (top / "a.yaml").symlink_to("..data/a.yaml")
    assert walked(top) == (["a.yaml"], {}, ["world-writable-directory"])


def test_a_single_file_of_whoever_is_read(tmp_path: Path) -> None:
    """It is the tree, and its owner is the tree's."""
    file = tmp_path / "a.yaml"
    file.touch()
    os.chown(file, STRANGER, -1)
    assert walked(file) == (["."], {}, [])


def test_links_of_others_are_refused(top: Path) -> None:
    (top / ".old").mkdir()
    (top / ".old/a.yaml").touch()
    (top / "theirs").symlink_to(".old")
    os.chown(top / "theirs", STRANGER, -1, follow_symlinks=False)
    assert walked(top) == ([], {"theirs": "foreign-symlink"}, [])


def test_one_path_is_judged_as_a_walk_does(top: Path) -> None:
    (top / "a.yaml").touch()
    (top / "link.yaml").symlink_to("a.yaml")
    walk = Walk(top, LIMIT)
    list(walk)
    assert isinstance(look(f"{top}/a.yaml", LIMIT, trust=walk.trust), bytes)
    assert isinstance(look(f"{top}/link.yaml", LIMIT, is_link=True, trust=walk.trust), bytes)
    os.chown(top / "link.yaml", STRANGER, -1, follow_symlinks=False)
    with pytest.raises(Ambiguous):
        look(f"{top}/link.yaml", LIMIT, is_link=True, trust=walk.trust)
    os.chown(top / "a.yaml", STRANGER, -1)
    seen = look(f"{top}/a.yaml", LIMIT, trust=walk.trust)
    assert isinstance(seen, Finding)
    assert seen.code == "foreign-file"


# Where symlinks lead --------------------------------------------------------------------------------------------------


def test_links_out_of_the_tree_are_refused(top: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.yaml").touch()
    (tmp_path / "topical").mkdir()  # its path begins as the tree's does
    (top / "inside").mkdir()
    (top / "inside/in.yaml").touch()
    links = {
        "secret.yaml": str(tmp_path / "secret"),
        "shadow.yaml": "/etc/shadow",
        "up": "..",
        "root": "/",
        "topical": "../topical",
        "environ.yaml": "/proc/self/environ",
        "zero.yaml": "/dev/zero",
        "out": str(tmp_path / "outside"),
        "chain.yaml": "inside/hop.yaml",
        "inside/hop.yaml": "../../secret",
        "fine": "inside",
        "around": f"../{top.name}/inside",
    }
    for name, target in links.items():
        (top / name).symlink_to(target)
    files, refused, _ = walked(top)
    assert files == ["inside/in.yaml"]
    assert set(refused) == links.keys() - {"fine", "around"}
    assert set(refused.values()) == {"link-out-of-tree"}


def test_links_into_trees_that_the_settings_name_are_followed(top: Path, tmp_path: Path) -> None:
    for name in ("shared", "shared-not"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").touch()
        (top / name).symlink_to(tmp_path / name)
    (tmp_path / "alias").symlink_to("shared")
    for named in ("shared", "alias"):
        files, refused, _ = walked(top, Trustees(linked_trees=(str(tmp_path / named),)))
        assert files == ["shared/a.yaml"]
        assert refused == {"shared-not": "link-out-of-tree"}


def test_a_tree_behind_links_that_are_swapped(tmp_path: Path) -> None:
    """git-sync: the tree is where --manifests leads now, wherever that is."""
    for revision in ("r1", "r2"):
        (tmp_path / f".worktrees/{revision}/base").mkdir(parents=True)
        (tmp_path / f".worktrees/{revision}/base/{revision}.yaml").touch()
        (tmp_path / f".worktrees/{revision}/all").symlink_to("base")
    link = tmp_path / "current"
    link.symlink_to(".worktrees/r1")
    assert walked(link) == (["base/r1.yaml"], {}, [])
    (tmp_path / "new").symlink_to(".worktrees/r2")
    (tmp_path / "new").rename(link)
    assert walked(link) == (["base/r2.yaml"], {}, [])


def test_a_directory_that_becomes_a_link_while_it_is_walked(top: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.yaml").write_text(SECRET)
    (top / "a").mkdir()

    def swap(path: str) -> None:
        if path.endswith("/a"):
            (top / "a").rmdir()
            (top / "a").symlink_to(tmp_path / "outside")

    walk = Walk(top, LIMIT, swap)
    assert {path: each.code for path, each in walk if isinstance(each, Finding)} == {str(top / "a"): "link-out-of-tree"}
    assert str(top / "a") not in walk.tree.directories


def test_hard_links_are_files_like_others(top: Path, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").touch()
    (top / "a.yaml").hardlink_to(tmp_path / "base.yaml")
    assert walked(top)[0] == ["a.yaml"]


# What it means --------------------------------------------------------------------------------------------------------


class Reader:
    """A source, read until it rests."""

    def __init__(self, top: Path, trustees: Trustees = Trustees()) -> None:  # noqa: B008  frozen
        self.source = Source(top, LIMIT, trustees=trustees)
        self.findings: tuple[Finding, ...] = ()

    def names(self) -> set[str]:
        """Of the policies that the files say now."""
        deadline = time.monotonic() + 20
        while True:
            reading = self.source.read(EVERYTHING_CHANGED, 0.001)
            self.findings = reading.findings
            if self.source.is_settled():
                break
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return {each.name for parsed in self.source.parsed.values() for each in parsed.objects}

    def codes(self) -> set[str]:
        return {each.code for each in self.findings}


def refuse_by_owner(top: Path) -> Path:
    os.chown(top / "d/a.yaml", STRANGER, -1)
    return top / "d/a.yaml"


def refuse_by_mode(top: Path) -> Path:
    (top / "d/a.yaml").chmod(0o646)
    return top / "d/a.yaml"


def refuse_directory(top: Path) -> Path:
    (top / "d").chmod(0o777)
    return top / "d"


@pytest.mark.parametrize(
    ("refuse", "code"),
    [
        (refuse_by_owner, "foreign-file"),
        (refuse_by_mode, "world-writable-file"),
        (refuse_directory, "world-writable-directory"),
    ],
)
def test_what_is_refused_stays_as_it_was_until_it_is_mended(
    top: Path, refuse: Callable[[Path], Path], code: str
) -> None:
    (top / "d").mkdir()
    (top / "d/a.yaml").write_text(policy("before"))
    reader = Reader(top)
    assert reader.names() == {"before"}
    where = refuse(top)
    with (top / "d/a.yaml").open("w") as file:  # as whoever may write to it could
        file.write(policy("other"))
    assert reader.names() == {"before"}
    assert reader.codes() == {code}
    os.chown(where, 0, -1)
    where.chmod(0o755 if where.is_dir() else 0o644)
    assert reader.names() == {"other"}
    assert not reader.findings


def test_a_link_that_comes_to_lead_out_keeps_what_was_there(top: Path, tmp_path: Path) -> None:
    (top / ".r1").mkdir()
    (top / ".r1/a.yaml").write_text(policy("before"))
    (top / "current").symlink_to(".r1")
    reader = Reader(top)
    assert reader.names() == {"before"}
    (tmp_path / "outside").mkdir()
    for target in (tmp_path / "outside", "nowhere"):
        (top / "new").symlink_to(target)
        (top / "new").rename(top / "current")
        assert reader.names() == {"before"}
        assert reader.codes() <= {"link-out-of-tree", "dangling-symlink"}
        assert reader.findings
    (top / ".r2").mkdir()
    (top / ".r2/a.yaml").write_text(policy("after"))
    (top / "new").symlink_to(".r2")
    (top / "new").rename(top / "current")
    assert reader.names() == {"after"}


# What is opened -------------------------------------------------------------------------------------------------------


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Do something over and over, meanwhile, in a thread."""
    over = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not over.is_set():
                work()
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not errors


@pytest.mark.parametrize("kind", ["fifo", "link", "device", "socket"])
def test_what_takes_a_files_place_is_not_opened(top: Path, tmp_path: Path, kind: str) -> None:
    """Between the look and the reading, or while it is looked at."""
    (tmp_path / "secret").write_text(f"{SECRET}: {{\n")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    good, bad = tmp_path / "good", tmp_path / "bad"
    opened = 0

    def swap() -> None:
        nonlocal opened
        good.write_text(policy("good"))
        good.rename(top / "a.yaml")
        match kind:
            case "fifo":
                bad.hardlink_to(fifo)
            case "link":
                bad.symlink_to(tmp_path / "secret")
            case "device":
                os.mknod(bad, 0o020600, os.makedev(5, 0))  # a terminal: there is none, so opening it fails
            case "socket":
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(str(bad))
        bad.rename(top / "a.yaml")
        with suppress(OSError):  # ENXIO: nobody has it open for reading
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            opened += 1

    source = Source(top, LIMIT)
    texts: list[str] = []
    end = time.monotonic() + 1.5
    with beside(swap):
        while time.monotonic() < end:
            reading = source.read(EVERYTHING_CHANGED, 0.0)
            texts += map(str, reading.findings)
            texts += [str(each) for parsed in source.parsed.values() for each in parsed.findings]
            is_being_written(str(top / "a.yaml"))
    assert not opened
    assert not [text for text in texts if "a-secret" in text]
    assert {each.name for parsed in source.parsed.values() for each in parsed.objects} <= {"good"}


def test_reading_takes_only_what_was_looked_at(top: Path, tmp_path: Path) -> None:
    file = top / "a.yaml"
    file.write_text("mine")
    seen = look(str(file), LIMIT)
    assert isinstance(seen, bytes)
    assert read_file(str(file), seen) == b"mine"
    (tmp_path / "theirs").write_text("mine")
    file.unlink()
    file.symlink_to(tmp_path / "theirs")
    with pytest.raises(Moving):
        read_file(str(file), seen)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(Moving):
        read_file(str(file), seen)


# Names ----------------------------------------------------------------------------------------------------------------

NAMES = [
    b"a\nb",
    b"\x1b[31mred",
    b"\xff\xfe",
    "\u202egpj".encode(),
    b"a" * 250,
    b"\xc2\x9b1m",
    b" ",
    b"%s%n",
    b"\"'`$(id)",
]


@pytest.mark.parametrize("as_directory", [False, True], ids=["file", "directory"])
def test_names_that_mean_harm_are_told_safely(top: Path, as_directory: bool) -> None:
    directory = os.fsencode(top)
    for name in NAMES:
        if as_directory:
            os.mkdir(directory + b"/" + name)  # noqa: PTH102  bytes
            Path(os.fsdecode(directory + b"/" + name + b"/x.yaml")).write_text("{")
            Path(os.fsdecode(directory + b"/" + name + b"/open.yaml")).touch()
            Path(os.fsdecode(directory + b"/" + name + b"/open.yaml")).chmod(0o666)
        else:
            Path(os.fsdecode(directory + b"/" + name + b".yaml")).write_text("{")
    reader = Reader(top)
    reader.names()
    for finding in reader.findings:
        assert finding.position.file.isprintable(), finding
        str(finding).encode()
    for path, says in reader.source.parsed.items():
        assert path.isprintable() or (says.truncated and not says.findings), "what can't be printed is not read"


def test_a_path_longer_than_the_system_takes(top: Path) -> None:
    (top / "a.yaml").write_text(policy("a"))
    at = os.open(top, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=at)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("deep.yaml", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=at))
    os.close(at)
    reader = Reader(top)
    assert reader.names() == {"a"}
    assert reader.codes() == {"unreadable-directory"}


# The settings, and the daemon ---------------------------------------------------------------------------------------


def test_the_settings_say_who(caplog: pytest.LogCaptureFixture) -> None:
    made = trustees(Settings(node="n", trusted_users=("nobody", "65533", "no-such-user")))
    assert made.users == {65534, 65533}
    assert made.warning is not None
    assert "no-such-user" in made.warning
    assert trustees(Settings(node="n", untrusted_files="read")).users is None
    assert trust.Trustees().trust("/", 7).leads_out("/etc/passwd") is None, "a tree may be all of the file system"


@pytest.mark.kernel
def test_the_daemon_keeps_what_was_good_and_wakes_when_it_is_mended(lab: Lab) -> None:
    node = lab.node("n1")
    with Daemon(node, "nft") as daemon:
        file = daemon.write("a.yaml", policy("a"))
        daemon.wait()
        assert daemon.status()["policies"]["accepted"] == 1
        os.chown(file, STRANGER, -1)
        (daemon.manifests / "shadow.yaml").symlink_to("/etc/shadow")
        os.mkfifo(daemon.manifests / "fifo.yaml")
        daemon.wait()
        status = daemon.status()
        assert {each["code"] for each in status["findings"]} == {"foreign-file", "link-out-of-tree", "not-a-file"}
        assert status["policies"]["accepted"] == 1
        (daemon.manifests / "shadow.yaml").unlink()
        (daemon.manifests / "fifo.yaml").unlink()
        os.chown(file, 0, -1)
        deadline = time.monotonic() + 20  # by the event alone: nobody asks for a look at all files
        while daemon.status()["findings"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert daemon.ctl("flush").returncode == 0
        assert "asked for by user root (0), process " in daemon.errors()
        assert "flushed on request of user root (0), process " in daemon.errors()
