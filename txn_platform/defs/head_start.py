"""A head start for the generator of a run without a source.

It takes two seconds to start, all that time on one core. As long Dagster is busy on one core too,
between the import of the definitions and the first step, which asks for it.
"""

from typing import Final

import click

from txn_platform.errors import UserError
from txn_platform.local.processes import Child, generator_child
from txn_platform.settings import load_settings

_LANDED: Final = "raw_transactions"

_begun: list[Child] = []


def begin() -> None:
    """Start a generator, without waiting for it, where a command lands windows by itself.

    Other processes that import the definitions, say to show them, need none. Where a source is
    named none is needed either; what is wrong with the settings is said when they are used.
    """
    command = click.get_current_context(silent=True)
    if command is None or command.info_name != "materialize":
        return
    selected = str(command.params.get("select"))
    try:
        if ("*" in selected or _LANDED in selected) and load_settings().generator_url is None:
            _begun.append(generator_child())
    except UserError:
        return


def generator() -> Child:
    """The generator that was started, or a new one; it is the caller's now, who waits for it."""
    return _begun.pop() if _begun else generator_child()


def give_up() -> None:
    """Stop what was started in vain."""
    while _begun:
        _begun.pop().stop()
