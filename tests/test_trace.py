"""`explain --live`: a real packet's way through the kernel, held against what became of it, and against the model."""

from __future__ import annotations

import grp
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from netpold.ctl.explain_live import text
from netpold.host.copies import lines_of, ways
from netpold.host.kernel.trace_events import Event, Line, trace_line
from netpold.host.nflog import Heading, Logged
from netpold.rules.ruleset import Goto, InSet, IPSet, Jump, Rule, Ruleset
from netpold.rules.traced import Compared, Step, Way, compare
from netpold.rules.walk import Packet
from tests.lab import Backend, Lab, Outcome, Pod, Probe
from tests.lab.daemon import CHECKOUT, PYTHON
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually, foreign_rules, policy
from tests.test_tiers_daemon import Scene as TierScene
from tests.test_tiers_daemon import tiered

Json = dict[str, Any]
AnyScene = TypeVar("AnyScene", Scene, TierScene)

NOBODY, GROUP = 65534, 1  # any that are there
TRACE = "http://netpold/v1/trace?source=x/a&destination=x/b&port=80/TCP"


# The comparison: pure -------------------------------------------------------------------------------------------------

PEERS = IPSet("NP4-peers", 4, "hash:ip", "pods", {"10.0.0.1"})
FROM_PEER = Rule((InSet("NP4-peers", "src"),), "RETURN", "x/p ingress[0]")
LAST = Rule((), "DROP", "no rule allows")
MODEL = Ruleset(
    {
        4: {
            "NETPOLD-FORWARD": (Rule((), Jump("NETPOLD-TO")),),
            "NETPOLD-TO": (Rule((), Goto("NP-RULES-1")),),
            "NP-RULES-1": (FROM_PEER, LAST),
        },
        6: {},
    },
    {"NP4-peers": PEERS},
    {"FORWARD": "NETPOLD-FORWARD"},
)
NAMES = {"NP4-peers": "NP4-peers.2"}
PACKET = Packet("10.0.0.1", "10.0.0.2", "tcp", 80)


def step(chain: str, number: int | None, text: str, verdict: str, target: str = "") -> Step:
    return Step("ip", "filter", chain, number, text, verdict, target)


HOOK = step("FORWARD", 1, "-j NETPOLD-FORWARD", "jump", "NETPOLD-FORWARD")
WAY = [
    HOOK,
    step("NETPOLD-FORWARD", 1, "-j NETPOLD-TO", "jump", "NETPOLD-TO"),
    step("NETPOLD-TO", 1, "-g NP-RULES-1", "goto", "NP-RULES-1"),
]
ALLOWED = step(
    "NP-RULES-1", 1, '-m set --match-set NP4-peers.2 src -m comment --comment "x/p ingress[0]" -j RETURN', "return"
)
DROPPED = step("NP-RULES-1", 2, '-m comment --comment "no rule allows" -j DROP', "drop")
POLICY = step("FORWARD", None, "", "accept")


def compared(*steps: Step, packet: Packet = PACKET, **changes: bool) -> Compared:
    is_dropped = any(each.verdict == "drop" for each in steps)
    way = Way(packet, "FORWARD", steps, met=True, filtered=not is_dropped, ended=not is_dropped, by_rules=True)
    return compare(MODEL, NAMES, replace(way, **changes))  # type: ignore[arg-type]


def test_kernel_and_model_agree() -> None:
    found = compared(*WAY, ALLOWED, POLICY)
    assert (found.verdict, found.model, found.fate, found.parting) == ("allow", "allow", "passed", None)
    assert found.says[-2:] == ("passes: x/p ingress[0]", "goes on")
    found = compared(*WAY, DROPPED, packet=replace(PACKET, source="10.0.0.9"))
    assert (found.verdict, found.model, found.fate, found.parting) == ("deny", "deny", "dropped", None)
    assert found.by == DROPPED and found.says[-1] == "dropped: no rule allows"


