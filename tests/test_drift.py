"""What other programs do to netpold's rules and sets on a real kernel: it is noticed, and put back as it was."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netpold.daemon.fight import FREE, LONGEST_S, MINUTE_S, OPEN_S, QUIET_S, Fight, Repairs
from netpold.host.kernel import ipset, nf_events
from netpold.host.kernel.backend import Commit, KernelError, Program
from netpold.host.kernel.nft import Nft
from netpold.host.kernel.watch_nft import NftWatcher
from netpold.host.kernel.watch_sets import SetWatcher
from netpold.rules.mend import Damage, Members, mend
from netpold.rules.plan import ChangeSet, CreateSet, Installed, ReplaceChains
from netpold.rules.render import MOST_MEMBERS
from netpold.rules.ruleset import InSet, IPSet, Jump, Rule, Ruleset
from tests.lab import Backend, Lab, LabError, Node
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually, foreign_rules

STRIP = Path(__file__).resolve().parents[1] / "systemd" / "strip-saved"
TABLE = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -j ACCEPT
COMMIT
"""
TOOLS = {4: "iptables", 6: "ip6tables"}


class Rules:
    """netpold's rules and sets in a node's kernel, as text that stays the same as long as they do."""

    def __init__(self, scene: Scene, backend: Backend) -> None:
        self.scene, self.node, self.backend = scene, scene.node, backend

    def saved(self) -> str:
        found = []
        for family in (4, 6):
            lines = self.node.run([f"{TOOLS[family]}-{self.backend}-save", "-t", "filter"]).splitlines()
            own = [line.split(" [")[0] for line in lines if re.match(r"(:|-A )(NETPOLD-|NP-)", line)]
            hooks = [line for line in lines if re.match(r"-A (INPUT|FORWARD|OUTPUT) .*NETPOLD", line)]
            # whether it has a verdict, whichever (ufw has it drop): a chain without a hook has none
            hooks += [f":FORWARD {line.split()[1] != '-'}" for line in lines if line.startswith(":FORWARD ")]
            found += [f"IPv{family}", *own, *hooks]
            for builtin in ("INPUT", "FORWARD"):
                first = next((line for line in lines if line.startswith(f"-A {builtin} ")), "nothing")
                found.append(f"first in {builtin}: {first}")
        sets = self.node.ipset_save().splitlines()
        # without what differs in a set that was made anew
        bare = (re.sub(r" (initval|bucketsize|hashsize) \S+| packets .*", "", line) for line in sets)
        found += sorted(line for line in bare if re.match(r"\w+ NP[46]-", line))
        return re.sub(r"(NP[46]-[\w-]+)\.\d+", r"\1", "\n".join(found))

    def set_of(self, pod_address: str) -> str:
        """A set that allows that pod."""
        for words in map(str.split, self.node.ipset_save().splitlines()):
            if words[0] == "add" and words[2] == pod_address and "packets" not in words:
                return words[1]
        raise LookupError(pod_address)


