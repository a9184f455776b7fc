"""What of the daemon's settings decides about rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from netpold.policy.model import Mode


@dataclass(frozen=True, slots=True)
class CompileSettings:
    """What of the settings decides about rules.

    `anti_spoofing`: a pod's interface takes packets only with the pod's addresses as source.
    `accept`: traffic of this node's pods that is allowed is accepted, instead of going on to the host's other rules.
    `host_access`, `host_to_pods`: "allow", or "policy" where policies judge traffic of pods with their own node too.
    `nflog_group`: dropped packets, and those that audited policies would drop, are copied there; 0: nowhere.
    `mode`: of policies that say none, in namespaces that say none.
    """

    anti_spoofing: bool = True
    accept: bool = False
    host_access: Literal["allow", "policy"] = "allow"
    host_to_pods: Literal["allow", "policy"] = "allow"
    nflog_group: int = 92
    mode: Mode = "enforce"
