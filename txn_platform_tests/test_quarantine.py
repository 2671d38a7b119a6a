"""The quarantine as a person reads it, and how what holds card numbers expires."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from txn_platform.cli import main
from txn_platform.contract import QUARANTINE_SCHEMA, luhn_is_valid
from txn_platform.lake import Encoding, Lake, object_key, open_lake
from txn_platform.quarantine import masked, reasons_in
from txn_platform.settings import load_settings
from txn_platform.validation import Validator, find_repeats
from txn_platform.windows import Window
from txn_platform_tests.served_source import in_batches, landed_rows, sent_row

_ASSET = "quarantined_transactions"
_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC))


def _quarantine(lake: Lake, window: Window, *rows: dict[str, str | None]) -> None:
    batch = landed_rows(list(rows))
    judged = Validator(window, find_repeats(in_batches(batch, len(rows)))).judge(batch)
    with lake.stage(QUARANTINE_SCHEMA, Encoding(compression="zstd")) as writer:
        writer.write(judged.quarantined)
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
    everything = reasons_in(lake, _ASSET, None)
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
    assert "amount.missing" not in reasons_in(lake, _ASSET, _WINDOW)


@pytest.mark.usefixtures("lake")
def test_the_command_shows_masked_examples() -> None:
    result = CliRunner().invoke(main, ["quarantine", "--partition", "2026-11-01-00:00"])
    assert result.exit_code == 0
    assert "card_number.check_digit" in result.output
    assert "411111******1112" in result.output
    assert "4111111111111112" not in result.output


def test_the_command_says_when_there_is_nothing() -> None:
    result = CliRunner().invoke(main, ["quarantine"])
    assert (result.exit_code, result.output) == (0, "Nothing is quarantined.\n")
    result = CliRunner().invoke(main, ["quarantine", "--partition", "2026-11-01-00:00"])
    assert result.exit_code == 1
    assert "materialize quarantined_transactions" in result.output


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
    assert runner.invoke(main, ["expire", "--older-than", "30"]).exit_code == 2
