"""The snapshot on disk: whole at every moment, whatever happens to the writer; what the files say is in test_boot."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netpold.host import snapshot
from netpold.host.snapshot import SOON_S, Snapshots, remove
from netpold.rules.ruleset import EMPTY, InSet, IPSet, Jump, Rule, Ruleset

MEMBERS = {"10.72.0.2", "10.72.0.3"}


def ruleset(members: set[str], drop: bool = True) -> Ruleset:
    return Ruleset(
        chains={
            4: {
                "NETPOLD-FORWARD": (Rule((), Jump("NP-RULES-x")),),
                "NP-RULES-x": (Rule((InSet("NP4-a", "src"),), "RETURN", "x/a rule 1"), *[Rule((), "DROP")] * drop),
            },
            6: {"NETPOLD-FORWARD": (Rule((InSet("NP6-a", "src"),), "DROP"),)},
        },
        sets={
            "NP4-a": IPSet("NP4-a", 4, "hash:ip", "pods a", members),
            "NP6-a": IPSet("NP6-a", 6, "hash:net", "", {"fd72::/64", "fd72::/80 nomatch"}, None),
        },
        hooks={"FORWARD": "NETPOLD-FORWARD"},
    )


CHECKOUT = Path(__file__).resolve().parents[1]
NOBODY = 65534

# What a process without root's rights does: saves a ruleset, twice, and tells its warning.
AS_THE_SERVICE = """
import sys, time
from pathlib import Path
from netpold.host.snapshot import Snapshots
from tests.test_snapshot import NAMES, ruleset
snapshots = Snapshots(Path(sys.argv[1]), "nft")
for _ in range(2):
    snapshots.take(ruleset({sys.argv[2]}), NAMES)
    while snapshots._waiting or snapshots._disk.locked():
        time.sleep(0.001)
