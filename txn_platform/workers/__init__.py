"""Runs on several machines: Dagster's run launcher, the Celery app of its workers, and Postgres.

For an instance whose `dagster.yaml` is `deploy/dagster.yaml`. It needs the extra `cluster`.
"""
