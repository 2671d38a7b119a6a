"""Whole or not at all, whatever is killed and whoever else writes.

A small dose of `benchmarks/kills.py`, `races.py` and `soak.py`, which do the same for longer.
"""

from __future__ import annotations

import multiprocessing
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from txn_platform.local.seaweedfs import available
from txn_platform_tests.support.chaos import (
    DirectoryStore,
    Killing,
    Run,
    S3Server,
    S3Store,
    Soak,
    Source,
    Version,
    Violation,
    World,
    moments,
    object_key,
    race,
    require,
    side_by_side,
    version_of,
)
from txn_platform_tests.support.faulty_proxy import FaultyProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_seaweedfs = pytest.mark.skipif(not available(), reason="SeaweedFS is not installed")

PARTITION = "2026-11-01-18:00"


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Version]]:
    """Two contents of the window."""
    with ExitStack() as running:
        sources = [running.enter_context(Source(SEED=seed)) for seed in ("1", "2")]
        yield [
            version_of(source, PARTITION, tmp_path_factory.mktemp("version")) for source in sources
        ]


def in_directory(directory: Path) -> World:
    return World(directory, DirectoryStore(directory))


# How many kills are spread over a run; `make chaos` has a hundred times as many.
doses = pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.long)])


@doses
def test_a_kill_of_a_run_or_of_the_generator_leaves_every_object_whole(
    versions: list[Version], tmp_path: Path, kills: int
) -> None:
    killing = Killing(in_directory(tmp_path), versions, PARTITION)
    chance = random.Random(1)  # noqa: S311 - no secret
    ended = {killing.run(share).ended for share in moments(kills, chance)}
    assert ended <= {"killed", "succeeded"}
    assert "killed" in ended
    killing.run(chance.random(), cold=True)
    killing.generator(chance.random())


@needs_seaweedfs
@doses
def test_a_kill_of_a_run_or_of_the_s3_server_leaves_every_object_whole(
    versions: list[Version], tmp_path: Path, kills: int
) -> None:
    with S3Server(tmp_path / "s3") as server:
        world = World(tmp_path, S3Store(server.endpoint))
        killing = Killing(world, versions, PARTITION)
        chance = random.Random(2)  # noqa: S311 - no secret
        for share in moments(kills, chance):
            killing.run(share)
        killing.server(chance.random(), server)


def test_of_runs_of_one_window_at_once_the_last_to_commit_wins_whole(
    versions: list[Version], tmp_path: Path
) -> None:
    world = in_directory(tmp_path)
    race(world, versions * 2, PARTITION)
    assert world.start(versions[0].source, PARTITION).wait() == 0
    assert world.digests() == versions[0].digests


def test_of_runs_of_different_windows_at_once_none_loses_anything(
    versions: list[Version], tmp_path: Path
) -> None:
    partitions = [f"2026-11-02-{hour:02}:00" for hour in range(4)]
    world = in_directory(tmp_path)
    world.delta = str(tmp_path / "delta")
    side_by_side(world, versions[0].source, partitions, 4)


def test_under_faults_defects_late_rows_and_a_restart_every_window_reconciles(
    tmp_path: Path,
) -> None:
    partitions = [f"2026-11-01-{hour:02}:00" for hour in range(4)]
    as_of = "2026-11-01T04:01:00Z"
    chance = random.Random(3)  # noqa: S311 - no secret
    with Source(DEFECTS="all:0.01") as source, FaultyProxy(source.url, 0.15, chance) as proxy:
        soak = Soak(in_directory(tmp_path), source, proxy, partitions, processes=2)
        soak.before_the_late_rows(as_of)
        assert soak.after_the_late_rows(as_of), "no row was late"
        assert set(proxy.faults) > {"none"}, "nothing was spoiled"


def test_what_a_run_printed_is_read_for_a_message_only_when_one_is_needed(tmp_path: Path) -> None:
    """Its log may not be there yet, or not any more."""
    run = Run(multiprocessing.Process(), tmp_path / "no-log-yet")
    assert run.printed() == ""

    def unreadable() -> str:
        raise FileNotFoundError

    require(True, unreadable)
    with pytest.raises(Violation, match="a run hangs"):
        require(False, lambda: f"a run hangs: {run.printed()}")


def test_a_mixture_a_loss_and_what_is_left_behind_are_noticed(
    versions: list[Version], tmp_path: Path
) -> None:
    """The checks themselves are tested: they detect each way to break the promise."""
    world = in_directory(tmp_path)
    killing = Killing(world, versions, PARTITION)
    published = tmp_path / ".txn/lake" / object_key("s3_parquet_transactions", PARTITION)
    whole = published.read_bytes()
    published.write_bytes(whole[:-100])
    with pytest.raises(Violation, match="neither the old nor the new"):
        killing.validate("run", "killed")
    published.unlink()
    with pytest.raises(Violation, match="objects are missing"):
        killing.validate("run", "killed")
    published.write_bytes(whole)
    with pytest.raises(Violation, match=r"succeeded with \[\]"):
        killing.validate("run", "succeeded")
    rows, amount = versions[0].sent
    with pytest.raises(Violation, match="is not the"):
        world.require_reconciled(PARTITION, (rows, amount + 1))
    (tmp_path / "tmp/of-a-dead-run").touch()
    with pytest.raises(Violation, match=r"left behind: .*of-a-dead-run"):
        world.require_tidy()
