"""A matrix as one page of HTML: matrix.html with the data in it.

Names, labels and paths come from manifests: inside a script element nothing may look like its end, or like the
beginning of a comment, so no character of markup is written as itself.  The page asks for nothing over the network, and
its own policy says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_PLACE = "@DATA@"
_ESCAPED = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def page(answer: Mapping[str, Any], about: str) -> str:
    """The page.  `answer`: a matrix with its explanations (rules/answers.py, rules/page.py); `about`: what it is of."""
    template = files("netpold.ctl").joinpath("matrix.html").read_text(encoding="utf-8")
    data = json.dumps({**answer, "about": about, "first": _fullest(answer)}, separators=(",", ":")).translate(_ESCAPED)
    before, after = template.split(_PLACE)
    return before + data + after


def _fullest(answer: Mapping[str, Any]) -> int:
    """The number of the port that most pairs pass on: a page that begins with all denied tells little."""
    passed = [bin(int(row, 16)).count("1") for row in answer["rows"]]
    ports = range(len(answer["ports"]))
    return max(ports, key=lambda port: sum(passed[row] for family in answer["reach"].values() for row in family[port]))
