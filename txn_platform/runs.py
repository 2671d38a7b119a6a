"""Runs of windows through Dagster, with their progress and their summary.

`cli` shows it to a person, and `defs/` defines the run.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import dagster as dg

from txn_platform.definitions import build_defs, feed_defs
from txn_platform.defs import checks
from txn_platform.defs.feed_keys import key_of
from txn_platform.defs.names import JOB
from txn_platform.defs.run_history import failed_runs, failure_of, unfinished_windows
from txn_platform.defs.window_metadata import amounts_of, reasons_of
from txn_platform.errors import UserError
from txn_platform.feeds import GENERATOR_FEED, Feed
from txn_platform.homes import instance_home, locked, writable_home
from txn_platform.run_locks import run_lock, runs_without_process
from txn_platform.run_summary import Summary
from txn_platform.running_stack import cluster_variables
from txn_platform.settings import load_settings
from txn_platform.window_states import KnownRuns
from txn_platform.windows import Window

_LOGGER: Final = "progress"
_PYTHON_LOGS: Final = {"managed_python_loggers": ["txn_platform"], "python_log_level": "INFO"}
_REASON_CHARACTERS: Final = 300
# Alembic's message for a database that two processes have stamped.
_HALF_MADE: Final = "more than one head"


@contextmanager
def dagster_instance() -> Generator[dg.DagsterInstance]:
    """The instance of DAGSTER_HOME, or else the local stack's, or else an ephemeral one.

    Raises:
        UserError: DAGSTER_HOME is not there, or Dagster cannot open what is in it.
    """
    settings = load_settings()
    home = instance_home(settings)
    with ExitStack() as stack:
        if home is None:
            # Without a directory it creates a temporary one, which a killed run would leave behind.
            instance = dg.DagsterInstance.ephemeral(
                str(writable_home(settings)), settings={"python_logs": _PYTHON_LOGS}
            )
        else:
            cluster = cluster_variables(settings.home)
            if cluster.get("DAGSTER_HOME") == str(home):
                # Its dagster.yaml names variables, and Dagster reads no other values of them.
                stack.enter_context(_environment(cluster))
            # The first process to open it creates its databases. Two at once would damage them.
            with locked(home):
                instance = _open_instance(home)
        yield stack.enter_context(instance)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None]:
    """Set variables of this process for the block. An empty one is removed.

    boto3 would take an empty one for the name of a profile or of a file.
    """
    before = {name: os.environ.get(name) for name in variables}
    _set({name: value or None for name, value in variables.items()})
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _open_instance(home: Path) -> dg.DagsterInstance:
    try:
        instance = dg.DagsterInstance.from_config(str(home))
        _require_usable(instance)
    # dagster.yaml can name classes of other packages, which may raise anything.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:_REASON_CHARACTERS]
        if _HALF_MADE in reason:
            raise UserError(
                f"the databases in {home}/history and {home}/schedules were made by several"
                " processes at once and cannot be used: move both directories away, with the"
                " history of runs that they hold"
            ) from None
        raise UserError(
            f"Dagster cannot open {home} ({type(error).__name__}: {reason}): check its dagster.yaml"
            " and the storage that it names; `dagster instance info` shows all of the error"
        ) from None
    return instance


def _require_usable(instance: dg.DagsterInstance) -> None:
    """Load the parts of dagster.yaml that Dagster otherwise reads in the middle of a run."""
    _ = instance.compute_log_manager
    level = instance.python_log_level
    if level is not None and level.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"python_log_level {level} is not known")


def known_runs(windows: Sequence[Window], feed: Feed = GENERATOR_FEED) -> KnownRuns:
    """The runs of windows that the instance of this machine remembers.

    Args:
        windows: to look up.
        feed: that they are of.

    Raises:
        UserError: see `dagster_instance`.
    """
    with dagster_instance() as instance:
        failed = failed_runs(instance, [window.partition_key for window in windows], feed)
        failures = {
            key: failure_of(instance, run_id) or f"run {run_id} failed"
            for key, run_id in failed.items()
        }
        return KnownRuns(failures, unfinished_windows(instance, datetime.now(UTC), feed))


def end_killed_runs(instance: dg.DagsterInstance) -> None:
    """Record as failed the runs of earlier commands that were killed."""
    for run_id in runs_without_process(writable_home(load_settings())):
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            instance.report_run_failed(run, "The process of this run has ended before it.")


def materialize(
    window: Window,
    *,
    instance: dg.DagsterInstance,
    source_url: str | None,
    on_progress: Callable[[str], None],
    allow_empty: bool = False,
    feed: Feed = GENERATOR_FEED,
) -> Summary:
    """Land, validate and publish one window in this process.

    Args:
        window: to run.
        instance: that records the run.
        source_url: address of the generator that was started for the run; None for the source of
            the settings, whose address Dagster does not keep then.
        on_progress: called with a phrase for each step of the run.
        allow_empty: accept a window without rows even if the lake has rows of it.
        feed: that the window is of.

    Raises:
        UserError: the run failed for a reason that a user can fix; says so as the run does.
        KeyboardInterrupt: it was interrupted, which Dagster keeps to itself.
        RuntimeError: it failed otherwise; says what Dagster recorded, with the traceback.
    """
    started = {"generator": {"config": {"url": source_url}}} if source_url else {}
    return _run(
        window,
        instance,
        on_progress,
        {
            "resources": started,
            "ops": {feed.named(checks.RAW): {"config": {"allow_empty": allow_empty}}},
        },
        feed=feed,
    )


def validate_again(
    window: Window, *, instance: dg.DagsterInstance, on_progress: Callable[[str], None]
) -> Summary:
    """Validate and publish a landed window again, without a question to the source.

    Args:
        window: to run.
        instance: that records the run.
        on_progress: called with a phrase for each step of the run.

    Raises:
        UserError: as for `materialize`.
        KeyboardInterrupt: as for `materialize`.
        RuntimeError: as for `materialize`.
    """
    assets = (checks.VALIDATED, checks.QUARANTINED, checks.PUBLISHED)
    selection = [key_of(asset, GENERATOR_FEED) for asset in assets]
    return _run(window, instance, on_progress, {}, feed=GENERATOR_FEED, selection=selection)


def _run(
    window: Window,
    instance: dg.DagsterInstance,
    on_progress: Callable[[str], None],
    run_config: Mapping[str, Any],
    *,
    feed: Feed,
    selection: list[dg.AssetKey] | None = None,
) -> Summary:
    """Run the job for one window, or those of its assets that are selected."""
    started = time.monotonic()
    defs = dg.Definitions.merge(
        build_defs(),
        *([feed_defs(feed)] if feed.prefix else []),
        dg.Definitions(loggers={_LOGGER: _progress_logger(on_progress)}),
    )
    run_id = str(uuid.uuid4())
    with run_lock(writable_home(load_settings()), run_id):
        result = defs.resolve_job_def(feed.named(JOB)).execute_in_process(
            instance=instance,
            partition_key=window.partition_key,
            run_id=run_id,
            run_config={"loggers": {_LOGGER: {}}, **run_config},
            asset_selection=selection,
            raise_on_error=False,
        )
    if not result.success:
        raise _error_of(result)
    written: dict[str, Mapping[str, dg.MetadataValue[Any]]] = {
        event.asset_key.path[-1]: event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
    rows = {
        asset: metadata["dagster/partition_row_count"].value for asset, metadata in written.items()
    }
    return Summary(
        partition=window.partition_key,
        sent=written[checks.PUBLISHED]["rows_sent"].value,
        validated=rows[checks.VALIDATED],
        quarantined=rows[checks.QUARANTINED],
        reasons=reasons_of(written[checks.QUARANTINED]),
        published=rows[checks.PUBLISHED],
        amounts=amounts_of(written[checks.PUBLISHED]) if feed.contract.amount else None,
        seconds=round(time.monotonic() - started, 3),
        uri=written[checks.PUBLISHED]["dagster/uri"].value,
    )


def _error_of(result: dg.ExecuteInProcessResult) -> BaseException:
    messages: list[str] = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.error and data.error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
                return KeyboardInterrupt()
            if data.user_failure_data is None:
                return RuntimeError(data.error.to_string() if data.error else "the step failed")
            messages.append(data.user_failure_data.description or "the step failed")
    return UserError("; ".join(messages)) if messages else RuntimeError("the run failed")


def _progress_logger(on_progress: Callable[[str], None]) -> dg.LoggerDefinition:
    """A Dagster logger that reports progress to a waiting person."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            event: dg.DagsterEvent | None = getattr(record, "dagster_event", None)
            if hasattr(record, "audit"):
                return
            if event is None:
                on_progress(record.getMessage().rpartition(" - ")[2])
            elif event.is_step_start:
                on_progress(str(event.step_key).replace("_", " "))

    def make(_: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger(_LOGGER, logging.DEBUG)
        logger.addHandler(Handler())
        return logger

    return dg.LoggerDefinition(logger_fn=make)
