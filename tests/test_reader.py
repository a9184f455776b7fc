"""The strict YAML reader: trees, places, types, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.chunks import Limits, split
from netpold.policy.reader import Document, read
from netpold.policy.tree import Map, Scalar, Seq, Type, Unread, int_of, path_of, plain_type, type_of
from tests.hang import hang_guard


def only(data: bytes, limits: Limits | None = None) -> Document:
    documents = list(read(data, limits) if limits else read(data))
    assert len(documents) == 1, documents
    return documents[0]


def codes(data: bytes, limits: Limits | None = None) -> list[str]:
    return [fault.code for document in read(data, limits or Limits()) for fault in document.faults]


def plain(node: object) -> object:
    if isinstance(node, Map):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, Seq):
        return [plain(entry) for entry in node]
    if isinstance(node, Unread):
        return "?"
    assert isinstance(node, Scalar)
    return node.value


def test_a_tree_with_places():
    document = only(b"a: 1\nb:\n- x: '2'\n- {y: [3, 4]}\n")
    root = document.root
    assert isinstance(root, Map) and root.whole and not document.faults and not document.broken
    assert plain(root) == {"a": "1", "b": [{"x": "2"}, {"y": ["3", "4"]}]}
    key = root["b"][1].scalars["y"]
    assert (key.start_mark.line, key.start_mark.column) == (3, 3)
    assert path_of(root, key) == "b[1].y"
    assert path_of(root, root["b"][1]["y"][1]) == "b[1].y[1]"
    assert path_of(root, root["b"][0]) == "b[0]", "a map is not its first key, though both begin at one place"
    assert path_of(root, root) == ""


def test_a_key_that_is_no_plain_name_is_bracketed_in_paths():
    root = only(b"labels: {app.io/x: 1}").root
    assert path_of(root, root["labels"]["app.io/x"]) == "labels[app.io/x]"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        *[(word, Type.BOOL) for word in ("yes", "No", "on", "OFF", "true", "False")],
        *[(word, Type.LETTER) for word in ("y", "Y", "n", "N")],
        *[(word, Type.NULL) for word in ("", "~", "null", "NULL")],
        *[(word, Type.INT) for word in ("0", "80", "-1", "+5", "010", "0x1F", "0b11", "0o17", "1_000")],
        *[(word, Type.FLOAT) for word in ("1.10", ".5", "1e3", "08", "1.", ".inf", "-.INF", ".nan")],
        *[(word, Type.DATE) for word in ("2024-01-02", "2024-1-2T10:00:00Z", "2024-01-02 10:00:00.5 -5")],
        *[(word, Type.BASE60) for word in ("22:22", "1:59:59", "190:20:30.15")],
        *[
            (word, Type.TEXT)
            for word in ("nO", "oN", "yEs", "nULL", "web", "10.0.0.1", "1.2.3", "10.0.0.0/8", "fd00::1")
        ],
        *[(word, Type.TEXT) for word in ("22:99", "0b2", "0x", "--", "-", "+", ".", "_1", "1-2", "2024-01", "\u0661")],
    ],
)
def test_types_of_plain_text(text: str, wanted: Type):
    assert plain_type(text) is wanted


def test_quoted_and_block_text_is_text():
    root = only(b"a: '80'\nb: \"no\"\nc: |\n  010\nd: 80\n").root
    assert [type_of(node) for node in root.values()] == [Type.TEXT, Type.TEXT, Type.TEXT, Type.INT]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("80", 80),
        ("010", 8),
        ("0o10", 8),
        ("0x50", 80),
        ("-0b11", -3),
        ("+7", 7),
        ("1_000", 1000),
        ("00", 0),
        ("-5", -5),
    ],
)
def test_numbers(text: str, number: int):
    assert int_of(text) == number


@pytest.mark.parametrize(
    ("data", "code", "left"),
    [
        (b"a: 1\na: 2\nb: 3", "duplicate-key", {"a": "?", "b": "3"}),
        (b'{"a": 1, "b": {"x": 1, "x": 1}}', "duplicate-key", {"a": "1", "b": {"x": "?"}}),
        (b"a: &x [1]\nb: 2", "anchor", {"a": ["1"], "b": "2"}),
        (b"a: !!str 80\nb: 2", "tag", {"a": "?", "b": "2"}),
        (b"a: !x {c: 1}\nb: 2", "tag", {"a": "?", "b": "2"}),
        (b"a: ! 80\nb: 2", "tag", {"a": "?", "b": "2"}),
        (b"!!map {a: 1}", "tag", "?"),
        (b"!!str a: 1\nb: 2", "tag", {"a": "?", "b": "2"}),
        (b"a: 1\n[x, y]: 2\nb: 3", "key-not-text", {"a": "1", "b": "3"}),
        (b"a: 1\n? {x: 1}\n: 2\nb: 3", "key-not-text", {"a": "1", "b": "3"}),
        (b"- 1\n- &x 2", "anchor", ["1", "2"]),
    ],
)
def test_what_is_refused_is_unread_and_the_rest_is_read(data: bytes, code: str, left: object):
    document = only(data)
    assert [fault.code for fault in document.faults] == [code]
    assert plain(document.root) == left
    assert not document.broken


def test_aliases_and_merge_keys():
    document = only(b"a: &x {c: 1}\nb: *x\nd:\n  <<: *x\n  e: 1\n'<<': quoted\n")
    assert sorted(fault.code for fault in document.faults) == ["alias", "alias", "anchor", "merge-key"]
    root = document.root
    assert isinstance(root["b"], Unread)
    assert not root["d"].whole, "the merge key may bring any field"
    assert root.whole and plain(root["<<"]) == "quoted"


def test_a_billion_laughs_is_refused_at_once():
    lines = [b"a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)]
    with hang_guard():
        assert "alias" in codes(b"\n".join(lines))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b"{a: " * 250_000,
        b"- " * 500_000,
        b"? " * 500_000,
        b"[{" * 500_000,
        b"".join(b" " * i + b"a:\n" for i in range(1400)),
        b"%TAG !a! b\n" * 90_000 + b"a: b",
        b"".join(b"%%TAG !a%d! b\n" % i for i in range(60_000)),
        b"a: 1\n" * 200_000,
        b"&a " * 300_000,
        b"!a " * 300_000,
        b"'" * 1_000_000,
        b'"\\' * 500_000,
        b"#" * 1_000_000,
        b"---\n" * 250_000,
        b"...\n" * 250_000,
        b"a: &a\n" * 150_000,
        b": " * 500_000,
        b"\xff" * 1_000_000,
        b"\x01a: b\n" * 150_000,
        b"- {a: 1, a: 2}\n" * 65_000,
        b"items:\n" + b"- {a: 1, a: 2}\n" * 65_000,
        b"items:\n" + b"- \xe4\n" * 200_000,
        b"- \xe4\n" * 200_000,
        b"- a\n" * 250_000,
        b"[a,b,c,d,e]\n---\n" * 62_000,
        b"\t" * 1_000_000,
        b"a" * 1_000_000,
        b"a" * 1_000_000 + b": b",
        b"\xef\xbb\xbf" * 300_000,
        b"|\n" * 500_000,
        b"- >\n\n" * 200_000,
        b"{" + b"a: b," * 200_000,
    ],
    ids=lambda data: repr(data[:14]),
)
def test_nothing_hangs_or_crashes(data: bytes):
    """In time that grows with the size; where it grew with the square, this would not end within the guard."""
    with hang_guard():
        for _ in read(data):
            pass


def test_depth():
    fits, deeper = b"[" * 32 + b"]" * 32, b"[" * 33 + b"]" * 33
    assert codes(fits) == []
    document = only(deeper)
    assert [fault.code for fault in document.faults] == ["too-deep"] and document.broken
    assert codes(b"[[]]", Limits(depth=1)) == ["too-deep"]


def test_size_limits():
    assert codes(b"a: bcd", Limits(file=5)) == ["file-too-large"]
    assert codes(b"a: bcd", Limits(file=6)) == []
    assert codes(b"a: bcd", Limits(scalar=3)) == []
    document = only(b"a: bcde\nf: g", Limits(scalar=3))
    assert [fault.code for fault in document.faults] == ["scalar-too-large"] and document.broken


def test_a_file_may_not_have_any_number_of_documents():
    first, second, refused = read(b"---\na: 1\n" * 5, Limits(documents=2))
    assert plain(first.root) == plain(second.root) == {"a": "1"}
    assert refused.broken and [fault.code for fault in refused.faults] == ["too-many-documents"]


def test_many_faults_are_not_listed_without_end():
    document = only(b"a: 1\n" * 1000)
    assert document.broken and len(document.faults) == 51 and document.faults[-1].code == "too-many-faults"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("a: b".encode("utf-16"), "not-utf8"),
        ("a: b".encode("utf-16-le"), "not-utf8"),
        ("a: b".encode("utf-16-be"), "not-utf8"),
        ("a: b".encode("utf-32"), "not-utf8"),
        (b"a: \xe4", "not-utf8"),
        (b"a: \xed\xa0\x80", "not-utf8"),
        (b"a: b\0", "control-character"),
        (b"a: \x1b[0m", "control-character"),
        ("a: b\ufeffc".encode(), "control-character"),
    ],
)
def test_bytes_that_are_no_text(data: bytes, code: str):
    assert codes(data) == [code]


def test_a_byte_order_mark_is_fine():
    document = only(b"\xef\xbb\xbfa: b")
    assert plain(document.root) == {"a": "b"} and not document.faults and document.root.start_mark.column == 0


def test_a_bad_byte_is_told_with_its_place_and_the_rest_is_read():
    document = only(b"a: 1\nb: gr\xfcn # \xe4\nc: 3\n")
    assert [(fault.code, fault.place.line, fault.place.column) for fault in document.faults] == [("not-utf8", 1, 5)]
    assert plain(document.root) == {"a": "1", "b": "gr\ufffdn", "c": "3"}


def test_a_bad_byte_belongs_to_the_entry_of_the_list_that_it_stands_in():
    documents = list(read(b"kind: List\nitems:\n- a: 1\n- a: \xfc\n- a: 3\n- a: 4 # \xe4\n"))
    assert [[fault.code for fault in each.faults] for each in documents] == [[], ["not-utf8"], [], ["not-utf8"], []]


def test_a_file_is_cut_at_its_document_markers():
    data = b"a: 1\n---\nb: 2\n--- {c: 3}\n---x: 4\n---"
    chunks = list(split(data))
    assert [data[start:end] for start, end, _ in chunks] == [
        b"a: 1\n",
        b"---\nb: 2\n",
        b"--- {c: 3}\n---x: 4\n",
        b"---",
    ]
    assert [line for _, _, line in chunks] == [0, 1, 3, 5]
    assert list(split(b"")) == []


def test_a_broken_document_does_not_take_the_others_with_it():
    first, second, third = read(b"a: 1\n---\nb: 'x\n---\nc: 3\n")
    assert plain(first.root) == {"a": "1"} and not first.broken
    assert second.broken and [fault.code for fault in second.faults] == ["syntax"]
    assert plain(third.root) == {"c": "3"} and not third.broken and third.line == 3
    assert (third.start, third.end) == (15, 24)


def test_text_after_the_end_of_a_document():
    first, second = read(b"a: 1\n...\nb: 2\n")
    assert plain(first.root) == {"a": "1"} and not first.faults
    assert second.root is None and second.broken and [fault.code for fault in second.faults] == ["syntax"]


def test_empty_documents():
    assert list(read(b"")) == [] == list(read(b"# nothing\n"))
    assert list(read(b"---\n\n---")) == []
    assert [type_of(document.root) for document in read(b"---\n# nothing\n---\n...\n")] == [Type.NULL] * 2


@pytest.mark.parametrize("data", [b"%YAML 1.1\n---\na: 1\n", b"# hello\n%TAG ! x\n\n---\na: 1\n"])
def test_directives_before_the_first_document_mean_nothing(data: bytes):
    assert plain(only(data).root) == {"a": "1"}


def test_other_directives_are_refused():
    assert codes(b"a: 1\n...\n%YAML 1.1\n---\nb: 2\n") == ["directive"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a:\n\tb: 1\n", "tab"),
        (b"a: b: c\n", "`:`"),
        (b"a: 1\n  b: 2\n", "`:`"),
        (b"a: [1, 2\nb: 3\n", "bracket"),
        (b"a: 'x\n", "quote"),
        (b"a:\n- 1\nb\n", "`:`"),
        (b"a:\n  b: 1\n c: 2\n", "key"),
        (b"- a\nb: c\n", "list"),
        (b"a: @x\n", "@"),
        (b'a: "\\q"\n', "escape"),
    ],
)
def test_syntax_errors_are_told_in_plain_words(data: bytes, says: str):
    document = only(data)
    assert document.broken and len(document.faults) == 1
    fault = document.faults[0]
    assert fault.code == "syntax" and says in fault.fault + fault.cure and fault.cure


def test_after_a_syntax_error_the_tree_so_far_is_there():
    root = only(b"metadata:\n  name: x\nspec:\n  a: {b: 1}\n  c: [1, {d: 2]\n").root
    assert plain(root) == {"metadata": {"name": "x"}, "spec": {"a": {"b": "1"}, "c": ["1", {"d": "2"}]}}
    assert root["metadata"].whole and root["spec"]["a"].whole
    assert not root.whole and not root["spec"].whole and not root["spec"]["c"].whole and not root["spec"]["c"][1].whole


def test_entries_of_a_list_are_handed_out_one_by_one():
    documents = list(read(b"apiVersion: v1\nitems:\n- a: 1\n- [2]\n- 3\nkind: List\n"))
    assert [(document.item, plain(document.root)) for document in documents] == [
        (0, {"a": "1"}),
        (1, ["2"]),
        (2, "3"),
        (None, {"apiVersion": "v1", "items": [], "kind": "List"}),
    ]
    assert plain(documents[0].head["apiVersion"]) == "v1"


def test_a_list_that_breaks_off():
    entries = list(read(b"items:\n- a: 1\n- b: {c: '2'\n- d: 3\n"))
    assert [(document.item, document.broken) for document in entries] == [(0, False), (1, True), (None, True)]
    assert plain(entries[1].root) == {"b": {"c": "2"}} and len(entries[1].faults) == 1 and not entries[2].faults


def test_json_is_read_as_well():
    document = only(b'{\n\t"a": [1, true, null, "x\\u00e4\\n"],\n\t"b": {}\n}\n')
    assert plain(document.root) == {"a": ["1", "true", "null", "x\u00e4\n"], "b": {}} and not document.faults


def test_windows_line_ends():
    document = only(b"a: 1\r\nb:\r\n- 2\r\n")
    assert plain(document.root) == {"a": "1", "b": ["2"]} and document.root["b"][0].start_mark.line == 2


KEYS = st.text("abcxyz.-_/ 019", max_size=6)
TREES = st.recursive(
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, blacklist_categories=("Cc",)), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None)
@given(TREES, st.booleans(), st.sampled_from([None, True, False]))
def test_what_is_written_is_read(tree: object, unicode: bool, flow: bool | None):
    import yaml

    text = yaml.safe_dump(tree, allow_unicode=unicode, default_flow_style=flow, width=40, explicit_start=True)
    documents = list(read(text.encode()))
    assert not any(document.faults for document in documents)
    assert plain(documents[-1].root) == tree


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text("ab:-?[]{}&*!|>'\"%@`#, \n\t~0<=.", max_size=60).map(str.encode))
def test_any_bytes_can_be_read(data: bytes):
    for document in read(data):
        assert 0 <= document.start <= document.end <= len(data)
        assert not document.broken or document.faults or document.item is None
        for fault in document.faults:
            path_of(document.root, fault.place)
