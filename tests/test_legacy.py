"""The legacy backend on the real kernel, beside Debian's iptables-legacy tools.

What iptables-legacy-restore makes of a rule's text is what the backend has to make of its options, byte for byte.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netpold.host.kernel import legacy as legacy_module
from netpold.host.kernel.backend import Commit, KernelError
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.libiptc import SetIndexes, Table, kernel_knows
from netpold.policy.model import Family
from netpold.rules.render import Extension, Option, Options, line, options
from netpold.rules.ruleset import (
    FAMILIES,
    Address,
    BridgePort,
    Goto,
    HopLimit,
    IcmpType,
    InSet,
    Interface,
    Jump,
    Log,
    Match,
    NoSyn,
    NotBetween,
    OwnSource,
    Ports,
    Proto,
    Related,
    Reply,
    Rule,
    SourcePort,
    Target,
    Translated,
    Unknown,
)
from tests.lab.namespace import NetworkNamespace, owner, sweep

pytestmark = pytest.mark.kernel

TOOL = {4: "iptables-legacy", 6: "ip6tables-legacy"}
SETS = {4: ("NP4-a", "NP4-b", "NP4-c"), 6: ("NP6-a", "NP6-b", "NP6-c")}
_numbers = iter(range(10**6))


@pytest.fixture(autouse=True)
def namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[NetworkNamespace]:
    """Each test runs inside a network namespace of its own, with an xtables lock of its own."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with fresh() as made, made.entered():
        yield made


class fresh:
    """A network namespace that goes when the block ends."""

    def __enter__(self) -> NetworkNamespace:
        sweep()
        self.made = NetworkNamespace(f"{owner()}legacy-{next(_numbers)}")
        return self.made

    def __exit__(self, *_: object) -> None:
        self.made.remove()


def run(*words: str, stdin: str = "") -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (words, done.stderr, stdin)
    return done.stdout


def save(family: Family, *more: str) -> list[str]:
    """iptables-legacy-save without its comments, which hold the time."""
    return [each for each in run(f"{TOOL[family]}-save", *more).splitlines() if not each.startswith("#")]


def make_sets() -> None:
    for family in FAMILIES:
        for name in SETS[family]:
            run("ipset", "create", name, "hash:ip,port", "family", "inet" if family == 4 else "inet6")


def rules(family: Family, *all_rules: Rule) -> tuple[Options, ...]:
    return tuple(options(rule, family, str) for rule in all_rules)


def drop(chain: str = "NP-RULES-a") -> dict[str, tuple[Options, ...]]:
    return {chain: (Options((), "DROP"),)}


def kernel_blob(family: Family) -> bytes:
    """The entries of the filter table as the kernel gives them (IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES)."""
    level = socket.IPPROTO_IP if family == 4 else socket.IPPROTO_IPV6
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_RAW, 255) as raw:
        info = ctypes.create_string_buffer(b"filter", 84)
        assert libc.getsockopt(raw.fileno(), level, 64, info, ctypes.byref(ctypes.c_uint32(84))) == 0
        (size,) = struct.unpack_from("=I", info.raw, 80)
        entries = ctypes.create_string_buffer(struct.pack("=32sI4x", b"filter", size) + bytes(size), 40 + size)
        assert libc.getsockopt(raw.fileno(), level, 65, entries, ctypes.byref(ctypes.c_uint32(40 + size))) == 0
    return entries.raw[40:]


# The same rules as iptables-legacy-restore ---------------------------------------------------------------------------

TCP, UDP, SCTP = Proto("tcp"), Proto("udp"), Proto("sctp")
LONG = "".join(chr(number) for number in range(32, 127) if chr(number) not in "\"'\\`$")


def every_kind(family: Family) -> list[tuple[Match, ...]]:
    """Matches of each kind that the compiler knows, with each of their forms."""
    a, b, c = SETS[family]
    host, net, whole = (
        ("10.1.2.3/32", "10.0.0.0/9", "0.0.0.0/0") if family == 4 else ("fd00::1/128", "fd00::/7", "::/0")
    )
    icmp = Proto("icmp" if family == 4 else "ipv6-icmp")
    kinds: list[tuple[Match, ...]] = [(), (TCP,), (UDP,), (SCTP,), (icmp,)]
    for proto in (TCP, UDP, SCTP):
        kinds += [(proto, Ports(((80, 80),))), (proto, Ports(((0, 65535),))), (proto, Ports(((1000, 2000),)))]
        kinds += [(proto, SourcePort(53)), (proto, SourcePort(53), Ports(((1, 2),)))]
        kinds += [(proto, Ports(((80, 80), (443, 443)))), (proto, Ports(((1, 2), (3, 3), (4, 65535))))]
        kinds += [(proto, Ports(tuple((port, port) for port in range(15)))), (proto, Ports(((0, 5), (7, 9)) * 3))]
    for side in ("src", "dst"):
        kinds += [
            (Address(side, each, negate),)
            for each in (host, net, host.partition("/")[0], whole)
            for negate in (False, True)
        ]
        kinds += [(Interface(side, "eth0"),), (Interface(side, "cali", True),), (Interface(side, "a23456789012345"),)]
        kinds += [(BridgePort(side, "veth0"),), (BridgePort(side, "cali", True),), (Interface(side, "eth0.1@", True),)]
        kinds += [(InSet(a, side),), (InSet(b, side, True),)]
    kinds += [(InSet(c, "dst,dst"),), (InSet(c, "dst,dst", True), InSet(a, "src"), InSet(b, "dst"))]
    kinds += [(Reply(),), (Related(),), (Unknown(),), (TCP, NoSyn()), (TCP, NoSyn(), SourcePort(1), Unknown())]
    kinds += [(icmp, IcmpType(number, negate)) for number in (0, 8, 135, 255) for negate in (False, True)]
    kinds += [(icmp, Related()), (TCP, InSet(a, "src"), Ports(((80, 80), (443, 443))))]
    kinds += [(Interface("src", "in"), Interface("dst", "out"), Address("src", host), Address("dst", net, True), TCP)]
    kinds += [(BridgePort("src", "x", True), BridgePort("dst", "y"))]
    kinds += [(icmp, NotBetween(host.split("/")[0])), (Translated(),), (Address("src", host), OwnSource())]
    kinds += [(UDP, SourcePort(68), Ports(((67, 67),)))]
    if family == 6:
        kinds += [(icmp, IcmpType(135), HopLimit(255)), (HopLimit(0),)]
    return kinds


