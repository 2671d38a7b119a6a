"""Locks that tell whether the process of a run lives.

A run of `txn` lives in the process of the command. Dagster's record of a killed one would stay
"started", and block its window in the queue, because no daemon watches that process.
"""

from __future__ import annotations

import fcntl
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

_SUFFIX: Final = ".run"


@contextmanager
def run_lock(home: Path, run_id: str) -> Generator[None]:
    """Hold the lock of a run for the block; it ends with the process."""
    directory = _directory(home)
    directory.mkdir(exist_ok=True)
    path = directory / f"{run_id}{_SUFFIX}"
    with path.open("wb") as file:
        # File systems without such locks are used without.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def runs_without_process(home: Path) -> Iterator[str]:
    """The ids of runs whose process has ended before them; each is told once."""
    for path in _directory(home).glob(f"*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path.stem
            path.unlink()


def _directory(home: Path) -> Path:
    return home / "runs"
