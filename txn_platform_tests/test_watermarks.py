"""`txn run` takes the newest complete hours, whatever moment the source is complete up to."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from txn_platform.cli import main
from txn_platform.windows import Window
from txn_platform_tests.support.hourly_source import HourlySource


def test_a_watermark_within_an_hour_completes_the_hours_before_it(source: HourlySource) -> None:
    source.watermark_text = "2026-11-03T06:59:59+00:30"
    result = CliRunner().invoke(main, ["run", "--last", "2", "--json"])
    assert result.exit_code == 0, result.output
    partitions = [json.loads(line)["partition"] for line in result.stdout.splitlines()]
    assert partitions == ["2026-11-03-04:00", "2026-11-03-05:00"]


def test_a_watermark_of_the_future_ends_at_the_clock(source: HourlySource) -> None:
    source.watermark_text = "9999-12-31T23:00:00Z"
    before = datetime.now(UTC)
    result = CliRunner().invoke(main, ["run", "--json"])
    assert result.exit_code == 0, result.output
    newest = Window.of_partition(json.loads(result.stdout)["partition"])
    assert before - timedelta(hours=1) < newest.end <= datetime.now(UTC)


@pytest.mark.parametrize("watermark", ["2026-01-01T00:59:00Z", "0001-01-01T00:00:00Z"])
def test_a_watermark_before_the_first_window_is_explained(
    source: HourlySource, watermark: str
) -> None:
    source.watermark_text = watermark
    result = CliRunner().invoke(main, ["run", "--last", "999999999999"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        f"Error: the source has no complete hour yet: its watermark is {watermark}"
    )


def test_a_watermark_without_a_zone_is_refused(
    source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
    source.watermark_text = "2026-11-03T06:00:00"
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 1
    assert "has a time without a zone under 'watermark'" in result.stderr
