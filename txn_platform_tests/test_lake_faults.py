"""A store that fails: what is published is the new object or the old one, and one message says why.

The cases are in `store_fault_cases.py`; the store's faults are a proxy's, the stores are real.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from txn_platform.errors import UserError
from txn_platform.lake import Staged, StoredObject, explained_reads
from txn_platform.s3 import Effort
from txn_platform.s3_lake import S3Lake, open_s3_lake
from txn_platform.settings import Settings, load_settings
from txn_platform_tests import store_fault_cases as expected
from txn_platform_tests.conftest import S3Endpoint
from txn_platform_tests.faulty_store import Fault, FaultyStore, Operation
from txn_platform_tests.store_fault_cases import CASES, StoreCase
from txn_platform_tests.test_lake import _ENCODING, _KEY, _SCHEMA, _rows

_PART_BYTES = 5 << 20
# The more attempts, the likelier is recovery on a machine that is busy; to fail takes all of them.
_PATIENT = Effort(
    attempts=5, base_delay=0.01, max_delay=0.02, read_timeout=20, part_bytes=_PART_BYTES
)
_BRIEF = Effort(
    attempts=2, base_delay=0.01, max_delay=0.02, read_timeout=20, part_bytes=_PART_BYTES
)


@cache
def _new_rows(*, in_parts: bool) -> pl.DataFrame:
    """Rows of a small file, or of one that takes two parts."""
    numbers = np.random.default_rng(1).integers(0, 1 << 62, 420_000 if in_parts else 10)
    return pl.DataFrame({"number": numbers, "text": "new"})


@dataclass
class Place:
    """A lake behind a faulty store, with an old object in it."""

    endpoint: S3Endpoint
    settings: Settings
    store: FaultyStore
    old: str

    def lake(self, effort: Effort = _PATIENT) -> S3Lake:
        return open_s3_lake(
            self.settings.model_copy(update={"endpoint_url": self.store.url}), effort
        )

    def direct(self) -> S3Lake:
        return open_s3_lake(self.settings, _PATIENT)

    @property
    def key(self) -> str:
        return f"{self.settings.lake_prefix}/{_KEY}"

    def digest(self) -> str:
        """Of the object that is there."""
        answer = self.endpoint.client().get_object(Bucket=self.endpoint.bucket, Key=self.key)
        return hashlib.sha256(answer["Body"].read()).hexdigest()

    def uploads(self) -> list[str]:
        """The incomplete uploads of this lake."""
        listing = self.endpoint.client().list_multipart_uploads(Bucket=self.endpoint.bucket)
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
    lake = open_s3_lake(settings)
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_rows(3, "old"))
        staged = writer.finish()
        lake.publish(staged, _KEY)
    with FaultyStore(s3_endpoint.url) as store:
        yield Place(s3_endpoint, settings, store, staged.sha256)


def _publish(
    lake: S3Lake,
    *,
    in_parts: bool,
    once_staged: Callable[[], object] = lambda: None,
) -> tuple[Staged, StoredObject | UserError]:
    """Stage and publish the new rows; what came of it."""
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(_new_rows(in_parts=in_parts))
        staged = writer.finish()
        assert (staged.size > _PART_BYTES) == in_parts
        once_staged()
        try:
            return staged, lake.publish(staged, _KEY)
        except UserError as error:
            return staged, error


def _effort_of(case: StoreCase) -> Effort:
    effort = _PATIENT if case.times else _BRIEF
    if case.fault is Fault.STALL:
        return Effort(**{**vars(effort), "read_timeout": 1})
    return effort


def _is_one_message(error: object) -> bool:
    return isinstance(error, UserError) and "\n" not in str(error) and "secret" not in str(error)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_fault_of_the_store_changes_nothing_or_does_not_matter(
    place: Place, case: StoreCase
) -> None:
    if case.operation is Operation.GET:
        _read_through_fault(place, case)
        return
    effort = _effort_of(case)
    staged, result = _publish(
        place.lake(effort),
        in_parts=case.in_parts,
        once_staged=lambda: place.store.fail(case.operation, case.fault, case.times),
    )
    if case.expected in {expected.NEW, expected.NEW_THOUGH_UNANSWERED}:
        assert result == StoredObject(f"s3://{place.endpoint.bucket}/{place.key}", staged.size)
        assert place.digest() == staged.sha256
    else:
        assert _is_one_message(result), result
        assert place.digest() == place.old
        tries = 1 if case.expected == expected.AT_ONCE else effort.attempts
        # Parts go side by side, and end together.
        assert tries <= place.store.seen[case.operation] <= tries * effort.threads
        assert ("tried" in str(result)) == (case.expected != expected.AT_ONCE)
    assert place.uploads() == []
    assert [path for path in Path(".txn").rglob("*") if path.is_file()] == []


def _read_through_fault(place: Place, case: StoreCase) -> None:
    _publish(place.direct(), in_parts=case.in_parts)
    rows = _new_rows(in_parts=case.in_parts)
    lake = place.lake(_effort_of(case))

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