def harms(scene: Scene, rules: Rules, backend: Backend) -> Iterator[tuple[str, str]]:
    """A shell script each, and what it is to be called."""
    peers = rules.set_of(scene.a.address(4))
    a, c = scene.a.address(4), scene.c.address(4)
    for family, tool in TOOLS.items():
        ipt = f"{tool}-{backend} -w"
        saved = scene.node.iptables_save(backend, family)
        chain = next(line.split()[0][1:] for line in saved.splitlines() if line.startswith(":NP-RULES-"))
        pod = next(line.split()[0][1:] for line in saved.splitlines() if line.startswith(":NP-IN-"))
        its_rules = [line for line in saved.splitlines() if line.startswith(f"-A {chain} ")]
        length, last = len(its_rules), its_rules[-1].partition(f"{chain} ")[2].replace("-j DROP", "-j ACCEPT")
        assert its_rules[-1].endswith("-j DROP")  # one for another of the same size
        for words in (
            "-F",
            "-F NETPOLD-FORWARD",
            "-D NETPOLD-FORWARD 1",
            "-I NETPOLD-TO 1 -j RETURN",
            "-A NETPOLD-FORWARD -j ACCEPT",
            "-D FORWARD -j NETPOLD-FORWARD",
            "-I FORWARD -j ACCEPT",
            "-I FORWARD -j NETPOLD-FORWARD",
            f"-R {chain} 1 -j ACCEPT",
            f"-F {pod}",
            f"-R {chain} {length} {last}",
            "-N NP-RULES-strange",
            "-N NP-IN-strange\n{ipt} -A NP-IN-strange -j ACCEPT\n{ipt} -I NETPOLD-TO -j NP-IN-strange",
            "-F\n{ipt} -X",
            "-D FORWARD -j NETPOLD-FORWARD\n{ipt} -F NETPOLD-FORWARD\n{ipt} -X NETPOLD-FORWARD",
            "-E NETPOLD-FORWARD something",
        ):
            script = f"{ipt} {words}".replace("{ipt}", ipt)
            yield script.replace("\n", "; "), script
        yield f"{tool}-restore of a table", f"{tool}-{backend}-restore <<'EOF'\n{TABLE}EOF\n{ipt} -D FORWARD -j ACCEPT"
    for words in (
        f"flush {peers}",
        f"del {peers} {a}",
        f"add {peers} {c}",
        f"add {peers} {c}; ipset del {peers} {a}",
        f"create other hash:ip maxelem {MOST_MEMBERS}; ipset add other {c}; ipset add other 10.255.255.1; "
        f"ipset swap {peers} other; ipset destroy other",
        "create NP4-strange hash:ip",
        "flush",
    ):
        yield f"ipset {words}", f"ipset {words}"
    gone = f"iptables-{backend} -w -F; iptables-{backend} -w -X; ipset destroy {peers}"
    yield "flush, and destroy a set", f"n=0; until {gone}; do n=$((n+1)); [ $n -lt 50 ] || exit 1; done"
    if backend == "nft":
        for words in (
            "flush ruleset",
            "delete table ip filter",
            "delete table ip6 filter",
            "flush table ip filter",
            "flush chain ip filter NETPOLD-FORWARD",
            "insert rule ip filter NETPOLD-FORWARD accept",
            "insert rule ip filter FORWARD accept",
            "rename chain ip filter NETPOLD-FORWARD something",
            "'add table ip filter { flags dormant; }'",
            "delete table ip filter; nft flush ruleset; nft delete table ip6 filter",
        ):
            yield f"nft {words}", f"nft {words} || true"
        for hook in ("", "{ type filter hook output priority 0; }"):
            words = (
                "flush chain ip filter FORWARD; delete chain ip filter FORWARD; "
                f"add chain ip filter FORWARD {hook}; add rule ip filter FORWARD jump NETPOLD-FORWARD"
            )
            yield f"nft anew {hook}", f"nft '{words}'"
    for options in ("timeout 2", "maxelem 1000"):
        other = f"ipset create other hash:ip {options}; ipset add other {a}"
        its_set = f"ipset save | sed -n 's/^add \\(NP4-.*\\) {a}$/\\1/p'"
        yield f"ipset with {options}", f"{other}; ipset swap $({its_set}) other"
        yield f"ipset without {options}", "ipset destroy other"


# of the harms, those that differ most
SOME = re.compile(
    r"iptables-\w+ -w (-F|-F; .* -X|-I FORWARD -j ACCEPT|-D FORWARD .* -X .*|-E .*|-R .* -m comment .*)"
    r"|ip6tables-\w+ -w (-R .*|-D FORWARD \S+ \S+)|iptables-restore of a table"
    r"|ipset (add .* del .*|.* swap .*|with.* timeout 2)|nft anew .+|.* destroy a set|nft (flush ruleset|'add .*)"
)


@pytest.mark.kernel
@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_whatever_another_program_does_is_put_back(lab: Lab, backend: Backend, which: str) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        rules = Rules(scene, backend)
        right = rules.saved()
        wrong = []
        for name, script in harms(scene, rules, backend):
            if which == "some" and not SOME.fullmatch(name):
                continue
            scene.node.run(["sh", "-c", script], check=False)
            if not eventually(lambda right=right: rules.saved() == right, 5.0):
                now, then = set(rules.saved().splitlines()), set(right.splitlines())
                wrong.append(f"{name}: more {sorted(now - then)[:4]}, less {sorted(then - now)[:4]}")
                right = rules.saved()
            if not (scene.passes(scene.a, scene.b) and not scene.passes(scene.c, scene.b)):
                wrong.append(f"{name}: other packets pass")
        assert not wrong, "\n".join((*wrong, scene.daemon.errors()))
        assert eventually(lambda: scene.daemon.ctl("status").returncode == 0, 30)  # so many may be a fight


