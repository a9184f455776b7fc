"""ICMP errors about flows, of those who have a part in them and of those who have none."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.attacks.attack import Attack, about, ask, icmp_error
from tests.hostile.ground import CONTROL, Ground, ip

_ERRORS = ("unreachable", "too-big", "expired")


def _errors() -> Iterator[Attack]:
    for kind in _ERRORS:
        yield Attack(f"error-{kind}-of-the-other-end", "d", "b", about("d", "b", "d", kind), True)
        yield Attack(f"error-{kind}-of-a-router-outside", "out", "b", about("out", "b", "far", kind), True)
        yield Attack(f"error-{kind}-about-nothing", "c", "b", about("c", "b", "c", kind, known=False))
        yield Attack(f"error-{kind}-about-a-foreign-flow", "c", "b", about("c", "b", "d", kind))
        yield Attack(f"error-{kind}-about-a-foreign-flow-without-egress", "d", "b", about("d", "b", "e", kind))
        yield Attack(f"error-{kind}-about-a-flow-to-afar", "c", "b", about("c", "b", "far", kind))
        yield Attack(
            f"error-{kind}-about-another's-answers", "c", "b", about("c", "a", "b", kind, to="b", reverse=True)
        )
        yield Attack(f"error-{kind}-to-who-has-no-part", "d", "b", about("d", "e", "d", kind, to="b"))


def _redirected(sender: str, asked: str) -> Attack:
    return Attack(f"error-redirect-{sender}", sender, "b", about(sender, "b", asked, "redirect"), False, (4,))


def _from_link_local(ground: Ground, family: int) -> None:
    ask(ground, 6, "b", "d", 4000, CONTROL)
    quoted = ground.address("b", 6), ground.address("d", 6)
    error = icmp_error(ground, 6, "unreachable", *quoted, (4000, CONTROL))
    ground.send("c", ip(ground.link_local("c"), quoted[0], hlim=255) / error)


ERRORS = (
    *_errors(),
    _redirected("d", "d"),
    _redirected("c", "d"),
    Attack("error-from-a-link-local-address", "c", "b", _from_link_local, False, (6,)),
)
