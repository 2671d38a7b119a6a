"""Requests to a bucket, with answers that real stores give and the tests' servers do not."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ProxyConnectionError,
    SSLError,
)

from txn_platform.backoff import Backoff
from txn_platform.lake.bucket import Bucket, StoreLimits, Version
from txn_platform.lake.store_errors import StoreError, bucket_in_host, store_time


def _error(code: str, status: int, operation: str = "HeadObject", **headers: str) -> ClientError:
    metadata: Any = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": metadata}, operation)


class _Client:
    """Answers each operation from a list; keeps the arguments of every call."""

    def __init__(self, checksums: str = "when_supported", **answers: list[Any]) -> None:
        config = SimpleNamespace(
            request_checksum_calculation=checksums, response_checksum_validation=checksums
        )
        self.meta = SimpleNamespace(endpoint_url="http://store.example:9000", config=config)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._answers = answers

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def answer(**arguments: Any) -> Any:
            self.calls.append((operation, arguments))
            given = self._answers[operation].pop(0)
            if isinstance(given, Exception):
                raise given
            return given

        return answer


def _bucket(client: _Client, **limits: Any) -> Bucket:
    backoff = Backoff(attempts=3, first_pause=0.001, longest_pause=0.002)
    return Bucket(client, "b", StoreLimits(backoff=backoff, **limits))  # pyright: ignore[reportArgumentType] - a client of the test's own


_HEAD = {"ContentLength": 1, "ETag": '"e"'}


@pytest.mark.parametrize(
    ("checksums", "mode"),
    [("when_supported", {"ChecksumMode": "ENABLED"}), ("when_required", {})],
)
def test_the_checksum_of_an_object_is_asked_for_unless_it_is_turned_off(
    checksums: str, mode: dict[str, str]
) -> None:
    client = _Client(checksums, head_object=[_HEAD])
    assert _bucket(client).head("k") == _HEAD
    assert client.calls == [("head_object", {"Bucket": "b", "Key": "k", **mode})]


@pytest.mark.parametrize("cut", [{"ETag": '"e"'}, {"ContentLength": 1, "ETag": '"e'}, {}])
def test_an_answer_that_was_cut_is_asked_for_again(cut: dict[str, Any]) -> None:
    client = _Client(head_object=[cut, _HEAD])
    assert _bucket(client).head("k") == _HEAD
    client = _Client(head_object=[cut] * 3)
    with pytest.raises(StoreError, match=r"cut on its way.*\(tried 3 times in \d s\)") as raised:
        _bucket(client).head("k")
    assert not raised.value.refused


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again(status: int) -> None:
    client = _Client(head_object=[_error(str(status), status)] * 2 + [_HEAD])
    assert _bucket(client).head("k") == _HEAD
    assert len(client.calls) == 3


@pytest.mark.parametrize("code", ["SlowDown", "BadDigest", "IncompleteBody", "OperationAborted"])
def test_a_code_that_may_pass_is_tried_again_whatever_its_status(code: str) -> None:
    client = _Client(head_object=[_error(code, 400), _HEAD])
    assert _bucket(client).head("k") == _HEAD


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        (
            "AccessDenied",
            403,
            r"allow them s3:GetObject \(deploy/iam: roles reader, platform",
        ),
        ("NoSuchBucket", 404, "does not exist: make it, or fix AWS_BUCKET_NAME"),
        ("PermanentRedirect", 301, "is in another region: set AWS_REGION"),
        ("ExpiredToken", 400, "which have expired .*: log in again"),
        ("QuotaExceeded", 403, "is full .*: make room there"),
        ("Teapot", 418, "the error 'Teapot' to HeadObject: look at the store's log"),
    ],
)
def test_a_refusal_is_explained_and_not_tried_again(code: str, status: int, message: str) -> None:
    client = _Client(head_object=[_error(code, status)])
    with pytest.raises(StoreError, match=message) as raised:
        _bucket(client).head("k")
    assert raised.value.refused
    assert raised.value.code == code
    assert "tried" not in str(raised.value)


def test_a_web_page_is_not_an_answer_of_a_store() -> None:
    page = _error("403", 403, **{"content-type": "text/html; charset=utf-8"})
    with pytest.raises(StoreError, match=r"is not answered by an S3: a web page \(status 403\)"):
        _bucket(_Client(head_object=[page])).head("k")


@pytest.mark.parametrize(
    ("error", "message", "calls"),
    [
        (ProxyConnectionError(proxy_url="http://p:1"), "fix HTTPS_PROXY and HTTP_PROXY", 3),
        (SSLError(endpoint_url="x", error="CERTIFICATE_VERIFY_FAILED"), "set AWS_CA_BUNDLE to", 1),
        (SSLError(endpoint_url="x", error="EOF"), "SSL validation failed", 3),
        (NoCredentialsError(), "Unable to locate credentials", 1),
    ],
)
def test_a_failure_without_an_answer_names_its_setting(
    error: Exception, message: str, calls: int
) -> None:
    client = _Client(head_object=[error] * 3)
    with pytest.raises(StoreError, match=message) as raised:
        _bucket(client).head("k")
    assert not raised.value.refused
    assert len(client.calls) == calls


def test_nothing_is_tried_again_once_it_is_stopped() -> None:
    stop = threading.Event()
    stop.set()
    client = _Client(head_object=[EndpointConnectionError(endpoint_url="x")] * 3)
    bucket = _bucket(client)
    with pytest.raises(StoreError, match="Could not connect"):
        bucket.call(lambda: bucket.client.head_object(Bucket="b", Key="k"), stop=stop)
    assert len(client.calls) == 1


def test_another_number_of_attempts_counts() -> None:
    client = _Client(head_object=[EndpointConnectionError(endpoint_url="x")] * 3)
    with pytest.raises(StoreError, match="Could not connect"):
        _bucket(client).head("k", attempts=2)
    assert len(client.calls) == 2


def test_one_looks_as_often_as_the_backoff_says_with_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    looks: list[int] = []
    assert _bucket(_Client()).until(lambda: looks.append(1)) is None
    assert len(looks) == 3
    assert len(pauses) == 2
    assert _bucket(_Client()).until(lambda: "found") == "found"
    assert len(pauses) == 2


def test_listings_are_read_to_their_last_page() -> None:
    pages = [
        {"Contents": [{"Key": "a"}], "IsTruncated": True, "NextContinuationToken": "t"},
        {"IsTruncated": True, "NextContinuationToken": "u"},
        {"Contents": [{"Key": "b"}], "IsTruncated": False},
    ]
    client = _Client(list_objects_v2=pages)
    assert _bucket(client).list_objects("p") == ["a", "b"]
    assert [arguments.get("ContinuationToken") for _, arguments in client.calls] == [None, "t", "u"]


def test_versions_are_read_to_their_last_page_also_without_a_marker_of_versions() -> None:
    pages = [
        {
            "Versions": [{"Key": "a", "VersionId": "2"}],
            "DeleteMarkers": [{"Key": "a", "VersionId": "3"}],
            "IsTruncated": True,
            "NextKeyMarker": "a",
        },
        {
            "Versions": [{"Key": "a", "VersionId": "1"}],
            "IsTruncated": True,
            "NextKeyMarker": "a",
            "NextVersionIdMarker": "1",
        },
        {"Versions": [{"Key": "b", "VersionId": "null"}]},
    ]
    client = _Client(list_object_versions=pages)
    assert _bucket(client).versions("p") == [
        Version("a", "2", marker=False),
        Version("a", "3", marker=True),
        Version("a", "1", marker=False),
        Version("b", "null", marker=False),
    ]
    asked = [{**arguments} for _, arguments in client.calls]
    assert [each.get("KeyMarker") for each in asked] == [None, "a", "a"]
    assert ["VersionIdMarker" in each for each in asked] == [False, False, True]


def test_all_versions_of_an_object_are_erased_and_none_of_its_neighbour() -> None:
    versions = [{"Key": "k", "VersionId": "1"}, {"Key": "k2", "VersionId": "9"}]
    client = _Client(
        delete_object=[{"DeleteMarker": True}, {}], list_object_versions=[{"Versions": versions}]
    )
    _bucket(client).erase("k")
    assert [arguments for operation, arguments in client.calls if operation == "delete_object"] == [
        {"Bucket": "b", "Key": "k"},
        {"Bucket": "b", "Key": "k", "VersionId": "1"},
    ]
    client = _Client(delete_object=[{}])
    _bucket(client).erase("k")
    assert len(client.calls) == 1


@pytest.mark.parametrize(
    ("answer", "objects", "status"),
    [
        ({"Status": "Enabled"}, [], "Enabled"),
        ({"Status": "Suspended"}, [], "Suspended"),
        ({}, [], ""),
        (_error("NotImplemented", 501), [], ""),
        (_error("MethodNotAllowed", 405), [], ""),
        (_error("AccessDenied", 403), [], None),
        (_error("AccessDenied", 403), [{"VersionId": "1"}], "Enabled"),
        (_error("AccessDenied", 403), [{}], ""),
    ],
)
def test_whether_versions_are_kept_is_told_by_the_bucket_or_an_object(
    answer: Any, objects: list[dict[str, str]], status: str | None
) -> None:
    client = _Client(
        get_bucket_versioning=[answer],
        list_objects_v2=[{"Contents": [{"Key": "k"}] * len(objects)}],
        head_object=[_HEAD | each for each in objects],
    )
    assert _bucket(client).versioning("p") == status


def test_a_store_that_is_not_there_does_not_say_whether_it_keeps_versions() -> None:
    client = _Client(get_bucket_versioning=[EndpointConnectionError(endpoint_url="x")] * 3)
    with pytest.raises(StoreError, match="Could not connect"):
        _bucket(client).versioning("p")


@pytest.mark.parametrize(
    ("answer", "lock"),
    [
        ({}, ""),
        (_error("404", 404), ""),
        (_error("AccessDenied", 403), ""),
        ({"ObjectLockLegalHoldStatus": "ON"}, "it is under a legal hold"),
        ({"ObjectLockLegalHoldStatus": "OFF"}, ""),
        (
            {"ObjectLockRetainUntilDate": datetime(2027, 1, 2, 3, 4, tzinfo=UTC)},
            "it is locked until 2027-01-02 03:04 UTC",
        ),
    ],
)
@pytest.mark.parametrize("version", ["", "v"])
def test_a_lock_is_told(answer: Any, lock: str, version: str) -> None:
    client = _Client(head_object=[answer])
    said = _bucket(client).lock_of("k", version)
    assert said.startswith(lock)
    assert bool(said) is bool(lock)
    assert ("VersionId" in client.calls[0][1]) is bool(version)


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("https://b.s3.example", "AWS_ENDPOINT_URL=https://s3.example"),
        ("https://s3.example", None),
        ("https://bb.s3.example", None),
        ("http://b:9000", None),
    ],
)
def test_a_bucket_in_the_host_is_pointed_out(endpoint: str, hint: str | None) -> None:
    said = bucket_in_host(endpoint, "b")
    assert (hint in said) if hint else not said


@pytest.mark.parametrize(
    ("date", "hour"),
    [("Sun, 01 Nov 2026 12:00:00 GMT", 12), ("Sun, 01 Nov 2026 12:00:00 -0000", 12),
     ("Sun, 01 Nov 2026 12:00:00 +0200", 10)],
)  # fmt: skip
def test_the_time_of_a_store_has_a_zone(date: str, hour: int) -> None:
    moment = store_time({"HTTPHeaders": {"date": date}})
    assert moment.astimezone(UTC) == datetime(2026, 11, 1, hour, tzinfo=UTC)


@pytest.mark.parametrize("metadata", [{}, {"HTTPHeaders": {}}, {"HTTPHeaders": {"date": "soon"}}])
def test_a_store_without_a_clock_has_that_of_this_machine(metadata: dict[str, Any]) -> None:
    assert abs((store_time(metadata) - datetime.now(UTC)).total_seconds()) < 60
