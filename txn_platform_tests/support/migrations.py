"""Dagster's migrations, read once for a process and for those that are forked from it.

Dagster reads some ninety files for each SQLite database that it makes, to mark it with the newest
migration. Each run has a database, and the reading takes longer than a small run.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from unittest import mock

from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.sql import ALEMBIC_SCRIPTS_LOCATION

if TYPE_CHECKING:
    from collections.abc import Iterator


def _read() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", ALEMBIC_SCRIPTS_LOCATION)
    scripts = ScriptDirectory.from_config(config)
    # Reads the files; the result stays in the object.
    assert scripts.get_heads()
    return scripts


_SCRIPTS: Final = _read()


@contextmanager
def read_once() -> Iterator[None]:
    """Let Dagster use what was read when this module was imported."""
    from_config = ScriptDirectory.from_config

    def known(config: Config) -> ScriptDirectory:
        of_dagster = config.get_main_option("script_location") == ALEMBIC_SCRIPTS_LOCATION
        return _SCRIPTS if of_dagster else from_config(config)

    with mock.patch.object(ScriptDirectory, "from_config", known):
        yield
