"""The stage of the setting socket_group: a group that may look, by the drop-in that the manual page has."""

from __future__ import annotations

import gzip
import os
import re
import signal
from pathlib import Path

from .machine import SERVICE, SOCKET, await_enforcing, drop_in, main_pid, run, settings, status, until
from .report import Report, expect

_PAGE = Path("/usr/share/man/man8/netpold.8.gz")
_GROUP, _VIEWER, _STRANGER = "netpold-view", "viewer", "nobody"


def manual_drop_in() -> str:
    """Its lines below [Service], as netpold(8) has them."""
    page = gzip.decompress(_PAGE.read_bytes()).decode()
    blocks = re.findall(r"^\.EX\n\[Service\]\n(.*?)^\.EE$", page, re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if _GROUP in block.replace("\\-", "-")).replace("\\-", "-").strip()


def group(report: Report) -> None:
    with report.step("socket_group without the drop-in: a warning, and nobody but root gets in") as step:
        run("groupadd", "--system", _GROUP)
        run("useradd", "--no-create-home", "--groups", _GROUP, _VIEWER)
        settings(f'socket_group = "{_GROUP}"\n')
        run("systemctl", "restart", SERVICE)
        await_enforcing()
        warnings = [each for each in status()["warnings"] if _GROUP in each]
        expect(warnings, f"warnings {status()['warnings']}")
        step.saw(warnings[0])
        expect(not _may(_VIEWER, "status"), "the group gets in")
    with report.step("socket_group with the manual's drop-in: its members may look, and change nothing") as step:
        drop_in("group", manual_drop_in())
        run("systemctl", "restart", SERVICE)
        await_enforcing()
        _expect_rights()
        step.saw(run("systemd-analyze", "security", "--no-pager", SERVICE).splitlines()[-1])
    with report.step("the same after a kill, and gone with the setting"):
        os.kill(pid := main_pid(), signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), 2, "it is still there")
        await_enforcing()
        _expect_rights()
        settings("")
        drop_in("group", "")
        run("systemctl", "restart", SERVICE)
        await_enforcing()
        expect(not _may(_VIEWER, "status"), "the group still gets in")


def _expect_rights() -> None:
    modes = [f"{path.stat().st_mode & 0o777:o} {path.group()}" for path in (SOCKET.parent, SOCKET)]
    expect(modes == [f"710 {_GROUP}", f"660 {_GROUP}"], f"directory and socket are {modes}")
    expect(not status()["warnings"], f"warnings {status()['warnings']}")
    expect(_may(_VIEWER, "status"), "the group does not get in")
    expect(not _may(_VIEWER, "flush"), "the group may flush")
    expect(not _may(_STRANGER, "status"), "everybody gets in")
    expect(status()["state"] == "enforcing", f"state {status()['state']}")


def _may(user: str, verb: str) -> bool:
    return run("runuser", "-u", user, "--", "sh", "-c", f"netpoldctl {verb} >&2 && echo yes", must=False) == "yes\n"
