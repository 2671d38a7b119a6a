"""Sessions of boto3 by the settings: which profile and credentials count, with errors explained."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from txn_platform.errors import UserError
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Generator

    from txn_platform.settings import Settings


def aws_session(settings: Settings, core: Any) -> Any:
    """A session of boto3 with the credentials of the settings, or those that AWS's chain finds.

    Args:
        settings: with both keys, or neither.
        core: of `botocore_session`.

    Raises:
        UserError: the settings have one half of a credential.
    """
    import boto3

    key, secret = settings.access_key_id, settings.secret_access_key
    if (key is None) != (secret is None):
        there, absent = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")[:: 1 if key else -1]
        raise UserError(
            f"{there} is set without {absent}: set both in one place, the environment or .env, or"
            " neither",
            Section.SETTINGS,
        )
    # A session token alone belongs to other keys.
    token = settings.session_token if key else None
    return boto3.Session(
        botocore_session=core,
        aws_access_key_id=key,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        aws_session_token=token.get_secret_value() if token else None,
        region_name=settings.region,
    )


def botocore_session(settings: Settings) -> Any:
    """A new session. The descriptions of AWS, megabytes of JSON, are read once per process."""
    from botocore.session import Session

    named = [os.environ.get(name) for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")]
    if settings.of_local_stack:
        # The machine's profiles are for other stores.
        nowhere = (None, None, os.devnull, None)
        session = Session(
            session_vars={
                "profile": (None, None, None, None),
                "config_file": nowhere,
                "credentials_file": nowhere,
            }
        )
    elif any(named):
        # A profile would hide other credentials of the environment (web identity).
        session = Session()
    elif settings.profile:
        session = Session(profile=settings.profile)
    else:
        # With an empty variable botocore would look for a profile without a name.
        session = Session(session_vars={"profile": (None, None, None, None)})
    session.register_component("data_loader", _descriptions())
    return session


@cache
def _descriptions() -> Any:
    from botocore.loaders import create_loader

    return create_loader()


@contextmanager
def explained_aws_errors() -> Generator[None]:
    """Explain errors of the AWS configuration or its credentials.

    Raises:
        UserError: they can't be used.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, ValueError) as error:
        raise UserError(
            f"the AWS credentials or configuration can't be used: {error}. Look at AWS_PROFILE,"
            " AWS_CONFIG_FILE and AWS_ENDPOINT_URL, or log in again",
            Section.STORE_REFUSES,
        ) from None
