"""A local stack as other commands see it while it runs, without its servers."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from txn_platform.running_stack import LOCK, announce, withdraw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def announced_stack(home: Path, **variables: str) -> Iterator[None]:
    """A stack under a `TXN_HOME` that announces settings by variable."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        announce(home, variables)
        yield
        withdraw(home)
