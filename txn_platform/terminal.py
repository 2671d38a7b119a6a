"""Texts and tables of `txn run` and `txn status`, for terminals of any width and for files.

The commands print them. Each state and outcome has a letter or a word, so that colours only help.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from txn_platform.windows import WINDOW_LENGTH, Window

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

    from txn_platform.card_key_rotation import RotationPlan
    from txn_platform.window_runs import Result
    from txn_platform.window_states import State, WindowState

_MARKS: Final[dict[State, tuple[str, str]]] = {
    "published": ("#", "green"),
    "missing": (".", "yellow"),
    "changed": ("~", "cyan"),
    "outdated": ("o", "cyan"),
    "failed": ("x", "red"),
    "queued": (":", "blue"),
    "running": (">", "blue"),
    "unknown": ("?", "magenta"),
}
_HOURS: Final = 24
_HOURS_HEADING: Final = "0     6     12    18    "
_SECONDS_BETWEEN_LINES: Final = 30.0
# Ranges of windows that are named; the others are counted.
_NAMED: Final = 20


class Progress:
    """How far a command is that runs several windows.

    Args:
        count: the windows to run.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._done = self._rows = 0
        self._begun = time.monotonic()

    def add(self, result: Result) -> None:
        """Count a window that was run."""
        self._done += 1
        self._rows += result.summary.sent if result.summary else 0

    def __str__(self) -> str:
        """As `37 of 200, 665,000 rows, 9,400 rows/s, ETA 0:12:03`."""
        text = f"{self._done:,} of {self.count:,}, {self._rows:,} rows"
        seconds = time.monotonic() - self._begun
        if not self._done:
            return text
        left = _clock(seconds / self._done * (self.count - self._done))
        return f"{text}, {self._rows / max(seconds, 1e-3):,.0f} rows/s, ETA {left}"


def is_plain(console: Console) -> bool:
    """Whether there is no terminal that shows a spinner."""
    return not console.is_terminal or console.is_dumb_terminal


class StatusLine:
    """A line that says how far a command is, on standard error.

    It is a spinner in a terminal. Elsewhere a line is printed every half a minute.

    Attributes:
        plain: whether there is no terminal with a spinner.
    """

    def __init__(self, console: Console, spinner: str) -> None:
        """Args: console: of standard error; spinner: the name of one of rich's."""
        self.plain = is_plain(console)
        self._console = console
        self._status = console.status("", spinner=spinner)
        self._printed_at = time.monotonic()

    @contextmanager
    def shown(self, text: str) -> Generator[None]:
        """Show the line until the block ends."""
        try:
            self.show(text)
            yield
        finally:
            self.hide()

    def show(self, text: str) -> None:
        """Show a text, again after `hide`."""
        self._status.update(text)
        self._status.start()
        if self.plain and time.monotonic() - self._printed_at > _SECONDS_BETWEEN_LINES:
            self._printed_at = time.monotonic()
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def hide(self) -> None:
        """Clear the line, before a result is printed, which would be in it."""
        self._status.stop()


def result_line(result: Result) -> str:
    """A published window in one line."""
    summary = result.summary
    if summary is None:
        return f"{result.partition}  {result.outcome}"
    rate = summary.sent / max(summary.seconds, 1e-3)
    return (
        f"{result.partition}  {result.outcome}  {summary.published:,} rows,"
        f" {summary.quarantined:,} quarantined, {summary.seconds:.1f} s, {rate:,.0f} rows/s"
    )


def results_table(results: Sequence[Result], left: Mapping[str, Sequence[Window]]) -> Table:
    """The windows of a command by outcome, with the sums of their rows.

    Args:
        results: of the windows that have one.
        left: those without a result, by the reason why.
    """
    table = _table("outcome", "windows", "sent", "quarantined", "published", "s", "partitions")
    table.columns[-1].justify = "left"
    for outcome in ("published", "skipped", "failed", "interrupted"):
        found = [result for result in results if result.outcome == outcome]
        if not found:
            continue
        runs = [result.summary for result in found if result.summary is not None]
        sums = ("", "", "", "")
        if runs:
            sums = (
                f"{sum(run.sent for run in runs):,}",
                f"{sum(run.quarantined for run in runs):,}",
                f"{sum(run.published for run in runs):,}",
                f"{sum(run.seconds for run in runs):,.1f}",
            )
        windows = [Window.of_partition(result.partition) for result in found]
        table.add_row(outcome, f"{len(found):,}", *sums, ", ".join(_ranges(windows)))
    for reason, windows in left.items():
        if windows:
            named = ", ".join(_ranges(windows))
            table.add_row(reason, f"{len(windows):,}", "", "", "", "", named)
    return table


