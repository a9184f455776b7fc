"""What netpoldctl shows while one waits: on a terminal's standard error, and nothing of it is left there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings

from netpold.config import Settings
from netpold.ctl.offline import read
from netpold.ctl.progress import Progress
from netpold.host.source import Source
from netpold.policy.index import Index
from netpold.policy.model import World
from netpold.policy.steps import Steps, finished, stretch
from netpold.rules.difference import difference_in_steps
from netpold.rules.ends import end
from netpold.rules.matrix import matrix_in_steps
from netpold.rules.offline import offline_ruleset
from netpold.rules.page import explained_in_steps
from tests.strategies import PLAIN, worlds

ROOT = Path(__file__).parent.parent
PYTHON = "/usr/bin/python3"

# Waits in a block until it is told to go on, by a line on standard input; says so far how much is done.
WAITS = """
import sys
from netpold.ctl.progress import progress
with progress({what!r}) as told:
    {before}
    sys.stdin.readline()
{after}
"""


class Waiting:
    """A command whose standard error is a terminal of some width."""

    def __init__(self, command: Sequence[str], columns: int = 80, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment}
        variables.pop("COLUMNS", None)
        # who runs the tests may have the signal ignored, as a shell does for what it runs in the background
        command = ["env", "--default-signal=INT", *command]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=slave, env=variables, cwd=ROOT, text=True
        )
        os.close(slave)
        self.seen = ""

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._master)

    def until(self, text: str) -> str:
        """What was shown until that was; all of it, where it never is."""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while text not in self.seen:
                assert select.select([self._master], [], [], 60)[0], "nothing was shown for a minute"
                self.seen += os.read(self._master, 4096).decode()
        return self.seen

    def end(self) -> str:
        """Let it go on; what there was to see until it ended."""
        self.process.communicate("\n", timeout=60)
        return self.until("nothing else")


def waits(what: str = "judging", before: str = "pass", after: str = "") -> list[str]:
    return [PYTHON, "-c", WAITS.format(what=what, before=before, after=after)]


def screen(seen: str) -> list[str]:
    """The lines that a terminal would show in the end."""
    lines, cursor = [""], 0
    for part in re.findall(r"\x1b\[\?7[lh]|\x1b\[K|\r|\n|[^\r\n\x1b]+|\x1b", seen):
        if part == "\n":
            lines.append("")
            cursor = 0
        elif part == "\r":
            cursor = 0
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:cursor]
        elif not part.startswith("\x1b"):
            lines[-1] = lines[-1][:cursor] + part + lines[-1][cursor + len(part) :]
            cursor += len(part)
    return lines


def test_the_share_that_is_done_is_shown_and_nothing_is_left() -> None:
    with Waiting(waits("judging", "told.tell(0.42)", "print('done', file=sys.stderr)")) as command:
        assert re.search(r"\[########\.{12}\]  42% judging, \d+ s\x1b", command.until("judging"))
        assert screen(command.end()) == ["done", ""]


def test_without_a_share_it_says_for_how_long() -> None:
    with Waiting(waits("waiting for \x1b[31mred")) as command:
        assert re.search(r"[|/\\-] waiting for \\x1b\[31mred, \d+ s\x1b", command.until(" s\x1b")), "nothing is obeyed"
        assert "%" not in command.end()


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
def test_it_fits(columns: int) -> None:
    with Waiting(waits("reading " + "very/" * 30, "told.tell(1)"), columns) as command:
        command.until("100%")
        shown = [part for part in re.split(r"\r|\x1b\[(?:\?7[lh]|K)", command.end()) if part]
        assert shown and all(len(each) < columns and each.endswith(" s") for each in shown)
        assert ("#" in shown[0]) == (columns >= 40)


def test_interrupted_it_leaves_nothing_either() -> None:
    with Waiting(waits(before="told.tell(0.5)")) as command:
        command.until("50%")
        command.process.send_signal(2)
        assert screen(command.until("KeyboardInterrupt"))[0].startswith("Traceback")


def test_a_terminal_that_can_not_is_told_nothing() -> None:
    with Waiting(waits(before="import time; time.sleep(1.5)"), TERM="dumb") as command:
        assert command.end() == ""


def test_no_terminal_no_line() -> None:
    done = subprocess.run(
        waits(before="import time; time.sleep(1.5)"), input="\n", capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_verb_shows_it_and_what_it_says_is_as_ever(tmp_path: Path) -> None:
    """The daemon's socket is there a while, and nobody answers."""
    command = [PYTHON, "-m", "netpold.ctl", "--socket", str(tmp_path / "no.sock"), "wait", "--timeout", "2"]
    with Waiting(command) as wait:
        seen = wait.end()
        assert "waiting for up to 2 s until everything on disk" in seen and wait.process.returncode == 3
        assert screen(seen)[0].startswith("netpoldctl: netpold does not run") and screen(seen)[-1] == ""


def test_a_length_that_is_known_is_a_share() -> None:
    told = Progress("watching", 10.0)
    assert "  0% watching" in told.line(told.began, 80)
    assert " 50% watching" in told.line(told.began + 5, 80)
    assert "100% watching" in told.line(told.began + 11, 80)


# How much is done -----------------------------------------------------------------------------------------------------


def shares(steps: Steps[object]) -> list[float]:
    return list(steps)


def rises(found: list[float]) -> bool:
    return all(0 <= each <= 1 for each in found) and found == sorted(found)


@settings(max_examples=30, deadline=None)
@given(old=worlds(PLAIN), new=worlds(PLAIN))
def test_shares_of_what_is_computed_rise(old: World, new: World) -> None:
    index = Index(new)
    pods = [key for key, pod in new.pods.items() if pod.takes_part and pod.addresses]
    ruleset = offline_ruleset(index)
    ports = [("TCP", 80), ("UDP", 53)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netpold.rules.matrix.STEP", 1)  # at each end, for there are few
        ends = [end(index, name) for name in (*pods, "192.0.2.1")]
        found = shares(matrix_in_steps(index, ruleset, ends, ports))
        assert rises(found) and (found or not pods)
        matrix = finished(matrix_in_steps(index, ruleset, ends, ports))
        assert rises(shares(explained_in_steps(index, ruleset, matrix)))
    found = shares(difference_in_steps(Index(old), Index(new)))
    assert rises(found) and (found or old == new)


def test_a_stretch_of_something_longer() -> None:
    def steps() -> Steps[str]:
        yield 0.0
        yield 0.5
        return "found"

    def longer() -> Steps[str]:
        return (yield from stretch(steps(), 0.5, 1.0))

    assert shares(longer()) == [0.5, 0.75]
    assert finished(longer()) == "found"


def test_the_share_of_reading_is_of_bytes(tmp_path: Path) -> None:
    pod = "---\nkind: Pod\napiVersion: v1\nmetadata: {{name: p{0}, namespace: x}}\nstatus: {{podIP: 10.0.0.{0}}}\n"
    (tmp_path / "few.yaml").write_text(pod.format(1))
    (tmp_path / "many.yaml").write_text("".join(pod.format(number) for number in range(2, 9)))
    (tmp_path / "none.yaml").write_text("")
    found: list[float] = []
    Source(tmp_path, Settings().max_file_size).read_as_it_is(found.append)
    assert len(found) == 8 and rises(found) and found[0] > 0.1 and found[-1] > 0.95
    assert len(read([tmp_path], Settings()).index.world.pods) == 8
