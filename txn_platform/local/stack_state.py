"""The state of the local servers under `TXN_HOME`: its lock, first hour, keys, and S3.

Shared by the local stack (`stack`) and the cluster (`cluster`), which cannot run at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NoReturn

from txn_platform.addresses import require_dagster_home
from txn_platform.errors import UserError
from txn_platform.homes import writable_home
from txn_platform.local import seaweedfs
from txn_platform.local.in_use import STACK_BUCKET
from txn_platform.private_files import write_private
from txn_platform.running_stack import LOCK, S3_KEYS, withdraw
from txn_platform.windows import Window, full_hour

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from txn_platform.settings import Settings

# How far before its first start the partitions of new state begin.
_BACK: Final = timedelta(days=30)
# Variables for other stores.
_HIDDEN: Final = (
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CA_BUNDLE",
)
# Seconds in which the processes of a killed owner end, those that finish their work too.
_PATIENCE: Final = 45
_NO_PROFILES: Final = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


def state_home(settings: Settings) -> Path:
    """`TXN_HOME`, in which Dagster can keep its databases."""
    try:
        require_dagster_home(settings.home)
    except ValueError as error:
        raise UserError(f"TXN_HOME {error}") from None
    return writable_home(settings)


def first_hour(settings: Settings, home: Path, lake: Path) -> str:
    """The first partition: as the settings say, or as it was when the stack was new.

    A new stack begins 30 days back. One of an earlier version begins where all do by default.
    """
    kept = home / "first-hour"
    new = not (home / "dagster").exists() and not lake.exists()
    if "first_hour" in settings.model_fields_set:
        return Window(settings.first_hour).partition_key
    try:
        if not kept.exists():
            start = full_hour(datetime.now(UTC)) - _BACK if new else settings.first_hour
            draft = kept.with_suffix(".draft")
            draft.write_text(Window(start).partition_key)
            draft.replace(kept)
        return Window.of_partition(kept.read_text("ascii").strip()).partition_key
    except (OSError, ValueError, UserError):
        raise UserError(
            f"{kept} does not hold the first hour of the local stack: write it there, as"
            " 2026-01-01-00:00, or set TXN_FIRST_HOUR"
        ) from None


def start_s3(home: Path, logs: Path, lock: int) -> seaweedfs.SeaweedFS:
    """Start the S3 whose data and keys are in a directory.

    Raises:
        ProcessFailed: it did not start.
    """
    keys = kept_keys(home / S3_KEYS)
    return seaweedfs.SeaweedFS.start(
        home / "seaweedfs",
        logs / "seaweedfs",
        bucket=STACK_BUCKET,
        access_key=keys["AWS_ACCESS_KEY_ID"],
        secret_key=keys["AWS_SECRET_ACCESS_KEY"],
        holds=[lock],
    )


def variables_of(s3: seaweedfs.SeaweedFS) -> dict[str, str]:
    """The variables that lead to an S3 of the local servers, without its keys."""
    return {
        "AWS_BUCKET_NAME": STACK_BUCKET,
        "AWS_REGION": seaweedfs.REGION,
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        # Takes precedence.
        "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
        "TXN_S3_ADDRESSING": "path",
    }


def s3_environment(home: Path, s3: seaweedfs.SeaweedFS) -> dict[str, str]:
    """The variables that lead to an S3, with its keys, and hide those for other stores."""
    hidden = dict.fromkeys(_HIDDEN, "") | _NO_PROFILES
    return variables_of(s3) | hidden | kept_keys(home / S3_KEYS)


@contextmanager
def sigterm_exits() -> Generator[None]:
    """Let SIGTERM leave the block as an exception, so that everything in it is stopped."""

    def leave(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def state_lock(home: Path) -> Generator[int]:
    """Lock the state directory, and yield the descriptor of the lock.

    The managed processes hold the lock too. After their owner was killed they end within seconds;
    this waits for them.
    """
    try:
        file = (home / LOCK).open("a+", encoding="ascii")
    except OSError as error:
        raise UserError(
            f"{home} cannot be used for state ({error.strerror}): set TXN_HOME to a directory "
            "that can be written."
        ) from None
    with file:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read()
                if _runs(holder) or time.monotonic() > deadline:
                    raise UserError(
                        f"`txn dev`, `txn demo` or `txn cluster` is already running in {home}"
                        f" (process {holder}): stop it, or set TXN_HOME to another directory."
                    ) from None
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        # A killed stack could not.
        withdraw(home)
        yield file.fileno()


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def kept_keys(path: Path) -> dict[str, str]:
    """The keys of the S3 in a file, by variable; made at the first call."""
    return kept_secrets(
        path,
        dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), (10, 20), strict=True)),
        "does not hold the keys of the S3 server: delete it. New keys are made; what is stored"
        " stays.",
    )


def kept_secrets(path: Path, sizes: Mapping[str, int], fault: str) -> dict[str, str]:
    """The secrets in a file for its owner alone, by name; made at the first call.

    Args:
        path: of the file.
        sizes: by name, the number of random bytes; a secret has twice as many hexadecimal digits.
        fault: ends the sentence on a file without them, which begins with its path.

    Raises:
        UserError: the file does not hold them.
    """
    if not path.exists():
        made = {name: secrets.token_hex(size) for name, size in sizes.items()}
        write_private(path, json.dumps(made))
    try:
        kept: dict[str, str] = json.loads(path.read_text("utf-8"))
        return {name: str(kept[name]) for name in sizes}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} {fault}") from None


def dagster_home_of(state: Path, configuration: Path, *, keep: bool) -> Path:
    """The directory of a Dagster, with its `dagster.yaml`.

    Args:
        state: the directory that it is in.
        configuration: the file that is copied.
        keep: whether a `dagster.yaml` that is there stays.
    """
    directory = state / "dagster"
    placed = directory / "dagster.yaml"
    if not (keep and placed.exists()):
        directory.mkdir(exist_ok=True)
        # Renamed when complete: a partial file of a killed start would stay forever.
        draft = placed.with_suffix(".draft")
        shutil.copyfile(configuration, draft)
        draft.replace(placed)
    return directory
