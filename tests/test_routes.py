"""How answers become bytes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from netpold.daemon.questions import Texts
from netpold.daemon.routes import AT_ONCE, _pieces, as_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, st.integers(0, 3 * AT_ONCE)).map(lambda each: [each[0]] * each[1])
    ),
    max_leaves=20,
)


@given(VALUES)
def test_an_answer_in_pieces_is_the_answer(value: object) -> None:
    assert as_json(value) == json.dumps(value).encode() + b"\n"


@given(st.lists(VALUES, max_size=5), st.integers(0, AT_ONCE))
def test_what_is_written_already_is_not_written_again(values: list[object], times: int) -> None:
    values *= times
    assert json.loads(as_json({"a": Texts(map(json.dumps, values))})) == {"a": values}


def test_no_piece_is_long() -> None:
    """While one is written no other thread gets on, the loop's neither."""
    pods = {"IPv4": {"ingress": [{"name": f"x/pod-{number}", "policies": [1, 2, 3]} for number in range(5000)]}}
    whole = len(json.dumps(pods))
    assert max(map(len, _pieces({"version": 1, "near": pods}))) < whole / 90
