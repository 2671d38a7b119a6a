"""All that knows Dagster: partitions, resources, the IO manager, assets, checks, automation."""

import gc
import os
import sys
from contextlib import suppress


def _keep() -> None:
    """In a process of Dagster's own, leave what is imported so far out of the search for cycles.

    It lasts as long as the process, and to search it takes a second, at the end of the process
    above all. What else a user imports is searched as ever: DuckDB, as all that is built with
    nanobind, would print that it has leaked.
    """
    if "dagster._cli" in sys.modules and "duckdb" not in sys.modules:
        gc.freeze()


_keep()

from txn_platform.defs import head_start  # noqa: E402 - what takes its time is begun first

head_start.begin()

import dagster as dagster  # noqa: E402 - what comes first need not be searched for the next
import polars as polars  # noqa: E402
import pyarrow as pa  # noqa: E402

from txn_platform.contract import schema as schema  # noqa: E402

_keep()

if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
    # Where Arrow was built with it, a seventh less memory than with what it takes by itself.
    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