def test_where_they_part() -> None:
    found = compared(*WAY, DROPPED)  # a member is not in the kernel's set
    assert (found.verdict, found.model) == ("deny", "allow")
    assert found.parting and (found.parting.kernel, found.parting.model) == (DROPPED, FROM_PEER)
    alien = step("NP-RULES-1", 1, "-p tcp -j DROP", "drop")  # somebody put it there
    found = compared(*WAY, alien)
    assert found.parting and (found.parting.kernel, found.parting.model) == (alien, FROM_PEER)
    assert found.says[-1] == "not netpold's rule: dropped"
    found = compared(*WAY, POLICY)  # somebody emptied the chain
    assert found.verdict == "allow"
    assert found.parting and (found.parting.kernel, found.parting.model) == (None, FROM_PEER)


def test_a_rule_is_known_though_others_stand_before_it() -> None:
    moved = replace(ALLOWED, number=7)
    assert compared(*WAY, moved, POLICY).parting is None


def test_what_others_drop_is_not_netpold_s_doing() -> None:
    foreign = step("KUBE-FORWARD", 3, "-m conntrack --ctstate INVALID -j DROP", "drop")
    found = compared(*WAY, ALLOWED, foreign)
    assert (found.verdict, found.fate, found.by, found.parting) == ("allow", "dropped", foreign, None)
    assert foreign.place == "rule 3 of chain KUBE-FORWARD, table filter"
    before = Step("inet", "fw", "early", 1, "drop", "drop")
    found = compared(before, met=False)
    assert (found.verdict, found.fate) == (None, "dropped")
    assert before.place == "rule 1 of chain early, table fw (inet)"
    found = compared(met=False, ended=False, filtered=False)
    assert (found.verdict, found.fate, found.by) == (None, "lost", None)


def test_what_a_program_was_handed_is_not_dropped() -> None:
    queue = step("FORWARD", 2, "-j NFQUEUE", "queue")
    found = compared(*WAY, ALLOWED, queue, filtered=False, ended=False)
    assert (found.verdict, found.fate, found.by, found.says[-1]) == ("allow", "lost", None, "handed to a program")


def test_where_rules_are_not_told_the_filter_table_tells() -> None:
    found = compared(by_rules=False)
    assert (found.verdict, found.judged, found.fate, found.parting) == ("allow", False, "passed", None)
    found = compared(by_rules=False, ended=False, filtered=False)
    assert (found.verdict, found.judged, found.fate) == ("deny", False, "dropped")


def test_lines_of_legacy_tables() -> None:
    seen = Heading("10.0.0.1", "10.0.0.2", "tcp", 1, 80)
    for prefix, hook, line in (
        ("TRACE: filter:FORWARD:rule:12 ", "FORWARD", Line("filter", "FORWARD", 12, "FORWARD", seen, 7)),
        ("TRACE: nat:a:b:policy:1 ", "OUTPUT", Line("nat", "a:b", 1, "OUTPUT", seen, 7)),
        ("netpold drop ingress", "FORWARD", None),
    ):
        assert trace_line(Logged(prefix, seen, hook, 3, 7, 0)) == line


# Copies: pure ---------------------------------------------------------------------------------------------------------

SEEN = Heading("10.0.0.1", "224.1.2.3", "udp", 1, 5000)
STATIONS = {"P": "state-pre", "I": "before-in", "F": "before-fwd", "O": "before-out", "E": "end-post", "N": "end-in"}
JUDGED = [(1, "netpold-trace-1", STATIONS[each]) for each in "FI"]


