"""Manifests: the bytes of a file to pods, namespaces, nodes and policies, and what is wrong with them.

Every document stands for itself: one that fails never stops another.  An object that fails the checks is given all the
same, quarantined, as far as it can be told which object it is; the module that reads its kind (`pods.py`,
`policies.py`, ...) says what that means.  Where it can't be told, or where reading broke off, the result is
`truncated`: the file may hold any object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from netpold.policy import cluster_policies
from netpold.policy.chunks import LIMITS, Limits
from netpold.policy.cluster_forms import FORMS, GROUP
from netpold.policy.fields import Fields, nearest
from netpold.policy.findings import MOST_IN_FILE, Findings
from netpold.policy.model import ClusterPolicy, Finding, Namespace, Pod, Policy
from netpold.policy.model import Node as ClusterNode
from netpold.policy.nodes import read_node
from netpold.policy.pods import read_namespace, read_pod
from netpold.policy.policies import read_policy
from netpold.policy.reader import Document, read, read_chunk
from netpold.policy.tree import Map, Node, Scalar, is_null, is_text, shown

Object = Pod | Namespace | Policy | ClusterPolicy | ClusterNode


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file says.

    `objects`: in the order of the file, quarantined ones included.  `findings`: of very many, the first, and a count.
    `passed_over`: objects of other kinds, by kind.
    `truncated`: there may be objects in the file that are not among `objects`.
    """

    objects: tuple[Object, ...]
    findings: tuple[Finding, ...]
    passed_over: Mapping[str, int]
    truncated: bool


