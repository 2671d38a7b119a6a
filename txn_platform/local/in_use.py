"""One line each for the lake and the source of the settings, and for a local stack beside them.

For standard error. Nothing is opened or requested here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txn_platform.redaction import shown_address
from txn_platform.running_stack import is_held, running_stack

if TYPE_CHECKING:
    from txn_platform.settings import Settings

# The bucket of the local stack's S3.
STACK_BUCKET: Final = "transactions"
_STACK: Final = "`txn dev`, `txn demo` or `txn cluster`"


def lake_in_use(settings: Settings) -> str:
    """Where the lake is."""
    if settings.bucket is None:
        where = str(settings.directory)
    else:
        at = "the endpoint of the AWS profile, or AWS"
        if settings.endpoint_url is not None:
            at = shown_address(settings.endpoint_url)
        where = f"{_in_bucket(settings.bucket, settings.lake_prefix)} at {at}"
    return f"{where}, of the local stack" if settings.of_local_stack else where


def source_in_use(settings: Settings) -> str:
    """Where the source answers."""
    if settings.generator_url is None:
        return "a generator, started for this command"
    stack = running_stack(settings.home) if settings.of_local_stack else None
    of_stack = stack is not None and stack.get("GENERATOR_URL") == settings.generator_url
    address = shown_address(settings.generator_url)
    return f"{address}, of the local stack" if of_stack else address


def local_stack(settings: Settings) -> str | None:
    """A note on a local stack that runs or left data under `TXN_HOME`, if its lake is not used."""
    if settings.of_local_stack:
        return None
    home = settings.home.absolute()
    stack = running_stack(home)
    if stack is not None:
        bucket = stack.get("AWS_BUCKET_NAME")
        if bucket is None:
            lake = str(home / "lake")
            used = settings.bucket is None and settings.directory == home / "lake"
        else:
            lake = f"{_in_bucket(bucket, settings.lake_prefix)} at {stack['AWS_ENDPOINT_URL_S3']}"
            used = lake == lake_in_use(settings)
        if used:
            return None
        return (
            f"{_STACK} runs here with the lake {lake}, which is not looked at: to look there, unset"
            " AWS_BUCKET_NAME and TXN_LAKE_DIRECTORY, also in .env, and use no --lake"
        )
    if is_held(home):
        return f"{_STACK} starts or ends here, and its lake is not looked at"
    if not (home / "seaweedfs" / "ports.json").exists():
        return None
    return (
        f"{_STACK} has left data of the lake {_in_bucket(STACK_BUCKET, settings.lake_prefix)} in"
        f" {home / 'seaweedfs'}, which is not looked at: `txn dev` serves it again, and so does"
        " --lake stack for one command"
    )


def _in_bucket(bucket: str, folder: str) -> str:
    return f"s3://{bucket}/{folder}".rstrip("/")
