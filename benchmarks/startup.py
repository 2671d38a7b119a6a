"""The cost of starting: the default hour by `dagster asset materialize`, split, and `txn --help`.

The split of a run, from its own event log: imports are the time of a process that only imports what
the run imports; ours is the time until each event that our code leads to (resources made, an input
loaded, an output made, an output stored, resources ended); the rest is Dagster. Measured with a
running source, and with nothing in the environment, when the run starts a generator. For
comparison, three assets that do nothing run too.

    python benchmarks/startup.py [--runs N] [--page FILE]

Needs the extra `bench`, and Linux.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
from measuring import (
    OURS,
    PROGRAMS,
    WINDOW,
    Grid,
    Lake,
    Target,
    clean_environment,
    conditions,
    directory_lake,
    materialize,
    measure,
    page_option,
    rows_sent,
    served,
    targets_grid,
    write_results,
)

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("dagster", "polars", "pyarrow")
DEFAULT_ROWS = 36_000
DAGSTERS_IMPORTS = "import dagster._cli"
OUR_IMPORTS = f"{DAGSTERS_IMPORTS}, txn_platform.definitions"
OUR_EVENTS = {
    dg.DagsterEventType.RESOURCE_INIT_SUCCESS,
    dg.DagsterEventType.LOADED_INPUT,
    dg.DagsterEventType.STEP_OUTPUT,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
}
NOTHING = """\
import dagster as dg

@dg.asset
def first() -> None: ...

@dg.asset(deps=[first])
def second() -> None: ...

@dg.asset(deps=[second])
def third() -> None: ...

defs = dg.Definitions([first, second, third], executor=dg.in_process_executor)
"""
# After the last step the resources end, and a generator that was started for the run.
OUR_END = (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.ENGINE_EVENT)


class Split(NamedTuple):
    """Seconds of one run."""

    total: float
    imports: float
    dagster: float
    ours: float


def split_run(variables: dict[str, str], sent: int) -> Split:
    """Run the default hour once, and split its seconds."""
    with directory_lake() as lake:
        (home := lake.directory / "dagster").mkdir()
        command = materialize(WINDOW.partition_key)
        imports, total = _seconds(variables, lake, home, OUR_IMPORTS, command)
        if (rows := lake.stored(*OURS).rows) != sent:
            raise SystemExit(f"{rows:,} rows stored, {sent:,} sent")
        ours = _ours(home)
    return Split(total, imports, total - imports - ours, ours)


def split_nothing(variables: dict[str, str]) -> Split:
    """Run three assets that do nothing, and split the seconds."""
    with directory_lake() as lake:
        (home := lake.directory / "dagster").mkdir()
        (lake.directory / "nothing.py").write_text(NOTHING)
        options = ["asset", "materialize", "-f", "nothing.py", "--select", "*"]
        command = [str(PROGRAMS / "dagster"), *options]
        imports, total = _seconds(variables, lake, home, DAGSTERS_IMPORTS, command)
    return Split(total, imports, total - imports, 0)


def _seconds(
    variables: dict[str, str], lake: Lake, home: Path, imports: str, command: list[str]
) -> tuple[float, float]:
    """Return the seconds of a process that only imports, and of a run of Dagster."""
    environment = {**variables, **lake.variables, "DAGSTER_HOME": str(home)}
    commands = [sys.executable, "-c", imports], command
    first, second = (measure(each, environment, lake.directory) for each in commands)
    return first.seconds, second.seconds


def _ours(home: Path) -> float:
    """Return the seconds before the events that our code leads to."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = instance.get_run_records()[0].dagster_run
        events = [
            (entry.timestamp, entry.dagster_event.event_type)
            for entry in instance.all_logs(run.run_id)
            if entry.dagster_event is not None
        ]
    events.sort(key=lambda event: event[0])
    return sum(
        after - before
        for (before, earlier), (after, led_to) in pairwise(events)
        if led_to in OUR_EVENTS or (earlier, led_to) == OUR_END
    )


def main() -> None:
    """Measure, print the tables, and store them as JSON and page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    page_option(parser)
    asked = parser.parse_args()
    alone = "the default hour, nothing in the environment"
    helps: list[float] = []
    with served(DEFAULT_ROWS) as variables, directory_lake() as anywhere:
        sent = rows_sent(variables["GENERATOR_URL"], WINDOW.start, WINDOW.end)
        ways = {
            "the default hour, a source that runs": lambda: split_run(variables, sent),
            alone: lambda: split_run(clean_environment(), sent),
            "three assets of nothing": lambda: split_nothing(variables),
        }
        found: dict[str, list[Split]] = {name: [] for name in ways}
        for _ in range(asked.runs):
            for name, split in ways.items():
                found[name].append(split())
            command = [str(PROGRAMS / "txn"), "--help"]
            helps.append(measure(command, variables, anywhere.directory).seconds)
    medians = {
        name: Split(*(statistics.median(column) for column in zip(*splits, strict=True)))
        for name, splits in found.items()
    }
    targets = [
        Target("seconds, the default hour", medians[alone].total, 6, False),
        Target("seconds, txn --help", statistics.median(helps), 0.3, False),
    ]
    rows = [(name, *(f"{seconds:.2f}" for seconds in split)) for name, split in medians.items()]
    names = ("what", "s", "imports", "Dagster", "ours")
    title = f"`dagster asset materialize`; the default hour is {sent:,} rows, to a directory"
    grids = [Grid(title, names, rows), targets_grid(targets)]
    for grid in grids:
        grid.print()
    results: dict[str, Any] = {
        **conditions(*PACKAGES),
        "window": WINDOW.partition_key,
        "rows": sent,
        "runs": {name: [split._asdict() for split in splits] for name, splits in found.items()},
        "help_seconds": helps,
        "targets": [target._asdict() for target in targets],
    }
    write_results(asked.page, "startup", results, grids, None)


if __name__ == "__main__":
    main()
