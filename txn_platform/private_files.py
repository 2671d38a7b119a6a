"""Files and directories for their owner alone: what holds card numbers in clear, or a key.

A file is private from its first byte, whatever the umask is.
"""

from __future__ import annotations

import os
import stat
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from io import BufferedWriter
    from pathlib import Path

_OF_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def make_private_directory(directory: Path) -> None:
    """Make a directory that only its owner can enter; those above it are made as the umask says.

    If it exists, group and others lose their permissions. It stays as it is if another user owns
    it, if it is for all users (as `/tmp`), or if the file system has no permissions.

    Raises:
        OSError: it cannot be made.
    """
    directory.mkdir(stat.S_IRWXU, parents=True, exist_ok=True)
    make_private(directory)


def make_private(path: Path) -> None:
    """Take all permissions of group and others from a file or directory of this user.

    See `make_private_directory` for what stays as it is.
    """
    with suppress(OSError):
        found = path.stat()
        shared = found.st_mode & stat.S_ISVTX or found.st_uid != os.geteuid()
        if found.st_mode & _OF_OTHERS and not shared:
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OF_OTHERS)


def open_new_private(path: Path) -> BufferedWriter:
    """Make a file that only its owner can read (mode 0600), open for writing.

    Raises:
        FileExistsError: there is one, or a link.
        OSError: it cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR), "wb")


def write_private(path: Path, text: str) -> None:
    """Write a text to a private file, and replace the one there in one step.

    Raises:
        OSError: it cannot be written; the file there is unchanged.
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with open_new_private(draft) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
