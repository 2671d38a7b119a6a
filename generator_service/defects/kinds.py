"""The kinds of defects, and which shares of the rows are asked to have them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from generator_service.models import nearest, parse_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Kind:
    """A kind of defect.

    Attributes:
        name: its name in `defects=` and in the account.
        field: the field that is corrupted or added.
        corrupt: a function from the true text to the sent one, or the text that is always sent;
            None is null.
        absent: the field is missing in JSON.
        adds: a field that is sent in addition. Its value is the new value of `field`, or the true
            one when that is null: the value has then moved to the added field.
        json: how JSON writes the corrupted value, when not as a string: a function of the sent
            text, or a constant with its quotes.
        repeats: the row is sent unchanged, followed by a corrupted copy.
        copy_differs: the copy differs from its row, so the account lists both.
    """

    name: str
    field: str
    corrupt: Callable[[str], str] | str | None
    absent: bool = False
    adds: str | None = None
    json: Callable[[str], str] | str | None = None
    repeats: bool = False
    copy_differs: bool = False

    @property
    def has_shape(self) -> bool:
        """Whether its rows have other fields, or types, in JSON than clean rows."""
        return self.absent or self.adds is not None or self.json is not None


def corrupted(
    change: Callable[[str], str] | str | None, texts: Sequence[str]
) -> Sequence[str | None]:
    """Return each text changed by a function, or the same constant for each."""
    return [change(text) for text in texts] if callable(change) else [change] * len(texts)


def _unchanged(text: str) -> str:
    return text


def _exponent(amount: str) -> str:
    return f"{int(amount.replace('.', ''))}e-2"


def _thousands(amount: str) -> str:
    whole, cents = amount.split(".")
    whole = whole.zfill(4)
    return f"{whole[:-3]},{whole[-3:]}.{cents}"


def _nineteen_digits(amount: str) -> str:
    return "9" + amount.zfill(19)


def _month_first(moment: str) -> str:
    return f"{moment[5:7]}/{moment[8:10]}/{moment[:4]} {moment[11:19]}"


def _year_before(moment: str) -> str:
    return (date.fromisoformat(moment[:10]) - timedelta(days=365)).isoformat() + moment[10:]


def _epoch(moment: str) -> str:
    return str(parse_moment(moment) // 1_000_000)


def _wrong_check_digit(number: str) -> str:
    return f"{number[:-1]}{(int(number[-1]) + 1) % 10}"


_HALF = "Half \x1a\\ud83d Moon"
_HALF_IN_JSON = '"Half \\ud83d Moon"'

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("missing_field", "customer_id", None, absent=True),
        Kind("null_field", "transaction_type", None),
        Kind("extra_field", "loyalty_points", "250", adds="loyalty_points"),
        Kind("renamed_field", "merchant_name", None, absent=True, adds="merchantName"),
        Kind("wrong_type_number", "amount", _unchanged, json=_unchanged),
        Kind("wrong_type_boolean", "is_fraud", lambda truth: "1" if truth == "true" else "0"),
        Kind("amount_scale", "amount", lambda amount: amount + "5"),
        Kind("amount_exponent", "amount", _exponent),
        Kind("amount_thousands", "amount", _thousands),
        Kind("amount_nan", "amount", "NaN"),
        Kind("amount_infinity", "amount", "Infinity"),
        Kind("amount_negative", "amount", lambda amount: "-" + amount),
        Kind("amount_zero", "amount", "0.00"),
        Kind("amount_19_digits", "amount", _nineteen_digits),
        Kind("amount_leading_space", "amount", lambda amount: " " + amount),
        Kind("amount_trailing_space", "amount", lambda amount: amount + " "),
        Kind("time_naive", "transaction_at", lambda at: at[:-1]),
        Kind("time_format", "transaction_at", _month_first),
        Kind("time_future", "transaction_at", lambda at: "9999-12-31" + at[10:]),
        Kind("time_outside_window", "transaction_at", _year_before),
        Kind("time_30_february", "transaction_at", lambda at: f"{at[:4]}-02-30{at[10:]}"),
        Kind("time_leap_second", "transaction_at", lambda at: f"{at[:10]}T23:59:60{at[19:]}"),
        Kind("time_epoch", "transaction_at", _epoch, json=_unchanged),
        Kind("card_check_digit", "card_number", _wrong_check_digit),
        Kind("card_letters", "card_number", lambda number: number[:-4] + "ABCD"),
        Kind("card_12_digits", "card_number", lambda number: number[:12]),
        Kind("card_20_digits", "card_number", lambda number: number.ljust(20, "0")),
        Kind("type_unknown", "transaction_type", "GIFT"),
        Kind("currency_unknown", "currency", "ZZZ"),
        Kind("country_unknown", "country", "ZZ"),
        Kind("category_unknown", "merchant_category_code", "0000"),
        Kind("id_malformed", "transaction_id", lambda text: text.replace("-", "")),
        Kind("id_empty", "transaction_id", ""),
        Kind("duplicate_id_same", "transaction_id", _unchanged, repeats=True),
        Kind(
            "duplicate_id_other",
            "amount",
            lambda amount: "1" + amount,
            repeats=True,
            copy_differs=True,
        ),
        Kind("control_character", "merchant_name", "Bell \x07 Co"),
        Kind("lone_surrogate", "merchant_name", _HALF, json=_HALF_IN_JSON),
        Kind("right_to_left_mark", "merchant_name", "Right \u200f Left"),
        Kind("huge_string", "merchant_name", "A" * 1_000_000),
        Kind("latitude_91", "latitude", "91.000000"),
    )
}
"""All kinds, by name.