def passing(numbered: str) -> list[Event]:
    """`1PF 2F`: number 1 passes PREROUTING and FORWARD, then number 2 FORWARD; of each chain there are two events.
    `m` and `i` are other programs' chains at FORWARD and INPUT, before netpold's."""
    found = []
    for number, *chains in numbered.split():
        for chain in chains:
            table, name = ("netpold-trace-1", STATIONS[chain]) if chain in STATIONS else ("other", chain)
            first = Event(int(number), 1, table, name, "rule", 1, "continue", "", SEEN, 64, 4, 4)
            found += [first, replace(first, kind="policy", verdict="accept", heading=None)]
    return found


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("1PFE", ["1PFE"]),  # to a port that is known, or routed
        ("1P 2FE", ["1P 2FE"]),  # a bridge hands it up
        ("1P 2mFE 3mFE 1mFE", ["1P 2mFE", "1P 3mFE", "1P 1mFE"]),
        ("1P 2mFE 2mFE 2mF 1mFE", ["1P 2mFE", "1P 2mFE", "1P 2mF", "1P 1mFE"]),  # made where the one before it was
        ("1P 2m 2mFE", ["1P 2m", "1P 2mFE"]),
        ("1P 2mFE 3iIN", ["1P 2mFE", "1P 3iIN"]),  # one is for the node
        ("1P 3iIN 2mFE", ["1P 3iIN", "1P 2mFE"]),
        ("1OE 2PIN", ["1OE 2PIN"]),  # from the node to itself
        ("1O 2E 1E", ["1O 2E", "1O 1E"]),
        ("1PFE 1PFE 1PF", ["1PFE"]),  # the same connection's next packets
        ("1P 2FE 1P 2FE", ["1P 2FE"]),
    ],
)
def test_copies_are_told_apart(told: str, expected: list[str]) -> None:
    assert ways(passing(told), JUDGED) == [passing(each) for each in expected]


def test_lines_of_copies_are_told_apart_by_their_ports() -> None:
    early, one, other, node = (
        Line("filter", hook, 1, hook, SEEN, port)
        for hook, port in (("PREROUTING", 0), ("FORWARD", 5), ("FORWARD", 7), ("INPUT", 0))
    )
    left = Line("mangle", "POSTROUTING", 1, "POSTROUTING", SEEN, 5)
    lines = [early, one, left, other, node]
    assert [lines_of(lines, each) for each in (0, 1, None)] == [[early, one, left], [early, other], [early, node]]
    assert lines_of([early, one, replace(left, outgoing=9)], 0) == [early, one, replace(left, outgoing=9)]


# The real kernel ------------------------------------------------------------------------------------------------------


