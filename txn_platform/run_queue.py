"""The runs of a Dagster instance, over the GraphQL API of its webserver.

Runs are queued and looked at here. Which windows need one is decided in `submission`.
"""

from __future__ import annotations

import json
import time
from decimal import Decimal
from itertools import batched
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import urllib3
from pydantic import AliasPath, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from txn_platform.backoff import Backoff
from txn_platform.contract.schema import PUBLISHED, QUARANTINED, RAW, VALIDATED
from txn_platform.defs.names import JOB, PARTITION, RETRIED_AS, WILL_RETRY
from txn_platform.errors import UserError
from txn_platform.network import pool_manager
from txn_platform.redaction import redacted, shown_address
from txn_platform.run_summary import Summary
from txn_platform.window_states import KnownRuns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set

    from txn_platform.feeds import Feed
    from txn_platform.settings import Settings

# How long a webserver may be away, and how long one may take for its first answer.
_PATIENCE: Final = 180.0
_FIRST_PATIENCE: Final = 15.0
# As many attempts as the patience allows.
_BACKOFF: Final = Backoff(attempts=1_000, first_pause=0.5, longest_pause=5.0, jitter=(0.5, 1.0))
_PAUSE_AFTER_LOST_ANSWER: Final = 2.0
# The webserver makes the runs of a request one after another.
_TIMEOUT: Final = urllib3.Timeout(connect=5, read=300)
_OK: Final = 200
_REFUSED: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})
# A busy or restarting webserver, a proxy before it, or a fault of the instance's storage.
_PASSING: Final = frozenset({429, 500, 502, 503, 504})
# Runs in one answer; and those whose events are read for it.
_PAGE: Final = 500
_WITH_EVENTS: Final = 25
# Runs of other assets and other feeds of the same partition may be newer.
_LAST_RUNS: Final = 12
_REASON_CHARACTERS: Final = 300
_QUEUED: Final = frozenset({"QUEUED", "NOT_STARTED"})
_UNFINISHED: Final = (*sorted(_QUEUED), "STARTING", "STARTED", "CANCELING")
# The tag that tells the runs of one command from others.
_SUBMISSION: Final = "txn/submission"
_DAEMON: Final = "QUEUED_RUN_COORDINATOR"

_JOBS: Final = """
query Jobs($daemon: String!) {
  repositoriesOrError {
    __typename
    ... on RepositoryConnection { nodes { name location { name } jobs { name } } }
  }
  instance { runQueuingSupported daemonHealth { daemonStatus(daemonType: $daemon) { healthy } } }
}
"""
_RUN: Final = """
fragment run on Run {
  runId status jobName creationTime updateTime assetSelection { path } tags { key value }
}
"""
_RUNS: Final = (
    _RUN
    + """
query Runs($filter: RunsFilter!, $cursor: String, $limit: Int) {
  runsOrError(filter: $filter, cursor: $cursor, limit: $limit) {
    __typename
    ... on Runs {
      results { ...run }
    }
  }
}
"""
)
_LAUNCH: Final = """
mutation Launch($runs: [ExecutionParams!]!) {
  launchMultipleRuns(executionParamsList: $runs) {
    __typename
    ... on LaunchMultipleRunsResult {
      launchMultipleRunsResult {
        __typename
        ... on LaunchRunSuccess { run { runId } }
        ... on RunConfigValidationInvalid { errors { message } }
        ... on Error { message }
      }
    }
  }
}
"""
_CANCEL: Final = """
mutation Cancel($id: String!) {
  terminateRun(runId: $id, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename }
}
"""
_SUMMARIES: Final = """
query Summaries($filter: RunsFilter!, $limit: Int) {
  runsOrError(filter: $filter, limit: $limit) {
    __typename
    ... on Runs {
      results {
        runId startTime endTime tags { key value }
        assetMaterializations {
          assetKey { path }
          metadataEntries {
            label
            ... on IntMetadataEntry { intRepr }
            ... on TextMetadataEntry { text }
            ... on TableMetadataEntry { table { records } }
          }
        }
      }
    }
  }
}
"""
_FAILURES: Final = """
query Failures($filter: RunsFilter!, $limit: Int) {
  runsOrError(filter: $filter, limit: $limit) {
    __typename
    ... on Runs {
      results {
        runId
        eventConnection {
          events {
            __typename
            ... on ExecutionStepFailureEvent { stepKey failureMetadata { description } }
            ... on RunFailureEvent { message }
          }
        }
      }
    }
  }
}
"""


