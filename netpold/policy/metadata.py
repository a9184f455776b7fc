"""Object metadata (meta/v1 ObjectMeta): what names an object, and its labels and annotations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netpold.policy.checks import KEY_RULE, LABEL_RULE, is_dns_label, is_label_key, labels
from netpold.policy.fields import Fields, nearest, words
from netpold.policy.model import INTERFACE_ANNOTATION, MODE_ANNOTATION, Mode, Position
from netpold.policy.tree import Map, Scalar, Type, is_merge_key, is_null, is_sure, is_text, shown, type_of

_FIELDS = words(
    "name generateName namespace selfLink uid resourceVersion generation creationTimestamp deletionTimestamp "
    "deletionGracePeriodSeconds labels annotations ownerReferences finalizers managedFields"
)
_OWN = (INTERFACE_ANNOTATION, MODE_ANNOTATION)
_MODES: Mapping[str, Mode] = {"enforce": "enforce", "audit": "audit"}
_MOST_ANNOTATIONS = 256 << 10  # bytes of all keys and values (Kubernetes' TotalAnnotationSizeLimitB)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What `metadata` says.  `namespace`, `name` None: it could not be read; `namespace` '': it has none."""

    namespace: str | None
    name: str | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def metadata(fields: Fields, root: Map, is_name: Callable[[str], bool], rule: str) -> Metadata:
    """The metadata of an object whose name has to meet `is_name`, which `rule` describes."""
    found = _found(fields, root, "`name:` and `namespace:`")
    if isinstance(found, Map):
        about = _metadata(fields, found, is_name, rule, _namespace(fields, root, found))
    else:
        about = Metadata("default" if found else None, None, {}, {})
    fields.placed = about.name is not None and about.namespace is not None
    return about


def cluster_metadata(fields: Fields, root: Map, is_name: Callable[[str], bool], rule: str) -> Metadata:
    """The metadata of an object of the whole cluster, which is in no namespace: that is '' here."""
    found = _found(fields, root, "`name:`")
    if isinstance(found, Map):
        if "namespace" in found and not is_null(found["namespace"]):
            fault = "this is an object of the whole cluster, and in no namespace"
            fields.error(found.scalars["namespace"], "cluster-scoped", fault, "take `namespace` out")
        about = _metadata(fields, found, is_name, rule, "")
    else:
        about = Metadata("", None, {}, {})
    fields.placed = about.name is not None
    return about


def made_up_name(namespace: str, position: Position) -> str:
    """A name for a policy without one, which has to count all the same."""
    digest = hashlib.sha256(f"{namespace}\0{position.file}\0{position.line}\0{position.column}".encode())
    return f"unnamed-{digest.hexdigest()[:12]}"


def mode(fields: Fields, root: Map, about: Metadata) -> Mode | None:
    """What the annotation for audit mode says.  A value that is none rejects the object: what is meant to be enforced
    is not to be let through by a slip, nor the other way."""
    if MODE_ANNOTATION not in about.annotations:
        return None
    value = about.annotations[MODE_ANNOTATION]
    if value not in _MODES:
        cure = f"write `{nearest(value, _MODES)}`" if nearest(value, _MODES) else "write `enforce` or `audit`"
        fault = f'there is no mode "{shown(value)}"'
        fields.error(root["metadata"]["annotations"][MODE_ANNOTATION], "mode", fault, cure)
    return _MODES.get(value)


def _found(fields: Fields, root: Map, names: str) -> Map | bool:
    """What stands at `metadata`; else whether it is sure that nothing does."""
    node = root.get("metadata")
    found = fields.map(node)
    if found is None and (node is None or is_null(node)):
        fields.missing(root, "metadata", f"write `metadata:` and, below it, {names}")
        return root.whole
    return False if found is None else found


def _metadata(fields: Fields, found: Map, is_name: Callable[[str], bool], rule: str, namespace: str | None) -> Metadata:
    fields.known(found, _FIELDS)
    return Metadata(
        namespace,
        _name(fields, found, is_name, rule),
        labels(fields, found.get("labels")),
        _annotations(fields, found.get("annotations")) if "annotations" in found else {},
    )


def _name(fields: Fields, found: Map, is_name: Callable[[str], bool], rule: str) -> str | None:
    node = found.get("name")
    name = fields.text(node)
    if name and is_name(name):
        return name
    if node is not None and name:
        fields.error(node, "name", f'"{shown(name)}" is no valid name', f"a name is {rule}")
    elif name == "" or node is None or is_null(node):
        cure = "there is no API server to make one of `generateName`" if "generateName" in found else "write `name:`"
        fields.missing(found, "name", cure)
    return None


def _namespace(fields: Fields, root: Map, found: Map) -> str | None:
    """Absent and empty: `default`.  Null is refused: a value that a script left out would move the object there."""
    node = found.get("namespace")
    if not fields.required(node, "write the namespace's name, or take the field out for `default`"):
        return None
    namespace = fields.text(node)
    if namespace and is_dns_label(namespace):
        return namespace
    if node is not None and namespace:
        fault = f'"{shown(namespace)}" is no valid namespace'
        fields.error(node, "namespace", fault, f"a namespace's name is {LABEL_RULE}")
        return None
    absent = node is None or namespace == ""
    return "default" if absent and is_sure(root, "metadata") else None


def _annotations(fields: Fields, node: object) -> dict[str, str]:
    """What other programs keep there may be secret, and findings go into logs and support bundles: they don't quote
    it."""
    if isinstance(node, Scalar) and not is_null(node):
        fields.error(node, "wrong-type", "a map is wanted, here is one value", "write `name: value` lines below it")
        return {}
    found = fields.map(node)
    if not found:
        return {}
    right = {}
    for key, value in found.items():
        scalar = found.scalars[key]
        if is_merge_key(scalar) or (not is_text(scalar) and fields.unquoted(scalar) is None):
            continue
        if not is_label_key(key.lower()):
            fields.error(scalar, "annotation-key", f'"{shown(key)}" is no annotation key', f"a key is {KEY_RULE}")
        elif isinstance(value, Scalar) and is_null(value):
            fields.error(value, "not-text", "nothing is written here, and text is wanted", 'write "" for no text')
        elif isinstance(value, Scalar) and not is_text(value) and key not in _OWN and type_of(value) is not Type.LETTER:
            fault = f"this is {type_of(value).value} to YAML, and text is wanted"
            fields.error(value, "not-text", fault, "put it in quotes")
        else:
            text = fields.text(value)
            if text is not None:
                right[key] = text
    size = sum(len(each.encode(errors="surrogatepass")) for pair in right.items() for each in pair)
    if size > _MOST_ANNOTATIONS:
        fault = f"the annotations have {size} bytes, the limit is {_MOST_ANNOTATIONS}"
        fields.error(found, "annotations-too-large", fault, "make them shorter")
    return right
