"""The journal's lines: what each event has, whatever stands in names, and where the lines go."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netpold.daemon.fight import Repairs
from netpold.daemon.observer import Observer
from netpold.daemon.report import Report
from netpold.daemon.seen import Seen, Times
from netpold.daemon.sights import Described, Sight
from netpold.daemon.status import LastApply, Status
from netpold.host import journal
from netpold.host.kernel.backend import Program
from netpold.policy.changes import Changes, difference
from netpold.policy.model import EVERYTHING, Direction, Finding, Pod, Policy, Position, World
from netpold.rules.endpoint import Endpoint

ROOT = Path(__file__).parent.parent


class Lines(logging.Handler):
    """What would be in the journal, one list of fields a line."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, list[str]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, list[str]] = {}
        for line in journal.entry(record):
            name, _, value = line.partition("=")
            fields.setdefault(name, []).append(value)
        self.entries.append(fields)

    def ids(self) -> list[str]:
        return [each.get("MESSAGE_ID", [""])[0] for each in self.entries]


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger(journal.LOGGER), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def policy(name: str, namespace: str, quarantined: bool = False) -> Policy:
    return Policy(namespace, name, EVERYTHING, (), None, Position("/etc/netpold/p.yaml", 1), quarantined)


def pod(name: str, labels: dict[str, str]) -> Pod:
    return Pod("n", name, labels, ("10.0.0.1",))


def status(revision: int = 7) -> Status:
    return Status(
        state="enforcing",
        since="",
        node="n",
        backend="nft",
        manifests="/etc/netpold",
        revision=revision,
        last_apply=LastApply("", 1.0),
    )


def test_ids_are_stable_and_explained() -> None:
    """Whoever searches for them relies on them: these may never change."""
    known = {message.name: message.id for message in journal.MESSAGES}
    assert known == {
        "started": "ee6d5ede3c4044399478f5b3e5a24f96",
        "stopped": "00ed1af8f5a148bc8b4769cc05296763",
        "applied": "3dfee267b7644e7bbe46e5be27e1e827",
        "rejected": "b4ebe988f981432796ac74e178c2f738",
        "quarantined": "7f97d622c35b46139e01f3a9d1a0921c",
        "flawed": "35613ccadf9249378ed2185f8caf6efe",
        "mended": "5dccc9a9c2ab4f528302b76a8edf7145",
        "drift repaired": "f39da42d82214e55bb3f8e8af8a3737f",
        "degraded": "6bea217f608f49539fa2df73f41cfb42",
        "recovered": "5160ba30af7f47c2b80f6cc326d0fe9e",
        "flows cut": "d66dffc4ba364cd79cdd70097a3c17f2",
        "flushed": "dc0ba0332dc04ebf8895870aee97b802",
        "tried": "ff786441b3f74e438e0e98dccd698003",
        "advice": "c64f503867dd4a1c9b5440649a5b12f6",
        "dropped": "265c3543b0214785abca0dbebbea9bd7",
        "audited": "ec7c474d13fa4d288b1e2626a9b32b43",
    }
    catalog = (ROOT / "systemd/netpold.catalog").read_text()
    assert re.findall(r"^-- (\S+)$", catalog, re.M) == list(known.values())
    assert set(re.findall("@(NETPOLD_[A-Z]+)@", catalog)) <= set(journal.FIELDS)


def test_fields_and_escapes(lines: Lines) -> None:
    journal.say(
        journal.REJECTED, "a\nforged line\x1b[2J", file="/x\ny", line=3, policy=[f"n/p{n}" for n in range(1000)]
    )
    (entry,) = lines.entries
    assert entry["MESSAGE"] == ["a\\nforged line\\x1b[2J"]
    assert entry["PRIORITY"] == ["3"]
    assert entry["NETPOLD_FILE"] == ["/x\\ny"]
    assert entry["NETPOLD_LINE"] == ["3"]
    assert len(entry["NETPOLD_POLICY"]) == journal.MOST_VALUES
    assert entry["CODE_FILE"] == [__file__]


def test_stderr_has_one_line_an_event(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    try:
        journal.log_to_journal_or_stderr()
        journal.say(journal.APPLIED, "one\ntwo", revision=1)
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)
    assert re.fullmatch(r"[-\d]+ [:,\d]+ INFO one\\ntwo\n", capfd.readouterr().err)


def test_a_thread_that_ends_is_an_entry(lines: Lines) -> None:
    before = threading.excepthook
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        journal.log_to_journal_or_stderr()
        thread = threading.Thread(target=lambda: int("a\nb"), name="doomed")
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    (entry,) = lines.entries
    assert entry["PRIORITY"] == ["2"]
    assert entry["MESSAGE"][0].startswith("thread doomed ended: ValueError: ")
    assert "test_journal.py" in entry["NETPOLD_TRACEBACK"][0]