- JSON lacks a missing or renamed field; the other formats send null. An added field is a column in
  the other formats, null in all other rows.
- Only JSON has wrong types; the other formats send the same text.
- In CSV null is an empty field and empty text is `""`. A reader that does not distinguish them
  reads `missing_field`, `null_field` and `renamed_field` as empty text.
- `lone_surrogate` is an escaped half of a surrogate pair in JSON. UTF-8 cannot encode one: the
  other formats send the six characters of the escape after a SUBSTITUTE (U+001A).
- `time_outside_window` is the same time 365 days earlier.
"""


def page_of_kinds() -> str:
    """Return the description of the account, in Markdown, with a table of all kinds."""
    rows = "\n".join(f"| `{kind.name}` | `{kind.field}` |" for kind in KINDS.values())
    return f"""\
Return the account of the defects in the rows that /v1/transactions sends for the same parameters:
an entry for each corrupted row, and for each row with a copy that differs from it. `limit` counts
rows of the window here too.

| kind | field |
| --- | --- |
{rows}
"""


@dataclass(frozen=True)
class Defects:
    """The share of rows that get each kind of defect; no rate is zero."""

    rates: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Defects:
        """Read `kind:rate,...`; an empty text asks for no defects.

        A rate is a share of the rows, from 0 to 1. The rate of `all`, or of a prefix of several
        names such as `amount` or `duplicate_id`, is divided equally among these kinds.

        Raises:
            ValueError: the text cannot be read; the message says what to send instead.
        """
        rates = dict.fromkeys(KINDS, 0.0)
        for part in filter(None, text.split(",")):
            name, colon, written = (piece.strip() for piece in part.partition(":"))
            meant = [kind for kind in KINDS if name in {"all", kind} or kind.startswith(f"{name}_")]
            if not meant:
                otherwise = f"all or one of {', '.join(KINDS)},"
                raise ValueError(f"{nearest(name, KINDS, otherwise)} instead of {name!r}")
            if not colon or not re.fullmatch(r"[0-9]*\.?[0-9]+", written) or float(written) > 1:
                raise ValueError(
                    f"{name} with the share of rows that get it, from 0 to 1, as in {name}:0.01"
                )
            for kind in meant:
                rates[kind] += float(written) / len(meant)
        total = sum(rates.values())
        if total > 1 + 1e-9:
            raise ValueError(f"rates that add up to 1 at most, not to {total:g}")
        return cls(tuple((kind, rate) for kind, rate in rates.items() if rate))
