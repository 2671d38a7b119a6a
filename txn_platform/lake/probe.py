"""The abilities of a bucket's store, tried with small objects, and their meaning for the user.

Stores that speak S3 differ. `s3` has the abilities that the lake rests on.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from txn_platform.lake.base import Capability
from txn_platform.lake.bucket import UNKNOWN_CALL
from txn_platform.lake.store_errors import StoreError
from txn_platform.lake.uploads import list_uploads, put_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from txn_platform.lake.bucket import Bucket

_FIRST: Final = b"the first probe"
_SECOND: Final = b"the second probe"
# That put at once, as often as this: a store that only checks and then writes lets two through.
_WRITERS: Final = 6
_NUMBERS: Final = range(_WRITERS)
_ROUNDS: Final = 5
# SHA-256 of nothing, which no probe is.
_WRONG_CHECKSUM: Final = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
_WRONG_ETAG: Final = "0" * 32


def probe(bucket: Bucket, prefix: str) -> Generator[Capability]:
    """Try what a store can do, and leave nothing.

    Args:
        bucket: whose store.
        prefix: under which keys may be made.

    Raises:
        StoreError: the store can't be reached, or refuses to put, read or remove.
    """
    bucket.require(prefix)
    key = f"{prefix}probe-{uuid.uuid4().hex}"
    probed = _Probed(bucket, key)
    try:
        objects = probed.objects()
        yield objects
        if not objects.works:
            return
        for look in (
            probed.ranges,
            probed.parts,
            probed.uploads,
            probed.checksums,
            probed.conditions,
        ):
            yield look()
    finally:
        bucket.erase(key)
    yield _old_versions(bucket, prefix)
    yield _dead_uploads(bucket, prefix)


def raw_zone_encryption(bucket: Bucket, prefix: str, properties: dict[str, Any]) -> Capability:
    """The encryption of the objects with card numbers in clear, as the store states it.

    Args:
        bucket: whose store.
        prefix: under which keys may be made.
        properties: of these objects, as arguments of boto3; empty without `TXN_RAW_SSE`.

    Raises:
        StoreError: the store can't be reached.
    """
    works = needed = False
    try:
        if properties:
            works = _encrypts(bucket, f"{prefix}probe-{uuid.uuid4().hex}", properties)
            meaning = (
                "SSE-KMS, under the key that TXN_RAW_SSE names"
                if works
                else "the store took an object for the key that TXN_RAW_SSE names, and does not say"
                " that it encrypted it: do not rely on it"
            )
        else:
            rule = _default_encryption(bucket)
            works = rule is not None
            meaning = (
                f"{rule}, as the bucket has it for all objects"
                if works
                else "the bucket has no default encryption: give it one, or name a KMS key by"
                " TXN_RAW_SSE"
            )
    except StoreError as error:
        if not error.refused:
            raise
        needed = bool(properties)
        if needed:
            meaning = f"{error}. TXN_RAW_SSE names a key that can't be used, so nothing is landed"
        elif error.code in UNKNOWN_CALL:
            meaning = "the store does not say: see to it where the store keeps its data"
        else:
            meaning = f"not known, because it may not be asked for: {error}"
    return Capability("encryption of the raw zone", works=works, needed=needed, meaning=meaning)


def _encrypts(bucket: Bucket, key: str, properties: dict[str, Any]) -> bool:
    """Whether the store says that it encrypted an object with these properties."""
    try:
        bucket.call(
            lambda: bucket.client.put_object(Bucket=bucket.name, Key=key, Body=_FIRST, **properties)
        )
        found = bucket.head(key) or {}
    finally:
        bucket.erase(key)
    return found.get("ServerSideEncryption") == properties["ServerSideEncryption"]


def _default_encryption(bucket: Bucket) -> str | None:
    """The encryption that the bucket gives to objects; None if it gives none."""
    answer = bucket.call(
        lambda: bucket.client.get_bucket_encryption(Bucket=bucket.name),
        none_for=("ServerSideEncryptionConfigurationNotFoundError",),
        attempts=bucket.limits.first_attempts,
    )
    rules = (answer or {}).get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
    for rule in rules:
        default = rule.get("ApplyServerSideEncryptionByDefault", {})
        match default.get("SSEAlgorithm"):
            case None:
                pass
            case "AES256":
                return "SSE-S3, under keys of the store"
            case _:
                return f"SSE-KMS, under {default.get('KMSMasterKeyID', 'the key of the account')}"
    return None


def race(bucket: Bucket, prefix: str) -> str:
    """Let several writers put one object at once, each only if there is none, for some rounds.

    Args:
        bucket: to write to.
        prefix: of the keys, which are removed.

    Returns:
        The fault that was seen; empty if exactly one writer won each round.

    Raises:
        StoreError: the store can't be reached, or refuses to put, read or remove.
    """
    failures: list[StoreError] = []
    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in range(_ROUNDS):
            key = f"{prefix}probe-{uuid.uuid4().hex}"
            make = partial(_make, bucket, key, threading.Barrier(_WRITERS))
            try:
                made = list(pool.map(make, _NUMBERS))
                winners = [number for number, won in enumerate(made) if won is True]
                failed = [each for each in made if isinstance(each, StoreError)]
                if failed and not winners:
                    # A round of failed requests shows nothing.
                    failures += failed[:1]
                    continue
                if len(winners) != 1:
                    return (
                        f"of {_WRITERS} that put one object at once, {len(winners)} were told that"
                        " they made it"
                    )
                if bucket.digest(key)[0] != hashlib.sha256(b"%d" % winners[0]).hexdigest():
                    return "it has another object than the one that it said it took"
            finally:
                bucket.erase(key)
    if len(failures) == _ROUNDS:
        raise failures[-1]
    return ""


def _make(bucket: Bucket, key: str, start: threading.Barrier, number: int) -> bool | StoreError:
    """Put an object if there is none, at the same time as other writers.

    Returns:
        Whether the store accepted it, or the error if the store failed.
    """
    body = b"%d" % number
    start.wait()
    try:
        answer = bucket.call(
            lambda: bucket.client.put_object(
                Bucket=bucket.name, Key=key, Body=body, IfNoneMatch="*"
            ),
            # The object exists, or another writer is creating it.
            none_for=("412", "PreconditionFailed", "409", "ConditionalRequestConflict"),
            attempts=1,
        )
    except StoreError as error:
        if error.refused:
            raise
        return error
    return answer is not None


class _Probed:
    """The probes of one key of a bucket."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._client = bucket.client
        self._place: Any = {"Bucket": bucket.name, "Key": key}
        self._key = key

    def objects(self) -> Capability:
        with tempfile.TemporaryDirectory() as directory:
            for content in (_FIRST, _SECOND):
                path = Path(directory, "probe")
                path.write_bytes(content)
                self._bucket.put(path, self._key, hashlib.sha256(content).hexdigest(), {})
        works = self._read() == _SECOND
        return Capability(
            "objects",
            works=works,
            needed=True,
            meaning="one PUT replaces an object whole, and it is read back at once"
            if works
            else "what is read is not what was put last, so that the lake would lose windows here:"
            " use another store, or look whether AWS_ENDPOINT_URL names one",
        )

    def ranges(self) -> Capability:
        works = self._try(lambda: self._read(Range="bytes=4-8") == _SECOND[4:9])
        return Capability(
            "byte ranges",
            works=works,
            needed=True,
            meaning="readers fetch only the columns that they use"
            if works
            else "readers need them: the lake can be written here, but not read",
        )

    def parts(self) -> Capability:
        limit = f"{self._bucket.limits.part_bytes >> 20} MiB"

        def attempt() -> bool:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory, "probe")
                path.write_bytes(_FIRST)
                marker = Path(directory, "marker")
                put_parts(self._bucket, path, self._key, {}, marker)
            return self._read() == _FIRST

        works = self._try(attempt)
        return Capability(
            "uploads in parts",
            works=works,
            needed=False,
            meaning=f"objects of more than {limit} are uploaded in parts, and appear whole"
            if works
            else f"objects of more than {limit} can't be published here: keep windows small",
        )

    def uploads(self) -> Capability:
        def attempt() -> bool:
            upload_id = self._bucket.call(
                lambda: self._client.create_multipart_upload(**self._place), needs=("UploadId",)
            )["UploadId"]
            try:
                listed = self._listed(upload_id)
            finally:
                self._client.abort_multipart_upload(UploadId=upload_id, **self._place)
            return listed and not self._listed(upload_id)

        why = ""
        try:
            works = self._bucket.call(attempt, attempts=1)
        except StoreError as error:
            works, why = False, f", or {error}" if error.denied else ""
        return Capability(
            "list and abort of uploads",
            works=works,
            needed=False,
            meaning="what killed runs leave of their uploads is found and removed"
            if works
            else "uploads that killed runs leave can't be found: have the store itself expire"
            f" incomplete uploads (a lifecycle rule){why}",
        )

    def checksums(self) -> Capability:
        if not self._bucket.sends_checksums:
            refuses = states = False
        else:
            refuses = not self._try(
                lambda: self._client.put_object(
                    Body=_SECOND, ChecksumSHA256=_WRONG_CHECKSUM, **self._place
                )
            )
            self._try(
                lambda: self._client.put_object(
                    Body=_SECOND, ChecksumAlgorithm="SHA256", **self._place
                )
            )
            states = "ChecksumSHA256" in (self._bucket.head(self._key) or {})
        return Capability(
            "checksums",
            works=refuses and states,
            needed=False,
            meaning="the store verifies what it gets, and states its SHA-256 of what it has"
            if refuses and states
            else "the store has none of its own, or they are turned off: each object is read back"
            " whole to verify it",
        )

    def conditions(self) -> Capability:
        etag = (self._bucket.head(self._key) or {}).get("ETag", "")
        absent = self._refused(IfNoneMatch="*")
        match = self._refused(IfMatch=f'"{_WRONG_ETAG}"') and not self._refused(IfMatch=etag)
        bare = not match and (
            self._refused(IfMatch=_WRONG_ETAG) and not self._refused(IfMatch=etag.strip('"'))
        )
        fault = ""
        if absent:
            try:
                fault = race(self._bucket, f"{self._key}-")
            except StoreError as error:
                fault = str(error)
        known = {
            "If-None-Match": absent,
            "If-Match": match,
            "If-Match with the ETag without quotes": bare,
        }
        honoured = [name for name, works in known.items() if works]
        ignored = [name for name in ("If-None-Match", "If-Match") if not known[name]]
        text = [f"{' and '.join(honoured)} honoured"] if honoured else []
        text += [f"{' and '.join(ignored)} not"] if ignored else []
        return Capability(
            "conditional puts",
            works=absent and not fault,
            needed=False,
            meaning=", ".join(text)
            + (f", but not when several put at once: {fault}" if fault else "")
            + "; the lake rests on none"
            + ("" if absent and not fault else ", but a Delta table with several writers would"),
        )

    def _read(self, **kwargs: Any) -> bytes:
        return self._bucket.call(
            lambda: {"content": self._client.get_object(**self._place, **kwargs)["Body"].read()}
        )["content"]

    def _listed(self, upload_id: str) -> bool:
        return upload_id in {each.upload_id for each in list_uploads(self._bucket, self._key)}

    def _refused(self, **condition: Any) -> bool:
        return not self._try(
            lambda: self._client.put_object(Body=_SECOND, **condition, **self._place)
        )

    def _try(self, attempt: Callable[[], Any]) -> bool:
        """Whether a request succeeds; stores refuse in many ways."""
        try:
            return bool(self._bucket.call(attempt, attempts=1))
        except StoreError:
            return False


