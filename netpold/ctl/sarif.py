"""Findings as SARIF 2.1.0, which code hosts show beside the lines of a change.

The format is OASIS' "Static Analysis Results Interchange Format Version 2.1.0".  Paths are relative to the directory
where netpoldctl runs (the root of the repository, in CI), and columns count characters.  In messages `{0}` would stand
for an argument, so braces are doubled (section 3.11.5).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from netpold import __version__
from netpold.ctl.here import here
from netpold.policy.codes import CODES, Code
from netpold.printable import printable

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "SRCROOT"  # what relative paths are relative to
_UNKNOWN = Code("A finding of another release.", "See the message.")
_ITEM = re.compile(r"\Aitems\[\d+\]\.?")  # what a path begins with in a List


def sarif(findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The log with one run; findings are in the shape of netpold.daemon.status.finding_json."""
    codes = sorted({each["code"] for each in findings})
    numbers = {code: number for number, code in enumerate(codes)}
    driver = {
        "name": "netpoldctl",
        "semanticVersion": __version__,
        "rules": [_rule(code, CODES.get(code, _UNKNOWN)) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {_ROOT: {"uri": f"{here().as_uri().rstrip('/')}/"}},
        "results": [
            _result(each, numbers[each["code"]], fingerprint)
            for each, fingerprint in zip(findings, _fingerprints(findings), strict=True)
        ],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str, about: Code) -> dict[str, Any]:
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in code.split("-")),
        "shortDescription": {"text": _message(about.meaning)},
        "help": {
            "text": _message(f"{about.meaning}\n\n{about.cure}"),
            "markdown": _message(f"{about.meaning}\n\n**Cure:** {about.cure}"),
        },
    }


def _message(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _fingerprints(findings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What tells a finding from others, the same as long as it is there, wherever it moves: what is found of which
    field of which object.  Not in it are its own place, and the fault, which may name places and counts of others.
    Those that are alike in that are numbered, as they come."""
    seen: Counter[str] = Counter()
    for each in findings:
        subject, path = each["subject"], each["path"]
        if subject and "?" not in subject:
            path = _ITEM.sub("", path, count=1)
        else:  # which object it is can't be read
            subject = f"{each['file']} {subject}"
        what = f"{each['code']} {subject} {path}"
        seen[what] += 1
        yield sha256(f"{what} {seen[what]}".encode(errors="backslashreplace")).hexdigest()[:32]


def _result(finding: Mapping[str, Any], rule: int, fingerprint: str) -> dict[str, Any]:
    what = ": ".join(str(finding[name]) for name in ("path", "fault") if finding[name])
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": _artifact(finding["file"]),
            "region": {"startLine": max(finding["line"], 1), "startColumn": max(finding["column"], 1)},
        }
    }
    if finding["subject"]:
        location["logicalLocations"] = [{"fullyQualifiedName": printable(finding["subject"]), "kind": "object"}]
    return {
        "ruleId": finding["code"],
        "ruleIndex": rule,
        "level": finding["severity"],
        "message": {"text": _message(printable(f"{what}; {finding['cure']}"))},
        "locations": [location],
        "partialFingerprints": {"finding/v2": fingerprint},
    }


def _artifact(file: str) -> dict[str, str]:
    path = Path(os.path.abspath(file))  # noqa: PTH100  a symlink is told as it is named
    if path.is_relative_to(here()):
        return {"uri": quote(os.fsencode(path.relative_to(here()))), "uriBaseId": _ROOT}
    return {"uri": f"file://{quote(os.fsencode(path))}"}
