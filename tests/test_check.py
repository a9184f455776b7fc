"""`netpoldctl check`: its formats for machines, and when it exits with 1."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from netpold.ctl.sarif import sarif
from netpold.policy.codes import CODES
from tests.test_ctl import BAD, MANIFESTS, ctl

IDLE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: idle, namespace: shop}
spec: {podSelector: {matchLabels: {app: nobody}}}
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    directory = tmp_path / "mani fests"
    directory.mkdir()
    (directory / "shop.yaml").write_text(MANIFESTS)
    (directory / "idle:1.yaml").write_text(IDLE)
    return directory


def test_warnings_leave_the_exit_status_0(manifests: Path) -> None:
    done = ctl("check", manifests)
    assert done.returncode == 0
    assert "idle:1.yaml:4:8: warning: NetworkPolicy shop/idle: spec.podSelector: no pod" in done.stdout
    assert done.stdout.endswith(": 0 errors, 1 warning\n")


def test_many_findings_are_summed_up_by_code(manifests: Path) -> None:
    assert "what they are" not in ctl("check", manifests).stdout
    (manifests / "bad.yaml").write_text(BAD)
    for number in range(25):
        (manifests / f"{number}.yaml").write_text(IDLE.replace("idle", f"idle-{number}"))
    *_, head, errors, warnings, _, _ = ctl("check", manifests).stdout.splitlines()
    assert head == "what they are"
    assert errors.split()[:2] == ["1", "unknown-field"] and warnings.split()[:2] == ["26", "selects-no-pod"]


def test_strict(manifests: Path) -> None:
    assert ctl("check", "--strict", manifests).returncode == 1
    (manifests / "idle:1.yaml").unlink()
    assert ctl("check", "--strict", manifests).returncode == 0


def test_json_has_errors_and_warnings(manifests: Path) -> None:
    (manifests / "bad.yaml").write_text(BAD)
    done = ctl("check", manifests, "-o", "json")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["files"] == 3
    assert [each["code"] for each in answer["findings"]] == ["unknown-field", "selects-no-pod"]


def test_sarif(manifests: Path) -> None:
    (manifests / "bad.yaml").write_text(BAD)
    done = ctl("check", manifests, "-o", "sarif")
    log = json.loads(done.stdout)
    assert done.returncode == 1
    assert_valid(log)
    (run,) = log["runs"]
    levels = {each["ruleId"]: each["level"] for each in run["results"]}
    assert levels == {"unknown-field": "error", "selects-no-pod": "warning"}
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == f"file://{str(manifests).replace(' ', '%20')}/bad.yaml"
    assert place["region"] == {"startLine": 6, "startColumn": 3}


def test_sarif_of_nothing() -> None:
    assert_valid(sarif([]))


def test_paths_in_sarif_are_relative_to_where_it_runs(
    manifests: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    finding = {
        "file": "mani fests/idle:1.yaml",
        "line": 1,
        "column": 1,
        "path": "",
        "code": "selects-no-pod",
        "severity": "warning",
        "fault": "none",
        "cure": "mend it",
        "subject": "",
    }
    log = sarif([finding, {**finding, "file": str(manifests / "shop.yaml")}])
    assert_valid(log)
    artifacts = [each["locations"][0]["physicalLocation"]["artifactLocation"] for each in log["runs"][0]["results"]]
    assert [each["uri"] for each in artifacts] == ["mani%20fests/idle%3A1.yaml", "mani%20fests/shop.yaml"]
    root = log["runs"][0]["originalUriBaseIds"][artifacts[0]["uriBaseId"]]["uri"]
    assert root == f"{tmp_path.as_uri()}/"


def test_where_things_are_in_a_list_behind_a_symlink(tmp_path: Path) -> None:
    """As a volume of a ConfigMap has it; the file is read again to find the fields."""
    (tmp_path / "..2026").mkdir()
    items = [*yaml.safe_load_all(f"{MANIFESTS}---\n{IDLE}---\n{IDLE}")]
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items})
    (tmp_path / "..2026" / "a.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    findings = json.loads(ctl("check", tmp_path, "-o", "json").stdout)["findings"]
    idle, twice = len(items) - 2, len(items) - 1
    assert {(each["code"], each["path"]) for each in findings} == {
        ("selects-no-pod", f"items[{idle}].spec.podSelector"),
        ("duplicate-object", f"items[{twice}]"),
    }
    lines = {each["code"]: text.splitlines()[each["line"] - 1][each["column"] - 1 :] for each in findings}
    assert lines == {"selects-no-pod": "podSelector:", "duplicate-object": "apiVersion: networking.k8s.io/v1"}


TWICE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shop, namespace: shop}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}, {}, {}]}
"""
TIERED = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: %s}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}
"""


def test_fingerprints_stay_where_lines_move(manifests: Path) -> None:
    """Faults name the places of other objects, and those move, too."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(IDLE.replace("idle", "listed"))]})
    text = "---\n".join([TWICE, TWICE, TIERED % "a", TIERED % "b", "a: 1\na: 2\n", BAD.replace("shop", "?")])
    (manifests / "a.yaml").write_text(text)
    (manifests / "b.json").write_text(listed)
    before = fingerprints(manifests)
    assert {"rule-covered", "equal-priority", "duplicate-object", "selects-no-pod"} <= before.keys()
    (manifests / "a.yaml").write_text(f"# one\n# two\n{text}")
    (manifests / "b.json").write_text(
        listed.replace('"items": [', '"items": [\n{"kind": "Secret", "apiVersion": "v1"},')
    )
    assert fingerprints(manifests) == before
    assert len({each for several in before.values() for each in several}) == sum(map(len, before.values()))


