"""What goes in comes out: every supported type, exactly, nested at will."""

from __future__ import annotations

import copy
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID, SafeUUID, uuid1
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given, settings

from tests.codec import samples
from tests.codec.samples import same
from tiercache.codec import Codec, Decoded

writer = Codec()
reader = Codec(types=samples.CLASSES)


def round_trip(value: object) -> object:
    return reader.decode("key", writer.encode("key", value)).value


@settings(max_examples=400, deadline=None)
@given(samples.values)
def test_any_nesting_of_supported_types_comes_back_exactly(value: object) -> None:
    """Types, order, offsets and signs survive, in a process that only reads."""
    assert same(round_trip(value), value)


@settings(max_examples=100, deadline=None)
@given(samples.values)
def test_compressed_values_come_back_exactly(value: object) -> None:
    """The compressed layout restores what the plain one does, whether or not zstd helped."""
    packed = Codec(compress_above=0).encode("key", value)
    assert same(reader.decode("key", packed).value, value)


ONE_OF_EACH = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    10**1000,
    1.5,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    5e-324,
    "",
    "é漢🎈",
    "\ud800 alone",
    "nul\0",
    b"",
    b"\x00\xff",
    bytearray(b"mutable"),
    1 - 0j,
    complex(math.nan, -0.0),
    [],
    (),
    {},
    set(),
    frozenset(),
    [()],
    ([],),
    {(): {}},
    {1: "int", "1": "str", 1.5: None, None: 0, b"k": 1},
    {True: 1},
    {frozenset({(1, 2)}): {frozenset()}},
    datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")),
    datetime(2024, 1, 1),
    datetime.max,  # noqa: DTZ901
    datetime.min,  # noqa: DTZ901
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 1, 1, tzinfo=timezone(-timedelta(hours=5, minutes=30))),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=1, microseconds=1), "name")),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "")),
    date.min,
    date.max,
    time(1, 2, 3, 4),
    time(1, fold=1, tzinfo=UTC),
    time.max,
    timedelta.min,
    timedelta.max,
    timedelta(microseconds=-1),
    Decimal("0.10"),
    Decimal("-0"),
    Decimal("1E+999"),
    Decimal("NaN"),
    Decimal("sNaN123"),
    Decimal("-Infinity"),
    UUID(int=0),
    UUID(int=7, is_safe=SafeUUID.safe),
    UUID(int=7, is_safe=SafeUUID.unsafe),
    uuid1(),
    samples.Colour.GREEN,
    samples.Colour.ROUGE,
    samples.Level.HIGH,
    samples.Word.HELLO,
    samples.Access(3),
    samples.Point(1, samples.Point(2)),
    samples.Pair([1], (2,)),
    samples.Plain(1, samples.Plain(2)),
    samples.Child(1, None, [samples.Slotted(left=1)]),
    samples.FrozenAttrs(1, {2}),
    samples.DictAttrs([1]),
    {samples.HashedAttrs("a"): samples.Frozen((1,))},
    samples.Numbers([1, 2]),
    samples.Model(id=1, children=[samples.Model(id=2, value=(1,))]),
]


@pytest.mark.parametrize("value", ONE_OF_EACH, ids=lambda value: type(value).__name__)
def test_each_type_by_hand(value: object) -> None:
    """Each supported type at its edges: alone, in a list, in a tuple, in a dataclass."""
    for nested in (value, [value], (value, 1), samples.Plain(1, value), {"deep": [(value,)]}):
        assert same(round_trip(nested), nested)


def test_key_stale_for_and_tags_come_back() -> None:
    """The envelope carries, beside the value, all a cache has to know of it."""
    payload = writer.encode("user:é\ud800", 1, stale_for=90.0004, tags=("users", "ü"))
    assert reader.decode("user:é\ud800", payload) == Decoded(1, 90.0, ("users", "ü"))
    assert writer.decode("k", writer.encode("k", None)) == Decoded(None, 0.0, ())
    assert writer.decode("k", writer.encode("k", 1, stale_for=0.25)) == Decoded(1, 0.25, ())
    assert writer.decode("k", writer.encode("k", 1, tags=("t",))) == Decoded(1, 0.0, ("t",))


def test_a_memoryview_is_as_good_as_bytes() -> None:
    """Stores may hand out a view of their buffer."""
    view = memoryview(b"...." + writer.encode("key", [1, (2,)]))[4:]
    assert reader.decode("key", view).value == [1, (2,)]


def test_reading_runs_no_code_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ``__post_init__`` nor a validator sees what was stored before."""
    derived, model = samples.Derived(7), samples.Model.model_construct(id=-5)
    payload = writer.encode("key", [derived, model])
    monkeypatch.setattr(samples.Derived, "__post_init__", lambda _: pytest.fail("called"))
    restored, again = reader.decode("key", payload).value
    assert restored.computed == "made once from 7"
    assert restored.note == "an attribute without a field"
    assert again.id == -5


def test_a_field_that_was_never_set_stays_unset() -> None:
    """An incomplete instance is not filled with the class's defaults."""
    partial = object.__new__(samples.Slotted)
    object.__setattr__(partial, "right", 2)
    restored = round_trip(partial)
    assert isinstance(restored, samples.Slotted)
    assert restored.right == 2
    assert not hasattr(restored, "left")


def test_what_a_class_computes_again_is_not_stored() -> None:
    """A ``cached_property`` may hold anything, a connection say; it is left out."""
    derived = samples.Derived(1)
    assert derived.heavy
    restored = round_trip(derived)
    assert "heavy" not in vars(restored)


def test_a_cached_hash_does_not_travel() -> None:
    """An attrs class keeps hashes of texts, which differ between processes."""
    value = samples.HashedAttrs("text")
    hash(value)
    restored = round_trip(value)
    assert hash(restored) == hash(value)
    assert restored == value
    assert b"cached_hash" in writer.encode("key", value)  # reset to None, or attrs would fail


def test_pydantic_state_is_kept_whole() -> None:
    """Which fields were set, extras and private attributes are part of a model."""
    model = samples.Model(id=1)
    model._private = {1: (2,)}
    loose = samples.Open.model_validate({"id": 3, "more": [1]})
    restored, extra = round_trip([model, loose])  # type: ignore[misc]
    assert restored == model
    assert restored.model_fields_set == {"id"}
    assert restored._private == {1: (2,)}
    assert extra == loose
    assert extra.model_extra == {"more": [1]}
    assert extra.model_fields_set == {"id", "more"}
    assert copy.deepcopy(extra) == loose
    assert restored.model_copy(update={"id": 2}).id == 2


def test_pydantic_datetimes_keep_their_own_zone_class() -> None:
    """Pydantic's parser makes aware datetimes with a tzinfo of its own."""
    adapter = pydantic.TypeAdapter(datetime)
    value = adapter.validate_python("2024-05-01T12:00:00+05:30")
    assert same(round_trip(value), value)


def test_shared_parts_become_equal_parts() -> None:
    """Identity within a value is not kept; equality is."""
    part = [1]
    restored = round_trip([part, part])
    assert restored == [[1], [1]]


def test_large_values_pass() -> None:
    """A value of megabytes, in one piece and in a hundred thousand."""
    value = {"text": "x" * 5_000_000, "rows": [(number, str(number)) for number in range(100_000)]}
    assert round_trip(value) == value


def test_depth_is_bounded_but_generous() -> None:
    """A hundred levels of containers and instances are no problem."""
    value: object = 1
    for level in range(100):
        value = [value] if level % 2 else samples.Plain(level, (value,))
    assert same(round_trip(value), value)
