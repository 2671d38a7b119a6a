"""`txn`, the command line of the platform: its arguments and its output.

The work is done elsewhere and imported when a command needs it, because `txn --help` must answer
at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, override

import click

from txn_platform.chosen_lake import lake_as_given, lake_option
from txn_platform.errors import UserError
from txn_platform.tuning import tune_process

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from rich.console import Console, RenderableType

    from txn_platform.feeds import Feed
    from txn_platform.interrupts import Interrupts
    from txn_platform.local.cluster import Cluster
    from txn_platform.local.stack import Services
    from txn_platform.run_queue import RunQueue
    from txn_platform.run_summary import Summary
    from txn_platform.settings import Settings
    from txn_platform.source.client import Source
    from txn_platform.submission import Submission
    from txn_platform.terminal import StatusLine
    from txn_platform.window_runs import Result
    from txn_platform.window_states import KnownRuns, WindowState
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
# Of ASCII alone: not every terminal has more.
_SPINNER = "line"
# The assets' names, without an import of what defines them.
_RAW = "raw_transactions"
_QUARANTINED = "quarantined_transactions"
_PUBLISHED = "s3_parquet_transactions"

_feed_option = click.option(
    "--feed", metavar="NAME", help="A feed of TXN_FEEDS.  [default: the generator]"
)
_feed_option_of_all = click.option(
    "--feed", metavar="NAME", help="A feed of TXN_FEEDS.  [default: the generator, and all feeds]"
)
_module_option = click.option(
    "-m",
    "--module",
    "modules",
    multiple=True,
    default=["txn_platform.definitions"],
    metavar="MODULE",
    help="Definitions to load instead of the platform's own, as mine for mine.py.",
)


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
            context = super().make_context(*args, **extra)
        if os.environ.get("NO_COLOR"):
            # click itself leaves colours out only where the output is no terminal.
            context.color = False
        return context

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
@lake_option
@_feed_option
@click.option("--partition", metavar="KEY", help="The hour to run, as 2026-11-01-00:00 (UTC).")
@click.option(
    "--last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run the N newest complete hours, oldest first.  [default: 1]",
)
@click.option(
    "--from",
    "first",
    metavar="KEY",
    help="Run the hours from this one on: 2026-11-01-00:00, or a day, 2026-11-01 (UTC).",
)
@click.option(
    "--to",
    "until",
    metavar="KEY",
    help="The last of these hours, or a day.  [default: the newest complete hour]",
)
@click.option("--force", is_flag=True, help="Also run hours that are as they should be.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a window.")
@click.option(
    "--allow-empty",
    is_flag=True,
    help="Let a window come back without rows where the lake has some.",
)
@click.option(
    "--submit",
    is_flag=True,
    help="Hand the hours to the run queue of a Dagster instance, and follow them.",
)
def run(
    partition: str | None,
    last: int | None,
    first: str | None,
    until: str | None,
    feed: str | None,
    *,
    force: bool,
    as_json: bool,
    allow_empty: bool,
    submit: bool,
) -> None:
    """Materialize hours: land, validate, publish.

    Hours that are published as the source has them now, under today's contract and key, are
    skipped, unless --force or --partition says otherwise. After an hour that fails the others go
    on. Ctrl-C stops after the hour that runs; a second one stops at once.

    With --submit the instance of `txn cluster`, `txn dev` or DAGSTER_WEBSERVER_URL runs them. Hours
    that are queued or running already are followed only. Ctrl-C leaves the queue as it is.
    """
    from txn_platform.terminal import left_in_queue, stopped

    choose = _chosen(partition, last, first, until)
    force = force or partition is not None
    ended: list[Result] = []
    if submit:
        with _submission(choose, force=force, allow_empty=allow_empty, name=feed) as (
            windows,
            submitted,
            rest,
        ):
            with suppress(KeyboardInterrupt):
                for result in submitted:
                    ended.append(result)
                    _print_result(result, as_json=as_json, several=len(windows) > 1)
            left = rest()
        said = left_in_queue(ended, left) if any(left.values()) else ""
        ended.sort(key=lambda result: result.partition)
    else:
        with _runs(choose, force=force, name=feed) as (windows, results):
            for result in results(allow_empty=allow_empty):
                ended.append(result)
                _print_result(result, as_json=as_json, several=len(windows) > 1)
        left = {"not run": windows[len(ended) :]}
        said = stopped(ended, windows)
    if not as_json:
        _print_results(ended, left)
    if said:
        click.echo(said, err=True)
    good = sum(result.outcome in {"published", "skipped"} for result in ended)
    if good < len(windows):
        sys.exit(1)


@main.command()
@lake_option
@_feed_option
@click.option(
    "--from",
    "first",
    metavar="KEY",
    help="The first hour: 2026-11-01-00:00, or a day, 2026-11-01 (UTC).  [default: 7 days]",
)
@click.option(
    "--to",
    "until",
    metavar="KEY",
    help="The last hour, or a day.  [default: the newest complete hour]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a window.")
def status(first: str | None, until: str | None, feed: str | None, *, as_json: bool) -> None:
    """Show which hours are published, missing, changed at the source, or failed.

    Exit code 1 when the source or the lake did not answer for some of them.
    """
    from txn_platform.terminal import advice, calendar

    states = _states(first, until, feed)
    if as_json:
        for state in states:
            _print(state.model_dump_json(ensure_ascii=True))
    else:
        _print_table(calendar(states))
        if command := advice(states, feed):
            click.echo(
                f"To run those that are not as they should be: {command}{lake_as_given()}", err=True
            )
    if any(state.state == "unknown" for state in states):
        sys.exit(1)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
@click.option("--show", is_flag=True, help="Print the script, and change no file.")
def completion(shell: str | None, *, show: bool) -> None:
    """Install completion of `txn` in a shell, by default the one that SHELL names."""
    from txn_platform.completion import install, script_of, shell_of_user

    shell = shell or shell_of_user()
    script = script_of(shell, main)
    if show:
        _print(script)
        return
    for path in install(shell, script):
        _print(f"{path} written.")
    _print(f"Completion is installed. Open a new {shell} to use it.")


@main.command()
@click.option("--directory", is_flag=True, help="Use the directory lake instead of an S3 server.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, help="Of the Dagster UI.")
@_module_option
def dev(*, directory: bool, port: int, modules: tuple[str, ...]) -> None:
    """Run the generator, an S3 server and the Dagster UI until Ctrl-C."""
    from txn_platform.local.stack import local_stack_services, local_ui, require_ui

    require_ui(port, modules)
    with local_stack_services(directory=directory) as services:
        _use(services)
        with local_ui(services, port, modules) as running:
            for name, address in running.addresses.items():
                _print(f"{name:10} {address}")
            _print("Ctrl-C stops all of them.")
            running.wait()


@main.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="How many; each runs one window at a time.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, help="Of the Dagster UI.")
@_module_option
@click.option(
    "--use-settings",
    is_flag=True,
    help="Use the database, broker, bucket and source that settings name, and start the rest.",
)
def cluster(*, workers: int, port: int, modules: tuple[str, ...], use_settings: bool) -> None:
    """Run what several machines would run, each as a process, until Ctrl-C.

    These are Postgres, a broker (Valkey), an S3 server, the generator, Dagster's code server,
    daemon and webserver, and workers (Celery). One that ends by itself is started again.
    """
    from txn_platform.local.cluster import GRACE, cluster_dagster, cluster_servers
    from txn_platform.local.stack import require_ui

    require_ui(port, modules)
    with cluster_servers(use_settings=use_settings) as servers:
        _use(servers)
        with cluster_dagster(servers, port, modules, workers=workers) as running:
            for name, address in running.addresses.items():
                _print(f"{name:10} {address}")
            _print(
                f"Ctrl-C stops all of them. Windows that run then have {GRACE} s to end; the next"
                " start runs the others again."
            )
            running.wait(_print)


@main.command()
@click.option("--directory", is_flag=True, help="Use the directory lake instead of an S3 server.")
def demo(*, directory: bool) -> None:
    """Run the newest complete hour once, with its own servers, and show the result."""
    from txn_platform.demo import late_rows, next_steps
    from txn_platform.lake.opening import open_lake
    from txn_platform.local.stack import local_stack_services
    from txn_platform.settings import load_settings

    with local_stack_services(directory=directory) as services:
        for name, address in services.addresses.items():
            _print(f"{name:10} {address}")
        _use(services)
        with _runs(_newest(1), force=True) as (_, results):
            (result,) = results()
        if result.summary is None:
            raise UserError(f"{result.partition}: {result.error or result.outcome}")
        key = _print_published(result.summary)
        _print_summaries([result.summary])
        if (late := late_rows(result.summary)) is not None:
            _print(late)
        settings = load_settings()
        steps = list(next_steps(settings, open_lake(settings), key, directory=directory))
    for purpose, command in steps:
        _print(f"\n{purpose}:\n  {command}")


@main.command()
@lake_option
@_feed_option_of_all
def doctor(feed: str | None) -> None:
    """Check settings, source and lake, and say what to fix."""
    import logging

    from txn_platform.console_logs import handling_logs
    from txn_platform.doctor import examine
    from txn_platform.extensions import variables
    from txn_platform.settings import load_settings

    with suppress(UserError):
        # A wrong setting is the first finding.
        _say_what_is_in_use(load_settings(), source=True, name=feed)
    names, failures = variables()
    for failure in failures:
        click.echo(f"note: {failure}", err=True)
    failed = False
    # Findings state the number of attempts, so warnings about retries are not shown.
    with handling_logs(logging.NullHandler()):
        for finding in examine(names, feed):
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
@lake_option
@_feed_option
@click.option("--partition", metavar="KEY", help="One hour, as 2026-11-01-00:00.  [default: all]")
def quarantine(partition: str | None, feed: str | None) -> None:
    """Show what is quarantined: rows by reason, with masked examples.

    A landed hour that was not published since is validated now; the lake stays as
    it is. Each hour that is read has a line in the audit log.
    """
    from rich.table import Table

    from txn_platform.feeds import feed_of
    from txn_platform.lake.opening import open_lake
    from txn_platform.lake.quarantine import look_into
    from txn_platform.local.in_use import lake_in_use
    from txn_platform.settings import load_settings
    from txn_platform.windows import Window

    window = None if partition is None else Window.of_partition(partition)
    settings = load_settings()
    chosen = feed_of(settings, feed)
    _say_what_is_in_use(settings, name=feed)
    found = look_into(
        open_lake(settings),
        chosen.asset(_RAW),
        chosen.asset(_QUARANTINED),
        window,
        mask=settings.card_mask,
        contract=chosen.contract,
    )
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
@lake_option
@_feed_option_of_all
@click.option("--older-than", type=_Days(), required=True, metavar="30d", help="By its window.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def expire(older_than: timedelta, feed: str | None, *, yes: bool) -> None:
    """Remove old raw and quarantined objects, which hold card numbers in clear.

    Validated and published objects stay.
    """
    from rich.console import Console

    from txn_platform.console_logs import ConsoleHandler, handling_logs
    from txn_platform.feeds import GENERATOR_FEED, feed_of, load_feeds
    from txn_platform.lake.expiry import expiring, remove, unknown_folders
    from txn_platform.lake.opening import open_lake
    from txn_platform.settings import load_settings

    settings = load_settings()
    feeds: list[Feed] = [GENERATOR_FEED, *load_feeds(settings).values()]
    if feed is not None:
        feeds = [feed_of(settings, feed)]
    _say_what_is_in_use(settings, name=feed)
    lake = open_lake(settings)
    with handling_logs(ConsoleHandler(Console(stderr=True))):
        # Files of killed runs may have card numbers too.
        lake.sweep()
        assets = [each.asset(name) for each in feeds for name in (_RAW, _QUARANTINED)]
        limit = datetime.now(UTC) - older_than
        found = expiring(lake, assets, limit)
        stays = Counter(found.unseen)
        for folder in [] if feed else unknown_folders(lake, assets, limit):
            reason = (
                f"{lake.uri(folder)} is of a feed that no module of TXN_FEEDS has: name it there"
            )
            stays[reason] += 1
        for stranger in found.strangers:
            click.echo(f"{lake.uri(stranger)} is no hour's object, and stays.", err=True)
        what = f"{_RAW} and {_QUARANTINED}"
        if feeds != [GENERATOR_FEED]:
            what = f"{what} of {' and '.join(each.title for each in feeds)}"
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


@main.command("rotate-card-key")
@lake_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def rotate_card_key(*, yes: bool) -> None:
    """Replace the card key, and the tokens of all windows that have a raw object.

    A key under TXN_HOME is replaced by a new one. For another, set TXN_CARD_KEY to the new key and
    TXN_CARD_KEY_PREVIOUS to the old one first: until the end both are valid. Windows without a raw
    object keep their tokens, and a mapping from old to new tokens joins them. The same command goes
    on with a rotation that was stopped. Exit code 1 when a window could not be rewritten.
    """
    with ExitStack() as stack:
        # Before imports that start threads, which would receive Ctrl-C too.
        console, interrupts = stack.enter_context(_runs_that_stop())
        from txn_platform.card_key_rotation import Rotation
        from txn_platform.console_logs import ConsoleHandler, handling_logs
        from txn_platform.feeds import load_feeds
        from txn_platform.lake.opening import open_lake
        from txn_platform.settings import load_settings
        from txn_platform.terminal import rotation_groups, stopped
        from txn_platform.window_runs import run_windows

        settings = load_settings()
        _say_what_is_in_use(settings)
        for feed in load_feeds(settings).values():
            if feed.contract.card and feed.card_key is None:
                click.echo(
                    f"note: windows of the feed {feed.prefix} keep their tokens: publish them again"
                    f" afterwards, with txn run --feed {feed.prefix} --from and their first hour",
                    err=True,
                )
        lake = open_lake(settings)
        stack.enter_context(handling_logs(ConsoleHandler(console)))
        rotation = Rotation(settings, lake)
        with console.status("looking at the lake", spinner=_SPINNER) as status:
            plan = rotation.plan(lambda done: status.update(f"looked at {done:,} objects"))
        _print_table(rotation_groups(plan))
        if not yes:
            click.confirm(f"Replace the card key, {rotation.change}?", abort=True)
        rotation.begin()
        _print(f"Card key {rotation.change}.")
        with console.status("mapping the tokens of all landed cards", spinner=_SPINNER):
            mapped = rotation.map(plan)
        _print(f"{mapped.tokens:,} tokens mapped in {mapped.uri}.")
        if mapped.missing:
            click.echo(
                "Tokens that are not mapped, because no raw object has their cards:"
                f" {mapped.missing:,}.",
                err=True,
            )
        windows = list(plan.rewritten)
        results: list[Result] = []
        if windows:
            from txn_platform.runs import dagster_instance, end_killed_runs, validate_again

            with dagster_instance() as instance:
                end_killed_runs(instance)

                def run(window: Window) -> Summary:
                    what = f"{len(results) + 1:,} of {len(windows):,}: {window.partition_key}"
                    with console.status(what, spinner=_SPINNER) as status:
                        return validate_again(
                            window,
                            instance=instance,
                            on_progress=lambda doing: status.update(f"{what}: {doing}"),
                        )

                for result in run_windows(windows, {}, run, interrupts):
                    results.append(result)
                    _print_result(result, as_json=False, several=True)
        if said := stopped(results, windows):
            click.echo(said, err=True)
        # Other processes may have published under the old key meanwhile.
        left = rotation.plan()
        if left.rewritten:
            click.echo(
                f"Windows that still have another key: {len(left.rewritten):,}. See to the errors"
                " above and to processes with the old key, and run the same command again.",
                err=True,
            )
            sys.exit(1)
        _print(
            f"Windows with the new key: {left.done:,}. Windows that keep theirs:"
            f" {len(left.kept):,}. {rotation.end()}"
        )


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
    from txn_platform.feeds import GENERATOR_FEED, load_feeds
    from txn_platform.lake.delta import open_delta, optimized, require_delta
    from txn_platform.settings import load_settings

    if keep < timedelta(days=1):
        raise click.UsageError("--keep must be at least 1d: runs and queries under way need files.")
    settings = load_settings()
    feeds = [GENERATOR_FEED, *load_feeds(settings).values()]
    tables = [require_delta(open_delta(feed.settings(settings), feed.contract)) for feed in feeds]
    for delta in tables:
        click.echo(f"table: {delta.uri}", err=True)
    for delta, done in optimized(tables, keep):
        _print(
            f"{delta.uri}, version {done.version}:"
            f" {done.merged:,} files merged, {done.removed:,} deleted"
        )


@contextmanager
def _runs_that_stop(
    stops: str = "stops after this hour",
) -> Generator[tuple[Console, Interrupts]]:
    """Let Ctrl-C stop runs of windows between two of them; yield the console that says so too."""
    from rich.console import Console

    from txn_platform.interrupts import Interrupts

    console = Console(stderr=True)
    text = f"Ctrl-C: {stops}. A second Ctrl-C stops at once."
    interrupts = Interrupts(lambda: console.print(text, highlight=False, soft_wrap=True))
    with interrupts.received():
        yield console, interrupts


@contextmanager
def _runs(
    choose: Callable[[Source], list[Window]], *, force: bool, name: str | None = None
) -> Generator[tuple[list[Window], Callable[..., Iterator[Result]]]]:
    """Prepare runs of windows, with progress on standard error.

    Args:
        choose: the windows of a source.
        force: also run windows that are as they should be.
        name: of the feed; None for the generator.

    Yields:
        The windows, and a function that runs them and yields the result of each.
    """
    with ExitStack() as stack:
        # Before imports that start threads, which would receive Ctrl-C too.
        console, interrupts = stack.enter_context(_runs_that_stop())
        from txn_platform.console_logs import ConsoleHandler, handling_logs
        from txn_platform.feeds import feed_of
        from txn_platform.homes import instance_home, writable_home
        from txn_platform.settings import load_settings
        from txn_platform.terminal import Progress, is_plain
        from txn_platform.window_runs import run_windows, session

        settings = load_settings()
        # Errors of the settings are reported before anything starts.
        writable_home(settings)
        instance_home(settings)
        feed = feed_of(settings, name)
        _say_what_is_in_use(settings, source=True, name=name)
        stack.enter_context(handling_logs(ConsoleHandler(console)))
        with console.status("starting Dagster", spinner=_SPINNER):
            opened = stack.enter_context(session(settings, feed))
            windows = choose(opened.source)
        right = {} if force else _skipped(windows, opened.right, console)
        progress = Progress(len(windows) - len(right))
        several = progress.count > 1

        def results(*, allow_empty: bool = False) -> Iterator[Result]:
            def run(window: Window) -> Summary:
                what = f"{progress}: {window.partition_key}" if several else window.partition_key
                # Ended before a result is printed: it would be in the same line.
                with console.status(what, spinner=_SPINNER) as status:
                    return opened.run(
                        window,
                        on_progress=lambda doing: status.update(f"{what}: {doing}"),
                        allow_empty=allow_empty,
                    )

            for result in run_windows(windows, right, run, interrupts):
                yield result
                if result.outcome != "skipped":
                    progress.add(result)
                    if several and is_plain(console):
                        click.echo(str(progress), err=True)

        yield windows, results


def _skipped(
    windows: list[Window],
    right: Callable[[list[Window], Callable[[int], None]], dict[str, WindowState]],
    console: Console,
) -> dict[str, WindowState]:
    """By partition key, the windows that need no run, with progress on standard error."""
    with console.status("comparing with the source", spinner=_SPINNER) as status:
        found = right(
            windows,
            lambda done: status.update(f"comparing with the source: {done:,} of {len(windows):,}"),
        )
    if len(windows) == len(found) == 1:
        key = windows[0].partition_key
        click.echo(f"{key} is published as it should be: skipped (--force runs it)", err=True)
    elif found:
        click.echo(
            f"{len(found):,} of {len(windows):,} hours are published as they should be:"
            " skipped (--force runs them)",
            err=True,
        )
    return found


@contextmanager
def _submission(
    choose: Callable[[Source], list[Window]], *, force: bool, allow_empty: bool, name: str | None
) -> Generator[tuple[list[Window], Iterator[Result], Callable[[], dict[str, list[Window]]]]]:
    """Prepare the submission of windows to a run queue, with progress on standard error.

    Args:
        choose: the windows of a source.
        force: also submit windows that are as they should be.
        allow_empty: let a window come back without rows where the lake has some.
        name: the feed; None for the generator.

    Yields:
        The windows, the result of each as soon as it is known, and a function that gives those
            without a result, by the reason why.
    """
    with ExitStack() as stack:
        console, interrupts = stack.enter_context(_runs_that_stop("stops after this request"))
        from txn_platform.console_logs import ConsoleHandler, handling_logs
        from txn_platform.feeds import feed_of
        from txn_platform.homes import writable_home
        from txn_platform.lake.opening import open_lake
        from txn_platform.settings import load_settings
        from txn_platform.submission import Submission
        from txn_platform.terminal import StatusLine
        from txn_platform.window_runs import as_they_should_be, started_source

        settings = load_settings()
        home = writable_home(settings)
        feed = feed_of(settings, name)
        _say_what_is_in_use(settings, source=True, name=name)
        stack.enter_context(handling_logs(ConsoleHandler(console)))
        lake = open_lake(settings)
        line = StatusLine(console, _SPINNER)
        with line.shown("asking Dagster's webserver"):
            queue = _open_queue(settings, feed, line)
        with line.shown("asking the source"):
            _, source = stack.enter_context(started_source(settings, feed))()
            windows = choose(source)
            watermark = source.watermark()
        right: dict[str, WindowState] = {}
        if not force:
            compare = partial(as_they_should_be, settings, source, feed=feed)
            right = _skipped(windows, compare, console)
        submission = Submission.of(
            [window for window in windows if window.partition_key not in right],
            queue,
            lake,
            home,
            feed,
            watermark=watermark,
            settles_after=source.lag,
            config=(
                {"ops": {feed.named(_RAW): {"config": {"allow_empty": True}}}}
                if allow_empty
                else {}
            ),
        )
        yield windows, _followed(submission, right, line, interrupts), submission.left


def _open_queue(settings: Settings, feed: Feed, line: StatusLine) -> RunQueue:
    """The runs of a feed in the queue of the instance that the settings name."""
    from txn_platform.redaction import shown_address
    from txn_platform.run_queue import RunQueue, require_webserver

    address = require_webserver(settings)
    click.echo(f"queue: of the Dagster instance at {shown_address(address)}", err=True)
    queue = RunQueue(
        address, feed, lambda why: line.show(f"waiting for Dagster's webserver: {why}")
    )
    if note := queue.open():
        click.echo(f"note: {note}", err=True)
    return queue


def _followed(
    submission: Submission,
    right: dict[str, WindowState],
    line: StatusLine,
    interrupts: Interrupts,
) -> Iterator[Result]:
    """The results of windows that are skipped, and of those that are submitted as they come."""
    from txn_platform.terminal import Progress
    from txn_platform.window_runs import Result

    for key, state in right.items():
        yield Result(key, "skipped", state=state)
    progress = Progress(len(submission.waiting))
    several = progress.count > 1
    with line.shown("looking at the queue"):
        for result in submission.results(interrupts):
            if result is None:
                line.show(f"{progress}: {submission}" if several else str(submission))
                continue
            line.hide()
            yield result
            progress.add(result)
            if several and line.plain:
                click.echo(str(progress), err=True)


def _states(first: str | None, until: str | None, name: str | None) -> list[WindowState]:
    """The states of a range of windows, with progress on standard error."""
    from rich.console import Console

    from txn_platform.console_logs import ConsoleHandler, handling_logs
    from txn_platform.feeds import feed_of
    from txn_platform.homes import instance_home
    from txn_platform.lake.opening import open_lake
    from txn_platform.settings import load_settings
    from txn_platform.window_runs import started_source
    from txn_platform.window_states import WindowStates

    windows_until = _range(first, until)
    settings = load_settings()
    remembered = instance_home(settings)
    feed = feed_of(settings, name)
    _say_what_is_in_use(settings, source=True, name=name)
    console = Console(stderr=True)
    with ExitStack() as stack:
        stack.enter_context(handling_logs(ConsoleHandler(console)))
        status = stack.enter_context(
            console.status("looking at the lake and the source", spinner=_SPINNER)
        )
        client = stack.enter_context(started_source(settings, feed))
        _, source = client()
        try:
            watermark = source.watermark()
        except UserError as error:
            # The lake can be shown without it.
            click.echo(f"Error: {error}", err=True)
            source, watermark = None, datetime.now(UTC)
        windows = windows_until(watermark)
        return WindowStates(open_lake(settings), settings, source, feed).of(
            windows,
            _known_runs(settings, feed, windows, remembered=remembered is not None),
            lambda done: status.update(f"looked at {done:,} of {len(windows):,} hours"),
        )


def _known_runs(
    settings: Settings, feed: Feed, windows: list[Window], *, remembered: bool
) -> KnownRuns:
    """The runs of windows, as the webserver or the instance of this machine has them, if any."""
    from txn_platform.window_states import KnownRuns

    if settings.webserver_url is not None:
        from txn_platform.run_queue import RunQueue

        queue = RunQueue(settings.webserver_url, feed, lambda _: None)
        try:
            return queue.known_runs({window.partition_key for window in windows})
        except UserError as error:
            click.echo(f"note: queued, running and failed runs are not shown: {error}", err=True)
            return KnownRuns()
    if not remembered:
        return KnownRuns()
    # Dagster takes seconds to import.
    from txn_platform.runs import known_runs

    return known_runs(windows, feed)


def _chosen(
    partition: str | None, last: int | None, first: str | None, until: str | None
) -> Callable[[Source], list[Window]]:
    """The windows that the options of `txn run` name."""
    if sum(option is not None for option in (partition, last, first)) > 1:
        raise click.UsageError("--partition, --last and --from exclude each other.")
    if until is not None and first is None:
        raise click.UsageError("--to needs --from.")
    if partition is not None:
        return _one(partition)
    if first is not None:
        return _of_source(_range(first, until))
    return _newest(last or 1)


def _one(partition: str) -> Callable[[Source], list[Window]]:
    """The window of a key, without a question to the source."""
    from txn_platform.settings import load_first_hour
    from txn_platform.windows import Window

    window = Window.of_partition(partition).require_from(load_first_hour())
    return lambda _: [window]


def _newest(count: int) -> Callable[[Source], list[Window]]:
    """The newest windows that are complete, oldest first, so many or as many as there are."""
    from txn_platform.window_ranges import newest

    return _of_source(partial(newest, count))


def _of_source(
    windows_until: Callable[[datetime], list[Window]],
) -> Callable[[Source], list[Window]]:
    return lambda source: windows_until(source.watermark())


def _range(first: str | None, until: str | None) -> Callable[[datetime], list[Window]]:
    """The windows from one to another; by default to the newest, and from six days before it."""
    from txn_platform.window_ranges import parse_range

    return parse_range(first, until)


def _use(services: Services | Cluster) -> None:
    """Make this process and those that it starts use the servers on this machine."""
    from txn_platform.lake.opening import open_lake, require_first_hour
    from txn_platform.settings import load_settings

    os.environ.update(services.environment)
    settings = load_settings()
    require_first_hour(open_lake(settings), _PUBLISHED, settings.first_hour)


def _say_what_is_in_use(
    settings: Settings, *, source: bool = False, name: str | None = None
) -> None:
    """Print on standard error the lake, the source of a feed and a local stack beside them."""
    from txn_platform.local.in_use import lake_in_use, local_stack, source_in_use

    lines = [f"lake: {lake_in_use(settings)}"]
    if name is not None:
        from txn_platform.feeds import feed_of
        from txn_platform.redaction import shown_address

        lines.append(f"feed: {name}, {shown_address(feed_of(settings, name).url)}")
    elif source:
        lines.append(f"source: {source_in_use(settings)}")
    if name is None and settings.feeds:
        lines.append(f"note: TXN_FEEDS names {settings.feeds}, and --feed chooses one of its feeds")
    if (beside := local_stack(settings)) is not None:
        lines.append(f"note: {beside}")
    for line in lines:
        click.echo(line, err=True)


def _print_result(result: Result, *, as_json: bool, several: bool) -> None:
    """Print how a window ended, at once; one of several has a line of its own."""
    from txn_platform.terminal import result_line

    if as_json:
        _print(json.dumps(result.fields()))
    elif several and result.summary is not None:
        _print(result_line(result))
    if result.outcome == "failed":
        click.echo(f"Error: {result.partition}: {result.error}", err=True)


def _print_results(results: list[Result], left: Mapping[str, Sequence[Window]]) -> None:
    """Print the table of all windows of a command, and of those that are left, by reason."""
    from txn_platform.terminal import results_table

    summaries = [result.summary for result in results if result.summary is not None]
    if len(results) + sum(map(len, left.values())) > 1:
        _print_table(results_table(results, left))
    elif summaries:
        _print_summaries(summaries)


def _print_summaries(summaries: list[Summary]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("partition\nUTC", overflow="fold")
    for name in ("sent", "validated", "quarantined", "published"):
        table.add_column(f"{name}\nrows", justify="right", overflow="fold")
    table.add_column("sum of\namounts", justify="right", overflow="fold")
    table.add_column("run\ns", justify="right", overflow="fold")
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
            summary.amount,
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


def _print_published(summary: Summary) -> str:
    """Show the object in the store, and its first rows; returns its key."""
    from rich.table import Table

    from txn_platform.contract.schema import TRANSACTIONS
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
    columns = TRANSACTIONS.shown_columns
    batch = next(lake.open(key).iter_batches(batch_size=5, columns=columns))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in columns:
        # Values of the roles are short.
        wraps = TRANSACTIONS.option(name, "shown")
        table.add_column(name, overflow="fold", no_wrap=not wraps)
    for row in batch.to_pylist():
        table.add_row(iso(row.pop(TRANSACTIONS.time)), *(str(value) for value in row.values()))
    _print_table(table)
    return key


def _print_table(table: RenderableType) -> None:
    """Print a table. Without a terminal it is as wide as its rows."""
    from rich.console import Console

    # Rows may contain rich's markup.
    width = None if sys.stdout.isatty() else _UNBOUNDED
    with _printing():
        Console(width=width, markup=False, emoji=False).print(table)
