"""Different calls have different keys, whatever the arguments."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tiercache.canonical import canonical
from tiercache.keys import KeyMaker

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.timedeltas()
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.tuples(inner), max_leaves=4
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.frozensets(HASHABLE, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same: of one type at every depth, and equal."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return _same_unordered(list(a.items()), list(b.items()))
    if isinstance(a, frozenset):
        return _same_unordered(list(a), list(b))
    return bool(a == b) and repr(a) == repr(b)


def _same_unordered(left: list[Any], right: list[Any]) -> bool:
    right = list(right)
    for item in left:
        match = next((other for other in right if same(item, other)), None)
        if match is None and not any(same(item, other) for other in right):
            return False
        right.remove(match)
    return not right


@given(VALUES, VALUES)
def test_equal_keys_mean_the_same_value(a: Any, b: Any) -> None:
    """Two values with one text are the same value of the same type."""
    if canonical(a) == canonical(b):
        assert same(a, b)


@given(VALUES)
def test_nearby_values_differ(value: Any) -> None:
    """A value never shares its text with itself wrapped, listed or spelled out."""
    others = [(value,), [value], str(value), repr(value), canonical(value), {1: value}]
    for other in others:
        if not same(value, other):
            assert canonical(value) != canonical(other)


FIELD = st.text(alphabet=st.sampled_from("ab:%-|/2DFx "), max_size=6)
LITERAL = st.text(alphabet=st.sampled_from(":-|/%ax2D."), max_size=3)


@given(LITERAL, LITERAL, LITERAL, st.tuples(FIELD, FIELD), st.tuples(FIELD, FIELD))
def test_fields_never_run_into_one_another(
    before: str, between: str, after: str, one: tuple[str, str], other: tuple[str, str]
) -> None:
    """Whatever the template's literals, different fields make different keys."""
    maker = KeyMaker(lambda a, b: None, f"{before}{{a}}{between}{{b}}{after}")
    assert (maker.of(*one) == maker.of(*other)) == (one == other)


@given(st.integers(), st.integers(), st.booleans())
def test_spellings_are_one_key(a: int, b: int, c: bool) -> None:
    """Positions, keywords and order of keywords do not count."""
    maker = KeyMaker(lambda a, b=0, *, c=False: None)
    assert maker.of(a, b, c=c) == maker.of(c=c, b=b, a=a) == maker.of(a, c=c, b=b)
    if b == 0:
        assert maker.of(a, c=c) == maker.of(a, b, c=c)
