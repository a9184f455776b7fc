"""How a command ends: exit codes, and what is said when it can't do what was asked."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of netpoldctl."""

    FINE = 0
    NO = 1  # findings, or the answer is no
    USAGE = 2
    NOT_RUNNING = 3
    NOT_PERMITTED = 4
    TIMED_OUT = 5


class Failure(Exception):
    """The command ends here: one sentence that says what is wrong, and a hint how to mend it."""

    def __init__(self, fault: str, hint: str, code: Exit) -> None:
        super().__init__(fault)
        self.hint = hint
        self.code = code
