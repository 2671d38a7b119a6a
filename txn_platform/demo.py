"""The end of `txn demo`: why its hour changed since the last time, and the commands to type next.

The command is in `cli`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.private_files import open_new_private

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txn_platform.lake.base import Lake
    from txn_platform.runs import Summary
    from txn_platform.settings import Settings

_COPY: Final = "demo.parquet"


def late_rows(summary: Summary) -> str | None:
    """A sentence on rows that came late, if the hour was landed before without them."""
    from txn_platform.defs.publications import landed_before
    from txn_platform.runs import dagster_instance

    with dagster_instance() as instance:
        before = landed_before(instance, summary.partition)
    if before is None or before[0] == summary.sent:
        return None
    sent, at = before
    return (
        f"{summary.partition} had {sent:,} rows at {at:%Y-%m-%d %H:%M} UTC, and has"
        f" {summary.sent:,} now: some rows reach the source up to 48 hours late, and a run lands"
        " those that are there. The sensor on_watermark runs such an hour again."
    )


def next_steps(
    settings: Settings, lake: Lake, key: str, *, directory: bool
) -> Iterator[tuple[str, str]]:
    """Three commands that work after the demo, each with its purpose.

    Args:
        settings: of the demo.
        lake: that the demo wrote to.
        key: of the published object.
        directory: whether the demo was told to use a directory.
    """
    if settings.bucket is None:
        path = settings.directory / key
        purpose, stack = "A query on the published object", ""
    else:
        # The S3 stops with the demo.
        path = settings.home.absolute() / _COPY
        path.unlink(missing_ok=True)
        # With TXN_CARD_POLICY=clear it has card numbers in clear.
        open_new_private(path).close()
        lake.copy(key, path)
        purpose, stack = "A query on a copy of the published object", " --lake stack"
    groups = json.dumps([TRANSACTIONS.currency, TRANSACTIONS.group]).strip("[]")
    query = (
        f"import polars as pl; print(pl.read_parquet({json.dumps(_shown(path))})"
        f".group_by({groups}).agg(pl.len(), pl.sum({json.dumps(TRANSACTIONS.amount)})))"
    )
    yield purpose, f"{_shown(Path(sys.executable))} -c {shlex.quote(query)}"
    # GNU make sets it, also for `make demo`.
    dev = "make dev" if "MAKELEVEL" in os.environ and not directory else f"{_txn()} dev"
    yield "Dagster's UI with this hour in it", f"{dev}{' --directory' if directory else ''}"
    yield "Rows by reason for quarantine", f"{_txn()} quarantine{stack}"


def _txn() -> str:
    """The program `txn` as a shell finds it."""
    program = Path(sys.executable).with_name("txn")
    found = shutil.which("txn")
    return "txn" if found and Path(found).resolve() == program.resolve() else _shown(program)


def _shown(path: Path) -> str:
    """A path, relative to the working directory if it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
