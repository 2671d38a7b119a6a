"""The abilities of a store, each of which it may lack."""

import uuid
from contextlib import suppress
from typing import Any, Literal

import pytest

from txn_platform.lake.base import Capability
from txn_platform.lake.bucket import StoreError
from txn_platform.lake.opening import open_lake
from txn_platform.lake.probe import raw_zone_encryption
from txn_platform.lake.s3 import S3Lake
from txn_platform.settings import load_settings
from txn_platform_tests.conftest import S3Endpoint
from txn_platform_tests.support.faulty_store import Fault, FaultyStore, Operation


def _probed() -> dict[str, Capability]:
    return {found.name: found for found in open_lake(load_settings()).probe()}


@pytest.mark.parametrize(
    ("if_match", "ignores", "meaning"),
    [
        ("quoted", set[str](), "If-None-Match and If-Match honoured"),
        (
            "bare",
            set[str](),
            "If-None-Match and If-Match with the ETag without quotes honoured, If-Match not",
        ),
        (None, {"If-Match"}, "If-None-Match honoured, If-Match not"),
        ("quoted", {"If-None-Match"}, "If-Match honoured, If-None-Match not"),
        (None, {"If-None-Match", "If-Match"}, "If-None-Match and If-Match not"),
    ],
)
def test_conditions_are_honoured_or_not(
    faulty_store: FaultyStore,
    if_match: Literal["quoted", "bare"] | None,
    ignores: set[str],
    meaning: str,
) -> None:
    faulty_store.if_match, faulty_store.ignores = if_match, frozenset(ignores)
    found = _probed()["conditional puts"]
    assert found.meaning.startswith(f"{meaning}; the lake rests on none")
    assert found.works is ("If-None-Match" not in ignores)
    assert found.meaning.endswith("several writers would") is not found.works


@pytest.mark.parametrize(
    ("operation", "lacking"),
    [
        (Operation.CREATE, {"uploads in parts", "list and abort of uploads"}),
        (Operation.PART, {"uploads in parts"}),
        (Operation.COMPLETE, {"uploads in parts"}),
        (Operation.UPLOADS, {"list and abort of uploads", "incomplete uploads"}),
    ],
)
def test_an_ability_is_lacking_where_its_request_is_refused(
    faulty_store: FaultyStore, operation: Operation, lacking: set[str]
) -> None:
    sound = {name for name, found in _probed().items() if found.works}
    faulty_store.fail(operation, Fault.UNKNOWN)
    found = _probed()
    assert sound - {name for name, each in found.items() if each.works} == lacking
    assert not any(each.needed for each in found.values() if not each.works)


def test_a_probe_leaves_nothing(faulty_store: FaultyStore, s3_servers: Any, s3_prefix: str) -> None:
    endpoint: S3Endpoint = s3_servers("moto")
    client = endpoint.client()
    for operation in (None, Operation.COMPLETE, Operation.GET):
        if operation is not None:
            faulty_store.fail(operation, Fault.UNKNOWN, 1)
        with suppress(StoreError):
            _probed()
        assert not client.list_objects_v2(Bucket=endpoint.bucket, Prefix=s3_prefix).get("Contents")
        uploads = client.list_multipart_uploads(Bucket=endpoint.bucket).get("Uploads", [])
        assert not [each for each in uploads if each["Key"].startswith(s3_prefix)]


@pytest.mark.parametrize("s3_endpoint", ["moto"], indirect=True)
@pytest.mark.parametrize(
    ("default", "meaning"),
    [
        (None, "the bucket has no default encryption: give it one, or name a KMS key"),
        ({"SSEAlgorithm": "AES256"}, "SSE-S3, under keys of the store, as the bucket has it"),
        ({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/raw"}, "SSE-KMS, under alias/raw"),
        ({"SSEAlgorithm": "aws:kms"}, "SSE-KMS, under the key of the account"),
    ],
)
def test_the_encryption_of_the_raw_zone_is_the_buckets(
    s3_endpoint: S3Endpoint,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    default: Any,
    meaning: str,
) -> None:
    client, bucket = s3_endpoint.client(), f"encryption-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    if default:
        client.put_bucket_encryption(
            Bucket=bucket,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": default}]
            },
        )
    for name, value in (s3_environment | {"AWS_BUCKET_NAME": bucket}).items():
        monkeypatch.setenv(name, value)
    found = _probed()["encryption of the raw zone"]
    assert found.meaning.startswith(meaning)
    assert found.works is (default is not None)
    assert not found.needed


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        (Fault.DENIED, "not known, because it may not be asked for: bucket 'transactions' refused"),
        (Fault.UNKNOWN, "the store does not say"),
    ],
)
def test_an_encryption_that_may_not_be_asked_for_is_not_known(
    faulty_store: FaultyStore, fault: Fault, meaning: str
) -> None:
    faulty_store.fail(Operation.ENCRYPTION, fault)
    found = _probed()["encryption of the raw zone"]
    assert found.meaning.startswith(meaning)
    assert (found.works, found.needed) == (False, False)
    assert ("s3:GetEncryptionConfiguration" in found.meaning) is (fault is Fault.DENIED)


def test_a_key_of_the_raw_zone_is_tried(
    faulty_store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_RAW_SSE", "alias/raw-zone")
    found = _probed()["encryption of the raw zone"]
    assert (found.works, found.meaning) == (True, "SSE-KMS, under the key that TXN_RAW_SSE names")
    lake = open_lake(load_settings())
    assert isinstance(lake, S3Lake)
    faulty_store.fail(Operation.PUT, Fault.DENIED)
    properties = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/raw-zone"}
    refused = raw_zone_encryption(lake.bucket, "probes/", properties)
    assert (refused.works, refused.needed) == (False, True)
    assert "TXN_RAW_SSE names a key that can't be used, so nothing is landed" in refused.meaning