class Asked:
    """`explain --live` on a node, that waits; `become`: the command that makes it another user's."""

    def __init__(self, scene: Scene, *words: str, may_be_over: bool = False, become: Sequence[str] = ()) -> None:
        before = set(tables(scene))
        command = [
            PYTHON,
            "-m",
            "netpold.ctl",
            "--socket",
            str(scene.daemon.socket),
            "explain",
            *words,
            "--live",
            "--for",
            "20",
        ]
        self.process = scene.node.spawn(
            [*become, *command, "-o", "json"], cwd=CHECKOUT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        over = self.process.poll if may_be_over else lambda: None
        assert eventually(lambda: bool(set(tables(scene)) - before) or over() is not None, 10)

    def answer(self) -> Json:
        out, complaint = self.process.communicate(timeout=30)
        assert complaint == ""
        found: Json = json.loads(out)
        assert text(found)  # reads, too
        return found


def tables(scene: Scene) -> list[str]:
    """Those that mark packets."""
    return [line for line in scene.node.run(["nft", "list", "tables"]).splitlines() if "netpold-trace" in line]


def traced(scene: Scene, source: Pod, destination: Pod, protocol: str = "TCP", port: int = 80, family: int = 4) -> Json:
    """What is told of a probe; whether that got there is held against it."""
    asked = Asked(scene, source.name, destination.name, protocol if protocol == "ICMP" else f"{port}/{protocol}")
    probe = Probe(source, destination, protocol, port, family)
    arrived = scene.lab.probe([probe])[probe] is Outcome.OK
    told: Json = asked.answer()["live"]["traced"]
    assert told["packet"]["family"] == f"IPv{family}" and told["packet"]["source"] == source.address(family)
    assert (told["kernel"]["fate"] == "passed") == arrived
    return told


@contextmanager
def enforcing(
    lab: Lab, backend: Backend, wiring: str = "routed", make: type[AnyScene] = Scene, *, by_rules: bool = True
) -> Iterator[AnyScene]:
    """A node that enforces; on it legacy tables tell of single rules, where they are to."""
    scene = make(lab, backend, wiring)
    command = "for each in 2 10; do echo nfnetlink_log > /proc/sys/net/netfilter/nf_log/$each; done"
    if by_rules:
        scene.node.run(["sh", "-c", command])
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, to_b=A_TO_B, out=A_OUT)
        yield scene


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("backend", "wiring"),
    [
        ("nft", "routed"),
        ("legacy", "bridged"),
        pytest.param("nft", "bridged", marks=pytest.mark.slow),
        pytest.param("legacy", "routed", marks=pytest.mark.slow),
    ],
)
def test_the_way_of_packets(lab: Lab, backend: Backend, wiring: str) -> None:
    with enforcing(lab, backend, wiring) as scene:
        for protocol, family in (("TCP", 4), ("UDP", 6)):
            told = traced(scene, scene.a, scene.b, protocol, 80, family)
            assert (told["kernel"]["verdict"], told["expected"]["verdict"]) == ("allow", "allow")
            assert (told["agree"], told["parted"], told["packet"]["connection"]) == (True, None, "new")
            says = [each["says"] for each in told["steps"]]
            assert "passes: x/a-out egress[0] allows it" in says and "passes: x/a-to-b ingress[0] allows it" in says
        by_egress = scene.a, scene.c, "UDP", 4, "x/a-out x/deny-all"
        by_ingress = scene.a, scene.b, "ICMP" if wiring == "routed" else "SCTP", 6, "x/a-to-b x/deny-all"
        for source, destination, protocol, family, why in (by_egress, by_ingress):
            told = traced(scene, source, destination, protocol, 0 if protocol == "ICMP" else 80, family)
            assert (told["kernel"]["verdict"], told["agree"], told["parted"]) == ("deny", True, None)
            last = told["steps"][told["kernel"]["by"]]
            assert last["own"] and last is told["steps"][-1] and last["says"] == f"dropped: no rule allows: {why}"
            assert last["chain"].startswith("NP-RULES-") and last["text"].endswith("-j DROP")
        assert told["packet"]["bridged"] == (wiring == "bridged")

        asked = Asked(scene, "x/a", "x/b", "80/UDP")  # forged: kernel and model know it, `explain` is about a's own
        lab.probe([Probe(scene.c, scene.b, "UDP", 80, 4, source_address=scene.a.address(4))])
        told = asked.answer()["live"]["traced"]
        assert (told["kernel"]["verdict"], told["expected"]["verdict"]) == ("deny", "allow")
        assert (told["model"]["verdict"], told["agree"], told["parted"]) == ("deny", True, None)
        assert told["model"]["says"] == "dropped: not the pod's own source address"


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("backend", "wiring"), [("nft", "routed"), pytest.param("legacy", "bridged", marks=pytest.mark.slow)]
)
def test_the_way_through_tiers(lab: Lab, backend: Backend, wiring: str) -> None:
    guard = tiered("guard", "Admin", "b", "ingress Deny c", "ingress Pass a 80", "ingress Accept a 81")
    shut = tiered("shut", "Baseline", "c", "ingress Deny *")
    with enforcing(lab, backend, wiring, TierScene) as scene:
        scene.enforce(out="", deny="", guard=guard, shut=shut, to_b=A_TO_B)
        a, b, c = scene.a, scene.b, scene.c
        for source, destination, port, verdict, *expected in (
            (a, b, 80, "allow", "Admin guard ingress[1] passes it on", "passes: x/a-to-b ingress[0] allows it"),
            (a, b, 81, "allow", "passes: Admin guard ingress[2] accepts it"),
            (a, b, 82, "deny", "dropped: no rule allows: x/a-to-b"),
            (c, b, 80, "deny", "Admin guard ingress[0] denies it", "dropped: denied by a rule of a tier"),
            (a, c, 80, "deny", "Baseline shut ingress[0] denies it", "dropped: denied by a rule of a tier"),
        ):
            for family in (4, 6):
                told = traced(scene, source, destination, "TCP", port, family)
                assert (told["kernel"]["verdict"], told["agree"], told["parted"]) == (verdict, True, None)
                says = [each["says"] for each in told["steps"]]
                assert [any(line.endswith(each) for line in says) for each in expected] == [True] * len(expected), says

        scene.enforce(guard=guard.replace("{name: guard}", "{name: guard, annotations: {netpold.io/mode: audit}}"))
        told = traced(scene, c, b)
        assert (told["kernel"]["verdict"], told["agree"], told["parted"]) == ("deny", True, None)
        audited = "copied, for `netpoldctl monitor`: audited, Admin guard ingress[0] would deny it"
        assert audited in [each["says"] for each in told["steps"]]


