"""How a finished run ended: the causes of its failure, and the steps that succeeded.

A cause has the section of the runbook that explains it. No text here shows a row: messages of
errors that are not ours are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import dagster as dg
from dagster import DagsterEventType

from txn_platform.defs import checks
from txn_platform.defs.failures import sections_of
from txn_platform.runbook import Section

_PARTITION: Final = "dagster/partition"
_RANGE: Final = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_STEPS: Final = frozenset({checks.RAW, "validation", checks.PUBLISHED})
_OWN_CHECKS: Final = frozenset(check.name for check in checks.CHECKS)
_EVENTS: Final = {
    DagsterEventType.ASSET_CHECK_EVALUATION,
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.STEP_SUCCESS,
}


@dataclass(frozen=True)
class Cause:
    """Why a run failed.

    Attributes:
        name: of the check, or the anchor of the runbook's section.
        section: the anchor of the runbook's section on it.
        reason: in a sentence.
        step: that failed; empty if none did.
    """

    name: str
    section: str
    reason: str
    step: str


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        causes: of its failure, each once for a step; also of checks that failed in a run that
            succeeded. Empty for a run that was interrupted in a terminal.
        steps: that succeeded.
    """

    causes: tuple[Cause, ...]
    steps: frozenset[str]

    @classmethod
    def of(cls, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Self:
        """The outcome by the events of a run, in one query."""
        records = instance.get_records_for_run(run.run_id, of_type=_EVENTS).records
        events = [
            event
            for record in records
            if (event := record.event_log_entry.dagster_event) is not None
        ]
        steps = frozenset(
            str(event.step_key)
            for event in events
            if event.event_type is DagsterEventType.STEP_SUCCESS
        )
        causes = list(_failed_checks(events))
        by_checks = {cause.step for cause in causes}
        causes += [cause for cause in _failed_steps(events) if cause.step not in by_checks]
        if not causes and run.status is dg.DagsterRunStatus.FAILURE:
            causes.append(_died(events, steps))
        if run.remote_job_origin is None and any(map(_is_interrupted, events)):
            # Somebody has pressed Ctrl-C in a terminal.
            return cls((), steps)
        return cls(tuple({(cause.name, cause.step): cause for cause in causes}.values()), steps)


def subject_of(run: dg.DagsterRun, step: str) -> str:
    """The subject of a failed step: for the platform's own, the window alone."""
    tags = run.tags
    partition = tags.get(_PARTITION, "")
    if not partition and all(name in tags for name in _RANGE):
        partition = "...".join(tags[name] for name in _RANGE)
    if partition and step in _STEPS:
        return partition
    name = step if run.job_name.startswith("__") and step else run.job_name
    return f"{name} {partition}".rstrip()


def _failed_checks(events: list[dg.DagsterEvent]) -> Iterator[Cause]:
    for event in events:
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            result = event.asset_check_evaluation_data
            if not result.passed and result.severity is dg.AssetCheckSeverity.ERROR:
                name = result.check_name
                section = name if name in _OWN_CHECKS else Section.OWN_ASSET
                reason = result.description or "it says no more"
                yield Cause(name, section, f"{name}: {reason}", event.step_key or "")


def _failed_steps(events: list[dg.DagsterEvent]) -> Iterator[Cause]:
    for event in events:
        if event.event_type is not DagsterEventType.STEP_FAILURE:
            continue
        step, failed = str(event.step_key), event.step_failure_data
        if failed.user_failure_data is not None:
            reason = failed.user_failure_data.description or f"{step} failed"
            sections = sections_of(failed.user_failure_data.metadata) or [Section.OWN_ASSET]
            for section in sections:
                yield Cause(section, section, reason, step)
            continue
        if _is_interrupted(event):
            yield Cause(Section.RUN_DIED, Section.RUN_DIED, f"{step} was interrupted", step)
            continue
        # The error's message can hold data.
        name = _raised(event) or "an error"
        reason = f"{step} raised {name}, which nobody expected: the run's page shows it"
        yield Cause(Section.UNEXPECTED, Section.UNEXPECTED, reason, step)


def _raised(event: dg.DagsterEvent) -> str | None:
    """The name of the error that failed a step, if the event has one."""
    if event.event_type is not DagsterEventType.STEP_FAILURE:
        return None
    error = event.step_failure_data.error
    return (error.cause or error).cls_name if error else None


def _is_interrupted(event: dg.DagsterEvent) -> bool:
    return _raised(event) == dg.DagsterExecutionInterruptedError.__name__


def _died(events: list[dg.DagsterEvent], steps: frozenset[str]) -> Cause:
    """The cause of a run that failed without a failed step."""
    planned = [
        str(event.step_key)
        for event in events
        if event.event_type is DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    ]
    step = next((step for step in planned if step not in steps), "")
    reason = (
        "the run ended without a result: its process was killed, it took too long, or it could not"
        " be started"
    )
    return Cause(Section.RUN_DIED, Section.RUN_DIED, reason, step)
