"""Uploads in parts: sending them, listing them, and aborting orphans, which killed runs leave."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast, override

from txn_platform.lake.bucket import base64_digest
from txn_platform.lake.store_errors import StoreError, store_time
from txn_platform.logs import logger

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from txn_platform.lake.bucket import Bucket

_LOG: Final = logger(__name__)

# The code of the error about an upload that was completed or aborted.
ABORTED: Final = "NoSuchUpload"


@dataclass(frozen=True)
class Upload:
    """An upload in parts that is neither completed nor aborted.

    Attributes:
        key: of the object that it will become.
        upload_id: the store's id of it.
        age: seconds since it began, by the store's clock.
    """

    key: str
    upload_id: str
    age: float


def put_parts(
    bucket: Bucket, path: Path, key: str, properties: dict[str, Any], marker: Path
) -> str | None:
    """Put a file at a key by an upload in parts.

    The upload is aborted if anything stops it, Ctrl-C included.

    Args:
        bucket: where to.
        path: the file.
        key: of the object.
        properties: of the object, as arguments of boto3.
        marker: the upload marker: a local file that names the upload until it is complete or
            aborted. It stays if this process is killed, or the abort fails. See `abort_orphans`.

    Returns:
        The checksum that the store should state, in base64; None without checksums.

    Raises:
        StoreError: as for `Bucket.call`; with the code `ABORTED`, another process aborted it.
    """
    # One line per fact: the complete lines of a killed process are true.
    marker.write_text(json.dumps([bucket.name, key]) + "\n", "utf-8")
    try:
        upload_id = _create(bucket, key, properties)
        with marker.open("a", encoding="utf-8") as file:
            file.write(f"{upload_id}\n")
        digests = _send_and_complete(bucket, path, key, upload_id)
    except BaseException:
        with orphans_may_stay():
            abort_orphans(bucket, marker)
        raise
    marker.unlink()
    if not bucket.sends_checksums:
        return None
    return base64_digest(hashlib.sha256(b"".join(digests)).digest())


def abort_orphans(bucket: Bucket, marker: Path) -> int:
    """Abort the uploads that an upload marker names, and remove the marker.

    A marker without an id was left by a process that was killed before the store answered. Then all
    uploads of its key are aborted. A live run among them starts its upload again. An abort changes
    no object.

    Returns:
        How many uploads were aborted.

    Raises:
        StoreError: as for `Bucket.call`; the marker stays.
    """
    noted = marker.read_text("utf-8").splitlines(keepends=True)
    found: list[str] = []
    if noted and noted[0].endswith("\n"):
        name, key = json.loads(noted[0])
        if name != bucket.name:
            return 0
        if noted[-1] != noted[0] and noted[-1].endswith("\n"):
            found = [noted[-1].strip()]
        else:
            found = [
                upload.upload_id
                for upload in list_uploads(bucket, key, attempts=bucket.limits.first_attempts)
                if upload.key == key
            ]
        for upload_id in found:
            abort_upload(bucket, key, upload_id)
    marker.unlink()
    return len(found)


@contextmanager
def orphans_may_stay() -> Generator[None]:
    """Go on after an error of the store: another run aborts what stays, or the store itself does.

    A permission that lacks is a warning in the log, since no other run will do better.
    """
    try:
        yield
    except StoreError as error:
        if error.denied:
            _LOG.warning("orphans of uploads may stay: %s", error)


def list_uploads(bucket: Bucket, prefix: str, *, attempts: int | None = None) -> list[Upload]:
    """The uploads in parts that are neither completed nor aborted.

    Raises:
        StoreError: as for `Bucket.call`; some stores cannot list them.
    """
    found: list[Upload] = []
    pages = bucket.pages(
        bucket.client.list_multipart_uploads,
        prefix,
        lambda page: {
            "KeyMarker": page["NextKeyMarker"],
            "UploadIdMarker": page["NextUploadIdMarker"],
        },
        attempts=attempts,
    )
    for page in pages:
        now = store_time(page["ResponseMetadata"])
        found += [
            Upload(each["Key"], each["UploadId"], (now - each["Initiated"]).total_seconds())
            for each in page.get("Uploads", [])
            if each["Key"].startswith(prefix)
        ]
    return found


def abort_upload(bucket: Bucket, key: str, upload_id: str) -> None:
    """Abort an upload; nothing happens if it is already gone.

    Raises:
        StoreError: as for `Bucket.call`.
    """
    bucket.call(
        lambda: bucket.client.abort_multipart_upload(
            Bucket=bucket.name, Key=key, UploadId=upload_id
        ),
        none_for=(ABORTED,),
        attempts=bucket.limits.first_attempts,
    )


def _create(bucket: Bucket, key: str, properties: dict[str, Any]) -> str:
    algorithm: Any = {"ChecksumAlgorithm": "SHA256"} if bucket.sends_checksums else {}
    tries = 0

    def request() -> Any:
        nonlocal tries
        tries += 1
        return bucket.client.create_multipart_upload(
            Bucket=bucket.name, Key=key, **algorithm, **properties
        )

    upload_id: str = bucket.call(request, needs=("UploadId",))["UploadId"]
    if tries > 1:
        # A lost answer may have left an upload whose id is unknown.
        with orphans_may_stay():
            for upload in list_uploads(bucket, key, attempts=1):
                if upload.key == key and upload.upload_id != upload_id:
                    abort_upload(bucket, key, upload.upload_id)
    return upload_id


def _send_and_complete(bucket: Bucket, path: Path, key: str, upload_id: str) -> list[bytes]:
    """Send the parts and complete the upload; returns the SHA-256 of each part."""
    place: Any = {"Bucket": bucket.name, "Key": key, "UploadId": upload_id}
    size, length = path.stat().st_size, bucket.limits.part_bytes
    starts = range(0, size, length)
    digests = [b""] * len(starts)
    stop = threading.Event()

    def send(index: int) -> dict[str, Any]:
        def section() -> _Section:
            return _Section(path, starts[index], min(length, size - starts[index]), stop)

        def request() -> Any:
            with section() as body:
                return bucket.client.upload_part(
                    Body=cast("BinaryIO", body), PartNumber=index + 1, **checksum, **place
                )

        checksum: Any = {}
        if bucket.sends_checksums:
            with section() as body:
                digests[index] = hashlib.file_digest(body, "sha256").digest()
            checksum = {"ChecksumSHA256": base64_digest(digests[index])}
        answer = bucket.call(request, needs=("ETag",), stop=stop)
        # Stores that keep no checksums refuse them here.
        kept = checksum if "ChecksumSHA256" in answer else {}
        return {"PartNumber": index + 1, "ETag": answer["ETag"], **kept}

    with ThreadPoolExecutor(bucket.limits.threads) as pool:
        try:
            parts: Any = list(pool.map(send, range(len(starts))))
        except BaseException:
            # All requests end before the upload is aborted.
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    bucket.call(
        lambda: bucket.client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **place),
        needs=("ETag",),
    )
    return digests


class _Section(io.RawIOBase):
    """A part of a file as the body of a request. Reading fails once `stop` is set."""

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
            raise InterruptedError("the upload was stopped")
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
