"""One bucket: requests with retries, for objects and their versions.

It knows keys and bytes. Uploads in parts are in `uploads`, error messages in `store_errors`, and
the publication of windows in `s3`.
"""

from __future__ import annotations

import base64
import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from txn_platform.backoff import Backoff, Retries
from txn_platform.lake.store_errors import StoreError, explained, failed
from txn_platform.logs import logger

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

_LOG: Final = logger(__name__)

# Codes of a store that does not implement a request.
UNKNOWN_CALL: Final = frozenset({"501", "NotImplemented", "405", "MethodNotAllowed"})
READ_BYTES: Final = 1 << 20
# Other programs' objects may be among the first.
_FIRST: Final = 20
_BACKOFF: Final = Backoff(attempts=6, first_pause=0.5, longest_pause=10)


@dataclass(frozen=True)
class StoreLimits:
    """Retries, time-outs and sizes of requests to a store.

    An attempt fails after `connect_timeout` or `read_timeout`, in seconds.

    Attributes:
        backoff: of one request.
        first_attempts: of requests whose failure loses no work, such as the first of a run.
        connect_timeout: until there is a connection.
        read_timeout: until the next byte is received or sent.
        part_bytes: objects up to this size are one PUT, larger ones an upload in parts of this
            size. Stores want at least 5 MiB.
        threads: parts that are sent at the same time.
    """

    backoff: Backoff = _BACKOFF
    first_attempts: int = 3
    connect_timeout: float = 5
    read_timeout: float = 60
    part_bytes: int = 64 << 20
    threads: int = 2


@dataclass(frozen=True)
class Version:
    """One version of an object.

    Attributes:
        key: of the object.
        version_id: the store's id of it; `null` for objects put while the store kept no versions.
        marker: it has no content, and marks the object as deleted.
    """

    key: str
    version_id: str
    marker: bool


