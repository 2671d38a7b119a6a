"""The quarantine as a person reads it, and how what holds card numbers expires."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from txn_platform.cli import main
from txn_platform.contract.card_numbers import card_number_spans, luhn_is_valid
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.lake.base import Lake
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import open_lake
from txn_platform.lake.parquet import Encoding
from txn_platform.lake.quarantine import LANDED_DIGEST, look_into
from txn_platform.rows.reason_tally import form_of, masked
from txn_platform.rows.validation import Validator, find_repeats
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.support.card_spellings import SPELLINGS
from txn_platform_tests.support.served_source import in_batches, landed_rows, sent_row

_RAW = "raw_transactions"
_ASSET = "quarantined_transactions"
_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC))


def _quarantine(lake: Lake, window: Window, *rows: dict[str, str | None]) -> None:
    batch = landed_rows(list(rows))
    validated = Validator(window, find_repeats(in_batches(batch, len(rows)))).validate(batch)
    with lake.stage(TRANSACTIONS.quarantine_schema, Encoding(compression="zstd")) as writer:
        writer.write(validated.quarantined)
        writer.annotate({LANDED_DIGEST: lake.digest(object_key(_RAW, window)) or ""})
        lake.publish(writer.finish(), object_key(_ASSET, window), clear_cards=True)


@pytest.fixture
def lake() -> Lake:
    """A directory lake with two windows of quarantined rows."""
    lake = open_lake(load_settings())
    _quarantine(
        lake,
        _WINDOW,
        *(sent_row(number, amount=f"{number}.005") for number in range(9)),
        sent_row(20, card_number="4111111111111112", currency="XXX"),
    )
    later = Window(datetime(2026, 11, 1, 1, tzinfo=UTC))
    _quarantine(lake, later, sent_row(1, amount=None))
    return lake


def test_reasons_are_counted_over_all_windows_or_one(lake: Lake) -> None:
    everything = look_into(lake, _RAW, _ASSET, None).reasons
    assert {name: reason.rows for name, reason in everything.items()} == {
        "amount.format": 9,
        "card_number.check_digit": 1,
        "currency.unknown": 1,
        "amount.missing": 1,
        "transaction_at.outside_window": 1,
    }
    assert next(iter(everything)) == "amount.format"
    assert everything["amount.format"].examples == ["0.005", "1.005", "2.005"]
    assert everything["amount.missing"].examples == ["(absent)"]
    assert "amount.missing" not in look_into(lake, _RAW, _ASSET, _WINDOW).reasons


@pytest.mark.usefixtures("lake")
def test_the_command_shows_masked_examples() -> None:
    result = CliRunner().invoke(main, ["quarantine", "--partition", "2026-11-01-00:00"])
    assert result.exit_code == 0
    assert "card_number.check_digit" in result.output
    assert "411111******1112" in result.output
    assert "4111111111111112" not in result.output


@pytest.mark.usefixtures("lake")
@pytest.mark.parametrize(
    ("mask", "shown"), [("last4", "'************1112'"), ("none", "'****************'")]
)
def test_no_example_shows_more_than_the_chosen_mask(
    mask: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_CARD_MASK", mask)
    result = CliRunner().invoke(main, ["quarantine", "--partition", "2026-11-01-00:00"])
    assert shown in result.output


def test_the_command_shows_a_value_that_looks_like_markup() -> None:
    values = ["[/x]", "[bold]", ":smile:", "[link=http://a]b[/link]", "\x1b[31m\0"]
    rows = [sent_row(number, currency=value) for number, value in enumerate(values)]
    for window, row in enumerate(rows):
        at = Window(datetime(2026, 11, 1, window, tzinfo=UTC))
        _quarantine(open_lake(load_settings()), at, row)
        result = CliRunner().invoke(main, ["quarantine", "--partition", at.partition_key])
        assert (result.exit_code, result.exception) == (0, None)
        shown = values[window] if values[window].isprintable() else "x1b[31m"
        assert shown in result.output


def test_the_command_says_when_there_is_nothing() -> None:
    result = CliRunner().invoke(main, ["quarantine"])
    assert result.exit_code == 0
    assert "Nothing is quarantined in " in result.output
    result = CliRunner().invoke(main, ["quarantine", "--partition", "2026-11-01-00:00"])
    assert result.exit_code == 1
    assert "materialize quarantined_transactions" in result.output


def _land(lake: Lake, window: Window, *rows: dict[str, str | None]) -> None:
    with lake.stage(TRANSACTIONS.raw_schema, Encoding(compression="zstd")) as writer:
        writer.write(landed_rows(list(rows)))
        lake.publish(writer.finish(), object_key(_RAW, window), clear_cards=True)


@pytest.mark.parametrize("command", ["quarantine", "run"])
@pytest.mark.parametrize("partition", ["", " ", "2026-11-01", "2026-11-01-00:30"])
def test_a_partition_that_is_no_hour_does_not_mean_all(command: str, partition: str) -> None:
    result = CliRunner().invoke(main, [command, "--partition", partition])
    assert result.exit_code == 1
    assert (
        result.stderr == f"Error: partition {partition!r} is not an hour: write it as"
        " 2026-11-01-00:00 (UTC)\n"
    )


def test_a_window_that_was_landed_and_not_published_is_validated(lake: Lake) -> None:
    third = Window(datetime(2026, 11, 1, 2, tzinfo=UTC))
    at = "2026-11-01T02:00:00Z"
    _land(
        lake,
        third,
        sent_row(1, transaction_at=at, country="UK"),
        sent_row(2, transaction_at=at),
        sent_row(1, transaction_at=at, country="UK"),
    )
    _land(lake, _WINDOW, sent_row(1, amount="12,50"))
    runner = CliRunner()
    result = runner.invoke(main, ["quarantine", "--partition", third.partition_key])
    assert result.exit_code == 0
    assert f"{third.partition_key} was not published since it was landed: validated now" in (
        result.output
    )
    assert "country.unknown" in result.output
    found = look_into(lake, _RAW, _ASSET, third)
    assert {name: reason.rows for name, reason in found.reasons.items()} == {
        "country.unknown": 2,
        "transaction_id.duplicate": 1,
    }
    everything = look_into(lake, _RAW, _ASSET, None)
    assert everything.validated == [_WINDOW, third], "the first was landed again later"
    assert everything.reasons["amount.format"].examples == ["12,50"]
    assert lake.find(object_key(_ASSET, third)) is None, "nothing is written"
    _quarantine(lake, third, sent_row(1, transaction_at=at, country="UK"))
    assert not look_into(lake, _RAW, _ASSET, third).validated


def test_a_reason_has_three_examples_however_many_rows_and_windows_have_it(lake: Lake) -> None:
    for hour, count in enumerate((2, 2, 5)):
        rows = [sent_row(number, amount=f"{hour}{number},50") for number in range(count)]
        _quarantine(lake, Window(datetime(2026, 11, 1, hour, tzinfo=UTC)), *rows)
    reason = look_into(lake, _RAW, _ASSET, None).reasons["amount.format"]
    assert reason.rows == 9
    assert reason.examples == ["00,50", "01,50", "10,50"]


def test_an_unreadable_row_is_shown_by_its_text(lake: Lake) -> None:
    row = dict.fromkeys(sent_row(1)) | {"extra_fields": '{"unreadable":"{\\"amount\\": 1"}'}
    _quarantine(lake, _WINDOW, row)
    (reason,) = look_into(lake, _RAW, _ASSET, _WINDOW).reasons.items()
    assert reason[0] == "row.unreadable"
    assert reason[1].examples == ['{"amount": 1']
    assert reason[1].form == '{"aaaaaa": 9'


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, "(absent)"),
        ("", ""),
        ("12,50 EUR", "99,99 AAA"),
        ("Zoë 東京", "Aaa aa"),
        ("a\x07\u202eb", "a\\x07\\u202ea"),
        ("\u0661\u0662", "99"),
        ("4111111111111111", "9999999999999999"),
        ("x" * 41, "a" * 40 + "… (41 characters)"),
    ],
)
def test_the_form_of_a_value_has_none_of_its_letters_and_digits(
    value: str | None, form: str
) -> None:
    assert form_of(value) == form


@pytest.mark.parametrize("spelling", [*SPELLINGS, "with a wrong check digit"])
def test_a_number_is_masked_however_it_is_spelled(spelling: str) -> None:
    shown = masked(SPELLINGS.get(spelling, "4111 1111 1111 1112"))
    assert shown.count("*") >= 6
    assert not card_number_spans(shown)


@pytest.mark.parametrize("spelling", [name for name in SPELLINGS if "1111" in SPELLINGS[name]])
def test_a_mistyped_number_is_masked_too(spelling: str) -> None:
    before, one, after = SPELLINGS[spelling].rpartition("1111")
    shown = masked(f"{before}{one[:-1]}2{after}")
    assert shown.count("*") - before.count("*") >= 6


@pytest.mark.parametrize(
    "time", ["2026-11-01T12:30:45.123456+00:00", "2026-02-30 25:61:00", "2026-11-01T12:30Z"]
)
def test_a_time_is_shown_whole(time: str) -> None:
    assert masked(time) == time


@given(st.text("0123456789 -x", max_size=60))
@example("95053549535--55")
def test_no_card_number_is_shown(value: str) -> None:
    shown = pl.Series([masked(value)]).str.replace_all("[ -]", "").str.extract_all("[0-9]{13,19}")
    assert not luhn_is_valid(shown.explode().cast(pl.String)).any()


def test_only_old_objects_with_clear_numbers_expire(lake: Lake) -> None:
    published = object_key("s3_parquet_transactions", _WINDOW)
    target = Path(lake.uri(published))
    target.parent.mkdir(parents=True)
    target.write_bytes(b"")
    runner = CliRunner()
    kept = runner.invoke(main, ["expire", "--older-than", "36500d", "--yes"])
    assert "0 objects removed" in kept.output
    refused = runner.invoke(main, ["expire", "--older-than", "0d"], input="n\n")
    assert refused.exit_code == 1
    assert len(lake.keys(_ASSET)) == 2
    assert (
        "2 objects removed" in runner.invoke(main, ["expire", "--older-than", "0d", "--yes"]).output
    )
    assert lake.keys(_ASSET) == []
    assert target.exists()
    for wrong in ("30", "٣d", "d", "-1d"):
        assert runner.invoke(main, ["expire", "--older-than", wrong]).exit_code == 2
