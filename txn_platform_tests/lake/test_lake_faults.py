"""Store faults: the key has the new object or the old one, and one message says why.

The cases are in `store_fault_cases.py`; the store's faults are a proxy's, the stores are real.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from txn_platform.backoff import Backoff
from txn_platform.doctor import examine
from txn_platform.errors import UserError
from txn_platform.lake import probe
from txn_platform.lake.base import StoredObject, explained_reads
from txn_platform.lake.bucket import StoreLimits
from txn_platform.lake.parquet import Encoding
from txn_platform.lake.s3 import S3Lake, open_s3_lake
from txn_platform.settings import Settings, load_settings
from txn_platform_tests.lake.test_lake import _KEY, _SCHEMA, _rows
from txn_platform_tests.support import forked
from txn_platform_tests.support import store_fault_cases as expected
from txn_platform_tests.support.faulty_store import Fault, FaultyStore, Operation
from txn_platform_tests.support.store_fault_cases import CASES, StoreCase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _pytest.mark.structures import ParameterSet
    from mypy_boto3_s3 import S3Client

    from txn_platform.lake.staging import Staged
    from txn_platform_tests.conftest import S3Endpoint

_PART_BYTES = 5 << 20
_ENCODING = Encoding(compression="lz4", plain=("number",))
# Many attempts for faults that pass, even on a busy machine; few for faults that stay.
_PATIENT = StoreLimits(Backoff(5, 0.01, 0.02), read_timeout=20, part_bytes=_PART_BYTES)
_BRIEF = replace(_PATIENT, backoff=Backoff(2, 0.01, 0.02))


@cache
def _new_rows(*, in_parts: bool) -> pl.DataFrame:
    """Rows of a small file, or of one that takes two parts."""
    numbers = np.random.default_rng(1).integers(0, 1 << 62, 700_000 if in_parts else 10)
    return pl.DataFrame({"number": numbers, "text": "new"})


@dataclass
class Place:
    """A lake behind a faulty store, with an old object in it."""

    endpoint: S3Endpoint
    settings: Settings
    store: FaultyStore
    old: str
    client: S3Client

    def lake(self, limits: StoreLimits = _PATIENT) -> S3Lake:
        return open_s3_lake(
            self.settings.model_copy(update={"endpoint_url": self.store.url}), limits
        )

    def direct(self) -> S3Lake:
        return open_s3_lake(self.settings, _PATIENT)

    @property
    def key(self) -> str:
        return f"{self.settings.lake_prefix}/{_KEY}"

    def digest(self) -> str:
        """The digest of the object in the store."""
        answer = self.client.get_object(Bucket=self.endpoint.bucket, Key=self.key)
        return hashlib.sha256(answer["Body"].read()).hexdigest()

    def uploads(self) -> list[str]:
        """The incomplete uploads of this lake."""
        listing = self.client.list_multipart_uploads(Bucket=self.endpoint.bucket)
        prefix = f"{self.settings.lake_prefix}/"
        return [
            upload["UploadId"]
            for upload in listing.get("Uploads", [])
            if upload["Key"].startswith(prefix)
        ]


@pytest.fixture
def place(
    s3_endpoint: S3Endpoint,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    client = s3_endpoint.client()
    with FaultyStore(s3_endpoint.url) as store:
        place = Place(s3_endpoint, settings, store, hashlib.sha256(_old()).hexdigest(), client)
        client.put_object(
            Bucket=s3_endpoint.bucket,
            Key=place.key,
            Body=_old(),
            # As an earlier run left it.
            Metadata={"sha256": place.old, "put": uuid.uuid4().hex},
        )
        yield place


@cache
def _old() -> bytes:
    """A small Parquet file with the rows of the tests."""
    content = io.BytesIO()
    pq.write_table(_rows(3, "old").select("number", "text").to_arrow().cast(_SCHEMA), content)
    return content.getvalue()


def _publish(
    lake: S3Lake,
    *,
    in_parts: bool,
    once_staged: Callable[[], object] = lambda: None,
) -> tuple[Staged, StoredObject | UserError]:
    """Stage and publish the new rows; returns the result or the error."""
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_new_rows(in_parts=in_parts))
        staged = writer.finish()
        assert (staged.size > _PART_BYTES) == in_parts
        once_staged()
        try:
            return staged, lake.publish(staged, _KEY)
        except UserError as error:
            return staged, error


def _limits_of(case: StoreCase) -> StoreLimits:
    limits = _PATIENT if case.times else _BRIEF
    if case.fault is Fault.STALL:
        # Each case waits so long at least twice. Another answer that is late is asked for again.
        return replace(limits, read_timeout=1)
    return limits


def _is_one_message(error: object) -> bool:
    return isinstance(error, UserError) and "\n" not in str(error) and "secret" not in str(error)


def _with_stores() -> Iterator[ParameterSet]:
    """Each case with each store; by default with both only if the fault reaches the store."""
    for case in CASES:
        chosen = "seaweedfs" if case.times else "moto"
        for kind in ("seaweedfs", "moto"):
            always = case.fault is Fault.CUT or kind == chosen
            marks = () if always else (pytest.mark.long,)
            yield pytest.param(kind, case, id=f"{kind}-{case.id}", marks=marks)


@pytest.mark.parametrize(("s3_endpoint", "case"), list(_with_stores()), indirect=["s3_endpoint"])
def test_a_fault_of_the_store_changes_nothing_or_does_not_matter(
    place: Place, case: StoreCase
) -> None:
    if case.operation is Operation.GET:
        _read_through_fault(place, case)
        return
    limits = _limits_of(case)
    staged, result = _publish(
        place.lake(limits),
        in_parts=case.in_parts,
        once_staged=lambda: place.store.fail(case.operation, case.fault, case.times),
    )
    if case.expected in {expected.NEW, expected.NEW_THOUGH_UNANSWERED}:
        assert result == StoredObject(f"s3://{place.endpoint.bucket}/{place.key}", staged.size)
        assert place.digest() == staged.sha256
    else:
        assert _is_one_message(result), result
        assert place.digest() == place.old
        tries = 1 if case.expected == expected.AT_ONCE else limits.backoff.attempts
        # Parts are sent in parallel, and end together.
        assert tries <= place.store.seen[case.operation] <= tries * limits.threads
        assert ("tried" in str(result)) == (case.expected != expected.AT_ONCE)
    assert place.uploads() == []
    assert [path for path in Path(".txn").rglob("*") if path.is_file()] == []


def _read_through_fault(place: Place, case: StoreCase) -> None:
    _publish(place.direct(), in_parts=case.in_parts)
    rows = _new_rows(in_parts=case.in_parts)
    lake = place.lake(_limits_of(case))

    def with_arrow() -> pl.DataFrame:
        with lake.open(_KEY) as file:
            return pl.DataFrame(file.read())

    def with_polars() -> pl.DataFrame:
        with explained_reads(_KEY):
            return lake.scan([_KEY]).collect()

    for read in (with_arrow, with_polars):
        place.store.fail(case.operation, case.fault, case.times)
        if case.times:
            assert read().equals(rows)
        else:
            with pytest.raises(UserError, match="could not be read: ") as raised:
                read()
            assert _is_one_message(raised.value)


@pytest.mark.parametrize("answer", [None, Fault.CUT, Fault.BROKEN])
def test_what_cannot_be_looked_at_is_said_to_be_unknown(place: Place, answer: Fault | None) -> None:
    if answer:
        place.store.fail(Operation.PUT, answer)
    staged, result = _publish(
        place.lake(_BRIEF),
        in_parts=False,
        once_staged=lambda: place.store.fail(Operation.HEAD, Fault.BROKEN, after=1),
    )
    assert _is_one_message(result)
    assert "Whether the object was replaced is not known" in str(result)
    assert place.digest() == (place.old if answer is Fault.BROKEN else staged.sha256)


@pytest.mark.parametrize("in_parts", [False, True])
def test_of_two_runs_the_last_to_commit_wins_whole(place: Place, *, in_parts: bool) -> None:
    """The other run publishes after this one's commit, before this one looks; then before it."""
    last = Operation.COMPLETE if in_parts else Operation.PUT
    with place.direct().stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_rows(7, "other"))
        other = writer.finish()

        place.store.after[last] = lambda: place.direct().publish(other, _KEY)
        _, result = _publish(place.lake(), in_parts=in_parts)
        assert result == StoredObject(
            f"s3://{place.endpoint.bucket}/{place.key}", other.size, superseded=True
        )
        assert place.digest() == other.sha256

        place.store.before[last] = lambda: place.direct().publish(other, _KEY)
        staged, result = _publish(place.lake(), in_parts=in_parts)
        assert isinstance(result, StoredObject)
        assert not result.superseded
        assert place.digest() == staged.sha256


