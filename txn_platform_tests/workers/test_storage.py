"""The states of partitioned checks are those of Dagster's own method."""

import dagster as dg
import hypothesis.strategies as st
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
    AssetCheckPartitionInfo,
)
from dagster._core.storage.asset_check_state import AssetCheckState
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from hypothesis import given

from txn_platform.workers.storage import CheckStates

_KEY = dg.AssetCheckKey(dg.AssetKey("published"), "is_right")
_HOURS = dg.HourlyPartitionsDefinition(
    "2026-11-01-00:00", "2026-11-03-00:00", timezone="UTC", fmt="%Y-%m-%d-%H:%M"
)
_NAMES = dg.StaticPartitionsDefinition(["a", "b", "c"])
# The first is before the definition, and others are no partitions at all.
_HOUR_KEYS = st.one_of(
    st.sampled_from(["2026-10-31-23:00", "2026-11-03-00:00", "2026-11-01-00:30", "a", "z"]),
    st.builds("2026-11-{:02}-{:02}:00".format, st.integers(1, 2), st.integers(0, 23)),
)
_RUNS = ["run-1", "run-2", "run-3"]


@st.composite
def _infos(draw: st.DrawFn, keys: st.SearchStrategy[str | None]) -> list[AssetCheckPartitionInfo]:
    """The records of a check in Dagster's storage: one for each partition."""
    partitions = draw(st.lists(keys, unique=True, max_size=40))
    return [
        AssetCheckPartitionInfo(
            check_key=_KEY,
            partition_key=partition,
            latest_execution_status=draw(st.sampled_from(AssetCheckExecutionRecordStatus)),
            latest_planned_run_id=draw(st.sampled_from(_RUNS)),
            latest_check_event_storage_id=draw(st.integers(1, 99)),
            latest_materialization_storage_id=draw(st.sampled_from([None, 5, 7])),
            latest_target_materialization_storage_id=draw(st.sampled_from([None, 5, 7])),
        )
        for partition in partitions
    ]


_ENDED = st.dictionaries(st.sampled_from(_RUNS), st.sampled_from(FINISHED_STATUSES))


@given(_infos(_HOUR_KEYS), _infos(_HOUR_KEYS), _ENDED)
def test_of_hours(
    first: list[AssetCheckPartitionInfo],
    second: list[AssetCheckPartitionInfo],
    ended: dict[str, dg.DagsterRunStatus],
) -> None:
    states = CheckStates()
    for infos in (first, second, first):
        _compare(states, _HOURS, infos, ended)


@given(_infos(st.sampled_from([None, "a", "b", "c", "z"])), _ENDED)
def test_of_other_partitions(
    infos: list[AssetCheckPartitionInfo], ended: dict[str, dg.DagsterRunStatus]
) -> None:
    _compare(CheckStates(), _NAMES, infos, ended)


@given(_infos(st.none()), _ENDED)
def test_of_a_check_without_partitions(
    infos: list[AssetCheckPartitionInfo], ended: dict[str, dg.DagsterRunStatus]
) -> None:
    _compare(CheckStates(), None, infos, ended)


def _compare(
    states: CheckStates,
    definition: dg.PartitionsDefinition | None,
    infos: list[AssetCheckPartitionInfo],
    ended: dict[str, dg.DagsterRunStatus],
) -> None:
    right = AssetCheckState.empty().with_updates(_KEY, definition, infos, ended)
    assert states.of(_KEY, definition, infos, ended) == right
