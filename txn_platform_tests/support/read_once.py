"""Files of libraries, read once for a process and for those that are forked from it.

Dagster reads some ninety migrations for each SQLite database that it makes, to mark it with the
newest. Each run has a database, and the reading takes longer than a small run. boto3 reads the
description of S3 for each session, and each lake has a session.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from unittest import mock

import boto3
import botocore.session
from alembic.config import Config
from alembic.script import ScriptDirectory
from botocore.loaders import Loader, create_loader
from dagster._core.storage.sql import ALEMBIC_SCRIPTS_LOCATION

if TYPE_CHECKING:
    from collections.abc import Iterator


def _read_migrations() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", ALEMBIC_SCRIPTS_LOCATION)
    scripts = ScriptDirectory.from_config(config)
    # Reads the files; the result stays in the object.
    assert scripts.get_heads()
    return scripts


def _read_descriptions() -> Loader:
    # Without a profile of the machine, which may be absent.
    session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
    boto3.Session(botocore_session=session).client("s3", region_name="us-east-1", **keys)
    return session.get_component("data_loader")


_MIGRATIONS: Final = _read_migrations()
_DESCRIPTIONS: Final = _read_descriptions()


@contextmanager
def read_once() -> Iterator[None]:
    """Let Dagster and boto3 use what was read when this module was imported."""
    from_config = ScriptDirectory.from_config

    def migrations(config: Config) -> ScriptDirectory:
        of_dagster = config.get_main_option("script_location") == ALEMBIC_SCRIPTS_LOCATION
        return _MIGRATIONS if of_dagster else from_config(config)

    def descriptions(paths: str | None = None) -> Loader:
        return create_loader(paths) if paths else _DESCRIPTIONS

    with (
        mock.patch.object(ScriptDirectory, "from_config", migrations),
        mock.patch.object(botocore.session, "create_loader", descriptions),
    ):
        yield
