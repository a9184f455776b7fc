"""The codes of findings: what each stands for, and what helps.

A code never changes its meaning, so that tools may go by it.  What a finding says beside its code is about the one
place where it was found; here stands what holds of all of them.  docs/checks.md shows the table to people, SARIF output
hands it to tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for, and what helps; each a sentence or more."""

    meaning: str
    cure: str


FILES: Mapping[str, Code] = {
    "unreadable-file": Code("The system does not let netpold read the file.", "Make it readable."),
    "unreadable-directory": Code("The system does not let netpold list the directory.", "Make it readable."),
    "not-a-file": Code("Something else stands where a file should be.", "Put a file there, or rename it."),
    "not-a-directory": Code("Something else stands where a directory was.", "Put it back, or delete what is there."),
    "file-too-large": Code("The file is larger than `max_file_size`.", "Split it, or raise the setting."),
    "dangling-symlink": Code("The symlink leads to nothing.", "Mend or delete it."),
    "still-changing": Code("The file is being written all the time.", "Write it once, and rename it into place."),
    "unprintable-name": Code("The file's name can't be printed.", "Rename it to printable UTF-8."),
    "stale-git-lock": Code(
        "Git left a lock behind: the work tree seems to be in the middle of a change.", "Delete the lock."
    ),
    "emptied-file": Code(
        "The file held objects and is empty now, which a write that failed leaves behind.",
        "Write it again, or delete it if its objects are to go.",
    ),
    "cut-file": Code(
        "The file ended with a newline before and does not now, so it may have been cut off in a write.",
        "Write it as a whole, with a newline at its end.",
    ),
    "unmounted-directory": Code("The directory held files and is an empty mount point now.", "Mount it, or delete it."),
    "may-be-here": Code(
        "An object is in no file any more, and a file that can't be read to its end may hold it: it stays as it was.",
        "Mend that file.",
    ),
    "link-out-of-tree": Code(
        "A symlink leads out of the directory of manifests.", "Put a copy there, or name its target in `linked_trees`."
    ),
    "foreign-file": Code("The file belongs to a user who is not trusted.", "Give it to root, or set `trusted_users`."),
    "foreign-directory": Code(
        "The directory belongs to a user who is not trusted.", "Give it to root, or set `trusted_users`."
    ),
    "foreign-symlink": Code(
        "The symlink belongs to a user who is not trusted.", "Give it to root, or set `trusted_users`."
    ),
    "world-writable-file": Code("Everybody may write to the file.", "`chmod o-w`."),
    "world-writable-directory": Code("Everybody may write to the directory.", "`chmod o-w`."),
}

TEXT: Mapping[str, Code] = {
    "syntax": Code("This is no YAML.", "Mend it where the message says; an editor with YAML support shows it."),
    "not-utf8": Code("The bytes are no UTF-8.", "Save the file as UTF-8."),
    "control-character": Code("There is a character that YAML does not allow.", "Take it out."),
    "too-many-documents": Code("The file has more documents than are read.", "Split it."),
    "too-large": Code("The object has more parts than any real one.", "Split it."),
    "too-deep": Code("The object has more levels than any real one.", "Write it with fewer."),
    "scalar-too-large": Code("A text is longer than any real one.", "Make it shorter."),
    "directive": Code("YAML directives (`%NAME`) are not read.", "Take the line out."),
    "alias": Code("YAML aliases (`*name`) are not read.", "Write the value out, or quote it if it is text."),
    "anchor": Code("YAML anchors (`&name`) are not read.", "Take it out, or quote the value if it is text."),
    "tag": Code("YAML tags (`!name`) are not read.", "Take it out, or quote the value if it is text."),
    "merge-key": Code("YAML merge keys (`<<`) are not read.", "Write the fields out."),
    "duplicate-key": Code("A field is written twice; readers differ in which one they take.", "Keep one of them."),
    "key-not-text": Code("A key is not text: mostly a template that was not rendered.", "Write `name: value`."),
    "too-many-faults": Code("There are more faults of the kind than are told.", "Mend those that are told first."),
}

