"""One bucket: calls that are tried again, uploads that are whole or not, errors in words.

It knows keys and bytes. What lies under which key belongs in `lake`, how it is published and read
in `s3_lake`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast, override

from txn_platform.backoff import Backoff, Retries
from txn_platform.errors import UserError, without_queries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

_RETRIED_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})
# Of other statuses: a body that was damaged on its way, and what was busy for a moment.
_RETRIED_CODES: Final = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
# Of a store that does not have what it is asked for.
_UNKNOWN_CALL: Final = frozenset({"501", "NotImplemented", "405", "MethodNotAllowed"})
# The code of the error that speaks of an upload which is completed or aborted.
ABORTED: Final = "NoSuchUpload"
READ_BYTES: Final = 1 << 20
_BACKOFF: Final = Backoff(attempts=6, first_pause=0.5, longest_pause=10)


_EXPLAINED: Final = {
    ("404", "NoSuchBucket"): "does not exist: make it, or fix AWS_BUCKET_NAME",
    ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"): "refused the"
    " credentials ({code} for {operation}): fix AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or"
    " the profile), or allow them {permission} there",
    ("301", "PermanentRedirect", "AuthorizationHeaderMalformed"): "is in another region: set"
    " AWS_REGION to the bucket's",
    ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"): "refused"
    " the credentials, which have expired ({code}): log in again",
    ("RequestTimeTooSkewed", "RequestExpired"): "refused the request because this machine's clock"
    " is {off} the store's: set it",
    ("411", "MissingContentLength", "501", "NotImplemented"): "answered with the error {code!r}:"
    " the store may be too old for checksums; set AWS_REQUEST_CHECKSUM_CALCULATION=WHEN_REQUIRED",
    ("507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"): "is full ({code}): make"
    " room there",
    ("429", "503", "SlowDown", "ServiceUnavailable", "TooManyRequests"): "is overloaded ({code}):"
    " run it again when the store has recovered",
}
_UNEXPLAINED: Final = (
    "answered with the error {code!r} to {operation}: look at the store's log, and whether"
    " AWS_ENDPOINT_URL names it"
)
_WEB_PAGE: Final = (
    "is not answered by an S3: a web page (status {status}) came back for {operation}. Fix"
    " AWS_ENDPOINT_URL, or see to the proxy or gateway in front of the store"
)
# S3's permissions that are not named as the operation is.
_PERMISSIONS: Final = {
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "HeadObject": "GetObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}


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


class StoreError(UserError):
    """The store refused, failed, or can't be reached, however often it was tried.

    Attributes:
        code: what S3 calls it; empty when there was no answer.
        refused: the store answered that it will not do it, also if it were asked again.
    """

    def __init__(self, message: str, code: str = "", *, refused: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.refused = refused


@dataclass(frozen=True)
class Upload:
    """An upload in parts that is neither completed nor aborted.

    Attributes:
        key: what it is to become.
        upload_id: the store's name for it.
        age: seconds since it began, by the store's own clock.
    """

    key: str
    upload_id: str
    age: float


@dataclass(frozen=True)
class Version:
    """One version of an object.

    Attributes:
        key: of the object.
        version_id: the store's name for it; `null` for what was put while it kept none.
        marker: it holds nothing, but says that the object was deleted.
    """

    key: str
    version_id: str
    marker: bool


class Bucket:
    """A bucket, by a client that doesn't try again by itself.

    Args:
        client: boto3's, for one attempt a call.
        name: of the bucket.
        limits: of its requests.
    """

    def __init__(self, client: S3Client, name: str, limits: StoreLimits) -> None:
        self.client = client
        self.name = name
        self.limits = limits
        self._hint = bucket_in_host(client.meta.endpoint_url, name)
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
        attempts: int | None = None,
        stop: threading.Event | None = None,
    ) -> Any:
        """Make a request until it is answered, within the limits of the backoff.

        Args:
            request: makes it once.
            needs: what an answer has; one without it was cut on its way.
            none_for: codes of errors for which None is returned.
            attempts: another number than the backoff's.
            stop: when it is set, nothing is tried again.

        Raises:
            StoreError: it can't be made, or not within these limits; says what to fix.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        backoff = self.limits.backoff
        retries = Retries(replace(backoff, attempts=attempts or backoff.attempts), stop)
        while True:
            try:
                answer = request()
                if all(_is_whole(answer.get(name)) for name in needs):
                    return answer
                code, message = "", self._failed("an answer was cut on its way")
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code in none_for:
                    return None
                details: dict[str, Any] = dict(error.response.get("ResponseMetadata", {}))
                message = self._explain(code, details, error.operation_name)
                if (
                    details.get("HTTPStatusCode") not in _RETRIED_STATUS
                    and code not in _RETRIED_CODES
                ):
                    raise StoreError(message, code, refused=True) from None
            except (BotoCoreError, ResponseParserError) as error:
                code, message = "", self._failed(_described(error))
                if not _may_pass(error):
                    raise StoreError(message) from None
            if not retries.again(without_queries(message).partition(". ")[0]):
                number, seconds = retries.attempt, retries.seconds
                tried = f" (tried {number} times in {seconds:.0f} s)" if number > 1 else ""
                raise StoreError(message + tried, code)

    def until[T](self, look: Callable[[], T | None]) -> T | None:
        """Look until there is something, as often and as slowly as the backoff says."""
        for pause in self.limits.backoff.pauses():
            if (found := look()) is not None:
                return found
            time.sleep(pause)
        return look()

    def require(self, prefix: str) -> None:
        """Ask for what is under a prefix, to see whether the store answers and lets us.

        Raises:
            StoreError: it doesn't.
        """
        # Not HeadBucket: its answers have no body, and so no reason in them.
        self.call(
            lambda: self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, MaxKeys=1),
            attempts=self.limits.first_attempts,
        )

    def head(self, key: str, *, attempts: int | None = None) -> dict[str, Any] | None:
        """The store's description of an object, with its checksum if it keeps one; None without.

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
        """Read an object: its SHA-256, hexadecimal, and its metadata.

        Raises:
            StoreError: as for `call`, and when there is none.
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
        """Write an object to a local file; whether there is one.

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
        keys: list[str] = []
        more: Any = {}
        while True:
            page = self.call(
                lambda more=more: self.client.list_objects_v2(
                    Bucket=self.name, Prefix=prefix, **more
                )
            )
            keys += [entry["Key"] for entry in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                return keys
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str, version: str | None = None) -> bool:
        """Remove an object, or one version of it.

        Returns:
            Whether older versions may be left: the store has put a delete marker in its place.

        Raises:
            StoreError: as for `call`.
        """
        which: Any = {} if version is None else {"VersionId": version}
        answer = self.call(lambda: self.client.delete_object(Bucket=self.name, Key=key, **which))
        return version is None and bool(answer.get("DeleteMarker"))

    def erase(self, key: str) -> None:
        """Remove an object with all of its versions, as far as the store lets us.

        Raises:
            StoreError: as for `call`.
        """
        if self.delete(key):
            with suppress(StoreError):
                for version in self.versions(key):
                    if version.key == key:
                        self.delete(key, version.version_id)

    def versioning(self, prefix: str) -> str | None:
        """Whether the bucket keeps old versions: `Enabled`, `Suspended`, or empty for never.

        Args:
            prefix: of objects that are looked at if the bucket may not be asked.

        Returns:
            None when it may not be asked, and there is no object that tells.

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
            if error.code in _UNKNOWN_CALL:
                return ""
        found = self.call(
            lambda: self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, MaxKeys=1)
        )
        for entry in found.get("Contents", []):
            return "Enabled" if (self.head(entry["Key"]) or {}).get("VersionId") else ""
        return None

    def lock_of(self, key: str, version: str) -> str:
        """How a version of an object is protected from removal (S3's object lock), in words.

        Returns:
            Empty when it is not, or may not be asked.
        """
        which: Any = {"VersionId": version} if version else {}
        try:
            found = self.call(
                lambda: self.client.head_object(Bucket=self.name, Key=key, **which),
                none_for=("404", "405", "NoSuchKey", "MethodNotAllowed"),
                attempts=1,
            )
        except StoreError:
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
        """All versions of the objects under a prefix, with the markers that deletes left.

        Of one key the newest comes first; markers come after versions within a page of the list.

        Raises:
            StoreError: as for `call`; some stores have no list of them.
        """
        found: list[Version] = []
        more: Any = {}
        while True:
            page = self.call(
                lambda more=more: self.client.list_object_versions(
                    Bucket=self.name, Prefix=prefix, **more
                ),
                attempts=self.limits.first_attempts,
            )
            found += [
                Version(each["Key"], each["VersionId"], marker=kind == "DeleteMarkers")
                for kind in ("Versions", "DeleteMarkers")
                for each in page.get(kind, [])
            ]
            if not page.get("IsTruncated"):
                return found
            more = {
                "KeyMarker": page["NextKeyMarker"],
                # Some stores leave it out at the end of a key.
                **(
                    {"VersionIdMarker": page["NextVersionIdMarker"]}
                    if page.get("NextVersionIdMarker")
                    else {}
                ),
            }

    def put(self, path: Path, key: str, sha256: str, properties: dict[str, Any]) -> str:
        """Put a file at a key by one PUT; the checksum that the store should have of it.

        Args:
            path: the file.
            key: where.
            sha256: its digest, hexadecimal.
            properties: of the object, in boto3's words.

        Raises:
            StoreError: as for `call`.
        """
        checksum = _base64(bytes.fromhex(sha256))
        sent: Any = {"ChecksumSHA256": checksum} if self.sends_checksums else {}

        def request() -> Any:
            with path.open("rb") as body:
                return self.client.put_object(
                    Bucket=self.name, Key=key, Body=body, **sent, **properties
                )

        self.call(request)
        return checksum

    def put_parts(
        self, path: Path, size: int, key: str, properties: dict[str, Any], marker: Path
    ) -> str | None:
        """Put a file at a key by one upload in parts; the checksum the store should have of it.

        Whatever ends it otherwise, Ctrl-C too, the upload is aborted.

        Args:
            path: the file.
            size: its bytes.
            key: where.
            properties: of the object, in boto3's words.
            marker: a file that names the upload for as long as it may be there: also after this
                process was killed, or the store could not be told to abort it. See `abort_orphans`.

        Raises:
            StoreError: as for `call`; with the code of `ABORTED`, somebody else aborted it.
        """
        # Line by line: what a killed process leaves is true as far as it goes.
        marker.write_text(json.dumps([self.name, key]) + "\n", "utf-8")
        try:
            upload_id = self._create(key, properties)
            with marker.open("a", encoding="utf-8") as file:
                file.write(f"{upload_id}\n")
            digests = self._send_and_complete(path, size, key, upload_id)
        except BaseException:
            with suppress(StoreError):
                self.abort_orphans(marker)
            raise
        marker.unlink()
        if not self.sends_checksums:
            return None
        return _base64(hashlib.sha256(b"".join(digests)).digest())

    def abort_orphans(self, marker: Path) -> int:
        """Abort the uploads that the marker of a dead or failed upload names; remove the marker.

        A store that was killed early has not told the upload's id. Then all uploads of that key are
        aborted. A live run among them begins again: see `put_parts`. An abort harms no object.

        Returns:
            How many uploads were aborted.

        Raises:
            StoreError: as for `call`; the marker stays.
        """
        noted = marker.read_text("utf-8").splitlines(keepends=True)
        found: list[str] = []
        if noted and noted[0].endswith("\n"):
            bucket, key = json.loads(noted[0])
            if bucket != self.name:
                return 0
            if noted[-1] != noted[0] and noted[-1].endswith("\n"):
                found = [noted[-1].strip()]
            else:
                found = [
                    upload.upload_id
                    for upload in self.uploads(key, attempts=self.limits.first_attempts)
                    if upload.key == key
                ]
            for upload_id in found:
                self.abort(key, upload_id)
        marker.unlink()
        return len(found)

    def uploads(self, prefix: str, *, attempts: int | None = None) -> list[Upload]:
        """The uploads in parts that are neither completed nor aborted.

        Raises:
            StoreError: as for `call`; some stores have no list of them.
        """
        found: list[Upload] = []
        more: Any = {}
        while True:
            page = self.call(
                lambda more=more: self.client.list_multipart_uploads(
                    Bucket=self.name, Prefix=prefix, **more
                ),
                attempts=attempts,
            )
            now = _date(page["ResponseMetadata"])
            found += [
                Upload(each["Key"], each["UploadId"], (now - each["Initiated"]).total_seconds())
                for each in page.get("Uploads", [])
                if each["Key"].startswith(prefix)
            ]
            if not page.get("IsTruncated"):
                return found
            more = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def abort(self, key: str, upload_id: str) -> None:
        """Give up an upload; one that is already gone is no error.

        Raises:
            StoreError: as for `call`.
        """
        self.call(
            lambda: self.client.abort_multipart_upload(
                Bucket=self.name, Key=key, UploadId=upload_id
            ),
            none_for=(ABORTED,),
            attempts=self.limits.first_attempts,
        )

    def _create(self, key: str, properties: dict[str, Any]) -> str:
        algorithm: Any = {"ChecksumAlgorithm": "SHA256"} if self.sends_checksums else {}
        tries = 0

        def request() -> Any:
            nonlocal tries
            tries += 1
            return self.client.create_multipart_upload(
                Bucket=self.name, Key=key, **algorithm, **properties
            )

        upload_id: str = self.call(request, needs=("UploadId",))["UploadId"]
        if tries > 1:
            # Where an answer was lost, an upload has begun that nobody can name.
            with suppress(StoreError):
                for upload in self.uploads(key, attempts=1):
                    if upload.key == key and upload.upload_id != upload_id:
                        self.abort(key, upload.upload_id)
        return upload_id

    def _send_and_complete(self, path: Path, size: int, key: str, upload_id: str) -> list[bytes]:
        """Send the parts, and make them the object; the digest of each."""
        place: Any = {"Bucket": self.name, "Key": key, "UploadId": upload_id}
        length = self.limits.part_bytes
        starts = range(0, size, length)
        digests = [b""] * len(starts)
        stop = threading.Event()

        def send(index: int) -> dict[str, Any]:
            def section() -> _Section:
                return _Section(path, starts[index], min(length, size - starts[index]), stop)

            def request() -> Any:
                with section() as body:
                    return self.client.upload_part(
                        Body=cast("BinaryIO", body), PartNumber=index + 1, **checksum, **place
                    )

            checksum: Any = {}
            if self.sends_checksums:
                with section() as body:
                    digests[index] = hashlib.file_digest(body, "sha256").digest()
                checksum = {"ChecksumSHA256": _base64(digests[index])}
            answer = self.call(request, needs=("ETag",), stop=stop)
            # A store that keeps no checksums does not want them again.
            kept = checksum if "ChecksumSHA256" in answer else {}
            return {"PartNumber": index + 1, "ETag": answer["ETag"], **kept}

        with ThreadPoolExecutor(self.limits.threads) as pool:
            try:
                parts: Any = list(pool.map(send, range(len(starts))))
            except BaseException:
                # No part is on its way any more when the upload is aborted.
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        self.call(
            lambda: self.client.complete_multipart_upload(
                MultipartUpload={"Parts": parts}, **place
            ),
            needs=("ETag",),
        )
        return digests

    def _failed(self, what: str) -> str:
        return (
            f"the store of bucket {self.name!r} failed: {what}. Look whether it runs, and whether"
            " AWS_ENDPOINT_URL names it" + self._hinted()
        )

    def _explain(self, code: str, details: dict[str, Any], operation: str) -> str:
        off = (datetime.now(UTC) - _date(details)).total_seconds()
        if "html" in details.get("HTTPHeaders", {}).get("content-type", ""):
            text = _WEB_PAGE
        else:
            text = next((text for codes, text in _EXPLAINED.items() if code in codes), _UNEXPLAINED)
        return (
            f"bucket {self.name!r} "
            + text.format(
                code=code,
                off=f"{abs(off):,.0f} s {'ahead of' if off > 0 else 'behind'}",
                operation=operation,
                permission=f"s3:{_PERMISSIONS.get(operation, operation)}",
                status=details.get("HTTPStatusCode"),
            )
            + self._hinted()
        )

    def _hinted(self) -> str:
        return f". Perhaps {self._hint}" if self._hint else ""


