"""Where pods are, all looked at at once."""

from __future__ import annotations

from collections.abc import Iterable

from netpold.host.locate import Places
from netpold.host.view import HostView
from netpold.policy.model import Pod


def locate(view: HostView, pods: Iterable[Pod], node: str) -> Places:
    places = Places(node)
    places.update(view, {pod.key: (None, pod) for pod in pods})
    return places