TARGETS: list[Target] = [
    "RETURN",
    "DROP",
    "ACCEPT",
    Jump("NP-RULES-other"),
    Goto("NP-RULES-other"),
    Log(0, "p"),
    Log(65535, "netpold:" + "x" * 55),
    Log(7, "Pref ix!"),
]


def assert_same(family: Family, filled: list[Rule]) -> None:
    assert_same_options(family, [options(rule, family, str) for rule in filled])


def assert_same_options(family: Family, data: list[Options]) -> None:
    """The rules, put in by the backend and by iptables-legacy-restore, are the same to -save and to the kernel."""
    other = {"NP-RULES-other": (Options((), "RETURN"),)}
    results = []
    for put in ("restore", "backend"):
        with fresh() as inside, inside.entered():
            make_sets()
            if put == "backend":
                Legacy().commit(Commit(family, {**other, "NP-RULES-x": tuple(data)}))
            else:
                lines = [f":{name} - [0:0]" for name in ("NP-RULES-other", "NP-RULES-x")]
                lines += ["-A NP-RULES-other -j RETURN", *(f"-A NP-RULES-x {line(each)}" for each in data)]
                run(f"{TOOL[family]}-restore", stdin="\n".join(["*filter", *lines, "COMMIT\n"]))
            results.append((save(family, "-t", "filter"), kernel_blob(family)))
    (theirs, their_blob), (ours, our_blob) = results
    assert ours == theirs
    assert len(ours) == len(data) + 5 + 3  # built-in and own chains, table, the other rule, COMMIT
    assert our_blob == their_blob


@pytest.mark.parametrize("family", FAMILIES)
def test_every_match_as_restore_makes_it(family: Family) -> None:
    assert_same(family, [Rule(kind, "RETURN", f"rule {n}") for n, kind in enumerate(every_kind(family))])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_target_as_restore_makes_it(family: Family) -> None:
    kinds = [(), (TCP, Ports(((80, 80),)))]
    assert_same(family, [Rule(kind, target) for kind in kinds for target in TARGETS])


@pytest.mark.parametrize("family", FAMILIES)
def test_comments_as_restore_makes_them(family: Family) -> None:
    comments = ["x", "two words", "ns/policy ingress 3", LONG, (LONG * 3)[:200], "-j ACCEPT", "# no comment", "%s %n"]
    assert_same(family, [Rule((), "DROP", comment) for comment in comments])


@pytest.mark.parametrize("family", FAMILIES)
def test_negations_and_states_beyond_the_compilers_as_restore_makes_them(family: Family) -> None:
    def rule(name: str, *given: Option, proto: str = "") -> Options:
        own = (Extension("", (("protocol", proto, False),)),) if proto else ()
        return Options((*own, Extension(name, given)), "DROP")

    data = [
        rule(proto, (side, "80:90", negated), proto=proto)
        for proto in ("tcp", "udp", "sctp")
        for side in ("sport", "dport")
        for negated in (False, True)
    ]
    data += [rule("tcp", ("sport", "1", True), ("dport", "2", True), proto="tcp")]
    data += [rule("multiport", ("dports", "1,2:3", True), proto="udp")]
    data += [
        rule("physdev", ("physdev-in", "a", True), ("physdev-out", "b+", True), ("physdev-is-bridged", None, False))
    ]
    data += [rule("physdev", ("physdev-is-in", None, True), ("physdev-is-out", None, False))]
    states = ("NEW", "INVALID", "UNTRACKED", "ESTABLISHED,RELATED", "NEW,INVALID,UNTRACKED")
    data += [rule("conntrack", ("ctstate", state, negated)) for state in states for negated in (False, True)]
    data += [rule("conntrack", ("ctdir", way, False)) for way in ("ORIGINAL", "REPLY")]
    data += [rule("", (side, "a+", True)) for side in ("in-interface", "out-interface")]
    data += [rule("", ("protocol", "tcp", True)), rule("set", ("match-set", f"{SETS[family][0]} src,dst,src", False))]
    data += [rule("hl", ("hl-eq", "64", True))] if family == 6 else []
    assert_same_options(family, data)


