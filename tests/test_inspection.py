"""Questions that need a look into the kernel: one at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from netpold.daemon import inspection
from netpold.daemon.inbox import Inbox
from netpold.daemon.inspection import Inspection
from netpold.daemon.questions import Facts, NoAnswer, Why
from netpold.daemon.questions_about import Held
from netpold.host.drops import Drops
from netpold.host.kernel.nft import Nft


def never() -> Facts:
    raise AssertionError("nobody asks the loop")


def held() -> Held:
    raise AssertionError("nobody asks the loop")


def test_one_look_at_a_time_and_who_waits_in_vain_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Inspection(Nft(), Drops(), Inbox(), never, held)
    begun, end = threading.Event(), threading.Event()

    def long(_: Inspection, parameters: Mapping[str, str]) -> dict[str, Any]:
        begun.set()
        assert end.wait(20)
        return dict(parameters)

    monkeypatch.setattr(inspection, "INSPECTIONS", {"long": long, "short": lambda _, parameters: dict(parameters)})
    monkeypatch.setattr(inspection, "TURN_S", 0.01)
    first = threading.Thread(target=asked.ask, args=("long", {}))
    first.start()
    assert begun.wait(20)
    with pytest.raises(NoAnswer, match="others ask for so much") as told:
        asked.ask("short", {})
    assert told.value.why is Why.BUSY
    end.set()
    first.join()
    assert asked.ask("short", {"name": "x"}) == {"name": "x"}