def test_a_drop_names_the_policy_that_denies_it_and_no_other(lines: Lines) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("nobody is to be asked")

    observer, seen = Observer(0, True, never, never), Seen()
    rule = {"policy": "guard", "direction": "egress", "rule": 0, "tier": "Admin", "closed": False}
    for denied_by, wanted, end in ((None, ["x/np"], "no rule allows it"), (rule, ["guard"], "egress[0] denies it")):
        sight = Sight("drop", "policy", Direction.EGRESS, "10.0.0.1", "192.0.2.1", "47" if denied_by else "50")
        each = Described(sight, pod("a", {}), None, pod("a", {}), ("x/np",), denied_by=denied_by)
        observer._log(each, seen.add(each, Times(1, 0, 0), {}))
        assert lines.entries[-1]["NETPOLD_POLICY"] == wanted and lines.entries[-1]["MESSAGE"][0].endswith(end)


class TestReport:
    def test_what_changed_is_told_once_it_is_in_force(self, lines: Lines) -> None:
        report = Report()
        before, after = World({}, {}, {}), World({}, {}, {"shop/p": policy("p", "shop")})
        report.changed(difference(before, after), {}, {})
        assert not lines.entries
        report.applied(status(), 0.0031)
        report.applied(status(), None)
        (entry,) = lines.entries
        assert entry["MESSAGE"][0].startswith("revision 7 in 3.1 ms: policy shop/p added; ")
        assert entry["MESSAGE_ID"] == [journal.APPLIED.id]
        assert entry["NETPOLD_POLICY"] == ["shop/p"]
        assert entry["NETPOLD_REVISION"] == ["7"]
        assert entry["NETPOLD_DURATION_US"] == ["3100"]

    def test_changes_add_up_until_they_are_in_force(self, lines: Lines) -> None:
        report = Report()
        one, two = pod("p", labels={"a": "1"}), pod("p", labels={"a": "2"})
        report.changed(Changes(pods={one.key: (None, one)}), {}, {})
        report.changed(Changes(pods={one.key: (one, two)}), {}, {})
        report.changed(Changes(policies={"n/gone": (None, policy("gone", "n"))}), {}, {})
        report.changed(Changes(policies={"n/gone": (policy("gone", "n"), None)}), {}, {})
        report.applied(status(), 0.001)
        (entry,) = lines.entries
        assert f"pod {one.key} added" in entry["MESSAGE"][0]
        assert "gone" not in entry["MESSAGE"][0]
        assert "NETPOLD_POLICY" not in entry

    def test_a_change_that_no_rule_of_this_node_shows(self, lines: Lines) -> None:
        report = Report()
        report.changed(Changes(policies={"n/p": (None, policy("p", "n"))}), {}, {})
        report.applied(status(), None)
        assert lines.entries[0]["MESSAGE"][0].startswith("revision 7 stays: policy n/p added; ")
        assert "NETPOLD_DURATION_US" not in lines.entries[0]

    def test_a_pod_at_another_interface(self, lines: Lines) -> None:
        report = Report()
        before, now = {"n/p": Endpoint("n/p", ("10.0.0.1",))}, {"n/p": Endpoint("n/p", ("10.0.0.2",))}
        report.changed(Changes(), before, now)
        report.applied(status(), 0.001)
        assert "pod n/p at another interface or address" in lines.entries[0]["MESSAGE"][0]
        assert lines.entries[0]["NETPOLD_POD"] == ["n/p"]

    def test_many_are_counted(self, lines: Lines) -> None:
        report = Report()
        report.changed(Changes(policies={f"n/p{n}": (None, policy(f"p{n}", "n")) for n in range(5)}), {}, {})
        report.applied(status(), 0.001)
        assert "5 policies (n/p0, n/p1, n/p2, ...) added" in lines.entries[0]["MESSAGE"][0]

    def test_findings_are_told_when_they_are_new(self, lines: Lines) -> None:
        report = Report()
        where = Position("/etc/netpold/a.yaml", 3, 5)
        bad = Finding(where, "unknown-field", "spec.x", "is unknown", "delete it", "NetworkPolicy n/p")
        flaw = Finding(where, "host-bits", "spec.y", "has host bits", "mask it", "NetworkPolicy n/q", "warning")
        good, closed = policy("p", "n"), policy("p", "n", quarantined=True)
        findings = (bad, flaw)
        report.found(findings, {"NetworkPolicy n/p"}, World({}, {}, {"n/p": closed}))
        report.found(findings, {"NetworkPolicy n/p"}, World({}, {}, {"n/p": closed}))
        assert lines.ids() == [journal.QUARANTINED.id, journal.FLAWED.id]
        assert "what it selects is isolated" in lines.entries[0]["MESSAGE"][0]
        assert lines.entries[0]["NETPOLD_FILE"] == ["/etc/netpold/a.yaml"]
        assert lines.entries[0]["NETPOLD_LINE"] == ["3"]
        assert lines.entries[0]["NETPOLD_CODE"] == ["unknown-field"]
        assert lines.entries[0]["NETPOLD_POLICY"] == ["n/p"]
        report.found((), frozenset(), World({}, {}, {"n/p": good}))
        assert lines.ids()[2:] == [], "it is not in force yet"
        report.applied(status(), None)
        assert lines.ids()[2:] == [journal.MENDED.id]
        report.found((bad,), {"NetworkPolicy n/p"}, World({}, {}, {"n/p": good}))
        assert lines.ids()[3:] == [journal.REJECTED.id]
        assert "last good version of NetworkPolicy n/p stays in force" in lines.entries[3]["MESSAGE"][0]

    def test_a_flood_of_findings_is_cut_short(self, lines: Lines) -> None:
        many = tuple(Finding(Position("f", n), "x", "", "fault", "cure") for n in range(1000))
        Report().found(many, frozenset(), World({}, {}, {}))
        assert len(lines.entries) == 201
        assert "800 more" in lines.entries[-1]["MESSAGE"][0]

    def test_a_failure_is_told_once_and_its_end(self, lines: Lines) -> None:
        report = Report()
        report.recovered(status())
        for again in (0.5, 1.0):
            report.failed(OSError("the kernel refuses"), again)
        report.failed(OSError("another one"), 2.0)
        report.recovered(status())
        report.recovered(status())
        assert lines.ids() == [journal.DEGRADED.id, journal.DEGRADED.id, journal.RECOVERED.id]
        assert lines.entries[0]["NETPOLD_ERROR"] == ["the kernel refuses"]

    def test_warnings_when_they_are_new(self, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
        report = Report()
        for warnings in (["a"], ["a"], ["b", "a"], [], ["a"]):
            report.warned(warnings)
        assert [each["MESSAGE"] for each in lines.entries] == [["a"], ["b"]], "not again when it comes and goes"
        monkeypatch.setattr("netpold.daemon.report.REPEAT_S", 0.0)
        for warnings in ([], ["a"]):
            report.warned(warnings)
        assert len(lines.entries) == 3

    def test_a_pod_that_nothing_tells_where_it_is_is_not_said_to_be_closed(self, lines: Lines) -> None:
        for addresses, what in (((), "it is free"), (("10.0.0.1",), "is quarantined")):
            closed = Pod("n", "p", {}, addresses, quarantined=True)
            finding = Finding(Position("/m/p.yaml", 3), "address", "status.podIP", "bad", "mend it", "Pod n/p")
            Report().found((finding,), frozenset({"Pod n/p"}), World({"n/p": closed}))
            assert what in lines.entries[-1]["MESSAGE"][0]

    def test_flows_that_were_cut_add_up(self, lines: Lines) -> None:
        report = Report()
        assert report.due is None
        for moment in (100.0, 100.2, 100.9, 101.1, 101.2):
            report.cut(3)
            report.tell_cut(moment)
        assert report.due == 102.1
        report.tell_cut()
        report.tell_cut()
        assert report.due is None
        assert [each["MESSAGE"] for each in lines.entries] == [
            [f"cut {flows} open flow(s), no longer allowed"] for flows in (3, 9, 3)
        ]

    def test_floods_are_cut_short(self, lines: Lines) -> None:
        Report().warned([f"interface {n}" for n in range(500)])
        assert len(lines.entries) == 21
        assert "480 more" in lines.entries[-1]["MESSAGE"][0]
        lines.entries.clear()
        report = Report()
        many = {f"n/p{n}": policy(f"p{n}", "n") for n in range(1000)}
        report.found((), frozenset(f"NetworkPolicy {key}" for key in many), World({}, {}, many))
        report.found((), frozenset(), World({}, {}, many))
        report.applied(status(), None)
        assert len(lines.entries) == 201

    def test_a_repair_is_one_line(self, lines: Lines) -> None:
        Report().applied(status(), 0.002, repaired=True)
        Report().drifted(status(), [Repairs(("docker", "nft"), Program("nft", 4711), 3, 0.002)])
        (entry,) = lines.entries
        assert entry["MESSAGE_ID"] == [journal.DRIFT_REPAIRED.id]
        assert entry["NETPOLD_REVISION"] == ["7"]
        assert entry["NETPOLD_PROGRAM"] == ["docker", "nft"]
        assert entry["NETPOLD_DURATION_US"] == ["2000"]
        assert "docker, nft (process 4711)" in entry["MESSAGE"][0]
        assert "3 times" in entry["MESSAGE"][0]
