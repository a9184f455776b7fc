"""Stages around a reboot, with the flood on from the moment that the first pod has an interface.

The pods come up by a unit of their own, as early as systemd lets any network begin: after network-pre.target, and with
no regard for netpold.service.  That one is held back for HELD_BACK_S, so that what the boot script did is seen alone.
"""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

from . import life, pods
from .flood import Flow, Stream, read, serve, summary
from .machine import (
    SERVICE,
    STATE,
    await_enforcing,
    await_state,
    drop_in,
    has_drop_in,
    run,
    saved,
    seconds_of,
    settings,
    show,
    status,
    until,
)
from .report import Report, Step, expect

HELD_BACK_S = 3
BOOT_SERVICE = "netpold-boot.service"
_RESULT = Path("/run/netpold-test-boot.json")
_HELD_BACK = "held-back"
_UNITS = Path("/etc/systemd/system")
_HANG = _UNITS / f"{BOOT_SERVICE}.d" / "hang.conf"
_HEAD = "[Service]\nEnvironment=PYTHONPATH=/opt/netpold-test\nTimeoutStopSec=20\nExecStart=/usr/bin/python3 -m inside"
_WANTED = "[Install]\nWantedBy=multi-user.target\n"
_PODS = f"""[Unit]
DefaultDependencies=no
Wants=network-pre.target
After=local-fs.target network-pre.target
Before=network.target shutdown.target
Conflicts=shutdown.target
{_HEAD} boot
{_WANTED}"""
_SSH = f"""[Unit]
After=network.target
{_HEAD} ssh
{_WANTED}"""
# At shutdown it stops before netpold, as kubelet and containerd do.
_SHUTDOWN = f"""[Unit]
After=netpold.service
[Service]
Type=oneshot
RemainAfterExit=yes
Environment=PYTHONPATH=/opt/netpold-test
ExecStart=/bin/true
ExecStop=/usr/bin/python3 -m inside shutdown
{_WANTED}"""
_TEST_UNITS = {"test-pods.service": _PODS, "test-ssh.service": _SSH, "test-shutdown.service": _SHUTDOWN}
_SSH_PORT = 22


def bring_up() -> None:
    """What the pods' unit runs: the flood first, then interface by interface, until it is stopped."""
    pods.make_namespaces()
    flow = Flow()
    flow.start()
    pods.wire()
    flow.begin()
    serve(flow, _RESULT)


def shut_down() -> None:
    """What a third unit runs: pods go before netpold does, and it has time to take notice and to save its rules."""
    pods.take_away()
    time.sleep(1.5)


def stand_in_for_ssh() -> None:
    """What the other unit runs: somebody who listens on port 22."""
    with socket.create_server(("0.0.0.0", _SSH_PORT)) as server:
        while True:
            connection, _ = server.accept()
            connection.close()


def pods_at_boot(report: Report) -> None:
    with report.step("pods and a stand-in for SSH come up at boot by themselves"):
        for name, text in _TEST_UNITS.items():
            (_UNITS / name).write_text(text)
        run("systemctl", "enable", *_TEST_UNITS)
        run("systemctl", "start", "test-shutdown")
        hold_back()


def hold_back() -> None:
    """At every boot from now on."""
    drop_in(_HELD_BACK, f"ExecStartPre=/bin/sleep {HELD_BACK_S}")


def let_go(report: Report) -> None:
    with report.step("the daemon is no longer held back at boot"):
        drop_in(_HELD_BACK, "")


def no_pods_at_boot(report: Report) -> None:
    with report.step("pods no longer come up at boot"):
        run("systemctl", "disable", "--now", "test-pods", "test-ssh")
        run("systemctl", "disable", "test-shutdown")
        drop_in(_HELD_BACK, "")
        settings("")
        for name in _TEST_UNITS:
            (_UNITS / name).unlink()
        run("systemctl", "daemon-reload")


# What follows on a reboot, by how it was prepared ---------------------------------------------------------------------


def with_snapshot(report: Report) -> None:
    with report.step("reboot under the flood: the snapshot is in force before any pod has an interface") as step:
        streams = end_of_flood(step)
        expect(show(BOOT_SERVICE, "Result") == "success", f"{BOOT_SERVICE}: {show(BOOT_SERVICE, 'Result')}")
        step.saw(summary(streams))
    after_any_boot(report)


def no_snapshot(report: Report) -> None:
    with report.step("the snapshot is taken away, pod_interfaces set"):
        hold_back()
        run("systemctl", "stop", SERVICE)
        expect((STATE / "snapshot" / "current").is_symlink(), "there was no snapshot")
        shutil.rmtree(STATE / "snapshot")
        settings('pod_interfaces = ["veth*"]\n')


