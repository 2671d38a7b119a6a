"""Dagster's storage in Postgres: by the address that a user writes, and fast with many windows.

docs/decisions/0023-states-of-checks-in-bulk.md has the reasons and the figures.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, override

import dagster as dg
from dagster._core.asset_graph_view.serializable_entity_subset import SerializableEntitySubset
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionResolvedStatus,
    AssetCheckPartitionInfo,
)
from dagster._core.storage.asset_check_state import AssetCheckState
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config

if TYPE_CHECKING:
    from dagster._core.definitions.partitions.subset import PartitionsSubset
    from dagster._core.storage.config import PostgresStorageConfig
    from dagster._serdes import ConfigurableClassData
    from dagster_postgres.auth import PgTokenProvider

# SQLAlchemy takes `postgresql://` for psycopg 3. The dependency of dagster_postgres is psycopg2.
_DRIVER: Final = "postgresql+psycopg2://"
_RESOLVED: Final = {
    AssetCheckExecutionRecordStatus.SUCCEEDED: AssetCheckExecutionResolvedStatus.SUCCEEDED,
    AssetCheckExecutionRecordStatus.FAILED: AssetCheckExecutionResolvedStatus.FAILED,
}

type _Key = tuple[dg.AssetCheckKey, dg.PartitionsDefinition | None]


class EventLogStorage(PostgresEventLogStorage):
    """`PostgresEventLogStorage` that gives the states of partitioned checks in less time."""

    @override
    def get_asset_check_state(
        self, keys: Sequence[_Key]
    ) -> Mapping[dg.AssetCheckKey, AssetCheckState]:
        """The partitions of each check by status, as Dagster's own method gives them.

        That one merges sets of partitions for every partition of every check.
        """
        infos: dict[dg.AssetCheckKey, list[AssetCheckPartitionInfo]] = defaultdict(list)
        for info in self.get_asset_check_partition_info([key for key, _ in keys]):
            infos[info.check_key].append(info)
        planned = {
            info.latest_planned_run_id
            for each in infos.values()
            for info in each
            if info.latest_execution_status not in _RESOLVED
        }
        ended = {}
        if planned:
            wanted = dg.RunsFilter(run_ids=list(planned), statuses=FINISHED_STATUSES)
            ended = {run.run_id: run.status for run in self._instance.get_runs(wanted)}
        states = CheckStates()
        return {key: states.of(key, definition, infos[key], ended) for key, definition in keys}


class CheckStates:
    """The states of the checks of one question. Checks of one asset have the same partitions."""

    def __init__(self) -> None:
        self._made: dict[tuple[dg.PartitionsDefinition, frozenset[str]], PartitionsSubset[str]] = {}

    def of(
        self,
        key: dg.AssetCheckKey,
        definition: dg.PartitionsDefinition | None,
        infos: Sequence[AssetCheckPartitionInfo],
        ended: Mapping[str, dg.DagsterRunStatus],
    ) -> AssetCheckState:
        """The state of a check.

        Args:
            key: of the check.
            definition: its partitions.
            infos: on its partitions.
            ended: by id, the statuses of the runs that evaluate it and have ended.
        """
        current: dict[AssetCheckExecutionResolvedStatus, set[str]] = defaultdict(set)
        others: list[AssetCheckPartitionInfo] = []
        for info in infos:
            status = _RESOLVED.get(info.latest_execution_status)
            if definition is None or info.partition_key is None or status is None:
                others.append(info)
            elif info.is_current:
                current[status].add(info.partition_key)
        seen = [
            max(info.latest_check_event_storage_id, info.latest_materialization_storage_id or 0)
            for info in infos
        ]
        state = AssetCheckState(
            latest_storage_id=0,
            subsets={
                status: SerializableEntitySubset(key, self._subset(definition, partitions))
                for status, partitions in current.items()
                if definition is not None
            },
            in_progress_runs={},
        ).with_updates(key, definition, others, ended)
        return AssetCheckState(
            latest_storage_id=max(seen, default=0),
            subsets=state.subsets,
            in_progress_runs=state.in_progress_runs,
        )

    def _subset(
        self, definition: dg.PartitionsDefinition, partitions: set[str]
    ) -> "PartitionsSubset[str]":
        given = (definition, frozenset(partitions))
        if given not in self._made:
            known = [each for each in sorted(partitions) if definition.has_partition_key(each)]
            self._made[given] = definition.subset_with_partition_keys(known)
        return self._made[given]


class PostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` that takes `postgresql://user:password@host:port/name`."""

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: "ConfigurableClassData | None" = None,
        token_provider: "PgTokenProvider | None" = None,
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data, token_provider)
        # The tables are there by now.
        self._events = EventLogStorage(
            postgres_url, should_autocreate_tables=False, token_provider=token_provider
        )

    @override
    @classmethod
    def from_config_value(
        cls, inst_data: "ConfigurableClassData | None", config_value: "PostgresStorageConfig"
    ) -> DagsterPostgresStorage:
        """The storage of a `dagster.yaml`."""
        return cls(
            f"{_DRIVER}{pg_url_from_config(config_value).partition('://')[2]}",
            config_value.get("should_autocreate_tables", True),
            inst_data,
            get_token_provider_from_config(config_value),
        )

    @property
    @override
    def event_log_storage(self) -> EventLogStorage:
        return self._events
