"""Test results as JUnit XML, in the shape that CI systems agree on: suites, cases, and a failure with its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from netpold.printable import printable


@dataclass(frozen=True, slots=True)
class Case:
    """One test.  `failure`: why it failed, one line each; none: it passed.  `notes`: what else is to be said."""

    name: str
    failure: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of one file."""

    name: str
    cases: tuple[Case, ...]

    @property
    def failures(self) -> int:
        return sum(bool(case.failure) for case in self.cases)


def junit(name: str, suites: Sequence[Suite]) -> str:
    """The document, without a newline at its end."""
    root = ElementTree.Element("testsuites", {"name": name, **_counts(suites)})
    for suite in suites:
        at = ElementTree.SubElement(root, "testsuite", {"name": printable(suite.name), **_counts([suite])})
        for case in suite.cases:
            _case(ElementTree.SubElement(at, "testcase", _named(suite, case)), case)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _counts(suites: Sequence[Suite]) -> dict[str, str]:
    tests, failures = sum(len(suite.cases) for suite in suites), sum(suite.failures for suite in suites)
    return {"tests": str(tests), "failures": str(failures), "errors": "0"}


def _named(suite: Suite, case: Case) -> dict[str, str]:
    return {"classname": printable(suite.name), "name": printable(case.name)}


def _case(at: ElementTree.Element, case: Case) -> None:
    if case.failure:
        failure = ElementTree.SubElement(at, "failure", {"message": printable(case.failure[0])})
        failure.text = _lines(case.failure)
    if case.notes:
        ElementTree.SubElement(at, "system-out").text = _lines(case.notes)


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(map(printable, lines))
