"""Packets of connections that never were."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scapy.layers.inet import (
    TCP,
    UDP,
)
from scapy.packet import Packet, Raw

from tests.hostile.attacks.attack import Act, Attack, ask, honest
from tests.hostile.ground import Ground, ip


def _tcp(flags: str, sport: int = 4000, dport: int = 80) -> Callable[[Ground, int], Packet]:
    return lambda ground, family: TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=1000) / Raw(ground.token)


_FLAGS = {
    "syn": "S", "ack": "A", "push": "PA", "syn-ack": "SA", "fin": "F", "fin-ack": "FA", "rst": "R", "rst-ack": "RA",
    "null": "", "xmas": "FPU", "everything": "FSRPAUEC", "syn-fin": "SF", "ecn-syn": "SEC",
}  # fmt: skip


def _flags() -> Iterator[Attack]:
    for name, flags in _FLAGS.items():
        yield honest(f"tcp-{name}-from-a-stranger", "c", "b", _tcp(flags))
        yield honest(f"tcp-{name}-to-a-closed-port", "a", "b", _tcp(flags, dport=81))
        # b may connect to port 80 of d: so d has to pass for one who answers
        yield honest(f"tcp-{name}-as-an-answer", "d", "b", _tcp(flags, sport=80, dport=4000))
        yield honest(f"tcp-{name}-out-of-a-closed-pod", "d", "e", _tcp(flags, sport=80, dport=4000))


def _udp(sport: int, dport: int) -> Callable[[Ground, int], Packet]:
    return lambda ground, family: UDP(sport=sport, dport=dport) / Raw(ground.token)


def _answer(sport: int, dport: int) -> Act:
    """b asks d, and d answers from one port to another."""

    def act(ground: Ground, family: int) -> None:
        ask(ground, family, "b", "d", 4000, 80)
        header = ip(ground.address("d", family), ground.address("b", family))
        ground.send("d", header / UDP(sport=sport, dport=dport) / Raw(ground.token))

    return act


def _simultaneous(ground: Ground, family: int) -> None:
    """d sends a SYN first, then b, which may connect to d; d goes on as if b had answered."""
    there, back = ground.address("d", family), ground.address("b", family)
    ground.send("d", ip(there, back) / TCP(sport=80, dport=4000, flags="S", seq=1) / Raw(b"first"))
    ground.send("d", ip(there, back) / TCP(sport=80, dport=4000, flags="A", seq=2, ack=1) / Raw(ground.token))


CONNECTIONS = (
    *_flags(),
    honest("udp-as-an-answer", "d", "b", _udp(80, 4000)),
    honest("udp-as-a-resolver", "c", "b", _udp(53, 4000)),
    Attack("answer-that-was-asked-for", "d", "b", _answer(80, 4000), True),
    Attack("answer-to-another-port", "d", "b", _answer(80, 4001)),
    Attack("answer-from-another-port", "d", "b", _answer(81, 4000)),
    Attack("syn-before-the-other's", "d", "b", _simultaneous),
)
