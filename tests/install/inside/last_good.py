"""Stages around a reboot before which manifests broke while the daemon did not run: what was good last is in force."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import boots, pods
from .flood import summary
from .machine import MANIFESTS, SERVICE, STATE, run, status
from .report import Report, expect

_KEPT = Path("/opt/netpold-test/kept")  # the manifests as they were


def broken_manifests(report: Report) -> None:
    with report.step("the daemon is stopped, then each manifest but that of the namespaces breaks in its middle"):
        for path in _put_aside():
            content = path.read_bytes()
            (MANIFESTS / path.name).write_bytes(
                content if path.name[0] == "0" else content[: len(content) // 2] + b"\n\t{"
            )


def with_broken_manifests(report: Report) -> None:
    with report.step("reboot with broken manifests: pods and policies are as before, under the flood") as step:
        step.saw(summary(boots.end_of_flood(step)))
        found = status()
        expect(found["last_good"]["count"], f"last_good {found['last_good']}, findings {found['findings']}")
        step.saw(f"{found['last_good']['count']} objects as they were")
    boots.after_any_boot(report)
    _mend(report)


def emptied_manifests(report: Report) -> None:
    with report.step("the daemon is stopped, then all manifests are gone"):
        _put_aside()


def with_emptied_manifests(report: Report) -> None:
    with report.step("reboot with an empty directory: pods and policies are as before, under the flood") as step:
        step.saw(summary(boots.end_of_flood(step, "degraded")))
        step.saw(status()["error"])
    boots.after_any_boot(report)
    _mend(report)


def _put_aside() -> list[Path]:
    """Stop the daemon, and move all manifests away.  Gives where they are now."""
    run("systemctl", "stop", SERVICE)
    expect((STATE / "last-good.sqlite").exists(), "there is no last-good.sqlite")
    _KEPT.mkdir()
    return [Path(shutil.move(path, _KEPT)) for path in sorted(MANIFESTS.iterdir()) if path.suffix in (".yaml", ".json")]


def _mend(report: Report) -> None:
    with report.step("the manifests are there again, and in force"):
        shutil.copytree(_KEPT, MANIFESTS, dirs_exist_ok=True)
        shutil.rmtree(_KEPT)
        run("netpoldctl", "wait")
        found = status()
        expect(found["state"] == "enforcing", f"{found['state']}: {found['error']}")
        expect(not found["last_good"]["count"], f"last_good {found['last_good']}")
        expect(not found["findings"], f"findings {found['findings']}")
        pods.expect_matrix()