def test_an_object_that_is_replaced_while_it_is_opened_is_opened_again(place: Place) -> None:
    """The size of one version and the footer of the other would make no file."""
    with place.direct().stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_rows(5_000, "other"))
        other = writer.finish()
        place.store.after[Operation.HEAD] = lambda: place.direct().publish(other, _KEY)
        with place.lake().open(_KEY) as file:
            assert set(file.read()["text"].to_pylist()) == {"other"}
            assert file.metadata.num_rows == 5_000


def test_an_object_that_is_no_file_is_said_to_be_none(place: Place) -> None:
    place.client.put_object(Bucket=place.endpoint.bucket, Key=place.key, Body=b"no Parquet" * 9)
    with pytest.raises(UserError, match=r"is no whole Parquet file \(.*\): materialize it again"):
        place.lake().open(_KEY)


def test_a_store_that_loses_what_it_accepted_is_found_out(place: Place) -> None:
    place.store.fail(Operation.PUT, Fault.LOST)
    _, result = _publish(place.lake(), in_parts=False)
    assert _is_one_message(result)
    assert "the store loses data" in str(result)
    assert place.digest() == place.old


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_store_that_damages_what_it_accepted_is_found_out(
    place: Place, *, in_parts: bool
) -> None:
    """The stored object has this put's id and size, but other bytes."""

    def damage() -> None:
        client = place.client
        there: dict[str, str] = {"Bucket": place.endpoint.bucket, "Key": place.key}
        answer = client.get_object(**there)
        content = answer["Body"].read()
        client.put_object(Body=content[:-1] + b"?", Metadata=answer["Metadata"], **there)

    place.store.after[Operation.COMPLETE if in_parts else Operation.PUT] = damage
    _, result = _publish(place.lake(), in_parts=in_parts)
    assert _is_one_message(result)
    assert "holds other bytes than were sent" in str(result)


