"""A bounded list of findings: what is wrong at many places is told at some of them, and counted at the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from netpold.policy.model import Finding

MOST_IN_FILE = 100  # errors of one file that are told, and as many warnings
MOST_IN_ALL = 1000  # the same of all files together
LEFT_OUT = "too-many-faults"  # the code of the finding that counts the others


class Findings:
    """Up to `most` errors and `most` warnings, the first that came, and how many more there were."""

    __slots__ = ("_left_out", "_room", "_told")

    def __init__(self, most: int) -> None:
        self._room: dict[Literal["error", "warning"], int] = {"error": most, "warning": most}
        self._told: list[Finding] = []
        self._left_out: dict[Literal["error", "warning"], tuple[int, Finding]] = {}  # how many, and the first

    def add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            severity = finding.severity
            if self._room[severity]:
                self._room[severity] -= 1
                self._told.append(finding)
            else:
                count, first = self._left_out.get(severity, (0, finding))
                self._left_out[severity] = count + 1, first

    def told(self, where: str) -> list[Finding]:
        """Those that are told, in the order in which they came, and at the end the counts; `where`: in what all of
        them are."""
        counts = [
            Finding(
                first.position,
                LEFT_OUT,
                "",
                f"here and elsewhere in {where} there are at least {count} more {severity}s",
                "mend those that are told first",
                severity=severity,
            )
            for severity, (count, first) in self._left_out.items()
        ]
        return [*self._told, *counts] if counts else self._told
