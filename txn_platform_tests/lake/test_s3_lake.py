"""Details of buckets: encryption, listings of several pages, live uploads, checksums."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from txn_platform.backoff import Backoff
from txn_platform.contract.card_forms import CARD_MASKS, DEFAULT_MASK
from txn_platform.contract.descriptors import PACKAGE_NAME, data_package
from txn_platform.errors import UserError
from txn_platform.lake.base import LakeFile
from txn_platform.lake.bucket import StoreLimits
from txn_platform.lake.descriptors import write_descriptors
from txn_platform.lake.layout import object_key
from txn_platform.lake.s3 import DEAD_AFTER_SECONDS, S3Lake, open_s3_lake
from txn_platform.lake.uploads import Upload, list_uploads
from txn_platform.settings import load_settings
from txn_platform.windows import WINDOW_LENGTH, Window
from txn_platform_tests.lake.test_lake import _ENCODING, _KEY, _SCHEMA, _publish, _rows
from txn_platform_tests.lake.test_lake_faults import _PART_BYTES, _new_rows
from txn_platform_tests.support.faulty_store import Fault, FaultyStore, Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from txn_platform_tests.conftest import S3Endpoint

_LIMITS = StoreLimits(Backoff(3, 0.01, 0.02), part_bytes=_PART_BYTES)


@pytest.fixture(params=["moto"])
def store(
    request: pytest.FixtureRequest,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> S3Endpoint:
    """The settings name this store."""
    endpoint = s3_servers(request.param)
    for name, value in {
        "AWS_BUCKET_NAME": endpoint.bucket,
        "AWS_ACCESS_KEY_ID": endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
        "AWS_ENDPOINT_URL": endpoint.url,
        "TXN_LAKE_PREFIX": s3_prefix,
    }.items():
        monkeypatch.setenv(name, value)
    return endpoint


def _lake(**changes: Any) -> S3Lake:
    return open_s3_lake(load_settings().model_copy(update=changes), _LIMITS)


def _encryption(endpoint: S3Endpoint, key: str) -> tuple[str | None, str | None]:
    found = endpoint.client().head_object(
        Bucket=endpoint.bucket, Key=f"{load_settings().lake_prefix}/{key}"
    )
    return found.get("ServerSideEncryption"), found.get("SSEKMSKeyId")


@pytest.mark.parametrize("in_parts", [False, True], ids=["one put", "in parts"])
def test_what_holds_card_numbers_is_encrypted_with_the_named_key_and_nothing_else_is(
    store: S3Endpoint, monkeypatch: pytest.MonkeyPatch, *, in_parts: bool
) -> None:
    monkeypatch.setenv("TXN_RAW_SSE", "alias/raw-zone")
    lake = _lake()
    # The same bytes with another encryption are written again.
    for clear_cards in (False, True):
        with lake.stage(_SCHEMA, _ENCODING) as writer:
            writer.write(_new_rows(in_parts=in_parts))
            lake.publish(writer.finish(), _KEY, clear_cards=clear_cards)
        kind, key = _encryption(store, _KEY)
        assert (kind == "aws:kms") == clear_cards
        assert ("alias/raw-zone" in (key or "")) == clear_cards


def test_an_object_has_no_card_numbers_unless_it_is_said(
    store: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_RAW_SSE", "alias/raw-zone")
    lake = _lake()
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_rows(3))
        lake.publish(writer.finish(), _KEY)
    assert _encryption(store, _KEY)[0] != "aws:kms"


def test_without_a_key_the_store_encrypts_as_it_does_by_itself(store: S3Endpoint) -> None:
    lake = _lake()
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_rows(3))
        lake.publish(writer.finish(), _KEY, clear_cards=True)
    assert _encryption(store, _KEY)[0] != "aws:kms"


def _publish_new(lake: S3Lake, *, in_parts: bool, clear_cards: bool = False) -> bool:
    """Publish the same rows again; returns whether the object stayed unchanged."""
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_new_rows(in_parts=in_parts))
        return lake.publish(writer.finish(), _KEY, clear_cards=clear_cards).unchanged


@pytest.mark.parametrize("in_parts", [False, True], ids=["one put", "in parts"])
def test_the_same_bytes_are_sent_once(store: S3Endpoint, *, in_parts: bool) -> None:
    with FaultyStore(store.url) as proxy:
        lake = _lake(endpoint_url=proxy.url)
        writes = (Operation.PUT, Operation.PART, Operation.COMPLETE)
        assert not _publish_new(lake, in_parts=in_parts)
        sent = sum(proxy.seen[operation] for operation in writes)
        assert _publish_new(lake, in_parts=in_parts)
        assert sum(proxy.seen[operation] for operation in writes) == sent


@pytest.mark.parametrize("in_parts", [False, True], ids=["one put", "in parts"])
def test_other_bytes_under_the_mark_of_these_are_written_over(
    store: S3Endpoint, *, in_parts: bool
) -> None:
    """The store kept size and metadata, and damaged the content."""
    lake, client = _lake(), store.client()
    assert not _publish_new(lake, in_parts=in_parts)
    place: Any = {"Bucket": store.bucket, "Key": f"{load_settings().lake_prefix}/{_KEY}"}
    there = client.get_object(**place)
    good = there["Body"].read()
    client.put_object(**place, Body=bytes(len(good)), Metadata=there["Metadata"])
    assert not _publish_new(lake, in_parts=in_parts)
    assert client.get_object(**place)["Body"].read() == good


def test_what_was_encrypted_with_another_key_is_written_again(store: S3Endpoint) -> None:
    key = f"arn:aws:kms:us-east-1:123456789012:key/{'1' * 8}"
    # An ARN ends with the key's id; an alias does not say which key it names.
    for name, unchanged in ((key, False), ("1" * 8, True), ("alias/raw-zone", False)):
        lake = _lake(raw_sse=name)
        assert _publish_new(lake, in_parts=False, clear_cards=True) == unchanged
    assert not _publish_new(_lake(raw_sse=key), in_parts=False, clear_cards=True)


def test_what_cannot_be_read_is_written_again(store: S3Endpoint) -> None:
    with FaultyStore(store.url) as proxy:
        lake = _lake(endpoint_url=proxy.url)
        assert not _publish_new(lake, in_parts=True)
        proxy.fail(Operation.GET, Fault.DENIED, times=None)
        assert not _publish_new(lake, in_parts=True)


def _in_short_pages(lake: S3Lake) -> None:
    """Have the store answer each listing with two entries a page."""

    def limit(params: dict[str, Any], **_: Any) -> None:
        params["MaxKeys"] = 2

    def limit_uploads(params: dict[str, Any], **_: Any) -> None:
        params["MaxUploads"] = 2

    events = lake.bucket.client.meta.events
    events.register("provide-client-params.s3.ListObjectsV2", limit)
    events.register("provide-client-params.s3.ListMultipartUploads", limit_uploads)


def test_listings_have_every_page(store: S3Endpoint) -> None:
    lake = _lake()
    _in_short_pages(lake)
    window = Window.of_partition("2026-11-01-00:00")
    keys: list[str] = []
    for count in range(6):
        # Full pages, and a last one that is not.
        assert lake.keys("asset") == keys
        keys.append(object_key("asset", Window(window.start + count * WINDOW_LENGTH)))
        _publish(lake, _rows(1), key=keys[-1])
    assert lake.keys("asset") == keys
    assert lake.bucket.list_objects("no such prefix") == []


def test_uploads_are_listed_on_every_page(
    store: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = _lake()
    begun = datetime.now(UTC) - timedelta(hours=30)
    asked: list[dict[str, Any]] = []

    def page(**parameters: Any) -> dict[str, Any]:
        # The test store ignores the length of a page.
        asked.append(parameters)
        start = int(parameters.get("KeyMarker", "k0")[1:])
        return {
            "Uploads": [{"Key": f"{lake_prefix}/{start}", "UploadId": "u", "Initiated": begun}],
            "IsTruncated": start < 2,
            "NextKeyMarker": f"k{start + 1}",
            "NextUploadIdMarker": f"u{start + 1}",
            "ResponseMetadata": {},
        }

    lake_prefix = load_settings().lake_prefix
    monkeypatch.setattr(lake.bucket.client, "list_multipart_uploads", page)
    found = list_uploads(lake.bucket, f"{lake_prefix}/")
    assert [upload.key for upload in found] == [f"{lake_prefix}/{number}" for number in range(3)]
    assert all(30 * 3600 - 1 < upload.age < 30 * 3600 + 60 for upload in found)
    assert [parameters.get("UploadIdMarker") for parameters in asked] == [None, "u1", "u2"]


def test_a_sweep_leaves_an_upload_alone_that_is_under_way(store: S3Endpoint) -> None:
    """Another run on this machine sweeps at the narrowest moment: between parts and completion."""
    swept: list[int] = []
    with FaultyStore(store.url) as proxy:
        lake = _lake(endpoint_url=proxy.url)
        other = _lake()
        for operation in (Operation.PART, Operation.COMPLETE):
            proxy.before[operation] = lambda: swept.append(other.sweep())
        with lake.stage(_SCHEMA, _ENCODING) as writer:
            writer.write(_new_rows(in_parts=True))
            lake.publish(writer.finish(), _KEY)
        assert swept == [0, 0]
        assert proxy.seen[Operation.CREATE] == 1
        assert proxy.seen[Operation.ABORT] == 0
    assert other.scan([_KEY]).select(pl.len()).collect().item() == _new_rows(in_parts=True).height


def test_an_upload_whose_marker_is_half_written_is_found_by_its_key(store: S3Endpoint) -> None:
    """A run is killed before the store has sent it the id of the upload."""
    lake = _lake()
    place = f"{load_settings().lake_prefix}/{_KEY}"
    client = store.client()
    upload = client.create_multipart_upload(Bucket=store.bucket, Key=place)["UploadId"]
    neighbour = client.create_multipart_upload(Bucket=store.bucket, Key=f"{place}.other")[
        "UploadId"
    ]
    markers = Path(".txn/uploads")
    markers.mkdir(parents=True, exist_ok=True)
    first = json.dumps([store.bucket, place])
    for number, text in enumerate([f"{first}\n", f"{first}\n{upload[:3]}", first[:5], ""]):
        (markers / f"{number}.staging.upload").write_text(text)
    assert lake.sweep() == 1
    assert not list(markers.iterdir())
    listed = client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", [])
    assert [each["UploadId"] for each in listed if each["Key"].startswith(place)] == [neighbour]
    client.abort_multipart_upload(Bucket=store.bucket, Key=f"{place}.other", UploadId=neighbour)


def test_the_upload_of_a_live_run_of_the_same_object_is_left_alone(store: S3Endpoint) -> None:
    """The marker of a dead run has the complete id of its upload."""
    lake = _lake()
    place = f"{load_settings().lake_prefix}/{_KEY}"
    client = store.client()
    dead, live = (
        client.create_multipart_upload(Bucket=store.bucket, Key=place)["UploadId"] for _ in range(2)
    )
    markers = Path(".txn/uploads")
    markers.mkdir(parents=True, exist_ok=True)
    marker = markers / "1.staging.upload"
    marker.write_text(json.dumps([store.bucket, place]) + f"\n{dead}\n")
    assert lake.sweep() == 1
    listed = client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", [])
    assert [each["UploadId"] for each in listed if each["Key"] == place] == [live]
    client.abort_multipart_upload(Bucket=store.bucket, Key=place, UploadId=live)


def test_the_upload_of_another_bucket_is_left_to_runs_of_that_bucket(store: S3Endpoint) -> None:
    lake = _lake()
    markers = Path(".txn/uploads")
    markers.mkdir(parents=True, exist_ok=True)
    marker = markers / "1.staging.upload"
    marker.write_text(json.dumps(["another-bucket", "key"]) + "\nid\n")
    assert lake.sweep() == 0
    assert marker.exists()


@pytest.mark.parametrize(
    ("age", "dead"),
    [(DEAD_AFTER_SECONDS - 60, False), (DEAD_AFTER_SECONDS + 60, True)],
)
def test_uploads_without_a_marker_are_dead_after_a_day(
    store: S3Endpoint, monkeypatch: pytest.MonkeyPatch, age: float, *, dead: bool
) -> None:
    prefix = load_settings().lake_prefix
    found = [
        Upload(f"{prefix}/{_KEY}", "ours", age),
        Upload(f"{prefix}/somebody's", "not of this lake", 10 * DEAD_AFTER_SECONDS),
    ]
    monkeypatch.setattr("txn_platform.lake.s3.list_uploads", lambda *_, **__: found)
    assert [upload.upload_id for upload in _lake().dead_uploads()] == ["ours"] * dead


def test_a_run_does_not_wait_for_a_store_that_lists_no_uploads(store: S3Endpoint) -> None:
    with FaultyStore(store.url) as proxy:
        proxy.fail(Operation.UPLOADS, Fault.SLOW_DOWN)
        lake = _lake(endpoint_url=proxy.url)
        lake.require_writable()
        lake.require_writable()
        assert proxy.seen[Operation.UPLOADS] == 1
        assert proxy.seen[Operation.LIST] == 1


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_a_checksum_that_the_store_states_is_compared(
    store: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the checksum differs from the file's, the object is read back, and differs too."""
    from txn_platform.lake.bucket import Bucket

    lake = _lake()
    read_back: list[str] = []
    digest = Bucket.digest

    def observed(self: Bucket, key: str) -> tuple[str, dict[str, str]]:
        read_back.append(key)
        return digest(self, key)

    monkeypatch.setattr(Bucket, "digest", observed)
    _publish(lake, _rows(5))
    assert not read_back
    head = Bucket.head

    def wrong(self: Bucket, key: str, **kwargs: Any) -> dict[str, Any] | None:
        found = head(self, key, **kwargs)
        return found and {**found, **stated}

    monkeypatch.setattr(Bucket, "head", wrong)
    stated: dict[str, Any] = {}
    changes: list[dict[str, Any]] = [
        {"ChecksumSHA256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
        {"ChecksumSHA256": ""},
        {"ContentLength": 1},
    ]
    for rows, change in enumerate(changes, 6):
        stated = change
        read_back.clear()
        _publish(lake, _rows(rows))
        assert len(read_back) == 1
    for rows, wrong_digest in enumerate(("0" * 64, "f" * 64), 9):
        monkeypatch.setattr(
            Bucket,
            "digest",
            lambda self, key, value=wrong_digest: (value, digest(self, key)[1]),
        )
        with pytest.raises(UserError, match="holds other bytes than were sent"):
            _publish(lake, _rows(rows))


def test_an_object_replaced_between_two_questions_is_opened_again(store: S3Endpoint) -> None:
    """Between HEAD and the first byte another run publishes: all rows are of one version."""
    with FaultyStore(store.url) as proxy:
        other = _lake()
        _publish(other, _rows(5, "old"))
        lake = _lake(endpoint_url=proxy.url)
        proxy.before[Operation.GET] = lambda: _publish(other, _rows(7, "new"))
        with lake.open(_KEY) as file:
            rows = pl.DataFrame(file.read())
        assert rows["text"].to_list() == ["new"] * 7


def test_a_copy_is_of_the_object_that_is_there(store: S3Endpoint, tmp_path: Path) -> None:
    """Also when this process has put another one there before, or has put one elsewhere."""
    lake, other = _lake(), _lake()
    later = object_key("asset", Window.of_partition("2026-11-02-00:00"))
    _publish(lake, _rows(3, "mine"))
    _publish(lake, _rows(4, "later"), key=later)
    path = tmp_path / "copy.parquet"
    for key, rows in ((_KEY, 3), (later, 4)):
        LakeFile(lake, key).copy_to(path)
        assert pl.read_parquet(path).height == rows
    _publish(other, _rows(9, "another's"), key=later)
    LakeFile(lake, later).copy_to(path)
    assert pl.read_parquet(path).height == 9
    assert not lake.erase(later, [""])
    with pytest.raises(UserError, match="does not exist"):
        LakeFile(lake, later).copy_to(path)


def test_a_file_of_this_process_is_read_without_its_name(store: S3Endpoint) -> None:
    """Nothing remains of it on the disk after the process, however it ends."""
    lake = _lake()
    _publish(lake, _rows(5))
    assert not [path for path in Path(".txn/staging").rglob("*") if path.is_file()]
    assert lake.open(_KEY).read().num_rows == 5
    assert os.listdir(".txn/staging") == []  # noqa: PTH208 - names only


def test_a_lake_without_a_bucket_is_refused() -> None:
    with pytest.raises(UserError, match="AWS_BUCKET_NAME is not set"):
        open_s3_lake(load_settings())


def test_descriptors_are_sent_once_and_a_store_that_refuses_them_is_a_warning(
    store: S3Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultyStore(store.url) as proxy:
        proxy.fail(Operation.PUT, Fault.DENIED, times=1)
        for refused, puts in ((True, 1), (False, 3), (False, 3)):
            caplog.clear()
            write_descriptors(_lake(endpoint_url=proxy.url), CARD_MASKS[DEFAULT_MASK])
            assert proxy.seen[Operation.PUT] == puts
            warnings = [record.getMessage() for record in caplog.records]
            assert len(warnings) == refused
            assert all("descriptors of the lake could not be written" in each for each in warnings)
    place = f"{load_settings().lake_prefix}/{PACKAGE_NAME}"
    found = store.client().get_object(Bucket=store.bucket, Key=place)
    assert found["Body"].read().decode() == data_package()
    assert found["ContentType"] == "application/json"


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        (
            "https://s3.eu-central-1.amazonaws.com",
            (
                "https://eu-central-1.console.aws.amazon.com/s3/object/transactions"
                "?region=eu-central-1&prefix=a+b%2Fs3_parquet_transactions%2Fpart-0.parquet"
            ),
        ),
        ("http://127.0.0.1:9", None),
        ("https://amazonaws.com.example.org", None),
    ],
)
def test_an_object_of_aws_has_an_address_for_browsers(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, address: str | None
) -> None:
    for name, value in {
        "AWS_BUCKET_NAME": "transactions",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": endpoint,
        "TXN_LAKE_PREFIX": "a b",
    }.items():
        monkeypatch.setenv(name, value)
    assert _lake().browser_address("s3_parquet_transactions/part-0.parquet") == address
