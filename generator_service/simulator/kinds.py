"""The kinds of transaction, with the usual amount, channel and hours of each.

Category codes are those of ISO 18245. The scorecard compares the whole mix with published figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from generator_service.simulator.schema import TransactionType

type Ending = Literal["any", "99", "00", "note", "fixed"]

PARTS_OF_DAY = ((0, 6), (6, 11), (11, 14), (14, 18), (18, 24))
"""Local hours of night, morning, noon, afternoon and evening."""


@dataclass(frozen=True)
class Kind:
    """One kind of transaction.

    weight is its share among the rows that people start (in per mille), by_part how that share
    shifts over the parts of a day. chains is the share of it that goes to merchants who are
    everywhere (all of it, for what is bought online); the rest stays with those of the region.
    median is the usual amount and spread the standard deviation of its logarithm for one customer
    at one merchant. channels maps each channel to its share. ending says how amounts end: any
    cents, mostly .99 or .00, notes of twenty, or one price a merchant. merchants is the share of
    all merchants that are of this kind (in per mille).
    """

    name: str
    transaction_type: TransactionType
    category: str
    chains: float
    weight: float
    by_part: tuple[float, float, float, float, float]
    median: float
    spread: float
    channels: dict[str, float]
    ending: Ending
    merchants: float


_SHOP: dict[str, float] = {"CONTACTLESS": 60, "CHIP": 34, "MAGSTRIPE": 6}
_TILL: dict[str, float] = {"CONTACTLESS": 78, "CHIP": 18, "MAGSTRIPE": 4}
_WEB: dict[str, float] = {"ECOMMERCE": 78, "MOBILE": 22}
_APP: dict[str, float] = {"MOBILE": 85, "ECOMMERCE": 15}
_BANK: dict[str, float] = {"ONLINE_BANKING": 62, "MOBILE": 33, "BRANCH": 5}
_STANDING: dict[str, float] = {"STANDING_ORDER": 100}
_MACHINE: dict[str, float] = {"ATM": 100}
_COUNTER: dict[str, float] = {"BRANCH": 55, "ATM": 45}
_DEBITED: dict[str, float] = {"ONLINE_BANKING": 100}
_EVEN = (1.0, 1.0, 1.0, 1.0, 1.0)
_DAY = (0.2, 1.2, 1.1, 1.2, 0.7)
_ERRANDS = (0.3, 1.0, 0.9, 1.2, 1.0)
_ANY_TIME = (1.6, 1.2, 0.8, 0.9, 1.0)
_MEALS = (0.4, 0.5, 1.5, 0.7, 1.4)
_DINNER = (0.5, 0.3, 1.3, 0.6, 1.8)
_ROAD = (1.2, 1.3, 0.8, 1.1, 0.8)
_RIDES = (3.0, 0.9, 0.6, 0.8, 1.3)
_COMMUTE = (0.8, 1.7, 0.7, 1.2, 0.7)
_SOFA = (1.2, 0.8, 0.9, 0.9, 1.3)
_LATE = (2.1, 0.5, 0.7, 1.0, 1.5)
_OUT = (4.0, 0.1, 0.5, 0.6, 2.2)
_MATINEE = (0.4, 0.3, 0.7, 1.0, 1.8)

KINDS: tuple[Kind, ...] = (
    Kind("grocery", "PURCHASE", "5411", 0.62, 200, _ERRANDS, 33, 0.6, _SHOP, "any", 90),
    Kind("convenience", "PURCHASE", "5499", 0.35, 62, _ANY_TIME, 12, 0.52, _TILL, "any", 70),
    Kind("restaurant", "PURCHASE", "5812", 0.18, 72, _DINNER, 39, 0.48, _SHOP, "any", 110),
    Kind("fast_food", "PURCHASE", "5814", 0.6, 92, _MEALS, 13, 0.4, _TILL, "any", 90),
    Kind("bar", "PURCHASE", "5813", 0.05, 26, _OUT, 22, 0.52, _TILL, "00", 40),
    Kind("fuel", "PURCHASE", "5541", 0.65, 66, _ROAD, 40, 0.4, _SHOP, "any", 55),
    Kind("pharmacy", "PURCHASE", "5912", 0.6, 30, _DAY, 21, 0.6, _SHOP, "99", 40),
    Kind("clothing", "PURCHASE", "5651", 0.5, 26, _DAY, 48, 0.56, _SHOP, "99", 55),
    Kind("department_store", "PURCHASE", "5311", 0.8, 24, _DAY, 44, 0.68, _SHOP, "99", 25),
    Kind("home_improvement", "PURCHASE", "5200", 0.65, 20, _DAY, 46, 0.72, _SHOP, "99", 30),
    Kind("electronics", "PURCHASE", "5732", 0.65, 9, _DAY, 95, 0.76, _SHOP, "99", 25),
    Kind("taxi", "PURCHASE", "4121", 0.75, 22, _RIDES, 17, 0.44, _APP, "any", 20),
    Kind("transit", "PURCHASE", "4111", 0.3, 46, _COMMUTE, 7, 0.48, _TILL, "00", 12),
    Kind("parking", "PURCHASE", "7523", 0.3, 18, _DAY, 8, 0.48, _TILL, "00", 25),
    Kind("hotel", "PURCHASE", "7011", 0.45, 5, _EVEN, 165, 0.48, _SHOP, "00", 30),
    Kind("health", "PURCHASE", "8099", 0.1, 14, _DAY, 62, 0.64, _SHOP, "00", 45),
    Kind("hairdresser", "PURCHASE", "7230", 0.08, 11, _DAY, 38, 0.36, _SHOP, "00", 50),
    Kind("cinema", "PURCHASE", "7832", 0.5, 8, _MATINEE, 24, 0.4, _SHOP, "00", 10),
    Kind("sports", "PURCHASE", "5941", 0.5, 9, _DAY, 46, 0.6, _SHOP, "99", 18),
    Kind("books", "PURCHASE", "5942", 0.5, 8, _DAY, 19, 0.48, _SHOP, "99", 12),
    Kind("marketplace", "PURCHASE", "5399", 1.0, 62, _SOFA, 28, 0.72, _WEB, "99", 8),
    Kind("fashion_online", "PURCHASE", "5691", 1.0, 20, _SOFA, 52, 0.56, _WEB, "99", 14),
    Kind("games", "PURCHASE", "5816", 1.0, 22, _LATE, 14, 0.64, _APP, "99", 10),
    Kind("apps", "PURCHASE", "5815", 1.0, 26, _SOFA, 8, 0.48, _APP, "99", 10),
    Kind("food_delivery", "PURCHASE", "5811", 1.0, 26, _MEALS, 29, 0.4, _APP, "any", 8),
    Kind("airline", "PURCHASE", "4511", 1.0, 3, _EVEN, 240, 0.56, _WEB, "any", 10),
    Kind("travel_agency", "PURCHASE", "4722", 1.0, 3, _EVEN, 210, 0.72, _WEB, "any", 10),
    Kind("electronics_online", "PURCHASE", "5045", 1.0, 7, _EVEN, 110, 0.8, _WEB, "99", 10),
    Kind("gift_cards", "PURCHASE", "5947", 1.0, 5, _EVEN, 45, 0.48, _WEB, "00", 6),
    Kind("betting", "PURCHASE", "7995", 1.0, 9, _LATE, 24, 0.72, _APP, "00", 6),
    Kind("cash_machine", "CASH_OUT", "6011", 0.5, 34, _ERRANDS, 80, 0.56, _MACHINE, "note", 40),
    Kind("person_to_person", "TRANSFER", "4829", 1.0, 34, _EVEN, 55, 0.88, _BANK, "00", 4),
    Kind("bill", "PAYMENT", "4900", 1.0, 14, _DAY, 84, 0.56, _BANK, "any", 8),
    Kind("tax", "PAYMENT", "9311", 1.0, 3, _DAY, 190, 0.8, _BANK, "any", 2),
    Kind("bank_fee", "DEBIT", "6012", 1.0, 9, _DAY, 6, 0.56, _DEBITED, "00", 3),
    Kind("membership", "DEBIT", "7997", 1.0, 6, _DAY, 34, 0.4, _DEBITED, "99", 6),
    Kind("cash_deposit", "CASH_IN", "6010", 0.5, 4, _DAY, 180, 0.64, _COUNTER, "note", 15),
    Kind("salary", "CASH_IN", "7361", 1.0, 0, _EVEN, 2300, 0.0, _STANDING, "any", 30),
    Kind("rent", "PAYMENT", "6513", 1.0, 0, _EVEN, 1050, 0.0, _STANDING, "00", 12),
    Kind("utilities", "PAYMENT", "4900", 1.0, 0, _EVEN, 92, 0.12, _STANDING, "any", 6),
    Kind("telecom", "PAYMENT", "4814", 1.0, 0, _EVEN, 42, 0.0, _STANDING, "99", 5),
    Kind("insurance", "PAYMENT", "6300", 1.0, 0, _EVEN, 74, 0.0, _STANDING, "any", 5),
    Kind("streaming", "PURCHASE", "4899", 1.0, 0, _EVEN, 12, 0.0, _STANDING, "fixed", 4),
)  # fmt: skip
"""Every kind; the code of a kind is its index in this table."""


@dataclass(frozen=True)
class StandingOrder:
    """A kind that is due once a month.

    share is the share of customers who have it, days the days of the month on which it is due, with
    their weights, and hours the range of local hours in which it is booked.
    """

    kind: str
    share: float
    days: dict[int, float]
    hours: tuple[int, int]


_ANY_DAY = dict.fromkeys(range(1, 29), 1.0)

STANDING_ORDERS = (
    StandingOrder("salary", 0.70, {1: 35, 15: 25, 25: 25, 28: 15}, (6, 14)),
    StandingOrder("rent", 0.55, {1: 40, 2: 15, 3: 15, 5: 10, 15: 20}, (7, 19)),
    StandingOrder("utilities", 0.80, _ANY_DAY, (7, 21)),
    StandingOrder("telecom", 0.70, _ANY_DAY, (7, 21)),
    StandingOrder("insurance", 0.35, _ANY_DAY, (7, 21)),
    StandingOrder("streaming", 0.60, _ANY_DAY, (7, 23)),
)

CODE = {kind.name: code for code, kind in enumerate(KINDS)}
"""The code of a kind, by its name."""
