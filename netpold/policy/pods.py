"""Pod and Namespace (v1) from their trees to model.Pod and model.Namespace.

Of a Pod only what netpold reads is checked, as in Kubernetes' apis/core/validation; other fields of its spec and status
may come from newer versions of Kubernetes.  A Pod with errors keeps what could be read of where it is (addresses, node,
interfaces), since it is there that it is isolated; a Namespace with errors keeps its name.
"""

from __future__ import annotations

from netpold.policy.checks import (
    LABEL_RULE,
    SERVICE_RULE,
    SUBDOMAIN_RULE,
    canonical_address,
    is_dns_label,
    is_dns_subdomain,
    is_port_name,
)
from netpold.policy.fields import Fields, nearest, words
from netpold.policy.metadata import metadata, mode
from netpold.policy.model import INTERFACE_ANNOTATION, NAME_LABEL, ContainerPort, Namespace, Pod, Protocol
from netpold.policy.tree import Map, Node, Scalar, Seq, is_null, shown

_OBJECT = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_NAMESPACE_SPEC = frozenset({"finalizers"})
_NAMESPACE_STATUS = frozenset({"phase", "conditions"})
_SPEC = words(
    "volumes initContainers containers ephemeralContainers restartPolicy terminationGracePeriodSeconds "
    "activeDeadlineSeconds dnsPolicy nodeSelector serviceAccountName serviceAccount automountServiceAccountToken "
    "nodeName hostNetwork hostPID hostIPC shareProcessNamespace securityContext imagePullSecrets hostname subdomain "
    "affinity schedulerName tolerations hostAliases priorityClassName priority dnsConfig readinessGates "
    "runtimeClassName enableServiceLinks preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os "
    "hostUsers schedulingGates resourceClaims resources hostnameOverride workloadRef schedulingGroup"
)
_SPEC_READ = ("containers", "hostNetwork", "initContainers", "nodeName")
_STATUS = words(
    "observedGeneration phase conditions message reason nominatedNodeName hostIP hostIPs podIP podIPs startTime "
    "initContainerStatuses containerStatuses qosClass ephemeralContainerStatuses resize resourceClaimStatuses "
    "extendedResourceClaimStatus allocatedResources resources nodeAllocatableResourceClaimStatuses"
)
_STATUS_READ = ("phase", "podIP", "podIPs")
_PHASES = frozenset({"Pending", "Running", "Succeeded", "Failed", "Unknown"})
_CONTAINER = words(
    "name image command args workingDir ports envFrom env resources resizePolicy restartPolicy restartPolicyRules "
    "volumeMounts volumeDevices livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath "
    "terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty"
)
_CONTAINER_READ = ("ports", "restartPolicy")
_PORT = frozenset({"name", "hostPort", "containerPort", "protocol", "hostIP"})
_POD_IP = frozenset({"ip"})
_PROTOCOLS: dict[str, Protocol] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}
MOST_ADDRESSES, MOST_INTERFACES = 64, 64
_ADDRESS_CURE = "write an address: `10.0.0.1` or `2001:db8::1`"


def read_namespace(fields: Fields, root: Map) -> Namespace | None:
    """The namespace of a document; None where its name can't be read."""
    fields.known(root, _OBJECT)
    about = metadata(fields, root, is_dns_label, LABEL_RULE)
    fields.subject = f"Namespace {about.name or '?'}"
    says_mode = mode(fields, root, about)
    phase = None
    for key, known in (("spec", _NAMESPACE_SPEC), ("status", _NAMESPACE_STATUS)):
        found = fields.map(root.get(key))
        if found is not None:
            fields.known(found, known)
            phase = fields.text(found["phase"]) if "phase" in found else None
    if about.name is None:
        return None
    labels = {} if fields.failed else dict(about.labels)
    if labels.get(NAME_LABEL, about.name) != about.name:
        fault = f"the label {NAME_LABEL} is always the namespace's name, `{about.name}`"
        fields.warn(root["metadata"]["labels"][NAME_LABEL], "name-label", fault, "take the label out")
    labels = {**labels, NAME_LABEL: about.name}
    return Namespace(
        about.name,
        labels,
        fields.position(root),
        fields.failed,
        terminating=phase == "Terminating",
        mode=None if fields.failed else says_mode,
    )