def some_rule(family: Family) -> st.SearchStrategy[Rule]:
    port = st.integers(0, 65535)
    span = st.tuples(port, port).map(lambda pair: (min(pair), max(pair)))
    ports = st.lists(span, min_size=1, max_size=7).map(lambda spans: Ports(tuple(spans)))
    bits = 32 if family == 4 else 128
    address = st.tuples(st.ip_addresses(v=family), st.integers(0, bits)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    side = st.sampled_from(("src", "dst"))
    name = st.text("abcz019.-_", min_size=1, max_size=14)
    transport = st.tuples(
        st.sampled_from((TCP, UDP, SCTP)), st.lists(st.one_of(ports, st.builds(SourcePort, port)), max_size=2)
    ).map(lambda pair: (pair[0], *pair[1]))
    other = st.lists(
        st.one_of(
            st.builds(InSet, st.sampled_from(SETS[family]), st.sampled_from(("src", "dst", "dst,dst")), st.booleans()),
            st.builds(BridgePort, side, name, st.booleans()),
            st.just(Reply()),
            st.just(Related()),
        ),
        max_size=4,
    ).map(tuple)
    comment = st.text(LONG, max_size=200).map(str.strip)
    own = st.tuples(
        st.sampled_from(((), (Address("src", "192.0.2.0/24" if family == 4 else "2001:db8::/32"),))),
        st.one_of(st.just(()), st.builds(Address, st.just("dst"), address, st.booleans()).map(lambda one: (one,))),
        st.one_of(st.just(()), st.builds(Interface, side, name, st.booleans()).map(lambda one: (one,))),
    ).map(lambda parts: parts[0] + parts[1] + parts[2])
    matches = st.tuples(own, st.one_of(st.just(()), transport), other).map(lambda parts: parts[0] + parts[1] + parts[2])
    return st.builds(Rule, matches, st.sampled_from(TARGETS), comment)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_rules_as_restore_makes_them(family: Family) -> None:
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(some_rule(family), min_size=1, max_size=40))
    def check(filled: list[Rule]) -> None:
        assert_same(family, filled)

    check()


# Foreign rules -------------------------------------------------------------------------------------------------------

FOREIGN = """
-A AAA -m set --match-set {a} src -m comment --comment "a 'quoted' one" -j RETURN
-A AAA -m recent --set --name seen --rsource
-A AAA -m recent --update --seconds 60 --hitcount 4 --name seen --rsource -j DROP
-A FORWARD -m limit --limit 3/min -j LOG --log-prefix "limited: " --log-level 4
-A FORWARD -m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 9 --hashlimit-mode srcip --hashlimit-name h -j NNN
-A FORWARD -m conntrack --ctstate NEW,UNTRACKED -j MARK --set-xmark 0x5/0xff
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j REJECT --reject-with tcp-reset
-A INPUT -i eth+ ! -s {net} -m quota --quota 100000 -j zzz
-A INPUT -m string --string "GET" --algo bm -j SET --add-set {b} src,src
-A INPUT -m addrtype --dst-type LOCAL -j NFQUEUE --queue-num 3 --queue-bypass
-A INPUT -m connlimit --connlimit-above 20 --connlimit-mask 24 --connlimit-saddr -j AUDIT --type drop
-A INPUT -m mark --mark 0x1 -m length --length 5:9 -j TEE --gateway {host}
-A NNN -m time --timestart 01:00:00 --timestop 02:00:00 -j ACCEPT
-A NNN -p udp -m multiport --sports 53,67:68 -g zzz
-A NNN -m connbytes --connbytes 5:10 --connbytes-mode bytes --connbytes-dir both
-A NPX -m policy --dir in --pol none -j RETURN
-A OUTPUT -m connmark --mark 0x3 -j CONNMARK --restore-mark
-A zzz -m mac --mac-source 00:00:00:00:00:01 -j DROP
"""


def put_foreign(family: Family) -> None:
    """A full table of other programs' rules with counters, the policies and the other tables included."""
    a, b, _ = SETS[family]
    net, host, address = ("10.0.0.0/8", "10.0.0.9", "1.1.1.1") if family == 4 else ("fd00::/8", "fd00::9", "fd00::1")
    lines = FOREIGN.format(a=a, b=b, net=net, host=host).strip().splitlines()
    counted = [f"[{random.randrange(2**60)}:{random.randrange(2**60)}] {each}" for each in lines]
    builtin = [":INPUT ACCEPT [11:1234567890123]", ":FORWARD DROP [12:2]", ":OUTPUT ACCEPT [13:3]"]
    chains = [f":{name} - [0:0]" for name in ("AAA", "NNN", "NPX", "zzz")]
    more = f"""*mangle
[5:6] -A PREROUTING -p tcp -j TPROXY --on-port 5 --on-ip {address} --tproxy-mark 0x1
COMMIT
*raw
[7:8] -A PREROUTING -p udp -j CT --notrack
COMMIT
*nat
[9:10] -A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination {address}
COMMIT
"""
    run(f"{TOOL[family]}-restore", "-c", stdin="\n".join(["*filter", *builtin, *chains, *counted, "COMMIT", more]))


def foreign(family: Family) -> list[str]:
    """Everything but netpold's own: chains, rules, policies and counters of all tables."""
    return [line for line in save(family, "-c") if "NETPOLD-" not in line and "NP-RULES-" not in line]


