"""Findings as text, the way compilers write them, so that editors can jump there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from netpold.ctl.output import paint, word
from netpold.printable import printable


def line(finding: Mapping[str, Any]) -> str:
    """One finding (in the shape of netpold.daemon.status.finding_json) in one line."""
    where = printable(f"{finding['file']}:{finding['line']}:{finding['column']}")
    parts = [str(finding[name]) for name in ("subject", "path") if finding[name]]
    what = printable(": ".join([*parts, str(finding["fault"])]))
    code = paint(f"[{finding['code']}]", "dim")
    return f"{paint(where, 'bold')}: {word(finding['severity'])}: {what}; {printable(str(finding['cure']))} {code}"


def count(findings: Iterable[Mapping[str, Any]]) -> str:
    """How many there are, in words."""
    severities = [each["severity"] for each in findings]
    return f"{number(severities.count('error'), 'error')}, {number(severities.count('warning'), 'warning')}"


def number(how_many: int, what: str) -> str:
    """`1 policy`, `2 policies`."""
    many = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{how_many} {what if how_many == 1 else many}"
