"""The default source: the API of `generator_service`, as the settings have it.

Other sources have a `SourceApi` of their own. Their limits come from the same settings.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.runbook import Section
from txn_platform.source.api import SourceApi
from txn_platform.source.auth import Secret, SignIn, bearer
from txn_platform.source.client import Source
from txn_platform.source.decoding import FORMATS, PAGES
from txn_platform.source.pages import NextLink
from txn_platform.source.transport import GENERATOR_URL, Limits, same_origin, source_backoff

if TYPE_CHECKING:
    from txn_platform.contract.model import Contract
    from txn_platform.settings import Settings
    from txn_platform.source.auth import Auth

# Large enough for a small share of fixed cost per page.
_PAGE_ROWS: Final = 25_000
_ROWS: Final = "/v1/transactions?start={start}&end={end}&as_of={as_of}&format={format}&types=text"
_KEYS: Final = "the generator's are made by python -m generator_service keys add"

GENERATOR: Final = SourceApi(
    transactions=_ROWS,
    totals="/v1/control-totals?start={start}&end={end}&as_of={as_of}",
    watermark="/v1/watermark",
    description="/openapi.json",
    format="arrow",
)
"""The generator's API, with rows as Arrow."""

GENERATOR_PAGES: Final = replace(
    GENERATOR,
    transactions=f"{_ROWS}&limit={_PAGE_ROWS}",
    pages=NextLink("next"),
    format=PAGES,
)
"""The same, with rows as JSON in pages."""


def generator_api(settings: Settings, url: str) -> SourceApi:
    """The API of the generator at an address, in the format and with the token of the settings.

    Raises:
        UserError: there is no format of the given name.
    """
    wire = settings.source_format
    if wire not in FORMATS:
        # Without the value: a wrong one can be an address with a key.
        raise UserError(
            "the setting GENERATOR_FORMAT is not the name of a format: set it to one of"
            f" {', '.join(FORMATS)}",
            Section.SETTINGS,
        )
    api = GENERATOR_PAGES if wire == PAGES else replace(GENERATOR, format=wire)
    return replace(api, auth=_auth(settings, url))


def source_limits(settings: Settings) -> Limits:
    """The limits of every source, by the settings."""
    return Limits(
        read_seconds=settings.source_read_seconds,
        whole_seconds=settings.source_whole_seconds,
        backoff=source_backoff(settings.source_attempts),
        slice_bytes=settings.source_max_bytes,
    )


def open_source(
    settings: Settings,
    url: str,
    api: SourceApi | None = None,
    limits: Limits | None = None,
    *,
    contract: Contract = TRANSACTIONS,
    named_by: str = GENERATOR_URL,
) -> Source:
    """The source at an address, with the limits and the lag of the settings.

    Args:
        settings: of all sources.
        url: its address.
        api: its API; None for the generator's.
        limits: instead of those of the settings.
        contract: of its rows.
        named_by: the setting that has its address, for messages.

    Raises:
        UserError: the settings describe no API.
    """
    api = api or generator_api(settings, url)
    if api.lag is None:
        api = replace(api, lag=timedelta(hours=settings.settled_hours))
    return Source(url, api, limits or source_limits(settings), contract, named_by)


def _auth(settings: Settings, url: str) -> Auth:
    """The token of `GENERATOR_TOKEN`, if it is for the address.

    It is for the origin of `GENERATOR_URL`. A generator that the platform starts needs none, and an
    address in a run's config must not get it.
    """
    is_ours = settings.generator_url is not None and same_origin(url, settings.generator_url)
    if settings.source_token is None or not is_ours:
        return SignIn(
            lambda _: {},
            "set GENERATOR_TOKEN to a key of it that may read this, and GENERATOR_URL to its"
            f" address ({_KEYS})",
        )
    return SignIn(
        bearer(Secret("GENERATOR_TOKEN")),
        f"it does not let GENERATOR_TOKEN read this; set another key of it ({_KEYS})",
    )
