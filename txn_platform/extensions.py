"""Commands and settings that other packages contribute to `txn`, by entry points.

The group `txn.commands` names click commands, and `txn.settings` functions that return the names
of the environment variables that a package reads.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import click

from txn_platform.errors import UserError
from txn_platform.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = "txn.commands"
SETTINGS = "txn.settings"


def command(name: str) -> click.Command:
    """Load a command by its name.

    Raises:
        UserError: no installed package has it, or it cannot be loaded.
    """
    entry = next(iter(entry_points(group=COMMANDS, name=name)), None)
    if entry is None:
        raise UserError(f"no installed package has the command {name}: install this one again")
    try:
        loaded: object = entry.load()
    except Exception as error:  # whatever a broken package raises
        raise UserError(
            f"the command {name} cannot be loaded from {entry.value}:"
            f" {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, click.Command):
        raise UserError(f"the command {name} cannot be loaded: {entry.value} is no click command")
    return loaded


def variables() -> tuple[list[str], list[str]]:
    """Return the names of the variables of all packages, and a message for each that failed."""
    names: list[str] = []
    failures: list[str] = []
    for entry in entry_points(group=SETTINGS):
        try:
            read: Callable[[], list[str]] = entry.load()
            names += read()
        except Exception as error:  # whatever a broken package raises
            failures.append(
                redacted(
                    f"the settings of {entry.name} cannot be loaded from {entry.value}:"
                    f" {type(error).__name__}: {error}"
                )
            )
    return names, failures
