"""The lake in a bucket: how an object is published there, read, and what its store can do.

Requests with retries are in `bucket`, uploads in parts in `uploads`, the layout in `layout`, and
the promise of a lake in `base`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, override
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from txn_platform.errors import UserError
from txn_platform.lake.base import OPENINGS, Kept, Lake, StoredObject, explained_reads
from txn_platform.lake.bucket import READ_BYTES, Bucket, StoreLimits, base64_digest
from txn_platform.lake.layout import OBJECT_NAME, asset_of_key
from txn_platform.lake.parquet import parquet_of
from txn_platform.lake.probe import probe, raw_zone_encryption
from txn_platform.lake.s3_access import S3Access, open_bucket
from txn_platform.lake.staging import room_on_disk
from txn_platform.lake.store_errors import StoreError
from txn_platform.lake.uploads import (
    ABORTED,
    abort_orphans,
    abort_upload,
    list_uploads,
    orphans_may_stay,
    put_parts,
)
from txn_platform.permissions import with_roles
from txn_platform.private_files import make_private_directory
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence
    from pathlib import Path

    import polars as pl

    from txn_platform.lake.base import Capability
    from txn_platform.lake.staging import Staged
    from txn_platform.lake.uploads import Upload
    from txn_platform.settings import Settings

UPLOAD_MARKER_SUFFIX: Final = ".upload"
# Uploads without a marker on this machine are orphans after this time: no run takes as long.
DEAD_AFTER_SECONDS: Final = 24 * 3600.0

_AWS: Final = ".amazonaws.com"
_DIGEST: Final = "sha256"
# Metadata with a random id of each put: two runs may put the same bytes.
_PUT: Final = "put"
_PUT_LENGTH: Final = 32
# How often an upload starts that other runs abort because they take it for an orphan.
_UPLOADS: Final = 3


@dataclass(frozen=True)
class _Kept:
    """The staged file of an object that this process published.

    Attributes:
        key: of the object.
        put: the id of the put.
        file: open and without a name, so that nothing is left of it when the process ends.
    """

    key: str
    put: str
    file: pa.NativeFile


class S3Lake(Lake):
    """A lake in a bucket on S3 or a store that speaks its protocol.

    The last object of each asset that this process published is read from the staged file, as long
    as the store still has that object.
    """

    def __init__(
        self,
        *,
        bucket: Bucket,
        prefix: str,
        home: Path,
        access: S3Access,
        kms_key: str | None,
    ) -> None:
        # Not durable: after a power cut the run stages its file again.
        super().__init__(home / "staging", durable=False, home=home)
        self.bucket = bucket
        # Apart from staged files: a marker stays when the store cannot abort its upload.
        self._markers = home / "uploads"
        self._prefix = f"{prefix}/" if prefix else ""
        self._access = access
        self._encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
        )
        self._known_writable = False
        self._kept: dict[str, _Kept] = {}

    @override
    def require_writable(self) -> None:
        if not self._known_writable:
            self.bucket.require(self._prefix)
            self._known_writable = True
            # Once per process: orphans of other machines are a day old at least.
            with orphans_may_stay():
                for upload in self.dead_uploads(attempts=1):
                    abort_upload(self.bucket, upload.key, upload.upload_id)

    @override
    def probe(self) -> Iterator[Capability]:
        with closing(probe(self.bucket, self._prefix)) as capabilities:
            objects = next(capabilities)
            yield objects
            if objects.works:
                yield from self._access.probe(f"{self._prefix}probe-{uuid.uuid4().hex}")
            yield from capabilities
        if objects.works:
            yield raw_zone_encryption(self.bucket, self._prefix, self._encryption)

    def dead_uploads(self, *, attempts: int | None = None) -> list[Upload]:
        """Orphans among the uploads of this lake's objects, from any machine.

        Raises:
            StoreError: the store can't be reached, or cannot list uploads.
        """
        return [
            upload
            for upload in list_uploads(self.bucket, self._prefix, attempts=attempts)
            if upload.key.endswith(f"/{OBJECT_NAME}") and upload.age > DEAD_AFTER_SECONDS
        ]

    @override
    def sweep(self) -> int:
        removed = super().sweep()
        # A marker has the name of the staged file of its upload, which exists while its process
        # lives. A marker alone names an upload that was killed, or whose abort failed. Earlier
        # versions kept both in one directory.
        for directory in (self._markers, self._staging):
            for marker in directory.glob(f"*{UPLOAD_MARKER_SUFFIX}"):
                if not (self._staging / marker.stem).exists():
                    with orphans_may_stay(), suppress(FileNotFoundError):
                        removed += abort_orphans(self.bucket, marker)
        return removed

    @override
    def publish(self, staged: Staged, key: str, *, clear_cards: bool = False) -> StoredObject:
        found = self.bucket.head(self._prefix + key) or {}
        before = _put_of(found)
        if before and self._holds(found, staged, key, clear_cards=clear_cards):
            self._keep(staged, key, before)
            return StoredObject(self.uri(key), staged.size, unchanged=True)
        put = uuid.uuid4().hex
        properties = {
            "ContentType": "application/vnd.apache.parquet",
            "Metadata": {_DIGEST: staged.sha256, _PUT: put},
            **(self._encryption if clear_cards else {}),
        }
        with room_on_disk(self._staging):
            checksum = self._upload(staged, self._prefix + key, put, properties)
        stored = self._read_back(staged, key, put, before, checksum)
        self._keep(staged, key, put)
        return stored

    def _keep(self, staged: Staged, key: str, put: str) -> None:
        """Read the object from the staged file, as long as the store has the put `put`."""
        self._kept[asset_of_key(key)] = _Kept(key, put, pa.OSFile(str(staged.path), "rb"))

    def _holds(self, found: dict[str, Any], staged: Staged, key: str, *, clear_cards: bool) -> bool:
        """Whether the object that a store describes has a staged file's bytes, and its encryption.

        Compares the store's checksum. If the store states none of the whole object, reads it.
        """
        if found["ContentLength"] != staged.size:
            return False
        if found.get("Metadata", {}).get(_DIGEST) != staged.sha256:
            return False
        if clear_cards and not all(
            # Stores return the ARN of the key, which ends with the key's id.
            str(found.get(name, "")).rpartition("/")[2] == value.rpartition("/")[2]
            for name, value in self._encryption.items()
        ):
            return False
        checksum = base64.b64encode(bytes.fromhex(staged.sha256)).decode("ascii")
        if found.get("ChecksumSHA256") == checksum:
            return True
        # If it cannot be read, it is written again.
        with suppress(StoreError):
            digest, metadata = self.bucket.digest(self._prefix + key)
            return digest == staged.sha256 and metadata.get(_PUT) == _put_of(found)
        return False

    def _kept_at(self, key: str) -> _Kept | None:
        """The staged file that this process has put at a key; it may have been replaced since."""
        kept = self._kept.get(asset_of_key(key))
        return kept if kept is not None and kept.key == key else None

    def _upload(
        self, staged: Staged, place: str, put: str, properties: dict[str, Any]
    ) -> str | None:
        """Put the file there; returns the checksum that the store should state, if it is known."""
        for left in reversed(range(_UPLOADS)):
            try:
                if staged.size <= self.bucket.limits.part_bytes:
                    return self.bucket.put(staged.path, place, staged.sha256, properties)
                make_private_directory(self._markers)
                marker = self._markers / (staged.path.name + UPLOAD_MARKER_SUFFIX)
                return put_parts(self.bucket, staged.path, place, properties, marker)
            except StoreError as error:
                # The store may have completed a request without an answer.
                try:
                    done = _put_of(self.bucket.head(place, attempts=1)) == put
                except StoreError:
                    raise _unknown(error) from None
                if done:
                    return None
                if error.code != ABORTED or not left:
                    raise
        raise AssertionError

    def _read_back(
        self, staged: Staged, key: str, put: str, before: str | None, checksum: str | None
    ) -> StoredObject:
        """Ask the store for the object: this one, or one that another run has put there since.

        Raises:
            UserError: it has neither.
        """
        place = self._prefix + key

        def look() -> StoredObject | None:
            found = self.bucket.head(place) or {}
            there = _put_of(found)
            if there == put:
                # Some stores omit the number of parts, after the dash.
                kept = found.get("ChecksumSHA256", "").partition("-")[0]
                if found["ContentLength"] != staged.size or not kept or kept != checksum:
                    digest, metadata = self.bucket.digest(place)
                    if metadata.get(_PUT) != put:
                        return None
                    if digest != staged.sha256:
                        raise UserError(
                            f"{self.uri(key)} holds other bytes than were sent: the store, or what"
                            " is in front of it, damages data. Run the partition again",
                            Section.STORE_LOSES_DATA,
                        )
                return StoredObject(self.uri(key), staged.size)
            if there not in {None, before}:
                return StoredObject(self.uri(key), found["ContentLength"], superseded=True)
            return None

        try:
            stored = self.bucket.until(look)
        except StoreError as error:
            raise _unknown(error) from None
        if stored is None:
            raise UserError(
                f"{self.uri(key)} is not what the store has just accepted, nor what another run"
                " put there since: the store loses data. Run the partition again",
                Section.STORE_LOSES_DATA,
            )
        return stored

    @override
    def put_text(self, name: str, content: str) -> None:
        place, encoded = self._prefix + name, content.encode()
        digest = hashlib.sha256(encoded)
        attempts = self.bucket.limits.first_attempts
        found = self.bucket.head(place, attempts=attempts) or {}
        if found.get("Metadata", {}).get(_DIGEST) == digest.hexdigest():
            return
        checksum: Any = (
            {"ChecksumSHA256": base64_digest(digest.digest())}
            if self.bucket.sends_checksums
            else {}
        )
        self.bucket.call(
            lambda: self.bucket.client.put_object(
                Bucket=self.bucket.name,
                Key=place,
                Body=encoded,
                ContentType="application/json" if name.endswith(".json") else "application/yaml",
                Metadata={_DIGEST: digest.hexdigest()},
                **checksum,
            ),
            attempts=attempts,
        )

    @override
    def uri(self, key: str) -> str:
        return f"s3://{self.bucket.name}/{self._prefix}{key}"

    @override
    def browser_address(self, key: str) -> str | None:
        client = self.bucket.client.meta
        host = urlsplit(client.endpoint_url).hostname or ""
        if not host.endswith(_AWS):
            # Other stores show objects only to who signs the request, or in a program of their own.
            return None
        query = urlencode({"region": client.region_name, "prefix": f"{self._prefix}{key}"})
        return f"https://{client.region_name}.console.aws.amazon.com/s3/object/{self.bucket.name}?{query}"

    @override
    def find(self, key: str) -> StoredObject | None:
        stored = self.bucket.head(self._prefix + key)
        return StoredObject(self.uri(key), stored["ContentLength"]) if stored else None

    @override
    def digest(self, key: str) -> str | None:
        stored = self.bucket.head(self._prefix + key)
        if stored is None:
            return None
        kept = stored.get("Metadata", {}).get(_DIGEST)
        return kept or self.bucket.digest(self._prefix + key)[0]

    @override
    def copy(self, key: str, path: Path) -> None:
        kept = self._kept_at(key)
        if kept is not None and kept.put == _put_of(self.bucket.head(self._prefix + key)):
            with path.open("wb") as file:
                while piece := os.pread(kept.file.fileno(), READ_BYTES, file.tell()):
                    file.write(piece)
        elif not self.bucket.fetch(self._prefix + key, path):
            raise self._missing(key)

    @override
    def open(self, key: str, dictionary_encoded: Collection[str] = ()) -> pq.ParquetFile:
        place = self._prefix + key
        for left in reversed(range(OPENINGS)):
            found = self.bucket.head(place)
            if found is None:
                raise self._missing(key)
            kept = self._kept_at(key)
            if kept is not None and kept.put == _put_of(found):
                return parquet_of(kept.file, dictionary_encoded)
            require_unchanged = partial(self._require_unchanged, key, found.get("ETag"))
            try:
                with explained_reads(self.uri(key)):
                    source = self._access.filesystem().open_input_file(
                        f"{self.bucket.name}/{place}"
                    )
                    file = _StoredParquet(
                        source, dictionary_encoded, self.uri(key), require_unchanged
                    )
            except (UserError, pa.ArrowException) as error:
                # The size of one version and the footer of another make no file.
                if not left or self._is_unchanged(key, found.get("ETag")):
                    require_unchanged()
                    if isinstance(error, UserError):
                        if error.section is Section.STORE_REFUSES:
                            self._require_readable(place)
                        raise
                    raise UserError(
                        f"{self.uri(key)} is no whole Parquet file ({error}): materialize it again",
                        Section.INPUT_MISSING,
                    ) from None
            else:
                if not left or self._is_unchanged(key, found.get("ETag")):
                    return file
        raise AssertionError

    @override
    def _version(self, key: str) -> str | None:
        return (self.bucket.head(self._prefix + key) or {}).get("ETag")

    def _is_unchanged(self, key: str, tag: str | None) -> bool:
        return self._version(key) == tag

    def _require_unchanged(self, key: str, tag: str | None) -> None:
        if not self._is_unchanged(key, tag):
            raise UserError(
                f"{self.uri(key)} was replaced by another run while it was read: run it again",
                Section.OBJECT_REPLACED,
            )

    def _require_readable(self, place: str) -> None:
        """Read a byte through boto3, whose errors have AWS's reason: a permission of KMS, say."""
        client = self.bucket.client
        answer = self.bucket.call(
            lambda: client.get_object(Bucket=self.bucket.name, Key=place, Range="bytes=0-0"),
            attempts=1,
        )
        answer["Body"].close()

    @override
    def scan(self, keys: list[str]) -> pl.LazyFrame:
        for key in self.absent(keys):
            raise self._missing(key)
        # A listing does not show whether objects may be read, and the frame is read elsewhere.
        if len(keys) > 1:
            self.find(keys[0])
        return self._access.scan([self.uri(key) for key in keys])

    @override
    def keys(self, asset: str) -> list[str]:
        return sorted(
            key.removeprefix(self._prefix)
            for key in self.bucket.list_objects(f"{self._prefix}{asset}/")
            if key.endswith(f"/{OBJECT_NAME}")
        )

    @override
    def folders(self) -> list[str]:
        return self.bucket.folders(self._prefix)

    @override
    def first_key(self, asset: str) -> str | None:
        found = self.bucket.first_objects(f"{self._prefix}{asset}/event_date=")
        keys = (key.removeprefix(self._prefix) for key in found)
        return next((key for key in keys if key.endswith(f"/{OBJECT_NAME}")), None)

    @override
    def kept(self, asset: str) -> Kept:
        place = f"{self._prefix}{asset}/"
        plain = {key: [""] for key in self.keys(asset)}
        status = self.bucket.versioning(place)
        if status == "":
            return Kept(plain)
        try:
            found = self.bucket.versions(place)
        except StoreError as error:
            if not error.refused:
                raise
            unseen = self._versions_stay(place, error.code, "s3:ListBucketVersions")
            return Kept(plain, unseen=unseen)
        versions: dict[str, list[str]] = {}
        markers: dict[str, list[str]] = {}
        for version in reversed(found):
            key = version.key.removeprefix(self._prefix)
            if key.endswith(f"/{OBJECT_NAME}"):
                of_its_kind = markers if version.marker else versions
                of_its_kind.setdefault(key, []).append(version.version_id)
        return Kept(plain | versions, markers)

    @override
    def erase(self, key: str, versions: Sequence[str]) -> str:
        place = self._prefix + key
        reason = ""
        for version in versions:
            try:
                if self.bucket.delete(place, version or None):
                    reason = self._versions_stay(
                        _asset_folder(place), "they can't be listed", "s3:ListBucketVersions"
                    )
            except StoreError as error:
                if not error.refused:
                    raise
                if lock := self.bucket.lock_of(place, version):
                    reason = f"{self.uri(key)}: {lock}"
                    continue
                reason = (
                    self._versions_stay(_asset_folder(place), error.code, "s3:DeleteObjectVersion")
                    + ". A lock of theirs shows only with s3:GetObjectRetention and"
                    " s3:GetObjectLegalHold"
                    if version
                    else str(error)
                )
                break
        if reason and versions[0]:
            # A delete marker hides it from readers, and rules for old versions apply to it.
            with suppress(StoreError):
                if self.bucket.head(place, attempts=1) is not None:
                    self.bucket.delete(place)
        return reason

    def _versions_stay(self, place: str, reason: str, permission: str) -> str:
        return (
            f"old versions under s3://{self.bucket.name}/{place} stay, or may stay ({reason}):"
            f" allow {with_roles(permission)} and run it again, or give the bucket a lifecycle rule"
            " for this prefix that expires noncurrent versions (NoncurrentVersionExpiration)"
        )


