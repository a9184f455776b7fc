"""What is wrong in a command line, said as everything else is: one sentence, and a hint."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from netpold.ctl.failure import Exit, Failure


class Parser(argparse.ArgumentParser):
    """Raises Failure where argparse writes its usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise Failure(message.removeprefix("argument "), f"`{self.prog} --help` shows what it takes", Exit.USAGE)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Called by argparse for a value that may be one of some."""
        if action.choices is None or value in action.choices:
            return
        known = [str(each) for each in action.choices]
        near = _near(str(value), known)
        if isinstance(action, argparse._SubParsersAction):
            hint = f"`{self.prog} --help` lists the commands; options go behind them: `{self.prog} {known[0]} -o json`"
            raise Failure(f"there is no command {value!r}", near or hint, Exit.USAGE)
        name = "/".join(action.option_strings) or str(action.metavar)
        raise Failure(f"{name} can't be {value!r}", near or f"it is one of {', '.join(known)}", Exit.USAGE)


def parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """What the words mean.  Raises Failure."""
    found, others = parser.parse_known_args(words)
    if not others:
        return found
    (verbs,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    verb: argparse.ArgumentParser = verbs.choices[found.verb]
    options = [name for action in verb._actions for name in action.option_strings if name.startswith("--")]
    near = _near(others[0].partition("=")[0], options) if others[0].startswith("-") else ""
    what = "option" if others[0].startswith("-") else "argument"
    hint = near or f"`{verb.prog} --help` shows what it takes"
    raise Failure(f"{verb.prog} takes no {what} {others[0]!r}", hint, Exit.USAGE)


def _near(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, known, n=3)
    return f"did you mean {' or '.join(found)}?" if found else ""
