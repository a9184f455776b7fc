"""Stages with other firewall programs of the host: a person with iptables, netfilter-persistent, ufw and firewalld.

Each of them is Debian's own, runs as its package has it, and is there also when the machine boots.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from . import boots, pods
from .flood import Flood, Stream
from .machine import journal_entries, own_rules, run, saved, settled_rules, status, until, values
from .report import Report, expect

_REPAIRED = "f39da42d82214e55bb3f8e8af8a3737f"
_FOREIGN = {4: "203.0.113.0/24", 6: "2001:db8::/32"}
_SET = "hosts-own"
_SAVED = Path("/etc/iptables")


def flushed(report: Report) -> None:
    with report.step("iptables -F by hand: it is put back, and the journal says who it was") as step:
        before, told = settled_rules(), len(_repairs())
        with Flood() as flood:
            for tool in ("iptables", "ip6tables"):
                run(tool, "-w", "-F")
                until(lambda: settled_rules() == before, 10, "the rules are not as before")
            streams = flood.stop()
        step.saw(_passed(streams))
        until(lambda: len(_repairs()) > told, 10, "the journal does not tell")
        entry = _repairs()[-1]
        step.saw(entry["MESSAGE"])
        named = {name for each in _repairs()[told:] for name in values(each, "NETPOLD_PROGRAM")}
        expect(named == ({"iptables", "ip6tables"} if status()["backend"] == "nft" else set()), f"it names {named}")
        pods.expect_matrix()


def persistent(report: Report) -> None:
    with report.step("netfilter-persistent save, with rules of the host's own: netpold's are not in it") as step:
        _install("iptables-persistent", "ipset-persistent")
        run("ipset", "create", _SET, "hash:net")
        for family, tool in ((4, "iptables"), (6, "ip6tables")):
            run(tool, "-w", "-A", "INPUT", "-s", _FOREIGN[family], "-j", "DROP")
        run("iptables", "-w", "-A", "INPUT", "-m", "set", "--match-set", _SET, "src", "-j", "DROP")
        run("netfilter-persistent", "save")
        found = [path.name for path in _SAVED.iterdir() if re.search("NETPOLD|NP[46]?-", path.read_text())]
        expect(not found, f"it is in {', '.join(found)}")
        step.saw(", ".join(sorted(path.name for path in _SAVED.iterdir())))
        pods.expect_matrix()
    with report.step("netfilter-persistent reload: netpold's rules are put back"):
        before = own_rules()
        run("netfilter-persistent", "reload")
        until(lambda: sorted(own_rules()) == sorted(before), 10, "they are not")
        pods.expect_matrix()


def with_persistent(report: Report) -> None:
    boots.with_snapshot(report)
    with report.step("what netfilter-persistent saved is restored"):
        for family in (4, 6):
            rule = f"-A INPUT -s {_FOREIGN[family]} -j DROP"
            expect(saved("nft", family).count(rule) == 1, f"`{rule}` is not there once")
        expect(f"--match-set {_SET} src" in saved("nft", 4), "the rule with a set is not there")


def ufw(report: Report) -> None:
    with report.step("ufw is installed, enabled and reloaded: netpold still enforces") as step:
        _install("ufw")
        run("ufw", "default", "allow", "routed")
        with Flood() as flood:
            run("ufw", "--force", "enable")
            run("ufw", "allow", "22/tcp")
            run("ufw", "reload")
            pods.expect_matrix()
            step.saw(_passed(flood.stop()))


def with_ufw(report: Report) -> None:
    boots.with_snapshot(report)
    with report.step("ufw is active beside netpold, and disabled"):
        expect("Status: active" in run("ufw", "status"), run("ufw", "status"))
        run("ufw", "--force", "disable")
        pods.expect_matrix()


def firewalld(report: Report) -> None:
    with report.step("firewalld is installed and reloaded: netpold still enforces") as step:
        _install("firewalld")
        run("firewall-cmd", "--set-default-zone=trusted")
        with Flood() as flood:
            for words in ("--reload", "--complete-reload"):
                run("firewall-cmd", words)
            run("systemctl", "restart", "firewalld")
            pods.expect_matrix()
            step.saw(_passed(flood.stop()))


def with_firewalld(report: Report) -> None:
    boots.with_snapshot(report)
    with report.step("firewalld runs beside netpold"):
        expect(run("firewall-cmd", "--state", must=False).strip() == "running", "it does not")


def _install(*packages: str) -> None:
    """From what apt downloaded before."""
    run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "install", "--no-install-recommends", *packages)


def _repairs() -> list[dict[str, Any]]:
    return [each for each in journal_entries() if each.get("MESSAGE_ID") == _REPAIRED]


def _passed(streams: list[Stream]) -> str:
    """How many denied packets passed until netpold had put its rules back, in words."""
    denied = [stream for stream in streams if not stream.allowed]
    passed, sent = sum(each.received for each in denied), sum(each.sent for each in denied)
    expect(sent and passed < sent / 2, f"{passed} of {sent} denied packets passed")
    return f"{passed} of {sent} denied packets passed"
