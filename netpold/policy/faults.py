"""What can be wrong with the text of a manifest before it means anything: bytes that are no text, and YAML's syntax."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from yaml.error import MarkedYAMLError

from netpold.policy.tree import Place


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that the reader refuses, and how to mend it."""

    place: Place
    code: str
    fault: str
    cure: str


_PRINTABLE_ASCII = b"\t\n\r" + bytes(range(0x20, 0x7F))
# What libyaml's reader stops at (its `yaml_parser_update_buffer`).
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_UNPRINTABLE_OR_BAD = re.compile(_UNPRINTABLE.pattern + "|\ufffd")


def clean(chunk: bytes) -> tuple[bytes, Iterator[Fault]]:
    """The chunk with U+FFFD for all that libyaml would stop at, so that the rest can be read; and a fault for each."""
    if not chunk.translate(None, _PRINTABLE_ASCII):
        return chunk, iter(())
    try:
        text, bad = chunk.decode("utf-8"), _UNPRINTABLE
    except UnicodeDecodeError:
        text, bad = chunk.decode("utf-8", "replace"), _UNPRINTABLE_OR_BAD
    if not bad.search(text):
        return chunk, iter(())
    return bad.sub("\ufffd", text).encode(), _bad_places(text, bad)


def _bad_places(text: str, bad: re.Pattern[str]) -> Iterator[Fault]:
    line = newline = 0
    for found in bad.finditer(text):
        at = found.start()
        line += text.count("\n", newline, at)
        newline = max(text.rfind("\n", newline, at) + 1, newline)
        place = Place(line, at - newline, at)
        if text[at] == "\ufffd":
            yield Fault(place, "not-utf8", "here is a byte that is not UTF-8", "save the file as UTF-8")
        else:
            yield Fault(place, "control-character", f"here is the character U+{ord(text[at]):04X}", "take it out")


_SYNTAX_CURES = (
    ("found character '\\t'", "a tab stands where YAML takes only spaces", "indent with spaces"),
    ("mapping values are not allowed", "a `:` stands where no key can be", "mend the indentation, or quote the text"),
    (
        "did not find expected key",
        "this is no key of the map above",
        "mend the indentation, or close the quote or bracket",
    ),
    ("did not find expected '-' indicator", "this is no entry of the list above", "mend the indentation"),
    ("could not find expected ':'", "a key has no `:`", "write `key: value`, or close the quote"),
    ("found unexpected end of stream", "the file ends in the middle of a quoted text", "close the quote"),
    ("found unexpected document indicator", "`---` stands in the middle of a quoted text", "close the quote"),
    ("did not find expected node content", "a value is missing", "write one, or close the bracket"),
    ("block sequence entries are not allowed", "a `-` stands where no list can begin", "put it on a line of its own"),
    ("did not find expected ',' or", "a bracket is not closed", "close it, or put a comma between the entries"),
)


def syntax_fault(error: MarkedYAMLError) -> Fault:
    """What libyaml says, in plain words where it is a common mistake."""
    mark = error.problem_mark or error.context_mark
    place = Place(mark.line, mark.column, mark.index) if mark else Place()
    for problem, fault, cure in _SYNTAX_CURES:
        if problem in (error.problem or ""):
            return Fault(place, "syntax", f"{fault} ({error.problem})", cure)
    problem = " ".join(part for part in (error.context, error.problem) if part)
    return Fault(place, "syntax", problem, "mend the YAML here or on the lines above")