def require_webserver(settings: Settings) -> str:
    """The address of the webserver that the settings or a running local stack name.

    Raises:
        UserError: there is none.
    """
    if settings.webserver_url is None:
        raise UserError(
            "there is no Dagster instance to submit to: start `txn cluster` or `txn dev` in another"
            " terminal, or set DAGSTER_WEBSERVER_URL to the address of a Dagster webserver"
        )
    return settings.webserver_url


class NoAnswerError(Exception):
    """The webserver gave no answer that can be used; another request may get one."""


def _as_mapping(tags: Any) -> Any:
    return {tag["key"]: tag["value"] for tag in tags} if isinstance(tags, list) else tags


_Tags = Annotated[dict[str, str], BeforeValidator(_as_mapping)]


class _AssetKey(BaseModel):
    path: list[str]


class Run(BaseModel):
    """A run as the instance has it.

    Attributes:
        id: of the run.
        status: Dagster's, as `QUEUED`.
        job: its job.
        created: seconds since 1970.
        updated: seconds since 1970, when its record last changed.
        tags: by name.
        selection: its assets; None for all of its job.
    """

    id: str = Field(alias="runId")
    status: str
    job: str = Field(alias="jobName")
    created: float = Field(alias="creationTime")
    updated: float | None = Field(alias="updateTime")
    tags: _Tags
    selection: list[_AssetKey] | None = Field(alias="assetSelection")

    @property
    def partition(self) -> str:
        """The partition key; empty for a run without one."""
        return self.tags.get(PARTITION, "")

    def publishes(self, feed: Feed) -> bool:
        """Whether it publishes a window of a feed."""
        if not self.selection:
            return self.job == feed.named(JOB)
        return any("/".join(key.path) == feed.asset(PUBLISHED) for key in self.selection)

    @property
    def unfinished(self) -> bool:
        """Whether it is queued or running."""
        return self.status in _UNFINISHED

    @property
    def of_command(self) -> bool:
        """Whether a command has submitted it."""
        return _SUBMISSION in self.tags

    @property
    def awaits_retry(self) -> bool:
        """Whether it failed, and Dagster has yet to make the run that retries it."""
        marked = self.tags.get(WILL_RETRY) == "true" and RETRIED_AS not in self.tags
        return self.status == "FAILURE" and marked

    @property
    def queued(self) -> bool:
        """Whether it waits in the queue."""
        return self.status in _QUEUED


class _Runs(BaseModel):
    results: list[Run]


class _Name(BaseModel):
    name: str


class _Repository(_Name):
    location: _Name
    jobs: list[_Name]


class _Repositories(BaseModel):
    nodes: list[_Repository]


class _Instance(BaseModel):
    has_queue: bool = Field(alias="runQueuingSupported")
    daemons: dict[str, dict[str, bool | None] | None] = Field(alias="daemonHealth")


class _Jobs(BaseModel):
    repositories: _Repositories = Field(alias="repositoriesOrError")
    instance: _Instance


class _Result(BaseModel):
    """The outcome of one run of a request to launch several."""

    kind: str = Field(alias="__typename")
    message: str = ""
    errors: list[dict[str, str]] = []


class _Entry(BaseModel):
    label: str
    number: str | None = Field(alias="intRepr", default=None)
    text: str | None = None
    table: dict[str, list[str]] | None = None


class _Materialization(BaseModel):
    key: _AssetKey = Field(alias="assetKey")
    entries: list[_Entry] = Field(alias="metadataEntries")


class _Ended(BaseModel):
    id: str = Field(alias="runId")
    started: float | None = Field(alias="startTime")
    ended: float | None = Field(alias="endTime")
    tags: _Tags
    materializations: list[_Materialization] = Field(alias="assetMaterializations")


class _Event(BaseModel):
    kind: str = Field(alias="__typename")
    step: str = Field(alias="stepKey", default="")
    failure: dict[str, str | None] | None = Field(alias="failureMetadata", default=None)
    message: str = ""


class _Failed(BaseModel):
    id: str = Field(alias="runId")
    events: list[_Event] = Field(validation_alias=AliasPath("eventConnection", "events"))


_JOBS_OF_INSTANCE: Final = TypeAdapter(_Jobs)
_RESULTS: Final = TypeAdapter(list[_Result])
_ENDED: Final = TypeAdapter(list[_Ended])
_FAILED: Final = TypeAdapter(list[_Failed])


