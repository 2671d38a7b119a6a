"""The checks of `txn doctor`: settings, card key, source and stores, each with its remedy.

It makes what the first run would make, and probe objects in the lake and beside the Delta table's
log, which it removes.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from txn_platform.card_key import checked_card_key, previous_card_key
from txn_platform.errors import UserError
from txn_platform.feeds import GENERATOR_FEED, feed_of, load_feeds
from txn_platform.homes import writable_home
from txn_platform.lake.card_tokens import several_keys
from txn_platform.lake.delta import open_delta, require_delta
from txn_platform.lake.opening import open_lake, require_first_hour
from txn_platform.local.processes import generator_url, start_generator
from txn_platform.misspelt import misspelt
from txn_platform.private_files import OF_OTHERS
from txn_platform.redaction import redacted, shown_address
from txn_platform.settings import load_settings
from txn_platform.webhook import Webhook
from txn_platform.windows import WINDOW_LENGTH, Window, iso

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from txn_platform.feeds import Feed
    from txn_platform.settings import Settings
    from txn_platform.source.client import Source

# The asset's name, without an import of what defines it.
_PUBLISHED: Final = "s3_parquet_transactions"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: of the check.
        good: whether a run can succeed.
        message: the result, and the remedy if it is not good.
        note: a run can succeed, but something could be better.
    """

    subject: str
    good: bool
    message: str
    note: bool = False


def examine(
    generator_variables: Collection[str] = (), feed: str | None = None
) -> Iterator[Finding]:
    """Check everything that a run needs, in the order of a run.

    Args:
        generator_variables: the names of all variables that the generator service reads.
        feed: the name of the feed to run; None for all.
    """
    try:
        settings = load_settings()
        notes = list(misspelt(generator_variables))
        feeds = [feed_of(settings, feed)] if feed else [GENERATOR_FEED, *_others(settings)]
    except UserError as error:
        yield Finding("settings", good=False, message=str(error))
        return
    yield Finding("settings", good=True, message=_describe(settings, feed))
    for note in notes:
        yield Finding("settings", good=True, message=note, note=True)
    yield from _examine_home(settings)
    if settings.dagster_home is not None:
        yield _try("dagster", _examine_dagster)
    yield from _examine_alerts(settings)
    for each in feeds:
        if each.contract.card and (each is feeds[0] or each.card_key):
            yield from _examine_card_key(settings, each)
    for each in feeds:
        yield _try("source", partial(_examine_source, settings, each))
    yield from _examine_lake(settings, feeds)
    if settings.delta_path is not None:
        for each in feeds:
            yield _try("delta", partial(_examine_delta, settings, each))


def _others(settings: Settings) -> list[Feed]:
    return list(load_feeds(settings).values())


def _try(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, good=True, message=look())
    except UserError as error:
        return Finding(subject, good=False, message=str(error))


def _describe(settings: Settings, feed: str | None) -> str:
    quarantine = f"at most {settings.max_quarantine:.2%} of a window may be quarantined"
    if feed:
        return quarantine
    source = "a generator started for each run"
    if settings.generator_url is not None:
        source = shown_address(settings.generator_url)
    return f"source: {source}; {quarantine}"


def _examine_home(settings: Settings) -> Iterator[Finding]:
    try:
        home = writable_home(settings)
    except UserError as error:
        yield Finding("home", good=False, message=str(error))
        return
    if mode := stat.S_IMODE(home.stat().st_mode) & OF_OTHERS:
        message = (
            f"other users may enter {home}, where card numbers in clear and keys are (permissions"
            f" {mode:04o}): let TXN_HOME name a directory of your own, with chmod 700"
        )
        yield Finding("home", good=True, message=message, note=True)


