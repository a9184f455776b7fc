"""A machine that has no thread to spare, once or for a while: nothing is lost for good, and nothing opens.

`threading.Thread.start` fails then as it does where a limit of processes is reached (pids.max, RLIMIT_NPROC).
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netpold.daemon.control import Control
from netpold.daemon.inbox import Inbox
from netpold.host.kernel.backend import KernelError
from netpold.host.parse import parse_all
from netpold.host.snapshot import CURRENT, Snapshots
from netpold.host.watch import Watcher
from tests.test_control import Connection
from tests.test_control import Daemon as Controlled
from tests.test_parse import LIMITS, by_place, jobs, small, wanted
from tests.test_snapshot import MEMBERS, NAMES, ruleset

__all__ = ["small", "wanted"]


@contextmanager
def no_threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        yield


def test_units_are_parsed_here(wanted: dict[tuple[str, int], str], small: None) -> None:
    with no_threads():
        assert by_place(parse_all(jobs(), LIMITS)) == wanted


def test_the_snapshot_is_tried_again(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, "nft")
    snapshots.changed()
    with no_threads():
        snapshots.take(ruleset(MEMBERS), NAMES)
    assert "no thread" in snapshots.warning
    assert snapshots.due is not None
    snapshots.take(ruleset(MEMBERS), NAMES)
    snapshots.close()
    assert not snapshots.warning
    assert (tmp_path / "snapshot" / CURRENT).is_dir()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_watcher_is_replaced_as_soon_as_there_are_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died, woken = threading.Event(), threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: died.set())
    watcher = Watcher(tmp_path, woken.set)
    watcher.start()
    watcher.take()

    def fail(*_: object) -> None:
        del watcher._note  # type: ignore[attr-defined]  # once
        raise ZeroDivisionError

    watcher._note = fail  # type: ignore[method-assign]
    (tmp_path / "a.yaml").touch()
    assert died.wait(10)
    with no_threads(), pytest.raises(OSError, match="no thread"):
        watcher.take()
    assert watcher.take().everything
    woken.clear()
    (tmp_path / "b.yaml").touch()
    assert woken.wait(10)
    watcher.close()


def test_the_socket_answers_one_by_one_and_nothing_that_may_take_long(tmp_path: Path) -> None:
    def answer(method: str, path: str) -> int:
        client = Connection(control.path)
        client.request(method, path)
        response: http.client.HTTPResponse = client.getresponse()
        response.read()
        client.close()
        return response.status

    control = Control(tmp_path / "run", Controlled())
    control.start()
    try:
        with no_threads():
            assert answer("POST", "/v1/wait?timeout=3600") == 503
            assert answer("GET", "/v1/status") == 200
        assert answer("POST", "/v1/wait?timeout=0") != 503
    finally:
        control.close()


def test_a_flush_that_is_said_to_have_failed_is_not_carried_out_later() -> None:
    inbox = Inbox()
    with pytest.raises(KernelError, match="given up"):
        inbox.flush(0.01)
    assert not inbox.take(time.monotonic()).flush
    waiting = threading.Thread(target=inbox.wish, kwargs={"flush": True})
    waiting.start()
    waiting.join()
    assert inbox.take_urgent().flush  # the loop has begun
    with pytest.raises(KernelError, match="goes on"):
        inbox.flush(0.01)
