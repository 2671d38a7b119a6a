"""Feeds beside the generator: the example of Stripe, through the definitions and the commands."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from examples.stripe_charges import fake_api, feed
from examples.stripe_charges.fake_api import FakeStripe
from txn_platform import read_transactions
from txn_platform.card_key import checked_card_key
from txn_platform.cli import main
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.definitions import build_defs, feed_defs
from txn_platform.defs.resources import FeedSource
from txn_platform.errors import UserError
from txn_platform.feeds import Feed
from txn_platform.local.processes import ManagedProcess, free_ports
from txn_platform.settings import load_settings
from txn_platform.source import client
from txn_platform.source.auth import Secret
from txn_platform.windows import Window
from txn_platform_tests.conftest import REGION, eventually
from txn_platform_tests.support.set_clock import SetClock
from txn_platform_tests.test_command_servers import (
    ALL_ASSETS,
    answers,
    ask,
    launched,
    succeeded,
)
from txn_platform_tests.test_commands import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    from txn_platform_tests.conftest import S3Endpoint
    from txn_platform_tests.support.hourly_source import HourlySource

_KEY = "2026-11-19-03:00"
_WINDOW = Window.of_partition(_KEY)
_START = int(_WINDOW.start.timestamp())
_OBJECT = "event_date=2026-11-19/event_hour=03/part-0.parquet"
_SECRET = "sk_test_51HqLyPlanted"


@dataclass
class Stripe:
    """The fake, and the feed of it."""

    fake: FakeStripe
    feed: Feed
    module: str


@contextmanager
def served_fake(fake: FakeStripe) -> Iterator[str]:
    """Serve the fake on a free port of the loopback interface; gives its address."""
    with fake.server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def stripe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Stripe]:
    """The example's API, with its feed in a module that TXN_FEEDS names."""
    monkeypatch.chdir(tmp_path)
    # A module is imported once in a process.
    module = f"feeds_of_{abs(hash(request.node.name))}"
    with served_fake(fake := FakeStripe(_SECRET)) as url:
        Path(f"{module}.py").write_text(
            "from dataclasses import replace\n"
            "from examples.stripe_charges import feed\n"
            f"MINE = replace(feed.STRIPE, url={url!r})\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("TXN_FEEDS", module)
        monkeypatch.setenv("STRIPE_API_KEY", f" {_SECRET}\n")
        monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
        yield Stripe(fake, replace(feed.STRIPE, url=url), module)


def txn(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_example_has_at_most_40_lines_which_the_page_shows() -> None:
    text = Path(feed.__file__).read_text()
    assert len(text.splitlines()) <= 40
    page = (Path(__file__).parents[1] / "docs" / "own-api.md").read_text()
    definitions = Path(feed.__file__).with_name("definitions.py").read_text()
    for shown in (text, definitions):
        assert f"```python\n{shown}```\n" in page


def test_a_feed_is_landed_beside_the_generator(
    stripe: Stripe, source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", str(Path("delta").absolute()))
    for name in ([], ["--feed", "stripe"]):
        result = txn("run", "--partition", _KEY, *name)
        assert result.exit_code == 0, result.output
        assert _SECRET not in result.output
    lake = Path(".txn/lake")
    for folder, rows in ((lake, 2), (lake / "stripe", 60)):
        for asset in ("raw_transactions", "s3_parquet_transactions"):
            path = folder / asset / _OBJECT
            (found,) = duckdb.read_parquet(str(path)).aggregate("count(*)").fetchall()
            assert found == (rows,), path
    sent = stripe.fake.charges(_START, _START + 3600)
    sums: dict[str, int] = {}
    for charge in sent:
        sums[charge["currency"]] = sums.get(charge["currency"], 0) + charge["amount"]
    published = duckdb.read_parquet(str(lake / "stripe/s3_parquet_transactions" / _OBJECT))
    assert dict(published.aggregate("currency, sum(amount)").fetchall()) == sums
    assert len(published.project("brand, last4").distinct().fetchall()) == 60
    rows = read_transactions("2026-11-19T03:00:00Z", "2026-11-19T03:30:00Z", feed=stripe.feed)
    assert rows.collect()["charge_id"].to_list() == [charge["id"] for charge in sent[:29:-1]]
    with pytest.raises(UserError, match=r"txn run --from .* --feed stripe"):
        read_transactions("2026-11-19T03:00:00Z", "2026-11-19T05:00:00Z", feed=stripe.feed)
    assert DeltaTable("delta").to_pyarrow_table().num_rows == 2
    assert DeltaTable("delta_stripe").to_pyarrow_table().num_rows == 60
    package = json.loads((lake / "stripe/datapackage.json").read_text())
    assert package["name"] == "charges"
    assert all(_SECRET.encode() not in path.read_bytes() for path in _files(Path()))


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_every_command_takes_the_name_of_a_feed(
    stripe: Stripe, source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert txn("run", "--partition", _KEY).exit_code == 0
    assert txn("run", "--partition", _KEY, "--feed", "stripe").exit_code == 0
    again = txn("run", "--from", _KEY, "--to", _KEY, "--feed", "stripe")
    assert "is published as it should be: skipped" in again.stderr
    assert source.url not in again.stderr
    states = txn("status", "--json", "--from", _KEY, "--to", _KEY, "--feed", "stripe")
    (state,) = map(json.loads, states.stdout.splitlines())
    assert (state["state"], state["rows"]) == ("published", 60)
    assert "/stripe/s3_parquet_transactions/" in state["uri"]
    assert "Nothing is quarantined" in txn("quarantine", "--feed", "stripe").stdout
    with monkeypatch.context() as patch:
        patch.setattr(fake_api, "_CURRENCIES", ("usd", "eur", "?"))
        assert txn("run", "--partition", _KEY, "--feed", "stripe").exit_code == 1
    assert re.search(r"currency\.\w+ +│ +20 ", txn("quarantine", "--feed", "stripe").stdout)
    assert "Nothing is quarantined" in txn("quarantine").stdout
    doctor = txn("doctor")
    assert doctor.exit_code == 0, doctor.output
    assert f"{source.url} has complete hours" in doctor.stdout
    assert f"stripe, {stripe.feed.url}, has complete hours" in doctor.stdout
    of_one = txn("doctor", "--feed", "stripe").stdout
    assert source.url not in of_one.partition("settings")[2].partition("\n")[2]
    assert "generator" not in of_one


def test_expire_covers_every_feed_unless_one_is_named(stripe: Stripe, source: HourlySource) -> None:
    for name in ([], ["--feed", "stripe"]):
        assert txn("run", "--partition", _KEY, *name).exit_code == 0
    lake = Path(".txn/lake")
    of_stripe = txn("expire", "--older-than", "1d", "--yes", "--feed", "stripe")
    assert of_stripe.exit_code == 0, of_stripe.output
    assert not (lake / "stripe/raw_transactions" / _OBJECT).exists()
    assert (lake / "raw_transactions" / _OBJECT).exists()
    assert txn("run", "--partition", _KEY, "--feed", "stripe").exit_code == 0
    of_all = txn("expire", "--older-than", "1d", "--yes")
    assert "of the generator and stripe" in of_all.stdout
    for folder in (lake, lake / "stripe"):
        assert not (folder / "raw_transactions" / _OBJECT).exists()
        assert not (folder / "quarantined_transactions" / _OBJECT).exists()
        assert (folder / "s3_parquet_transactions" / _OBJECT).exists()


def test_expire_tells_of_a_feed_that_it_does_not_know(
    stripe: Stripe, source: HourlySource, lake: _Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert txn("run", "--partition", _KEY, "--feed", "stripe").exit_code == 0
    monkeypatch.delenv("TXN_FEEDS")
    young = txn("expire", "--older-than", "3650d", "--yes")
    assert young.exit_code == 0, young.output
    old = txn("expire", "--older-than", "1d", "--yes")
    assert old.exit_code == 1
    assert "stripe is of a feed that no module of TXN_FEEDS has: name it there." in old.stderr
    monkeypatch.setenv("TXN_FEEDS", stripe.module)
    assert txn("expire", "--older-than", "1d", "--yes").exit_code == 0
    monkeypatch.delenv("TXN_FEEDS")
    assert txn("expire", "--older-than", "1d", "--yes").exit_code == 0


def test_the_tables_of_all_feeds_are_optimized_that_exist(
    stripe: Stripe, source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", table := str(Path("delta").absolute()))
    for name, tables in (
        (["--feed", "stripe"], [f"{table}_stripe"]),
        ([], [table, f"{table}_stripe"]),
    ):
        assert txn("run", "--partition", _KEY, *name).exit_code == 0
        done = txn("optimize")
        assert done.exit_code == 0, done.output
        assert [line.partition(",")[0] for line in done.stdout.splitlines()] == tables
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_defs().resolve_job_def("optimize_delta")
        result = job.execute_in_process(instance=instance)
    (output,) = [event for event in result.all_events if event.is_successful_output]
    assert {"version", "version_stripe"} <= output.step_output_data.metadata.keys()


def test_a_feed_whose_source_fails_says_so_without_the_secret(
    stripe: Stripe, source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", wrong := "sk_test_another")
    refused = txn("run", "--partition", _KEY, "--feed", "stripe")
    assert refused.exit_code == 1
    assert "it does not let STRIPE_API_KEY read this" in refused.stderr
    assert wrong not in refused.output
    monkeypatch.delenv("STRIPE_API_KEY")
    unset = txn("run", "--partition", _KEY, "--feed", "stripe")
    assert unset.exit_code == 1
    assert "STRIPE_API_KEY is not set" in unset.stderr
    assert not Path(".txn/lake/stripe/s3_parquet_transactions").exists()
    # The other feed does not mind.
    assert txn("run", "--partition", _KEY).exit_code == 0


def test_a_busy_source_is_asked_again(stripe: Stripe) -> None:
    stripe.fake.busy = 2
    result = txn("run", "--partition", _KEY, "--feed", "stripe", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["published"] == 60


@dataclass(frozen=True)
class _Lake:
    """A lake and the Delta table of the feed beside it, in a directory or a bucket."""

    folder: str
    table: str
    bucket: S3Endpoint | None

    @classmethod
    def of(cls, bucket: S3Endpoint | None, prefix: str) -> _Lake:
        if bucket is None:
            return cls(".txn/lake", str(Path("delta").absolute()), None)
        return cls(prefix, f"s3://{bucket.bucket}/{prefix}-delta", bucket)

    @property
    def settings(self) -> dict[str, str]:
        settings = {"DELTA_LAKE_S3_PATH": self.table}
        if self.bucket is None:
            return settings
        return {
            **settings,
            "AWS_BUCKET_NAME": self.bucket.bucket,
            "TXN_LAKE_PREFIX": self.folder,
            **self._access(self.bucket),
        }

    @staticmethod
    def _access(bucket: S3Endpoint) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": bucket.access_key,
            "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
            "AWS_ENDPOINT_URL": bucket.url,
            "AWS_REGION": REGION,
        }

    def objects(self, window: Window) -> dict[str, tuple[bytes, datetime, str]]:
        """By asset, the bytes and the time of the object of a window, and its ETag on S3."""
        hour = f"event_date={window.start:%Y-%m-%d}/event_hour={window.start:%H}"
        return {
            asset: self._object(f"{self.folder}/stripe/{asset}/{hour}/part-0.parquet")
            for asset in (
                "raw_transactions",
                "validated_transactions",
                "quarantined_transactions",
                "s3_parquet_transactions",
            )
        }

    def _object(self, key: str) -> tuple[bytes, datetime, str]:
        if self.bucket is None:
            path = Path(key)
            return path.read_bytes(), datetime.fromtimestamp(path.stat().st_mtime, UTC), ""
        found = self.bucket.client().get_object(Bucket=self.bucket.bucket, Key=key)
        return found["Body"].read(), found["LastModified"], found["ETag"]

    def rows(self, window: Window) -> int:
        """How many the feed has published of a window."""
        content, _, _ = self.objects(window)["s3_parquet_transactions"]
        return pq.read_metadata(io.BytesIO(content)).num_rows

    def version(self) -> int:
        """Of the Delta table."""
        options = {} if self.bucket is None else self._access(self.bucket)
        options["AWS_ALLOW_HTTP"] = "true"
        return DeltaTable(f"{self.table}_stripe", storage_options=options).version()


@pytest.fixture(params=["directory", "seaweedfs"])
def lake(
    request: pytest.FixtureRequest,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> _Lake:
    """The lake and the table that the settings name."""
    bucket = None if request.param == "directory" else s3_servers(request.param)
    lake = _Lake.of(bucket, s3_prefix)
    for name, value in lake.settings.items():
        monkeypatch.setenv(name, value)
    return lake


def test_late_rows_are_landed_once_more_after_the_lag(
    stripe: Stripe, source: HourlySource, lake: _Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor of the feed alone: one hour has late rows, and the next has none."""
    monkeypatch.setenv("TXN_LOOKBACK_HOURS", "2")
    monkeypatch.setattr(client, "datetime", SetClock)
    following = Window(_WINDOW.end)
    late = {charge["id"] for charge in stripe.fake.charges(_START, _START + 600)}
    stripe.fake.late = set(late)
    lag = stripe.feed.api.lag
    assert lag is not None
    defs = dg.Definitions.merge(build_defs(), feed_defs(stripe.feed))
    with dg.DagsterInstance.ephemeral() as instance:
        sensor = _Sensor(defs, instance)
        SetClock.moment = following.end + lag
        assert sensor.tick() == [_KEY, following.partition_key]
        assert (lake.rows(_WINDOW), lake.rows(following)) == (50, 60)
        before, version = lake.objects(following), lake.version()
        assert sensor.tick() == []
        stripe.fake.late.clear()
        # A bucket has the times of its objects in seconds.
        written = max(moment for _, moment, _ in before.values())
        assert eventually(lambda: datetime.now(UTC) - written > timedelta(seconds=1))
        SetClock.moment = following.end + 2 * lag
        again = sensor.tick()
        assert again[:2] == [_KEY, following.partition_key]
        assert lake.rows(_WINDOW) == 60
        assert lake.objects(following) == before
        # A commit for each hour of this tick, but for the one that is as it was.
        assert lake.version() == version + len(again) - 1
        SetClock.moment = following.end + 4 * lag
        assert not {_KEY, following.partition_key} & set(sensor.tick())
        # Runs of this feed are none of the generator.
        assert not instance.get_materialized_partitions(dg.AssetKey("s3_parquet_transactions"))


@dataclass
class _Sensor:
    """The sensor of the feed; its requests are run at once."""

    defs: dg.Definitions
    instance: dg.DagsterInstance
    cursor: str | None = None

    def tick(self) -> list[str]:
        """Evaluate it, run what it asks for, and give the partitions."""
        sensor: Any = self.defs.resolve_sensor_def("on_watermark_stripe")
        with dg.build_sensor_context(
            cursor=self.cursor,
            instance=self.instance,
            definitions=self.defs,
            resources={"source_stripe": self.defs.resources["source_stripe"]},
        ) as context:
            data = sensor.evaluate_tick(context)
        self.cursor = data.cursor
        for request in data.run_requests:
            result = self.defs.resolve_job_def("land_transactions_stripe").execute_in_process(
                instance=self.instance, partition_key=request.partition_key, tags=request.tags
            )
            assert result.success
        return [str(request.partition_key) for request in data.run_requests]


def test_the_schedule_waits_for_the_lag(stripe: Stripe) -> None:
    defs = dg.Definitions.merge(build_defs(), feed_defs(stripe.feed))
    schedule = defs.resolve_schedule_def("hourly_stripe")
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime(2026, 11, 19, 6, 5, tzinfo=UTC),
            resources={"source_stripe": FeedSource(stripe.feed)},
        ) as context,
    ):
        (request,) = schedule.evaluate_tick(context).run_requests or []
    assert request.partition_key == _KEY


def test_two_feeds_of_one_prefix_are_refused() -> None:
    other = replace(feed.STRIPE, url="https://stripe.example")
    with pytest.raises(UserError, match=r"2 feeds with the prefix stripe: each needs its own"):
        feed_defs(feed.STRIPE, other)


def test_a_feed_has_the_checks_that_its_source_allows() -> None:
    defs = dg.Definitions.merge(build_defs(), feed_defs(feed.STRIPE))
    graph = defs.resolve_asset_graph()
    names: dict[str, set[str]] = {}
    for key in graph.asset_check_keys:
        names.setdefault("/".join(key.asset_key.path[:-1]), set()).add(key.name)
    assert names[""] - names["stripe"] == {"totals_equal_source", "schema_has_not_drifted"}
    assert names["stripe"] - names[""] == set()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert {key for key in keys if key.startswith("stripe/")} == {
        f"stripe/{asset}"
        for asset in (
            "raw_transactions",
            "validated_transactions",
            "quarantined_transactions",
            "s3_parquet_transactions",
        )
    }
    jobs = {job.name for job in defs.resolve_all_job_defs()}
    assert {"land_transactions", "land_transactions_stripe"} <= jobs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix": ""}, "prefix of a Feed must be a name"),
        ({"prefix": "My Feed"}, "prefix of a Feed must be a name"),
        ({"prefix": "raw_transactions"}, "prefix of a Feed must be a name"),
        ({"url": "ftp://stripe"}, "url of a Feed"),
        ({"url": ""}, "url of a Feed"),
        ({"contract": feed.Charge}, "contract of a Feed must be a Contract"),
        ({"api": "/v1/charges"}, "api of a Feed must be a SourceApi"),
        ({"card_key": "secret-of-someone"}, "card_key of a Feed must be a Secret"),
        ({"card_key": Secret("KEY")}, "card_key of a Feed is given, and no column has the role"),
    ],
)
def test_a_feed_that_cannot_be_used_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        replace(feed.STRIPE, **changes)
    assert message in str(error.value)
    assert "secret-of-someone" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the module 'mine' of TXN_FEEDS is not found"),
        ("X = 1\n", "the module 'mine' of TXN_FEEDS has no Feed"),
        ("raise ValueError('hunter2')\n", "it raised ValueError in line 1 of"),
        ("import nothing_of_this_name\n", "it raised ModuleNotFoundError in line 1 of"),
        ("\nX = (1\n", "it raised SyntaxError in line 2 of"),
        (
            "import dataframely as dy\n\nX = dy.Decimal(4, 2, min=0.5)\n",
            "it raised AttributeError in line 3 of",
        ),
    ],
)
def test_a_module_without_a_feed_is_explained(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TXN_FEEDS", "mine")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    if text is not None:
        Path("mine.py").write_text(text)
    result = txn("run", "--feed", "stripe")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "hunter2" not in result.output
    assert "Traceback" not in result.output


def test_a_feed_with_cards_has_its_own_key_if_it_wants(
    stripe: Stripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Feed(
        "cards", TRANSACTIONS, stripe.feed.url, stripe.feed.api, card_key=Secret("CARDS_KEY")
    )
    monkeypatch.setenv("CARDS_KEY", "0f8e" * 16)
    monkeypatch.setenv("TXN_CARD_KEY", "b7d1c05a9f3e82649e0d7c41f3a86b52")
    settings = load_settings()
    with pytest.raises(UserError, match=r"^CARDS_KEY: the card key"):
        checked_card_key(mine.settings(settings))
    monkeypatch.setenv("CARDS_KEY", "5d0f8c3a9be7146272c1d4e8f60a9b35")
    own = checked_card_key(mine.settings(settings)).fingerprint
    assert own != checked_card_key(settings).fingerprint


@pytest.mark.long
def test_one_dagster_has_both_feeds_side_by_side(stripe: Stripe, tmp_path: Path) -> None:
    checkout = Path(__file__).parents[1]
    for name in ("pyproject.toml", "dagster.yaml"):
        (tmp_path / name).symlink_to(checkout / name)
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    module = "examples.stripe_charges.definitions"
    with ManagedProcess(
        "dagster dev",
        [str(Path(sys.executable).with_name("dagster")), "dev", "-m", module, "-p", str(port)],
        log=tmp_path / "dagster-dev.log",
        environment={
            **os.environ,
            **SMALL,
            "PYTHONPATH": str(checkout),
            "STRIPE_URL": stripe.feed.url,
        },
        directory=tmp_path,
        grace=30,
    ) as process:
        process.wait_until(lambda: answers(address), timeout=120)
        assets = ask(address, ALL_ASSETS)["assetNodes"]
        assert len(assets) == 8
        assert succeeded(address, launched(address, _KEY, assets))
    lake = tmp_path / ".txn/lake"
    for folder in (lake, lake / "stripe"):
        assert (folder / "s3_parquet_transactions" / _OBJECT).exists()
    assert all(_SECRET.encode() not in path.read_bytes() for path in _files(tmp_path))


def test_the_fake_is_the_shape_of_the_api() -> None:
    """As the documentation of Stripe's list of charges has it."""
    fake = fake_api.FakeStripe()
    status, page = fake.answer(
        "/v1/charges?created[gte]=0&created[lt]=3600&limit=50", f"Bearer {fake.key}"
    )
    assert (status, page["object"], page["has_more"]) == (200, "list", True)
    last = page["data"][-1]["id"]
    _, rest = fake.answer(
        f"/v1/charges?created[gte]=0&created[lt]=3600&limit=50&starting_after={last}",
        f"Bearer {fake.key}",
    )
    assert (len(page["data"]), len(rest["data"]), rest["has_more"]) == (50, 10, False)
    moments = [charge["created"] for charge in page["data"] + rest["data"]]
    assert moments == sorted(moments, reverse=True)
    assert datetime.fromtimestamp(moments[-1], UTC) < datetime.fromtimestamp(3600, UTC)
    assert timedelta(seconds=moments[0]) < timedelta(hours=1)
