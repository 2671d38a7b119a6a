"""The quarantine reasons that the platform gives for each defect kind of the generator.

The generator knows its own kinds only, and the platform its own reasons. The tests connect them.
"""

from __future__ import annotations

_REASONS: dict[str, tuple[str, ...]] = {
    "missing_field": ("customer_id.missing",),
    "null_field": ("transaction_type.missing",),
    "extra_field": (),
    "renamed_field": ("merchant_name.missing",),
    "wrong_type_number": (),
    "wrong_type_boolean": ("is_fraud.format",),
    "amount_scale": ("amount.format",),
    "amount_exponent": ("amount.format",),
    "amount_thousands": ("amount.format",),
    "amount_nan": ("amount.format",),
    "amount_infinity": ("amount.format",),
    "amount_negative": ("amount.range",),
    "amount_zero": ("amount.range",),
    "amount_19_digits": ("amount.format",),
    "amount_leading_space": ("amount.format",),
    "amount_trailing_space": ("amount.format",),
    "time_naive": ("transaction_at.format",),
    "time_format": ("transaction_at.format",),
    "time_future": ("transaction_at.outside_window",),
    "time_outside_window": ("transaction_at.outside_window",),
    "time_30_february": ("transaction_at.format",),
    "time_leap_second": ("transaction_at.format",),
    "time_epoch": ("transaction_at.format",),
    "card_check_digit": ("card_number.check_digit",),
    "card_letters": ("card_number.format",),
    "card_12_digits": ("card_number.format",),
    "card_20_digits": ("card_number.format",),
    "type_unknown": ("transaction_type.unknown",),
    "currency_unknown": ("currency.unknown",),
    "country_unknown": ("country.unknown",),
    "category_unknown": ("merchant_category_code.unknown",),
    "id_malformed": ("transaction_id.format",),
    "id_empty": ("transaction_id.format",),
    "duplicate_id_same": ("transaction_id.duplicate",),
    "duplicate_id_other": ("transaction_id.conflict",),
    "control_character": ("merchant_name.format",),
    "lone_surrogate": ("merchant_name.format",),
    "right_to_left_mark": ("merchant_name.format",),
    "huge_string": ("merchant_name.format",),
    "latitude_91": ("latitude.range",),
}


def reasons_of_defect(kind: str, *, original: str | None) -> list[str]:
    """Return the sorted reasons of a row with a defect; none when the row still conforms.

    Args:
        kind: the generator's kind of defect.
        original: the row's `original_transaction_id`. Only a refund may have one, so an unknown
            type breaks a second rule where it is set.
    """
    reasons = list(_REASONS[kind])
    if kind == "type_unknown" and original:
        reasons.append("original_transaction_id.type_differs")
    return sorted(reasons)
