"""`netpoldctl check`: its formats for machines, and when it exits with 1."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

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
    assert "idle:1.yaml:1:1: warning: NetworkPolicy shop/idle: spec.podSelector: no pod" in done.stdout
    assert done.stdout.endswith(": 0 errors, 1 warning\n")


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


def test_every_code_has_text_for_sarif() -> None:
    findings = [
        {"file": "a", "line": 1, "column": 1, "path": "", "code": code, "severity": "error", "fault": "f", "cure": "c"}
        | {"subject": ""}
        for code in CODES
    ]
    assert_valid(sarif(findings))


def assert_valid(log: dict[str, Any]) -> None:
    """The rules of SARIF 2.1.0 (its schema, and sections 3.4, 3.19, 3.27 to 3.30, 3.49) for the properties in use."""
    assert log.keys() == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert run["columnKind"] == "unicodeCodePoints"
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
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
        for location in result["locations"]:
            artifact = location["physicalLocation"]["artifactLocation"]
            assert re.fullmatch(r"(file://)?[A-Za-z0-9._~!$&'()*+,;=@%/-]+", artifact["uri"])
            assert ("uriBaseId" in artifact) != artifact["uri"].startswith("file:")
            assert min(location["physicalLocation"]["region"].values()) >= 1


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
