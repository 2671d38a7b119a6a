"""What `txn doctor` looks at: settings, card key, source, stores, each with what to mend.

It makes what the first run would make, and probe objects in the lake and beside the Delta table's
log, which it removes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from txn_platform.card_key import card_protector
from txn_platform.delta import open_delta, require_delta
from txn_platform.errors import UserError
from txn_platform.lake import open_lake
from txn_platform.processes import generator_child, generator_url
from txn_platform.settings import load_settings
from txn_platform.source import Source, source_api, source_limits
from txn_platform.windows import iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from txn_platform.settings import Settings


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        subject: what it is.
        good: whether a run would get past it.
        message: what was found, and what to mend when it is not good.
        note: a run gets past it, but not everything is as it could be.
    """

    subject: str
    good: bool
    message: str
    note: bool = False


def examine() -> Iterator[Finding]:
    """Look at everything a run needs, in the order a run needs it."""
    try:
        settings = load_settings()
    except UserError as error:
        yield Finding("settings", good=False, message=str(error))
        return
    yield Finding("settings", good=True, message=_describe(settings))
    yield _try("card key", lambda: _examine_card_key(settings))
    yield _try("source", lambda: _examine_source(settings))
    yield from _examine_lake(settings)
    if settings.delta_path is not None:
        yield _try("delta", lambda: _examine_delta(settings))


def _try(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, good=True, message=look())
    except UserError as error:
        return Finding(subject, good=False, message=str(error))


def _describe(settings: Settings) -> str:
    source = settings.generator_url or "a generator started for each run"
    return f"source: {source}; at most {settings.max_quarantine:.2%} of a window may be quarantined"


def _examine_card_key(settings: Settings) -> str:
    card_protector(settings)
    return "TXN_CARD_KEY" if settings.card_key else f"kept in {settings.home / 'card-key'}"


def _examine_source(settings: Settings) -> str:
    if settings.generator_url is not None:
        watermark = Source(
            settings.generator_url, source_api(settings), source_limits(settings)
        ).watermark()
        return f"{settings.generator_url} has complete hours up to {iso(watermark)}"
    with generator_child() as child:
        watermark = Source(generator_url(child)).watermark()
        return f"the generator starts, and has complete hours up to {iso(watermark)}"


def _examine_lake(settings: Settings) -> Iterator[Finding]:
    try:
        lake = open_lake(settings)
        # One by one: what is found before a store fails is said.
        for number, found in enumerate(lake.probe()):
            if not number:
                yield Finding("lake", good=True, message=f"{lake.uri('')} can be written")
            yield Finding(
                "store",
                good=found.works or not found.needed,
                message=f"{found.name}: {found.meaning}",
                note=not found.works,
            )
    except UserError as error:
        yield Finding("lake", good=False, message=str(error))


def _examine_delta(settings: Settings) -> str:
    delta = require_delta(open_delta(settings))
    delta.probe()
    return f"{delta.uri} takes commits, also several at once"
