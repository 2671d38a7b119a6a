"""`txn`, the command line of the platform: its arguments and its output.

The work is done elsewhere and imported when a command needs it, because `txn --help` must answer
at once.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, override

import click

from txn_platform.errors import UserError
from txn_platform.tuning import tune_process

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from rich.table import Table

    from txn_platform.runs import Summary
    from txn_platform.settings import Settings
    from txn_platform.windows import Window

# Columns: more than any row of a table has.
_UNBOUNDED = 1_000
# More than a window can be old.
_MAX_DAYS = 100_000
# Commands of other packages, with their help. Repeated here because reading the metadata of all
# installed packages would double the time of `txn --help`.
_ELSEWHERE = {
    "generate": "Write synthetic transactions, with no server and no Dagster.",
    "scorecard": "Measure how realistic the generator's data is;"
    " exit code 1 when a measure is out of range.",
}
# The assets' names, without an import of what defines them.
_RAW = "raw_transactions"
_QUARANTINED = "quarantined_transactions"


def _end_without_output(error: OSError) -> NoReturn:
    """End the process after standard output has failed, without a message if its reader is gone."""
    with suppress(OSError, ValueError):
        # Python would flush the rest at exit, and fail again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    if not isinstance(error, BrokenPipeError):
        click.echo(f"Error: standard output cannot be written: {error.strerror}", err=True)
    sys.exit(1)


@contextmanager
def _printing() -> Generator[None]:
    """End the process with one message if standard output fails in the block."""
    try:
        yield
    except OSError as error:
        _end_without_output(error)


def _print(text: str) -> None:
    with _printing():
        click.echo(text)


class _Command(click.Command):
    """A command. Its help is printed while its context is created."""

    @override
    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _printing():
            return super().make_context(*args, **extra)


class _Elsewhere(click.Command):
    """A command of another package, loaded by its entry point when it is used."""

    @override
    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        from txn_platform.extensions import command

        # click invokes the command of the context, so this is the loaded one.
        return command(str(self.name)).make_context(*args, **extra)


class _Cli(click.Group):
    """A group whose commands report a `UserError` as one message."""

    command_class = _Command

    @override
    def main(self, *args: Any, **extra: Any) -> Any:
        if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - when it is closed
            click.echo("Error: standard output is closed: open it, or use /dev/null", err=True)
            sys.exit(1)
        return super().main(*args, **extra)

    @override
    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _printing():
            return super().make_context(*args, **extra)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.ClickException(str(error)) from None


class _Days(click.ParamType[timedelta]):
    name = "days"

    @override
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        number = str(value).removesuffix("d")
        digits = number.isascii() and number.isdecimal()
        if not digits or number == value or int(number) > _MAX_DAYS:
            self.fail(f"{value!r} is not a number of days up to {_MAX_DAYS}: write 30d", param, ctx)
        return timedelta(days=int(number))


def program() -> None:
    """The program `txn`, in a process of its own."""
    tune_process()
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of shops have letters that locales without UTF-8 lack.
        sys.stdout.reconfigure(errors="backslashreplace")
    main()


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="txn-platform", prog_name="txn")
def main() -> None:
    """Financial transactions, from an API to a lake on S3."""


for _name, _help in _ELSEWHERE.items():
    main.add_command(_Elsewhere(_name, help=_help))


@main.command()
@click.option("--partition", metavar="KEY", help="The hour to run, as 2026-11-01-00:00 (UTC).")
@click.option(
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run the N newest complete hours, oldest first.  [default: 1]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a window.")
@click.option(
    "--allow-empty",
    is_flag=True,
    help="Let a window come back without rows where the lake has some.",
)
def run(partition: str | None, last: int | None, *, as_json: bool, allow_empty: bool) -> None:
    """Materialize hours: land, validate, publish."""
    if partition is not None and last is not None:
        raise click.UsageError("--partition and --last exclude each other.")
    summaries = _materialize(partition, last or 1, allow_empty=allow_empty)
    if as_json:
        for summary in summaries:
            _print(summary.model_dump_json(ensure_ascii=True))
    else:
        _print_summaries(list(summaries))


@main.command()
@click.option("--directory", is_flag=True, help="Use the directory lake instead of an S3 server.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, help="Of the Dagster UI.")
def dev(*, directory: bool, port: int) -> None:
    """Run the generator, an S3 server and the Dagster UI until Ctrl-C."""
    from txn_platform.local.stack import local_stack_services

    with local_stack_services(directory=directory, ui=True, ui_port=port) as services:
        for name, address in services.addresses.items():
            _print(f"{name:10} {address}")
        _print("Ctrl-C stops all of them.")
        services.wait()


@main.command()
@click.option("--directory", is_flag=True, help="Use the directory lake instead of an S3 server.")
def demo(*, directory: bool) -> None:
    """Run the newest complete hour once, with its own servers, and show the result."""
    from txn_platform.local.stack import local_stack_services

    with local_stack_services(directory=directory, ui=False) as services:
        for name, address in services.addresses.items():
            _print(f"{name:10} {address}")
        os.environ.update(services.environment)
        summaries = list(_materialize(None, 1))
        _print_published(summaries[0])
        _print_summaries(summaries)


@main.command()
def doctor() -> None:
    """Check settings, source and lake, and say what to fix."""
    import logging

    from txn_platform.console_logs import handling_logs
    from txn_platform.doctor import examine
    from txn_platform.extensions import variables
    from txn_platform.settings import load_settings

    with suppress(UserError):
        # A wrong setting is the first finding.
        _say_what_is_in_use(load_settings(), source=True)
    names, failures = variables()
    for failure in failures:
        click.echo(f"note: {failure}", err=True)
    failed = False
    # Findings state the number of attempts, so warnings about retries are not shown.
    with handling_logs(logging.NullHandler()):
        for finding in examine(names):
            failed |= not finding.good
            mark, colour = (
                ("FAIL", "red")
                if not finding.good
                else ("note", "yellow")
                if finding.note
                else ("ok  ", "green")
            )
            mark = click.style(mark, fg=colour)
            _print(f"{mark}  {finding.subject:8}  {finding.message}")
    if failed:
        sys.exit(1)


@main.command()
@click.option("--partition", metavar="KEY", help="One hour, as 2026-11-01-00:00.  [default: all]")
def quarantine(partition: str | None) -> None:
    """Show what is quarantined: rows by reason, with masked examples.

    A landed hour that was not published since is validated now; nothing is written.
    """
    from rich.table import Table

    from txn_platform.lake.opening import open_lake
    from txn_platform.lake.quarantine import look_into
    from txn_platform.local.in_use import lake_in_use
    from txn_platform.settings import load_settings
    from txn_platform.windows import Window

    window = None if partition is None else Window.of_partition(partition)
    settings = load_settings()
    _say_what_is_in_use(settings)
    found = look_into(open_lake(settings), _RAW, _QUARANTINED, window)
    for each in found.validated:
        _print(f"{each.partition_key} was not published since it was landed: validated now.")
    if not found.reasons:
        _print(f"Nothing is quarantined in {lake_in_use(settings)}.")
        return
    table = Table("reason", "rows", "examples, card numbers masked")
    table.columns[1].justify = "right"
    for name, reason in found.reasons.items():
        table.add_row(name, f"{reason.rows:,}", ", ".join(map(repr, reason.examples)))
    _print_table(table)


@main.command()
@click.option("--older-than", type=_Days(), required=True, metavar="30d", help="By its window.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def expire(older_than: timedelta, *, yes: bool) -> None:
    """Remove old raw and quarantined objects, which hold card numbers in clear.

    Validated and published objects stay.
    """
    from txn_platform.lake.expiry import expiring, remove
    from txn_platform.lake.opening import open_lake
    from txn_platform.settings import load_settings

    settings = load_settings()
    _say_what_is_in_use(settings)
    lake = open_lake(settings)
    # Files of killed runs may have card numbers too.
    lake.sweep()
    found = expiring(lake, (_RAW, _QUARANTINED), datetime.now(UTC) - older_than)
    stays = Counter(found.unseen)
    for stranger in found.strangers:
        click.echo(f"{lake.uri(stranger)} is no hour's object, and stays.", err=True)
    what = f"{_RAW} and {_QUARANTINED}"
    if found.versions:
        what = f"{found.count} of {what}, {found.span}"
        if not yes:
            click.confirm(f"Remove {what}, from {lake.uri('')} for good?", abort=True)
    done = remove(lake, found)
    stays.update(done.stays)
    _print(f"{done.removed:,} objects removed of {what}, from {lake.uri('')}.")
    for reason, count in stays.items():
        click.echo(f"Not removed ({count:,}): {reason}.", err=True)
    if stays:
        sys.exit(1)


@main.command()
@click.option(
    "--keep",
    type=_Days(),
    default="7d",
    show_default=True,
    metavar="7d",
    help="How long files stay that the newest version does not need.",
)
def optimize(keep: timedelta) -> None:
    """Merge small files of the Delta table, and delete files that no version needs."""
    from txn_platform.lake.delta import open_delta, require_delta
    from txn_platform.settings import load_settings

    if keep < timedelta(days=1):
        raise click.UsageError("--keep must be at least 1d: runs and queries under way need files.")
    settings = load_settings()
    delta = require_delta(open_delta(settings))
    click.echo(f"table: {delta.uri}", err=True)
    done = delta.optimize(keep)
    _print(
        f"{delta.uri}, version {done.version}:"
        f" {done.merged:,} files merged, {done.removed:,} deleted"
    )


def _materialize(
    partition: str | None, last: int, *, allow_empty: bool = False
) -> Iterator[Summary]:
    """Run windows one after another, with progress on standard error."""
    from rich.console import Console

    from txn_platform.console_logs import ConsoleHandler, handling_logs
    from txn_platform.homes import dagster_home, writable_home
    from txn_platform.settings import load_settings
    from txn_platform.windows import Window

    # Errors of the arguments are reported before anything starts.
    asked = None if partition is None else [Window.of_partition(partition)]
    settings = load_settings()
    writable_home(settings)
    dagster_home(settings)
    if settings.source_transactions is not None and settings.generator_url is None:
        raise UserError(
            "TXN_SOURCE_TRANSACTIONS is set without GENERATOR_URL: set both, or neither"
        )
    _say_what_is_in_use(settings, source=True)
    console = Console(stderr=True)
    with ExitStack() as stack:
        status = stack.enter_context(console.status("starting Dagster"))
        stack.enter_context(handling_logs(ConsoleHandler(console)))
        from txn_platform.local.processes import generator_url, start_generator

        # A generator of its own starts while Dagster is imported.
        url = settings.generator_url or ""
        generator = None if url else stack.enter_context(start_generator())
        from txn_platform.runs import dagster_instance, materialize
        from txn_platform.source.client import Source, source_api, source_limits

        if generator:
            url = generator_url(generator)
        for window in asked or _newest(
            Source(url, source_api(settings), source_limits(settings)).watermark(), last
        ):
            yield materialize(
                window,
                instance=stack.enter_context(dagster_instance()),
                source_url=url,
                on_progress=lambda doing, window=window: status.update(
                    f"{window.partition_key}: {doing}"
                ),
                allow_empty=allow_empty,
            )


def _say_what_is_in_use(settings: Settings, *, source: bool = False) -> None:
    """Print on standard error the lake, the source and a local stack beside them."""
    from txn_platform.local.in_use import lake_in_use, local_stack, source_in_use

    lines = [f"lake: {lake_in_use(settings)}"]
    if source:
        lines.append(f"source: {source_in_use(settings)}")
    if (beside := local_stack(settings)) is not None:
        lines.append(f"note: {beside}")
    for line in lines:
        click.echo(line, err=True)


def _newest(watermark: datetime, count: int) -> list[Window]:
    """The newest windows that are complete, oldest first, so many or as many as there are."""
    from txn_platform.windows import FIRST_WINDOW_START, WINDOW_LENGTH, Window, full_hour, iso

    # Dagster has no partitions for hours that have not ended by its clock.
    end = full_hour(min(watermark, datetime.now(UTC)))
    count = min(count, (end - FIRST_WINDOW_START) // WINDOW_LENGTH)
    if count < 1:
        raise UserError(f"the source has no complete hour yet: its watermark is {iso(watermark)}")
    return [Window(end - WINDOW_LENGTH * age) for age in range(count, 0, -1)]


def _print_summaries(summaries: list[Summary]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("partition", overflow="fold")
    for name in ("sent", "validated", "quarantined", "published", "amount", "s"):
        table.add_column(name, justify="right", overflow="fold")
    for summary in summaries:
        table.add_row(
            summary.partition,
            *(
                f"{rows:,}"
                for rows in (
                    summary.sent,
                    summary.validated,
                    summary.quarantined,
                    summary.published,
                )
            ),
            f"{summary.amount:,}",
            f"{summary.seconds:.1f}",
        )
    _print_table(table)
    reasons = {
        reason: sum(summary.reasons.get(reason, 0) for summary in summaries)
        for reason in sorted({reason for summary in summaries for reason in summary.reasons})
    }
    for reason, count in reasons.items():
        _print(f"quarantined for {reason}: {count:,}")
    for summary in summaries:
        _print(summary.uri)


def _print_published(summary: Summary) -> None:
    """Show the object in the store, and its first rows."""
    from rich.table import Table

    from txn_platform.defs.checks import PUBLISHED
    from txn_platform.lake.layout import object_key
    from txn_platform.lake.opening import open_lake
    from txn_platform.settings import load_settings
    from txn_platform.windows import Window, iso

    lake = open_lake(load_settings())
    key = object_key(PUBLISHED, Window.of_partition(summary.partition))
    stored = lake.find(key)
    if stored is None:
        raise UserError(f"{lake.uri(key)} is not there, although it was just published")
    _print(f"{stored.uri}, {stored.size:,} bytes")
    columns = ["transaction_at", "card_number", "merchant_name", "transaction_type", "amount"]
    batch = next(lake.open(key).iter_batches(batch_size=5, columns=columns))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name != "merchant_name")
    for row in batch.to_pylist():
        table.add_row(iso(row.pop("transaction_at")), *(str(value) for value in row.values()))
    _print_table(table)


def _print_table(table: Table) -> None:
    """Print a table. Without a terminal it is as wide as its rows."""
    from rich.console import Console

    # Rows may contain rich's markup.
    width = None if sys.stdout.isatty() else _UNBOUNDED
    with _printing():
        Console(width=width, markup=False, emoji=False).print(table)
