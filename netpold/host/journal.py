"""What netpold says in the journal: one line an event, readable as it is, with fields to search and to count by.

Each kind of event is a row of MESSAGES, with a MESSAGE_ID that never changes (`journalctl MESSAGE_ID=...`; `journalctl
-x` explains it, from systemd/netpold.catalog).  FIELDS are the fields beside those of systemd.journal-fields(7); one
that stands for several things is there several times.  Started by hand, the same lines go to stderr.

Names and texts from manifests can hold anything, so what is not printable is written as an escape.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from netpold.printable import printable
from systemd import journal

LOGGER = "netpold"
MOST_VALUES = 100  # of one field in one entry

FIELDS: Mapping[str, str] = {
    "NETPOLD_REVISION": "number of the ruleset that is in force; goes up with every change of the kernel",
    "NETPOLD_POLICY": "policy that changed or is spoken of, as namespace/name, or of the cluster its name",
    "NETPOLD_POD": "pod that changed or is spoken of, as namespace/name",
    "NETPOLD_NAMESPACE": "namespace that changed or is spoken of",
    "NETPOLD_NODE": "node of the cluster that changed or is spoken of",
    "NETPOLD_FILE": "manifest, as an absolute path",
    "NETPOLD_LINE": "line in it, from 1",
    "NETPOLD_CODE": "stable code of what is wrong in a manifest, such as unknown-field",
    "NETPOLD_DURATION_US": "how long the change of the kernel took, in microseconds",
    "NETPOLD_FLOWS": "how many open flows were cut",
    "NETPOLD_PROGRAM": "name of a process that changed netpold's rules or sets, as far as the kernel tells",
    "NETPOLD_ERROR": "what failed, in words",
    "NETPOLD_TRACEBACK": "where in the code, after a failure that should not have happened",
}


@dataclass(frozen=True, slots=True)
class Message:
    """A kind of event.  `id`: its MESSAGE_ID.  `level`: of logging.  `meaning`: one sentence, for the manual."""

    name: str
    id: str
    level: int
    meaning: str


STARTED = Message(
    "started", "ee6d5ede3c4044399478f5b3e5a24f96", logging.INFO, "The daemon begins; what is in force stays so."
)
STOPPED = Message(
    "stopped", "00ed1af8f5a148bc8b4769cc05296763", logging.INFO, "The daemon ends; its rules stay in force."
)
APPLIED = Message(
    "applied", "3dfee267b7644e7bbe46e5be27e1e827", logging.INFO, "A change of manifests or of interfaces is in force."
)
REJECTED = Message(
    "rejected",
    "b4ebe988f981432796ac74e178c2f738",
    logging.ERROR,
    "A manifest failed the checks; what was good before, if anything, stays in force.",
)
QUARANTINED = Message(
    "quarantined",
    "7f97d622c35b46139e01f3a9d1a0921c",
    logging.ERROR,
    "A manifest failed the checks and no good version is known: a policy isolates what it selects and grants nothing.",
)
FLAWED = Message(
    "flawed", "35613ccadf9249378ed2185f8caf6efe", logging.WARNING, "A manifest is in force, with something to look at."
)
MENDED = Message(
    "mended", "5dccc9a9c2ab4f528302b76a8edf7145", logging.INFO, "What was rejected is in force as it is written."
)
DRIFT_REPAIRED = Message(
    "drift repaired",
    "f39da42d82214e55bb3f8e8af8a3737f",
    logging.WARNING,
    "Another program had changed netpold's rules or sets; they are again as they should be.",
)
DEGRADED = Message(
    "degraded",
    "6bea217f608f49539fa2df73f41cfb42",
    logging.ERROR,
    "What the manifests say can't be put in force; the rules from before stay, and the daemon goes on trying.",
)
RECOVERED = Message(
    "recovered", "5160ba30af7f47c2b80f6cc326d0fe9e", logging.INFO, "What the manifests say is in force again."
)
CUT = Message(
    "flows cut", "d66dffc4ba364cd79cdd70097a3c17f2", logging.INFO, "Open flows that are no longer allowed were cut."
)
FLUSHED = Message(
    "flushed",
    "dc0ba0332dc04ebf8895870aee97b802",
    logging.WARNING,
    "All rules were taken out of the kernel on request: nothing is enforced until the daemon is started again.",
)
TRIED = Message(
    "tried",
    "ff786441b3f74e438e0e98dccd698003",
    logging.WARNING,
    "Other policies than those of the manifests are in force for a while, or are no more.",
)
ADVICE = Message(
    "advice", "c64f503867dd4a1c9b5440649a5b12f6", logging.WARNING, "Something on the host weakens what is enforced."
)
DROPPED = Message(
    "dropped",
    "265c3543b0214785abca0dbebbea9bd7",
    logging.INFO,
    "Packets were dropped, as the policies say (with the setting log_drops; once a minute for each pair and port).",
)
AUDITED = Message(
    "audited",
    "ec7c474d13fa4d288b1e2626a9b32b43",
    logging.INFO,
    "Packets were let through that audited policies would drop if they were enforced (with the setting log_drops).",
)

MESSAGES = (
    STARTED,
    STOPPED,
    APPLIED,
    REJECTED,
    QUARANTINED,
    FLAWED,
    MENDED,
    DRIFT_REPAIRED,
    DEGRADED,
    RECOVERED,
    CUT,
    FLUSHED,
    TRIED,
    ADVICE,
    DROPPED,
    AUDITED,
)

_log = logging.getLogger(LOGGER)

Value = str | int | Iterable[str]


def say(message: Message, text: str, **values: Value) -> None:
    """Log an event.  `values`: of FIELDS, by their names in lower case and without the prefix (`policy=[...]`)."""
    found = [(f"NETPOLD_{name.upper()}", value) for name, value in values.items()]
    _log.log(message.level, "%s", text, extra={"event": (message, found)}, stacklevel=2)


def log_to_journal_or_stderr(level: int = logging.INFO) -> None:
    """To the journal where stderr leads there anyway (systemd.exec(5) on JOURNAL_STREAM), else to stderr."""
    status = os.fstat(sys.stderr.fileno())
    if os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
        handler: logging.Handler = _JournalHandler()
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    threading.excepthook = _thread_ended


def _thread_ended(arguments: threading.ExceptHookArgs) -> None:
    """An exception that nobody expected, as one entry like all others."""
    thread = arguments.thread.name if arguments.thread else "?"
    found = (arguments.exc_type, arguments.exc_value or arguments.exc_type(), arguments.exc_traceback)
    _log.critical("thread %s ended: %s: %s", thread, arguments.exc_type.__name__, found[1], exc_info=found)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = printable(f"{self.formatTime(record)} {record.levelname} {record.getMessage()}")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JournalHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            journal.sendv(*entry(record))
        except OSError as error:  # journald does not run, say; stderr leads where systemd sees it
            with suppress(OSError):
                print(f"{printable(record.getMessage())} (not in the journal: {error.strerror})", file=sys.stderr)


_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def entry(record: logging.LogRecord) -> list[str]:
    """A log record as the journal takes it: `NAME=value`, MESSAGE first."""
    priority = next((priority for level, priority in _PRIORITIES if record.levelno >= level), 7)
    lines = [
        f"MESSAGE={printable(record.getMessage())}",
        f"PRIORITY={priority}",
        "SYSLOG_IDENTIFIER=netpold",
        f"CODE_FILE={record.pathname}",
        f"CODE_LINE={record.lineno}",
        f"CODE_FUNC={record.funcName}",
    ]
    if record.exc_info:
        lines.append(f"NETPOLD_TRACEBACK={logging.Formatter().formatException(record.exc_info)}")
    message, values = getattr(record, "event", (None, ()))
    if message is not None:
        lines.append(f"MESSAGE_ID={message.id}")
    for name, value in values:
        several = [str(value)] if isinstance(value, str | int) else islice(value, MOST_VALUES)
        lines += [f"{name}={printable(each)}" for each in several]
    return lines
