"""All that knows Dagster: partitions, resources, the IO manager, assets, checks, automation."""

import gc

import dagster as dagster
import pandas as pandas
import polars as polars

from txn_platform import contract as contract

# What is imported so far lasts as long as the process. Left out of the search for cycles, it does
# not cost a second at the process's end. What else a user imports is searched as ever: there are
# libraries that print what they take for leaked.
gc.freeze()
