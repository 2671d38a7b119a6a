"""Names, companies, streets and places of a locale, from Faker.

Identities are combined from the pools. The pools in `data/` are frozen, so that a newer Faker does
not change them; those of other locales are made by Faker at the start.
To freeze one: `python -m generator_service.simulator.pools LOCALE`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZES = {"first_names": 400, "last_names": 600, "companies": 1200, "streets": 500}
_TRIES = 4
"""Draws for each name: some locales have few names, and repeat them."""

_CURRENCIES = {
    "EUR": "AD AT BE BG CY DE EE ES FI FR GR HR IE IT LT LU LV MT NL PT SI SK",
    "USD": "US EC SV",
    "CHF": "CH LI",
    "AED": "AE", "AMD": "AM", "ARS": "AR", "AUD": "AU", "AZN": "AZ", "BAM": "BA", "BDT": "BD",
    "BHD": "BH", "BRL": "BR", "CAD": "CA", "CLP": "CL", "CNY": "CN", "COP": "CO", "CZK": "CZ",
    "DKK": "DK", "DZD": "DZ", "EGP": "EG", "ETB": "ET", "GBP": "GB", "GEL": "GE", "GHS": "GH",
    "HUF": "HU", "IDR": "ID", "ILS": "IL", "INR": "IN", "IRR": "IR", "ISK": "IS", "JOD": "JO",
    "JPY": "JP", "KES": "KE", "KRW": "KR", "MKD": "MK", "MXN": "MX", "NGN": "NG", "NOK": "NO",
    "NPR": "NP", "NZD": "NZ", "PHP": "PH", "PKR": "PK", "PLN": "PL", "RON": "RO", "RUB": "RU",
    "SAR": "SA", "SEK": "SE", "THB": "TH", "TRY": "TR", "TWD": "TW", "UAH": "UA", "UZS": "UZ",
    "VND": "VN", "ZAR": "ZA",
}  # fmt: skip

WITHOUT_DECIMALS = frozenset({"CLP", "ISK", "JPY", "KRW", "VND"})
"""Those of these currencies that have no minor unit (ISO 4217): their amounts are whole."""


@dataclass(frozen=True)
class Place:
    """A town, with its coordinates in degrees."""

    name: str
    latitude: float
    longitude: float


@dataclass(frozen=True)
class Pools:
    """The parts of a locale's identities.

    utc_offset is in minutes, of the standard time of most of the country's places.
    """

    locale: str
    country: str
    currency: str
    utc_offset: int
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    companies: tuple[str, ...]
    streets: tuple[str, ...]
    places: tuple[Place, ...]


@cache
def load(locale: str) -> Pools:
    """Return the pools of a locale: the frozen ones, or else Faker's.

    Raises ValueError when Faker does not know the locale or no place in its country.
    """
    frozen = files("generator_service.simulator").joinpath("data", f"{locale}.json")
    if locale.replace("_", "").isalnum() and frozen.is_file():
        return _from_json(frozen.read_text(encoding="utf-8"))
    return make(locale)


def make(locale: str) -> Pools:
    """Ask Faker for the pools of a locale; the same Faker gives the same pools."""
    # The import takes a tenth of a second; the frozen locales do not need it.
    from faker import Faker
    from faker.config import AVAILABLE_LOCALES
    from faker.providers.geo import Provider

    country = locale.partition("_")[2]
    if locale not in AVAILABLE_LOCALES or country not in " ".join(_CURRENCIES.values()).split():
        raise ValueError(
            f"locale must be a language and a country that Faker knows, such as en_US or de_DE, "
            f"not {locale!r}."
        )
    known = [entry for entry in Provider.land_coords if entry[3] == country]
    if not known:
        raise ValueError(f"locale {locale!r} cannot be used: Faker knows no place in {country}.")
    fake = Faker(locale)
    fake.seed_instance(0)
    zones = [entry[4] for entry in known]
    zone = ZoneInfo(max(sorted(set(zones)), key=zones.count))
    offsets = [datetime(2025, month, 1, tzinfo=zone).utcoffset() for month in (1, 7)]
    return Pools(
        locale=locale,
        country=country,
        currency=next(
            currency for currency, users in _CURRENCIES.items() if country in users.split()
        ),
        utc_offset=int(min(offset.total_seconds() for offset in offsets if offset) // 60),
        first_names=_drawn(fake.first_name, _SIZES["first_names"]),
        last_names=_drawn(fake.last_name, _SIZES["last_names"]),
        companies=_drawn(fake.company, _SIZES["companies"]),
        streets=_drawn(
            cast("Callable[[], str]", getattr(fake, "street_name", fake.last_name)),
            _SIZES["streets"],
        ),
        places=tuple(Place(name, float(lat), float(lon)) for lat, lon, name, _, _ in known),
    )


def _drawn(draw: Callable[[], str], size: int) -> tuple[str, ...]:
    found = dict.fromkeys(draw() for _ in range(size * _TRIES))
    return tuple(found)[:size]


def _from_json(text: str) -> Pools:
    content = cast("dict[str, Any]", json.loads(text))
    places = cast("list[dict[str, Any]]", content.pop("places"))
    values: dict[str, Any] = {
        name: tuple(cast("list[str]", value)) if isinstance(value, list) else value
        for name, value in content.items()
    }
    return Pools(**values, places=tuple(Place(**place) for place in places))


def main() -> None:
    """Freeze the pools of the locales named on the command line."""
    for locale in sys.argv[1:]:
        target = Path(__file__).parent / "data" / f"{locale}.json"
        text = json.dumps(asdict(make(locale)), ensure_ascii=False, indent=0)
        target.write_text(text + "\n", encoding="utf-8")
        sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
