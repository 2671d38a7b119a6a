"""Expired objects are removed with their versions, or the command says which remain."""

import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from txn_platform.cli import main
from txn_platform.lake import probe
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import open_lake
from txn_platform.lake.parquet import Encoding
from txn_platform.lake.s3 import S3Lake
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.conftest import S3Endpoint
from txn_platform_tests.support.faulty_store import Fault, FaultyStore, Operation

_SCHEMA = pa.schema([pa.field("number", pa.int64())])
_ASSETS = ("raw_transactions", "quarantined_transactions")
_PERMISSIONS = {
    Operation.VERSIONS: "s3:ListBucketVersions (deploy/iam: role upkeep)",
    Operation.VERSIONING: "s3:GetBucketVersioning (deploy/iam: role upkeep)",
    Operation.DELETE_VERSION: "s3:DeleteObjectVersion (deploy/iam: role upkeep)",
}
_OLD = [Window(datetime(2026, 11, day, 5, tzinfo=UTC)) for day in (1, 2)]


@pytest.fixture(params=["moto", "seaweedfs"])
def bucket(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    s3_servers: Callable[[str], S3Endpoint],
) -> S3Endpoint:
    """A new bucket, set in the environment; it keeps no versions yet."""
    server = s3_servers(request.param)
    endpoint = S3Endpoint(
        server.url, server.access_key, server.secret_key, f"test-{uuid.uuid4().hex}"
    )
    endpoint.client().create_bucket(Bucket=endpoint.bucket, ObjectLockEnabledForBucket=False)
    monkeypatch.setenv("AWS_BUCKET_NAME", endpoint.bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.url)
    return endpoint


_ON_MOTO = pytest.mark.parametrize("bucket", ["moto"], indirect=True)


def _keep_versions(endpoint: S3Endpoint, status: str = "Enabled") -> None:
    endpoint.client().put_bucket_versioning(
        Bucket=endpoint.bucket,
        VersioningConfiguration={"Status": status},  # pyright: ignore[reportArgumentType]
    )


def _publish(number: int, *keys: str) -> None:
    lake = open_lake(load_settings())
    for key in keys:
        with lake.stage(_SCHEMA, Encoding(compression="zstd")) as writer:
            writer.write(pl.DataFrame({"number": [number]}))
            lake.publish(writer.finish(), key)


def _keys(*windows: Window) -> list[str]:
    return [object_key(asset, window) for asset in _ASSETS for window in windows]


def _expire(*more: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, ["expire", "--older-than", "1d", *more], input=answer)


def _versions(endpoint: S3Endpoint, *, markers: bool = True) -> list[str]:
    """All that the bucket has."""
    page = endpoint.client().list_object_versions(Bucket=endpoint.bucket)
    return [
        f"{each.get('Key')} {each.get('VersionId')}"
        for each in (*page.get("Versions", []), *(page.get("DeleteMarkers", []) if markers else []))
    ]


@pytest.mark.parametrize("status", ["", "Enabled", "Suspended"])
def test_nothing_is_left_of_what_expires(bucket: S3Endpoint, status: str) -> None:
    """Neither versions of replaced objects, nor of objects that were removed before."""
    young = Window(datetime.now(UTC).replace(minute=0, second=0, microsecond=0))
    published = object_key("s3_parquet_transactions", _OLD[0])
    _publish(0, *_keys(_OLD[0]))
    if status:
        _keep_versions(bucket)
    _publish(1, *_keys(*_OLD, young), published)
    _publish(2, *_keys(*_OLD), published)
    if status == "Suspended":
        _keep_versions(bucket, status)
        _publish(3, *_keys(_OLD[1]))
    for key in _keys(_OLD[0]):
        # As `txn expire` did before it knew of versions.
        bucket.client().delete_object(Bucket=bucket.bucket, Key=f"lake/{key}")
    done = _expire("--yes")
    assert done.exit_code == 0, done.output
    assert re.match("[24] objects removed" if status else "2 objects removed", done.stdout)
    left = {line.partition(" ")[0] for line in _versions(bucket, markers=False)}
    assert left == {f"lake/{key}" for key in (*_keys(young), published)}
    if status != "Suspended":
        # SeaweedFS does not remove a marker then. It holds nothing.
        assert len(_versions(bucket)) == (4 if status else 3)
    again = _expire("--yes")
    assert (again.exit_code, again.stdout[:18]) == (0, "0 objects removed ")


def test_the_question_names_lake_dates_and_count(bucket: S3Endpoint) -> None:
    _keep_versions(bucket)
    _publish(1, *_keys(*_OLD))
    _publish(2, *_keys(_OLD[0]))
    before = _versions(bucket)
    asked = _expire(answer="n\n")
    assert asked.exit_code == 1
    assert asked.stdout.startswith(
        "Remove 4 objects in 6 versions of raw_transactions and quarantined_transactions,"
        f" 2026-11-01 05:00 to 2026-11-02 06:00 UTC, from s3://{bucket.bucket}/lake/ for good?"
    )
    assert _versions(bucket) == before


@_ON_MOTO
def test_versions_of_every_page_are_removed(bucket: S3Endpoint) -> None:
    _keep_versions(bucket)
    for number in range(3):
        _publish(number, *_keys(*_OLD))
    lake = open_lake(load_settings())
    assert isinstance(lake, S3Lake)
    client = lake.bucket.client
    client.meta.events.register(
        "provide-client-params.s3.ListObjectVersions",
        lambda params, **_: {**params, "MaxKeys": 2},
    )
    kept = lake.kept(_ASSETS[0]).versions
    assert {key: len(versions) for key, versions in kept.items()} == dict.fromkeys(
        [object_key(_ASSETS[0], window) for window in _OLD], 3
    )


