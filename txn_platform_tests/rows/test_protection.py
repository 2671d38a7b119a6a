"""Card numbers: tokens that join, masks that hide."""

import base64
import hashlib
import hmac

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.arrow.dictionaries import as_frame
from txn_platform.contract.card_forms import CARD_MASKS, CardMask
from txn_platform.contract.schema import Transaction
from txn_platform.rows.protection import CardProtector

_KEY = b"sixteen bytes ok"
_NUMBERS = ["4111111111111111", None, "378282246310005", "4111111111111111", "6304000000000000000"]
_ENCODED = pa.array(_NUMBERS, pa.string()).dictionary_encode()


def test_masks_keep_first_six_and_last_four() -> None:
    masks, _ = CardProtector(_KEY).protect(_ENCODED)
    assert masks.to_pylist() == [
        "411111******1111",
        None,
        "378282*****0005",
        "411111******1111",
        "630400*********0000",
    ]


@pytest.mark.parametrize(
    ("mask", "masks"),
    [
        ("last4", ["************1111", None, "***********0005", "***************0000"]),
        ("none", ["****", None, "****", "****"]),
    ],
)
def test_masks_can_keep_less(mask: CardMask, masks: list[str | None]) -> None:
    protector = CardProtector(_KEY, mask)
    found, tokens = protector.protect(_ENCODED)
    assert found.to_pylist() == [*masks[:3], masks[0], masks[3]]
    assert tokens.equals(CardProtector(_KEY).protect(_ENCODED)[1])
    shown = pl.Series(masks, dtype=pl.String).drop_nulls()
    assert shown.str.contains(CARD_MASKS[mask].pattern).all()
    # A full number is no mask of any form.
    for form in CARD_MASKS.values():
        assert not pl.Series(["4111111111111111"]).str.contains(form.pattern).any()


def test_tokens_are_hmac_sha256_under_the_key() -> None:
    tokens = CardProtector(_KEY).protect(_ENCODED)[1].to_pylist()
    code = hmac.new(_KEY, b"4111111111111111", hashlib.sha256).digest()
    assert base64.b32decode(tokens[0].upper() + "====") == code
    assert tokens[0] == tokens[3] != tokens[2]
    assert tokens[1] is None


# Numbers that differ in their leading zeros alone are others.
_DIGITS = st.one_of(
    st.text("0123456789", min_size=13, max_size=19),
    st.integers(13, 19).map("0".__mul__),
    st.just("9" * 19),
)


@given(st.lists(st.lists(_DIGITS, max_size=8), max_size=4))
def test_each_number_has_its_own_token_however_many_were_met_before(
    batches: list[list[str]],
) -> None:
    protector = CardProtector(_KEY)
    for numbers in batches:
        masks, tokens = protector.protect(pa.array(numbers, pa.string()).dictionary_encode())
        assert len(set(masks.dictionary.to_pylist())) == len(masks.dictionary)
        for number, mask, token in zip(numbers, masks.to_pylist(), tokens.to_pylist(), strict=True):
            assert mask == f"{number[:6]}{'*' * (len(number) - 10)}{number[-4:]}"
            code = hmac.new(_KEY, number.encode(), hashlib.sha256).digest()
            assert token == base64.b32encode(code).decode().rstrip("=").lower()


def test_another_key_makes_other_tokens() -> None:
    one, other = (
        CardProtector(key).protect(_ENCODED)[1].drop_null().to_pylist()
        for key in (_KEY, _KEY[::-1])
    )
    assert set(one).isdisjoint(other)


def test_masks_and_tokens_conform_to_the_contract() -> None:
    columns = CardProtector(_KEY).protect(_ENCODED.drop_null())
    frame = as_frame(pa.record_batch(list(columns), ["card_number", "card_token"]))
    for name in ("card_number", "card_token"):
        for rule in Transaction.columns()[name].validation_rules(pl.col(name)).values():
            assert frame.select(rule).to_series().all()


def test_no_numbers_make_no_masks() -> None:
    masks, tokens = CardProtector(_KEY).protect(_ENCODED.slice(0, 0))
    assert len(masks) == len(tokens) == 0


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        CardProtector(b"short")


def test_numbers_that_differ_by_their_length_have_their_own_tokens() -> None:
    """Small numbers with leading zeros, and those that a power of ten makes of them."""
    numbers = [
        str(offset + power).zfill(length)
        for length in range(13, 20)
        for offset in (0, 5)
        for power in (0, *(10**shorter for shorter in range(13, length)))
    ]
    protector = CardProtector(_KEY)
    for few in (numbers[::2], numbers[1::2], numbers):
        tokens = protector.protect(pa.array(few).dictionary_encode())[1].to_pylist()
        codes = [hmac.new(_KEY, number.encode(), hashlib.sha256).digest() for number in few]
        assert tokens == [base64.b32encode(code).decode().rstrip("=").lower() for code in codes]
