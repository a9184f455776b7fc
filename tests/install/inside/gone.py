"""Stages at the end: removed, the package leaves the rules; purged, it leaves nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import boots, pods
from .flood import Flood, summary
from .machine import (
    BACKENDS,
    SERVICE,
    all_rules,
    await_enforcing,
    difference,
    expect_rules,
    main_pid,
    own_rules,
    run,
    saved,
    settled_rules,
    until,
)
from .report import Report, expect

_NOTES = Path("/opt/netpold-test/before.json")
_FOREIGN = "203.0.113.0/24"
# What apt and dpkg have of any package, the test's own, and what is not on disk.
_PASSED_OVER = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/opt/netpold-test", "/srv/netpold"),
    *("/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/log", "/var/tmp", "/etc/alternatives"),
    *("/etc/apt/sources.list.d/netpold.list", "/var/lib/systemd/catalog", "/var/lib/systemd/timers"),
)


def before(report: Report) -> None:
    with report.step("what is there before the package"):
        _NOTES.write_text(json.dumps(_users()))


def remove(report: Report) -> None:
    with report.step("back to nft without a flush: the daemon takes its rules out of legacy, under the flood") as step:
        with Flood() as flood:
            boots.switch("nft")
            run("systemctl", "restart", SERVICE)
            await_enforcing()
            until(lambda: "NETPOLD" not in saved("legacy", 4) + saved("legacy", 6), 10, "there are rules in legacy")
            step.saw(summary(flood.stop()))
        expect("NETPOLD-FORWARD" in saved("nft", 4), "there are none in nft")
    with report.step("apt remove keeps the rules, under the flood") as step:
        rules, pid = settled_rules(), main_pid()
        with Flood() as flood:
            run("apt-get", "-q", "-y", "remove", "netpold")
            expect_rules(rules, "after it")
            time.sleep(0.5)
            streams = flood.stop()
        step.saw(summary(streams))
        expect(not Path(f"/proc/{pid}").exists(), "the daemon still runs")
        pods.expect_matrix()


def purge(report: Report) -> None:
    with report.step("there are rules of others, and in legacy some of netpold's too"):
        some = next(name for name in run("ipset", "list", "-n").split() if name.startswith("NP4-DROPPED"))
        for backend in BACKENDS:
            run(f"iptables-{backend}", "-w", "-N", "OTHER")
            run(f"iptables-{backend}", "-w", "-A", "FORWARD", "-s", _FOREIGN, "-j", "DROP")
        run("iptables-legacy", "-w", "-N", "NETPOLD-FORWARD")
        run("iptables-legacy", "-w", "-I", "FORWARD", "-j", "NETPOLD-FORWARD")
        run("iptables-legacy", "-w", "-A", "NETPOLD-FORWARD", "-m", "set", "--match-set", some, "src", "-j", "RETURN")
        run("ipset", "create", "other", "hash:ip")
    with report.step("apt purge, when the tools are gone, leaves no rule and no set, and those of others as they were"):
        others = _others(all_rules())
        with _no_tools():
            run("apt-get", "-q", "-y", "purge", "netpold")
        expect(not own_rules(), f"left: {own_rules()[:5]}")
        expect(_others(all_rules()) == others, difference(others, all_rules()))
        expect(run("ipset", "list", "-n").split() == ["other"], f"sets: {run('ipset', 'list', '-n')}")
        for backend in BACKENDS:
            expect(f"-A FORWARD -s {_FOREIGN} -j DROP" in saved(backend, 4), f"{backend} lost a rule of others")
    with report.step("no file, no unit, no user"):
        named = [path for path in _everything() if "netpold" in path]
        expect(not named, f"files: {named[:8]}")
        expect(not Path("/run/netpold").exists(), "/run/netpold is there")
        expect(_users() == json.loads(_NOTES.read_text()), "users or groups are not as before")
        units = run("systemctl", "list-units", "--all", "--plain", "--no-legend", "netpold*")
        expect(not units, f"units: {units}")


@contextmanager
def _no_tools() -> Iterator[None]:
    """As `apt purge --autoremove` has it: iptables and ipset are removed before netpold is purged."""
    tools = [Path("/usr/sbin", name) for name in ("xtables-nft-multi", "xtables-legacy-multi", "ipset")]
    for tool in tools:
        tool.rename(tool.with_suffix(".hidden"))
    try:
        yield
    finally:
        for tool in tools:
            tool.with_suffix(".hidden").rename(tool)


def _others(rules: str) -> str:
    """What is not netpold's of all rules."""
    own = ("NETPOLD-", "NP-", "NP4-", "NP6-")
    return "\n".join(line for line in rules.splitlines() if not any(word in line for word in own))


def _users() -> list[str]:
    return sorted((run("getent", "passwd") + run("getent", "group")).splitlines())


def _everything() -> Iterator[str]:
    """All files and directories that count."""
    for directory, names, files in os.walk("/"):
        parent = directory.rstrip("/")
        names[:] = [name for name in names if name != "__pycache__" and f"{parent}/{name}" not in _PASSED_OVER]
        for name in (*names, *files):
            if (path := f"{parent}/{name}") not in _PASSED_OVER:
                yield path