class _Section(io.RawIOBase):
    """A part of a file, as a request's body; it can't be read any more once `stop` is set."""

    def __init__(self, path: Path, start: int, size: int, stop: threading.Event) -> None:
        self._file = path.open("rb", buffering=0)
        self._start = start
        self._size = size
        self._stop = stop
        self.seek(0)

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int:
        if self._stop.is_set():
            raise InterruptedError("the upload was given up")
        view = memoryview(buffer)
        return self._file.readinto(view[: max(0, self._size - self.tell())])

    @override
    def seek(self, offset: int, whence: int = 0, /) -> int:
        base = (0, self.tell() if whence == 1 else 0, self._size)[whence]
        return self._file.seek(self._start + base + offset) - self._start

    @override
    def tell(self) -> int:
        return self._file.tell() - self._start

    @override
    def close(self) -> None:
        self._file.close()
        super().close()


def bucket_in_host(endpoint: str, bucket: str) -> str:
    """A hint where an endpoint's host begins with the bucket's name; empty elsewhere."""
    scheme, _, place = endpoint.partition("://")
    if not place.startswith(f"{bucket}."):
        return ""
    return (
        f"the endpoint {endpoint} has the bucket {bucket!r} in its host: leave it off"
        f" (AWS_ENDPOINT_URL={scheme}://{place.removeprefix(f'{bucket}.')}), and set"
        " TXN_S3_ADDRESSING=virtual if the store wants it there"
    )


