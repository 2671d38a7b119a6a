"""Names in Dagster's records of runs, for modules that do not import Dagster."""

from typing import Final

JOB: Final = "land_transactions"
"""The job that lands, validates and publishes one window."""
PARTITION: Final = "dagster/partition"
"""The tag of a run with its partition key."""
WILL_RETRY: Final = "dagster/will_retry"
"""The tag of a failed run that says whether Dagster runs it again."""
RETRIED_AS: Final = "dagster/auto_retry_run_id"
"""The tag of a failed run with the id of the run that Dagster made of it."""
PRIORITY: Final = "dagster/priority"
"""The tag by which Dagster's queue is sorted, the highest number first."""
