"""The option `--lake` of the commands: the lake that they use, whatever the settings say.

`settings.load_settings` has the rule for commands without it.
"""

from __future__ import annotations

import os
from typing import Any, Final

import click

from txn_platform.errors import UserError

_STACK: Final = "stack"
_GIVEN: Final = f"{__name__}.given"


def lake_option[Decorated: Any](command: Decorated) -> Decorated:
    """Add `--lake` to a command. The value takes effect before the command runs."""
    return click.option(
        "--lake",
        metavar="LAKE",
        expose_value=False,
        callback=_use,
        help="Use this lake, whatever the settings say: a directory, s3://bucket/folder, or `stack`"
        " for that of `txn dev` and `txn demo`, whose S3 is started if it does not run.",
    )(command)


def lake_as_given() -> str:
    """The option as it was given to the command that runs, for a command to type next."""
    import shlex

    lake = click.get_current_context().meta.get(_GIVEN)
    return "" if lake is None else f" --lake {shlex.quote(lake)}"


def _use(context: click.Context, _: click.Parameter, lake: str | None) -> None:
    if lake is None or context.resilient_parsing:
        return
    context.meta[_GIVEN] = lake
    os.environ.update(_variables(lake))
    if lake == _STACK:
        from txn_platform.local.stack import local_stack_lake

        # Until the command ends.
        context.with_resource(local_stack_lake())


def _variables(lake: str) -> dict[str, str]:
    """The environment variables that name a lake and hide others.

    Raises:
        UserError: it is neither a directory nor a folder in a bucket.
    """
    # `txn --help` must answer at once.
    from pathlib import Path
    from urllib.parse import urlsplit

    if lake == _STACK:
        return {"AWS_BUCKET_NAME": "", "TXN_LAKE_DIRECTORY": ""}
    parts = urlsplit(lake)
    if parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment:
        folder = parts.path.strip("/")
        named = {"AWS_BUCKET_NAME": parts.netloc, "TXN_LAKE_DIRECTORY": ""}
        return named | ({"TXN_LAKE_PREFIX": folder} if folder else {})
    if "://" in lake or not lake or (Path(lake).exists() and not Path(lake).is_dir()):
        raise UserError(
            f"--lake {lake!r} is no lake: name a directory, s3://bucket/folder, or `stack` for the"
            " lake of `txn dev` and `txn demo`"
        )
    return {"AWS_BUCKET_NAME": "", "TXN_LAKE_DIRECTORY": str(Path(lake).absolute())}
