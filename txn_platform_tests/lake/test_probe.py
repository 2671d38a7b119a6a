"""The abilities of a store, each of which it may lack."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import pytest

from txn_platform.lake.base import Capability
from txn_platform.lake.bucket import StoreError
from txn_platform.lake.opening import open_lake
from txn_platform.settings import load_settings
from txn_platform_tests.support.faulty_store import Fault, FaultyStore, Operation

if TYPE_CHECKING:
    from txn_platform_tests.conftest import S3Endpoint


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
