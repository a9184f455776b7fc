"""All metrics in the text format of Prometheus, by its library; docs/metrics.md lists them.

Names follow https://prometheus.io/docs/practices/naming: base units, and what is counted ends in `_total`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from netpold.host.drops import DropTotals
from netpold.host.metrics import BUCKETS, Figures, Tally
from netpold.policy.model import policy_kind

STATES = ("starting", "enforcing", "degraded")


def exposition(version: str, tally: Tally, figures: Figures, drops: DropTotals) -> bytes:
    """The text of these values, and of the process."""
    registry = CollectorRegistry()
    registry.register(_Collected([*_states(version, figures), *_work(tally), *_inputs(figures), *_drops(drops)]))
    ProcessCollector(registry=registry)
    return bytes(generate_latest(registry))


class _Collected(Collector):
    """A collector whose metrics are already there."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


_Values = Iterable[tuple[tuple[str, ...], float]]


def _gauge(name: str, help: str, labels: tuple[str, ...], values: _Values) -> Metric:
    metric = GaugeMetricFamily(name, help, labels=labels)
    for texts, value in values:
        metric.add_metric(texts, value)
    return metric


def _counter(name: str, help: str, labels: tuple[str, ...], values: _Values) -> Metric:
    metric = CounterMetricFamily(name, help, labels=labels)
    for texts, value in values:
        metric.add_metric(texts, value)
    return metric


def _states(version: str, figures: Figures) -> Iterator[Metric]:
    yield _gauge("netpold_build_info", "Which netpold runs; always 1.", ("version",), [((version,), 1)])
    yield _gauge("netpold_backend_info", "Which iptables it uses; always 1.", ("backend",), [((figures.backend,), 1)])
    states = [((state,), float(state == figures.state)) for state in STATES]
    yield _gauge("netpold_state", "1 for the state that the daemon is in, 0 for the others.", ("state",), states)
    revision = "How often the kernel's rules or sets were changed since the daemon started."
    yield GaugeMetricFamily("netpold_revision", revision, value=figures.revision)
    warnings = "What a person should look at on the host: `netpoldctl status` shows it."
    yield GaugeMetricFamily("netpold_warnings", warnings, value=len(figures.warnings))


def _work(tally: Tally) -> Iterator[Metric]:
    bounds = [*map(str, BUCKETS), "+Inf"]
    yield HistogramMetricFamily(
        "netpold_apply_duration_seconds",
        "How long it took to bring changes into the kernel.",
        buckets=list(zip(bounds, accumulate(tally.applies), strict=True)),
        sum_value=tally.apply_seconds,
    )
    if tally.last_apply_at is not None:
        at = "When the kernel was changed last, in Unix time."
        yield GaugeMetricFamily("netpold_last_apply_timestamp_seconds", at, value=tally.last_apply_at)
        took = "How long the last change of the kernel took."
        yield GaugeMetricFamily("netpold_last_apply_duration_seconds", took, value=tally.last_apply_seconds)
    failures = "How often what should be in force could not be brought there; what was in force stayed."
    yield CounterMetricFamily("netpold_apply_failures_total", failures, value=tally.failures)
    repairs = "How often another program had changed netpold's rules or sets, and they were put back."
    yield CounterMetricFamily("netpold_drift_repairs_total", repairs, value=tally.repairs)
    cut = "Open flows that were no longer allowed and were made to stop."
    yield CounterMetricFamily("netpold_flows_cut_total", cut, value=tally.flows_cut)


def _inputs(figures: Figures) -> Iterator[Metric]:
    policies, pods = figures.policies, figures.pods
    yield _gauge(
        "netpold_policies",
        "Policies by what the checks said; of a rejected one the last good version is in force, if there is one.",
        ("result",),
        [(("accepted",), policies.accepted), (("rejected",), policies.rejected)],
    )
    quarantined = "Rejected policies without a good version: the pods that they may select are closed."
    yield GaugeMetricFamily("netpold_quarantined_policies", quarantined, value=policies.quarantined)
    yield GaugeMetricFamily("netpold_pods", "Pods in the manifests.", value=pods.total)
    yield GaugeMetricFamily("netpold_local_pods", "Pods of this node.", value=pods.local)
    audited = "Policies in audit mode: what they would drop is let through."
    yield GaugeMetricFamily("netpold_audited_policies", audited, value=len(figures.audited.policies))
    isolated = "Pods of this node that NetworkPolicies isolate."
    yield GaugeMetricFamily("netpold_isolated_pods", isolated, value=pods.isolated)
    judged = "Pods of this node that ClusterNetworkPolicies are about."
    yield GaugeMetricFamily("netpold_pods_in_tiers", judged, value=pods.in_tiers)
    hidden = "Pods of this node that are enforced by address, as no interface is known for them."
    yield GaugeMetricFamily("netpold_pods_without_interface", hidden, value=pods.without_interface)
    yield GaugeMetricFamily("netpold_namespaces", "Namespaces in the manifests.", value=figures.namespaces)
    rules = [((family.lower(),), count) for family, count in figures.rules.items()]
    yield _gauge("netpold_rules", "Rules in netpold's chains.", ("family",), rules)
    yield GaugeMetricFamily("netpold_sets", "Sets that these rules refer to.", value=figures.sets)
    found = Counter((str(finding.severity), finding.code) for finding in figures.findings)
    yield _gauge("netpold_findings", "What is wrong with manifests.", ("severity", "code"), sorted(found.items()))


def _drops(drops: DropTotals) -> Iterator[Metric]:
    pods = [((*key.split("/", 1), str(direction)), count) for (key, direction), count in sorted(drops.pods.items())]
    labels = ("namespace", "pod", "direction")
    yield _counter(
        "netpold_dropped_packets_total",
        "Packets to (ingress) or from (egress) a pod of this node that no policy allows.",
        labels,
        [(texts, count.packets) for texts, count in pods],
    )
    yield _counter(
        "netpold_dropped_bytes_total",
        "Bytes of these packets, with their IP headers.",
        labels,
        [(texts, count.bytes) for texts, count in pods],
    )
    yield _counter(
        "netpold_policy_dropped_packets_total",
        "Packets that were dropped for a pod, for each policy that isolates it in that direction, or may deny.",
        ("namespace", "policy", "direction"),
        [
            ((*_policy(key), str(direction)), count.packets)
            for (key, direction), count in sorted(drops.policies.items())
        ],
    )
    yield _counter(
        "netpold_spoofed_packets_total",
        "Packets from pods of this node that were dropped for a source address which is not the pod's own.",
        ("family",),
        [((f"ipv{family}",), count.packets) for family, count in sorted(drops.spoofed.items())],
    )
    failures = "How often the kernel could not be asked what it dropped."
    yield CounterMetricFamily("netpold_drop_read_failures_total", failures, value=drops.failures)


def _policy(key: str) -> tuple[str, str]:
    """Namespace and name; '' for the namespace of a policy of the cluster."""
    namespace, slash, name = key.partition("/")
    return (namespace, name) if slash and policy_kind(key) == "NetworkPolicy" else ("", key)
