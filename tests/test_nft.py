"""The nft backend on the real kernel: the process that stays open, beside other programs and when things go wrong."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netpold.host import run as run_module
from netpold.host.kernel import ipset
from netpold.host.kernel import restore as restore_module
from netpold.host.kernel.backend import Commit, KernelError
from netpold.host.kernel.nft import TOOL, Nft
from netpold.host.kernel.restore import Restore, _Process
from netpold.policy.model import Family
from netpold.rules.plan import CreateSet
from netpold.rules.render import Options, options
from netpold.rules.ruleset import FAMILIES, Address, InSet, IPSet, Jump, Match, Ports, Proto, Rule
from tests.lab.namespace import NetworkNamespace, inside, owner, pids_in

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parent.parent
_numbers = iter(range(10**6))
TCP = Proto("tcp")


@pytest.fixture(autouse=True)
def namespace() -> Iterator[NetworkNamespace]:
    """Each test runs inside a network namespace of its own."""
    with inside(f"nft-{next(_numbers)}") as made:
        yield made


@pytest.fixture
def nft(namespace: NetworkNamespace) -> Iterator[Nft]:
    backend = Nft()
    yield backend
    backend.close()
    assert not pids_in([namespace.name])


def run(*words: str, stdin: str = "") -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def save(family: Family = 4) -> list[str]:
    """The filter table without comments, which hold the time, and without counters."""
    lines = run(f"{TOOL[family]}-save", "-t", "filter").splitlines()
    return [line.split(" [")[0] for line in lines if not line.startswith("#")]


def chain_rules(chain: str, family: Family = 4) -> list[str]:
    return [line for line in save(family) if line.startswith(f"-A {chain} ")]


def rules(*all_matches: tuple[Match, ...], family: Family = 4) -> tuple[Options, ...]:
    return tuple(options(Rule(matches, "RETURN"), family, str) for matches in all_matches)


def port(number: int) -> tuple[Match, ...]:
    return (TCP, Ports(((number, number),)))


def shown(chain: str, number: int) -> str:
    return f"-A {chain} -p tcp -m tcp --dport {number} -j RETURN"


def pid(nft: Nft, family: Family = 4) -> int:
    """The process that is kept open for a family."""
    process = nft._restore[family]._process
    assert process
    return process.pid


def delete_table(family: int, name: bytes = b"") -> None:
    """As `nft delete table` does, or, without a name, `nft flush ruleset` (NFT_MSG_DELTABLE)."""

    def message(kind: int, flags: int, family: int = 0, subsystem: int = 0, attributes: bytes = b"") -> bytes:
        head = struct.pack("=IHHIIBB", 20 + len(attributes), kind, 1 | flags, 0, 0, family, 0)
        return head + struct.pack("!H", subsystem) + attributes

    attribute = struct.pack("=HH", 5 + len(name), 1) + name + bytes(1 + -(len(name) + 1) % 4) if name else b""
    batch = message(16, 0, subsystem=10), message(10 << 8 | 2, 4, family, attributes=attribute), message(17, 0, 0, 10)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.send(b"".join(batch))
        assert struct.unpack_from("=i", netlink.recv(4096), 16) == (0,)


def await_that(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_gone(number: int) -> bool:
    """Whether a process has ended; one that nobody asked for its exit status has, too."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_each_commit_is_in_the_kernel_when_it_returns_and_the_process_stays(nft: Nft) -> None:
    kept = {}
    for number in range(1, 30):
        for family in FAMILIES:
            nft.commit(Commit(family, {"NP-RULES-a": rules(port(number)), f"NP-RULES-{number}": rules(())}))
            assert chain_rules("NP-RULES-a", family) == [shown("NP-RULES-a", number)]
            assert f"NP-RULES-{number}" in nft.chains(family)
            assert kept.setdefault(family, pid(nft, family)) == pid(nft, family)