def _described(error: Exception) -> str:
    """boto3's description of a failure, with the remedy where the settings have one."""
    from botocore import exceptions as said

    if _is_untrusted(error):
        return (
            "its certificate is not of a CA that is trusted: set AWS_CA_BUNDLE to a PEM file of the"
            " CA's"
        )
    if isinstance(error, said.ProxyConnectionError):
        return f"{error}: fix HTTPS_PROXY and HTTP_PROXY, or name the store's host in NO_PROXY"
    return str(error)


def _is_untrusted(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed after what boto3 says of it."""
    from botocore import exceptions as said
    from botocore.parsers import ResponseParserError

    return not _is_untrusted(error) and isinstance(
        error,
        (
            said.ConnectionError,
            said.HTTPClientError,
            said.IncompleteReadError,
            said.FlexibleChecksumError,
            ResponseParserError,
        ),
    )


def _is_whole(value: Any) -> bool:
    """Whether a header's value arrived: http.client takes one that was cut for what was sent."""
    return value is not None and (not isinstance(value, str) or value.count('"') in {0, 2})


def _date(metadata: Any) -> datetime:
    """The store's clock as an answer has it, to the second; this machine's if it has none."""
    try:
        moment = parsedate_to_datetime(metadata["HTTPHeaders"]["date"])
    except (ValueError, TypeError, LookupError, OverflowError):
        return datetime.now(UTC)
    # RFC 5322: -0000 is UTC too, and Python leaves such a moment without a zone.
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")