@pytest.mark.parametrize("family", FAMILIES)
def test_foreign_rules_and_counters_stay_as_they_are(family: Family) -> None:
    make_sets()
    put_foreign(family)
    before = save(family, "-c")
    backend = Legacy()
    full = {name: rules(family, Rule(kind, "DROP")) for name, kind in chain_names(every_kind(family))}
    hooks = {"FORWARD": "NETPOLD-FORWARD", "INPUT": "NETPOLD-INPUT"}
    own = {chain: (Options((), "RETURN"),) for chain in hooks.values()}
    for commit in (
        Commit(family, {**own, **full}, hook=hooks),
        Commit(family, {"NP-RULES-0": ()}, remove=tuple(full)[10:]),
        Commit(family, hook=hooks),
        Commit(family, full, hook={"OUTPUT": "NETPOLD-INPUT"}),
    ):
        backend.commit(commit)
        assert foreign(family) == before
    assert len(save(family)) > len(before)
    backend.commit(Commit(family, remove=(*own, *full), unhook=tuple(own)))
    assert save(family, "-c") == before


def test_foreign_chains_may_have_any_bytes_in_their_names() -> None:
    """iptables takes names that are no text in any encoding."""
    Legacy().commit(Commit(4, drop()))
    for words in (
        (b"-N", b"\xff\xfe"),
        (b"-A", b"\xff\xfe", b"-j", b"NP-RULES-a"),
        (b"-A", b"INPUT", b"-j", b"\xff\xfe"),
    ):
        subprocess.run((b"iptables-legacy", *words), check=True)
    Legacy().commit(Commit(4, drop("NP-RULES-b"), hook={"INPUT": "NP-RULES-b"}))
    Legacy().commit(Commit(4, remove=("NP-RULES-a", "NP-RULES-b"), unhook=("NP-RULES-a", "NP-RULES-b")))
    listed = subprocess.run(["iptables-legacy", "-S"], capture_output=True, check=True).stdout.splitlines()
    assert listed[3:] == [b"-N \xff\xfe", b"-A INPUT -j \xff\xfe"]


def chain_names(kinds: list[tuple[Match, ...]]) -> Iterator[tuple[str, tuple[Match, ...]]]:
    for number, kind in enumerate(kinds):
        yield f"NP-RULES-{number}", kind


def test_packets_counted_during_commits_are_all_counted() -> None:
    """The kernel hands back the old counters when a table is replaced, and libiptc adds them to the new ones."""
    run("ip", "link", "set", "lo", "up")
    run("iptables-legacy", "-A", "OUTPUT", "-p", "udp", "--dport", "9")
    stop, sent = threading.Event(), 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # of this namespace, whoever uses it

        def send() -> None:
            nonlocal sent
            while not stop.is_set():
                sender.sendto(b"x", ("127.0.0.1", 9))
                sent += 1
                time.sleep(0.0002)

        thread = threading.Thread(target=send)
        thread.start()
        commits = 0
        while sent < 1000 or commits < 50:
            commits += 1
            Legacy().commit(Commit(4, drop(f"NP-RULES-{commits % 5}")))
        stop.set()
        thread.join()
    counted = next(line for line in save(4, "-c") if "--dport 9" in line)
    assert counted.startswith(f"[{sent}:{sent * 29}]")


# Chains and hooks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_chains_are_made_refilled_and_removed(family: Family) -> None:
    backend = Legacy()
    assert backend.chains(family) == frozenset()
    to_each_other = {
        "NP-RULES-1": (Options((), "NP-RULES-2"), Options((), "RETURN")),
        "NP-RULES-2": (Options((), "NP-IN-x", goto=True),),
        "NP-IN-x": (),
        "NETPOLD-FORWARD": (Options((), "NP-RULES-1", goto=True),),
        "NP-OUT-" + "y" * 21: (Options((), "NP-IN-x"),),
    }
    backend.commit(Commit(family, to_each_other))
    run(TOOL[family], "-N", "NP-FOREIGN")
    assert backend.chains(family) == set(to_each_other)
    assert [line for line in save(family) if line.startswith("-A")] == [
        "-A NETPOLD-FORWARD -g NP-RULES-1",
        "-A NP-OUT-yyyyyyyyyyyyyyyyyyyyy -j NP-IN-x",
        "-A NP-RULES-1 -j NP-RULES-2",
        "-A NP-RULES-1 -j RETURN",
        "-A NP-RULES-2 -g NP-IN-x",
    ]
    backend.commit(Commit(family, {"NP-RULES-1": ()}, remove=("NP-IN-x", "NP-OUT-" + "y" * 21, "NP-RULES-2")))
    assert backend.chains(family) == {"NP-RULES-1", "NETPOLD-FORWARD"}
    backend.commit(Commit(family, remove=("NP-RULES-1", "NETPOLD-FORWARD", "NP-RULES-gone")))
    assert backend.chains(family) == frozenset()
    assert [line for line in save(family) if line.startswith(":")][3:] == [":NP-FOREIGN - [0:0]"]
    other: Family = 6 if family == 4 else 4
    assert backend.chains(other) == frozenset()