def fingerprints(manifests: Path) -> dict[str, list[str]]:
    """By code."""
    (run,) = json.loads(ctl("check", manifests, "-o", "sarif").stdout)["runs"]
    found = defaultdict(list)
    for each in run["results"]:
        found[each["ruleId"]] += each["partialFingerprints"].values()
    return found


def test_every_code_has_text_for_sarif() -> None:
    findings = [
        {"file": "a", "line": 1, "column": 1, "path": "", "code": code, "severity": "error", "fault": "f", "cure": "c"}
        | {"subject": ""}
        for code in CODES
    ]
    assert_valid(sarif(findings))


def test_braces_in_sarif_are_no_placeholders(manifests: Path) -> None:
    finding = {"file": "a", "line": 1, "column": 1, "path": "p", "code": "dns-forgotten", "severity": "warning"}
    log = sarif([finding | {"fault": "no {0}", "cure": "write {a: [{b: \udcff}]}", "subject": "NetworkPolicy x/\x1b"}])
    assert_valid(log)
    (result,) = log["runs"][0]["results"]
    assert result["message"]["text"] == "p: no {{0}}; write {{a: [{{b: \\udcff}}]}}"
    assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "NetworkPolicy x/\\x1b"
    (rule,) = log["runs"][0]["tool"]["driver"]["rules"]
    assert "`ports: [{{port: 53, protocol: UDP}}, {{port: 53}}]`" in rule["help"]["text"]


# What the schema of OASIS (sarif-schema-2.1.0.json, errata 01) says of the objects in use, read there word by word:
# of each, the properties that netpold writes, with what they are, and those that have to be there.  The schema allows
# more properties, but none that it does not name.
def _text(value: object) -> bool:
    return isinstance(value, str)


def _from(least: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _one_of(*words: str) -> Callable[[object], bool]:
    return lambda value: value in words


_TEXTS = {"text": _text, "markdown": _text}
SHAPES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "log": ({"$schema": _text, "version": _one_of("2.1.0"), "runs": ["run"]}, {"version", "runs"}),
    "run": (
        {
            "tool": "tool",
            "columnKind": _one_of("utf16CodeUnits", "unicodeCodePoints"),
            "originalUriBaseIds": {"": "artifactLocation"},
            "results": ["result"],
        },
        {"tool", "results"},  # "must be present if a log file represents an actual scan"
    ),
    "tool": ({"driver": "toolComponent"}, {"driver"}),
    "toolComponent": ({"name": _text, "semanticVersion": _text, "rules": ["reportingDescriptor"]}, {"name"}),
    "reportingDescriptor": (
        {
            "id": _text,
            "name": _text,
            "shortDescription": "multiformatMessageString",
            "help": "multiformatMessageString",
        },
        {"id"},
    ),
    "multiformatMessageString": (_TEXTS, {"text"}),
    "message": (_TEXTS, {"text"}),  # or "id"
    "result": (
        {
            "ruleId": _text,
            "ruleIndex": _from(-1),
            "level": _one_of("none", "note", "warning", "error"),
            "message": "message",
            "locations": ["location"],
            "partialFingerprints": {"": _text},
        },
        {"message"},
    ),
    "location": ({"physicalLocation": "physicalLocation", "logicalLocations": ["logicalLocation"]}, set()),
    "physicalLocation": ({"artifactLocation": "artifactLocation", "region": "region"}, {"artifactLocation"}),
    "artifactLocation": ({"uri": _text, "uriBaseId": _text}, set()),
    "region": ({"startLine": _from(1), "startColumn": _from(1)}, {"startLine"}),
    "logicalLocation": ({"fullyQualifiedName": _text, "kind": _text}, set()),
}
UNIQUE = ("reportingDescriptor", "logicalLocation")  # "uniqueItems" of the lists of these


