"""The database of last good versions: what it was given, or nothing and a warning; never something else."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from netpold.host import last_good as last_good_module
from netpold.host import last_good_database as database
from netpold.host import threads
from netpold.host.last_good import LastGood
from netpold.policy.changes import Changes
from netpold.policy.manifest import Object
from netpold.policy.model import NAME_LABEL, Namespace, Pod, Policy, PolicyRule, Position, Selector, World
from tests.lab.daemon import CHECKOUT

ALL = PolicyRule(None, None)


def policy(name: str, open_to_all: bool = True, file: str = "/m/p.yaml") -> Policy:
    rules = (ALL,) if open_to_all else ()
    return Policy("x", name, Selector(), rules, None, Position(file, 3, 1))


def world(pods: int = 40) -> World:
    made = [
        Pod("x", f"p{n}", {"app": f"a{n}"}, (f"10.0.0.{n}",), position=Position("/m/pods.yaml", n + 1))
        for n in range(pods)
    ]
    spaces = [Namespace("x", {NAME_LABEL: "x"}, Position("/m/x.yaml", 1))]
    policies = [policy("a"), policy("b", False), policy("closed", file="/m/q.yaml")]
    return World({each.key: each for each in made}, {"x": spaces[0]}, {each.key: each for each in policies})


def everything(of: World) -> dict[tuple[str, str], Object]:
    kinds = (("NetworkPolicy", of.policies), ("Namespace", of.namespaces), ("Pod", of.pods))
    return {(kind, key): each for kind, table in kinds for key, each in table.items()}


def save(path: Path, of: World, *changes: Changes) -> LastGood:
    """One daemon, from its first round to its end."""
    kept = LastGood(path)
    for each in (Changes(), *changes):
        kept.changed(each, of)
        while kept.due is not None:
            kept.save(0.01)
    kept.close()
    return kept


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(tmp_path / "state/good.sqlite", world())
    return tmp_path / "state/good.sqlite"


def read(path: Path) -> dict[tuple[str, str], Object]:
    """What is there of the world's objects."""
    kept = LastGood(path)
    found = {name: kept.version(*name) for name in everything(world())}
    return {name: each for name, each in found.items() if each is not None}