def test_an_upload_that_others_abort_is_begun_again(place: Place) -> None:
    def abort() -> None:
        for upload_id in place.uploads():
            place.client.abort_multipart_upload(
                Bucket=place.endpoint.bucket, Key=place.key, UploadId=upload_id
            )

    place.store.before[Operation.COMPLETE] = abort
    # As S3 has it; moto answers 500.
    place.store.fail(Operation.COMPLETE, Fault.ABORTED, 1)
    staged, result = _publish(place.lake(), in_parts=True)
    assert isinstance(result, StoredObject)
    assert place.digest() == staged.sha256
    assert place.store.seen[Operation.CREATE] == 2
    assert place.uploads() == []


def _publish_in_parts() -> None:
    """Publish as a run does, in a separate process."""
    lake = open_s3_lake(load_settings(), StoreLimits(part_bytes=_PART_BYTES, read_timeout=1))
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_new_rows(in_parts=True))
        lake.publish(writer.finish(), _KEY)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, Operation.PART),
        (signal.SIGKILL, Operation.PART),
        # The store has begun the upload, and the process does not know its name.
        (signal.SIGKILL, Operation.CREATE),
    ],
)
def test_an_upload_of_a_run_that_was_ended_is_aborted_by_it_or_the_next(
    place: Place, number: signal.Signals, moment: Operation
) -> None:
    reached, released = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        released.wait(60)

    place.store.after[moment] = hold
    printed = Path("printed")
    process = forked.start(
        _publish_in_parts,
        environment={**os.environ, "AWS_ENDPOINT_URL": place.store.url},
        directory=Path.cwd(),
        stdout=printed,
        stderr=printed,
    )
    try:
        assert reached.wait(60)
        assert process.pid
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode
        released.set()
    finally:
        process.kill()
    errors = printed.read_text()
    assert place.digest() == place.old
    if number is signal.SIGINT:
        assert "KeyboardInterrupt" in errors
    else:
        assert len(place.uploads()) == 1
        with place.direct().stage(_SCHEMA, _ENCODING):
            pass
    assert place.uploads() == []
    assert [path for path in Path(".txn").rglob("*") if path.is_file()] == []