def _examine_card_key(settings: Settings, feed: Feed) -> Iterator[Finding]:
    of_feed = f" for {feed.prefix}" if feed.card_key else ""
    try:
        settings = feed.settings(settings)
        key, previous = checked_card_key(settings), previous_card_key(settings)
    except UserError as error:
        yield Finding("card key", good=False, message=str(error))
        return
    yield Finding(
        "card key", good=True, message=f"{key.place}, with the id {key.fingerprint}{of_feed}"
    )
    if key.weakness:
        message = (
            f"the card key {key.weakness}: TXN_ALLOW_WEAK_CARD_KEY keeps it for now, replace it by"
            " `txn rotate-card-key`"
        )
        yield Finding("card key", good=True, message=message, note=True)
    if previous is not None:
        message = (
            f"a rotation from {previous.fingerprint} is under way: `txn rotate-card-key` goes on"
        )
        yield Finding("card key", good=True, message=message, note=True)


def _examine_dagster() -> str:
    # Dagster takes seconds to import.
    from txn_platform.runs import dagster_instance

    with dagster_instance() as instance:
        return f"{instance.root_directory} opens, and has {instance.get_runs_count():,} runs"


def _examine_alerts(settings: Settings) -> Iterator[Finding]:
    try:
        webhook = Webhook.of(settings)
    except UserError as error:
        yield Finding("alerts", good=False, message=str(error))
        return
    if webhook is None:
        return
    links = shown_address(settings.ui_url)
    message = f"go to TXN_ALERT_WEBHOOK ({webhook.service}), with links to {links}"
    yield Finding("alerts", good=True, message=message)
    from txn_platform.defs.alerts import is_turned_on
    from txn_platform.runs import dagster_instance

    try:
        with dagster_instance() as instance:
            if instance.is_ephemeral:
                message = (
                    "there is no Dagster home, so no sensor runs that sends them: set DAGSTER_HOME,"
                    " or start `txn dev`"
                )
            elif not is_turned_on(instance):
                message = (
                    "the sensor alerts is off, so nothing is sent: turn it on in Dagster's UI under"
                    " Automation"
                )
            else:
                return
        yield Finding("alerts", good=True, message=message, note=True)
    except UserError:
        # The check of Dagster's home says so.
        return


def _examine_source(settings: Settings, feed: Feed) -> str:
    if feed.prefix:
        asked = _asked(feed.source(settings))
        return f"{feed.prefix}, {shown_address(feed.url)}, {asked}"
    if settings.generator_url is not None:
        asked = _asked(feed.source(settings, url=settings.generator_url))
        return f"{shown_address(settings.generator_url)} {asked}"
    with start_generator() as generator:
        asked = _asked(feed.source(settings, url=generator_url(generator)))
        return f"the generator that is started {asked}"


def _asked(source: Source) -> str:
    """Ask the source for its newest hour: totals and rows, as a run does."""
    watermark = source.watermark()
    window = Window(watermark - WINDOW_LENGTH)
    as_of = datetime.now(UTC)
    totals = source.control_totals(window, as_of)
    rows = source.first_rows(window, as_of)
    if totals is None:
        stated = f"states no control totals, and gave {rows:,} rows of the last of them"
    else:
        stated = f"states {totals.rows:,} rows for the last, and gave {rows:,} of its first minute"
    return f"has complete hours up to {iso(watermark)}, {stated}"


def _examine_lake(settings: Settings, feeds: Collection[Feed]) -> Iterator[Finding]:
    try:
        lake = open_lake(settings)
        # One at a time: findings are shown even if the store fails later.
        for number, found in enumerate(lake.probe()):
            if not number and found.works:
                yield Finding("lake", good=True, message=f"{lake.uri('')} can be written")
            yield Finding(
                "store",
                good=found.works or not found.needed,
                # It can have a library's error.
                message=redacted(f"{found.name}: {found.meaning}"),
                note=not found.works,
            )
    except UserError as error:
        yield Finding("lake", good=False, message=str(error))
        return
    try:
        for feed in feeds:
            published = feed.asset(_PUBLISHED)
            require_first_hour(lake, published, settings.first_hour)
            if feed.contract.card and (told := several_keys(lake, lake.keys(published))):
                yield Finding("card key", good=True, message=told, note=True)
    except UserError as error:
        yield Finding("lake", good=False, message=str(error))


def _examine_delta(settings: Settings, feed: Feed) -> str:
    delta = require_delta(open_delta(feed.settings(settings), feed.contract))
    delta.probe()
    return f"{delta.uri} takes commits, also several at once"
