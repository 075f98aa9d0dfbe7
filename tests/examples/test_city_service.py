"""The demo, shortened: it ends well, and says what it says by counting."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from examples.city_service.database import CityDatabase, build, cities
from examples.city_service.service import CityService
from examples.city_service.tally import Tally
from examples.city_service.traffic import Traffic
from tiercache import Cache

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of real cities."""
    path = tmp_path_factory.mktemp("cities") / "cities.sqlite"
    build(path)
    return path


@pytest.fixture
def database(path: Path) -> Iterator[CityDatabase]:
    """Questions to it."""
    with closing(CityDatabase(path)) as database:
        yield database


def test_database_is_real(path: Path, database: CityDatabase) -> None:
    """Tens of thousands of cities, and answers that an atlas confirms."""
    known = cities(path)
    assert len(known) > 30_000
    tokyo = max((city for city in known if city.country == "JP"), key=lambda city: city.population)
    page = database.city_page(tokyo.id)
    assert page.name == "Tokyo"
    assert page.around > 100
    assert [neighbour.km for neighbour in page.nearest] == sorted(n.km for n in page.nearest)
    assert database.country_page("JP").place < 15


def test_update_shows_in_city_and_country(path: Path, database: CityDatabase, cache: Cache) -> None:
    """After an update through the service both pages that it touches are new, and cached again."""
    service = CityService(database, cache)
    city = cities(path)[0]
    before = service.country(city.country).people
    service.city(city.id)
    version = service.set_population(city.id, city.country, city.population + 1000)
    assert service.city(city.id).population == city.population + 1000
    assert service.city(city.id).version == version
    assert service.country(city.country).people == before + 1000
    assert service.country(city.country).version == version
    service.set_population(city.id, city.country, city.population)


def test_traffic_follows_population(path: Path) -> None:
    """Requests are in proportion to population, a few are updates, and a seed repeats them."""
    known = cities(path)
    edits = {"CN", "IN"}
    stream = iter(Traffic(known, 1, edits))
    drawn = [next(stream) for _ in range(20_000)]
    people = sum(city.population for city in known)
    in_china = sum(city.population for city in known if city.country == "CN") / people
    share = sum(request.city.country == "CN" for request in drawn) / len(drawn)
    assert abs(share - in_china) < 0.02
    updates = [request for request in drawn if request.population is not None]
    assert 100 < len(updates) < 500
    assert {request.city.country for request in updates} == edits
    again = iter(Traffic(known, 1, edits))
    assert [next(again) for _ in range(100)] == drawn[:100]


def test_tally_tells_stale_reads() -> None:
    """An older version is counted by whose load it was, an equal or newer one is none."""
    tally = Tally()
    for version, own in ((3, True), (4, False), (2, True), (2, False)):
        tally.check(version, 3, own=own)
    assert (tally.checked, tally.stale, tally.put_back) == (4, 1, 1)


def test_tally_percentiles() -> None:
    """Percentiles of latencies are right to a few percent."""
    latencies = [random.Random(number).randrange(1_000, 10_000_000) for number in range(999)]
    tally = Tally()
    for nanoseconds in latencies:
        tally.read(nanoseconds)
    for share in (0.5, 0.99):
        exact = sorted(latencies)[round(share * 999)] / 1e9
        assert tally.percentile(share) == pytest.approx(exact, rel=0.06)


@pytest.mark.slow
def test_demo_ends_well() -> None:
    """Four processes serve for a moment, and no read of what they updated was stale."""
    command = [sys.executable, "-m", "examples.city_service", "--seconds", "2"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "of these stale" in done.stdout
    assert "Traceback" not in done.stderr