def test_uploads_of_other_machines_are_aborted_when_they_are_old(
    place: Place, request: pytest.FixtureRequest
) -> None:
    """moto states 2010 as the start of every upload; SeaweedFS states the true time."""
    client, bucket = place.client, place.endpoint.bucket
    prefix = place.settings.lake_prefix
    ours, foreign, beside = (
        client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        for key in (place.key, f"{prefix}/notes.txt", f"{prefix}-2/{_KEY}")
    )
    with place.direct().stage(_SCHEMA, _ENCODING):
        pass
    old = "moto" in request.node.callspec.id
    assert set(place.uploads()) == ({foreign} if old else {ours, foreign})
    client.abort_multipart_upload(Bucket=bucket, Key=f"{prefix}-2/{_KEY}", UploadId=beside)
    for key, upload_id in ((place.key, ours), (f"{prefix}/notes.txt", foreign)):
        if upload_id in place.uploads():
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_store_without_checksums_can_be_used_and_is_read_back(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, in_parts: bool
) -> None:
    place.store.refuses_checksums = True
    _, result = _publish(place.lake(), in_parts=in_parts)
    assert _is_one_message(result)
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=WHEN_REQUIRED" in str(result)
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "WHEN_REQUIRED")
    place.settings = load_settings()
    staged, result = _publish(place.lake(), in_parts=in_parts)
    assert isinstance(result, StoredObject)
    assert place.digest() == staged.sha256
    assert place.store.seen[Operation.GET] == 1


def test_a_clock_that_is_wrong_is_said_to_be_so(place: Place) -> None:
    place.store.fail(Operation.LIST, Fault.SKEWED)
    with pytest.raises(UserError, match=r"clock is [\d,]+ s ahead of the store's"):
        place.lake().stage(_SCHEMA, _ENCODING)


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(place: Place) -> None:
    with place.lake().open(_KEY) as file:
        _publish(place.direct(), in_parts=False)
        with pytest.raises(UserError, match="was replaced by another run while it was read"):
            file.read()


def test_what_a_run_has_put_there_is_not_asked_for_again(place: Place, tmp_path: Path) -> None:
    lake = place.lake()
    staged, _ = _publish(lake, in_parts=True)
    with lake.open(_KEY) as file:
        assert pl.DataFrame(file.read()).equals(_new_rows(in_parts=True))
    copied = tmp_path / "copied"
    lake.copy(_KEY, copied)
    assert hashlib.sha256(copied.read_bytes()).hexdigest() == staged.sha256 == place.digest()
    assert place.store.seen[Operation.GET] == 0
    assert [path for path in Path(".txn").rglob("*") if path.is_file()] == []


def test_what_another_has_put_there_since_is_read_instead(place: Place, tmp_path: Path) -> None:
    lake = place.lake()
    _publish(lake, in_parts=True)
    with place.direct().stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_rows(7, "other"))
        other = writer.finish()
        place.direct().publish(other, _KEY)
    with lake.open(_KEY) as file:
        assert set(file.read()["text"].to_pylist()) == {"other"}
    copied = tmp_path / "copied"
    lake.copy(_KEY, copied)
    assert hashlib.sha256(copied.read_bytes()).hexdigest() == other.sha256
    place.direct().erase(_KEY, [""])
    for read in (lake.open, partial(lake.copy, path=copied)):
        with pytest.raises(UserError, match="does not exist"):
            read(_KEY)


