"""Fills in the parts of the man pages that the program's own tables say.

    /usr/bin/python3 docs/man/make.py [DIR]      (DIR: where to write; by default beside this file)

A page has such a part between two comments; the rest is written by hand:

    .\\" Made by docs/man/make.py: settings
    .\\" End of settings
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from netpold.config import manual  # noqa: E402
from netpold.host.journal import FIELDS, MESSAGES  # noqa: E402

PAGES = ("netpold.8", "netpoldctl.8", "netpold.toml.5", "netpold-manifests.5")
PART = re.compile(r'(?<=^\.\\" Made by docs/man/make\.py: )(\w+)\n.*?(?=^\.\\" End of \1$)', re.MULTILINE | re.DOTALL)


def settings() -> Iterator[str]:
    for line in manual().splitlines():
        if line.startswith("Allowed: "):
            yield ".br"
        yield line if line.startswith((".", "\\fB")) else _text(line)


def messages() -> Iterator[str]:
    for message in MESSAGES:
        yield f".TP\n{message.name} \\fB{message.id}\\fR\n{_text(_escaped(message.meaning))}"


def fields() -> Iterator[str]:
    for name, meaning in FIELDS.items():
        yield f".TP\n.B {name}\n{_text(_escaped(f'{meaning[0].upper()}{meaning[1:]}.'))}"


PARTS = {"settings": settings, "messages": messages, "fields": fields}


def page(name: str) -> str:
    """A page as it should be."""
    return PART.sub(lambda part: "\n".join([part[1], *PARTS[part[1]](), ""]), (HERE / name).read_text())


def _text(text: str) -> str:
    """Each sentence begins a line, and no line is long: so roff and its checkers want it."""
    lines = [textwrap.wrap(each, 78, break_on_hyphens=False) for each in text.replace(".  ", ".\n").splitlines()]
    return "\n".join(line for sentence in lines for line in sentence)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for each in PAGES:
        (target / each).write_text(page(each))
