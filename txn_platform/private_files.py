"""Files and directories for their owner alone: what holds card numbers in clear, or a key.

A file is private from its first byte, whatever the umask is.
"""

from __future__ import annotations

import os
import stat
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator
    from io import BufferedWriter
    from pathlib import Path

OF_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
"""The permissions of group and others."""


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
        if found.st_mode & OF_OTHERS and not shared:
            path.chmod(stat.S_IMODE(found.st_mode) & ~OF_OTHERS)


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
    with _draft(path, text) as draft:
        draft.replace(path)


def write_private_once(path: Path, text: str) -> None:
    """Write a text to a private file that survives a power cut, unless there is one already.

    Raises:
        OSError: it cannot be written.
    """
    with _draft(path, text) as draft, suppress(FileExistsError):
        os.link(draft, path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Let the names in a directory survive a power cut.

    Raises:
        OSError: it cannot be opened or synced.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _draft(path: Path, text: str) -> Generator[Path]:
    """A private file beside another, with a text that is on the disk, for the block."""
    # Two containers can have processes with the same id, so the draft has a random name.
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with open_new_private(draft) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)