@pytest.mark.kernel
def test_what_others_do(lab: Lab, backend: Backend) -> None:
    with enforcing(lab, backend) as scene:
        scene.node.iptables(backend, 4, "-A", "FORWARD", "-p", "tcp", "--dport", "80", "-j", "DROP")
        told = traced(scene, scene.a, scene.b)
        by = told["steps"][told["kernel"]["by"]]
        assert (told["kernel"]["verdict"], told["kernel"]["fate"], told["agree"]) == ("allow", "dropped", True)
        assert (by["own"], by["place"]) == (False, "rule 2 of chain FORWARD, table filter")
        scene.node.iptables(backend, 4, "-D", "FORWARD", "2")

        interface = told["packet"]["out_interface"]
        early = "chain early {\n type filter hook prerouting priority -150\n tcp dport 80 drop\n }"
        scene.node.run(["nft", "-f", "-"], f"table inet other {{\n {early}\n}}\n")
        told = traced(scene, scene.a, scene.b)
        by = told["steps"][told["kernel"]["by"]]
        assert (told["kernel"]["verdict"], told["kernel"]["fate"], told["agree"]) == (None, "dropped", None)
        assert (by["place"], by["text"]) == ("rule 1 of chain early, table other (inet)", "tcp dport 80 drop")
        scene.node.run(["nft", "delete", "table", "inet", "other"])

        dnat = ["PREROUTING", "-d", "203.0.113.80", "-j", "DNAT", "--to", scene.b.addresses[0]]
        scene.node.iptables(backend, 4, "-t", "nat", "-A", *dnat)  # as of a service
        asked = Asked(scene, "x/a", "x/b", "80/TCP")
        lab.probe([Probe(scene.a, "203.0.113.80", "TCP", 80, 4, arrives_at=scene.b)])
        told = asked.answer()["live"]["traced"]
        assert (told["packet"]["destination"], told["packet"]["connection"]) == (scene.b.addresses[0], "new")
        assert (told["kernel"]["verdict"], told["agree"], told["parted"]) == ("allow", True, None)

        dnat = ["PREROUTING", "-d", "203.0.113.81", "-p", "tcp", "-j", "DNAT", "--to", f"{scene.b.addresses[0]}:80"]
        scene.node.iptables(backend, 4, "-t", "nat", "-A", *dnat)  # which has another port than the pod
        asked = Asked(scene, "x/a", "203.0.113.81", "8080/TCP")
        with scene.a.netns.entered(), socket.socket() as client:
            client.settimeout(2)
            client.connect_ex(("203.0.113.81", 8080))
        whole = asked.answer()
        assert (whole["verdict"], whole["port"], whole["destination"]["name"]) == ("allow", 80, "203.0.113.81")
        told = whole["live"]["traced"]
        assert (told["kernel"]["verdict"], told["expected"]["verdict"], told["agree"]) == ("allow", "allow", True)

        scene.node.run(["ip", "route", "del", scene.b.addresses[0]])
        scene.node.run(["ip", "route", "add", "blackhole", scene.b.addresses[0]])
        asked = Asked(scene, "x/a", "x/b", "80/TCP")
        lab.probe([Probe(scene.a, scene.b, "TCP", 80, 4)])
        told = asked.answer()["live"]["traced"]
        assert (told["kernel"]["verdict"], told["kernel"]["fate"], told["hook"]) == (None, "lost", None)
        scene.node.run(["ip", "route", "del", "blackhole", scene.b.addresses[0]])
        scene.node.run(["ip", "route", "add", scene.b.addresses[0], "dev", interface])

        flow = lab.flow(scene.a, scene.b, "TCP", 80)
        assert flow.moving()
        told = Asked(scene, "x/a", "x/b", "80/TCP", may_be_over=True).answer()["live"]["traced"]
        flow.close()
        assert (told["packet"]["connection"], told["kernel"]["verdict"]) == ("established", "allow")
        assert (told["agree"], told["parted"]) == (True, None)

        with members_missing(scene):
            tries = (traced(scene, scene.a, scene.b) for _ in range(10))  # netpold may be the faster one
            told = next(each for each in tries if each["kernel"]["verdict"] == "deny")
        assert (told["kernel"]["verdict"], told["expected"]["verdict"], told["agree"]) == ("deny", "allow", False)
        assert told["parted"]["model"]["says"] == "passes: x/a-to-b ingress[0] allows it"
        assert told["steps"][told["parted"]["kernel"]]["chain"] == told["parted"]["model"]["chain"]


