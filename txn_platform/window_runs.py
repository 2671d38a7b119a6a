"""Runs of several windows, one after another: which are skipped, and how each of them ended.

`window_states` finds the windows that need no run, `runs` runs one, and `terminal` has the texts
for people. Dagster is imported when a session begins, while its generator starts.
"""

from __future__ import annotations

import traceback
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import click

from txn_platform.card_key import card_key
from txn_platform.errors import UserError
from txn_platform.feeds import GENERATOR_FEED
from txn_platform.lake.opening import open_lake
from txn_platform.local.processes import generator_url, start_generator
from txn_platform.redaction import redacted
from txn_platform.window_states import KnownRuns, WindowStates

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from txn_platform.feeds import Feed
    from txn_platform.interrupts import Interrupts
    from txn_platform.run_summary import Summary
    from txn_platform.settings import Settings
    from txn_platform.source.client import Source
    from txn_platform.window_states import WindowState
    from txn_platform.windows import Window


@dataclass(frozen=True)
class Result:
    """How one window ended.

    Attributes:
        partition: its key.
        outcome: a window that was `interrupted` by Ctrl-C is as it was before.
        summary: of a window that was published now.
        state: of a window that was skipped.
        error: why it failed; of a bug, with the traceback.
    """

    partition: str
    outcome: Literal["published", "skipped", "failed", "interrupted"]
    summary: Summary | None = None
    state: WindowState | None = None
    error: str = ""

    def fields(self) -> dict[str, Any]:
        """The result as JSON values, on one level."""
        told: dict[str, Any] = {"partition": self.partition, "outcome": self.outcome}
        if self.summary is not None:
            told |= self.summary.model_dump(mode="json")
        if self.state is not None:
            told |= {
                "published": self.state.rows,
                "quarantined": self.state.quarantined,
                "uri": self.state.uri,
            }
        return {**told, "error": self.error} if self.error else told


@contextmanager
def started_source(
    settings: Settings, feed: Feed = GENERATOR_FEED
) -> Generator[Callable[[], tuple[str | None, Source]]]:
    """Start a generator for the block, if it is needed and the settings name none.

    Yields:
        A function that waits until the generator answers, and returns the address of one that was
            started, and the source's client.
    """
    is_there = feed.prefix or settings.generator_url
    with nullcontext() if is_there else start_generator() as generator:

        def client() -> tuple[str | None, Source]:
            started = generator_url(generator) if generator else None
            return started, feed.source(settings, url=started or settings.generator_url or "")

        yield client


def as_they_should_be(
    settings: Settings,
    source: Source,
    windows: Sequence[Window],
    on_progress: Callable[[int], None],
    feed: Feed = GENERATOR_FEED,
) -> dict[str, WindowState]:
    """By partition key, the windows that are published as they should be.

    Args:
        settings: with the lake.
        source: to compare with.
        windows: to look at.
        on_progress: called with the number of windows that were looked at.
        feed: that the windows are of.

    Raises:
        UserError: the lake can't be listed.
    """
    states = WindowStates(open_lake(settings), settings, source, feed)
    found = states.of(windows, KnownRuns(), on_progress)
    return {state.partition: state for state in found if state.state == "published"}


class Runs(Protocol):
    """Lands, validates and publishes a window; see `runs.materialize`."""

    def __call__(
        self, window: Window, *, on_progress: Callable[[str], None], allow_empty: bool
    ) -> Summary:
        """Run it."""
        ...


@dataclass(frozen=True)
class Session:
    """All that runs of windows share.

    Attributes:
        settings: of all of them.
        source: its client.
        run: runs one window.
        feed: that the windows are of.
    """

    settings: Settings
    source: Source
    run: Runs
    feed: Feed = GENERATOR_FEED

    def right(
        self, windows: Sequence[Window], on_progress: Callable[[int], None]
    ) -> dict[str, WindowState]:
        """By partition key, the windows that are published as they should be.

        Args:
            windows: to look at.
            on_progress: called with the number of windows that were looked at.

        Raises:
            UserError: there is no card key, or the lake can't be listed.
        """
        if self.feed.contract.card:
            # Made now if there is none, as the first run would.
            card_key(self.feed.settings(self.settings))
        return as_they_should_be(self.settings, self.source, windows, on_progress, self.feed)


@contextmanager
def session(settings: Settings, feed: Feed = GENERATOR_FEED) -> Generator[Session]:
    """Start all that runs of windows need.

    Raises:
        UserError: a part of it can't be started.
    """
    with started_source(settings, feed) as client:
        from txn_platform.runs import dagster_instance, end_killed_runs, materialize

        with dagster_instance() as instance:
            end_killed_runs(instance)
            started, source = client()
            run = partial(materialize, instance=instance, source_url=started, feed=feed)
            yield Session(settings, source, run, feed)


def run_windows(
    windows: Sequence[Window],
    right: Mapping[str, WindowState],
    run: Callable[[Window], Summary],
    interrupts: Interrupts,
) -> Iterator[Result]:
    """Run windows one after another; go on after one that failed, end after a Ctrl-C.

    Args:
        windows: in the order of their runs.
        right: by partition key, those that are skipped.
        run: lands, validates and publishes a window.
        interrupts: lets the first Ctrl-C wait while a window runs, unless it is the last.

    Yields:
        The result of each window, as soon as it is known.
    """
    left = [window for window in windows if window.partition_key not in right]
    for window in windows:
        key = window.partition_key
        if key in right:
            yield Result(key, "skipped", state=right[key])
            continue
        try:
            with nullcontext() if window == left[-1] else interrupts.finishing():
                summary = run(window)
        except KeyboardInterrupt:
            yield Result(key, "interrupted")
            return
        except click.ClickException:
            # Of an argument: each window would fail in the same way.
            raise
        except UserError as error:
            yield Result(key, "failed", error=str(error))
        except Exception as error:
            told = str(error) if type(error) is RuntimeError else traceback.format_exc()
            yield Result(key, "failed", error=redacted(told.rstrip()))
        else:
            yield Result(key, "published", summary=summary)
        if interrupts.stopping:
            return
