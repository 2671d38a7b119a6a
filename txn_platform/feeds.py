"""A feed: an API, the contract of its rows, and the names under which its windows are kept.

The generator is the feed without a name. The setting TXN_FEEDS names the modules of all others.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Final

from txn_platform.contract.model import Contract
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.http_addresses import http_address
from txn_platform.runbook import Section
from txn_platform.source.api import SourceApi
from txn_platform.source.auth import Secret
from txn_platform.source.generator import GENERATOR, open_source

if TYPE_CHECKING:
    from txn_platform.settings import Settings
    from txn_platform.source.client import Source
    from txn_platform.source.transport import Limits

# A name in Dagster, a folder in the lake and a part of the name of a table. File systems may not
# tell capitals apart.
_PREFIX: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
# Assets of the lake have such folders already.
_OF_LAKE: Final = re.compile(r".*_transactions|event_.*|card_token_mappings")


@dataclass(frozen=True, eq=False)
class Feed:
    """An API that is landed in the lake, beside others.

    Its assets have the key prefix `prefix`, and the lake keeps them in a folder of this name. All
    its other names in Dagster end with it, as `land_transactions_stripe`.

    Attributes:
        prefix: its name, of lower-case letters, digits and underscores.
        contract: of its rows.
        url: the address of the API, without name, password or query.
        api: how it is asked.
        card_key: of its card tokens; None for that of the settings.

    Raises:
        UserError: one of them cannot be used; the message names it.
    """

    prefix: str
    contract: Contract
    url: str = field(repr=False)
    api: SourceApi
    card_key: Secret | None = None

    def __post_init__(self) -> None:
        if not self.prefix and not self.url:
            # The generator, whose address comes from the settings.
            return
        if not _PREFIX.fullmatch(self.prefix) or _OF_LAKE.fullmatch(self.prefix):
            raise _not_allowed(
                "prefix",
                "must be a name of lower-case letters, digits and underscores, which begins with a"
                ' letter and is none that the lake uses itself, as in Feed("stripe", ...)',
            )
        # No type checker has looked at what a user writes.
        given: list[tuple[str, Any, Any]] = [
            ("contract", self.contract, Contract),
            ("url", self.url, str),
            ("api", self.api, SourceApi),
            ("card_key", self.card_key, Secret | None),
        ]
        for name, value, kind in given:
            if not isinstance(value, kind):
                wanted = "Secret" if name == "card_key" else kind.__name__
                raise _not_allowed(name, f"must be a {wanted}, and is a {type(value).__name__}")
        if self.card_key is not None and self.contract.card is None:
            raise _not_allowed(
                "card_key", "is given, and no column has the role card: leave it out"
            )
        try:
            http_address(self.url)
        except ValueError as error:
            raise _not_allowed("url", str(error)) from None
        self.contract.require_rules_of_rows()

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.prefix or "the generator"

    def asset(self, name: str) -> str:
        """The name of one of its assets: the folder in the lake."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def named(self, name: str) -> str:
        """A name in Dagster, as this feed has it: `hourly` is `hourly_stripe` for `stripe`."""
        return f"{name}_{self.prefix}" if self.prefix else name

    def settings(self, settings: Settings) -> Settings:
        """The settings with this feed's own Delta table and card key.

        Raises:
            UserError: the card key is not set.
        """
        if self.card_key is not None:
            settings = settings.with_card_key(self.card_key.value(), self.card_key.variable)
        if self.prefix and settings.delta_path is not None:
            # Beside the other table: `txn optimize` would delete what is within it.
            table = f"{settings.delta_path.rstrip('/')}_{self.prefix}"
            settings = settings.model_copy(update={"delta_path": table})
        return settings

    def source(self, settings: Settings, limits: Limits | None = None, url: str = "") -> Source:
        """The client of its API.

        Args:
            settings: of all sources.
            limits: instead of those of the settings.
            url: the address of the generator, for the feed without a name.

        Raises:
            UserError: the settings describe no API.
        """
        if not self.prefix:
            return open_source(settings, url, None, limits, contract=self.contract)
        return open_source(
            settings,
            http_address(self.url),
            self.api,
            limits,
            contract=self.contract,
            named_by=f"the url of the Feed {self.prefix}",
        )


GENERATOR_FEED: Final = Feed("", TRANSACTIONS, "", GENERATOR)
"""The generator, with the platform's own contract and without a prefix."""


def load_feeds(settings: Settings) -> dict[str, Feed]:
    """The feeds of the modules that TXN_FEEDS names, by their prefixes.

    Raises:
        UserError: a module cannot be imported or has no feed, or two feeds have one name.
    """
    found: dict[str, Feed] = {}
    for name in filter(None, (each.strip() for each in settings.feeds.split(","))):
        of_module = [value for value in vars(_module(name)).values() if isinstance(value, Feed)]
        feeds = {id(feed): feed for feed in of_module if feed.prefix}
        if not feeds:
            raise _wrong_module(name, "has no Feed: assign one to a name of the module")
        for feed in feeds.values():
            if found.setdefault(feed.prefix, feed) is not feed:
                raise _wrong_module(name, f"has a second feed {feed.prefix}: give it another name")
    return found


def feed_of(settings: Settings, name: str | None) -> Feed:
    """The feed of a name; the generator without one.

    Raises:
        UserError: there is none; see also `load_feeds`.
    """
    if name is None:
        return GENERATOR_FEED
    feeds = load_feeds(settings)
    if name not in feeds:
        known = f"there are {', '.join(feeds)}" if feeds else "TXN_FEEDS names no module of feeds"
        raise UserError(
            f"there is no feed {name!r}: {known}; let TXN_FEEDS name the module that has it",
            Section.SETTINGS,
        )
    return feeds[name]


def _module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        # A program has its own directory there; a module is named as for `dagster dev -m`.
        sys.path.append(here)
    try:
        return import_module(name)
    except UserError:
        raise
    except Exception as error:
        # Without its text, which can have a secret.
        where = _line_of(error)
        if isinstance(error, ModuleNotFoundError) and error.name in {name, name.partition(".")[0]}:
            raise _wrong_module(
                name, "is not found: name a module in this directory, or an installed one"
            ) from None
        raise _wrong_module(
            name, f"cannot be imported: it raised {type(error).__name__}{where}"
        ) from None


def _line_of(error: Exception) -> str:
    """Where a module raised an error: the last line that is of no library."""
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno} of {error.filename}"
    lines = [each for each in extract_tb(error.__traceback__) if _is_own(each.filename)]
    return f" in line {lines[-1].lineno} of {lines[-1].filename}" if lines else ""


def _is_own(file: str) -> bool:
    """Whether a file is the user's own, and of no library."""
    parts = Path(file).parts
    return not (
        file.startswith(("<", str(Path(__file__).parent)))
        or "site-packages" in parts
        or "importlib" in parts
    )


def _wrong_module(name: str, fault: str) -> UserError:
    return UserError(f"the module {name!r} of TXN_FEEDS {fault}", Section.SETTINGS)


def _not_allowed(name: str, fault: str) -> UserError:
    return UserError(f"{name} of a Feed {fault}", Section.SETTINGS)
