"""Stages on the running machine: from apt install to the upgrade, with the guestbook in force."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import time
import urllib.request
from pathlib import Path

from . import pods
from .flood import Flood, summary
from .machine import (
    MANIFESTS,
    SERVICE,
    ask,
    await_enforcing,
    drop_in,
    enforcing,
    expect_rules,
    expect_same_rules,
    journal_entries,
    main_pid,
    own_rules,
    run,
    saved,
    settings,
    settled_rules,
    show,
    status,
    until,
    values,
)
from .report import Report, expect

EXAMPLES = Path("/usr/share/doc/netpold/examples")
REPOSITORY = Path("/srv/netpold")
LIST = Path("/etc/apt/sources.list.d/netpold.list")
READY_S = 2.0  # from SIGKILL to the socket's `enforcing`
_APPLIED, _REJECTED = "3dfee267b7644e7bbe46e5be27e1e827", "b4ebe988f981432796ac74e178c2f738"
_QUARANTINED = "7f97d622c35b46139e01f3a9d1a0921c"
_EXPOSURE = 1.8


def apt(version: str) -> None:
    """Install or upgrade netpold from the local repository that has this version; apt's other lists stay."""
    LIST.write_text(f"deb [trusted=yes] file:{REPOSITORY}/{version} ./\n")
    where = [f"-oDir::Etc::sourcelist={LIST}", "-oDir::Etc::sourceparts=-", "-oAPT::Get::List-Cleanup=0"]
    run("apt-get", "-q", "update", *where)
    run("apt-get", "-q", "-y", "install", "netpold", timeout=300)


def installed_version() -> str:
    return run("dpkg-query", "-W", "-f", "${Version}", "netpold")


def install(report: Report) -> None:
    with report.step("apt install netpold, from the local repository") as step:
        apt("old")
        step.saw(f"version {installed_version()}")
    with report.step("the service is enabled and active, and enforces") as step:
        expect(show(SERVICE, "UnitFileState") == "enabled", f"it is {show(SERVICE, 'UnitFileState')}")
        expect(show(SERVICE, "ActiveState") == "active", f"it is {show(SERVICE, 'ActiveState')}")
        await_enforcing()
        step.saw(show(SERVICE, "StatusText"))


def guestbook(report: Report) -> None:
    with report.step("without policies everybody reaches everybody"):
        pods.make_namespaces()
        pods.wire()
        differences = pods.matrix_differences(re.sub(r"\bno\b", "yes", pods.MATRIX))
        expect(not differences, ", ".join(differences))
    with report.step("the guestbook's manifests, dropped into /etc/netpold, are enforced") as step:
        for path in sorted((EXAMPLES / "guestbook").glob("*.yaml")):
            shutil.copy(path, MANIFESTS)
        (MANIFESTS / "90-flood.json").write_text(json.dumps(pods.flood_manifests()))
        run("netpoldctl", "wait")
        pods.expect_matrix()
        step.saw("22 connections as they should be")
    with report.step("netpoldctl status") as step:
        step.saw(run("netpoldctl", "status").splitlines()[0])
        found = json.loads(run("netpoldctl", "status", "-o", "json"))
        expect(found["state"] == "enforcing", f"{found['state']}: {found['error']}")
        expect(found["policies"]["rejected"] == 0, f"policies {found['policies']}, findings {found['findings']}")
        expect(found["pods"]["without_interface"] == 0, f"pods {found['pods']}")
        expect(not found["warnings"], f"warnings {found['warnings']}")
    with report.step("a flood of allowed and of denied packets") as step, Flood() as flood:
        time.sleep(2)
        step.saw(summary(flood.stop()))