@pytest.fixture
def faulty(bucket: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A proxy in front of the bucket, with versions of two hours."""
    _keep_versions(bucket)
    _publish(1, *_keys(*_OLD))
    _publish(2, *_keys(*_OLD))
    with FaultyStore(bucket.url) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        yield store


@_ON_MOTO
@pytest.mark.parametrize(
    "denied",
    [
        [Operation.VERSIONS],
        [Operation.VERSIONS, Operation.VERSIONING],
        [Operation.DELETE_VERSION],
        [Operation.DELETE_VERSION, Operation.VERSIONING],
    ],
    ids=str,
)
def test_versions_that_stay_are_named_with_the_rule_that_removes_them(
    faulty: FaultyStore, bucket: S3Endpoint, denied: list[Operation]
) -> None:
    before = _versions(bucket)
    for operation in denied:
        faulty.fail(operation, Fault.DENIED)
    for _ in range(2):
        # And again, when all that is left of them is versions.
        done = _expire("--yes")
        assert done.exit_code == 1
        assert done.stdout.startswith("0 objects removed")
        assert all(_PERMISSIONS[each] in done.output for each in denied)
        assert "NoncurrentVersionExpiration" in done.output
        assert f"s3://{bucket.bucket}/lake/{_ASSETS[1]}/" in done.output
    assert set(before) < set(_versions(bucket))
    assert not open_lake(load_settings()).keys(_ASSETS[0])


@_ON_MOTO
@pytest.mark.parametrize("fault", [Fault.DENIED, Fault.UNKNOWN])
def test_where_versions_cannot_be_asked_for_an_object_tells(
    bucket: S3Endpoint, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """One without a version's name is of a bucket that has never kept any."""
    _publish(1, *_keys(*_OLD))
    with FaultyStore(bucket.url) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        store.fail(Operation.VERSIONING, fault)
        store.fail(Operation.VERSIONS, fault)
        done = _expire("--yes")
    assert (done.exit_code, done.stdout[:17]) == (0, "4 objects removed")
    assert _versions(bucket) == []


@_ON_MOTO
def test_what_is_locked_stays_and_is_named(
    monkeypatch: pytest.MonkeyPatch, bucket: S3Endpoint
) -> None:
    client = bucket.client()
    name = f"test-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    monkeypatch.setenv("AWS_BUCKET_NAME", name)
    _publish(1, *_keys(*_OLD))
    locked, held, *_ = (f"lake/{key}" for key in _keys(*_OLD))
    until = datetime.now(UTC) + timedelta(days=3)
    client.put_object_retention(
        Bucket=name, Key=locked, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until}
    )
    client.put_object_legal_hold(Bucket=name, Key=held, LegalHold={"Status": "ON"})
    done = _expire("--yes")
    assert done.exit_code == 1
    assert done.stdout.startswith("2 objects removed of 4 ")
    assert f"s3://{name}/{locked}: it is locked until {until:%Y-%m-%d %H:%M} UTC" in done.output
    assert f"s3://{name}/{held}: it is under a legal hold" in done.output


def test_a_directory_says_what_it_removes(tmp_path: Path) -> None:
    _publish(1, *_keys(*_OLD))
    lake = tmp_path / ".txn/lake"
    stranger = lake / "raw_transactions/part-0.parquet"
    stranger.touch()
    asked = _expire(answer="y\n")
    assert asked.exit_code == 0
    assert "Remove 4 objects of raw_transactions and quarantined_transactions, 2026-11-01" in (
        asked.output
    )
    assert f"from {lake} for good?" in asked.output
    assert f"{stranger} is no hour's object, and stays" in asked.output
    assert [path for path in lake.rglob("*") if path.is_file()] == [stranger]


def test_files_that_cannot_be_removed_are_named(tmp_path: Path) -> None:
    _publish(1, *_keys(_OLD[0]))
    (key, _) = _keys(_OLD[0])
    path = tmp_path / ".txn/lake" / key
    path.unlink()
    # A directory at its place: also the superuser can't unlink it.
    (path / "inside").mkdir(parents=True)
    lake = open_lake(load_settings())
    assert "can't be removed" in lake.erase(key, [""])


def test_what_a_killed_run_left_expires_too(tmp_path: Path) -> None:
    left = tmp_path / ".txn/lake/.staging/0123.staging"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"4111111111111111")
    assert _expire("--yes").exit_code == 0
    assert not left.exists()


def _found_by_probe() -> tuple[bool, str]:
    found = {each.name: each for each in open_lake(load_settings()).probe()}
    return found["old versions"].works, found["old versions"].meaning


@pytest.mark.parametrize("status", ["", "Enabled"])
def test_a_probe_leaves_no_versions_and_says_what_they_mean(
    bucket: S3Endpoint, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A round takes SeaweedFS a second.
    monkeypatch.setattr(probe, "_ROUNDS", 1)
    if status:
        _keep_versions(bucket)
    works, meaning = _found_by_probe()
    assert works
    assert ("until `txn expire` removes all versions" in meaning) == bool(status)
    assert _versions(bucket) == []


@_ON_MOTO
@pytest.mark.parametrize("denied", [Operation.VERSIONS, Operation.DELETE_VERSION])
def test_a_probe_says_that_versions_cannot_be_removed(
    faulty: FaultyStore, denied: Operation
) -> None:
    faulty.fail(denied, Fault.DENIED)
    works, meaning = _found_by_probe()
    assert not works
    assert "not even `txn expire` can remove it" in meaning
    assert "NoncurrentVersionExpiration" in meaning