def of_group(scene: Scene) -> Json:
    """What is told of what a sends to a group."""
    asked = Asked(scene, "x/a", "224.1.2.3", "5000/UDP")
    with scene.a.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(scene.a.addresses[0]))
        sender.sendto(b"who is there", ("224.1.2.3", 5000))
    told: Json = asked.answer()["live"]["traced"]
    return told


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("backend", "by_rules"),
    [("nft", True), ("legacy", True), pytest.param("legacy", False, marks=pytest.mark.slow)],
)
def test_one_of_the_copies_that_a_bridge_makes(lab: Lab, backend: Backend, by_rules: bool) -> None:
    """The kernel has one number for copies that are dropped one after the other, and much to tell of all at once."""
    with enforcing(lab, backend, "bridged", by_rules=by_rules) as scene:
        others = [scene.node.bridged_pod("x", name) for name in "defghijklmnop"]
        scene.daemon.write("others.json", *(pod.manifest(node=False) for pod in others))
        (scene.daemon.manifests / "out.yaml").unlink()
        scene.enforce(deny=policy("deny-all", "  podSelector: {}\n"))

        told = of_group(scene)
        assert told["copies"] == {"count": 15, "passed": 0}
        assert (told["kernel"]["verdict"], told["kernel"]["fate"]) == ("deny", "dropped")
        assert (told["agree"], told["parted"]) == (True, None)
        begun = [each["place"] for each in told["steps"]].count("rule 1 of chain FORWARD, table filter")
        assert begun == by_rules == told["kernel"]["by_rules"]

        scene.enforce(deny=policy("deny-all", "  podSelector: {matchLabels: {app: c}}\n"))
        told = of_group(scene)
        assert (told["copies"], told["agree"], told["parted"]) == ({"count": 15, "passed": 13}, True, None)
        scene.enforce(deny=policy("deny-all", "  podSelector: {}\n"))

        port = scene.b.interface
        scene.node.run(["bridge", "link", "set", "dev", port, "learning", "off"])  # so its MAC stays unknown
        scene.node.run(["sh", "-c", f"echo 1 > /sys/class/net/{port}/brport/flush"])
        for number, verdict, passed in ((80, "allow", 1), (81, "deny", 0)):
            told = traced(scene, scene.a, scene.b, "UDP", number)
            assert told["copies"] == {"count": 15, "passed": passed}
            assert (told["kernel"]["verdict"], told["agree"], told["parted"]) == (verdict, True, None)
            assert (f"NP-IN-{port}" in [each["chain"] for each in told["steps"]]) == by_rules


@contextmanager
def members_missing(scene: Scene) -> Iterator[None]:
    """Another program goes on to take the pod a out of the peers, faster than netpold puts it back."""
    address, over = scene.a.addresses[0], threading.Event()
    words = [line.split() for line in scene.node.ipset_save().splitlines()]
    (peers,) = (each[1] for each in words if each[0] == "add" and each[2] == address and "DROPPED" not in each[1])
    program = scene.node.spawn(["ipset", "-exist", "restore"], text=True, stdin=subprocess.PIPE)

    def take_out() -> None:
        assert program.stdin
        while not over.is_set():
            program.stdin.write(f"del {peers} {address}\n" * 1000)
        program.stdin.close()

    thread = threading.Thread(target=take_out)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        program.wait()


