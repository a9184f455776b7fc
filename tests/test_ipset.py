"""Sets in the real kernel: what is written by netlink is what the ipset program shows, and the other way round."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.host.kernel import ipset
from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.set_members import Count
from netpold.policy.model import Family
from netpold.rules.plan import ChangeSet, CreateSet
from netpold.rules.render import set_header
from netpold.rules.ruleset import FAMILIES, IPSet, SetKind
from tests.lab.namespace import inside

pytestmark = pytest.mark.kernel

KINDS = ("hash:ip", "hash:net", "hash:ip,port", "hash:ip,port,ip")
NAME = "NP4-one"


@pytest.fixture(autouse=True, scope="module")
def namespace() -> Iterator[None]:
    with inside("ipset"):
        yield


@pytest.fixture(autouse=True)
def no_sets(namespace: None) -> Iterator[None]:
    yield
    run("iptables-nft", "-F")
    run("ip6tables-nft", "-F")
    run("ipset", "destroy")


def run(*words: str, stdin: str = "") -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def saved(name: str) -> frozenset[str]:
    """The members as the ipset program shows them."""
    lines = run("ipset", "save", name).splitlines()
    return frozenset(line.removeprefix(f"add {name} ") for line in lines if line.startswith("add "))


def make(members: frozenset[str], family: Family = 4, kind: str = "hash:ip", name: str = NAME) -> None:
    ipset.create([CreateSet(name, IPSet(name, family, cast(SetKind, kind), "", members), "")])


def change(add: tuple[str, ...] = (), remove: tuple[str, ...] = (), name: str = NAME) -> None:
    ipset.change([ChangeSet(name, frozenset(add), frozenset(remove), "")])


def addresses(family: Family) -> st.SearchStrategy[str]:
    size, af = (4, socket.AF_INET) if family == 4 else (16, socket.AF_INET6)
    return st.integers(1, 2 ** (8 * size) - 1).map(lambda number: socket.inet_ntop(af, number.to_bytes(size)))


@st.composite
def networks(draw: st.DrawFn, family: Family) -> frozenset[str]:
    found = {}
    for address in draw(st.lists(addresses(family), max_size=30)):
        network = ip_network((address, draw(st.integers(1, 32 if family == 4 else 128))), strict=False)
        base = socket.inet_ntop(
            socket.AF_INET if family == 4 else socket.AF_INET6, network.network_address.packed
        )  # ipaddress writes mapped addresses in another way
        length = "" if network.prefixlen == network.max_prefixlen else f"/{network.prefixlen}"
        found[network] = base + length + draw(st.sampled_from(("", " nomatch")))
    return frozenset(found.values())


@st.composite
def sets(draw: st.DrawFn) -> tuple[Family, str, frozenset[str]]:
    family, kind = draw(st.sampled_from(FAMILIES)), draw(st.sampled_from(KINDS))
    if kind == "hash:net":
        return family, kind, draw(networks(family))
    member = addresses(family)
    if kind != "hash:ip":
        ports = st.tuples(st.sampled_from(("tcp", "udp", "sctp")), st.integers(0, 65535)).map("{0[0]}:{0[1]}".format)
        parts = (member, ports, member) if kind == "hash:ip,port,ip" else (member, ports)
        member = st.tuples(*parts).map(",".join)
    return family, kind, frozenset(draw(st.lists(member, max_size=30)))


@settings(max_examples=150)
@given(sets(), st.data())
def test_written_by_netlink_is_what_the_program_shows(
    made: tuple[Family, str, frozenset[str]], data: st.DataObject
) -> None:
    family, kind, members = made
    make(members, family, kind)
    try:
        assert saved(NAME) == ipset.members(NAME) == members
        gone = frozenset(data.draw(st.sets(st.sampled_from(sorted(members))))) if members else frozenset[str]()
        change(remove=tuple(gone))
        assert saved(NAME) == ipset.members(NAME) == members - gone
        change(add=tuple(members))
        assert saved(NAME) == members
    finally:
        run("ipset", "destroy", NAME)


@settings(max_examples=50)
@given(sets())
def test_written_by_the_program_is_what_netlink_reads(made: tuple[Family, str, frozenset[str]]) -> None:
    family, kind, members = made
    header = set_header(IPSet(NAME, family, cast(SetKind, kind), "", members))
    run("ipset", "restore", stdin="".join((f"create {NAME} {header}\n", *(f"add {NAME} {each}\n" for each in members))))
    try:
        assert ipset.members(NAME) == members
    finally:
        run("ipset", "destroy", NAME)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 64, 65, 5000])
def test_a_set_of_any_size_has_the_header_that_the_ruleset_shows(family: Family, kind: str, count: int) -> None:
    tail = {"hash:ip,port": ",tcp:80", "hash:ip,port,ip": ",sctp:80,"}.get(kind, "")
    base = "10.0.{}.{}" if family == 4 else "fd00:1:1:1:1:1:{:x}:{:x}"
    all_addresses = [base.format(number >> 8, number & 255) for number in range(1, count + 1)]
    members = frozenset(each + tail + (each if tail.endswith(",") else "") for each in all_addresses)
    make(members, family, kind)
    shown = run("ipset", "save", NAME).splitlines()[0].split()
    wanted = ["create", NAME, *set_header(IPSet(NAME, family, cast(SetKind, kind), "", members)).split()]
    size = wanted.index("hashsize") + 1
    assert int(shown.pop(size)) >= int(wanted.pop(size))  # the kernel may have made it larger
    assert shown == wanted
    assert ipset.members(NAME) == members


def test_several_sets_and_changes_go_to_the_kernel_together() -> None:
    wanted = {f"NP4-{number}": frozenset({f"10.0.0.{number + 1}"}) for number in range(250)}
    ipset.create(CreateSet(name, IPSet(name, 4, "hash:ip", "", members), "") for name, members in wanted.items())
    assert ipset.names() == wanted.keys()
    ipset.change(ChangeSet(name, frozenset({"10.1.0.1"}), members, "") for name, members in wanted.items())
    assert {ipset.members(name) for name in wanted} == {frozenset({"10.1.0.1"})}
    assert ipset.destroy(wanted) == frozenset()
    assert ipset.names() == frozenset()


def test_what_is_there_is_added_and_what_is_not_is_deleted_without_complaint() -> None:
    make(frozenset({"10.0.0.1"}))
    change(add=("10.0.0.1", "10.0.0.2"), remove=("10.9.9.9",))
    change(add=("10.0.0.1", "10.0.0.2"), remove=("10.9.9.9",))
    assert saved(NAME) == {"10.0.0.1", "10.0.0.2"}


def test_only_own_sets_are_listed() -> None:
    make(frozenset())
    run("ipset", "create", "foreign", "hash:ip")
    run("ipset", "create", "NP4", "hash:ip")
    assert ipset.names() == {NAME}


def test_destroy_returns_what_is_in_use_and_does_not_stop_there() -> None:
    for name in ("NP4-a", "NP4-b", "NP4-c"):
        make(frozenset({"10.0.0.1"}), name=name)
    run("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", "NP4-b", "src", "-j", "DROP")
    assert ipset.destroy(["NP4-a", "NP4-b", "NP4-gone", "NP4-c"]) == {"NP4-b"}
    assert ipset.names() == {"NP4-b"}


def test_hundreds_of_sets_in_use_are_all_returned() -> None:
    names = {f"NP4-{number}" for number in range(400)}
    ipset.create(CreateSet(name, IPSet(name, 4, "hash:ip", "", frozenset()), "") for name in names)
    lines = ["create holder list:set size 1000", *(f"add holder {name}" for name in names)]
    run("ipset", "restore", stdin="\n".join(lines) + "\n")
    assert ipset.destroy(names) == names
    run("ipset", "destroy", "holder")
    assert ipset.destroy(names) == frozenset()


def counting(family: Family, kind: str, members: frozenset[str]) -> IPSet:
    return IPSet(NAME, family, cast(SetKind, kind), "", members, "counts")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["hash:ip", "hash:net"])
@pytest.mark.parametrize("count", [0, 1, 2000])
def test_a_set_that_counts_has_the_header_that_the_ruleset_shows(family: Family, kind: str, count: int) -> None:
    base = "10.0.{}.{}" if family == 4 else "fd00:1:1:1:1:1:{:x}:{:x}"
    members = frozenset(base.format(number >> 8, number & 255) for number in range(1, count + 1))
    wanted = counting(family, kind, members)
    ipset.create([CreateSet(NAME, wanted, "")])
    shown = run("ipset", "save", NAME).splitlines()[0]
    made, header = shown.removeprefix(f"create {NAME} ").split(), set_header(wanted).split()
    assert made[-1] == header[-1] == "counters"
    assert [each for each in made if not each.isdecimal()] == [each for each in header if not each.isdecimal()]
    assert ipset.members(NAME) == members
    assert ipset.counters(NAME) == dict.fromkeys(members, Count(0, 0))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_look_up_counts_for_the_member_that_it_finds(family: Family) -> None:
    own, other = ("127.0.0.1", "127.0.0.2") if family == 4 else ("::1", "::2")
    run("ip", "link", "set", "lo", "up")
    ipset.create([CreateSet(NAME, counting(family, "hash:ip", frozenset({own, other})), "")])
    tables = "iptables-nft" if family == 4 else "ip6tables-nft"
    run(tables, "-A", "INPUT", "-m", "set", "--match-set", NAME, "dst")
    before = {own: Count(0, 0), other: Count(0, 0)}
    assert ipset.counters(NAME) == before
    run("ping", "-c3", "-i0.2", "-s100", own)
    size = 100 + 8 + (20 if family == 4 else 40)
    assert ipset.counters(NAME) == {own: Count(6, 6 * size), other: Count(0, 0)}  # requests and replies
    change(remove=(own,))
    change(add=(own,))
    assert ipset.counters(NAME) == before


def test_a_set_that_is_not_there_has_counted_nothing() -> None:
    assert ipset.counters("NP4-none") == {}


def test_a_set_without_counters_is_told() -> None:
    make(frozenset({"10.0.0.1"}))
    with pytest.raises(KernelError, match=f"^ipset list {NAME}: "):
        ipset.counters(NAME)


# What the kernel refuses ---------------------------------------------------------------------------------------------


def test_a_set_that_is_there_is_not_made_again() -> None:
    make(frozenset({"10.0.0.1"}))
    with pytest.raises(KernelError, match=f"^ipset create {NAME}: there is a set of that name already$"):
        make(frozenset({"10.0.0.2"}))


def test_a_set_that_is_missing_is_named() -> None:
    with pytest.raises(KernelError, match=r"^ipset add NP4-none: there is no set of that name$"):
        change(add=("10.0.0.1",), name="NP4-none")
    with pytest.raises(KernelError, match=r"^ipset list NP4-none: there is no set of that name$"):
        ipset.members("NP4-none")


@pytest.mark.parametrize("place", [0, 1, 2500])
def test_the_member_that_the_kernel_refuses_is_named(place: int) -> None:
    good = {f"10.0.{number >> 8}.{number & 255}" for number in range(1, place + 1)}
    refused = r"^ipset add NP4-one 0\.0\.0\.0: the unspecified address can't be in a set$"
    make(frozenset())
    with pytest.raises(KernelError, match=refused):
        change(add=(*good, "0.0.0.0"))


def test_a_member_of_the_other_family_is_named() -> None:
    make(frozenset({"10.0.0.1"}))
    with pytest.raises(KernelError, match=r"^ipset add NP4-one fd00::1: "):
        change(add=("fd00::1", "10.0.0.2"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "10.1", "10.0.0.1/x", "10.0.0.1/300", "10.0.0.1,icmp:8", "10.0.0.1,tcp", "10.0.0.1,tcp:65536"),
        *("10.0.0.1 other", "10.0.0.1,tcp:80,10.0.0.2,10.0.0.3", "10.0.0.1,tcp:80,x", "fd00::1%lo", "é"),
    ],
)
def test_a_text_that_is_no_member_is_refused_before_the_kernel_sees_it(text: str) -> None:
    make(frozenset())
    with pytest.raises(KernelError, match="is no member of a set"):
        change(add=("10.0.0.1", text))


def test_a_set_of_a_foreign_type_is_no_crash() -> None:
    run("ipset", "restore", stdin=f"create inner hash:ip\ncreate {NAME} list:set\nadd {NAME} inner\n")
    with pytest.raises(KernelError, match="type"):
        ipset.members(NAME)
    run("ipset", "destroy", NAME)