snapshots.close()
print(snapshots.warning)
"""

NAMES = {"NP4-a": "NP4-a.7", "NP6-a": "NP6-a"}


def saved(state: Path) -> dict[str, str]:
    """What a boot would find, by file; raises where the checksums are not right."""
    current = state / "snapshot/current"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "sha256sums"], cwd=current, check=True)
    return {each.name: each.read_text() for each in current.resolve().iterdir()}


def write(state: Path, members: set[str] = MEMBERS) -> None:
    snapshots = Snapshots(state, "nft")
    snapshots.take(ruleset(members), NAMES)
    snapshots.close()
    assert not snapshots.warning


def write_as_the_service(state: Path, member: str) -> tuple[str, list[str]]:
    """As the user NOBODY, with the service's right to read everything; gives the warning, and what was logged."""
    capability = "+dac_read_search"
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command += [f"--inh-caps={capability}", f"--ambient-caps={capability}", sys.executable, "-c", AS_THE_SERVICE]
    done = subprocess.run(
        [*command, state, member], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip(), done.stderr.splitlines()


def only_the_current_one(state: Path) -> bool:
    base = state / "snapshot"
    return {each.name for each in base.iterdir()} == {"current", str((base / "current").readlink())}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_the_files_are_what_the_tools_restore(tmp_path: Path) -> None:
    write(tmp_path)
    files = saved(tmp_path)
    lines = files["ipv4.sets"].splitlines()
    assert lines[:2] == ["create NP4-a.7 hash:ip family inet hashsize 64 maxelem 4194304", "flush NP4-a.7"]
    assert sorted(lines[2:]) == ["add NP4-a.7 10.72.0.2", "add NP4-a.7 10.72.0.3"]
    assert "add NP6-a fd72::/80 nomatch" in files["ipv6.sets"].splitlines()
    assert files["ipv4.rules"].splitlines() == [
        "*filter",
        ":NETPOLD-FORWARD - [0:0]",
        ":NP-RULES-x - [0:0]",
        "-A NETPOLD-FORWARD -j NP-RULES-x",
        '-A NP-RULES-x -m set --match-set NP4-a.7 src -m comment --comment "x/a rule 1" -j RETURN',
        "-A NP-RULES-x -j DROP",
        "-I FORWARD 1 -j NETPOLD-FORWARD",
        "COMMIT",
    ]
    assert files["backend"] == "nft\n"
    assert sorted(files) == ["backend", "ipv4.rules", "ipv4.sets", "ipv6.rules", "ipv6.sets", "pods", "sha256sums"]


def test_only_root_may_read_it(tmp_path: Path) -> None:
    write(tmp_path)
    base = tmp_path / "snapshot"
    modes = {stat.S_IMODE(each.lstat().st_mode) for each in base.glob("*/*")}
    assert modes == {0o600}
    directories = [base, (base / "current").resolve()]
    assert {stat.S_IMODE(each.stat().st_mode) for each in directories} == {0o700}


def test_without_any_policy_there_is_a_snapshot_too(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, "legacy")
    snapshots.take(EMPTY, {})
    snapshots.close()
    assert saved(tmp_path)["ipv4.sets"] == ""


def test_members_that_change_later_are_not_in_it(tmp_path: Path) -> None:
    members = {"10.72.0.2"}
    snapshots = Snapshots(tmp_path, "nft")
    snapshots.take(ruleset(members), NAMES)
    members.add("10.72.0.9")
    snapshots.close()
    assert "10.72.0.9" not in saved(tmp_path)["ipv4.sets"]


def test_the_last_one_taken_is_on_disk_when_it_is_closed(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, "nft")
    for number in range(20):
        snapshots.take(ruleset({f"10.72.0.{number}"}), NAMES)
    snapshots.close()
    assert "10.72.0.19\n" in saved(tmp_path)["ipv4.sets"]
    assert only_the_current_one(tmp_path)


def test_it_is_due_some_time_after_the_first_change_and_not_before_the_pause_is_over(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, "nft")
    assert snapshots.due is None
    before = time.monotonic()
    snapshots.changed()
    due = snapshots.due
    assert due is not None
    assert due >= before + SOON_S
    snapshots.changed()
    assert snapshots.due == due
    snapshots.take(ruleset(MEMBERS), NAMES)
    assert snapshots.due is None
    began = time.monotonic()
    snapshots.close()
    snapshots._not_before = began + 1000
    snapshots.changed()
    assert snapshots.due == began + 1000


def test_what_is_about_pods_is_due_at_once_but_for_half_of_the_time(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, "nft")
    snapshots.take(ruleset(MEMBERS), NAMES)
    snapshots.close()
    snapshots._not_before = time.monotonic() + 1000
    snapshots.changed()
    assert snapshots.due == snapshots._not_before
    snapshots.changed(soon=True)
    assert snapshots.due is not None and snapshots.due < snapshots._not_before
    snapshots._soon_not_before = time.monotonic() + 500
    assert snapshots.due == snapshots._soon_not_before
    snapshots.take(ruleset(MEMBERS), NAMES)
    snapshots._waiting = None
    snapshots.changed()
    assert snapshots.due == snapshots._not_before


def test_forget_leaves_nothing_not_even_what_waits_to_be_written(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, "nft")
    for number in range(50):
        snapshots.take(ruleset({f"10.72.0.{number}"}), NAMES)
        snapshots.changed()
        snapshots.forget()
        assert not (tmp_path / "snapshot").exists()
        assert snapshots.due is None
    snapshots.close()
    assert not (tmp_path / "snapshot").exists()
    remove(tmp_path)


@pytest.mark.kernel
def test_a_full_disk_is_one_warning_and_the_snapshot_before_stays(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(small_disk)
    before = saved(small_disk)
    many = {f"10.72.{high}.{low}" for high in range(100) for low in range(256)}
    snapshots = Snapshots(small_disk, "nft")
    for _ in range(3):
        snapshots.take(ruleset(many), NAMES)
        while snapshots._waiting or snapshots._disk.locked():
            time.sleep(0.001)
        assert saved(small_disk) == before
        assert only_the_current_one(small_disk)
        assert "No space left" in snapshots.warning
        due = snapshots.due
        assert due is not None  # to try again, though nothing changed
    assert len(caplog.records) == 1
    snapshots.take(ruleset({"10.72.0.9"}), NAMES)
    snapshots.close()
    assert snapshots.warning == ""
    assert "10.72.0.9" in saved(small_disk)["ipv4.sets"]


def test_what_is_no_directory_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("")
    snapshots = Snapshots(tmp_path / "state", "nft")
    snapshots.take(ruleset(MEMBERS), NAMES)
    snapshots.close()
    snapshots.forget()
    assert str(tmp_path / "state") in snapshots.warning
    assert ["can't be saved" in each.getMessage() for each in caplog.records] == [True, False]
    assert "can't be removed" in caplog.text


def test_leftovers_go_with_the_next_write(tmp_path: Path) -> None:
    write(tmp_path)
    base = tmp_path / "snapshot"
    shutil.copytree((base / "current").resolve(), base / "tmpabc")
    (base / "current.new").symlink_to("tmpabc")
    (base / "stray").write_text("")
    write(tmp_path)
    assert only_the_current_one(tmp_path)
    (base / "current").unlink()
    (base / "current").mkdir()  # somebody's copy without symlinks
    write(tmp_path)
    assert only_the_current_one(tmp_path)


@pytest.fixture
def by_root(tmp_path: Path) -> Path:
    """The state directory of a service that was run by hand as root."""
    state = tmp_path / "netpold"
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY, NOBODY)
    assert write_as_the_service(state, "10.72.0.1") == ("", [])
    write(state, {"10.72.0.2"})
    (state / "parsed.sqlite").write_text("")
    (state / "link").symlink_to(tmp_path)
    return state


@pytest.mark.kernel
def test_what_can_t_be_removed_is_told_once_and_stops_no_write(by_root: Path) -> None:
    foreign = (by_root / "snapshot/current").resolve()
    said = f"older saved rules can't be removed: {foreign}: Permission denied"
    assert write_as_the_service(by_root, "10.72.0.3") == (said, [said])
    assert "10.72.0.3\n" in saved(by_root)["ipv4.sets"]
    assert foreign.is_dir()


@pytest.mark.kernel
def test_the_unit_gives_the_service_what_root_left(by_root: Path) -> None:
    unit = (CHECKOUT / "systemd/netpold.service").read_text()
    [command] = re.findall(r"^ExecStartPre=\+-(/bin/chown .*)$", unit, re.M)
    command = command.replace("netpold:netpold", f"{NOBODY}:{NOBODY}").replace("/var/lib/netpold", str(by_root))
    subprocess.run(command.split(), check=True)
    assert {each.lstat().st_uid for each in by_root.rglob("*")} == {NOBODY}
    assert by_root.parent.stat().st_uid == 0  # through no link
    assert write_as_the_service(by_root, "10.72.0.3") == ("", [])
    assert only_the_current_one(by_root)


# Killed, and power cut --------------------------------------------------------------------------------------------

STEPS = ("open", "fsync", "mkdir", "symlink", "rename", "replace", "unlink", "rmdir", "close", "readlink")


def _interposed(monkeypatch: pytest.MonkeyPatch, before: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Call `before` before each system call of the writer that changes something or makes it last."""

    def wrapped(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            before(name, args)
            return real(*args, **options)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, wrapped(name))


def _killed_at(step: int, state: Path, members: set[str]) -> bool:
    """Write in a child that is gone before its system call number `step`; whether there was such a call."""
    child = os.fork()
    if child == 0:
        calls = iter(range(10**6))

        def count(name: str, args: tuple[Any, ...]) -> None:
            if next(calls) == step:
                os._exit(9)

        with pytest.MonkeyPatch.context() as patch:
            _interposed(patch, count)
            snapshot._write(state, "nft", snapshot._Taken(ruleset(members), NAMES, frozenset()))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("first", [True, False])
def test_killed_at_any_step_a_boot_finds_all_of_the_old_one_or_all_of_the_new_one(tmp_path: Path, first: bool) -> None:
    old, new = {"10.72.0.1"}, {"10.72.0.2"}
    found = []
    for step in range(1000):
        state = tmp_path / str(step)
        state.mkdir()
        if not first:
            write(state, old)
        if not _killed_at(step, state, new):
            break
        if (state / "snapshot/current").is_symlink():
            found.append("10.72.0.2" in saved(state)["ipv4.sets"])
        else:
            assert first
        write(state, old)
        assert only_the_current_one(state)
        assert "10.72.0.1" in saved(state)["ipv4.sets"]
    assert 20 < step < 999
    assert found == sorted(found)  # the old one, then the new one
    assert True in found


def test_all_of_it_is_on_disk_before_it_becomes_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[Path] = set()
    at_rename: list[tuple[set[Path], set[Path]]] = []

    def watch(name: str, args: tuple[Any, ...]) -> None:
        if name == "fsync":
            synced.add(Path(f"/proc/self/fd/{args[0]}").readlink())
        if name in ("rename", "replace"):
            revision = tmp_path / "snapshot" / Path(args[0]).readlink()
            at_rename.append(({*revision.iterdir(), revision}, set(synced)))
            synced.clear()

    _interposed(monkeypatch, watch)
    snapshot._write(tmp_path, "nft", snapshot._Taken(ruleset(MEMBERS), NAMES, frozenset()))
    [(written, before)] = at_rename
    assert len(written) == 8
    assert written <= before
    assert tmp_path / "snapshot" in synced  # the rename itself