class Bucket:
    """A bucket.

    Args:
        client: of boto3, without retries of its own.
        name: of the bucket.
        limits: of its requests.
    """

    def __init__(self, client: S3Client, name: str, limits: StoreLimits) -> None:
        self.client = client
        self.name = name
        self.limits = limits
        # Stores that answer 411 or 501 to checksums are used with
        # AWS_REQUEST_CHECKSUM_CALCULATION=WHEN_REQUIRED.
        config: Any = client.meta.config
        self.sends_checksums = config.request_checksum_calculation == "when_supported"
        self._asks_for_checksums = config.response_checksum_validation == "when_supported"

    def call(
        self,
        request: Callable[[], Any],
        *,
        needs: tuple[str, ...] = (),
        none_for: tuple[str, ...] = (),
        permission: str | None = None,
        attempts: int | None = None,
        stop: threading.Event | None = None,
    ) -> Any:
        """Make a request, with retries.

        Args:
            request: makes it once.
            needs: fields of every complete answer; one without them was cut in transit.
            none_for: codes of errors for which None is returned.
            permission: that it needs, such as `s3:DeleteObjectVersion`, if its operation does not
                say so.
            attempts: how often at most, instead of the backoff's number.
            stop: once it is set, nothing is retried.

        Raises:
            StoreError: the request failed; says what to fix.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        backoff = self.limits.backoff
        retries = Retries(replace(backoff, attempts=attempts or backoff.attempts), stop)
        endpoint = self.client.meta.endpoint_url
        while True:
            try:
                answer = request()
                if all(_is_whole(answer.get(name)) for name in needs):
                    return answer
                fault = failed("an answer was cut on its way", self.name, endpoint)
            except (BotoCoreError, ClientError, ResponseParserError) as error:
                fault, passing = explained(error, self.name, endpoint, permission)
                if fault.code in none_for:
                    return None
                if not passing:
                    raise fault from None
            message = str(fault)
            if not retries.again(message.partition(". ")[0]):
                number, seconds = retries.attempt, retries.seconds
                tried = f" (tried {number} times in {seconds:.0f} s)" if number > 1 else ""
                raise StoreError(message + tried, fault.code)

    def until[T](self, look: Callable[[], T | None]) -> T | None:
        """Call `look` until it returns something, with the attempts and pauses of the backoff."""
        for pause in self.limits.backoff.pauses():
            if (found := look()) is not None:
                return found
            time.sleep(pause)
        return look()

    def require(self, prefix: str) -> None:
        """Check that the store answers, and allows to list a prefix.

        Raises:
            StoreError: it does not.
        """
        # Answers to HeadBucket have no body, so they give no reason.
        self.call(
            lambda: self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, MaxKeys=1),
            attempts=self.limits.first_attempts,
        )

    def head(self, key: str, *, attempts: int | None = None) -> dict[str, Any] | None:
        """The metadata of an object, with its checksum if the store has one; None if it is absent.

        Raises:
            StoreError: as for `call`.
        """
        mode: Any = {"ChecksumMode": "ENABLED"} if self._asks_for_checksums else {}
        return self.call(
            lambda: self.client.head_object(Bucket=self.name, Key=key, **mode),
            needs=("ContentLength", "ETag"),
            none_for=("404", "NoSuchKey"),
            attempts=attempts,
        )

    def digest(self, key: str) -> tuple[str, dict[str, str]]:
        """Read an object, and return its SHA-256 in hexadecimal and its metadata.

        Raises:
            StoreError: as for `call`, and if it is absent.
        """

        def read() -> dict[str, Any]:
            answer = self.client.get_object(Bucket=self.name, Key=key)
            digest = hashlib.sha256()
            for chunk in answer["Body"].iter_chunks(READ_BYTES):
                digest.update(chunk)
            return {"sha256": digest.hexdigest(), "Metadata": answer["Metadata"]}

        read_back = self.call(read)
        return read_back["sha256"], read_back["Metadata"]

    def fetch(self, key: str, path: Path) -> bool:
        """Write an object to a local file; returns False if the object is absent.

        Raises:
            StoreError: as for `call`.
        """

        def read() -> dict[str, Any]:
            answer = self.client.get_object(Bucket=self.name, Key=key)
            with path.open("wb") as file:
                for chunk in answer["Body"].iter_chunks(READ_BYTES):
                    file.write(chunk)
            return {"found": True}

        return self.call(read, none_for=("404", "NoSuchKey")) is not None

    def list_objects(self, prefix: str) -> list[str]:
        """The keys under a prefix.

        Raises:
            StoreError: as for `call`.
        """
        pages = self.pages(
            self.client.list_objects_v2,
            prefix,
            lambda page: {"ContinuationToken": page["NextContinuationToken"]},
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders that have keys right under a prefix.

        Raises:
            StoreError: as for `call`.
        """
        pages = self.pages(
            partial(self.client.list_objects_v2, Delimiter="/"),
            prefix,
            lambda page: {"ContinuationToken": page["NextContinuationToken"]},
        )
        found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return [folder.removeprefix(prefix).rstrip("/") for folder in found]

    def first_objects(self, prefix: str) -> list[str]:
        """The first few keys under a prefix, ascending, by one request.

        Raises:
            StoreError: as for `call`.
        """
        page = self.call(
            lambda: self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, MaxKeys=_FIRST)
        )
        return [entry["Key"] for entry in page.get("Contents", [])]

    def pages(
        self,
        request: Callable[..., Any],
        prefix: str,
        following: Callable[[dict[str, Any]], dict[str, str]],
        *,
        attempts: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The pages of a listing.

        Args:
            request: a method of the client that lists.
            prefix: of the keys.
            following: the arguments of the request after a page that is not the last.
            attempts: as for `call`.

        Raises:
            StoreError: as for `call`.
        """
        more: dict[str, str] = {}
        while True:
            page: dict[str, Any] = self.call(
                partial(request, Bucket=self.name, Prefix=prefix, **more), attempts=attempts
            )
            yield page
            if not page.get("IsTruncated"):
                return
            more = following(page)

    def delete(self, key: str, version: str | None = None) -> bool:
        """Remove an object, or one version of it.

        Returns:
            Whether older versions may remain, because the store has set a delete marker.

        Raises:
            StoreError: as for `call`.
        """
        which: Any = {} if version is None else {"VersionId": version}
        answer = self.call(
            lambda: self.client.delete_object(Bucket=self.name, Key=key, **which),
            permission="s3:DeleteObject" if version is None else "s3:DeleteObjectVersion",
        )
        return version is None and bool(answer.get("DeleteMarker"))

    def erase(self, key: str) -> None:
        """Remove an object with all its versions, as far as the store allows.

        Raises:
            StoreError: as for `call`.
        """
        if self.delete(key):
            with suppress(StoreError):
                for version in self.versions(key):
                    if version.key == key:
                        self.delete(key, version.version_id)

    def versioning(self, prefix: str) -> str | None:
        """Whether the bucket keeps old versions: `Enabled`, `Suspended`, or empty if it never did.

        Args:
            prefix: of an object that is looked at if the bucket's setting may not be read.

        Returns:
            None if the setting may not be read and there is no object to look at.

        Raises:
            StoreError: the store can't be reached.
        """
        try:
            return self.call(lambda: self.client.get_bucket_versioning(Bucket=self.name)).get(
                "Status", ""
            )
        except StoreError as error:
            if not error.refused:
                raise
            if error.code in UNKNOWN_CALL:
                return ""
            _LOG.warning("an object shows whether versions are kept, since %s", error)
        found = self.call(
            lambda: self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, MaxKeys=1)
        )
        for entry in found.get("Contents", []):
            return "Enabled" if (self.head(entry["Key"]) or {}).get("VersionId") else ""
        return None

    def lock_of(self, key: str, version: str) -> str:
        """How a version of an object is protected from removal (S3's object lock), as a sentence.

        Returns:
            Empty if it is not, or if the lock may not be read.
        """
        which: Any = {"VersionId": version} if version else {}
        try:
            found = self.call(
                lambda: self.client.head_object(Bucket=self.name, Key=key, **which),
                none_for=("404", "405", "NoSuchKey", "MethodNotAllowed"),
                permission="s3:GetObjectVersion" if version else None,
                attempts=1,
            )
        except StoreError as error:
            _LOG.warning("whether %s is locked is not known: %s", key, error)
            return ""
        if not found:
            return ""
        if found.get("ObjectLockLegalHoldStatus") == "ON":
            return "it is under a legal hold (object lock): have it released first"
        until = found.get("ObjectLockRetainUntilDate")
        if until is None:
            return ""
        return f"it is locked until {until:%Y-%m-%d %H:%M} UTC (object lock): remove it after that"

    def versions(self, prefix: str) -> list[Version]:
        """All versions of the objects under a prefix, and their delete markers.

        The newest version of a key comes first. Within a page, markers come after versions.

        Raises:
            StoreError: as for `call`; some stores cannot list versions.
        """

        def following(page: dict[str, Any]) -> dict[str, str]:
            more = {"KeyMarker": page["NextKeyMarker"]}
            # Some stores omit it at the end of a key.
            if page.get("NextVersionIdMarker"):
                more["VersionIdMarker"] = page["NextVersionIdMarker"]
            return more

        pages = self.pages(
            self.client.list_object_versions,
            prefix,
            following,
            attempts=self.limits.first_attempts,
        )
        return [
            Version(each["Key"], each["VersionId"], marker=kind == "DeleteMarkers")
            for page in pages
            for kind in ("Versions", "DeleteMarkers")
            for each in page.get(kind, [])
        ]

    def put(self, path: Path, key: str, sha256: str, properties: dict[str, Any]) -> str:
        """Put a file at a key by one PUT.

        Args:
            path: the file.
            key: of the object.
            sha256: the file's digest, hexadecimal.
            properties: of the object, as arguments of boto3.

        Returns:
            The checksum that the store should state, in base64.

        Raises:
            StoreError: as for `call`.
        """
        checksum = base64_digest(bytes.fromhex(sha256))
        sent: Any = {"ChecksumSHA256": checksum} if self.sends_checksums else {}

        def request() -> Any:
            with path.open("rb") as body:
                return self.client.put_object(
                    Bucket=self.name, Key=key, Body=body, **sent, **properties
                )

        self.call(request)
        return checksum


def _is_whole(value: Any) -> bool:
    """Whether a header's value is complete: http.client accepts values that were cut in transit."""
    return value is not None and (not isinstance(value, str) or value.count('"') in {0, 2})


def base64_digest(digest: bytes) -> str:
    """A digest as S3 writes checksums."""
    return base64.b64encode(digest).decode("ascii")
