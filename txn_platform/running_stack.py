"""The local stack that runs under a `TXN_HOME`, as other commands on the machine find it.

`local/stack.py` starts it. The settings use its lake and its source while it runs; see
`settings.load_settings`.
"""

from __future__ import annotations

import fcntl
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOCK: Final = "stack.lock"
"""Locked while a local stack runs."""
S3_KEYS: Final = "s3-keys.json"
"""The keys of its S3, for their owner alone."""
_VARIABLES: Final = "stack.json"
# Settings for another store, which do not apply to the stack's S3.
_HIDDEN: Final = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CA_BUNDLE")


def announce(home: Path, variables: Mapping[str, str]) -> None:
    """Say which settings lead to the stack that holds the lock.

    Args:
        home: its `TXN_HOME`.
        variables: values by the names of variables, without secrets.
    """
    # Renamed when complete: other commands read it at any time.
    draft = (home / _VARIABLES).with_suffix(".draft")
    draft.write_text(json.dumps(dict(variables), indent=1), "utf-8")
    draft.replace(home / _VARIABLES)


def withdraw(home: Path) -> None:
    """Forget what a stack announced."""
    (home / _VARIABLES).unlink(missing_ok=True)


def running_stack(home: Path) -> dict[str, str | None] | None:
    """The settings that lead to the stack which runs under a `TXN_HOME`, by variable.

    None means that a setting of the environment does not apply.

    Returns:
        None if no stack runs there, or it is not ready yet.
    """
    if not is_held(home):
        return None
    try:
        variables: dict[str, str | None] = json.loads((home / _VARIABLES).read_text("utf-8"))
        if "AWS_BUCKET_NAME" in variables:
            variables |= dict.fromkeys(_HIDDEN) | json.loads((home / S3_KEYS).read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    return variables


def is_held(home: Path) -> bool:
    """Whether a local stack runs under a `TXN_HOME`, or starts or ends there."""
    try:
        with (home / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
