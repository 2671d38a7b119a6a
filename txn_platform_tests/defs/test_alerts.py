"""The sensor `alerts`: one message when something breaks, one when it is right again.

The receiver is a server of the tests, the instance is kept on disk, and the runs are real.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from txn_platform.definitions import build_defs
from txn_platform.defs.alert_cursor import AlertCursor
from txn_platform.defs.alerts import alerts
from txn_platform.defs.resources import GeneratorResource
from txn_platform.defs.run_history import JOB
from txn_platform.local.stack import DAGSTER_YAML
from txn_platform.runbook import Section
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.support.hourly_source import HourlySource, rows_of
from txn_platform_tests.support.served_source import served
from txn_platform_tests.support.webhook_receiver import WebhookReceiver, receiving

_DAY = datetime(2026, 11, 3, tzinfo=UTC)


def _hour(number: int) -> Window:
    return Window(_DAY + timedelta(hours=number))


def _key(number: int) -> str:
    return _hour(number).partition_key


@dataclass
class Alerting:
    """The sensor over a source, an instance and a receiver."""

    source: HourlySource
    instance: dg.DagsterInstance
    receiver: WebhookReceiver
    cursor: str | None = None
    reason: str = ""

    def tick(self) -> list[str]:
        """Evaluate the sensor, and give the titles of the messages that this delivered."""
        before = len(self.receiver.accepted)
        resources = {"generator": GeneratorResource(url=self.source.url)}
        with dg.build_sensor_context(
            cursor=self.cursor, resources=resources, instance=self.instance
        ) as context:
            result = alerts(context)
        assert isinstance(result, dg.SensorResult)
        assert not result.run_requests
        self.cursor = result.cursor or self.cursor
        self.reason = str(result.skip_reason)
        return self.receiver.titles[before:]

    def run(self, number: int, *, selection: list[str] | None = None) -> bool:
        """Run a window, and say whether it succeeded."""
        job = build_defs().resolve_job_def(JOB)
        config = {"resources": {"generator": {"config": {"url": self.source.url}}}}
        result = job.execute_in_process(
            instance=self.instance,
            partition_key=_key(number),
            run_config=config,
            raise_on_error=False,
            asset_selection=selection and [dg.AssetKey(name) for name in selection],
        )
        return result.success

    def breaks(self, number: int) -> None:
        """Let the rows of an hour break the contract, and run it."""
        self.source.hours[_key(number)] = rows_of(_hour(number), country="XX")
        assert not self.run(number)

    def is_put_right(self, number: int) -> None:
        """Let the rows of an hour conform again, and run it."""
        self.source.hours[_key(number)] = rows_of(_hour(number))
        assert self.run(number)


@pytest.fixture
def alerting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Alerting]:
    """A source that is complete up to 04:00, and the sensor just turned on."""
    home = tmp_path / "dagster-home"
    home.mkdir()
    (home / "dagster.yaml").write_text(DAGSTER_YAML.read_text())
    with (
        served(HourlySource([], watermark=_hour(4).start)) as source,
        receiving() as receiver,
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        assert isinstance(source, HourlySource)
        monkeypatch.setenv("TXN_ALERT_WEBHOOK", receiver.url)
        monkeypatch.setenv("TXN_UI_URL", "https://dagster.example.com/ui/")
        monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
        yield Alerting(source, instance, receiver)


def test_ten_failures_are_told_once_and_their_end_is_told_once(alerting: Alerting) -> None:
    told: list[str] = []
    for _ in range(10):
        alerting.breaks(3)
        told += alerting.tick()
    assert told == [f"{_key(3)} failed: quarantine_share"]
    first_run = alerting.instance.get_runs()[-1].run_id
    message = alerting.receiver.accepted[0]
    assert message["type"] == "failure"
    assert message["link"] == f"https://dagster.example.com/ui/runs/{first_run}"
    assert message["runbook"] == "docs/runbook.md#quarantine_share"
    assert message["subject"] == _key(3)
    assert message["state"] == "broken"
    assert "country.unknown" in message["reason"]
    for part in ("reason", "link", "runbook", "subject"):
        assert message[part] in message["message"]
    alerting.is_put_right(3)
    assert alerting.tick() == [f"{_key(3)} is right again: quarantine_share"]
    last_run = alerting.instance.get_runs()[0].run_id
    assert alerting.receiver.accepted[1]["link"].endswith(last_run)
    assert alerting.receiver.accepted[1]["type"] == "success"
    assert alerting.tick() == alerting.tick() == []
    # The next failure is a new one.
    alerting.breaks(3)
    assert alerting.tick() == [f"{_key(3)} failed: quarantine_share"]


def test_windows_and_causes_are_told_apart(alerting: Alerting) -> None:
    alerting.breaks(2)
    alerting.breaks(3)
    alerting.source.statuses["/v1/transactions"] = 500
    assert not alerting.run(3)
    assert alerting.tick() == [
        f"{_key(2)} failed: quarantine_share",
        f"{_key(3)} failed: quarantine_share",
        f"{_key(3)} failed: source-does-not-answer",
    ]
    alerting.source.statuses.clear()
    alerting.is_put_right(3)
    assert alerting.tick() == [
        f"{_key(3)} is right again: quarantine_share",
        f"{_key(3)} is right again: source-does-not-answer",
    ]
    alerting.is_put_right(2)
    assert alerting.tick() == [f"{_key(2)} is right again: quarantine_share"]


def test_a_step_that_succeeds_alone_rights_only_its_own_failures(alerting: Alerting) -> None:
    alerting.breaks(3)
    alerting.tick()
    assert alerting.run(3, selection=["raw_transactions"])
    assert alerting.tick() == []
    alerting.is_put_right(3)
    assert alerting.tick() == [f"{_key(3)} is right again: quarantine_share"]


def test_a_delivery_that_failed_is_tried_again_in_order(alerting: Alerting) -> None:
    alerting.receiver.status = 503
    alerting.breaks(3)
    assert alerting.tick() == []
    assert "could not be delivered: it answered with status 503" in alerting.reason
    assert alerting.receiver.refused == 1
    alerting.breaks(3)
    assert alerting.tick() == []
    alerting.is_put_right(3)
    assert alerting.tick() == []
    alerting.receiver.status = 200
    assert alerting.tick() == [
        f"{_key(3)} failed: quarantine_share",
        f"{_key(3)} is right again: quarantine_share",
    ]
    assert alerting.tick() == []


def test_the_address_is_never_shown(
    alerting: Alerting, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alerting.receiver.status = 500
    alerting.breaks(3)
    alerting.tick()
    shown = [alerting.reason, alerting.cursor or ""]
    monkeypatch.setenv("TXN_ALERT_WEBHOOK", "slack://a-secret-path")
    alerting.tick()
    assert "TXN_ALERT_WEBHOOK cannot be used" in alerting.reason
    monkeypatch.setenv("TXN_ALERT_WEBHOOK", "a-secret-path")
    alerting.tick()
    assert "TXN_ALERT_WEBHOOK: must be one address" in alerting.reason
    shown += [alerting.reason, repr(load_settings(alert_webhook=alerting.receiver.url))]
    output = capfd.readouterr()
    assert not re.search("a-secret-path|secret-too", "".join([*shown, output.out, output.err]))


def test_what_was_right_before_the_sensor_was_turned_on_is_not_told(alerting: Alerting) -> None:
    alerting.breaks(2)
    alerting.is_put_right(2)
    alerting.breaks(3)
    assert alerting.tick() == [f"{_key(3)} failed: quarantine_share"]


def test_a_change_of_an_old_run_is_no_news(alerting: Alerting) -> None:
    alerting.breaks(3)
    failed = alerting.instance.get_runs()[0].run_id
    alerting.tick()
    alerting.is_put_right(3)
    alerting.tick()
    alerting.instance.add_run_tags(failed, {"note": "looked at"})
    assert alerting.tick() == []
    # As long after it, when the cursor does not remember the run any more.
    cursor = AlertCursor.parse(alerting.cursor, _DAY)
    alerting.cursor = cursor.model_copy(update={"seen": {}}).to_text()
    assert alerting.tick() == []


def test_a_run_that_dagster_retries_wakes_nobody(alerting: Alerting) -> None:
    alerting.breaks(3)
    run = alerting.instance.get_runs()[0].run_id
    alerting.instance.add_run_tags(run, {"dagster/will_retry": "true"})
    assert alerting.tick() == []
    alerting.instance.add_run_tags(run, {"dagster/auto_retry_run_id": "another"})
    assert alerting.tick() == []
    alerting.breaks(3)
    assert alerting.tick() == [f"{_key(3)} failed: quarantine_share"]


def _dies(alerting: Alerting, number: int) -> None:
    """A run of a window ends without a result, as one whose process was killed."""
    job = build_defs().resolve_job_def(JOB)
    run = alerting.instance.create_run_for_job(
        job, tags={"dagster/partition": _key(number)}, status=dg.DagsterRunStatus.STARTED
    )
    alerting.instance.report_run_failed(run)


def test_a_run_that_died_is_told(alerting: Alerting) -> None:
    _dies(alerting, 3)
    assert alerting.tick() == [f"{_key(3)} failed: run-died"]
    assert alerting.run(3)
    assert alerting.tick() == [f"{_key(3)} is right again: run-died"]


def test_many_failures_of_one_kind_are_one_message(alerting: Alerting) -> None:
    for number in range(-20, 4):
        _dies(alerting, number)
    assert alerting.tick() == ["24 failures: run-died"]
    named = alerting.receiver.accepted[0]["subject"]
    assert _key(-20) in named
    assert named.endswith("and 4 more")
    assert alerting.tick() == []


def test_a_lake_that_falls_behind_is_told_once_and_a_backfill_does_not_right_it(
    alerting: Alerting,
) -> None:
    assert alerting.run(3)
    assert alerting.tick() == []
    alerting.source.watermark = _hour(5).start
    assert alerting.tick() == []
    alerting.source.watermark = _hour(6).start
    assert alerting.tick() == ["lake is behind its source: freshness"]
    assert "up to 2026-11-03T04:00:00Z" in alerting.receiver.accepted[0]["reason"]
    assert alerting.receiver.accepted[0]["runbook"] == "docs/runbook.md#freshness"
    assert alerting.run(1)
    alerting.source.watermark = _hour(7).start
    assert alerting.tick() == []
    assert alerting.run(6)
    assert alerting.tick() == ["lake is up to date again: freshness"]
    assert alerting.tick() == []


def test_a_lake_that_was_never_up_to_date_is_not_late(alerting: Alerting) -> None:
    assert alerting.tick() == []
    alerting.source.watermark = _hour(300).start
    assert alerting.run(1)
    assert alerting.tick() == []


def test_a_source_that_is_silent_for_long_is_told(alerting: Alerting) -> None:
    assert alerting.tick() == []
    alerting.source.statuses["/v1/watermark"] = 503
    assert alerting.tick() == alerting.tick() == []
    # A quarter of an hour passes.
    cursor = AlertCursor.parse(alerting.cursor, _DAY)
    assert cursor.unanswered_since is not None
    earlier = cursor.unanswered_since - timedelta(minutes=15)
    alerting.cursor = cursor.model_copy(update={"unanswered_since": earlier}).to_text()
    assert alerting.tick() == ["source has not answered for a while: source-does-not-answer"]
    assert alerting.tick() == []
    alerting.source.statuses.clear()
    assert alerting.tick() == ["source answers again: source-does-not-answer"]


@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-11-01"))
def spend(context: dg.AssetExecutionContext) -> None:
    """An asset of a user's own, which fails as its test says."""
    match context.run.tags.get("fault"):
        case "data":
            raise ValueError("4111111111111111 is no shop")
        case "message":
            raise dg.Failure("the shops are gone")
        case "interrupt":
            raise dg.DagsterExecutionInterruptedError
        case _:
            pass


