"""Text that came from outside, made safe to print."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with everything that is no printable character (control characters, line breaks, changes of the writing
    direction, bytes that are not UTF-8) written as an escape."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