@pytest.mark.parametrize("family", FAMILIES)
def test_hook_is_the_first_and_only_jump(family: Family) -> None:
    backend = Legacy()
    backend.commit(Commit(family, {"NETPOLD-FORWARD": (), "NETPOLD-INPUT": ()}))
    hook = Commit(family, hook={"FORWARD": "NETPOLD-FORWARD"})
    foreign = ["-A FORWARD -i a -j ACCEPT", "-A FORWARD -j NETPOLD-INPUT"]
    wanted = ["-A FORWARD -j NETPOLD-FORWARD", *foreign]
    for copies in (
        [],
        ["-A FORWARD -j NETPOLD-FORWARD"],
        ["-I FORWARD 1 -j NETPOLD-FORWARD", "-A FORWARD -j NETPOLD-FORWARD", "-I FORWARD 2 -j NETPOLD-FORWARD"],
        ["-I FORWARD 1 -i b -j NETPOLD-FORWARD", "-A FORWARD -g NETPOLD-FORWARD"],
        ["-I FORWARD 1 -m comment --comment x -j NETPOLD-FORWARD"],
        ["-I FORWARD 1 -g NETPOLD-FORWARD"],
    ):
        run(TOOL[family], "-F", "FORWARD")
        for rule in (*foreign, *copies):
            run(TOOL[family], *rule.split())
        assert not backend.hooked(family, "FORWARD", "NETPOLD-FORWARD")
        backend.commit(hook)
        assert [line for line in save(family) if line.startswith("-A")] == wanted
        assert backend.hooked(family, "FORWARD", "NETPOLD-FORWARD")
    assert not backend.hooked(family, "FORWARD", "NETPOLD-INPUT")
    assert not backend.hooked(family, "INPUT", "NETPOLD-INPUT")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hook_in_its_place_keeps_its_counters(family: Family) -> None:
    Legacy().commit(Commit(family, {"NETPOLD-INPUT": ()}))
    counted = "*filter\n[12:34] -A INPUT -j NETPOLD-INPUT\n[56:78] -A INPUT -j NETPOLD-INPUT\nCOMMIT\n"
    run(f"{TOOL[family]}-restore", "-c", "--noflush", stdin=counted)
    Legacy().commit(Commit(family, hook={"INPUT": "NETPOLD-INPUT"}))
    assert [line for line in save(family, "-c") if "-A" in line] == ["[12:34] -A INPUT -j NETPOLD-INPUT"]


@pytest.mark.parametrize("family", FAMILIES)
def test_unhook_takes_every_jump_out(family: Family) -> None:
    backend = Legacy()
    backend.commit(Commit(family, {"NETPOLD-FORWARD": (), "NETPOLD-INPUT": (Options((), "NETPOLD-FORWARD"),)}))
    run(TOOL[family], "-N", "FOREIGN")
    jumps = ("FORWARD -j NETPOLD-FORWARD", "FORWARD -j FOREIGN", "INPUT -i a -j NETPOLD-FORWARD")
    for rule in (*jumps, "FOREIGN -g NETPOLD-FORWARD", "OUTPUT -j NETPOLD-INPUT"):
        run(TOOL[family], "-A", *rule.split())
    backend.commit(Commit(family, unhook=("NETPOLD-FORWARD",)))
    left = ["-A FORWARD -j FOREIGN", "-A OUTPUT -j NETPOLD-INPUT", "-A NETPOLD-INPUT -j NETPOLD-FORWARD"]
    assert [line for line in save(family) if line.startswith("-A")] == left
    backend.commit(Commit(family, unhook=("NETPOLD-FORWARD",)))  # nothing left to do


# Failures ------------------------------------------------------------------------------------------------------------


def bad(name: str, *given: Option, proto: str = "tcp") -> tuple[Options, ...]:
    return (Options((Extension("", (("protocol", proto, False),)), Extension(name, given)), "DROP"),)