@dg.asset_check(asset=spend)
def shops_are_known(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """A check of a user's own, which does not block."""
    return dg.AssetCheckResult(
        passed=context.run.tags.get("fault") != "check", description="2 shops are unknown"
    )


def _spends(alerting: Alerting, fault: str) -> None:
    dg.materialize(
        [spend, shops_are_known],
        instance=alerting.instance,
        partition_key="2026-11-03",
        tags={"fault": fault},
        raise_on_error=False,
    )


@pytest.mark.parametrize(
    ("fault", "cause", "section", "reason"),
    [
        ("data", Section.UNEXPECTED, Section.UNEXPECTED, "spend raised ValueError"),
        ("message", Section.OWN_ASSET, Section.OWN_ASSET, "the shops are gone"),
        ("check", "shops_are_known", Section.OWN_ASSET, "2 shops are unknown"),
    ],
)
def test_assets_of_ones_own_are_told_without_data(
    alerting: Alerting, fault: str, cause: str, section: str, reason: str
) -> None:
    _spends(alerting, fault)
    (title,) = alerting.tick()
    step = "spend_shops_are_known" if fault == "check" else "spend"
    assert title == f"{step} 2026-11-03 failed: {cause}"
    message = alerting.receiver.accepted[0]
    assert reason in message["reason"]
    assert "4111" not in str(message)
    assert message["runbook"] == f"docs/runbook.md#{section}"
    _spends(alerting, "none")
    assert alerting.tick() == [f"{step} 2026-11-03 is right again: {cause}"]


def test_ctrl_c_in_a_terminal_wakes_nobody(alerting: Alerting) -> None:
    with suppress(dg.DagsterExecutionInterruptedError):
        _spends(alerting, "interrupt")
    (run,) = alerting.instance.get_runs()
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert alerting.tick() == []


def test_the_upkeep_of_the_delta_table_is_watched(
    alerting: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def optimizes() -> bool:
        job = build_defs().resolve_job_def("optimize_delta")
        return job.execute_in_process(instance=alerting.instance, raise_on_error=False).success

    assert not optimizes()
    assert alerting.tick() == ["optimize_delta failed: delta-table"]
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", "delta-table")
    assert alerting.run(3)
    assert alerting.tick() == []
    assert optimizes()
    assert alerting.tick() == ["optimize_delta is right again: delta-table"]


def test_a_sensor_without_a_webhook_says_so(
    alerting: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerting.breaks(3)
    monkeypatch.delenv("TXN_ALERT_WEBHOOK")
    assert alerting.tick() == []
    assert "TXN_ALERT_WEBHOOK is not set" in alerting.reason
    monkeypatch.setenv("TXN_ALERT_WEBHOOK", alerting.receiver.url)
    alerting.cursor = "edited by hand"
    assert alerting.tick() == []
    assert "clear it in Dagster's UI" in alerting.reason


def test_a_platform_without_apprise_says_what_to_install(
    alerting: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    alerting.tick()
    assert "pip install 'txn-platform[alerts]'" in alerting.reason