def test_hooks_and_chains_come_and_go(nft: Nft) -> None:
    run("iptables-nft", "-A", "FORWARD", "-s", "192.0.2.1", "-m", "comment", "--comment", 'a "b" c', "-j", "DROP")
    before = save()
    for _ in range(3):
        nft.commit(Commit(4, {"NETPOLD-FORWARD": rules(()), "NP-RULES-a": ()}, hook={"FORWARD": "NETPOLD-FORWARD"}))
        assert nft.hooked(4, "FORWARD", "NETPOLD-FORWARD")
        run("iptables-nft", "-I", "FORWARD", "-d", "192.0.2.2", "-j", "NETPOLD-FORWARD")
        assert not nft.hooked(4, "FORWARD", "NETPOLD-FORWARD")
        nft.commit(Commit(4, hook={"FORWARD": "NETPOLD-FORWARD"}))
        assert nft.hooked(4, "FORWARD", "NETPOLD-FORWARD")
        nft.commit(Commit(4, {"NETPOLD-FORWARD": (), "NP-RULES-a": ()}, unhook=("NETPOLD-FORWARD",)))
        nft.commit(Commit(4, remove=("NETPOLD-FORWARD", "NP-RULES-a")))
        assert save() == before


ANEW = "flush chain ip filter FORWARD; delete chain ip filter FORWARD; add chain ip filter FORWARD"
IN_THE_WAY = {
    "another base chain": "add chain ip filter pre { type filter hook prerouting priority -300; }",
    "another priority": f"{ANEW} {{ type filter hook forward priority 300; }}",
    "another priority, with rules": f"{ANEW} {{ type filter hook forward priority 5; }}; "
    "add rule ip filter FORWARD ip saddr vmap { 192.0.2.1 : accept }",
    "another name": "rename chain ip filter FORWARD OTHER",
}


