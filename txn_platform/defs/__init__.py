"""All that knows Dagster: partitions, resources, the IO manager, assets, checks, automation."""

import gc
import sys

import dagster as dagster
import polars as polars

from txn_platform import contract as contract

# In a process of Dagster's own, what is imported so far lasts as long as the process. Left out of
# the search for cycles, it does not cost a second at the process's end. What else a user imports is
# searched as ever: DuckDB, as all that is built with nanobind, would print that it has leaked.
if "dagster._cli" in sys.modules and "duckdb" not in sys.modules:
    gc.freeze()