@pytest.mark.kernel
def test_a_built_in_chain_without_its_hook_is_told_where_it_has_rules_of_others(lab: Lab) -> None:
    node, backend = lab.node("n1"), Nft()
    jump = Commit(4, replace={"NETPOLD-FORWARD": ()}, hook={"FORWARD": "NETPOLD-FORWARD"})
    with node.netns.entered(), contextlib.closing(backend):
        backend.commit(jump)
        gone = "flush chain ip filter FORWARD; delete chain ip filter FORWARD"
        rules = "add rule ip filter FORWARD jump NETPOLD-FORWARD; add rule ip filter FORWARD ip saddr 192.0.2.1 drop"
        node.run(["nft", f"{gone}; add chain ip filter FORWARD; {rules}"])
        assert not backend.hooked(4, "FORWARD", "NETPOLD-FORWARD")
        assert not backend.leads(4, "FORWARD", "NETPOLD-FORWARD")
        with pytest.raises(KernelError, match="without its hook"):
            backend.commit(jump)
        assert "192.0.2.1" in node.run(["nft", "list", "chain", "ip", "filter", "FORWARD"])
        node.run(["nft", gone])
        backend.commit(jump)
        assert backend.hooked(4, "FORWARD", "NETPOLD-FORWARD")


@pytest.mark.kernel
def test_a_listing_is_right_only_as_long_as_the_set_should_have_these_members(lab: Lab) -> None:
    def held(*members: str) -> Installed:
        sets = {"S": IPSet("S", 4, "hash:ip", "", frozenset(members))}
        return Installed(Ruleset({4: {}, 6: {}}, sets, {}), {"S": "NP4-S"})

    node, watcher = lab.node("n1"), SetWatcher()

    def noticed() -> bool:
        def look() -> bool:
            return bool(watcher.look())

        return eventually(look, 0.5)

    with node.netns.entered():
        ipset.create([CreateSet("NP4-S", held("10.0.0.1").ruleset.sets["S"], "")])
        watcher.expected = held("10.0.0.1")
        assert not noticed()
        node.run(["ipset", "add", "NP4-S", "10.0.0.2"])
        watcher.expected = held("10.0.0.1", "10.0.0.2")
        node.run(["ipset", "del", "NP4-S", "10.0.0.1"])
        watcher.expected = held("10.0.0.2")
        node.run(["ipset", "add", "NP4-S", "10.0.0.1"])  # another program, before anybody looked
        node.run(["ipset", "del", "NP4-S", "10.0.0.2"])
        assert noticed()


@pytest.mark.kernel
def test_a_set_that_is_swapped_is_read_before_its_turn_comes(lab: Lab) -> None:
    """So is one with members that only the loop knows, which has no turn."""
    sets = {f"S{number}": IPSet(f"S{number}", 4, "hash:ip", "", frozenset(("10.0.0.1",))) for number in range(1000)}
    sets["R"] = replace(sets["S0"], name="R", larger="forbids")
    names = {name: f"NP4-{name}" for name in sets}
    node, watcher = lab.node("n1"), SetWatcher()
    with node.netns.entered():
        ipset.create([CreateSet(names[name], each, "") for name, each in sets.items()])
        watcher.expected = Installed(Ruleset({4: {}, 6: {}}, sets, {}), names)
        watcher.look()  # of what only the loop knows, it asks it once
        assert not watcher.look()
        node.run(["ipset", "create", "other", "hash:ip", "hashsize", "128", "maxelem", str(MOST_MEMBERS)])
        node.run(["ipset", "add", "other", "10.0.0.2"])
        for name, words in (("NP4-S900", "swap NP4-S900 other"), ("NP4-R", "flush NP4-R")):
            node.run(["ipset", *words.split()])
            assert any(name in watcher.look().members for _ in range(3))


