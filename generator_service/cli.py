"""The command line of the generator: serve, `generate`, `scorecard` and `keys`.

The platform offers the last two as `txn generate` and `txn scorecard`, through the entry point
group `txn.commands`. Each command imports its dependencies when it runs, so that help is fast.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, override

import click

from generator_service.standard_output import require_open, writing

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.table import Table

    from generator_service.keys import KeysFile
    from generator_service.scorecard import Scorecard
    from generator_service.settings import Settings
    from generator_service.simulator import Simulator, Window

# Columns: wider than any row of a table.
_UNBOUNDED = 1_000


class _Command(click.Command):
    """A command that needs standard output, where `make_context` prints the help."""

    @override
    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        require_open()
        with writing():
            return super().make_context(*args, **extra)


class _Group(click.Group):
    command_class = _Command
    group_class = type

    @override
    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with writing():
            return super().make_context(*args, **extra)


class _Moment(click.ParamType[datetime]):
    """A time with a zone, in ISO 8601."""

    name = "time"

    @override
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            moment = datetime.fromisoformat(value)
            moment = moment.astimezone(UTC) if moment.tzinfo else None
        except (ValueError, OverflowError):
            moment = None
        if moment is None:
            self.fail(
                f"{value!r} is not a time with a zone: write 2026-11-01T00:00:00Z", param, ctx
            )
        return moment


class _Port(click.ParamType[int]):
    """A TCP port, or 0 for any free one."""

    name = "integer"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not (text.isascii() and text.isdecimal() and int(text) <= 65_535):
            self.fail(f"{text!r} is no port: give 0, for any free one, to 65535", param, ctx)
        return int(text)


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--host", help="Listen here.  [default: GENERATOR_HOST or 127.0.0.1]")
@click.option(
    "--port",
    type=_Port(),
    help="Listen there; 0 for a free port.  [default: GENERATOR_PORT or 8000]",
)
@click.option(
    "--until-stdin-closes",
    is_flag=True,
    help="Stop when standard input ends, to end with the process that started this one.",
)
@click.option(
    "--local",
    is_flag=True,
    help="Serve this machine only, without keys and HTTPS, whatever the settings say.",
)
@click.pass_context
def main(
    ctx: click.Context, host: str | None, port: int | None, *, until_stdin_closes: bool, local: bool
) -> None:
    """Serve synthetic transactions over HTTP, or run a command.

    The GENERATOR_ variables are the settings of both.
    """
    if ctx.invoked_subcommand is None:
        from generator_service.server import serve

        ctx.exit(serve(host, port, until_stdin_closes=until_stdin_closes, local=local))
    if host is not None or port is not None or until_stdin_closes or local:
        raise click.UsageError(f"{ctx.invoked_subcommand} takes none of the options for serving.")


@main.command()
@click.option("--start", type=_Moment(), required=True, help="First moment, with a zone.")
@click.option("--end", type=_Moment(), required=True, help="First moment after the window.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["parquet", "ndjson", "csv", "arrow"]),
    default="parquet",
    show_default=True,
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default=Path("-"),
    help="The file to write; - is standard output.  [default: -]",
)
def generate(start: datetime, end: datetime, format_name: str, output: Path) -> None:
    """Write synthetic transactions, with no server and no Dagster.

    The generator is set up by the GENERATOR_ variables, as the service is.
    """
    from rich.console import Console

    from generator_service.export import export
    from generator_service.wire import Format

    form = Format(format_name)
    simulator, window, settings = _simulator(start, end)
    injector = settings.injector(window)
    if str(output) == "-":
        with writing():
            if sys.stdout.isatty() and form in {Format.PARQUET, Format.ARROW}:
                raise click.UsageError(f"{form} is not for a terminal: name a file (-o) or a pipe.")
            export(simulator, window, form, sys.stdout.buffer, injector=injector)
            sys.stdout.buffer.flush()
        return
    try:
        with Console(stderr=True).status("no rows yet") as status:
            rows = export(
                simulator,
                window,
                form,
                output,
                injector=injector,
                progress=lambda rows: status.update(f"{rows:,} rows"),
            )
    except OSError as error:
        raise _cannot_be_written(output, error) from None
    click.echo(f"{output}: {rows:,} rows", err=True)


@main.command()
@click.option("--start", type=_Moment(), help="First moment, with a zone.  [default: 31 days ago]")
@click.option("--end", type=_Moment(), help="First moment after the window.  [default: today]")
@click.option("--rows", type=click.IntRange(min=1000), default=3_000_000, help="To look at.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the page, with pictures, to this file.",
)
def scorecard(
    start: datetime | None, end: datetime | None, rows: int, *, as_json: bool, output: Path | None
) -> None:
    """Measure how realistic the generator's data is; exit code 1 when a measure is out of range.

    The generator is set up by the GENERATOR_ variables, as the service is.
    """
    from rich.console import Console

    from generator_service.scorecard import measure, render_html

    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    end = end or today
    simulator, window, _ = _simulator(start or end - timedelta(days=31), end)
    with ExitStack() as stack:
        # Opened first: a file that cannot be written is reported before minutes of measuring.
        page = stack.enter_context(_replacing(output)) if output else None
        stack.enter_context(Console(stderr=True).status("measuring"))
        try:
            card = measure(simulator, window, rows)
        except ValueError as error:
            raise click.ClickException(str(error)) from None
        if page is not None:
            page.write(render_html(card))
    if as_json:
        with writing():
            click.echo(card.to_json())
    else:
        _print_table(_table(card))
    if not card.in_range:
        sys.exit(1)


@main.group()
def keys() -> None:
    """Add, list and revoke the keys of the service.

    Their file has no key, only what recognizes one. A running service notices each change.
    """


@keys.command("add")
@click.argument("name", help="Who uses the key; logs show it.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["transactions", "reference", "faults", "metrics"]),
    default=["transactions"],
    show_default=True,
    help="What the key may ask for; several times for several.",
)
@click.option(
    "--requests-per-minute",
    type=click.IntRange(1, 1_000_000),
    default=3_000,
    show_default=True,
    help="How many requests each process of the service allows it.",
)
def add_key(name: str, scopes: tuple[str, ...], requests_per_minute: int) -> None:
    """Add a key for NAME, and print it; it cannot be shown again."""
    from generator_service.keys import Scope

    file = _keys_file()
    with _reporting():
        key = file.add(name, tuple(map(Scope, dict.fromkeys(scopes))), requests_per_minute)
    try:
        with writing():
            click.echo(key)
    except BaseException:
        # A key that no one has seen is of no use.
        with _reporting():
            file.revoke(name)
        raise
    click.echo(
        f"Added to {file.path}. The key is shown this once; send it as Authorization: Bearer.",
        err=True,
    )


@keys.command("list")
def list_keys() -> None:
    """List the keys: id, name, scopes, requests a minute, when each was added."""
    from rich.table import Table

    file = _keys_file()
    with _reporting():
        known = file.read() or ()
    table = Table("id", "name", "scopes", "requests a minute", "added")
    for key in known:
        limit = f"{key.requests_per_minute:,}"
        table.add_row(key.id, key.name, ", ".join(key.scopes), limit, key.created)
    if known:
        _print_table(table)
    else:
        click.echo(f"{file.path} has no keys", err=True)


@keys.command("revoke")
@click.argument("name", help="The name or the id of the key.")
def revoke_key(name: str) -> None:
    """Revoke a key: no request with it is answered any more."""
    file = _keys_file()
    with _reporting():
        revoked = file.revoke(name)
    click.echo(f"Revoked {revoked.name} ({revoked.id})", err=True)


def _keys_file() -> KeysFile:
    from generator_service.keys import KeysFile
    from generator_service.settings import Settings, SettingsError

    try:
        return KeysFile(Settings.load().keys_path)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def _reporting() -> Generator[None]:
    """Show an error of the keys as the one of the command."""
    from generator_service.keys import KeysError

    try:
        yield
    except KeysError as error:
        raise click.ClickException(str(error)) from None


def _simulator(start: datetime, end: datetime) -> tuple[Simulator, Window, Settings]:
    """Return the simulator that the settings describe, a window for it, and the settings."""
    from generator_service.settings import Settings
    from generator_service.simulator import Simulator, Window

    if end <= start:
        raise click.UsageError("--end must be after --start.")
    try:
        window = Window(_microseconds(start), _microseconds(end))
        settings = Settings.load()
        return Simulator(settings.configuration()), window, settings
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _microseconds(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def _cannot_be_written(path: Path, error: OSError) -> click.ClickException:
    return click.ClickException(f"{path} cannot be written: {error.strerror}")


@contextmanager
def _replacing(path: Path) -> Generator[TextIO]:
    """Open a file that replaces the one at the path when the block succeeds.

    Raises:
        click.ClickException: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # A device or a pipe cannot be replaced by a file.
        in_place = path.exists() and not path.is_file()
        if in_place:
            part = path
        try:
            with part.open("w", encoding="utf-8") as file:
                yield file
            if not in_place:
                part.replace(path)
        finally:
            if not in_place:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_be_written(path, error) from None


def _table(card: Scorecard) -> Table:
    """Return the measures of a scorecard, one a row."""
    from rich.table import Table

    table = Table("property", "value", "target", "", "source")
    for line in card.lines:
        bounds = [f"{bound:.4g}" for bound in (line.low, line.high) if bound is not None]
        table.add_row(
            line.name,
            "too few rows" if line.value is None else f"{line.value:.4g}",
            ("≤ " if line.low is None else "≥ " if line.high is None else "")
            + " .. ".join(dict.fromkeys(bounds)),
            "ok" if line.in_range else "OUT",
            line.source,
        )
    return table


def _print_table(table: Table) -> None:
    """Print a table; without a terminal it is as wide as its rows."""
    from rich.console import Console

    with writing():
        width = None if sys.stdout.isatty() else _UNBOUNDED
        # Without markup: a row may contain square brackets.
        Console(width=width, markup=False, emoji=False).print(table)
