"""What files said, kept over a restart; whatever is wrong with the database is a warning and no more."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from netpold.host import parsed_cache
from netpold.host.parsed_cache import ParsedCache
from netpold.host.source import EVERYTHING_CHANGED, NOTHING_CHANGED, Source
from netpold.policy import documents
from netpold.policy.chunks import Limits
from netpold.policy.documents import Part, Unit
from netpold.policy.manifest import Parsed
from tests.test_documents import CHUNKS, pods

LIMIT = 1 << 20
SETTLE_S = 0.02


class Setting:
    """A directory of manifests, a cache, and daemons that come and go."""

    def __init__(self, top: Path) -> None:
        self.manifests, self.database = top / "manifests", top / "state/parsed.db"
        self.parsed_units = 0
        self.manifests.mkdir()
        for number, chunk in enumerate(CHUNKS):
            (self.manifests / f"{number}.yaml").write_bytes(chunk)
        (self.manifests / "pods.yaml").write_bytes(pods("a", "b", "c"))
        time.sleep(0.05)  # the files are no longer racy

    def run(self) -> dict[str, Parsed]:
        """One daemon: it reads everything, saves it and ends."""
        cache = ParsedCache(self.database)
        source = Source(self.manifests, LIMIT, cache=cache)
        reading = source.read(EVERYTHING_CHANGED, SETTLE_S)
        while not reading.settled or source.due:
            time.sleep(0.005)
            reading = source.read(NOTHING_CHANGED, SETTLE_S)
        while not source.save(0.001):
            pass
        cache.close()
        return dict(source.parsed)

    def parses(self) -> int:
        """How many units the next daemon parses; what it says is right."""
        self.parsed_units = 0
        found = self.run()
        count = self.parsed_units
        fresh = Source(self.manifests, LIMIT)
        fresh.read_as_it_is()
        assert {path: asdict(each) for path, each in found.items()} == {
            path: asdict(each) for path, each in fresh.parsed.items()
        }
        assert repr(sorted(found.items())) == repr(sorted(fresh.parsed.items()))
        return count


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    made = Setting(tmp_path)
    original = documents.parse_unit

    def parse_unit(unit: Unit, file: str, limits: Limits) -> Part:
        made.parsed_units += 1
        return original(unit, file, limits)

    monkeypatch.setattr("netpold.host.parse.parse_unit", parse_unit)
    return made


def test_a_restart_parses_nothing(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert setting.parses() > len(CHUNKS)
    assert stat.S_IMODE(setting.database.stat().st_mode) == 0o600
    assert setting.parses() == 0
    monkeypatch.setattr("netpold.host.load.read_file", None)  # and reads nothing
    setting.run()


def test_only_what_changed_meanwhile_is_parsed(setting: Setting) -> None:
    setting.run()
    (setting.manifests / "pods.yaml").write_bytes(b"# moves all that follows\n" + pods("a", "new", "c"))
    (setting.manifests / "1.yaml").unlink()
    assert setting.parses() == 2
    assert setting.parses() == 0
    with sqlite3.connect(setting.database) as connection:
        rows = [path for (path,) in connection.execute("SELECT path FROM files")]
    assert sorted(rows) == sorted(map(str, setting.manifests.iterdir()))


def test_a_fresh_clone_is_read_and_not_parsed(setting: Setting) -> None:
    setting.run()
    shutil.copytree(setting.manifests, setting.manifests.with_name("clone"))
    shutil.rmtree(setting.manifests)
    setting.manifests.with_name("clone").rename(setting.manifests)
    assert setting.parses() == 0


def test_large_files_are_packed_in_slices(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed_cache, "SLICE", 2)
    setting.run()
    monkeypatch.undo()
    assert len(setting.run()) == len(CHUNKS) + 1


def test_a_file_that_was_racy_is_not_trusted_before_it_is_looked_at_again(setting: Setting) -> None:
    cache = ParsedCache(setting.database)
    source = Source(setting.manifests, LIMIT, cache=cache)
    while not source.read(NOTHING_CHANGED, SETTLE_S).settled:
        time.sleep(0.005)
    (setting.manifests / ".new").write_bytes(pods("new"))
    (setting.manifests / ".new").rename(setting.manifests / "pods.yaml")
    source.read(EVERYTHING_CHANGED, 0.0)
    path = str(setting.manifests / "pods.yaml")
    if path not in source._acting.racy:
        pytest.skip("the machine was too slow")
    while not source.save(1):
        pass
    cache.close()
    with sqlite3.connect(setting.database) as connection:
        assert not connection.execute("SELECT 1 FROM files WHERE path = ?", (path,)).fetchall()


def test_other_code_starts_over(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = setting.parses()
    monkeypatch.setattr(parsed_cache, "_version", lambda: "other")
    assert setting.parses() == everything
    assert setting.parses() == 0
    assert parsed_cache._version() == "other"


def test_the_version_is_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    version = parsed_cache._version()
    assert parsed_cache._version() == version
    monkeypatch.setattr(sys, "version_info", type("Version", (), {"major": 3, "minor": 99}))
    assert parsed_cache._version() != version


@pytest.mark.parametrize("damage", ["text", "cut", "row", "says", "tables"])
def test_a_damaged_one_is_thrown_away(setting: Setting, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    everything = setting.parses()
    if damage == "text":
        setting.database.write_text("this is no database, and it is longer than a header of one " * 50)
    elif damage == "cut":
        os.truncate(setting.database, 5000)
    else:
        with sqlite3.connect(setting.database) as connection:
            connection.execute(
                {
                    "row": "UPDATE files SET outline = x'00'",
                    "says": "UPDATE files SET says = x'00000001ff', sum = sum + 1",
                    "tables": "DROP TABLE version",
                }[damage]
            )
        connection.close()
    assert setting.parses() == everything
    assert any("cache" in each.getMessage() for each in caplog.records)
    setting.run()
    assert setting.parses() == 0


def test_one_that_another_process_has_locked(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parsed_cache, "PATIENCE_S", 0.1)
    everything = setting.parses()
    connection = sqlite3.connect(setting.database, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("DELETE FROM files")
    assert setting.parses() == everything
    assert any("can't be used" in each.getMessage() for each in caplog.records)
    connection.execute("ROLLBACK")
    connection.close()
    assert setting.parses() == 0


def test_one_that_cannot_be_made(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    setting.database.parent.write_text("a file where the directory should be")
    assert setting.parses() == setting.parses() > 0
    assert any("can't be used" in each.getMessage() for each in caplog.records)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk(tmp_path: Path) -> None:
    program = (
        "import logging, sys, time\n"
        "from pathlib import Path\n"
        "from netpold.host.parsed_cache import ParsedCache\n"
        "from netpold.host.source import EVERYTHING_CHANGED, NOTHING_CHANGED, Source\n"
        "logging.basicConfig(level=logging.WARNING)\n"
        "top = Path(sys.argv[1])\n"
        "cache = ParsedCache(top / 'state/parsed.db')\n"
        "source = Source(top / 'manifests', 1 << 20, cache=cache)\n"
        "while not source.read(NOTHING_CHANGED, 0.02).settled: time.sleep(0.02)\n"
        "end = time.monotonic() + 20\n"
        "while not source.save(0.1): assert time.monotonic() < end\n"
        "cache.close()\n"
        "assert len(source.parsed) == 300\n"
    )
    (tmp_path / "state").mkdir()
    (tmp_path / "manifests").mkdir()
    for number in range(300):
        (tmp_path / f"manifests/{number}.yaml").write_bytes(pods(*(f"p{number}-{each}" for each in range(5))))
    script = 'mount -t tmpfs -o size=128k none "$1/state" && exec /usr/bin/python3 -c "$2" "$1"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), program]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent.parent, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "can't be used" in done.stderr
