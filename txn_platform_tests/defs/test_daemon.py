"""The sensor in a running daemon: every window is published, whatever fails on the way.

The source is a server of the tests; the daemon, its code server and the runs are Dagster's own.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import TickStatus

from txn_platform.defs.publications import publications
from txn_platform.defs.run_history import SENSOR, UNFINISHED
from txn_platform.local.processes import ManagedProcess
from txn_platform.local.stack import DAGSTER_YAML
from txn_platform.windows import Window
from txn_platform_tests.support.hourly_source import HourlySource, rows_of
from txn_platform_tests.support.served_source import served
from txn_platform_tests.support.webhook_receiver import receiving

_DAY = datetime(2026, 11, 3, tzinfo=UTC)
# On a loaded machine a run takes half a minute.
_PATIENCE = 240.0


def _hour(number: int) -> Window:
    return Window(_DAY + timedelta(hours=number))


def _key(number: int) -> str:
    return _hour(number).partition_key


class World:
    """A source, a Dagster home, and what is seen in it."""

    def __init__(self, source: HourlySource, home: Path, directory: Path) -> None:
        self.source = source
        self.home = home
        self.directory = directory
        home.mkdir()
        (home / "dagster.yaml").write_text(DAGSTER_YAML.read_text())
        self.instance = dg.DagsterInstance.from_config(str(home))

    @contextmanager
    def daemon(self, **environment: str) -> Iterator[ManagedProcess]:
        """The daemon, for as long as the block lasts."""
        command = [sys.executable, "-m", "dagster._daemon", "run"]
        with ManagedProcess(
            "the daemon",
            [*command, "-m", "txn_platform_tests.support.quick_definitions"],
            environment={
                **os.environ,
                "DAGSTER_HOME": str(self.home),
                "GENERATOR_URL": self.source.url,
                "TXN_LOOKBACK_HOURS": "1",
                "TXN_SOURCE_ATTEMPTS": "3",
                **environment,
            },
            directory=self.directory,
            grace=20,
        ) as daemon:
            yield daemon

    def comes_true(
        self,
        daemon: ManagedProcess,
        condition: Callable[[], bool],
        what: str,
        *,
        within: float = _PATIENCE,
    ) -> None:
        """Wait for it; the daemon must live as long."""

        deadline = time.monotonic() + within
        while not condition():
            daemon.check()
            self.ticks()
            assert time.monotonic() < deadline, f"{what}: {self.runs()}\n{daemon.output()}"
            # A look at Dagster's storage takes longer than to sleep; the daemon needs the time.
            time.sleep(0.5)

    def is_right(self, *numbers: int) -> bool:
        """Whether the windows are published as the source has them, and no run goes on."""
        if self.instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED)):
            return False
        found = publications(self.instance, [_key(number) for number in numbers])
        return len(found) == len(numbers) and all(
            (publication := found[_key(number)]).totals is not None
            and not publication.totals.differences(self.source.totals_of(_hour(number)))
            for number in numbers
        )

    def runs(self) -> Counter[tuple[str, dg.DagsterRunStatus]]:
        """How many runs of each window ended in which way."""
        return Counter(
            (run.tags["dagster/partition"], run.status) for run in self.instance.get_runs()
        )

    def runs_of(self, number: int) -> list[dg.DagsterRunStatus]:
        """How the runs of a window ended, the oldest first."""
        wanted = dg.RunsFilter(tags={"dagster/partition": _key(number)})
        return [run.status for run in reversed(self.instance.get_runs(wanted))]

    def ticks(self) -> list[TickStatus]:
        """How the sensor's evaluations ended, the newest first."""
        (state, *_) = [
            state
            for state in self.instance.all_instigator_state()
            if state.instigator_name == SENSOR
        ] or [None]
        if state is None:
            return []
        ticks = self.instance.get_ticks(state.instigator_origin_id, state.selector_id)
        assert not [tick.error for tick in ticks if tick.error]
        return [tick.status for tick in ticks]

    def some_ticks_pass(self, daemon: ManagedProcess, count: int) -> None:
        """Wait for so many more ticks."""
        before = len(self.ticks())
        self.comes_true(daemon, lambda: len(self.ticks()) >= before + count, f"{count} ticks")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A source that is complete up to 01:00 of a day."""
    directory = tmp_path / "work"
    directory.mkdir()
    with served(HourlySource([], watermark=_hour(1).start)) as source:
        assert isinstance(source, HourlySource)
        world = World(source, tmp_path / "home", directory)
        with world.instance:
            yield world


FAILED, DONE = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS


def test_a_window_that_failed_for_its_data_is_published_when_the_data_is_right(
    world: World,
) -> None:
    world.source.hours[_key(0)] = rows_of(_hour(0), 2, country="XX")
    with world.daemon() as daemon:
        world.comes_true(daemon, lambda: world.runs_of(0) == [FAILED], "a failed run")
        world.some_ticks_pass(daemon, 2)
        # Not asked for again while the data is the same.
        assert world.runs_of(0) == [FAILED]
        world.source.hours[_key(0)] = rows_of(_hour(0), 3)
        world.comes_true(daemon, lambda: world.is_right(0), "the window published")
        world.some_ticks_pass(daemon, 1)
    assert world.runs_of(0) == [FAILED, DONE]


def _fails_then_rights(
    world: World, daemon: ManagedProcess, number: int, put_right: Callable[[], object]
) -> None:
    """The run of a window fails, more than once; then what was wrong is put right."""
    world.comes_true(daemon, lambda: FAILED in world.runs_of(number), "a failed run")
    world.comes_true(daemon, lambda: len(world.runs_of(number)) > 1, "another run")
    put_right()
    world.comes_true(daemon, lambda: world.is_right(number), "the window published")
    world.some_ticks_pass(daemon, 2)
    assert Counter(world.runs_of(number))[DONE] == 1
    # The pauses grow: 10 s, 20 s, 40 s.
    assert len(world.runs_of(number)) < 8


@pytest.mark.long
def test_a_window_that_failed_by_the_source_is_published_by_itself(world: World) -> None:
    world.source.statuses["/v1/transactions"] = 500
    with world.daemon() as daemon:
        _fails_then_rights(world, daemon, 0, world.source.statuses.clear)


@pytest.mark.long
def test_a_window_that_failed_by_the_store_is_published_by_itself(world: World) -> None:
    lake = world.directory / ".txn" / "lake"
    lake.parent.mkdir()
    lake.write_text("in the way")
    with world.daemon() as daemon:
        _fails_then_rights(world, daemon, 0, lake.unlink)


@pytest.mark.long
def test_a_window_whose_runs_die_is_published_by_itself(world: World) -> None:
    """A card key that cannot be used fails every run at its start."""
    key = world.directory / ".txn" / "card-key"
    key.parent.mkdir()
    key.mkdir()
    with world.daemon() as daemon:
        _fails_then_rights(world, daemon, 0, key.rmdir)


@pytest.mark.long
def test_a_source_that_is_down_for_ten_ticks_costs_nothing(world: World) -> None:
    world.source.statuses["/v1/watermark"] = 503
    with world.daemon() as daemon:
        world.some_ticks_pass(daemon, 10)
        assert world.runs() == {}
        world.source.statuses.clear()
        world.comes_true(daemon, lambda: world.is_right(0), "the window published")
        world.some_ticks_pass(daemon, 2)
    assert world.runs() == {(_key(0), DONE): 1}


@pytest.mark.long
def test_a_daemon_that_was_off_for_a_hundred_windows_catches_up_in_order(world: World) -> None:
    with world.daemon() as daemon:
        world.comes_true(daemon, lambda: world.is_right(0), "the window published")
    world.source.watermark = _hour(101).start
    with world.daemon() as daemon:
        world.comes_true(daemon, lambda: world.is_right(*range(101)), "all published", within=6_000)
        world.some_ticks_pass(daemon, 3)
    assert world.runs() == {(_key(number), DONE): 1 for number in range(101)}
    asked = [run.tags["dagster/partition"] for run in world.instance.get_runs()]
    assert asked == sorted(asked, reverse=True)


@pytest.mark.long
def test_a_slow_source_is_gone_through_tick_by_tick(world: World) -> None:
    world.source.seconds = 6.0
    with world.daemon(TXN_LOOKBACK_HOURS="12") as daemon:
        world.comes_true(
            daemon, lambda: world.is_right(*range(-11, 1)), "all published", within=900
        )
        # Each published window is asked about as well: in portions, and none for ever.
        world.some_ticks_pass(daemon, 4)
    assert world.runs() == {(_key(number), DONE): 1 for number in range(-11, 1)}


@pytest.mark.long
def test_a_watermark_that_goes_back_and_forth_loses_no_window(world: World) -> None:
    with world.daemon(TXN_LOOKBACK_HOURS="2") as daemon:
        for hour in (6, 8, 3, 11):
            world.source.watermark = _hour(hour).start
            world.some_ticks_pass(daemon, 3)
        published = range(4, 11)
        world.comes_true(daemon, lambda: world.is_right(*published), "all published")
        world.source.hours[_key(7)] = rows_of(_hour(7), 5)
        world.comes_true(daemon, lambda: world.is_right(7), "late rows published")
        world.some_ticks_pass(daemon, 3)
    runs = dict.fromkeys(map(_key, published), 0)
    for (key, status), count in world.runs().items():
        if status is DONE:
            runs[key] += count
    assert runs == {_key(number): 2 if number == 7 else 1 for number in published}


@pytest.mark.long
def test_alerts_are_told_once_also_when_the_daemon_is_started_again(world: World) -> None:
    bad = rows_of(_hour(0), 2, country="XX")
    world.source.hours[_key(0)] = bad
    with receiving() as receiver:
        with world.daemon(TXN_ALERT_WEBHOOK=receiver.url) as daemon:
            world.comes_true(daemon, lambda: bool(receiver.accepted), "a message")
        # Other rows that are as bad: another run, and it fails for the same cause.
        world.source.hours[_key(0)] = [*bad, *rows_of(_hour(0), 3)[2:]]
        with world.daemon(TXN_ALERT_WEBHOOK=receiver.url) as daemon:
            world.comes_true(daemon, lambda: world.runs_of(0) == [FAILED, FAILED], "another run")
            world.some_ticks_pass(daemon, 3)
            assert receiver.titles == [f"{_key(0)} failed: quarantine_share"]
            world.source.hours[_key(0)] = rows_of(_hour(0), 4)
            world.comes_true(daemon, lambda: len(receiver.accepted) > 1, "another message")
            world.some_ticks_pass(daemon, 3)
    assert receiver.titles == [
        f"{_key(0)} failed: quarantine_share",
        f"{_key(0)} is right again: quarantine_share",
    ]
