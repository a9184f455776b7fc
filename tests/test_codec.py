"""What units say as tuples: nothing is lost, and what is equal is one object."""

from __future__ import annotations

import marshal
from dataclasses import asdict
from ipaddress import ip_network

from hypothesis import given, settings

from netpold.policy.chunks import LIMITS
from netpold.policy.codec import Decoder, Encoder
from netpold.policy.documents import parse_unit, units
from netpold.policy.model import EVERYTHING, Action, ClusterPolicy, IPBlock, Pod, PodPeer, Position, Tier, TierRule
from tests.test_documents import FILE, TEXTS, pods

NETWORKS = [IPBlock(ip_network(f"10.{each}.0.0/16")) for each in range(3)]


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_there_and_back(data: bytes) -> None:
    parts = [parse_unit(unit, FILE, LIMITS) for unit in units(data, LIMITS)]
    encoder, decoder = Encoder(), Decoder()
    encoded = marshal.loads(marshal.dumps([encoder.encode(part) for part in parts]))
    decoded = [decoder.decode(each, FILE) for each in encoded]
    assert decoded == parts
    assert [asdict(each) for each in decoded] == [asdict(each) for each in parts]
    assert repr(decoded) == repr(parts)
    assert [hash(each) for each in decoded if not _has_maps(each)] == [
        hash(each) for each in parts if not _has_maps(each)
    ]


def test_entries_of_rules_come_back() -> None:
    """Of a rule of the cluster whose entries are not its peers one by one; they count in no comparison."""
    rule = TierRule(Action.DENY, tuple(NETWORKS), None, entries=(0, 0, 2))
    policy = ClusterPolicy("p", Tier.ADMIN, 1, PodPeer(EVERYTHING, EVERYTHING), (), (rule,), position=Position(FILE, 1))
    found = Decoder().decode(marshal.loads(marshal.dumps(Encoder().encode(policy))), FILE)
    assert found == policy
    assert isinstance(found, ClusterPolicy)
    assert found.egress[0].entries == (0, 0, 2)


def _has_maps(part: object) -> bool:
    return hasattr(part, "labels") or hasattr(part, "passed_over")


def test_the_file_is_the_one_that_is_told() -> None:
    (unit,) = units(pods("a"), LIMITS)
    found = Decoder().decode(Encoder().encode(parse_unit(unit, FILE, LIMITS)), "b.yaml")
    assert isinstance(found, Pod)
    assert found.position
    assert found.position.file == "b.yaml"


def test_equal_parts_are_one() -> None:
    parts = [parse_unit(unit, FILE, LIMITS) for unit in units(pods("a", "b"), LIMITS)]
    encoder, decoder = Encoder(), Decoder()
    encoded = marshal.loads(marshal.dumps([encoder.encode(part) for part in parts]))
    first, second = (decoder.decode(each, FILE) for each in encoded)
    assert isinstance(first, Pod)
    assert isinstance(second, Pod)
    assert first.name != second.name
    assert first.labels is second.labels
    assert first.ports is second.ports
    assert first.namespace is second.namespace
    assert type(first).__name__ == "Pod"