@pytest.mark.parametrize("words", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_what_only_nft_can_make_of_the_table_keeps_no_jump_from_its_place(nft: Nft, words: str) -> None:
    run("iptables-nft", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP")
    run("nft", words)
    for _ in range(2):
        nft.commit(Commit(4, {"NETPOLD-FORWARD": rules(())}, hook={"FORWARD": "NETPOLD-FORWARD"}))
        assert nft.hooked(4, "FORWARD", "NETPOLD-FORWARD")
        assert nft.chains(4) == {"NETPOLD-FORWARD"}
        run("nft", "add rule ip filter FORWARD ip saddr 192.0.2.7 goto NETPOLD-FORWARD")
        run("nft", "insert rule ip filter FORWARD accept")
        assert not nft.hooked(4, "FORWARD", "NETPOLD-FORWARD")
    nft.commit(Commit(4, {"NETPOLD-FORWARD": ()}, unhook=("NETPOLD-FORWARD",)))
    nft.commit(Commit(4, remove=("NETPOLD-FORWARD",)))
    assert "NETPOLD" not in run("nft", "list", "table", "ip", "filter")


def test_a_large_commit_does_not_block(nft: Nft) -> None:
    many = rules(*(port(number) for number in range(1, 51)))
    for _ in range(2):
        nft.commit(Commit(4, {f"NP-RULES-{number}": many for number in range(400)}))
        assert len([line for line in save() if line.startswith("-A NP-RULES-")]) == 20_000


def test_a_process_that_is_kept_open_keeps_no_files_open(nft: Nft) -> None:
    ipset.create([CreateSet("NP4-a", IPSet("NP4-a", 4, "hash:ip", "", frozenset({"10.0.0.1"})), "")])
    commit = Commit(4, {"NP-RULES-a": rules((InSet("NP4-a", "src"), *port(80)), (Address("src", "10.0.0.0/8"),))})
    nft.commit(commit)
    files = len(list(Path(f"/proc/{pid(nft)}/fd").iterdir()))
    for _ in range(50):
        nft.commit(commit)
    assert len(list(Path(f"/proc/{pid(nft)}/fd").iterdir())) == files


def test_it_works_where_the_thread_is_that_commits(namespace: NetworkNamespace, nft: Nft) -> None:
    other = NetworkNamespace(f"{owner()}nft-other")
    there = Nft()
    try:
        with other.entered():
            there.commit(Commit(4, {"NP-RULES-there": ()}))
        nft.commit(Commit(4, {"NP-RULES-here": ()}))
        assert nft.chains(4) == {"NP-RULES-here"}
        with other.entered():
            assert there.chains(4) == {"NP-RULES-there"}
    finally:
        there.close()
        other.remove()


# Beside other programs -----------------------------------------------------------------------------------------------


def test_what_others_add_between_commits_stays(nft: Nft) -> None:
    nft.commit(Commit(4, {"NP-RULES-a": rules(port(1))}))
    run("iptables-nft", "-N", "FOREIGN")
    run(
        "iptables-nft",
        "-A",
        "FOREIGN",
        "-p",
        "tcp",
        "--dport",
        "22",
        "-m",
        "comment",
        "--comment",
        "mine",
        "-j",
        "DROP",
    )
    run("iptables-nft", "-A", "FORWARD", "-j", "FOREIGN")
    run("iptables-nft", "-P", "FORWARD", "DROP")
    foreign = [line for line in save() if "NP-RULES" not in line]
    nft.commit(Commit(4, {"NP-RULES-a": rules(port(2)), "NP-RULES-b": rules(())}))
    assert [line for line in save() if "NP-RULES" not in line] == foreign
    assert chain_rules("NP-RULES-a") == [shown("NP-RULES-a", 2)]


def test_commits_and_those_of_another_program_at_the_same_time_are_all_there(nft: Nft) -> None:
    def others() -> None:
        for number in range(40):
            run("iptables-nft", "-A", "OUTPUT", "-p", "tcp", "--dport", str(number + 1), "-j", "ACCEPT")

    # a thread begins where the thread is that starts it
    other = threading.Thread(target=others)
    other.start()
    for number in range(60):
        nft.commit(Commit(4, {f"NP-RULES-{number}": rules(port(number + 1))}))
    other.join()
    assert len(chain_rules("OUTPUT")) == 40
    assert [chain_rules(f"NP-RULES-{number}") for number in range(60)] == [
        [shown(f"NP-RULES-{number}", number + 1)] for number in range(60)
    ]


@pytest.mark.parametrize("flush", ["chains", "table", "ruleset"])
def test_what_others_flush_between_commits_is_made_again(nft: Nft, flush: str) -> None:
    commit = Commit(4, {"NETPOLD-FORWARD": rules(port(1))}, hook={"FORWARD": "NETPOLD-FORWARD"})
    nft.commit(commit)
    nft.commit(commit)
    if flush == "chains":
        run("iptables-nft", "-F")
        run("iptables-nft", "-X")
    else:
        delete_table(socket.AF_INET, b"filter") if flush == "table" else delete_table(socket.AF_UNSPEC)
    nft.commit(commit)
    assert chain_rules("NETPOLD-FORWARD") == [shown("NETPOLD-FORWARD", 1)]
    assert nft.hooked(4, "FORWARD", "NETPOLD-FORWARD")


def test_a_chain_that_others_removed_is_an_error_and_nothing_is_changed(nft: Nft) -> None:
    jump = (options(Rule((), Jump("NP-RULES-a")), 4, str),)
    nft.commit(Commit(4, {"NP-RULES-a": rules(port(1)), "NP-RULES-b": rules(port(2))}))
    run("iptables-nft", "-F", "NP-RULES-a")
    run("iptables-nft", "-X", "NP-RULES-a")
    before = save()
    with pytest.raises(KernelError, match="NP-RULES-a"):
        nft.commit(Commit(4, {"NP-RULES-b": jump, "NP-RULES-c": ()}))
    assert save() == before


# When things go wrong ------------------------------------------------------------------------------------------------


def test_a_refused_commit_changes_nothing_and_the_next_one_works(nft: Nft) -> None:
    nft.commit(Commit(4, {"NP-RULES-a": rules(port(1))}))
    for _ in range(3):
        before = save()
        with pytest.raises(KernelError, match=r"^iptables-nft-restore failed: .*NP4-none"):
            nft.commit(Commit(4, {"NP-RULES-a": rules((InSet("NP4-none", "src"),)), "NP-RULES-b": ()}))
        assert save() == before
        nft.commit(Commit(4, {"NP-RULES-a": rules(port(2))}))
        assert chain_rules("NP-RULES-a") == [shown("NP-RULES-a", 2)]


def test_a_process_that_was_killed_is_started_again(nft: Nft) -> None:
    for number in range(1, 4):
        nft.commit(Commit(4, {"NP-RULES-a": rules(port(number))}))
        assert chain_rules("NP-RULES-a") == [shown("NP-RULES-a", number)]
        os.kill(pid(nft), signal.SIGKILL)


def test_a_process_that_hangs_is_killed(nft: Nft, monkeypatch: pytest.MonkeyPatch) -> None:
    nft.commit(Commit(4, {"NP-RULES-a": rules(port(1))}))
    hanging = pid(nft)
    os.kill(hanging, signal.SIGSTOP)
    monkeypatch.setattr(run_module, "TIMEOUT", 0.2)
    with pytest.raises(KernelError, match=r"^iptables-nft-restore did not finish within"):
        nft.commit(Commit(4, {"NP-RULES-a": rules(port(2))}))
    assert is_gone(hanging)
    assert chain_rules("NP-RULES-a") == [shown("NP-RULES-a", 1)]
    monkeypatch.undo()
    nft.commit(Commit(4, {"NP-RULES-a": rules(port(3))}))
    assert chain_rules("NP-RULES-a") == [shown("NP-RULES-a", 3)]


def test_a_program_that_is_missing_is_named() -> None:
    for _ in range(2):
        with pytest.raises(KernelError, match=r"^no-such-restore is not installed$"):
            Restore("no-such-restore").commit("*filter\nCOMMIT\n")


def test_a_transaction_without_its_end_is_dropped(nft: Nft) -> None:
    nft.commit(Commit(4, {"NP-RULES-a": rules(port(1))}))
    before = save()
    process = _Process("iptables-nft-restore")
    assert process.answers("*filter\n:NP-RULES-a - [0:0]\n:NP-RULES-b - [0:0]\n-A NP-RULES-a -j RETURN\n", 10)
    process.end()
    assert save() == before


HALF_DONE = """
import sys, time
from netpold.host.kernel.backend import Commit
from netpold.host.kernel.nft import Nft
nft = Nft()
nft.commit(Commit(4, {"NP-RULES-a": ()}))
nft.commit(Commit(6, {"NP-RULES-a": ()}))
nft._restore[4]._process.answers("*filter\\n:NP-RULES-half - [0:0]\\n", 10)
print(*(nft._restore[family]._process.pid for family in (4, 6)), flush=True)
time.sleep(60)
"""


def test_the_processes_end_with_a_daemon_that_is_killed_and_finish_nothing(nft: Nft) -> None:
    with subprocess.Popen([sys.executable, "-c", HALF_DONE], cwd=ROOT, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout
            pids = [int(word) for word in daemon.stdout.readline().split()]
        finally:
            daemon.kill()
    await_that(lambda: all(map(is_gone, pids)))
    assert len(pids) == 2
    assert nft.chains(4) == nft.chains(6) == {"NP-RULES-a"}


def test_a_version_that_can_not_be_kept_open_is_started_for_each_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restore_module, "PATIENCE", 0.5)
    program = tmp_path / "iptables-silent-restore"
    program.write_text("#!/bin/sh\nexec iptables-nft-restore --noflush\n")  # without -v it repeats nothing
    program.chmod(0o755)
    restore = Restore(str(program))
    with caplog.at_level(logging.WARNING):
        for number in range(1, 4):
            line = shown("NP-RULES-a", number)
            restore.commit(f"*filter\n:NP-RULES-a - [0:0]\n{line}\nCOMMIT\n")
            assert chain_rules("NP-RULES-a") == [line]
    assert [record.message for record in caplog.records] == [
        f"{program} can't be kept open: each change of the rules starts it again"
    ]
    with pytest.raises(KernelError, match="failed"):
        restore.commit("*filter\n-A NP-RULES-none -j RETURN\nCOMMIT\n")
    restore.close()
