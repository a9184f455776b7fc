"""Protocols and ports in few words."""

from __future__ import annotations

from netpold.rules.services import Span

_PROTOCOLS = ("TCP", "UDP", "SCTP", "other")
_LAST = 65535


def services(spans: tuple[Span, ...]) -> str:
    """Protocols and ports: `80/TCP, 8000-8999/TCP`, `everything`, `everything but 22/TCP`."""
    by_protocol = {protocol: [span for span in spans if span.protocol == protocol] for protocol in _PROTOCOLS}
    missing = [gap for protocol, given in by_protocol.items() for gap in _gaps(protocol, given)]
    if not missing:
        return "everything"
    if len(missing) < len(spans) and sum(span.is_whole for span in missing) < 2:
        return f"everything but {', '.join(map(_span, missing))}"
    words: list[str] = []
    for protocol, given in by_protocol.items():
        gaps = _gaps(protocol, given)
        if given and len(gaps) < len(given) and not given[0].is_whole:
            ports = ", ".join(_ports(gap) for gap in gaps)
            words.append(f"every {protocol} port but {ports}")
        else:
            words += map(_span, given)
    return ", ".join(words)


def _gaps(protocol: str, given: list[Span]) -> list[Span]:
    """What a protocol has beside these spans, which are in order."""
    if protocol == "other":
        return [] if given else [Span(protocol, 0, 0)]
    ends = [0, *(number for span in given for number in (span.first - 1, span.last)), _LAST]
    pairs = zip(ends[::2], ends[1::2], strict=True)
    return [Span(protocol, low + 1, high) for low, high in pairs if low < high]


def _span(span: Span) -> str:
    if span.protocol == "other":
        return "ICMP and other protocols"
    return f"every {span.protocol} port" if span.is_whole else f"{_ports(span)}/{span.protocol}"


def _ports(span: Span) -> str:
    return f"{span.first}-{span.last}" if span.first != span.last else str(span.first)