def test_what_was_good(path: Path) -> None:
    kept = LastGood(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read(path) == everything(world())
    assert {key for kind, key in kept.names() if kind == "NetworkPolicy"} == set(world().policies)
    assert set(kept.files()) == {"/m/p.yaml", "/m/q.yaml", "/m/pods.yaml", "/m/x.yaml"}
    found = kept.version("NetworkPolicy", "x/a")
    assert found is not None and found.position == Position("/m/p.yaml", 3, 1)
    assert kept.version("NetworkPolicy", "x/none") is None and kept.warning is None
    kept.changed(Changes(), world())
    assert kept.version("NetworkPolicy", "x/a") is None, "from the first round on the world knows"
    kept.close()


def test_what_changes_is_kept_and_what_goes_is_not(path: Path) -> None:
    now = world()
    policies, pods = dict(now.policies), dict(now.pods)
    policies["x/a"] = policy("a", False)
    del pods["x/p1"]
    now = World(pods, now.namespaces, policies)
    before = world()
    changes = Changes({"x/p1": (before.pods["x/p1"], None)}, {}, {"x/a": (before.policies["x/a"], policies["x/a"])})
    kept = LastGood(path)
    kept.changed(Changes(), before)
    kept.changed(changes, now)
    kept.close()
    # the world that `changed` was given first is the one that changes, in the daemon
    save(path, now, changes)
    assert read(path) == everything(now)


def test_what_went_while_nobody_looked_is_taken_away(path: Path) -> None:
    save(path, World({}, {}, {"x/a": policy("a")}))
    assert set(read(path)) == {("NetworkPolicy", "x/a")}


def test_a_start_with_nothing_new_writes_nothing(path: Path) -> None:
    before = path.read_bytes()
    save(path, world())
    assert path.read_bytes() == before


def test_closed_versions_stay_closed(path: Path) -> None:
    closed = Policy("x", "c", Selector(), (), None, Position("/m/p.yaml", 9), quarantined=True)
    save(path, World({}, {}, {"x/c": closed}))
    assert LastGood(path).version("NetworkPolicy", "x/c") == closed


def harmed(path: Path, harm: Callable[[bytearray], object]) -> None:
    """Each object is as it was, or is missing and somebody is told; the next daemon mends it."""
    data = bytearray(path.read_bytes())
    harm(data)
    path.write_bytes(data)
    kept = LastGood(path)
    wanted = everything(world())
    found = {name: kept.version(*name) for name in wanted}
    assert all(each is None or each == wanted[name] for name, each in found.items())
    assert all(found.values()) or kept.warning
    kept.changed(Changes(), world())
    kept.close()
    save(path, world())
    assert read(path) == wanted


def test_bytes_that_change(path: Path, tmp_path: Path) -> None:
    chance, good, lost = random.Random(7), path.read_bytes(), 0
    for _ in range(60):
        copy = tmp_path / "copy.sqlite"
        database._remove(copy)
        copy.write_bytes(good)
        at = chance.randrange(len(good))

        def flip(data: bytearray, at: int = at) -> None:
            for each in range(at, min(at + chance.choice((1, 1, 40, 5000)), len(data))):
                data[each] ^= chance.randrange(1, 256)

        harmed(copy, flip)
        lost += 1
    assert lost == 60


def test_cut_anywhere(path: Path, tmp_path: Path) -> None:
    chance, good = random.Random(8), path.read_bytes()
    for _ in range(40):
        copy = tmp_path / "copy.sqlite"
        database._remove(copy)
        copy.write_bytes(good)
        harmed(copy, lambda data: data.__delitem__(slice(chance.randrange(len(good)), None)))


def test_a_lost_page_takes_only_its_own_objects(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b'"name":"p20"') // 4096 * 4096
    data[at : at + 4096] = bytes(4096)
    path.write_bytes(data)
    kept = LastGood(path)
    there = [name for name in everything(world()) if kept.version(*name) is not None]
    assert 10 < len(there) < 44
    assert kept.warning and f"{len(there)} of 44" in kept.warning


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE count",
        "DELETE FROM count",
        "DROP TABLE objects",
        "DELETE FROM objects WHERE kind = 'Pod'; UPDATE count SET rows = 44",
    ],
)
def test_tables_that_are_gone(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(sql)
    harmed(path, lambda data: None)
    assert LastGood(path).warning is None


def test_another_release(path: Path) -> None:
    """It may have more columns, and kinds that this one does not know: they stay."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE objects ADD COLUMN more TEXT NOT NULL DEFAULT ''")
        row = database.Row("ServiceAccountPolicy", "z", "/m/z.yaml", 1, 1, False, "{}")
        names = "kind, key, file, line, place, closed, manifest, sum"
        connection.execute(f"INSERT INTO objects ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, row.sum()))
        connection.commit()
    save(path, world())
    assert read(path) == everything(world())
    assert LastGood(path).warning is None
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM objects WHERE kind = 'ServiceAccountPolicy'").fetchone() == (1,)


def test_what_this_release_refuses_counts_as_never_seen(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(database.connect(path)) as connection:
        row = database.Row("NetworkPolicy", "x/a", "/m/p.yaml", 1, 1, False, '{"kind":"NetworkPolicy","new":1}')
        database.write(connection, [row], ())
    assert LastGood(path).version("NetworkPolicy", "x/a") is None
    assert "can't be read by this release" in caplog.text


def test_one_that_another_process_has_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.05)
    monkeypatch.setattr(last_good_module, "RETRY_S", 0.05)
    told: list[str | None] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        kept = LastGood(path, lambda: told.append(kept.warning))
        kept.changed(Changes(), World({}, {}, {"x/n": policy("n")}))
        kept.save(1)
        end = time.monotonic() + 10
        while not kept.warning:
            assert time.monotonic() < end
            time.sleep(0.01)
        other.execute("ROLLBACK")
    while kept.warning:
        assert time.monotonic() < end
        time.sleep(0.01)
    kept.close()
    assert len(told) == 2 and "can't be written" in str(told[0]) and told[1] is None
    assert LastGood(path).version("NetworkPolicy", "x/n") == policy("n")


def test_whether_all_is_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.05)
    assert "was not there" in str(LastGood(path.with_name("none.sqlite")).fault())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE any (a)")
        kept = LastGood(path)
        assert "can't be read" in str(kept.fault()) and not kept.files()
        other.execute("ROLLBACK")
    kept.try_again()
    assert kept.fault() is None and kept.warning is None and kept.files()
    path.write_bytes(b"junk" * 5000)
    kept = LastGood(path)
    for _ in range(2):
        assert "was damaged" in str(kept.fault())
        kept.try_again()


def test_a_thread_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [True] * 3

    def started(*words: Any) -> threading.Thread:
        if refused and refused.pop():
            raise OSError(11, "no thread")
        return threads.started(*words)

    monkeypatch.setattr(last_good_module, "started", started)
    monkeypatch.setattr(last_good_module, "RETRY_S", 0.05)
    kept = LastGood(tmp_path / "good.sqlite")
    assert "no thread" in str(kept.warning)
    kept.changed(Changes(), world())
    kept.save(0.01)
    assert kept.due is not None
    end = time.monotonic() + 10
    while kept.due is not None or kept.warning:
        assert time.monotonic() < end
        kept.save(0.01)
    kept.close()
    assert not refused and read(tmp_path / "good.sqlite") == everything(world())


def test_a_state_directory_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = LastGood(tmp_path / "file/good.sqlite")
    assert kept.version("Pod", "x/y") is None
    kept.changed(Changes(), world())
    kept.save(1)
    end = time.monotonic() + 10
    while not kept.warning:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "can't be written" in kept.warning
    kept.close()


WRITER = """
import sys
from pathlib import Path
from netpold.policy.changes import Changes
from netpold.host.last_good import LastGood
from netpold.policy.model import World
from tests.test_last_good_database import policy
policies = {f"x/n{n}": policy(f"n{n}") for n in range(30)}
world = World({}, {}, policies)
kept = LastGood(Path(sys.argv[1]))
kept.changed(Changes(), world)
number = 0
while True:
    kept.save(0.001)
    number += 1
    changes = {}
    for key, before in list(policies.items()):
        policies[key] = policy(before.name, number % 2 == 0, f"/m/{number}.yaml")
        changes[key] = before, policies[key]
    kept.changed(Changes({}, {}, changes), world)
    kept.save(0.001)
    print(number, flush=True)
"""


def test_a_process_that_is_killed_at_any_moment(tmp_path: Path) -> None:
    """What is there then is whole, and not much older than what was known."""
    chance, path = random.Random(9), tmp_path / "good.sqlite"
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=CHECKOUT, stdout=subprocess.PIPE)
        assert writer.stdout
        writer.stdout.readline()
        time.sleep(chance.random() * 0.2)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        kept = LastGood(path)
        found = [kept.version("NetworkPolicy", f"x/n{n}") for n in range(30)]
        assert kept.warning is None
        assert all(found) or not any(found)