def test_a_bucket_can_be_in_the_host(
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With moto, which does not look at signatures; a signature has the host in it."""
    endpoint = s3_servers("moto")
    look_up = socket.getaddrinfo
    # As every browser and curl have it; this system may not.
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: look_up("127.0.0.1", *rest, **more)
    )
    for name, value in {
        "AWS_BUCKET_NAME": endpoint.bucket,
        "AWS_ACCESS_KEY_ID": endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
        "TXN_LAKE_PREFIX": s3_prefix,
        "TXN_S3_ADDRESSING": "virtual",
    }.items():
        monkeypatch.setenv(name, value)
    with FaultyStore(endpoint.url) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url.replace("127.0.0.1", "localhost"))
        lake = open_s3_lake(load_settings(), _PATIENT)
        staged, result = _publish(lake, in_parts=False)
        assert isinstance(result, StoredObject)
        with open_s3_lake(load_settings(), _PATIENT).open(_KEY) as file:
            assert file.metadata.num_rows == staged.rows
        host = store.url.replace("http://127.0.0.1", f"{endpoint.bucket}.localhost")
        assert store.hosts == {host}


_FILL_THE_DISK = """
import resource, sys
from txn_platform.doctor import examine
from txn_platform.errors import UserError
from txn_platform.lake.opening import open_lake
from txn_platform.settings import load_settings
from txn_platform_tests.lake.test_lake_faults import _ENCODING, _KEY, _SCHEMA, _new_rows

limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
lake = open_lake(load_settings())
try:
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_new_rows(in_parts=True))
        lake.publish(writer.finish(), _KEY)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["file size", "disk"])
def test_a_full_disk_is_said_to_be_full_and_nothing_stays(kind: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", _FILL_THE_DISK, "1000000" if kind == "file size" else "0"]
    if kind == "disk":
        # A small one of its own, which only this process and its children see.
        mount = f"mount -t tmpfs -o size=1m tmpfs '{home}'"
        own = ["unshare", "-Urm", "sh", "-c"]
        if subprocess.run([*own, mount], check=False, capture_output=True).returncode:
            pytest.skip("no disk of its own can be mounted here")
        look = f"find '{home}' -type f"
        command = [*own, f'{mount} && "$@" && {look}', "sh", *command]
    done = subprocess.run(
        command,
        check=True,
        env={**os.environ, "TXN_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    (line,) = done.stdout.splitlines()
    assert "can't take more" in line
    assert "set TXN_HOME to a directory on a disk that has some" in line
    assert done.stderr == ""
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_doctor_says_what_a_store_cannot_do_and_what_that_means(
    place: Place, monkeypatch: pytest.MonkeyPatch, generator_url: str
) -> None:
    monkeypatch.setenv("GENERATOR_URL", generator_url)
    monkeypatch.setenv("TXN_CARD_KEY", "a key of sixteen bytes and more")
    # A round takes SeaweedFS a second.
    monkeypatch.setattr(probe, "_ROUNDS", 1)
    upload = place.client.create_multipart_upload(Bucket=place.endpoint.bucket, Key=place.key)

    def notes() -> dict[str, str]:
        found = [finding for finding in examine() if finding.subject == "store"]
        assert len(found) == 11
        assert all(finding.good for finding in found)
        return {
            name: meaning
            for finding in found
            if finding.note
            for name, _, meaning in [finding.message.partition(": ")]
        }

    # moto verifies no checksum of one PUT, and says so by not stating any.
    able = {"incomplete uploads", "encryption of the raw zone"} | (
        {"checksums"} if "moto" in place.endpoint.access_key else set()
    )
    assert set(notes()) == able
    assert notes()["incomplete uploads"].startswith("1, the oldest begun ")

    monkeypatch.setenv("AWS_ENDPOINT_URL", place.store.url)
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    place.store.refuses_checksums = True
    place.store.fail(Operation.UPLOADS, Fault.UNKNOWN)
    place.store.fail(Operation.CREATE, Fault.UNKNOWN)
    found = notes()
    assert set(found) == {
        "uploads in parts",
        "list and abort of uploads",
        "checksums",
        "incomplete uploads",
        "encryption of the raw zone",
    }
    assert "have the store itself expire incomplete uploads" in found["list and abort of uploads"]
    assert "read back whole" in found["checksums"]
    place.client.abort_multipart_upload(
        Bucket=place.endpoint.bucket, Key=place.key, UploadId=upload["UploadId"]
    )
    listing = place.client.list_objects_v2(
        Bucket=place.endpoint.bucket, Prefix=f"{place.settings.lake_prefix}/"
    )
    assert [entry["Key"] for entry in listing["Contents"]] == [place.key]
    assert place.uploads() == []