OBJECTS: Mapping[str, Code] = {
    "not-an-object": Code("The document is no Kubernetes object.", "Write `apiVersion`, `kind` and `metadata`."),
    "nested-list": Code("A List stands in a List.", "Put its entries into the outer one."),
    "kind": Code("There is no such kind.", "Correct `kind`."),
    "api-version": Code("There is no such `apiVersion` for the kind.", "Correct `apiVersion`."),
    "foreign-kind": Code("It is another project's, of a kind with the same name.", "Nothing, if that is meant."),
    "unknown-field": Code("There is no such field here, so what it says would be lost.", "Correct its name or place."),
    "missing-field": Code("A field that must be there is missing.", "Write it."),
    "nothing-written": Code("Nothing stands behind a key; tools differ in what that means.", "Write what is meant."),
    "wrong-type": Code("A value has the wrong type.", "Write the type that the message asks for."),
    "map-for-list": Code("A map stands where a list belongs.", "Write `- ` before its first key."),
    "not-text": Code("An unquoted value is a number, truth value or date to YAML.", "Quote it."),
    "unquoted-letter": Code("Unquoted `y` and `n` are truth values to some readers.", "Quote it."),
    "number-notation": Code("A number in a notation that readers take differently.", "Write it in decimal."),
    "name": Code("The object's name is not valid.", "Correct `metadata.name`."),
    "namespace": Code("The namespace's name is not valid.", "Correct `metadata.namespace`."),
    "name-label": Code("The label `kubernetes.io/metadata.name` is always the namespace's name.", "Take it out."),
    "label-key": Code("The label's key is not valid.", "Correct it."),
    "label-value": Code("The label's value is not valid.", "Correct it."),
    "annotation-key": Code("The annotation's key is not valid.", "Correct it."),
    "annotations-too-large": Code("The annotations are larger than an API server takes.", "Make them shorter."),
    "mode": Code("There is no such mode.", "Write `enforce` or `audit`."),
    "duplicate-object": Code("The same object is in two places.", "Keep one of them."),
    "conflicting-objects": Code("Two different objects have one name: neither is in force.", "Keep one of them."),
}

PODS: Mapping[str, Code] = {
    "address": Code("The text is no address that a pod can have.", "Correct `status.podIPs`."),
    "address-not-canonical": Code("The address is not in its usual form.", "Write it as the message says."),
    "address-claimed-twice": Code("Two live pods claim one address.", "Take out the manifest of the one that is gone."),
    "too-many-addresses": Code("The pod has more addresses than any real one.", "Write those that it has."),
    "too-many-interfaces": Code("The pod has more interfaces than any real one.", "Write those that it has."),
    "interface": Code("The interface's name is not valid.", "Correct the annotation `netpold.io/interface`."),
    "node-name": Code("The node's name is not valid.", "Correct `spec.nodeName`."),
    "phase": Code("There is no such phase.", "Correct `status.phase`."),
    "duplicate-port-name": Code("One name stands for two ports of a container.", "Give each a name of its own."),
    "interface-refused-by-kernel": Code("The kernel does not take the interface's name.", "Rename the interface."),
}

POLICIES: Mapping[str, Code] = {
    "no-spec": Code("Without `spec` it closes all pods of its namespace.", "Write what is meant."),
    "no-pod-selector": Code("Without `podSelector` it selects all pods.", "Write `podSelector: {}` if meant."),
    "policy-type": Code("There is no such policy type.", "Write `Ingress`, `Egress` or both."),
    "rules-unused": Code("`policyTypes` does not list the direction of these rules.", "List it, or take them out."),
    "empty-peer": Code("A peer does not say who it is.", "Write a selector or an `ipBlock`."),
    "mixed-peer": Code("`ipBlock` stands beside a selector in one peer.", "Make two peers of it."),
    "selector-operator": Code("There is no such operator.", "Write In, NotIn, Exists or DoesNotExist."),
    "selector-values": Code("The operator's `values` are missing, or are there and must not be.", "Correct them."),
    "cidr": Code("The text is no CIDR.", "Write an address, `/` and a prefix length."),
    "cidr-host-bits": Code(
        "The CIDR has bits set beyond its prefix. They are cut; in a ClusterNetworkPolicy of v1beta1 they are an "
        "error.",
        "Write the network, or a /32.",
    ),
    "cidr-not-canonical": Code("The CIDR is not in its usual form.", "Write it as the message says."),
    "except-outside": Code("An entry of `except` does not lie inside `cidr`.", "Correct it, or take it out."),
    "port-name": Code("The text is no port name.", "Write a number without quotes, or a container port's name."),
    "port-number": Code("There is no such port.", "Write a number from 1 to 65535."),
    "end-port": Code("`endPort` has no number to go with, or is less than it.", "Correct the range."),
    "protocol": Code("There is no such protocol.", "Write TCP, UDP or SCTP."),
    "refused-by-kernel": Code("The kernel does not take the rules of this policy.", "The message says what it said."),
}

