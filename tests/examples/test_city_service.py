"""The demo, shortened: it ends well, and says what it says by counting."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from examples.city_service.bulletin import Announced, Bulletin, Floor, Older, columns, lateness
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
    stream = iter(Traffic(known, 1))
    drawn = [next(stream) for _ in range(20_000)]
    people = sum(city.population for city in known)
    in_china = sum(city.population for city in known if city.country == "CN") / people
    share = sum(request.city.country == "CN" for request in drawn) / len(drawn)
    assert abs(share - in_china) < 0.02
    updates = [request for request in drawn if request.population is not None]
    assert 100 < len(updates) < 300
    again = iter(Traffic(known, 1))
    assert [next(again) for _ in range(100)] == drawn[:100]


def test_tally_tells_stale_reads() -> None:
    """A read is held against the updates of its own process, and against later ones of others."""
    tally = Tally()
    for version, floor in ((3, (3, 3)), (2, (3, 3)), (4, (3, 4)), (3, (3, 4)), (0, (0, 4))):
        tally.check("CN", version, Floor(*floor), began=9.0)
    assert (tally.checked, tally.stale) == (4, 1)
    assert tally.checked_elsewhere == 3
    assert tally.older == [Older("CN", 3, 9.0), Older("CN", 0, 9.0)]


def test_lateness() -> None:
    """An older read is late by the first announcement of what it should have seen."""
    announced = [Announced("CN", version, float(version)) for version in (4, 2, 3)]
    announced.append(Announced("IN", 1, 1.0))
    assert lateness([Older("CN", 2, 5.0), Older("CN", 1, 5.0)], announced) == [2.0, 3.0]


def test_bulletin_is_shared(path: Path) -> None:
    """What one process announces, of a city and its country, another reads; older is no news."""
    known = cities(path)
    shared = columns(known, 2)
    here, there = (Bulletin(known, shared, worker) for worker in range(2))
    city = known[0]
    assert here.floor(city.id) == Floor(0, 0)
    assert [each.place for each in here.announce(city, 7)] == [city.id, city.country]
    here.announce(city, 6)
    assert here.floor(city.id) == Floor(7, 7)
    assert there.floor(city.country) == Floor(0, 7)


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
@pytest.mark.parametrize("where", [[], ["--sqlite"]], ids=["redis, if there is one", "sqlite"])
def test_demo_ends_well(where: list[str]) -> None:
    """Four processes serve for a moment, and what is promised across them is counted and kept."""
    command = [sys.executable, "-m", "examples.city_service", "--seconds", "2", *where]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "older than an update of the same process" in done.stdout
    assert "Traceback" not in done.stderr