def journal(report: Report) -> None:
    with report.step("the journal has the fields: what was applied") as step:
        entries = [each for each in journal_entries() if each.get("MESSAGE_ID") == _APPLIED]
        expect(entries, f"no entry with MESSAGE_ID={_APPLIED}")
        policies = {policy for each in entries for policy in values(each, "NETPOLD_POLICY")}
        expect("guestbook/deny-all" in policies, f"NETPOLD_POLICY is {sorted(policies)}")
        expect(all(each.get("NETPOLD_REVISION", "").isdecimal() for each in entries), "NETPOLD_REVISION is missing")
        step.saw(entries[-1]["MESSAGE"])
    with report.step("a policy with mistakes is rejected, by file and line in the journal") as step:
        bad = MANIFESTS / "blog-post.yaml"
        shutil.copy(EXAMPLES / "mistakes" / "blog-post.yaml", bad)
        run("netpoldctl", "wait")
        entries = [each for each in journal_entries() if each.get("MESSAGE_ID") in (_REJECTED, _QUARANTINED)]
        expect(entries, f"no entry with MESSAGE_ID={_REJECTED} or {_QUARANTINED}")
        expect(values(entries[0], "NETPOLD_FILE") == [str(bad)], f"NETPOLD_FILE is {entries[0].get('NETPOLD_FILE')}")
        expect(entries[0].get("NETPOLD_POLICY") == "guestbook/db-from-office", f"fields {sorted(entries[0])}")
        step.saw(entries[0]["MESSAGE"])
        pods.expect_matrix()
        bad.unlink()
        run("netpoldctl", "wait")
    with report.step("the catalogue explains the messages (journalctl -x)"):
        listed = run("journalctl", "--list-catalog", must=False)
        expect(_APPLIED in listed, "journalctl --list-catalog does not have the message `applied`")


def hardening(report: Report) -> None:
    with report.step(f"systemd-analyze security: at most {_EXPOSURE}") as step:
        for unit in (SERVICE, "netpold-boot.service"):
            text = run("systemd-analyze", "security", "--no-pager", unit)
            found = re.search(r"exposure level for \S+: ([0-9.]+)", text)
            expect(found, f"systemd-analyze says {text[-200:]}")
            assert found
            step.saw(f"{unit} {found[1]}")
            expect(unit != SERVICE or float(found[1]) <= _EXPOSURE, "that is too much")
    with report.step("metrics: on the socket, on a loopback port and as a textfile, from within the sandbox") as step:
        textfile = Path("/var/lib/prometheus/node-exporter/netpold.prom")
        textfile.parent.mkdir(parents=True, exist_ok=True)
        settings(f'metrics_port = 9469\nmetrics_textfile = "{textfile}"\n')
        run("systemctl", "restart", SERVICE)
        await_enforcing()
        expect("netpold_" in ask("/metrics"), "there is no metric on the socket")
        until(textfile.exists, 20, f"{textfile} is not there")
        with Flood() as flood:
            time.sleep(0.5)
            sent = sum(stream.sent for stream in flood.stop() if not stream.allowed)
        time.sleep(1.2)  # the kernel's counters are read once a second
        dropped = re.findall(r"^netpold_dropped_packets_total\{.*\} ([0-9.e+]+)$", _loopback_metrics(), re.MULTILINE)
        expect(sum(map(float, dropped)) == sent, f"{sent} denied packets sent, {dropped} counted")
        step.saw(f"{sent} dropped packets counted")
    with report.step("the settings of before"):
        settings("")
        shutil.rmtree("/var/lib/prometheus")
        run("systemctl", "restart", SERVICE)
        await_enforcing()