def read_pod(fields: Fields, root: Map) -> Pod | None:
    """The pod of a document; None where its namespace or name can't be read."""
    fields.known(root, _OBJECT)
    about = metadata(fields, root, is_dns_subdomain, SUBDOMAIN_RULE)
    fields.subject = f"Pod {about.namespace or '?'}/{about.name or '?'}"
    node, host_network, ports = _spec(fields, root.get("spec"))
    finished, addresses = _status(fields, root.get("status"))
    interfaces: tuple[str, ...] = ()
    if INTERFACE_ANNOTATION in about.annotations:
        interfaces = _interfaces(fields, root["metadata"]["annotations"][INTERFACE_ANNOTATION])
    if about.namespace is None or about.name is None:
        return None
    return Pod(
        namespace=about.namespace,
        name=about.name,
        labels=about.labels,
        addresses=addresses,
        node=node,
        host_network=host_network,
        finished=finished,
        ports=ports,
        interfaces=interfaces,
        position=fields.position(root),
        quarantined=fields.failed,
    )


def _spec(fields: Fields, node: Node | None) -> tuple[str | None, bool, tuple[ContainerPort, ...]]:
    spec = fields.map(node)
    if spec is None:
        return None, False, ()
    fields.mostly_known(spec, _SPEC, _SPEC_READ)
    name = fields.text(spec["nodeName"]) if "nodeName" in spec else None
    if name and not is_dns_subdomain(name):
        fields.error(spec["nodeName"], "node-name", f'"{shown(name)}" is no node name', f"a name is {SUBDOMAIN_RULE}")
        name = None
    host_network = "hostNetwork" in spec and _host_network(fields, spec["hostNetwork"])
    ports: list[ContainerPort] = []
    for container in fields.seq(spec.get("containers")) or ():
        _container(fields, container, ports, stays=True)
    for container in fields.seq(spec.get("initContainers")) or ():
        _container(fields, container, ports, stays=False)
    return name or None, host_network, tuple(ports)


def _host_network(fields: Fields, node: Node) -> bool:
    """Also where it is wrong but clearly meant, as in `"true"`: such a pod's address is its node's."""
    flag = fields.flag(node)
    return flag is True or (isinstance(node, Scalar) and flag is None and node.value.strip().lower() == "true")


def _container(fields: Fields, node: Node, ports: list[ContainerPort], stays: bool) -> None:
    """Add a container's named ports.  An init container stays, and its ports count, with restartPolicy Always."""
    found = fields.map(node)
    if found is None:
        return
    fields.mostly_known(found, _CONTAINER, _CONTAINER_READ)
    if "ports" not in found:
        return
    if not stays:
        stays = fields.text(found.get("restartPolicy")) == "Always"
    names: dict[str, set[Protocol]] = {}
    for entry in fields.seq(found["ports"], "write a list: `- containerPort: 80`") or ():
        port = _port(fields, entry, names)
        if port and stays:
            ports.append(port)


def _port(fields: Fields, node: Node, names: dict[str, set[Protocol]]) -> ContainerPort | None:
    found = fields.map(node, "write `containerPort:` after the `- `")
    if found is None:
        return None
    fields.known(found, _PORT)
    number = fields.number(found.get("containerPort"))
    if number is not None and not 1 <= number <= 65535:
        cure = "write a number from 1 to 65535"
        fields.error(found["containerPort"], "port-number", f"there is no port {shown(str(number))}", cure)
    elif number is None and ("containerPort" not in found or is_null(found["containerPort"])):
        fields.missing(found, "containerPort", "write `containerPort:` and its number")
    protocol = _protocol(fields, found["protocol"]) if "protocol" in found else "TCP"
    name = fields.text(found["name"]) if "name" in found else None
    if not name:
        return None
    if not is_port_name(name):
        fault = f'"{shown(name)}" is no port name'
        fields.error(found["name"], "port-name", fault, f"a port's name is {SERVICE_RULE}")
        return None
    protocols = names.setdefault(name, set())
    if protocol in protocols:
        fault = f'the name "{name}" is used twice in this container'
        fields.error(found["name"], "duplicate-port-name", fault, "give each port a name of its own")
    elif protocols:
        # the API server refuses this too; but what it means to a policy is clear
        fault = f'the name "{name}" is used twice in this container, with two protocols'
        fields.warn(found["name"], "duplicate-port-name", fault, "an API server takes one name once in a container")
    protocols.add(protocol)
    return ContainerPort(name, protocol, number) if number is not None else None