_POLICIES = "networking.k8s.io/v1"
# by kind, its versions (the one to write first), and what reads it
_READERS: dict[str, tuple[tuple[str, ...], Callable[[Fields, Map], Object | None]]] = {
    "NetworkPolicy": ((_POLICIES,), read_policy),
    "Namespace": (("v1",), read_namespace),
    "Pod": (("v1",), read_pod),
    "Node": (("v1",), read_node),
    **{kind: (form.versions, cluster_policies.READERS[kind]) for kind, form in FORMS.items()},
}
_LISTS = {"List": ("v1",), **{f"{kind}List": versions for kind, (versions, _) in _READERS.items()}}
_OUR_VERSIONS = frozenset(version for versions, _ in _READERS.values() for version in versions)
# Other kinds of the groups that netpold reads, without `List` at the end.
_OTHERS: dict[str, frozenset[str]] = {
    _POLICIES: frozenset({"Ingress", "IngressClass", "IPAddress", "ServiceCIDR"}),
    **{version: frozenset() for form in FORMS.values() for version in form.versions},
}
_KIND = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_VERSION = re.compile(r"([a-z0-9]([-a-z0-9.]{0,252}[a-z0-9])?/)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
MOST_KINDS = 100  # that are counted by their names in what is parsed at once
OTHER_KINDS = "other kinds"
NOTHING: Mapping[str, int] = {}  # one for all files with nothing passed over
_LIST = frozenset({"apiVersion", "kind", "metadata", "items"})


def parse(data: bytes, file: str, limits: Limits = LIMITS) -> Parsed:
    """What the file `file` with the content `data` says.  Raises nothing, whatever the bytes are."""
    return _parsed(read(data, limits), file)


def parse_chunk(chunk: bytes, file: str, line: int, limits: Limits = LIMITS) -> Parsed:
    """What one chunk of a file says (see `chunks.split`); `line`: its first line, from 0.  Raises nothing."""
    return _parsed(read_chunk(chunk, 0, line, limits), file)


def _parsed(documents: Iterable[Document], file: str) -> Parsed:
    result = _Result(file)
    for document in documents:
        result.add(document)
    findings = tuple(result.findings.told("this file"))
    return Parsed(tuple(result.objects), findings, result.passed_over or NOTHING, result.truncated)


class _Result:
    """A Parsed in the making."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.objects: list[Object] = []
        self.findings = Findings(MOST_IN_FILE)
        self.passed_over: dict[str, int] = {}
        self.truncated = False

    def add(self, document: Document) -> None:
        """Take in one document, or one entry of a List."""
        root, head = document.root, document.head
        if head is not None and not _may_be_list(head):
            return
        prefix = "" if document.item is None else f"items[{document.item}]"
        fields = Fields(self._file, document.line, root, prefix)
        if document.faults:
            fields.refused(document.faults)
        if document.broken:
            self.truncated = True
        if isinstance(root, Map):
            self._object(fields, root, head)
            if not fields.ours and not document.broken:
                return
        elif document.faults:
            self.truncated = True
        elif isinstance(root, Scalar) and is_null(root):
            if root.value:  # a tool wrote it that had nothing to say; a document with nothing in it is somebody's wish
                self._nothing(fields, root, "this document says `null`", "take it out, or write the objects")
        elif root is not None:
            self.truncated = True
            cure = "write `apiVersion:`, `kind:` and `metadata:`"
            fields.error(root, "not-an-object", "this is no Kubernetes object", cure)
        self.findings.add(fields.findings())

    def _object(self, fields: Fields, root: Map, head: Map | None) -> None:
        kind, version = _plain_text(root, "kind"), _plain_text(root, "apiVersion")
        if kind is None and version is None and head is not None:
            kind, version = _of_typed_list(head)
        kind = self._kind(fields, root, kind, version)
        if kind in _LISTS:
            self._list(fields, root, kind, version, head)
        elif kind in _READERS:
            wanted, reader = _READERS[kind]
            if not self._is_foreign(fields, root, kind, version, wanted):
                self._take(fields, reader(fields, root))
        elif kind is not None and (head is not None or self._is_other(fields, root, kind, version)):
            fields.ours = False
            self._pass_over(shown(kind))

    def _is_other(self, fields: Fields, root: Map, kind: str, version: str | None) -> bool:
        """Whether it is an object of another kind, and not what a torn file or a broken tool leaves of one of ours."""
        node = root["kind"]
        if fields.failed:
            return True  # that was said already, and what the file may hold is not known
        others = _OTHERS.get(version or "")
        if not _KIND.fullmatch(kind) or not _VERSION.fullmatch(version or "v1"):
            fault = "no Kubernetes object has this `kind` and `apiVersion`"
        elif others is not None and kind.removesuffix("List") not in others:
            fault = f"there is no `{shown(kind)}` in `{version}`"
        elif (kind, version) == ("Status", "v1"):
            fault = "this is an answer of the API server, mostly one that says what failed"
        else:
            return True
        self.truncated = True
        fields.error(node, "kind", fault, "write the object as it was meant, or take the document out of the file")
        return False

    def _nothing(self, fields: Fields, node: Node, fault: str, cure: str) -> None:
        """Something that failed may have left this: what the file held before stays."""
        self.truncated = True
        fields.warn(node, "nothing-written", fault, cure)

    def _pass_over(self, kind: str) -> None:
        if kind not in self.passed_over and len(self.passed_over) >= MOST_KINDS:
            kind = OTHER_KINDS
        self.passed_over[kind] = self.passed_over.get(kind, 0) + 1

    def _take(self, fields: Fields, found: Object | None) -> None:
        if not fields.placed:
            self.truncated = True
        if found is not None:
            self.objects.append(found)

    def _kind(self, fields: Fields, root: Map, kind: str | None, version: str | None) -> str | None:
        """The kind as far as it can be told; a policy whose kind is missing is told by its fields."""
        if kind in _READERS or kind in _LISTS:
            return kind
        spec = root.get("spec")
        is_policy = isinstance(spec, Map) and ("podSelector" in spec or "policyTypes" in spec)
        is_of_cluster = isinstance(spec, Map) and "subject" in spec and not is_policy
        meant = None
        if kind is not None:
            meant = nearest(kind, _READERS) or nearest(kind, _LISTS)
            if is_policy and version == _POLICIES:
                meant = "NetworkPolicy"
            elif is_of_cluster and (version or "").startswith(f"{GROUP}/"):
                meant = "ClusterNetworkPolicy"
            if not meant or version not in (None, *_OUR_VERSIONS):
                return kind
            fields.error(root["kind"], "kind", f"there is no kind `{shown(kind)}`", f"write `kind: {meant}`")
        else:
            fields.text(root.get("kind"))
            fields.missing(root, "kind", "write `kind:`, as in `kind: NetworkPolicy`")
        self.truncated = True
        if is_of_cluster and meant not in FORMS:
            return "ClusterNetworkPolicy"
        return "NetworkPolicy" if is_policy else meant

    def _is_foreign(self, fields: Fields, root: Map, kind: str, version: str | None, wanted: tuple[str, ...]) -> bool:
        """Whether it is another project's object of the same kind; a wrong or missing apiVersion is an error."""
        if version in wanted:
            return False
        node = root.get("apiVersion")
        if version is None:
            fields.text(node)
            fields.missing(root, "apiVersion", f"write `apiVersion: {wanted[0]}`")
            return False
        assert node is not None
        group = version.rpartition("/")[0]
        is_typo = "k8s" in group or "networking" in group or nearest(group, ("networking.k8s.io", GROUP))
        if "." in group and not is_typo:
            self._pass_over(f"{kind} ({shown(version)})")
            fault = f"a {kind} of `{shown(group)}` is not read"
            self.truncated |= fields.failed  # what the reader refused may be what would make it netpold's
            fields.warn(node, "foreign-kind", fault, f"write `apiVersion: {wanted[0]}` if it is meant for netpold")
            return True
        fault = f"there is no `{kind}` in `{shown(version)}`"
        fields.error(node, "api-version", fault, f"write `apiVersion: {wanted[0]}`")
        return False

    def _list(self, fields: Fields, root: Map, kind: str, version: str | None, head: Map | None) -> None:
        """What remains of a List when its entries are read."""
        if head is not None:
            self.truncated = True
            fields.error(root, "nested-list", "a List stands in a List", "put its entries into the outer one")
            return
        if version not in _LISTS[kind]:
            node = root.get("apiVersion")
            fault = "`apiVersion` is missing" if node is None else f"there is no `{kind}` of this `apiVersion`"
            fields.warn(root if node is None else node, "api-version", fault, f"write `apiVersion: {_LISTS[kind][0]}`")
        for key in root.keys() - _LIST:
            fields.warn(root.scalars[key], "unknown-field", f"a List has no field `{shown(key)}`", "take it out")
        if "items" not in root:
            fields.missing(root, "items", "write `items: []` for an empty list")
        elif is_null(root["items"]):
            self._nothing(fields, root["items"], "`items` holds nothing", "write `items: []` for an empty list")
        elif fields.seq(root["items"]) is None:
            fields.failed = True
        if fields.failed:  # its entries may not have been read
            self.truncated = True


def _may_be_list(head: Map) -> bool:
    kind = _plain_text(head, "kind")
    return kind is None or kind in _LISTS


def _of_typed_list(head: Map) -> tuple[str | None, str | None]:
    """The kind and apiVersion that entries of a PodList (and so on) have where they have none of their own."""
    kind = _plain_text(head, "kind")
    return (kind.removesuffix("List"), _LISTS[kind][0]) if kind in _LISTS and kind != "List" else (None, None)


def _plain_text(root: Map, key: str) -> str | None:
    node = root.get(key)
    return node.value if isinstance(node, Scalar) and is_text(node) and node.value else None