def stopped(results: Sequence[Result], windows: Sequence[Window]) -> str:
    """A sentence for runs that Ctrl-C has ended; empty if it has not."""
    outcomes = Counter(result.outcome for result in results)
    if len(results) == len(windows) and not outcomes["interrupted"]:
        return ""
    not_run = len(windows) - len(results) + outcomes["interrupted"]
    return (
        f"Stopped by Ctrl-C: {outcomes['published']:,} published, {outcomes['skipped']:,} skipped,"
        f" {outcomes['failed']:,} failed, {not_run:,} not run. The same command runs the rest."
    )


def left_in_queue(results: Sequence[Result], left: Mapping[str, Sequence[Window]]) -> str:
    """A sentence for a submission that Ctrl-C has ended."""
    outcomes = Counter(result.outcome for result in results)
    rest = ", ".join(f"{len(windows):,} {reason}" for reason, windows in left.items() if windows)
    return (
        f"Stopped by Ctrl-C: {outcomes['published']:,} published, {outcomes['skipped']:,} skipped,"
        f" {outcomes['failed']:,} failed, {rest}. The queue stays as it is. The same command"
        " follows it, and submits the rest."
    )


def rotation_groups(plan: RotationPlan) -> Table:
    """The windows of a rotation of the card key: those that are rewritten, and those that stay."""
    table = _table("with another key", "windows", "keys", "partitions")
    table.columns[2].justify = table.columns[3].justify = "left"
    for name, windows in (
        ("landed: rewritten", plan.rewritten),
        ("not landed: mapped", plan.kept),
    ):
        spans = ", ".join(_ranges(list(windows))) if windows else ""
        table.add_row(name, f"{len(windows):,}", ", ".join(sorted(set(windows.values()))), spans)
    return table


def calendar(states: Sequence[WindowState]) -> Group:
    """The states of windows: a row for each day with a letter for each hour, then the meanings."""
    days: dict[str, dict[int, WindowState]] = {}
    for state in states:
        start = Window.of_partition(state.partition).start
        days.setdefault(f"{start:%Y-%m-%d}", {})[start.hour] = state
    table = _table("day", _HOURS_HEADING, "rows", "quarantined")
    table.columns[1].justify = "left"
    for day, hours in days.items():
        marks = Text()
        for hour in range(_HOURS):
            mark, colour = _MARKS[hours[hour].state] if hour in hours else (" ", "")
            marks.append(mark, colour)
        rows = [state.rows for state in hours.values() if state.rows is not None]
        known = [state for state in hours.values() if state.quarantined is not None]
        table.add_row(day, marks, f"{sum(rows):,}" if rows else "", _share(known) if known else "")
    return Group(table, Text(), _meanings(states))


def advice(states: Iterable[WindowState], feed: str | None = None) -> str:
    """The command that repairs the windows that are not as they should be, nor queued or running.

    Empty if there are none.
    """
    cared_for = {"published", "queued", "running"}
    wrong = [state.partition for state in states if state.state not in cared_for]
    of_feed = f" --feed {feed}" if feed else ""
    return f"txn run --from {wrong[0]} --to {wrong[-1]}{of_feed}" if wrong else ""


def _meanings(states: Sequence[WindowState]) -> Table:
    """The letters of a calendar, with the number of windows, and the windows that are not right."""
    table = _table("", "state", "windows", "partitions and reasons")
    table.columns[1].justify = table.columns[3].justify = "left"
    counts = Counter(state.state for state in states)
    for state, (mark, colour) in _MARKS.items():
        if not counts[state]:
            continue
        alike: dict[str, list[Window]] = {}
        for each in states:
            if each.state == state != "published":
                alike.setdefault(each.reason, []).append(Window.of_partition(each.partition))
        lines = [f"{', '.join(_ranges(windows))}: {why}" for why, windows in alike.items()]
        if len(lines) > _NAMED:
            lines = [*lines[:_NAMED], f"and {len(lines) - _NAMED:,} more reasons: see --json"]
        table.add_row(Text(mark, colour), state, f"{counts[state]:,}", "\n".join(lines))
    return table


def _table(*names: str) -> Table:
    """A table whose columns fold, with numbers on the right."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    return table


def _share(states: Sequence[WindowState]) -> str:
    quarantined = sum(state.quarantined or 0 for state in states)
    rows = quarantined + sum(state.rows or 0 for state in states)
    return f"{quarantined / (rows or 1):.2%}"


def _ranges(windows: Sequence[Window]) -> Iterator[str]:
    """Windows in words: one by its key, those that follow one another by the first and the last."""
    named = 0
    first = last = windows[0]
    for window in [*windows[1:], None]:
        if window is not None and window.start - last.start == WINDOW_LENGTH:
            last = window
            continue
        if named == _NAMED:
            yield "and more"
            return
        named += 1
        span = "" if first == last else f" to {last.partition_key}"
        yield f"{first.partition_key}{span}"
        if window is not None:
            first = last = window


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
