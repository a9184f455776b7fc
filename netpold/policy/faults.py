"""What can be wrong with the text of a manifest before it means anything: bytes that are no text, and YAML's syntax."""

from __future__ import annotations

import re
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


TEMPLATE_FAULT = "this is a template (`{{`)"
TEMPLATE_CURE = "render it first (as `helm template` does), and put here what comes out"

_PRINTABLE_ASCII = b"\t\n\r" + bytes(range(0x20, 0x7F))
# What libyaml's reader stops at (its `yaml_parser_update_buffer`).
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_UNPRINTABLE_OR_BAD = re.compile(_UNPRINTABLE.pattern + "|\ufffd")


def clean(chunk: bytes) -> tuple[bytes, BadText | None]:
    """The chunk with U+FFFD for all that libyaml would stop at, so that the rest can be read; and where that stands."""
    if not chunk.translate(None, _PRINTABLE_ASCII):
        return chunk, None
    try:
        text, bad = chunk.decode("utf-8"), _UNPRINTABLE
    except UnicodeDecodeError:
        text, bad = chunk.decode("utf-8", "replace"), _UNPRINTABLE_OR_BAD
    first = bad.search(text)
    if not first:
        return chunk, None
    return bad.sub("\ufffd", text).encode(), BadText(text, bad, first.start())


class BadText:
    """The places in a text that can't be read, in order."""

    def __init__(self, text: str, bad: re.Pattern[str], first: int) -> None:
        self._text, self._bad, self._at = text, bad, first
        self._line = self._begin = self._seen = 0  # up to which the text was looked through for lines

    def before(self, end: int) -> bool:
        """Whether there is one left before that index."""
        return self._at < end

    def pass_over(self, end: int) -> None:
        """Go on to the first one from that index on."""
        found = self._bad.search(self._text, end)
        self._at = found.start() if found else len(self._text)

    def fault(self) -> Fault:
        """What is wrong at the one that comes next."""
        self._line += self._text.count("\n", self._seen, self._at)
        self._begin = max(self._text.rfind("\n", self._seen, self._at) + 1, self._begin)
        self._seen = self._at
        place = Place(self._line, self._at - self._begin, self._at)
        if self._text[self._at] == "\ufffd":
            return Fault(place, "not-utf8", "here is a byte that is not UTF-8", "save the file as UTF-8")
        name = f"U+{ord(self._text[self._at]):04X}"
        return Fault(place, "control-character", f"here is the character {name}", "take it out")


_SYNTAX = (
    ("mapping values are not allowed", "a `:` stands where no key can be", "mend the indentation, or quote the text"),
    (
        "did not find expected key",
        "this is no key of the map above",
        "mend the indentation, or close a quote",
    ),
    ("did not find expected '-'", "this is no entry of the list above", "mend the indentation"),
    ("could not find expected ':'", "a key has no `:`", "write `key: value`, or close the quote"),
    ("found unexpected end of stream", "a quoted text has no end", "close the quote"),
    ("found unexpected document indicator", "a quoted text goes on past `---`", "close the quote"),
    ("did not find expected node content", "a value is missing", "write one, or close the bracket"),
    ("block sequence entries are not allowed", "a `-` stands where no list can begin", "put it on a line of its own"),
    ("did not find expected ',' or", "a bracket is not closed", "close it, or put a comma between the entries"),
    ("did not find expected alphabetic", "`*` and `&` begin an alias or anchor", "quote the text"),
    (
        "found unknown escape character",
        "there is no such escape",
        "write `\\\\`, or use single quotes",
    ),
    ("invalid Unicode character escape", "half a surrogate pair is no character", "write the character itself"),
    ("did not find expected <document start>", "text stands after the end of the document", "begin it with `---`"),
)


def syntax_fault(error: MarkedYAMLError, chunk: bytes) -> Fault:
    """What libyaml says of a chunk, in plain words where the mistake is a common one."""
    mark = error.problem_mark or error.context_mark
    place = Place(mark.line, mark.column, mark.index) if mark else Place()
    if _is_template(error, chunk):
        return Fault(place, "syntax", TEMPLATE_FAULT, TEMPLATE_CURE)
    problem = " ".join(part for part in (error.context, error.problem) if part)
    if "cannot start any token" in problem:
        letter = chunk.decode("utf-8", "replace")[place.index : place.index + 1]
        if letter == "\t":
            return Fault(place, "syntax", "a tab stands where YAML takes only spaces", "indent with spaces")
        return Fault(place, "syntax", f"no value can begin with `{letter}`", "quote the text")
    for words, fault, cure in _SYNTAX:
        if words in problem:
            return Fault(place, "syntax", f"{fault} ({error.problem})", cure)
    return Fault(place, "syntax", problem, "mend the YAML here or on the lines above")


def _is_template(error: MarkedYAMLError, chunk: bytes) -> bool:
    """Whether `{{` stands in one of the lines that the error is about."""
    lines = chunk.split(b"\n")
    marks = [mark for mark in (error.problem_mark, error.context_mark) if mark]
    return any(b"{{" in lines[mark.line] for mark in marks if mark.line < len(lines))