@pytest.mark.kernel
def test_nothing_is_left(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with foreign_rules(scene.node, backend) as others, scene.daemon:
        scene.enforce(deny=DENY_ALL)
        before, revision = others(), scene.daemon.status()["revision"]

        assert scene.daemon.ctl("explain", "x/a", "x/b", "80/TCP", "--live", "--for", "1").returncode == 5
        assert eventually(lambda: tables(scene) == [])
        for number in (signal.SIGTERM, signal.SIGKILL):
            asked = Asked(scene, "x/a", "x/b", "80/TCP")
            asked.process.send_signal(number)
            assert eventually(lambda: tables(scene) == [])
        waiting = [Asked(scene, "x/a", "x/b", "80/TCP") for _ in range(4)]
        refused = scene.daemon.ctl("explain", "x/a", "x/b", "80/TCP", "--live")
        assert refused.returncode == 5 and "waited for already" in refused.stderr
        assert others() == before
        assert scene.daemon.ctl("verify").returncode == 0
        assert scene.daemon.status()["revision"] == revision
        assert scene.daemon.ctl("flush").returncode == 0
        assert eventually(lambda: tables(scene) == [])
        for each in waiting:
            assert each.process.wait(10) == 5
        assert others() == before


@pytest.mark.kernel
def test_who_may_only_look(lab: Lab) -> None:
    scene = Scene(lab, "nft", config=f'socket_group = "{grp.getgrgid(GROUP).gr_name}"\n')
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={GROUP}", "--clear-groups"]
    for directory in (scene.daemon.runtime.parent, scene.node.site.directory):
        directory.chmod(0o711)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, to_b=A_TO_B, out=A_OUT)
        scene.node.iptables("nft", 4, "-A", "FORWARD", "-p", "tcp", "-j", "DROP")
        waiting = [Asked(scene, "x/a", "x/b", "80/TCP", become=become) for _ in range(2)]
        third = scene.node.run([*become, "curl", "-s", "--unix-socket", str(scene.daemon.socket), TRACE])
        assert "waited for already" in json.loads(third)["error"]
        waiting.append(Asked(scene, "x/a", "x/b", "80/TCP"))  # who may change things is not shut out
        lab.probe([Probe(scene.a, scene.b, "TCP", 80, 4)])
        *lookers, root = (asked.answer()["live"]["traced"]["steps"] for asked in waiting)
        assert root[-1]["text"] == "-p tcp -j DROP"
        others = [{**each, "text": each["text"] if each["own"] else ""} for each in root]
        assert lookers == [others, others] != [root, root]


@pytest.mark.kernel
def test_a_killed_daemon_leaves_nothing(lab: Lab) -> None:
    with enforcing(lab, "nft") as scene:
        asked = Asked(scene, "x/a", "x/b", "80/TCP")
        scene.daemon.kill()
        assert eventually(lambda: tables(scene) == [])
        assert asked.process.wait(10) == 3


@pytest.mark.kernel
def test_without_the_logger_legacy_tables_tell_verdicts(lab: Lab) -> None:
    scene = Scene(lab, "legacy")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, to_b=A_TO_B, out=A_OUT)
        told = traced(scene, scene.a, scene.b)
        assert (told["kernel"]["verdict"], told["kernel"]["by_rules"], told["agree"]) == ("allow", False, True)
        asked = Asked(scene, "x/a", "x/c", "80/TCP")
        lab.probe([Probe(scene.a, scene.c, "TCP", 80, 4)])
        answer = asked.answer()
        assert "sysctl -w net.netfilter.nf_log.2=nfnetlink_log" in answer["live"]["note"]
        told = answer["live"]["traced"]
        assert (told["kernel"]["verdict"], told["kernel"]["by"], told["agree"]) == ("deny", None, True)
