"""The series of plain filters: its error rate is kept at every size, and it survives as bytes."""

from __future__ import annotations

import pytest

from tiercache_plugins._bloom_series import Series, Shape

PROBES = 100_000


def filled(capacity: int, rate: float, count: int) -> Series:
    series = Series(capacity, rate)
    for number in range(count):
        series.add(f"user:{number}")
    return series


def measured_rate(series: Series) -> float:
    return sum(f"other:{number}" in series for number in range(PROBES)) / PROBES


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.01, 0.002])
@pytest.mark.parametrize("capacity", [1_000, 30_000], ids=["grown four times", "at full load"])
def test_false_positive_rate(rate: float, capacity: int) -> None:
    """At full load, also of a series that has grown, the measured rate keeps to the nominal one."""
    count = 30_000
    series = filled(capacity, rate, count)
    assert len(series.filters) == (1 if capacity == count else 5)
    assert measured_rate(series) <= 1.2 * rate
    assert all(f"user:{number}" in series for number in range(count))


@pytest.mark.parametrize("count", [500, 1_000, 15_000])
def test_expected_rate(count: int) -> None:
    """The estimate at the present load is what is measured, within a quarter."""
    series = filled(1_000, 0.05, count)
    assert series.expected_rate == pytest.approx(measured_rate(series), rel=0.25)
    assert Series(1_000, 0.05).expected_rate == 0


def test_no_filter_is_overfull() -> None:
    """A plain filter that takes more than its capacity loses its rate, and raises some time."""
    series = filled(10, 0.01, 5_000)
    assert all(each.count <= each.capacity for each in series.filters)
    assert sum(each.error_rate for each in series.filters) < series.error_rate
    assert series.count <= series.capacity


def test_known_keys_take_no_room() -> None:
    """Adding the same keys again makes it neither fuller nor longer."""
    series = filled(1_000, 0.01, 1_000)
    count = series.count
    assert all(series.add(f"user:{number}") for number in range(1_000))
    assert (series.count, len(series.filters)) == (count, 1)


@pytest.mark.parametrize("count", [0, 1, 1_000, 5_000])
def test_as_bytes(count: int) -> None:
    """What was dumped is restored: keys, counts, rate; and it goes on growing."""
    series = filled(1_000, 0.01, count)
    shapes, bits = series.dump()
    assert [shape.size for shape in shapes] == [len(each) for each in bits]
    again = Series.restore(0.01, shapes, bits)
    assert all(f"user:{number}" in again for number in range(count))
    assert [f"other:{n}" in again for n in range(1_000)] == [
        f"other:{n}" in series for n in range(1_000)
    ]
    assert (again.count, again.capacity, again.size) == (
        series.count,
        series.capacity,
        series.size,
    )
    again.add("another")
    assert "another" in again


def test_bits_of_another_shape() -> None:
    """Bits that do not fit are refused before a filter of that size is made."""
    shapes, bits = filled(1_000, 0.01, 10).dump()
    with pytest.raises(ValueError, match="bytes for a filter"):
        Series.restore(0.01, [Shape(10**15, 0.01, 10)], bits)
    with pytest.raises(ValueError, match="no filter"):
        Series.restore(0.01, [], [])
    with pytest.raises(ValueError, match="zip"):
        Series.restore(0.01, shapes, [])