def _asset_folder(place: str) -> str:
    """The folder of the asset of a window's object in a bucket."""
    return f"{place.rpartition('/event_date=')[0]}/"


class _StoredParquet(pq.ParquetFile):
    """A Parquet object that is read by several requests, all of one version."""

    def __init__(
        self,
        source: Any,
        dictionary_encoded: Collection[str],
        uri: str,
        require_unchanged: Callable[[], None],
    ) -> None:
        footer = pq.ParquetFile(source).metadata
        names: Any = [name for name in footer.schema.names if name in dictionary_encoded]
        super().__init__(source, metadata=footer, pre_buffer=True, read_dictionary=names)
        self._uri = uri
        self._require_unchanged = require_unchanged

    @override
    def read(self, *args: Any, **kwargs: Any) -> Any:
        with self._of_one_version():
            return super().read(*args, **kwargs)

    @override
    def read_row_group(self, *args: Any, **kwargs: Any) -> Any:
        with self._of_one_version():
            return super().read_row_group(*args, **kwargs)

    @override
    def read_row_groups(self, *args: Any, **kwargs: Any) -> Any:
        with self._of_one_version():
            return super().read_row_groups(*args, **kwargs)

    @override
    def iter_batches(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self._of_one_version():
            yield from super().iter_batches(*args, **kwargs)

    @contextmanager
    def _of_one_version(self) -> Generator[None]:
        try:
            with explained_reads(self._uri):
                yield
        except Exception:
            # Bytes of two versions cause misleading errors: report the replacement instead.
            self._require_unchanged()
            raise
        self._require_unchanged()


def open_s3_lake(settings: Settings, limits: StoreLimits | None = None) -> S3Lake:
    """The lake in the bucket that the settings name.

    Args:
        settings: with a bucket.
        limits: of requests to the store; by default those of `StoreLimits`.

    Raises:
        UserError: there are no credentials for the bucket.
    """
    if settings.bucket is None:
        raise UserError("AWS_BUCKET_NAME is not set: name the bucket of the lake", Section.SETTINGS)
    bucket, access = open_bucket(settings, settings.bucket, limits or StoreLimits())
    return S3Lake(
        bucket=bucket,
        prefix=settings.lake_prefix,
        home=settings.home.absolute(),
        access=access,
        kms_key=settings.raw_sse,
    )


def _unknown(error: StoreError) -> StoreError:
    return StoreError(
        f"{error}. Whether the object was replaced is not known, it is whole in any case: run the"
        " partition again",
        error.code,
    )


def _put_of(head: dict[str, Any] | None) -> str | None:
    """The id of the put of an object; None for a missing object, or one of another program."""
    put = (head or {}).get("Metadata", {}).get(_PUT, "")
    # A truncated answer may have a part of it.
    return put if len(put) == _PUT_LENGTH else None
