"""What comes by policy rule, policy and pod: between two readings of the kernel's counters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netpold.ctl.client import ask
from netpold.ctl.output import table_width
from netpold.ctl.top import HEADS, By, fitted, rates
from tests.lab import Backend, Lab
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually


def reading(at: float, passed: int, dropped: int) -> dict[str, Any]:
    count = {"packets": passed, "bytes": 100 * passed}
    of = {"policy": "x/p", "direction": "ingress", "rule": 0, "action": "Accept"}
    rule = {**of, "file": "p.yaml", "line": 7, "passed": count}
    denies = {**rule, "rule": 2, "action": "Deny"}  # no sum of what passes has it
    return {
        "at": at,
        "rules": [rule, {**rule, "rule": 1}, denies],
        "policies": [
            {"policy": "x/p", "direction": "ingress", "dropped": {"packets": dropped, "bytes": dropped}},
            {"policy": "x/q", "direction": "egress", "dropped": None},
        ],
        "pods": [{"pod": "x/a", "direction": "ingress", "judged": count, "dropped": {"packets": dropped, "bytes": 0}}],
    }


def test_rates_are_of_what_came_between() -> None:
    before, now = reading(100.0, 10, 4), reading(102.0, 40, 5)
    first, second, _ = rates(before, now, "rule")
    assert (first["packets_per_s"], first["bytes_per_s"], first["packets"]) == (15.0, 1500.0, 40)
    assert (first["file"], first["line"], second["rule"]) == ("p.yaml", 7, 1)
    policy, other = rates(before, now, "policy")
    assert (policy["packets"], policy["packets_per_s"], policy["dropped_per_s"]) == (80, 30.0, 0.5)
    assert (other["policy"], other["packets"], other["dropped"]) == ("x/q", 0, 0)
    (pod,) = rates(before, now, "pod")
    assert (pod["pod"], pod["packets_per_s"], pod["dropped_per_s"]) == ("x/a", 15.0, 0.5)


def test_of_what_counts_less_than_before_no_rate_is_made() -> None:
    before, now = reading(100.0, 1000, 5), reading(101.0, 7, 2)
    first, *_ = rates(before, now, "rule")
    assert (first["packets"], first["packets_per_s"], first["bytes_per_s"]) == (7, None, None)
    assert first["dropped_per_s"] == 0.0
    for by in ("policy", "pod"):
        first, *_ = rates(before, now, by)
        assert (first["packets_per_s"], first["bytes_per_s"], first["dropped_per_s"]) == (None, None, None)
    rates_of_drops = {each["dropped_per_s"] for each in rates(before, reading(101.0, 1000, 2), "pod")}
    assert rates_of_drops == {None}


def test_where_one_rule_counts_less_what_came_by_the_policy_is_not_known() -> None:
    before, now = reading(100.0, 10, 0), reading(101.0, 10, 0)
    now["rules"][0]["passed"] = {"packets": 0, "bytes": 0}
    now["rules"][1]["passed"] = {"packets": 99, "bytes": 9900}
    first, second, _ = rates(before, now, "rule")
    assert (first["packets_per_s"], second["packets_per_s"]) == (None, 89.0)
    policy, other = rates(before, now, "policy")
    assert (policy["packets"], policy["packets_per_s"], policy["bytes_per_s"]) == (99, None, None)
    assert other["packets_per_s"] == policy["dropped_per_s"] == 0.0


@pytest.mark.kernel
def test_counters_that_are_set_to_zero_meanwhile_make_no_rate(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        assert scene.passes(scene.a, scene.b) and scene.passes(scene.a, scene.b, family=6)
        before = ask(scene.daemon.socket, "GET", "/v1/counters")
        scene.node.iptables(backend, 4, "-Z")

        def told(by: By) -> set[float | None]:
            now = ask(scene.daemon.socket, "GET", "/v1/counters")
            return {each["packets_per_s"] for each in rates(before, now, by)}

        assert eventually(lambda: told("pod") == {None, 0.0})  # c sent nothing
        assert None in told("rule") and told("rule") <= {None, 0.0} and told("policy") <= {None, 0.0}
        before = ask(scene.daemon.socket, "GET", "/v1/counters")
        assert told("pod") == {0.0}
        done = scene.daemon.ctl("top", "--once", "--interval", "0.5", "-o", "json")
        assert all(each["packets_per_s"] == 0.0 for each in json.loads(done.stdout)["rows"])


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 30])
@pytest.mark.parametrize("by", ["rule", "pod"])
def test_a_row_is_one_line_and_says_what_it_is_of(columns: int, by: By) -> None:
    name = "guestbook/a-name egress[0]" if by == "rule" else "guestbook/a-name"
    last = "/etc/netpold/guestbook/30-ui-to-api.yaml:13" if by == "rule" else "ingress"
    drops = [] if by == "rule" else ["0.0", "12345"]
    head, rows = fitted(HEADS[by], [["12345.6", "1.5 MB", "123456", "123 MB", *drops, name, last]], columns)
    assert table_width(head, rows) <= columns and len(head) == len(rows[0])
    assert name in rows[0] or (columns == 30 and name.startswith(rows[0][1]))
    assert columns < 200 or last in rows[0]


@pytest.mark.kernel
def test_top_counts_the_packets_that_came(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        before = ask(scene.daemon.socket, "GET", "/v1/counters")
        assert scene.passes(scene.a, scene.b) and not scene.passes(scene.c, scene.b)
        now = ask(scene.daemon.socket, "GET", "/v1/counters")
        seconds = now["at"] - before["at"]
        came = {
            (each["policy"], each["direction"]): each["packets_per_s"] * seconds for each in rates(before, now, "rule")
        }
        assert came["x/a-out", "egress"] == came["x/a-to-b", "ingress"] > 1
        drops = {each["pod"]: each["dropped"] for each in rates(before, now, "pod") if each["direction"] == "egress"}
        assert drops["x/c"] > 0 and drops["x/a"] == 0
        done = scene.daemon.ctl("top", "--interval", "0.5")
        assert "x/a-to-b ingress[0]" in done.stdout and "allow.yaml:" in done.stdout and done.returncode == 0
        told = json.loads(
            scene.daemon.ctl("top", "--once", "--by", "pod", "-n", "2", "--interval", "0.5", "-o", "json").stdout
        )
        assert told["by"] == "pod" and len(told["rows"]) == 2 and told["seconds"] >= 0.4