def _old_versions(bucket: Bucket, prefix: str) -> Capability:
    """Whether the bucket keeps removed and replaced objects, and whether these can be removed."""
    key = f"{prefix}probe-{uuid.uuid4().hex}"
    rule = (
        "give the bucket a lifecycle rule that expires noncurrent versions"
        f" (NoncurrentVersionExpiration) under the prefix {prefix}"
    )
    works, version = True, ""
    try:
        answer = bucket.call(
            lambda: bucket.client.put_object(Bucket=bucket.name, Key=key, Body=_FIRST)
        )
        if "VersionId" not in answer and not bucket.versioning(key):
            bucket.delete(key)
            meaning = "the bucket keeps none: what is removed or replaced is gone"
        else:
            for found in bucket.versions(key):
                version = found.version_id
                bucket.delete(found.key, version)
            meaning = (
                "the bucket keeps what is replaced, with card numbers in clear, until `txn expire`"
                f" removes all versions of old hours; to be rid of it sooner, {rule}"
            )
    except StoreError as error:
        works = False
        lock = bucket.lock_of(key, version) if version else ""
        meaning = (
            "the bucket keeps what is removed or replaced, with card numbers in clear, and not even"
            f" `txn expire` can remove it: {lock or error}; allow s3:ListBucketVersions and"
            f" s3:DeleteObjectVersion, or {rule}"
        )
        with suppress(StoreError):
            bucket.delete(key)
    return Capability("old versions", works=works, needed=False, meaning=meaning)


def _dead_uploads(bucket: Bucket, prefix: str) -> Capability:
    name = "incomplete uploads"
    try:
        found = list_uploads(bucket, prefix)
    except StoreError as error:
        meaning = str(error) if error.denied else "the store has no list of them"
        return Capability(name, works=False, needed=False, meaning=meaning)
    oldest = max((upload.age for upload in found), default=0.0)
    return Capability(
        name,
        works=not found,
        needed=False,
        meaning=f"{len(found)}, the oldest begun {oldest / 3600:,.1f} hours ago: of runs that are"
        " under way, or were killed; a run aborts what was killed on its machine, and whatever is"
        " older than a day"
        if found
        else "none",
    )
