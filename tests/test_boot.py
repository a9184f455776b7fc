"""The boot script on a real kernel: what a daemon had in force is in force again, or the pods' interfaces are closed.

A reboot, as far as rules are concerned, is a kernel with no rules, no sets and no flows; `reboot` makes that of a node.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lab import Backend, Lab, LabError, Node, Outcome, Probe, every
from tests.test_boot_settings import SYSTEMD
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually

pytestmark = pytest.mark.kernel

# Runs a command where /usr/sbin lacks the programs $0, with a directory $1 to work in and mounts of `ip netns exec`.
WITHOUT = """
PATH=/usr/bin:/bin:/usr/sbin
mkdir -p "$1/all" "$1/some"
mount --bind /usr/sbin "$1/all"
ln -sfn "$1/all/"* "$1/some"
(cd "$1/some" && rm $0)
mount --bind "$1/some" /usr/sbin
shift
exec "$@"
"""

# Runs a command where firewalld runs, as far as its cgroup tells, and the file $0 is busctl.
BESIDE_FIREWALLD = """
PATH=/usr/bin:/bin:/usr/sbin
mount -t tmpfs none /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/system.slice/firewalld.service
mount --bind "$0" /usr/bin/busctl
exec "$@"
"""

SERVICES = [("TCP", 80), ("TCP", 81), ("UDP", 80), ("ICMP", 0)]
Verdicts = dict[Probe, Outcome]


class Machine(Scene):
    """A scene whose node can be rebooted."""

    def __init__(self, lab: Lab, backend: Backend, wiring: str = "routed", interfaces: tuple[str, ...] = ()) -> None:
        super().__init__(lab, backend, wiring)
        self.settings = self.daemon.state.parent / "netpold.toml"
        lines = {"state_dir": str(self.daemon.state), "backend": backend, "pod_interfaces": list(interfaces)}
        self.settings.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
        self.snapshot = self.daemon.state / "snapshot"
        self.backend: Backend = backend

    def run_until_saved(self, **policies: str) -> None:
        """A daemon enforces these and is stopped."""
        self.enforce(**policies)
        assert self.daemon.stop() == 0
        assert (self.snapshot / "current").is_symlink()

    def reboot(self) -> None:
        for family in (4, 6):
            for flag in ("-F", "-X"):
                self.node.iptables(self.backend, family, flag)
        assert eventually(self._sets_are_gone)
        self.node.flush_conntrack()

    def _sets_are_gone(self) -> bool:
        with suppress(LabError):  # nf_tables gives them free a little later
            self.node.run(["ipset", "destroy"])
            return True
        return False

    def boot(self, expected: int = 0, without: str = "", firewalld: str = "") -> str:
        """Run the script; gives what it says.  `without`: programs that are not there, as a pattern of the shell's;
        `firewalld`: what it does, as a shell script, before it answers that it runs."""
        inside = ["ip", "netns", "exec", self.node.netns.name]
        if without:
            inside += ["/bin/sh", "-ec", WITHOUT, without, self.daemon.state.parent]
        if firewalld:
            bus = self.daemon.state.parent / "busctl"
            bus.write_text(f"#!/bin/sh -e\n{firewalld}\n")
            bus.chmod(0o755)
            inside += ["/bin/sh", "-ec", BESIDE_FIREWALLD, bus]
        done = subprocess.run(
            [*inside, SYSTEMD / "boot", self.settings],
            capture_output=True,
            text=True,
            timeout=60,
            env={**self.node.environment, "PATH": "/nowhere:/usr/sbin"},
        )
        assert done.returncode == expected, done.stderr
        assert not done.stdout
        return done.stderr

    def verdicts(self) -> Verdicts:
        self.node.flush_conntrack()
        pods = [self.a, self.b, self.c]
        return self.lab.probe(every([*pods, self.node], [*pods, self.node], SERVICES), attempts=2)

    def rules(self) -> list[str]:
        """All rules and sets, without counters and in an order of their own."""
        text = [line for family in (4, 6) for line in self.node.iptables_save(self.backend, family).splitlines()]
        sets = sorted(line.split(" packets ")[0] for line in self.node.ipset_save().splitlines())
        return [line.split("[")[0] for line in text if line[0] != "#"] + sets


def among_pods(verdicts: Verdicts) -> set[Outcome]:
    return {each for probe, each in verdicts.items() if not {type(probe.source), type(probe.destination)} & {Node}}


def with_the_node(verdicts: Verdicts) -> set[Outcome]:
    return {each for probe, each in verdicts.items() if {type(probe.source), type(probe.destination)} & {Node}}


ABOVE = """apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: above}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress:
  - action: Accept
    from: [{pods: {podSelector: {matchLabels: {app: c}}}}]
    protocols: [{tcp: {destinationPort: {number: 81}}}]
  egress:
  - action: Accept
    to: [{pods: {podSelector: {matchLabels: {app: a}}}}]
    protocols: [{tcp: {destinationPort: {number: 81}}}]
  - action: Deny
    to: [{networks: [10.99.0.0/16]}]