def assert_shape(value: Any, shape: Any, where: str) -> None:
    """The value is what SHAPES says; `shape`: a name there, a list or a map of one, or what a plain value has to be."""
    if isinstance(shape, list):
        assert isinstance(value, list), where
        assert shape[0] not in UNIQUE or all(each not in value[:place] for place, each in enumerate(value)), where
        for each in value:
            assert_shape(each, shape[0], f"{where}[]")
    elif isinstance(shape, str):
        properties, required = SHAPES[shape]
        assert required <= value.keys() <= properties.keys(), where
        for name, each in value.items():
            assert_shape(each, properties[name], f"{where}.{name}")
    elif isinstance(shape, dict):
        for each in value.values():
            assert_shape(each, shape[""], f"{where}.*")
    else:
        assert shape(value), where


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", "2.0.0"),
        ("version", None),
        ("runs.0.tool.driver.name", None),
        ("runs.0.tool.driver.rule", []),
        ("runs.0.columnKind", "bytes"),
        ("runs.0.results.0.level", "info"),
        ("runs.0.results.0.message", None),
        ("runs.0.results.0.locations.0.physicalLocation.region.startLine", 0),
        ("runs.0.results.0.locations.0.physicalLocation.artifactLocation", None),
        ("runs.0.results.0.severity", "error"),
    ],
)
def test_what_the_schema_forbids_is_found(path: str, value: object) -> None:
    finding = {"file": "a", "line": 1, "column": 1, "path": "", "code": "x", "severity": "error", "fault": "f"}
    log = sarif([finding | {"cure": "c", "subject": "NetworkPolicy x/y"}])
    assert_shape(log, "log", "log")
    at: Any = log
    *way, last = path.split(".")
    for step in way:
        at = at[int(step)] if step.isdecimal() else at[step]
    at[last] = value
    if value is None:
        del at[last]
    with pytest.raises(AssertionError):
        assert_shape(log, "log", "log")


def assert_valid(log: dict[str, Any]) -> None:
    """The rules of SARIF 2.1.0 (its schema, and sections 3.4, 3.11, 3.19, 3.27 to 3.30, 3.49) for the properties in
    use."""
    assert_shape(log, "log", "log")
    assert (
        log["$schema"] == "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
    )
    (run,) = log["runs"]
    assert run["columnKind"] == "unicodeCodePoints"  # as the reader counts
    assert all(base["uri"].endswith("/") for base in run["originalUriBaseIds"].values())
    driver = run["tool"]["driver"]
    assert driver["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", driver["semanticVersion"])
    rules = driver["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["shortDescription"]["text"].endswith(".")
        assert rule["help"]["text"] and rule["help"]["markdown"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        assert not re.search(r"(?<!\{)(\{\{)*\{(?!\{)", result["message"]["text"]), "no placeholder"
        for location in result["locations"]:
            artifact = location["physicalLocation"]["artifactLocation"]
            assert re.fullmatch(r"(file://)?[A-Za-z0-9._~!$&'()*+,;=@%/-]+", artifact["uri"])
            assert ("uriBaseId" in artifact) != artifact["uri"].startswith("file:")


def test_junit_has_a_test_for_each_file(manifests: Path) -> None:
    (manifests / "bad.yaml").write_text(BAD)
    done = ctl("check", manifests, "-o", "junit")
    assert done.returncode == 1
    root = ElementTree.fromstring(done.stdout)
    assert (root.tag, root.get("tests"), root.get("failures")) == ("testsuites", "3", "1")
    cases = {Path(case.get("name", "")).name: case for case in root.iter("testcase")}
    assert cases.keys() == {"bad.yaml", "idle:1.yaml", "shop.yaml"}
    failure, notes = cases["bad.yaml"].find("failure"), cases["idle:1.yaml"].find("system-out")
    assert failure is not None and "unknown-field" in failure.get("message", "")
    assert notes is not None and "selects-no-pod" in (notes.text or "")
    assert len(cases["shop.yaml"]) == 0


def test_junit_takes_any_name_and_text(manifests: Path) -> None:
    (manifests / "<&\x1b>.yaml").write_bytes(b"kind: \xff\x00]]>&\n")
    root = ElementTree.fromstring(ctl("check", manifests, "-o", "junit").stdout)
    assert root.get("failures") == "1"


def test_junit_with_strict(manifests: Path) -> None:
    root = ElementTree.fromstring(ctl("check", manifests, "-o", "junit", "--strict").stdout)
    assert root.get("failures") == "1"