CLUSTER: Mapping[str, Code] = {
    "cluster-scoped": Code("The object is one of the whole cluster, and names a namespace.", "Take `namespace` out."),
    "tier": Code("There is no such tier.", "Write `Admin` or `Baseline`."),
    "priority": Code("There is no such priority.", "Write a number from 0 (first) to 1000."),
    "equal-priority": Code(
        "Two policies stand in one tier with one priority, and the API leaves open which comes first. Here it is the "
        "one whose name does.",
        "Give each a priority of its own.",
    ),
    "action": Code("There is no such action.", "Write `Accept`, `Deny` or `Pass` (in v1alpha1 `Allow`)."),
    "rule-name": Code("The rule's name is longer than 100 characters.", "Make it shorter."),
    "one-field": Code("Of several fields exactly one has to be written.", "Take the others out, or write one."),
    "empty-list": Code("The list needs an entry.", "Write one, or take out what it belongs to."),
    "too-many-entries": Code("The list has more entries than the API takes.", "Make more than one of it."),
    "duplicate-entry": Code("An entry stands twice in a list that takes each once.", "Take one of them out."),
    "port-range": Code("The end of a range is not greater than its start.", "Correct the range."),
    "named-port-peer": Code(
        "A port's name stands in a rule with addresses or nodes, whose ports have no names.",
        "Write numbers, or make two rules of it.",
    ),
    "domain-name": Code("The text is no domain name.", "Write a name, or `*.` and a name."),
    "domain-names": Code(
        "`domainNames` are not enforced: docs/semantics.md says why.", "Write the addresses as `networks`."
    ),
    "deprecated-kind": Code(
        "AdminNetworkPolicy and BaselineAdminNetworkPolicy are deprecated. They are in force as they are written.",
        "Write a ClusterNetworkPolicy.",
    ),
    "node-address": Code("The text is no address that a node can have.", "Correct `status.addresses`."),
}

LINT: Mapping[str, Code] = {
    "selects-no-pod": Code(
        "The policy selects no pod, so it does nothing.",
        "Compare its selectors with the pods' labels, or take the policy out.",
    ),
    "peer-selects-no-pod": Code(
        "No pod has the labels that a peer asks for, so the peer stands for nobody.",
        "Compare the peer's selectors with the pods' labels, or take the peer out.",
    ),
    "selects-no-namespace": Code(
        "No namespace has the labels that a selector asks for. A namespace without a Namespace object has "
        "no label but `kubernetes.io/metadata.name`.",
        "Add the labels to the Namespace object, write the object, or correct the selector.",
    ),
    "empty-block": Code(
        "The entries of `except` take away all of the block, so it allows nothing.", "Correct `except`, or take it out."
    ),
    "no-such-port": Code(
        "No container of the pods concerned has a port of that name and protocol, so it matches nothing.",
        "Name the port in the pods' containers, correct the name or its protocol, or write the number.",
    ),
    "port-name-of-block": Code(
        "An egress rule has only addresses as its peers, and these have no containers: a port's name matches nothing.",
        "Write the port's number.",
    ),
    "rule-covered": Code(
        "Whatever the rule allows, another rule allows for the same pods, too.",
        "Take the rule out, or narrow the other one if that is too wide.",
    ),
    "rule-hidden": Code(
        "Whatever a rule of a policy of the cluster matches, one before it in the same policy matches, too: it never "
        "counts (but a Deny behind another action for addresses that several pods claim, and for who can't be told).",
        "Take it out, or put it before that one.",
    ),
    "selects-no-node": Code(
        "No node has the labels that a peer asks for, so the peer stands for nobody.",
        "Add the Node objects (`kubectl get nodes -o yaml`), or correct the selector.",
    ),
    "dns-forgotten": Code(
        "Pods that may send somewhere can't ask any DNS server: none of their egress rules allows 53/UDP.",
        "Add an egress rule with `ports: [{port: 53, protocol: UDP}, {port: 53}]`.",
    ),
}

TESTS: Mapping[str, Code] = {
    "test-verdict": Code(
        "A test has either `allow` or `deny`.", "Write one of them, and `{from: ..., to: ...}` behind it."
    ),
    "test-end": Code(
        "Nobody can be meant by an end of a test.", "Write a pod, an address, or a map that selects pods."
    ),
    "test-port": Code("The text is no port.", "Write 80/TCP, 8000-8999/TCP, TCP for all of its ports, or ICMP."),
}

CODES: Mapping[str, Code] = {**FILES, **TEXT, **OBJECTS, **PODS, **POLICIES, **CLUSTER, **LINT, **TESTS}