@pytest.mark.kernel
def test_a_connection_that_was_opened_in_the_gap_is_cut(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        for protocol in ("TCP", "UDP"):
            flow = None
            for _ in range(50):
                scene.node.iptables(backend, 4, "-F")
                try:
                    flow = lab.flow(scene.a, scene.b, protocol, 80, sender="both")
                    break
                except LabError:
                    continue  # put back before it was open
            assert flow is not None
            assert flow.stopped(timeout=5.0) is not None
            flow.close()
        assert not scene.passes(scene.a, scene.b)


@pytest.mark.kernel
def test_other_programs_rules_stay_byte_for_byte(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with foreign_rules(scene.node, backend), scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        rules = Rules(scene, backend)

        def others() -> list[str]:
            """With counters, but for those of policies: the node's own packets count there."""
            text = (scene.node.run([f"{tool}-{backend}-save", "-c"]).splitlines() for tool in TOOLS.values())
            lines = [line for each in text for line in each if not re.search(r"NETPOLD-|NP-", line)]
            bare = [re.sub(r"^(:.*) \[.*", r"\1", line) for line in lines]
            return [line for line in bare if not line.startswith("#")]

        scene.passes(scene.a, scene.b)
        right, before = rules.saved(), others()
        assert len(before) > 15
        for family in (4, 6):
            for words in (
                "-F NETPOLD-FORWARD",
                "-D FORWARD -j NETPOLD-FORWARD",
                "-D INPUT -j NETPOLD-INPUT",
                "-A FORWARD -j NETPOLD-FORWARD",
                "-D FORWARD -j NETPOLD-FORWARD\n-A FORWARD -j NETPOLD-FORWARD",
            ):
                for each in words.splitlines():
                    scene.node.iptables(backend, family, *each.split())
                assert eventually(lambda: rules.saved() == right), words
                assert others() == before, words
        assert "other" in scene.node.ipset_save()


@pytest.mark.kernel
def test_a_storm_of_other_programs_transactions_neither_costs_much_nor_hides_what_touches_netpold(lab: Lab) -> None:
    """As kube-proxy and docker do it: many commits, in other tables, and in chains of their own of `filter`."""
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        rules = Rules(scene, "nft")
        right = rules.saved()
        revision = scene.daemon.status()["revision"]
        storm = "".join(
            f"*{table}\n:KUBE-{number % 50} - [0:0]\n"
            + "".join(f"-A KUBE-{number % 50} -s 10.{number % 250}.{each}.1/32 -j RETURN\n" for each in range(20))
            + "COMMIT\n"
            for number in range(20)
            for table in ("filter", "nat")
        )
        scene.node.run(["iptables-nft-restore", "--noflush"], storm)
        assert scene.daemon.status()["revision"] == revision
        stop = threading.Event()

        def go_on() -> None:
            while not stop.is_set():
                scene.node.run(["iptables-nft-restore", "--noflush"], storm)

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            for _ in range(3):
                scene.node.iptables("nft", 4, "-F", "NETPOLD-FORWARD")
                assert eventually(lambda: rules.saved() == right)
        finally:
            stop.set()
            thread.join()
        assert eventually(lambda: rules.saved() == right)


@pytest.mark.kernel
def test_a_lost_event_costs_time_and_nothing_else(lab: Lab) -> None:
    """The kernel's events do not fit the buffer: a small one stands for many events."""
    node = lab.node("n1")
    with node.netns.entered():
        events = nf_events.Events(receive_buffer=1 << 12)
        node.run(
            ["iptables-nft-restore", "--noflush"], "*filter\n" + "-A FORWARD -s 10.0.0.1 -j DROP\n" * 500 + "COMMIT\n"
        )
        with pytest.raises(nf_events.Lost):
            list(events.transactions())
        with contextlib.suppress(nf_events.Lost):  # what is left
            list(events.transactions())
        node.iptables("nft", 4, "-N", "NETPOLD-FORWARD")
        (transaction,) = events.transactions()
        assert transaction.own[4] == {"NETPOLD-FORWARD"}
        assert transaction.name == "iptables-nft"
        events.close()


@pytest.mark.kernel
def test_what_a_script_in_the_place_of_the_tool_has_the_real_one_do_is_netpolds_own(lab: Lab) -> None:
    node = lab.node("n1")
    with node.netns.entered():
        script = subprocess.Popen(
            ["sh", "-c", "iptables-nft-restore --noflush -v; exit $?"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        watcher = NftWatcher(lambda: frozenset((script.pid,)))
        try:
            assert script.stdin
            assert script.stdout
            script.stdin.write(b"*filter\n:NETPOLD-FORWARD - [0:0]\nCOMMIT\n# done\n")
            script.stdin.flush()
            while script.stdout.readline() != b"# done\n":
                pass
            assert not watcher.look()
            node.iptables("nft", 4, "-A", "NETPOLD-FORWARD", "-j", "RETURN")
            assert watcher.look().chains[4] == {"NETPOLD-FORWARD"}
        finally:
            script.communicate(timeout=30)
            watcher.close()


@pytest.mark.kernel
def test_what_could_not_be_put_back_is_tried_again_soon_whatever_else_fails(lab: Lab) -> None:
    """A table that goes with the process that owns it, which no event tells of."""
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        nft = scene.node.spawn(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            assert nft.stdin
            nft.stdin.write(b"delete table ip filter; add table ip filter { flags owner; }\n")
            nft.stdin.flush()
            assert eventually(lambda: scene.state() == "degraded")
            nft.stdin.close()
            assert eventually(lambda: "NETPOLD-FORWARD" in scene.node.iptables_save("nft", 4), 20)
            assert not scene.passes(scene.a, scene.b)
        finally:
            nft.kill()
            nft.wait()
        assert eventually(lambda: scene.state() == "enforcing", 40)


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["nft", pytest.param("legacy", marks=pytest.mark.slow)])
def test_a_fight_is_backed_off_said_once_and_lost_by_nobody(lab: Lab, backend: Backend) -> None:
    """A program that puts itself first whenever it is not."""
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        script = (
            f"while :; do iptables-{backend} -w -S FORWARD | sed -n 2p | grep -q ACCEPT || "
            f"iptables-{backend} -w -I FORWARD -s 198.51.100.1 -j ACCEPT; done"
        )
        fighter = scene.node.spawn(["sh", "-c", script])
        try:
            assert eventually(lambda: any("keeps changing" in each for each in scene.daemon.status()["warnings"]), 30)
            before = scene.daemon.status()["revision"]
            time.sleep(3)
            assert scene.daemon.status()["revision"] - before < 20
            assert not scene.passes(scene.a, scene.b)  # the rules are as they were, and the jump is there
        finally:
            scene.node.site.stop(fighter)
        assert eventually(lambda: not scene.daemon.status()["warnings"], 30)
        rules = scene.node.iptables_save(backend, 4).splitlines()
        assert next(line for line in rules if line.startswith("-A FORWARD")) == "-A FORWARD -j NETPOLD-FORWARD"
        assert scene.daemon.errors().count("are put back\n") < 10
        assert scene.daemon.errors().count("keeps changing") == 1


@pytest.mark.kernel
def test_while_a_program_opens_again_and_again_what_is_closed_the_state_is_degraded(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        script = f"while :; do iptables-{backend} -w -D FORWARD -j NETPOLD-FORWARD; sleep 0.05; done"
        fighter = scene.node.spawn(["sh", "-c", script], stderr=subprocess.DEVNULL)
        try:
            assert eventually(lambda: "open until" in scene.daemon.ctl("status").stdout, 30)
            assert scene.daemon.ctl("status", "-o", "json").returncode == 1  # degraded
        finally:
            scene.node.site.stop(fighter)
        assert eventually(lambda: scene.daemon.ctl("status").returncode == 0, 30)
        assert not scene.passes(scene.a, scene.b)


def test_what_opens_is_put_back_without_long_pauses_however_long_it_goes_on() -> None:
    fight, now = Fight(), 100.0
    for _ in range(FREE + 100):
        now = fight.at(now, opens=True) + 0.01
        fight.repaired(now, [], 0.01, opens=True)
    assert fight.at(now, opens=True) - now == pytest.approx(OPEN_S)
    assert fight.open_since is not None
    list(fight.tell(now + QUIET_S))
    assert fight.open_since is None


def test_pauses_grow_in_a_fight_and_go_when_it_has_been_quiet() -> None:
    fight = Fight()
    now, waits = 100.0, []
    for _ in range(FREE + 10):
        at = fight.at(now, opens=False)
        waits.append(at - now)
        fight.repaired(at, [Program("iptables", 7)], 0.01, opens=False)
        now = at + 0.01
    assert waits[:FREE] == [0.0] * FREE
    later = waits[FREE + 1 :]
    assert later == sorted(later)
    assert max(later) == pytest.approx(LONGEST_S, abs=0.1)
    assert fight.warning
    assert "iptables" in fight.warning
    assert fight.at(now, opens=True) - now <= OPEN_S  # where packets may pass, none waits for long
    now += QUIET_S
    assert fight.at(now, opens=False) == now
    assert fight.warning is None


def test_one_repair_now_and_then_is_no_fight() -> None:
    fight = Fight()
    for number in range(1000):
        assert fight.at(number * 1.0, opens=False) == number * 1.0
        fight.repaired(number * 1.0, [], 0.01, opens=False)
    assert fight.warning is None


def test_who_opens_now_and_then_is_warned_of_and_waits_for_nothing() -> None:
    fight = Fight()
    for number in range(1, 100):
        now = number * 25.0
        assert fight.at(now, opens=True) == now
        fight.repaired(now, [Program("sloppy", 7)], 0.01, opens=True)
        assert list(fight.tell(now)) or number > 1
        assert bool(fight.warning and "sloppy" in fight.warning) == (number >= 3)
    assert fight.open_since is None
    assert fight.due == now + MINUTE_S
    list(fight.tell(now + MINUTE_S))
    assert fight.warning is None


def test_who_was_seen_once_is_not_named_for_what_others_do_unseen() -> None:
    fight = Fight()
    for now, by in ((100.0, [Program("iptables-nft", 7)]), (110.0, []), (112.0, [])):
        fight.repaired(now, by, 0.01, opens=True)
        assert fight.who == tuple(each.name for each in by)
    assert fight.warning and fight.warning.startswith("another program opens")
    fight.repaired(114.0, [Program("sloppy", 7)], 0.01, opens=True)
    fight.repaired(116.0, [Program("sloppy", 8)], 0.01, opens=True)
    assert fight.warning.startswith("sloppy opens")


def test_an_episode_is_told_at_once_and_then_ever_less_often() -> None:
    fight = Fight()
    told = []
    for number in range(1000):
        now = number * 0.1
        fight.repaired(now, [Program("docker", number)], number / 1000, opens=False)
        told += fight.tell(now)
    assert told[0] == Repairs(("docker",), Program("docker", 0), 1, 0.0)
    assert len(told) < 10
    told += fight.tell(1e6)
    assert sum(each.times for each in told) == 1000
    assert told[-1].longest_s == 0.999


RULE = Rule((InSet("NP4-a", "src"),), "RETURN")
CHAINS = {"NETPOLD-FORWARD": (Rule((), Jump("NP-IN-a")),), "NP-IN-a": (RULE,)}
SETS = {"NP4-a": IPSet("NP4-a", 4, "hash:ip", "", frozenset(("10.0.0.1",)))}
INSTALLED = Installed(Ruleset({4: CHAINS, 6: {}}, SETS, {"FORWARD": "NETPOLD-FORWARD"}), {"NP4-a": "NP4-a.3"})


def test_only_the_jump_comes_back_where_only_the_jump_is_gone() -> None:
    plan = mend(INSTALLED, Damage(hooks=frozenset((4,)), unhooked=True))
    assert [(type(each), each.chains, each.hooks) for each in plan.steps] == [  # type: ignore[union-attr]
        (ReplaceChains, {}, {"FORWARD": "NETPOLD-FORWARD"})
    ]
    assert plan.result == INSTALLED


def test_a_set_that_is_gone_is_made_again_before_all_rules_that_look_it_up() -> None:
    plan = mend(INSTALLED, Damage(gone=frozenset(("NP4-a.3",))))
    create, replace = plan.steps
    assert isinstance(create, CreateSet)
    assert create.name == "NP4-a.3"
    assert isinstance(replace, ReplaceChains)
    assert set(replace.chains) == {"NP-IN-a"}


def test_an_old_head_that_is_put_back_is_not_led_to() -> None:
    plan = mend(INSTALLED, Damage({6: frozenset(("NETPOLD-OUTPUT",))}))
    assert [each.unhook for each in plan.steps] == [("NETPOLD-OUTPUT",)]  # type: ignore[union-attr]
    assert plan.result.stray_chains == {6: {"NETPOLD-OUTPUT"}}


def test_what_should_not_be_there_is_left_over() -> None:
    members = Members(frozenset(("10.0.0.1",)), frozenset(("10.0.0.9",)))
    damage = Damage({4: frozenset(("NP-IN-strange",))}, sets={"NP4-a.3": members}, strays=frozenset(("NP4-x",)))
    plan = mend(INSTALLED, damage)
    (change,) = plan.steps
    assert isinstance(change, ChangeSet)
    assert (change.add, change.remove) == (members.missing, members.extra)
    assert plan.result.stray_chains == {4: {"NP-IN-strange"}}
    assert plan.result.stray_sets == {"NP4-x"}


DOCKER = """-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-I FORWARD -j DOCKER-ISOLATION-STAGE-1
-I DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-I DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-I FORWARD -i docker0 ! -o docker0 -j ACCEPT
-I FORWARD -i docker0 -o docker0 -j ACCEPT
-I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-I FORWARD -o docker0 -j DOCKER
-N DOCKER-USER
-A DOCKER-USER -j RETURN
-I FORWARD -j DOCKER-USER"""
# at each start it takes these out and puts them first again
DOCKER_AGAIN = """-D FORWARD -j DOCKER-ISOLATION-STAGE-1
-I FORWARD -j DOCKER-ISOLATION-STAGE-1
-D FORWARD -j DOCKER-USER
-I FORWARD -j DOCKER-USER"""
KUBE_PROXY = """*filter
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
"""
KUBE_PROXY_JUMPS = """-I FORWARD -m comment --comment kubernetes-forwarding-rules -j KUBE-FORWARD
-I FORWARD -m conntrack --ctstate NEW -m comment --comment kubernetes-service-portals -j KUBE-SERVICES
-I INPUT -j KUBE-FIREWALL"""


def of_others(saved: str) -> list[str]:
    lines = (line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#"))
    return [line for line in lines if not re.search(r"NETPOLD-|NP-", line)]


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["nft", pytest.param("legacy", marks=pytest.mark.slow)])
def test_docker_and_kube_proxy_have_their_rules_in_their_order_behind_the_jump(lab: Lab, backend: Backend) -> None:
    scene, bare = Scene(lab, backend), lab.node("bare")

    def both(work: Callable[[Node], object]) -> None:
        for node in (scene.node, bare):
            work(node)

    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        rules = Rules(scene, backend)
        right = rules.saved()
        for text in (DOCKER, DOCKER_AGAIN, KUBE_PROXY, KUBE_PROXY_JUMPS, KUBE_PROXY, DOCKER_AGAIN):
            if text.startswith("*"):
                both(lambda node, text=text: node.run([f"iptables-{backend}-restore", "--noflush", "--counters"], text))
            else:
                for line in text.splitlines():
                    both(lambda node, line=line: node.iptables(backend, 4, *line.split()))
            assert eventually(lambda: rules.saved() == right), text
            assert of_others(scene.node.iptables_save(backend, 4)) == of_others(bare.iptables_save(backend, 4)), text
            assert scene.passes(scene.a, scene.b)
            assert not scene.passes(scene.c, scene.b)


@pytest.mark.kernel
@pytest.mark.skipif(not shutil.which("ufw"), reason="ufw is not installed")
def test_ufw_comes_reloads_and_goes(lab: Lab, tmp_path: Path) -> None:
    """ufw flushes and fills chains of its own and puts jumps to them at the end; `disable` takes them out."""
    scene = Scene(lab, "nft")
    shutil.copytree("/etc/ufw", tmp_path / "ufw")
    inside = f"mount --bind {tmp_path / 'ufw'} /etc/ufw; exec ufw"
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        rules = Rules(scene, "nft")
        right = rules.saved()
        for words in ("--force enable", "reload", "--force disable", "--force enable"):
            scene.node.run(["unshare", "-m", "sh", "-c", f"{inside} {words}"])
            assert eventually(lambda: rules.saved() == right), words
            assert not scene.passes(scene.a, scene.b)
        assert "-A FORWARD -j ufw-before-forward" in scene.node.iptables_save("nft", 4)


@pytest.mark.kernel
def test_what_iptables_persistent_saves_has_nothing_of_netpold(lab: Lab, backend: Backend, tmp_path: Path) -> None:
    """weave#3402: a saved rule that looks up a set that is not there at boot keeps the whole firewall from loading."""
    scene, booted = Scene(lab, backend), lab.node("booted")
    with foreign_rules(scene.node, backend), scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        for family, tool in TOOLS.items():
            remark = "ours? -j NETPOLD-FORWARD"
            scene.node.iptables(backend, family, "-A", "OTHER", "-m", "comment", "--comment", remark, "-j", "DROP")
            saved = scene.node.run([f"{tool}-{backend}-save", "-c"])
            (tmp_path / f"rules.v{family}").write_text(saved)
            restore = [f"{tool}-{backend}-restore"]
            with pytest.raises(LabError):
                booted.run(restore, saved)
        (tmp_path / "ipsets").write_text(scene.node.ipset_save())
        subprocess.run([STRIP, "save"], env={**os.environ, "IPTABLES_DIR": str(tmp_path)}, check=True)
        for family, tool in TOOLS.items():
            saved = (tmp_path / f"rules.v{family}").read_text()
            booted.run([f"{tool}-{backend}-restore"], saved)
            assert of_others(booted.iptables_save(backend, family)) == of_others(
                scene.node.iptables_save(backend, family)
            )
            assert "NETPOLD" not in saved.replace(remark, "")
        assert "create other" in (tmp_path / "ipsets").read_text()
        assert "NP4-" not in (tmp_path / "ipsets").read_text()
        assert {each.name for each in tmp_path.iterdir()} == {"rules.v4", "rules.v6", "ipsets"}


BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>
"""


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("firewalld"), reason="firewalld is not installed")
@pytest.mark.parametrize("writes", ["nftables", "iptables"])
def test_firewalld_starts_reloads_and_restarts(lab: Lab, tmp_path: Path, writes: str) -> None:
    """With a message bus of its own, in a copy of its settings.  With iptables it flushes the whole table."""
    scene = Scene(lab, "nft")
    bus, settings = tmp_path / "bus", tmp_path / "firewalld"
    (tmp_path / "bus.conf").write_text(BUS.format(path=bus))
    shutil.copytree("/etc/firewalld", settings)
    config = settings / "firewalld.conf"
    config.write_text(re.sub(r"^FirewallBackend=.*", f"FirewallBackend={writes}", config.read_text(), flags=re.M))
    talk = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"}
    script = (
        f"mount --bind {settings} /etc/firewalld; mount -t tmpfs none /run/firewalld; exec firewalld --nofork --nopid"
    )

    def ask(*words: str) -> bool:
        command = ["ip", "netns", "exec", scene.node.netns.name, "firewall-cmd", *words]
        return subprocess.run(command, env=talk, capture_output=True, timeout=60).returncode == 0

    def start() -> subprocess.Popen[bytes]:
        command = ["unshare", "-m", "sh", "-c", f"mkdir -p /run/firewalld; {script}"]
        process = scene.node.spawn(command, env=talk, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert eventually(lambda: ask("--state"), 30)
        return process

    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        rules = Rules(scene, "nft")
        right = rules.saved()
        daemon = scene.node.spawn(["dbus-daemon", f"--config-file={tmp_path / 'bus.conf'}", "--nofork"])
        assert eventually(bus.exists)
        for words in ([], ["--reload"], ["--complete-reload"], []):
            if words:
                assert ask(*words)
            else:
                running = start()
            assert eventually(lambda: rules.saved() == right), words
            assert not scene.passes(scene.c, scene.b)
            if words == ["--complete-reload"]:
                running.terminate()
                running.wait(30)
                assert eventually(lambda: rules.saved() == right)
                assert scene.passes(scene.a, scene.b)
        scene.node.site.stop(daemon)