def _protocol(fields: Fields, node: Node) -> Protocol:
    name = fields.text(node)
    if name and name not in _PROTOCOLS:
        cure = f"write `{nearest(name, _PROTOCOLS) or 'TCP`, `UDP` or `SCTP'}`"
        fields.error(node, "protocol", f'there is no protocol "{shown(name)}"', cure)
    return _PROTOCOLS.get(name or "TCP", "TCP")


def _status(fields: Fields, node: Node | None) -> tuple[bool, tuple[str, ...]]:
    """Whether the pod is finished, and its addresses."""
    status = fields.map(node)
    if status is None:
        return False, ()
    fields.mostly_known(status, _STATUS, _STATUS_READ)
    phase = fields.text(status["phase"]) if "phase" in status else None
    if phase and phase not in _PHASES:
        cure = f"write `{nearest(phase, _PHASES) or 'Running'}`"
        fields.error(status["phase"], "phase", f'there is no phase "{shown(phase)}"', cure)
    addresses: dict[str | None, None] = {}  # in order and each once
    entries = fields.seq(status.get("podIPs"), "write a list: `- ip: 10.0.0.1`") or Seq()
    for entry in entries[:MOST_ADDRESSES]:
        addresses[_address(fields, entry)] = None
    if len(entries) > MOST_ADDRESSES:
        fault = f"{len(entries)} addresses; a pod has {MOST_ADDRESSES} at most, and the others are not taken"
        fields.error(entries, "too-many-addresses", fault, "write those that the pod has")
    if "podIP" in status:
        addresses[_canonical(fields, status["podIP"])] = None
    return phase in ("Succeeded", "Failed"), tuple([address for address in addresses if address])


def _address(fields: Fields, node: Node) -> str | None:
    cure = "write `ip:` and the address after the `- `"
    if isinstance(node, Scalar) and not is_null(node):
        cure = f"write `- ip: {shown(node.value)}`"
    found = fields.map(node, cure)
    if found is None:
        return None
    fields.known(found, _POD_IP)
    return _canonical(fields, found.get("ip"))


def _canonical(fields: Fields, node: Node | None) -> str | None:
    text = fields.text(node)
    if not text:
        return None
    address = canonical_address(text)
    if address is None:
        fault = f'"{shown(text)}" is no address that a pod can have'
        fields.error(node, "address", fault, _ADDRESS_CURE)  # type: ignore[arg-type]
        return None
    if address != text:
        fault = f"`{shown(text)}` is taken as {address}"
        fields.warn(node, "address-not-canonical", fault, f"write `{address}`")  # type: ignore[arg-type]
    return address


def _interfaces(fields: Fields, node: Scalar) -> tuple[str, ...]:
    """Names of interfaces, separated by commas; valid as in the kernel's `dev_valid_name`."""
    if not node.value.strip():
        return ()
    names = [name.strip() for name in node.value.split(",", MOST_INTERFACES)]
    if len(names) > MOST_INTERFACES:
        names.pop()
        fault = f"more than {MOST_INTERFACES} interfaces; the others are not taken"
        fields.error(node, "too-many-interfaces", fault, "write those that the pod has")
    right = [name for name in names if _is_interface(name)]
    for name in names:
        if not _is_interface(name):
            fault = f'"{shown(name)}" can be no interface\'s name'
            cure = "separate names by commas; a name has 1 to 15 bytes, no `/`, `:` or space, and no `+` at its end"
            fields.error(node, "interface", fault, cure)
    return tuple(dict.fromkeys(right))


def _is_interface(name: str) -> bool:
    """`+` at the end is a wildcard to iptables, so such a device can't be named in a rule."""
    data = name.encode()
    bad = any(byte in b"/: \t\n\v\f\r\xa0" for byte in data) or name in (".", "..") or name.endswith("+")
    return 0 < len(data) <= 15 and not bad