def _loopback_metrics() -> str:
    with urllib.request.urlopen("http://127.0.0.1:9469/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def health(report: Report) -> None:
    with report.step("no unit has failed"):
        failed = run("systemctl", "list-units", "--failed", "--plain", "--no-legend")
        expect(not failed, failed)
    with report.step("nothing was refused to the daemon (EPERM, seccomp)"):
        text = run("journalctl", "--no-pager", "--output", "short", "--unit", "netpold*", "--boot")
        sign = re.compile(
            r"not permitted|permission denied|EPERM|EACCES|SECCOMP|status=31|SIGSYS|Read-only file|Traceback", re.I
        )
        bad = [line for line in text.splitlines() if sign.search(line)]
        expect(not bad, " | ".join(bad[:3]))


# What the daemon lives through ----------------------------------------------------------------------------------------


def killed(report: Report) -> None:
    with report.step(f"kill -9, three times: rules stay, ready again within {READY_S:g} s") as step, Flood() as flood:
        before = settled_rules()
        expect(own_rules(), "there are no rules to lose")
        took = []
        for _ in range(3):
            os.kill(pid := main_pid(), signal.SIGKILL)
            begun = time.monotonic()
            until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 2, "it is still there")  # type: ignore[misc]
            await_enforcing()
            took.append(time.monotonic() - begun)
            expect(main_pid() != pid, "it is the same process")
        streams = flood.stop()
        step.saw(f"ready after {', '.join(f'{each:.2f}' for each in took)} s")
        step.saw(summary(streams))
        expect_same_rules(before, "after the kills")
        expect(statistics.median(took) <= READY_S, "that is too long")
    with report.step("killed and not started again: rules stay byte for byte"):
        before = settled_rules()
        drop_in("dead", "Restart=no")
        os.kill(pid := main_pid(), signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), 2, "it is still there")
        expect_rules(before, "with the daemon dead")
        pods.expect_matrix()
        drop_in("dead", "")
        run("systemctl", "reset-failed", SERVICE)
        run("systemctl", "start", SERVICE)
        await_enforcing()
        expect_same_rules(before, "after its start")


def reload(report: Report) -> None:
    with report.step("systemctl reload: settings are read again, in the same process, and take effect") as step:
        before, pid = settled_rules(), main_pid()
        with Flood() as flood:
            try:
                settings("accept = true\n")
                run("systemctl", "reload", SERVICE)
                _await_rules("-j ACCEPT", True)
            finally:
                settings("")
                run("systemctl", "reload", SERVICE, must=False)
            _await_rules("-j ACCEPT", False)
            await_enforcing()
            streams = flood.stop()
        expect(main_pid() == pid, "it is another process")
        expect(show(SERVICE, "ActiveState") == "active", f"it is {show(SERVICE, 'ActiveState')}")
        step.saw(summary(streams))
        expect_same_rules(before, "with the settings of before")
    with report.step("stop leaves the rules, and start takes them over") as step:
        before = settled_rules()
        with Flood() as flood:
            run("systemctl", "stop", SERVICE)
            expect_rules(before, "after the stop")
            pods.expect_matrix()
            run("systemctl", "start", SERVICE)
            await_enforcing()
            streams = flood.stop()
        expect_same_rules(before, "after the start")
        step.saw(summary(streams))


def _await_rules(word: str, there: bool) -> None:
    backend = status()["backend"]
    until(lambda: (word in saved(backend, 4)) is there, 5, f"`{word}` is {'not ' if there else ''}in the rules")


def upgrade(report: Report) -> None:
    with report.step("apt upgrades to a higher version, under the flood") as step:
        old, pid, before = installed_version(), main_pid(), settled_rules()
        with Flood() as flood:
            apt("new")
            await_enforcing()
            time.sleep(0.5)
            streams = flood.stop()
        expect(installed_version() != old, f"still {old}")
        expect(main_pid() != pid, "the daemon was not restarted")
        step.saw(f"{old} to {status()['release']}")
        step.saw(summary(streams))
        expect(status()["release"] == installed_version(), f"installed is {installed_version()}")
        expect_same_rules(before, "after the upgrade")


def watchdog(report: Report) -> None:
    with report.step("a hung daemon is restarted by the watchdog") as step:
        before, pid = settled_rules(), main_pid()
        os.kill(pid, signal.SIGSTOP)
        took = until(lambda: not Path(f"/proc/{pid}").exists(), 60, "it still hangs", nap=0.2)
        until(lambda: enforcing() and show(SERVICE, "ActiveState") == "active", 10, "it is not back")
        log = run("journalctl", "--unit", SERVICE, "--boot", "--no-pager", "--lines", "40")
        expect("atchdog timeout" in log, f"the journal does not speak of a watchdog: {log[-300:]}")
        expect_same_rules(before, "after the restart")
        step.saw(f"after {took:.0f} s")
