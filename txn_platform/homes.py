"""The directories of local state, `TXN_HOME` and `DAGSTER_HOME`: checks, creation, locks.

Their users make the files in them.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from txn_platform.addresses import require_dagster_home
from txn_platform.errors import UserError
from txn_platform.private_files import make_private_directory
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from txn_platform.settings import Settings


def writable_home(settings: Settings) -> Path:
    """`TXN_HOME` as an absolute path, for its owner alone, created if necessary.

    Raises:
        UserError: it cannot be made or written.
    """
    home = settings.home.absolute()
    try:
        make_private_directory(home)
        with TemporaryFile(dir=home):
            return home
    except OSError as error:
        raise UserError(
            f"{home} cannot be used for state ({error.strerror}): set TXN_HOME to a directory that"
            " can be written",
            Section.DISK,
        ) from None


def dagster_home(settings: Settings) -> Path | None:
    """`DAGSTER_HOME`, or None if it is unset. It is not created: Dagster refuses a missing one.

    Raises:
        UserError: it is not there, or Dagster can't keep its databases there.
    """
    home = settings.dagster_home
    if home is None:
        return None
    try:
        require_dagster_home(home)
    except ValueError as error:
        raise UserError(f"DAGSTER_HOME {error}") from None
    if not home.is_dir():
        raise UserError(
            f"DAGSTER_HOME names {home}, which does not exist: make the directory, or unset the"
            " variable"
        )
    return home


def instance_home(settings: Settings) -> Path | None:
    """Where runs are recorded: `DAGSTER_HOME`, or else the local stack's, if its lake is used.

    The windows of another lake would look as if they were in that of the stack.

    Raises:
        UserError: see `dagster_home`.
    """
    home = settings.home.absolute()
    of_stack = settings.of_local_stack or (
        # A stack without an S3 has this directory, also while it does not run.
        settings.bucket is None
        and settings.directory == home / "lake"
        and not (home / "seaweedfs").exists()
    )
    there = of_stack and (home / "dagster" / "dagster.yaml").is_file()
    return dagster_home(settings) or (home / "dagster" if there else None)


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Lock a directory for the block. Other processes that lock it wait.

    The lock is on the directory itself, so that it leaves no file, and ends with the process.
    File systems without such locks are used without.

    Raises:
        UserError: the directory cannot be opened.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"{directory} cannot be opened: {error.strerror}") from None
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