def without_snapshot(report: Report) -> None:
    with report.step("reboot without a snapshot: nothing is forwarded until netpold runs") as step:
        _expect_closed(end_of_flood(step))
    after_any_boot(report)


def broken_snapshot(report: Report) -> None:
    with report.step("the snapshot is damaged"):
        run("systemctl", "stop", SERVICE)
        rules = STATE / "snapshot" / "current" / "ipv4.rules"
        text = rules.read_bytes()
        rules.write_bytes(text[: len(text) // 2])


def with_broken_snapshot(report: Report) -> None:
    with report.step("reboot with a damaged snapshot: nothing is forwarded until netpold runs") as step:
        _expect_closed(end_of_flood(step))
    after_any_boot(report)


def hung_boot_script(report: Report) -> None:
    with report.step("the boot script is made to hang"):
        settings("")
        _HANG.parent.mkdir()
        _HANG.write_text("[Service]\nExecStart=\nExecStart=/bin/sleep infinity\nTimeoutStartSec=2\n")


def with_hung_boot_script(report: Report) -> None:
    with report.step("reboot with a boot script that hangs: SSH (a stand-in) is reached, the guestbook is enforced"):
        await_enforcing(60)
        expect(show(BOOT_SERVICE, "Result") == "timeout", f"{BOOT_SERVICE}: {show(BOOT_SERVICE, 'Result')}")
        expect(pods.reaches(pods.OUTSIDE.name, pods.NODE_ADDRESS, _SSH_PORT), "port 22 of the node does not answer")
        pods.expect_matrix()
        run("systemctl", "stop", "test-pods.service")
    _HANG.unlink()
    _HANG.parent.rmdir()


def end_of_flood(step: Step, state: str = "enforcing") -> list[Stream]:
    """Wait for the daemon's state, end the boot's flood, and see that it ran before a daemon that was held back."""
    await_state(state, 60)
    time.sleep(1)
    run("systemctl", "stop", "test-pods.service")
    streams = read(_RESULT)
    begun = max(stream.first_sent or float("inf") for stream in streams)
    alone = seconds_of(SERVICE, "ExecMainStartTimestampMonotonic") - begun
    expect(alone > 0 or not has_drop_in(_HELD_BACK), "the flood began after the daemon")
    step.saw(f"the flood began {abs(alone):.1f} s {'before' if alone > 0 else 'after'} the daemon")
    return streams


def _expect_closed(streams: list[Stream]) -> None:
    """Nothing of any stream arrived before the daemon; allowed ones did afterwards.  Raises Failure."""
    started = seconds_of(SERVICE, "ExecMainStartTimestampMonotonic")
    early = [
        f"{each} {started - each.first_received:.2f} s"
        for each in streams
        if each.first_received and each.first_received < started
    ]
    expect(not early, f"arrived before the daemon: {', '.join(early)}")
    summary(streams, losses=False)
    expect(all(each.received for each in streams if each.allowed), "what is allowed did not arrive afterwards either")


def after_any_boot(report: Report) -> None:
    with report.step("SSH (a stand-in) is reached, the guestbook is enforced") as step:
        expect(pods.reaches(pods.OUTSIDE.name, pods.NODE_ADDRESS, _SSH_PORT), "port 22 of the node does not answer")
        pods.expect_matrix()
        step.saw(f"by {status()['backend']}")
        expect(status()["backend"] in run("iptables", "-V").replace("nf_tables", "nft"), run("iptables", "-V"))
    with report.step("the snapshot is there for the next boot"):
        until((STATE / "snapshot" / "current").is_symlink, 10, "it is not")
    life.health(report)


# The other backend ----------------------------------------------------------------------------------------------------


def switch(backend: str) -> None:
    """Let `iptables` be that of a backend."""
    for tool in ("iptables", "ip6tables"):
        run("update-alternatives", "--set", tool, f"/usr/sbin/{tool}-{backend}")


def legacy(report: Report) -> None:
    with report.step("the legacy backend, after a flush, as iptables' alternatives say") as step:
        drop_in(_HELD_BACK, "")
        run("netpoldctl", "flush")
        switch("legacy")
        run("systemctl", "restart", SERVICE)
        await_enforcing()
        run("netpoldctl", "wait")
        expect(status()["backend"] == "legacy", f"backend {status()['backend']}")
        expect(not any("NETPOLD" in saved("nft", family) for family in (4, 6)), "there are rules in nft")
        pods.expect_matrix()
        step.saw(show(SERVICE, "StatusText"))
    life.killed(report)
    hold_back()
