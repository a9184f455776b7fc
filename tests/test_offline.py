"""The ruleset for questions, with all members of its sets and with those alone that are asked about."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.index import Index
from netpold.policy.model import Pod, World
from netpold.policy.steps import finished
from netpold.rules.answers import explain_json
from netpold.rules.ends import end, families
from netpold.rules.matrix import matrix
from netpold.rules.offline import between, offline_ruleset
from netpold.rules.settings import CompileSettings
from tests.strategies import EVERYTHING_GOES, OUTSIDE, worlds

PORTS = [("TCP", 80), ("TCP", 8080), ("UDP", 80), ("ICMP", None)]


@settings(max_examples=80, deadline=None)
@given(world=worlds(EVERYTHING_GOES), share=st.integers(1, 4), mode=st.sampled_from(("enforce", "enforce", "audit")))
def test_between_few_ends_it_says_what_it_says_with_all_members(world: World, share: int, mode: str) -> None:
    index, settings = Index(world), CompileSettings(mode=mode)  # type: ignore[arg-type]
    asked = sorted(key for key, pod in world.pods.items() if pod.takes_part and pod.addresses)
    pods, others = asked[::share], [OUTSIDE[0], OUTSIDE[4]]
    others += [world.pods[key].addresses[0] for key in asked[1::share]]
    ends = [end(index, name) for name in [*pods, *others]]
    whole, few = offline_ruleset(index, pods, settings), finished(between(index, pods, ends, settings))
    assert matrix(index, few, pods, others, PORTS) == matrix(index, whole, pods, others, PORTS)
    assert (few.chains, few.sets.keys()) == (whole.chains, whole.sets.keys())
    for name in [each.name for each in ends[1:] if pods and families(ends[0], each)]:
        one, other = (explain_json(index, ruleset, pods[0], name, "TCP", 80) for ruleset in (few, whole))
        for each in (one, other):
            for told in (*each["egress"]["sets"], *each["ingress"]["sets"]):
                del told["members"]
        assert one == other


def test_a_step_is_about_few_pods() -> None:
    """The loop that answers can see after what changed between any two of them."""
    pods = {f"x/p{number}": Pod("x", f"p{number}", {}, (f"10.0.0.{number}",)) for number in range(1, 100)}
    index = Index(World(pods))
    steps = between(index, pods, [end(index, name) for name in pods], CompileSettings())
    shares = list(steps)
    assert len(shares) == 20 and shares == sorted(shares) and shares[0] == 0