class RunQueue:
    """The runs of a feed in the queue of an instance.

    Each method waits for a webserver that restarts, up to three minutes.

    Args:
        address: of the webserver.
        feed: that the windows are of.
        on_wait: called with a phrase when a request has to be made again.
    """

    def __init__(self, address: str, feed: Feed, on_wait: Callable[[str], None]) -> None:
        self._address = address
        self._feed = feed
        self._job = feed.named(JOB)
        self._on_wait = on_wait
        self._pool = pool_manager(address, timeout=_TIMEOUT, retries=False)
        self._selector: dict[str, str] = {}
        self._answered = False
        # Since when no request has queued a run.
        self._fruitless_since: float | None = None

    def open(self) -> str | None:
        """Find the job that publishes windows.

        Returns:
            A note on what a user should know before runs are queued; None for none.

        Raises:
            UserError: there is no webserver, no run queue, or not exactly one such job.
        """
        found = self._parsed(_JOBS_OF_INSTANCE, self._ask(_JOBS, daemon=_DAEMON))
        having = [
            each
            for each in found.repositories.nodes
            if self._job in {job.name for job in each.jobs}
        ]
        if not having:
            raise UserError(
                f"{self._at} has no job {self._job}: let it load the module of the definitions that"
                " have it, as `txn cluster -m mine` does"
            )
        if len(having) > 1:
            locations = ", ".join(sorted(each.location.name for each in having))
            raise UserError(
                f"{self._at} has the job {self._job} in {len(having)} code locations ({locations}):"
                " load the definitions in exactly one"
            )
        if not found.instance.has_queue:
            raise UserError(
                f"{self._at} has no run queue, so all runs would start at once: set"
                " concurrency.runs in its dagster.yaml, as deploy/dagster.yaml does"
            )
        self._selector = {
            "repositoryLocationName": having[0].location.name,
            "repositoryName": having[0].name,
            "jobName": self._job,
        }
        if (found.instance.daemons.get("daemonStatus") or {}).get("healthy"):
            return None
        return "Dagster's daemon has not reported lately: queued runs wait until it runs"

    def unfinished(self) -> Iterator[Run]:
        """All runs that are queued or running, in pages, the newest first.

        Raises:
            UserError: the webserver stayed away, as for all methods.
        """
        return self._runs({"statuses": list(_UNFINISHED)})

    def changed(self, since: float) -> Iterator[Run]:
        """The runs whose records have changed since a moment, in seconds since 1970."""
        return self._runs({"updatedAfter": since})

    def of_ids(self, ids: Collection[str]) -> Iterator[Run]:
        """The runs of some ids that still exist."""
        for some in batched(ids, _PAGE):
            yield from self._runs({"runIds": list(some)})

    def known_runs(self, keys: Set[str]) -> KnownRuns:
        """The runs of some windows that are unfinished, or were the last ones and failed.

        Args:
            keys: of their partitions.
        """
        unfinished: dict[str, Literal["queued", "running"]] = {}
        for run in self.unfinished():
            if run.partition in keys and unfinished.get(run.partition) != "running":
                unfinished[run.partition] = "queued" if run.queued else "running"
        failed = {run.partition for run in self._runs({"statuses": ["FAILURE"]})}
        last: dict[str, Run] = {}
        for some in batched(sorted(failed & keys), _WITH_EVENTS):
            for run in self._last_runs(some):
                last.setdefault(run.partition, run)
        ids = {run.id: key for key, run in last.items() if run.status == "FAILURE"}
        reasons = self.failures(list(ids))
        return KnownRuns(
            {key: reasons.get(run_id) or f"run {run_id} failed" for run_id, key in ids.items()},
            unfinished,
        )

    def _last_runs(self, keys: Sequence[str]) -> Iterator[Run]:
        """The newest finished runs of some partitions that publish windows, the newest first."""
        fields = "... on Runs { results { ...run } }"
        names = [f"of{number}" for number in range(len(keys))]
        asked = " ".join(
            f"{name}: runsOrError(filter: ${name}, limit: {_LAST_RUNS}) {{ __typename {fields} }}"
            for name in names
        )
        declared = ", ".join(f"${name}: RunsFilter!" for name in names)
        filters = {
            name: {
                "tags": [{"key": PARTITION, "value": key}],
                "statuses": ["SUCCESS", "FAILURE", "CANCELED"],
            }
            for name, key in zip(names, keys, strict=True)
        }
        answer = self._ask(f"query LastRuns({declared}) {{ {asked} }} {_RUN}", **filters)
        for name in names:
            page = self._parsed(_PAGE_OF_RUNS, answer[name]).results
            yield from (run for run in page if run.publishes(self._feed))

    def submit(
        self,
        tags: Mapping[str, Mapping[str, str]],
        submission: str,
        config: Mapping[str, Any],
    ) -> list[Run]:
        """Queue a run of the job for each of some windows.

        If the answer is lost or has an error that may pass, the instance is asked which runs there
        are.

        Args:
            tags: of the runs, by partition key.
            submission: of all windows that a command submits; it becomes a tag too.
            config: of the runs.

        Returns:
            The runs that were made. If some are missing, they can be submitted again.

        Raises:
            UserError: the instance refuses a run, or the webserver stayed away.
        """
        ours = {_SUBMISSION: submission}
        parameters = [
            {
                "selector": self._selector,
                "mode": "default",
                "runConfigData": config,
                "executionMetadata": {
                    "tags": [
                        {"key": name, "value": value}
                        for name, value in ({PARTITION: key} | dict(own) | ours).items()
                    ]
                },
            }
            for key, own in tags.items()
        ]
        try:
            answer = self._once(_LAUNCH, {"runs": parameters})["launchMultipleRuns"]
        except NoAnswerError as error:
            reason = str(error)
            self._on_wait(reason)
            time.sleep(_PAUSE_AFTER_LOST_ANSWER)
        else:
            reason = ""
            results = self._parsed(_RESULTS, answer.get("launchMultipleRunsResult"))
            for key, result in zip(tags, results, strict=False):
                if result.kind != "LaunchRunSuccess":
                    messages = [error["message"] for error in result.errors] or [result.message]
                    raise UserError(
                        f"{self._at} refuses a run of {key}: {_shown('; '.join(messages))}"
                    )
        filter_ = {"tags": [{"key": _SUBMISSION, "value": submission}]}
        found = self._ask(_RUNS, filter=filter_, limit=len(tags))["runsOrError"]
        runs = [run for run in self._parsed(_PAGE_OF_RUNS, found).results if run.partition in tags]
        if runs:
            self._fruitless_since = None
            return runs
        self._fruitless_since = self._fruitless_since or time.monotonic()
        if time.monotonic() - self._fruitless_since > _PATIENCE:
            raise UserError(
                f"{self._at} has queued no run for {_PATIENCE:.0f} s ({reason}): see the log of its"
                " webserver; the same command goes on then"
            )
        return []

    def cancel(self, run: Run) -> None:
        """Mark a run as canceled that nobody has started, unless it has ended."""
        self._ask(_CANCEL, id=run.id)

    def summaries(self, ids: Sequence[str]) -> dict[str, Summary]:
        """The outcomes of runs that have published a window, by their ids."""
        found: dict[str, Summary] = {}
        for some in batched(ids, _WITH_EVENTS):
            for run in self._parsed(_ENDED, self._with_events(_SUMMARIES, some)):
                summary = _summary(run, self._feed)
                if summary is not None:
                    found[run.id] = summary
        return found

    def failures(self, ids: Sequence[str]) -> dict[str, str]:
        """Why runs failed, by their ids, as their steps said it."""
        found: dict[str, str] = {}
        for some in batched(ids, _WITH_EVENTS):
            for run in self._parsed(_FAILED, self._with_events(_FAILURES, some)):
                said = [(each.failure or {}).get("description") for each in run.events]
                told = [event.message for event in run.events if event.kind == "RunFailureEvent"]
                found[run.id] = redacted("; ".join(filter(None, said)) or "; ".join(told))
        return found

    @property
    def _at(self) -> str:
        return f"the Dagster instance at {shown_address(self._address)}"

    def _runs(self, filter_: Mapping[str, Any]) -> Iterator[Run]:
        """The runs of a filter that publish windows, in pages."""
        cursor: str | None = None
        while True:
            answer = self._ask(_RUNS, filter=filter_, cursor=cursor, limit=_PAGE)
            page = self._parsed(_PAGE_OF_RUNS, answer["runsOrError"]).results
            yield from (run for run in page if run.partition and run.publishes(self._feed))
            if len(page) < _PAGE:
                return
            cursor = page[-1].id

    def _with_events(self, query: str, ids: Sequence[str]) -> Any:
        answer = self._ask(query, filter={"runIds": list(ids)}, limit=len(ids))
        return answer["runsOrError"].get("results")

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer to a question, which may be asked several times.

        Raises:
            UserError: there was none in time, or it is none of Dagster's.
        """
        patience = _PATIENCE if self._answered else _FIRST_PATIENCE
        deadline = time.monotonic() + patience
        for pause in _BACKOFF.pauses():
            try:
                answer = self._once(query, variables)
            except NoAnswerError as error:
                if time.monotonic() + pause > deadline:
                    raise UserError(
                        f"{self._at} did not answer for {patience:.0f} s ({error}): start its"
                        " webserver, or set DAGSTER_WEBSERVER_URL to the address of the right one;"
                        " the same command goes on then"
                    ) from None
                self._on_wait(str(error))
                time.sleep(pause)
            else:
                self._answered = True
                return answer
        raise AssertionError("the patience ends before the attempts")

    def _once(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            NoAnswerError: there was none, or an error that may pass.
            UserError: the server is no webserver of Dagster, or refuses the request.
        """
        try:
            response = self._pool.request(
                "POST",
                f"{self._address}/graphql",
                json={"query": query, "variables": dict(variables)},
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswerError(f"no answer, {type(error).__name__}") from None
        if response.status in _PASSING:
            raise NoAnswerError(_reason(response))
        if response.status in _REFUSED:
            raise UserError(
                f"{self._at} refuses requests with status {response.status}: set"
                " DAGSTER_WEBSERVER_URL to the address of the webserver itself, without a sign-in"
                " before it"
            )
        try:
            answer: Any = json.loads(response.data)
        except ValueError:
            answer = None
        data = answer.get("data") if isinstance(answer, dict) else None
        if response.status != _OK or not isinstance(data, dict):
            raise UserError(
                f"{self._at} does not answer as Dagster's webserver of this version does"
                f" ({_reason(response)}): see whether DAGSTER_WEBSERVER_URL is right"
            )
        return data

    def _parsed[T](self, adapter: TypeAdapter[T], answer: Any) -> T:
        try:
            return adapter.validate_python(answer)
        except ValidationError:
            raise UserError(
                f"{self._at} answers in another form than Dagster's webserver of this version:"
                " see whether both have the same version"
            ) from None


_PAGE_OF_RUNS: Final = TypeAdapter(_Runs)


def _reason(response: urllib3.BaseHTTPResponse) -> str:
    """The status of an answer, and the first error that it tells."""
    status = f"status {response.status}"
    try:
        told = [_message(json.loads(response.data))]
    except ValueError:
        told = []
    return ": ".join([status, *filter(None, told)])


def _message(answer: Any) -> str:
    """The first message in an answer, on whatever level."""
    if isinstance(answer, dict):
        if isinstance(message := answer.get("message"), str):
            return _shown(message)
        answer = [*answer.values()]
    return next(filter(None, map(_message, answer)), "") if isinstance(answer, list) else ""


def _shown(message: str) -> str:
    lines = [line.strip() for line in redacted(message).splitlines() if line.strip()]
    return lines[0][:_REASON_CHARACTERS] if lines else "it says no more"


def _summary(run: _Ended, feed: Feed) -> Summary | None:
    """The outcome of a run of a feed by its materializations; None if it published nothing."""
    metadata = {
        each.key.path[-1]: {entry.label: entry for entry in each.entries}
        for each in run.materializations
        if "/".join(each.key.path) == feed.asset(each.key.path[-1])
    }
    published = metadata.get(PUBLISHED)
    if published is None:
        return None
    rows = {
        asset: _number(entries, "dagster/partition_row_count", 0)
        for asset, entries in metadata.items()
    }
    sent = _number(published, "rows_sent", rows.get(RAW, 0))
    amounts = _records(published, "amounts")
    return Summary(
        partition=run.tags.get(PARTITION, ""),
        sent=sent,
        validated=rows.get(VALIDATED, rows[PUBLISHED]),
        quarantined=rows.get(QUARANTINED, sent - rows[PUBLISHED]),
        reasons={
            str(row["reason"]): int(row["rows"])
            for row in _records(metadata.get(QUARANTINED, {}), "reasons")
        },
        published=rows[PUBLISHED],
        amounts=(
            {str(row["currency"]): Decimal(str(row["amount"]).replace(",", "")) for row in amounts}
            if feed.contract.amount
            else None
        ),
        seconds=round((run.ended or 0.0) - (run.started or run.ended or 0.0), 3),
        uri=(published["dagster/uri"].text or "") if "dagster/uri" in published else "",
    )


def _number(entries: Mapping[str, _Entry], label: str, otherwise: int) -> int:
    entry = entries.get(label)
    return otherwise if entry is None or entry.number is None else int(entry.number)


def _records(entries: Mapping[str, _Entry], label: str) -> list[dict[str, Any]]:
    entry = entries.get(label)
    table = None if entry is None else entry.table
    return [] if table is None else [json.loads(record) for record in table.get("records", [])]
