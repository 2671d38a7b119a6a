"""Windows that are handed to the run queue of a Dagster instance, and followed to their ends.

The counterpart of `window_runs`, which runs windows in its own process. Texts for people are in
`terminal`.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from txn_platform.contract.schema import PUBLISHED
from txn_platform.defs.names import PRIORITY, RETRIED_AS, WILL_RETRY
from txn_platform.defs.priorities import priority_tags
from txn_platform.errors import UserError
from txn_platform.homes import locked
from txn_platform.lake.layout import object_key
from txn_platform.window_runs import Result
from txn_platform.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from txn_platform.feeds import Feed
    from txn_platform.interrupts import Interrupts
    from txn_platform.lake.base import Lake
    from txn_platform.run_queue import Run, RunQueue

# Seconds between two looks at the instance, and between two at all of its unfinished runs.
_POLL: Final = 2.0
_LOOK_AT_ALL: Final = 60.0
# Clocks of an instance's processes differ, and a record is seen a moment after its time.
_OVERLAP: Final = 10.0
# Dagster marks a failed run for a retry just after it fails, and soon makes the run.
_MARKED_WITHIN: Final = 5.0
_RETRIED_WITHIN: Final = 600.0
# A webserver that ends between making and queueing a run leaves one that nobody starts.
_QUEUED_WITHIN: Final = 60.0
# The webserver answers nobody while it makes the runs of a request.
_SECONDS_A_BATCH: Final = 3.0
_FIRST_BATCH: Final = 10
_LARGEST_BATCH: Final = 200


@dataclass
class Submission:
    """The windows of a command, on their way through the queue.

    Attributes:
        queue: of the instance.
        lake: where the runs must publish.
        home: the directory whose lock keeps commands beside this one from the same windows.
        feed: that the windows are of.
        config: of the runs.
        waiting: the tags of the runs to submit, by partition key, in their order.
        followed: by partition key, the runs that are queued or running.
    """

    queue: RunQueue
    lake: Lake
    home: Path
    feed: Feed
    config: dict[str, Any]
    waiting: dict[str, dict[str, str]]
    followed: dict[str, Run] = field(default_factory=dict[str, "Run"])
    _id: str = field(default_factory=lambda: str(uuid.uuid4()))
    _since: float = field(default_factory=lambda: time.time() - _RETRIED_WITHIN)
    _all_at: float = 0.0
    _batch: int = _FIRST_BATCH
    # Since when a run has had a status that should pass, by both.
    _seen_at: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    _tags: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    # Runs that had ended before the first look.
    _before: set[str] | None = None

    @classmethod
    def of(
        cls,
        windows: Sequence[Window],
        queue: RunQueue,
        lake: Lake,
        home: Path,
        feed: Feed,
        *,
        watermark: datetime,
        settles_after: timedelta,
        config: dict[str, Any],
    ) -> Submission:
        """The submission of some windows, those of the highest priority first.

        Args:
            windows: that need a run, the oldest first.
            queue: of the instance.
            lake: where the runs must publish.
            home: `TXN_HOME`.
            feed: that the windows are of.
            watermark: until which the source is complete.
            settles_after: how long after its end rows of a window may arrive.
            config: of the runs.
        """
        tags = {
            window.partition_key: priority_tags(window, watermark, settles_after)
            for window in windows
        }
        ordered = sorted(tags.items(), key=lambda each: -int(each[1][PRIORITY]))
        return cls(queue, lake, home, feed, config, dict(ordered), _tags=tags)

    def __str__(self) -> str:
        """As `4 running, 120 queued, 77 to submit`."""
        queued = sum(run.queued for run in self.followed.values())
        counts = {
            "running": len(self.followed) - queued,
            "queued": queued,
            "to submit": len(self.waiting),
        }
        return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)

    def left(self) -> dict[str, list[Window]]:
        """The windows without a result, by the reason why."""
        return {
            "queued or running": sorted(map(Window.of_partition, self.followed)),
            "not submitted": sorted(map(Window.of_partition, self.waiting)),
        }

    def results(self, interrupts: Interrupts) -> Iterator[Result | None]:
        """Submit the windows, follow them, and yield the result of each as soon as it is known.

        Args:
            interrupts: lets a Ctrl-C wait for the answer to a request that queues runs, so that it
                is known what was queued.

        Yields:
            None after each look at the instance, so that a caller can show how far it is.

        Raises:
            UserError: the webserver stayed away, or the instance refuses a run or publishes to
                another lake.
        """
        while self.waiting or self.followed:
            yield None
            if self.waiting:
                # Another command would not see the runs of this batch yet.
                with locked(self.home):
                    ended = self._look()
                    with interrupts.finishing():
                        self._submit_some()
            else:
                time.sleep(_POLL)
                ended = self._look()
            yield from self._results_of(ended)
            if interrupts.stopping:
                return

    def _submit_some(self) -> None:
        some = dict(list(self.waiting.items())[: self._batch])
        if not some:
            return
        begun = time.monotonic()
        for run in self.queue.submit(some, self._id, self.config):
            self._follow(run)
        seconds = max(time.monotonic() - begun, 1e-3)
        fitting = round(len(some) * _SECONDS_A_BATCH / seconds)
        self._batch = max(1, min(fitting, 2 * self._batch, _LARGEST_BATCH))

    def _follow(self, run: Run) -> None:
        self.waiting.pop(run.partition, None)
        self.followed[run.partition] = run

    def _look(self) -> dict[str, Run | None]:
        """Ask which runs have changed.

        Returns:
            By partition key, the runs that have ended for good; None for one that was deleted.
        """
        changed = {run.id: run for run in self.queue.changed(self._since)}
        # Their status should pass soon.
        again = {
            run.id
            for run in self.followed.values()
            if not run.unfinished or run.status == "NOT_STARTED"
        }
        deleted: set[str] = set()
        if time.monotonic() >= self._all_at:
            changed |= {run.id: run for run in self.queue.unfinished()}
            again |= {run.id for run in self.followed.values()} - changed.keys()
            self._all_at = time.monotonic() + _LOOK_AT_ALL
        if again := again - changed.keys():
            changed |= {run.id: run for run in self.queue.of_ids(again)}
            deleted = again - changed.keys()
        moments = [run.updated for run in changed.values() if run.updated is not None]
        self._since = max([self._since, *(moment - _OVERLAP for moment in moments)])
        # The oldest of several unfinished runs of a window is followed.
        for run in sorted(changed.values(), key=lambda run: run.created):
            followed = self.followed.get(run.partition)
            if followed is not None and followed.id == run.id:
                self.followed[run.partition] = run
            elif run.partition in self.waiting and self._settles(run):
                self._follow(run)
        if self._before is None:
            self._before = {run.id for run in changed.values() if not run.unfinished}
        self._submit_again_what_is_stuck()
        ended: dict[str, Run | None] = {}
        for key, run in list(self.followed.items()):
            if run.id in deleted:
                del self.followed[key]
                ended[key] = None
        ended |= self._ended([run for run in self.followed.values() if not run.unfinished])
        return ended

    def _ended(self, finished: list[Run]) -> dict[str, Run | None]:
        """Those of some finished runs that Dagster does not retry; the others are followed."""
        ended: dict[str, Run | None] = {}
        while finished:
            retried: dict[str, str] = {}
            for run in finished:
                if run.status == "FAILURE" and RETRIED_AS in run.tags:
                    retried[run.tags[RETRIED_AS]] = run.partition
                elif not self._may_be_retried(run):
                    ended[self.followed.pop(run.partition).partition] = run
            found = {run.id: run for run in self.queue.of_ids(retried)} if retried else {}
            for run_id, key in retried.items():
                if run_id in found:
                    self.followed[key] = found[run_id]
                else:
                    ended[self.followed.pop(key).partition] = None
            finished = [run for run in found.values() if not run.unfinished]
        return ended

    def _settles(self, run: Run) -> bool:
        """Whether a run that others have made decides about a window that is not submitted yet."""
        if run.unfinished or run.awaits_retry:
            return True
        return run.status == "SUCCESS" and self._before is not None and run.id not in self._before

    def _may_be_retried(self, run: Run) -> bool:
        """Whether Dagster may be about to run a failed run again."""
        if run.status != "FAILURE" or run.tags.get(WILL_RETRY) == "false":
            return False
        if RETRIED_AS in run.tags:
            return True
        return self._seconds_seen(run) < (
            _RETRIED_WITHIN if WILL_RETRY in run.tags else _MARKED_WITHIN
        )

    def _submit_again_what_is_stuck(self) -> None:
        """Let windows wait again whose runs were made and never queued."""
        for key, run in list(self.followed.items()):
            if run.status == "NOT_STARTED" and self._seconds_seen(run) > _QUEUED_WITHIN:
                if run.of_command:
                    self.queue.cancel(run)
                elif self._seconds_seen(run) < _RETRIED_WITHIN:
                    continue
                del self.followed[key]
                self.waiting[key] = self._tags[key]

    def _seconds_seen(self, run: Run) -> float:
        """For how long a run has been seen in its status."""
        since = self._seen_at.setdefault((run.id, run.status), time.monotonic())
        return time.monotonic() - since

    def _results_of(self, ended: dict[str, Run | None]) -> Iterator[Result]:
        by_status: dict[str, list[str]] = {}
        for run in ended.values():
            if run is not None:
                by_status.setdefault(run.status, []).append(run.id)
        summaries = self.queue.summaries(by_status.get("SUCCESS", []))
        failures = self.queue.failures(by_status.get("FAILURE", []))
        for key, run in ended.items():
            if run is None:
                yield Result(
                    key, "failed", error="its run was deleted: the same command submits it again"
                )
            elif run.status != "SUCCESS":
                yield Result(key, "failed", error=_failure(run, failures.get(run.id, "")))
            elif run.id not in summaries:
                yield Result(key, "failed", error=f"run {run.id} has published nothing")
            else:
                summary = summaries[run.id]
                published = self.feed.asset(PUBLISHED)
                expected = self.lake.uri(object_key(published, Window.of_partition(key)))
                if summary.uri != expected:
                    raise UserError(
                        f"the instance has published {key} as {summary.uri}, and this command looks"
                        f" for {expected}: give both the settings of one lake"
                    )
                yield Result(key, "published", summary=summary)


def _failure(run: Run, reason: str) -> str:
    if run.status == "CANCELED":
        return f"run {run.id} was canceled"
    return f"run {run.id}: {reason or 'it failed'}"
