"""Dagster's storage in Postgres, by the address that a user writes."""

from typing import TYPE_CHECKING, Final, override

from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config

if TYPE_CHECKING:
    from dagster._core.storage.config import PostgresStorageConfig
    from dagster._serdes import ConfigurableClassData

# SQLAlchemy takes `postgresql://` for psycopg 3. The dependency of dagster_postgres is psycopg2.
_DRIVER: Final = "postgresql+psycopg2://"


class PostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` that takes `postgresql://user:password@host:port/name`."""

    @override
    @classmethod
    def from_config_value(
        cls, inst_data: "ConfigurableClassData | None", config_value: "PostgresStorageConfig"
    ) -> DagsterPostgresStorage:
        """The storage of a `dagster.yaml`."""
        driven = f"{_DRIVER}{pg_url_from_config(config_value).partition('://')[2]}"
        return super().from_config_value(inst_data, {**config_value, "postgres_url": driven})
