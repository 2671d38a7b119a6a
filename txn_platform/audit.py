"""The audit log: who published, removed or read which window, or changed a key.

A line is a JSON object. It goes to the logger `txn_platform.audit`, and to the file `audit.log`
under `TXN_HOME`, which only its owner can read.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import socket
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final, Literal

from txn_platform.errors import UserError
from txn_platform.logs import logger
from txn_platform.private_files import make_private, make_private_directory
from txn_platform.runbook import Section
from txn_platform.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

type Action = Literal["publish", "expire", "key_change", "read"]

AUDIT_LOG: Final = "audit.log"
"""The name of the file under `TXN_HOME`."""
_LOG: Final = logger(__name__)
# A line has a few hundred bytes. A disk gives room in blocks.
_LINE_BYTES: Final = 1 << 12


@contextmanager
def audited(
    action: Action,
    *,
    window: str | None = None,
    run: str | None = None,
    **details: object,
) -> Generator[dict[str, Any]]:
    """Write one line about the block when it ends.

    The file is opened and room is kept before the block, so that nothing is done that can't be
    written down. The line has the time, the action, its outcome (`done` or `failed`), the user of
    the system, the host, the process and the run.

    Args:
        action: `publish` an object, `expire` an object, a `key_change`, or `read` a zone with card
            numbers in clear.
        window: its partition key; None if the action is not of one window.
        run: the id of the Dagster run; None outside of runs.
        details: more fields, as JSON values: names and counts, no data.

    Yields:
        The details. The block may add some that are known later.

    Raises:
        UserError: the file can't be written.
    """
    fields = dict[str, Any](details)
    path = load_settings().home.absolute() / AUDIT_LOG
    descriptor = _opened(path)
    try:
        try:
            with _kept_room(path):
                yield fields
        except BaseException:
            # The error of the block is the one to tell.
            with suppress(UserError):
                _write(descriptor, path, _line(action, "failed", window, run, fields))
            raise
        _write(descriptor, path, _line(action, "done", window, run, fields))
    finally:
        os.close(descriptor)


def _line(
    action: Action, outcome: str, window: str | None, run: str | None, details: dict[str, Any]
) -> str:
    # Escapes keep a name with a line break on its line.
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "action": action,
            "outcome": outcome,
            "window": window,
            "user": _user(),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "run": run,
            **details,
        }
    )


def _user() -> str:
    """The user of this process, by the system: variables can name any other."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        # A container can run under a number without a name.
        return str(number)


def _opened(path: Path) -> int:
    # A pipe would wait for a reader.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        make_private_directory(path.parent)
        descriptor = os.open(path, flags, 0o600)
        make_private(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    return descriptor


@contextmanager
def _kept_room(path: Path) -> Generator[None]:
    """Keep room for a line on the file's disk, in a file without a name."""
    with ExitStack() as stack:
        try:
            # Without a buffer, so that closing the file writes nothing.
            file = stack.enter_context(TemporaryFile(dir=path.parent, buffering=0))
            room = bytes(_LINE_BYTES)
            while room:
                room = room[file.write(room) :]
        except OSError as error:
            raise _unwritable(path, error) from None
        yield


def _write(descriptor: int, path: Path, line: str) -> None:
    # A display of progress leaves it out.
    _LOG.info("%s", line, extra={"audit": True})
    # Processes that write at once do so one after the other, where the file system has locks.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        remaining = f"{line}\n".encode()
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"the audit log {path} can't be written ({error.strerror}): allow it, make room, or set"
        " TXN_HOME to a directory that can be written",
        Section.DISK,
    )
