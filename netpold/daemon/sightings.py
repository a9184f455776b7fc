"""What can be asked about what netpold saw of packets: OBSERVATIONS, by the ends of their URLs.

drops      after=N, wait=S: events after number N, waited for up to S seconds; latest=N: the latest; allowed=1
audit      since=S: what audited policies have let through within S seconds, and policies that would allow it
suggest    of=NAMESPACE[/POD], direction=, dropped=0: policies for the traffic that was seen
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from netpold.config import Settings
from netpold.daemon.inbox import Inbox, Question
from netpold.daemon.observed import Wanted, audit, suggested, suggestion_json
from netpold.daemon.observer import Observer
from netpold.daemon.questions import Facts, NoAnswer, Parameters, Why, answer, in_time, number
from netpold.daemon.seen import News, moment
from netpold.host import conntrack
from netpold.host.kernel.backend import KernelError
from netpold.policy.model import Direction
from netpold.rules.revoke import Flow
from netpold.rules.ruleset import FAMILIES

Json = dict[str, Any]

LONGEST_WAIT_S = 30.0
ANSWER_S = 30.0  # how long who asks waits for the loop


class Sightings:
    """`look`: see questions.Look; `own`: the node's addresses.  For any thread."""

    def __init__(
        self, settings: Settings, inbox: Inbox, look: Callable[[], Facts], own: Callable[[], Collection[str]]
    ) -> None:
        self.observer = Observer(settings.nflog_group, settings.log_drops, inbox.ask, look)
        self._inbox, self._look, self._own = inbox, look, own

    def ask(self, question: str, parameters: Parameters) -> Json:
        """The answer to one of OBSERVATIONS.  Raises NoAnswer."""
        return OBSERVATIONS[question](self, parameters)

    def drops(self, parameters: Parameters) -> Json:
        """Events, after some number."""
        observer = self.observer
        if number(parameters, "allowed", 0, 1):
            observer.want_allowed()
        wait = number(parameters, "wait", 0, LONGEST_WAIT_S)
        if "latest" in parameters:
            count = int(number(parameters, "latest", 0, 1e6))
            everything = observer.seen.after(0, 0)
            news = News(everything.events[-count:] if count else (), everything.last, 0)
        else:
            news = observer.seen.after(int(number(parameters, "after", 0, 1e15)), wait)
        return {
            "version": 1,
            "since": moment(observer.seen.since),
            "last": news.last,
            "missed": news.missed,
            "lost": observer.lost,
            "uncounted": observer.uncounted,
            "unlisted": observer.unlisted,
            "group": observer.group,
            "warning": observer.warning,
            "events": list(news.events),
        }

    def audit(self, parameters: Parameters) -> Json:
        """What audited policies have let through."""
        observer, since = self.observer, self.observer.seen.since
        if "since" in parameters:
            since = max(since, time.time() - number(parameters, "since", 0, 1e9))
        addresses = self._ask(partial(_addresses, lambda _: True))["addresses"]
        sums, flows = observer.seen.sums(), _flows(addresses)
        told = self._ask(lambda facts, _: audit(facts, sums, flows, since))
        lost = observer.lost + observer.uncounted + observer.unlisted
        more = {"forgotten": observer.seen.forgotten, "lost": lost}
        return {**told, "since": moment(since), **more, "warning": observer.warning}

    def suggest(self, parameters: Parameters) -> Json:
        """Policies that allow what was seen."""
        namespace, slash, pod = parameters.get("of", "").partition("/")
        if not namespace or (slash and not pod):
            hint = "give of=NAMESPACE for all of its pods, or of=NAMESPACE/POD"
            raise NoAnswer(Why.WRONG, "whose traffic is not said", hint)
        try:
            directions = [Direction(parameters["direction"])] if parameters.get("direction") else list(Direction)
        except ValueError as error:
            raise NoAnswer(Why.WRONG, "there is no such direction", "give ingress or egress") from error
        dropped = bool(number(parameters, "dropped", 0, 1, 1))
        wanted = Wanted(f"{namespace}/{pod}" if pod else "", namespace, directions, dropped)
        flows = _flows(self._ask(partial(_addresses, wanted.covers))["addresses"])
        sums, own = self.observer.seen.sums(), self._own()
        return self._ask(lambda facts, _: suggested(facts, wanted, flows, sums, own))

    def _ask(self, question: Callable[[Facts, Parameters], Question[Json]]) -> Json:
        told = in_time(self._inbox, answer(question, self._look, {}), ANSWER_S)
        return {**told, "suggestions": [suggestion_json(each) for each in told.get("suggestions", ())]}


OBSERVATIONS: Mapping[str, Callable[[Sightings, Parameters], Json]] = {
    "drops": Sightings.drops,
    "audit": Sightings.audit,
    "suggest": Sightings.suggest,
}


def _addresses(wanted: Callable[[str], bool], facts: Facts, _: Parameters) -> Question[Json]:
    """Of the pods of this node that are wanted."""
    yield
    return {
        "addresses": [address for key, each in facts.endpoints.items() if wanted(key) for address in each.judged_at]
    }


def _flows(addresses: Collection[str]) -> list[Flow]:
    """Those that are open.  Raises NoAnswer."""
    try:
        return [flow for family in FAMILIES for flow in conntrack.flows(family, frozenset(addresses))]
    except KernelError as error:
        raise NoAnswer(Why.BUSY, str(error), "mend that, and try again") from error
