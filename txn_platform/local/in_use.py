"""One line each for the lake and the source of the settings, and for a local stack beside them.

For standard error. Nothing is opened or requested here.
"""

from __future__ import annotations

import fcntl
import json
from typing import TYPE_CHECKING, Final

from txn_platform.local.processes import port_is_free

if TYPE_CHECKING:
    from pathlib import Path

    from txn_platform.settings import Settings

# The bucket of the local stack's S3.
STACK_BUCKET: Final = "transactions"
_STACK: Final = "`txn dev` or `txn demo`"


def lake_in_use(settings: Settings) -> str:
    """Where the lake is."""
    if settings.bucket is None:
        return str((settings.home / "lake").absolute())
    folder = f"/{settings.lake_prefix}" if settings.lake_prefix else ""
    at = settings.endpoint_url or "the endpoint of the AWS profile, or AWS"
    return f"s3://{settings.bucket}{folder} at {at}"


def source_in_use(settings: Settings) -> str:
    """Where the source answers."""
    return settings.generator_url or "a generator, started for this command"


def local_stack(settings: Settings) -> str | None:
    """A hint that a local stack runs or left data under `TXN_HOME`, if its lake is not this one."""
    home = settings.home.absolute()
    port = _s3_port(home)
    running = _is_held(home / "stack.lock")
    folder = f"/{settings.lake_prefix}" if settings.lake_prefix else ""
    if port is None or (running and port_is_free(port)):
        if not running or settings.bucket is None:
            return None
        return (
            f"{_STACK} runs here with the lake {home / 'lake'}, which is not looked at: to look"
            " there, unset AWS_BUCKET_NAME"
        )
    endpoint = f"http://127.0.0.1:{port}"
    if (settings.bucket, settings.endpoint_url) == (STACK_BUCKET, endpoint):
        return None
    lake = f"s3://{STACK_BUCKET}{folder}"
    if running:
        return (
            f"{_STACK} runs here with the lake {lake} at {endpoint}, which is not looked at: to"
            f" look there, set AWS_BUCKET_NAME={STACK_BUCKET}, AWS_ENDPOINT_URL={endpoint} and"
            f" the keys in {home / 's3-keys.json'}"
        )
    return (
        f"{_STACK} has left data of the lake {lake} in {home / 'seaweedfs'}, which is not looked"
        " at: `txn dev` serves it again"
    )


def _s3_port(home: Path) -> int | None:
    """The last port of the local stack's S3; None if it has no data."""
    try:
        ports = json.loads((home / "seaweedfs" / "ports.json").read_text("utf-8"))
        return int(ports["s3"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