WRONG: dict[str, tuple[tuple[Options, ...], str]] = {
    "missing set": (bad("set", ("match-set", "NP4-gone src", False)), "there is no set NP4-gone"),
    "long set": (bad("set", ("match-set", f"{'x' * 40} src", False)), "at most 31"),
    "set sides": (bad("set", ("match-set", "NP4-a source", False)), "src and dst"),
    "no sides": (bad("set", ("match-set", "NP4-a", False)), "src and dst"),
    "no set": (bad("set"), "needs --match-set"),
    "port": (bad("tcp", ("dport", "65536", False)), "not a number from 0 to 65535"),
    "port name": (bad("tcp", ("dport", "http", False)), "not a number"),
    "port range": (bad("tcp", ("dport", "9:8", False)), "the range is empty"),
    "no value": (bad("tcp", ("dport", None, False)), "--dport needs a value"),
    "16 ports": (bad("multiport", ("dports", ",".join("1" * 16), False)), "more than 15"),
    "no ports": (bad("multiport"), "needs --dports"),
    "other protocol": (bad("udp", ("dport", "1", False)), "needs --protocol udp"),
    "option": (bad("tcp", ("tcp-flags", "SYN", False)), "has no option --tcp-flags"),
    "twice": (bad("tcp", ("dport", "1", False), ("dport", "2", False)), "given twice"),
    "extension": (bad("statistic", ("every", "1", False)), "-m statistic is not known"),
    "icmp type": (bad("icmp", ("icmp-type", "256", False), proto="icmp"), "from 0 to 255"),
    "no icmp type": (bad("icmp", proto="icmp"), "need a type"),
    "icmp6": (bad("icmp6", ("icmpv6-type", "1", False), proto="ipv6-icmp"), "not known for IPv4"),
    "hl": (bad("hl", ("hl-eq", "1", False)), "not known for IPv4"),
    "protocol": (bad("tcp", proto="dccp"), "--protocol"),
    "state": (bad("conntrack", ("ctstate", "OLD", False)), "--ctstate OLD"),
    "direction": (bad("conntrack", ("ctdir", "REPLY", True)), "--ctdir REPLY"),
    "no state": (bad("conntrack"), "needs an option"),
    "physdev": (bad("physdev", ("physdev-in", "x" * 16, False)), "1 to 15 bytes"),
    "physdev value": (bad("physdev", ("physdev-is-in", "x", False)), "takes no value"),
    "no physdev": (bad("physdev"), "needs an option"),
    "comment": (bad("comment", ("comment", "x" * 256, False)), "at most 255 bytes"),
    "no comment": (bad("comment"), "needs --comment"),
    "negated comment": (bad("comment", ("comment", "x", True)), "can't be negated"),
    "address": (bad("", ("source", "10.0.0.256", False)), "10.0.0.256"),
    "family": (bad("", ("source", "fd00::1", False)), "fd00::1"),
    "interface": (bad("", ("in-interface", "", False)), "1 to 15 bytes"),
    "unknown": (bad("", ("fragment", None, False)), "has no option --fragment"),
    "missing chain": ((Options((), "NP-RULES-gone"),), "there is no chain NP-RULES-gone"),
    "missing goto": ((Options((), "NP-RULES-gone", goto=True),), "there is no chain NP-RULES-gone"),
    "foreign target": ((Options((), "REJECT"),), "there is no chain REJECT"),
    "builtin": ((Options((), "FORWARD"),), "-j FORWARD"),
    "goto verdict": ((Options((), "DROP", goto=True),), "not a chain"),
    "target option": ((Options((), "DROP", (("nflog-group", "1", False),)),), "has no option"),
    "log": ((Options((), "NFLOG", (("nflog-prefix", "x" * 64, False),)),), "at most 63 bytes"),
    "log group": ((Options((), "NFLOG", (("nflog-group", "65536", False),)),), "from 0 to 65535"),
    "log option": ((Options((), "NFLOG", (("nflog-size", "1", False),)),), "has no option"),
    "long target": ((Options((), "NP-RULES-" + "x" * 20),), "1 to 28 characters"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_bad_rule_is_named_and_changes_nothing(wrong: str, capfd: pytest.CaptureFixture[str]) -> None:
    make_sets()
    backend = Legacy()
    backend.commit(Commit(4, {"NP-RULES-a": rules(4, Rule((), "DROP")), "NP-RULES-old": ()}))
    before = save(4, "-c")
    data, reason = WRONG[wrong]
    commit = Commit(4, {"NP-RULES-a": (), "NP-RULES-b": (Options((), "RETURN"), *data)}, remove=("NP-RULES-old",))
    with pytest.raises(KernelError) as caught:
        backend.commit(commit)
    assert str(caught.value).startswith(f"IPv4 -A NP-RULES-b {line(data[0])}: ")
    assert reason in str(caught.value)
    assert save(4, "-c") == before
    backend.commit(Commit(4, {"NP-RULES-b": ()}))
    assert backend.chains(4) == {"NP-RULES-a", "NP-RULES-old", "NP-RULES-b"}
    assert capfd.readouterr() == ("", "")


def test_without_rights_it_says_so() -> None:
    script = """
import os
from netpold.host.kernel.backend import Commit, KernelError
from netpold.host.kernel.legacy import Legacy
os.setuid(65534)
for attempt in (lambda: Legacy().chains(6), lambda: Legacy().commit(Commit(4, {"NP-RULES-a": ()}))):
    try:
        attempt()
    except KernelError as error:
        print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    first, second = done.stdout.splitlines()
    assert first == "IPv6 filter table of iptables-legacy: Permission denied (you must be root)"
    assert second == "raw socket: Operation not permitted; netpold needs CAP_NET_ADMIN and CAP_NET_RAW"
    assert done.stderr == ""


def test_no_builtin_or_foreign_chain_is_touched() -> None:
    run("iptables-legacy", "-N", "FOREIGN")
    before = save(4)
    for commit in (
        Commit(4, {"FORWARD": ()}),
        Commit(4, {"FOREIGN": ()}),
        Commit(4, {"NP-RULES-a": ()}, remove=("FOREIGN",)),
        Commit(4, hook={"FORWARD": "FOREIGN"}),
        Commit(4, unhook=("FOREIGN",)),
        Commit(4, {"NETPOLD-FORWARD": ()}, hook={"FOREIGN": "NETPOLD-FORWARD"}),
        Commit(4, hook={"FORWARD": "NETPOLD-FORWARD"}),
        Commit(4, {"NETPOLD-FORWARD": ()}, hook={"GONE": "NETPOLD-FORWARD"}),
        Commit(4, {"NP-RULES-" + "x" * 20: ()}),
        Commit(4, {"NP-RULES-\u00fc": ()}),
    ):
        with pytest.raises(KernelError):
            Legacy().commit(commit)
        assert save(4) == before


def test_a_chain_that_foreign_rules_jump_to_is_not_removed() -> None:
    Legacy().commit(Commit(4, drop()))
    run("iptables-legacy", "-A", "INPUT", "-i", "a", "-j", "NP-RULES-a")
    before = save(4)
    with pytest.raises(KernelError, match="NP-RULES-a: something still jumps to it"):
        Legacy().commit(Commit(4, drop("NP-RULES-b"), remove=("NP-RULES-a",)))
    assert save(4) == before


def test_what_the_kernel_refuses_changes_nothing() -> None:
    backend = Legacy()
    backend.commit(Commit(4, drop(), hook={"INPUT": "NP-RULES-a"}))
    before = save(4)
    loop = {"NP-RULES-a": (Options((), "NP-RULES-b"),), "NP-RULES-b": (Options((), "NP-RULES-a"),)}
    with pytest.raises(KernelError, match=r"chains NP-RULES-a, NP-RULES-b: the kernel refused it: .*dmesg"):
        backend.commit(Commit(4, loop))
    assert save(4) == before
    backend.commit(Commit(4, drop("NP-RULES-c")))


def test_an_extension_that_the_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the rule was packed for a kernel newer than this one."""
    make_sets()
    newer = legacy_module.xt_entry._MATCHES["set"].__class__
    known = legacy_module.xt_entry._MATCHES["set"]
    monkeypatch.setitem(legacy_module.xt_entry._MATCHES, "set", newer(99, known.options, known.pack))
    with pytest.raises(KernelError, match=r"--match-set NP4-a src -j DROP: this kernel lacks -m set \(revision 99\)"):
        Legacy().commit(Commit(4, {**drop(), "NP-RULES-b": rules(4, Rule((InSet("NP4-a", "src"),), "DROP"))}))
    assert Legacy().chains(4) == frozenset()


@pytest.mark.parametrize("family", FAMILIES)
def test_asking_the_kernel_for_extensions(family: Family) -> None:
    assert kernel_knows(family, False, "set", 4)
    assert kernel_knows(family, True, "NFLOG", 0)
    assert not kernel_knows(family, False, "set", 99)
    assert not kernel_knows(family, False, "NFLOG", 0)
    assert not kernel_knows(family, True, "nothing", 0)


def test_a_set_made_anew_has_its_new_index() -> None:
    """Rules hold the index of a set; the same name is another index after it was destroyed and made again."""
    make_sets()
    backend = Legacy()
    rule = rules(4, Rule((InSet("NP4-a", "src"),), "DROP"))
    backend.commit(Commit(4, {"NP-RULES-a": rule}))
    with SetIndexes() as index:
        first = index("NP4-a")
    backend.commit(Commit(4, {"NP-RULES-a": ()}))
    run("ipset", "destroy", "NP4-a")
    run("ipset", "create", "NP4-other", "hash:ip")  # takes the free index
    run("ipset", "create", "NP4-a", "hash:ip")
    with SetIndexes() as index:
        assert index("NP4-other") == first != index("NP4-a")
    backend.commit(Commit(4, {"NP-RULES-a": rule}))
    assert "-A NP-RULES-a -m set --match-set NP4-a src -j DROP" in save(4)
    backend.commit(Commit(4, {"NP-RULES-a": ()}))
    run("ipset", "swap", "NP4-a", "NP4-other")
    backend.commit(Commit(4, {"NP-RULES-a": rule}))
    assert "-A NP-RULES-a -m set --match-set NP4-a src -j DROP" in save(4)


# Other writers -------------------------------------------------------------------------------------------------------


def test_a_held_lock_is_waited_for_and_its_holder_named(tmp_path: Path) -> None:
    lock = tmp_path / "xtables.lock"
    holder = subprocess.Popen(["flock", str(lock), "cat"], stdin=subprocess.PIPE)  # until its standard input ends
    assert holder.stdin
    try:
        deadline = time.monotonic() + 10
        while not _is_locked(lock) and time.monotonic() < deadline:
            time.sleep(0.01)
        began = time.monotonic()
        with pytest.raises(KernelError, match=rf"was not free for 0.3 s; .*\(process {holder.pid}\) may hold it"):
            Legacy(lock_wait=0.3).commit(Commit(4, drop()))
        assert 0.3 <= time.monotonic() - began < 2
        assert Legacy().chains(4) == frozenset()  # reading waits for nobody
        threading.Timer(0.2, holder.stdin.close).start()
        Legacy(lock_wait=10).commit(Commit(4, drop()))
        assert Legacy().chains(4) == {"NP-RULES-a"}
    finally:
        holder.kill()
        holder.wait()


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_lock_file_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", "/proc/nowhere/xtables.lock")
    with pytest.raises(KernelError, match=r"/proc/nowhere/xtables.lock: No such file"):
        Legacy().commit(Commit(4, drop()))


def test_the_lock_is_free_after_success_and_failure(tmp_path: Path) -> None:
    Legacy().commit(Commit(4, drop()))
    with pytest.raises(KernelError):
        Legacy().commit(Commit(4, {"NP-RULES-a": (Options((), "NP-RULES-gone"),)}))
    assert not _is_locked(tmp_path / "xtables.lock")


def test_writers_that_lock_do_not_lose_rules() -> None:
    """iptables-legacy -w adds rules in other processes, two threads commit chains here: everything is there."""
    script = "for i in $(seq 40); do iptables-legacy -w 60 -A OUTPUT -p tcp --dport $((i + {base})) || exit 1; done"
    writers = [subprocess.Popen(["sh", "-ec", script.format(base=base)]) for base in (0, 100)]
    done: list[str] = []
    inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def commits(mark: str) -> None:
        assert ctypes.CDLL(None).setns(inside, 0x40000000) == 0
        for number in range(40):
            Legacy(lock_wait=60).commit(Commit(4, drop(f"NP-RULES-{mark}{number}")))
            assert f"NP-RULES-{mark}{number}" in Legacy().chains(4)
            done.append(mark)

    threads = [threading.Thread(target=commits, args=(mark,)) for mark in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(inside)
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(done) == 80
    lines = save(4)
    assert sum("-A OUTPUT" in line for line in lines) == 80
    assert sum("-A NP-RULES-" in line for line in lines) == 80


def interfere(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Another program, which takes no lock, adds a rule between read and write, as often as `times`."""
    real, left = legacy_module._change, iter(range(times))

    def change(table: Table, commit: Commit, entries: legacy_module.Entries) -> None:
        real(table, commit, entries)
        if next(left, None) is not None:
            environment = {**os.environ, "XTABLES_LOCKFILE": "/dev/null"}
            subprocess.run(["iptables-legacy", "-A", "INPUT"], env=environment, check=True)

    monkeypatch.setattr(legacy_module, "_change", change)


def test_a_writer_that_takes_no_lock_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    interfere(monkeypatch, times=2)
    Legacy().commit(Commit(4, drop()))
    assert [line for line in save(4) if line.startswith("-A")] == ["-A INPUT", "-A INPUT", "-A NP-RULES-a -j DROP"]


def test_a_writer_that_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    interfere(monkeypatch, times=100)
    with pytest.raises(KernelError, match="takes no lock"):
        Legacy().commit(Commit(4, drop()))
    assert Legacy().chains(4) == frozenset()


# The process ---------------------------------------------------------------------------------------------------------


def states(family: Family) -> list[dict[str, tuple[Options, ...]]]:
    """Two fillings of the same twenty chains."""
    return [
        {f"NP-RULES-{n}": tuple(Options((), verdict) for _ in range(5)) for n in range(20)}
        for verdict in ("ACCEPT", "DROP")
    ]


def test_killed_at_any_moment_it_leaves_old_or_new_and_no_lock() -> None:
    first, second = states(4)
    Legacy().commit(Commit(4, first))
    seen = set()
    for _ in range(40):
        child = os.fork()
        if child == 0:
            while True:
                for state in (second, first):
                    Legacy().commit(Commit(4, state))
        time.sleep(random.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        verdicts = {line.split()[-1] for line in save(4) if line.startswith("-A")}
        assert len(verdicts) == 1
        seen |= verdicts
        Legacy(lock_wait=0).commit(Commit(4, drop("NP-RULES-probe") | {"NP-RULES-probe": ()}))
    assert seen == {"ACCEPT", "DROP"}


def test_commits_leak_neither_memory_nor_files() -> None:
    make_sets()
    families = {
        family: [{"NP-RULES-x": rules(family, Rule(kind, "DROP"))} for kind in every_kind(family)[::6]]
        for family in FAMILIES
    }

    def commits(count: int) -> tuple[int, int]:
        for number in range(count):
            family: Family = 4 if number % 2 else 6
            fill = families[family][number % len(families[family])]
            Legacy().commit(Commit(family, fill, hook={"FORWARD": "NP-RULES-x"}))
            if number % 10 == 0:
                with pytest.raises(KernelError):
                    Legacy().commit(Commit(family, {"NP-RULES-x": (Options((), "NP-RULES-gone"),)}))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() // 1024, len(list(Path("/proc/self/fd").iterdir()))

    memory, files = commits(300)
    memory_after, files_after = commits(1000)
    assert files_after == files
    assert memory_after - memory < 1024  # KiB


def test_one_process_in_several_network_namespaces() -> None:
    backend = Legacy()
    backend.commit(Commit(4, drop("NP-RULES-outer")))
    with fresh() as other, fresh() as third:
        for inside, name in ((other, "NP-RULES-other"), (third, "NP-RULES-third"), (other, "NP-RULES-again")):
            with inside.entered():
                for family in FAMILIES:
                    backend.commit(Commit(family, drop(name)))
        with other.entered():
            assert backend.chains(4) == backend.chains(6) == {"NP-RULES-other", "NP-RULES-again"}
        with third.entered():
            assert backend.chains(4) == backend.chains(6) == {"NP-RULES-third"}
    assert backend.chains(4) == {"NP-RULES-outer"}
    backend.close()


IMPORT = """
import sys
from netpold.host.kernel.legacy import Legacy
assert not any(name.split('.')[0] == 'iptc' for name in sys.modules), 'imported before it is used'
Legacy().chains(4)
assert 'iptc' in sys.modules
"""


@pytest.mark.parametrize("path", [os.environ["PATH"], "/nonexistent"])
def test_loading_python_iptables_is_late_and_quiet(path: str) -> None:
    environment = {"PATH": path, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_python_iptables_the_error_says_so() -> None:
    script = "import sys\nfrom netpold.host.kernel.legacy import Legacy\nsys.modules['iptc'] = None\nLegacy().chains(4)"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert "KernelError: python-iptables is missing: install python3-iptables" in done.stderr