"""


@pytest.mark.parametrize("wiring", ["routed", "bridged"])
def test_packets_get_the_verdicts_of_before_the_reboot(lab: Lab, backend: Backend, wiring: str) -> None:
    machine = Machine(lab, backend, wiring)
    machine.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT, above=ABOVE)
    before = machine.verdicts()
    tiers = Probe(machine.c, machine.a, "TCP", 81), Probe(machine.c, machine.node, "TCP", 80)
    assert [before[probe] for probe in tiers] == [Outcome.OK, Outcome.NO_REQUEST]
    assert set(before.values()) == {Outcome.OK, Outcome.NO_REQUEST}
    machine.run_until_saved()
    machine.reboot()
    assert set(machine.verdicts().values()) == {Outcome.OK}
    assert "rules that were in force last are back" in machine.boot()
    assert machine.verdicts() == before


def test_a_node_without_policies_has_a_snapshot_that_closes_nothing(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend, interfaces=("veth*",))
    machine.run_until_saved()
    machine.reboot()
    assert "are back" in machine.boot()
    assert set(machine.verdicts().values()) == {Outcome.OK}


def test_it_works_in_a_network_namespace_that_never_had_a_table(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend)
    machine.run_until_saved(deny=DENY_ALL, allow=A_TO_B)
    machine.node = lab.node("fresh")
    assert machine.boot().count("are back") == 2
    assert any("NP-RULES-" in line for line in machine.rules())


def test_a_daemon_takes_over_from_the_snapshot_without_a_gap(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend)
    machine.run_until_saved(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
    machine.reboot()
    machine.boot()
    _takes_over(machine, allowed=True)


def test_a_daemon_takes_over_from_closed_interfaces_without_a_gap(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend, interfaces=("veth*",))
    machine.daemon.write("deny.yaml", DENY_ALL)
    machine.boot()
    _takes_over(machine, allowed=False)


def _takes_over(machine: Machine, allowed: bool) -> None:
    """Nothing that is denied gets through while a daemon starts; what is allowed before and after is not lost."""
    lab = machine.lab
    leak = Probe(machine.c, machine.b, "UDP", 80)
    flow = lab.flow(machine.a, machine.b, "UDP", 80, interval=0.001) if allowed else None
    machine.daemon.start()
    arrived = []
    while not machine.daemon.socket.exists() or machine.state() == "starting":
        arrived.append(lab.probe([leak], deadline=0.05)[leak])
    machine.daemon.wait()
    assert {*arrived} == {Outcome.NO_REQUEST}
    if flow:
        flow.pause()
        assert flow.forward.missing == 0
        assert flow.backward.missing == 0
    assert not any("closed until" in line for line in machine.rules())
    hooks = [line for line in machine.rules() if line.startswith("-A FORWARD")]
    assert hooks == ["-A FORWARD -j NETPOLD-FORWARD"] * 2
    machine.daemon.stop()


def test_it_waits_for_the_lock_of_the_legacy_tools(lab: Lab) -> None:
    machine = Machine(lab, "legacy")
    machine.run_until_saved(deny=DENY_ALL)
    machine.reboot()
    freed = threading.Event()
    with Path(machine.node.environment["XTABLES_LOCKFILE"]).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def free() -> None:
            freed.set()
            fcntl.flock(lock, fcntl.LOCK_UN)

        threading.Timer(0.5, free).start()
        assert machine.boot().count("are back") == 2
        assert freed.is_set()


# Again, and half done --------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend)
    machine.run_until_saved(deny=DENY_ALL, allow=A_TO_B)
    machine.reboot()
    machine.boot()
    before = machine.rules()
    assert before.count("-A FORWARD -j NETPOLD-FORWARD") == 2
    assert machine.boot().count("there already") == 2
    assert machine.rules() == before


def test_it_leaves_a_running_daemons_rules_alone(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend)
    with machine.daemon:
        machine.enforce(deny=DENY_ALL)
        assert eventually(lambda: (machine.snapshot / "current").is_symlink(), 20)
        machine.enforce(allow=A_TO_B)
        before = machine.rules()
        assert machine.boot().count("there already") == 2
        assert machine.rules() == before


def test_a_run_that_was_killed_is_finished_by_the_next_one(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend)
    machine.run_until_saved(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
    machine.reboot()
    machine.boot()
    whole, verdicts = machine.rules(), machine.verdicts()
    for flag in ("-F", "-X"):
        machine.node.iptables(backend, 6, flag)
    # of IPv6 only sets are there, and one with a member that is no peer
    name = next(line.split()[1] for line in machine.node.ipset_save().splitlines() if "create NP6-" in line)
    machine.node.run(["ipset", "add", name, machine.c.address(6)], check=False)
    said = machine.boot()
    assert "IPv4: netpold's rules are there already" in said
    assert "IPv6: the rules that were in force last are back" in said
    assert machine.rules() == whole
    assert machine.verdicts() == verdicts


@pytest.mark.parametrize("whole", [True, False], ids=["snapshot", "closed"])
def test_a_chain_without_a_jump_and_a_jump_without_rules_are_not_in_force(
    lab: Lab, backend: Backend, whole: bool
) -> None:
    machine = Machine(lab, backend, interfaces=("veth*",))
    if whole:
        machine.run_until_saved(deny=DENY_ALL, allow=A_TO_B)
        machine.reboot()
    said = "rules that were in force last are back" if whole else "nothing is forwarded"
    assert machine.boot().count(said) == 2
    before = machine.rules()
    assert before.count("-A FORWARD -j NETPOLD-FORWARD") == 2
    for spoil in (
        [("-D", "FORWARD", "-j", "NETPOLD-FORWARD")],
        [("-F", "NETPOLD-FORWARD")],
        [("-F", "NETPOLD-FORWARD"), ("-D", "FORWARD", "-j", "NETPOLD-FORWARD")],
        [("-F", "NETPOLD-FORWARD"), ("-A", "FORWARD", "-j", "NETPOLD-FORWARD")],
    ):
        for family in (4, 6):
            for each in spoil:
                machine.node.iptables(backend, family, *each)
        assert machine.boot().count(said) == 2, spoil
        assert machine.rules() == before, spoil
    assert machine.boot().count("there already") == 2
    assert not machine.passes(machine.c, machine.b)


# Nothing to put back ---------------------------------------------------------------------------------------------


def _missing(snapshot: Path) -> None:
    shutil.rmtree(snapshot)


def _forgotten_halfway(snapshot: Path) -> None:
    (snapshot / "current").unlink()


def _dangling(snapshot: Path) -> None:
    shutil.rmtree((snapshot / "current").resolve())


def _file_gone(snapshot: Path) -> None:
    (snapshot / "current/ipv6.rules").unlink()


def _torn(snapshot: Path) -> None:
    rules = snapshot / "current/ipv4.rules"
    rules.write_bytes(rules.read_bytes()[:-100])


def _bit_flipped(snapshot: Path) -> None:
    sets = snapshot / "current/ipv4.sets"
    data = bytearray(sets.read_bytes())
    data[len(data) // 2] ^= 1
    sets.write_bytes(data)


def _empty(snapshot: Path) -> None:
    for each in (snapshot / "current").iterdir():
        each.write_text("")


def _not_all_checked(snapshot: Path) -> None:
    sums = snapshot / "current/sha256sums"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:-1]))


def _refused(snapshot: Path) -> None:
    """Whole, but the kernel does not take it."""
    current = snapshot / "current"
    for family in (4, 6):
        rules = current / f"ipv{family}.rules"
        rules.write_text(rules.read_text().replace("COMMIT", "-A NETPOLD-FORWARD -j NO-SUCH-CHAIN\nCOMMIT"))
    names = [line.split()[1] for line in (current / "sha256sums").read_text().splitlines()]
    sums = subprocess.run(["sha256sum", *names], cwd=current, capture_output=True, text=True, check=True)
    (current / "sha256sums").write_text(sums.stdout)


DAMAGES = (
    _missing,
    _forgotten_halfway,
    _dangling,
    _file_gone,
    _torn,
    _bit_flipped,
    _empty,
    _not_all_checked,
    _refused,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_snapshot_that_is_not_whole_closes_the_pods(
    damage: Callable[[Path], None], lab: Lab, backend: Backend
) -> None:
    machine = Machine(lab, backend, interfaces=("veth*",))
    machine.run_until_saved(allow=A_TO_B)
    machine.reboot()
    damage(machine.snapshot)
    assert machine.boot().count("nothing is forwarded from and to veth* until netpold runs") == 2
    verdicts = machine.verdicts()
    assert among_pods(verdicts) == {Outcome.NO_REQUEST}
    assert with_the_node(verdicts) == {Outcome.OK}
    assert machine.boot().count("there already") == 2


@pytest.mark.parametrize("wiring", ["routed", "bridged"])
def test_closed_is_what_the_settings_name_and_nothing_else(lab: Lab, backend: Backend, wiring: str) -> None:
    machine = Machine(lab, backend, wiring)
    named = [machine.a.interface, f"{machine.b.interface}*"]
    machine.settings.write_text(machine.settings.read_text().replace("[]", json.dumps(named)))
    outside = lab.outside(machine.node)
    machine.boot()
    pods = (machine.a, machine.b, machine.c)
    found = lab.probe(every([*pods, outside], [*pods, outside], SERVICES), attempts=2)
    for probe, outcome in found.items():
        closed = {machine.a, machine.b} & {probe.source, probe.destination}
        routed_to_a_bridge_port = wiring == "bridged" and probe.source is outside
        if routed_to_a_bridge_port:
            continue  # to close it, the bridge has to be named: see the next test
        assert outcome is (Outcome.NO_REQUEST if closed else Outcome.OK), probe
    assert with_the_node(machine.verdicts()) == {Outcome.OK}
    assert not [line for line in machine.rules() if line.startswith(("-A INPUT", "-A OUTPUT"))]


def test_a_bridge_is_closed_by_its_own_name(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend, "bridged", interfaces=("br0",))
    outside = lab.outside(machine.node)
    machine.boot()
    pods = [machine.a, machine.b]
    assert {*lab.probe([*every(pods, [outside], SERVICES), *every([outside], pods, SERVICES)]).values()} == {
        Outcome.NO_REQUEST
    }


def test_bridged_pods_still_find_each_other_by_neighbour_discovery(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend, "bridged", interfaces=("veth*",))
    machine.boot()
    machine.a.run(["ip", "neigh", "flush", "dev", "eth0"])
    refused = Probe(machine.a, machine.b, "TCP", 80, 6)
    assert lab.probe([refused])[refused] is Outcome.NO_REQUEST
    assert "lladdr" in machine.a.run(["ip", "-6", "neigh", "show", machine.b.address(6)])


def test_without_snapshot_and_names_it_does_nothing_and_says_so(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend)
    assert machine.boot().count("names no pod_interfaces") == 2
    assert set(machine.verdicts().values()) == {Outcome.OK}
    assert not any("NETPOLD" in line for line in machine.rules())


def test_a_snapshot_that_is_lost_without_a_name_to_close_is_a_failure(lab: Lab) -> None:
    machine = Machine(lab, "nft")
    machine.run_until_saved(deny=DENY_ALL)
    machine.reboot()
    _torn(machine.snapshot)
    assert "is damaged" in machine.boot(expected=1)


@pytest.mark.parametrize("wanted", ["nft", "auto", "legacy"])
def test_where_the_snapshot_s_backend_is_gone_another_closes(lab: Lab, wanted: str) -> None:
    machine = Machine(lab, "legacy", interfaces=("veth*",))
    machine.run_until_saved(allow=A_TO_B)
    machine.reboot()
    machine.settings.write_text(machine.settings.read_text().replace('"legacy"', json.dumps(wanted)))
    said = machine.boot(without="*legacy*")
    assert said.count("can't be put back") == 2
    assert said.count("nothing is forwarded from and to veth* until netpold runs") == 2
    machine.backend = "nft"
    assert machine.rules().count("-A FORWARD -j NETPOLD-FORWARD") == 2
    assert among_pods(machine.verdicts()) == {Outcome.NO_REQUEST}
    assert machine.boot(without="*legacy*").count("there already") == 2
    assert "-A FORWARD -j NETPOLD-FORWARD" not in machine.node.iptables_save("legacy", 4)


def test_a_snapshot_of_the_other_backend_is_put_back_by_its_own(lab: Lab) -> None:
    machine = Machine(lab, "legacy")
    machine.run_until_saved(deny=DENY_ALL, allow=A_TO_B)
    machine.reboot()
    machine.settings.write_text(machine.settings.read_text().replace('"legacy"', '"nft"'))
    assert machine.boot().count("are back") == 2
    assert machine.rules().count("-A FORWARD -j NETPOLD-FORWARD") == 2
    assert machine.boot().count("there already") == 2


def test_without_iptables_it_fails_where_there_is_something_to_put_back_or_to_close(lab: Lab) -> None:
    machine = Machine(lab, "nft")
    machine.settings.write_text(machine.settings.read_text().replace('"nft"', '"auto"'))
    assert "iptables -V says" in machine.boot(without="*tables*")
    named = machine.settings.read_text().replace("[]", '["veth*"]')
    machine.settings.write_text(named)
    assert machine.boot(expected=1, without="*tables*").count("can't be closed") == 2
    machine.settings.write_text(named.replace('["veth*"]', "[]"))
    machine.run_until_saved(deny=DENY_ALL)
    machine.reboot()
    assert machine.boot(expected=1, without="*tables*").count("can't be put back") == 2


@pytest.mark.skipif(not Path("/usr/bin/busctl").exists(), reason="systemd is not installed")
def test_what_firewalld_flushes_once_it_counts_as_started_is_waited_for(lab: Lab) -> None:
    """The real one, in a booted Debian: packaging/test-install."""
    machine = Machine(lab, "nft")
    machine.run_until_saved(deny=DENY_ALL, allow=A_TO_B)
    before = machine.verdicts()
    machine.reboot()
    said = machine.boot(firewalld="iptables-nft -S NETPOLD-FORWARD >&2 || echo nothing yet >&2; ip6tables-nft -F")
    assert "nothing yet" in said and said.count("are back") == 2 and "firewalld" not in said
    assert machine.verdicts() == before
    machine.reboot()
    said = machine.boot(firewalld="exit 1")
    assert said.count("are back") == 2 and "firewalld does not answer" in said
    assert machine.verdicts() == before


def test_where_no_setting_says_which_backend_iptables_does(lab: Lab) -> None:
    machine = Machine(lab, "nft", interfaces=("veth*",))
    machine.settings.write_text(machine.settings.read_text().replace('"nft"', '"auto"'))
    said = machine.boot()
    assert said.count("nothing is forwarded") == 2, said
    version = machine.node.run(["iptables", "-V"])
    machine.backend = "legacy" if "legacy" in version else "nft"
    assert "-A FORWARD -j NETPOLD-FORWARD" in machine.rules()


def test_after_a_flush_a_boot_puts_nothing_back(lab: Lab, backend: Backend) -> None:
    machine = Machine(lab, backend)
    with machine.daemon:
        machine.enforce(deny=DENY_ALL)
        assert eventually(lambda: (machine.snapshot / "current").is_symlink(), 20)
        assert machine.daemon.ctl("flush").returncode == 0
        assert not machine.snapshot.exists()
        machine.daemon.stop()
    machine.boot()
    assert set(machine.verdicts().values()) == {Outcome.OK}


def test_a_change_is_saved_soon_by_a_daemon_that_goes_on(lab: Lab) -> None:
    machine = Machine(lab, "nft")

    def saved() -> str:
        return (machine.snapshot / "current/ipv4.rules").read_text()

    with machine.daemon:
        machine.enforce(deny=DENY_ALL)
        assert eventually(lambda: (machine.snapshot / "current").is_symlink(), 20)
        before = saved()
        machine.enforce(allow=A_TO_B)
        assert eventually(lambda: saved() != before, 20)
        machine.daemon.kill()
    machine.reboot()
    machine.boot()
    assert not machine.passes(machine.c, machine.b)


# The unit --------------------------------------------------------------------------------------------------------


def test_the_unit_can_keep_nothing_from_starting() -> None:
    unit = (SYSTEMD / "netpold-boot.service").read_text()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and line[0] != "#")
    assert not settings.keys() & {"Requires", "BindsTo", "OnFailure", "RequiredBy", "PartOf", "Restart", "PrivateTmp"}
    assert "[Install]" not in unit.splitlines()
    assert int(settings["TimeoutStartSec"].removesuffix("s")) <= 30


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_unit_is_hardened() -> None:
    unit = SYSTEMD / "netpold-boot.service"
    subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=18", unit], check=True)
