"""Dagster's resources: the source, the lake, the card key, the limit of the quarantine.

Their fields are unset by default. An unset field comes from the settings, which are read when a run
needs it. A secret is given as `dg.EnvVar`, whose value Dagster does not show.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal, Self, override

import dagster as dg
from pydantic import PrivateAttr

from txn_platform.card_key import card_key
from txn_platform.contract.model import Contract
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.feeds import GENERATOR_FEED, Feed
from txn_platform.http_addresses import http_address
from txn_platform.lake.base import Lake
from txn_platform.lake.delta import DeltaLake, open_delta
from txn_platform.lake.opening import open_lake
from txn_platform.local.processes import generator_url, start_generator
from txn_platform.rows.protection import CardProtector
from txn_platform.runbook import Section
from txn_platform.settings import Settings, load_settings
from txn_platform.source.api import SourceApi
from txn_platform.source.client import Source
from txn_platform.source.generator import generator_api, open_source, source_limits
from txn_platform.source.transport import Limits, source_backoff

# Dagster gives a tick 60 s. A generator starts, and a question is answered, well within.
_GENERATOR_SECONDS: Final = 20.0
_START_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 3.0
_ANSWER_SECONDS: Final = 8.0


class GeneratorResource(dg.ConfigurableResource["GeneratorResource"]):
    """The source of transactions.

    Without a URL, here, in `GENERATOR_URL` or of a running local stack, a generator is started on a
    free port, at the latest when the source is first asked for, and stopped when the run ends,
    whatever happens.
    """

    url: str | None = None
    """`GENERATOR_URL` when unset. Dagster keeps what a run's config says: name a variable there
    (`env: NAME`) if the address is not for everyone."""

    # The address of the generator that was started, if one was.
    _started: str | None = PrivateAttr(default=None)
    _running: ExitStack = PrivateAttr(default_factory=ExitStack)

    @override
    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Self]:
        """For as long as a run (or a tick of a sensor) lasts."""
        with self._running:
            yield self

    def source(self, contract: Contract = TRANSACTIONS) -> Source:
        """The client.

        Args:
            contract: of its rows.

        Raises:
            UserError: the generator did not start, or the URL cannot be used.
        """
        settings = load_settings()
        url = self._address(settings, _START_SECONDS)
        return open_source(settings, url, self.api(settings, url), contract=contract)

    def source_for_tick(self) -> Source:
        """The client for a tick of a sensor or a schedule, whose questions end within seconds.

        Without a URL it is the generator that the run has started. If none was, one is started, and
        stopped when the tick or the run ends.

        Raises:
            UserError: the generator did not start.
        """
        settings = load_settings()
        url = self._address(settings, _GENERATOR_SECONDS)
        return open_source(settings, url, self.api(settings, url), _tick_limits(settings))

    def api(self, settings: Settings, url: str) -> SourceApi:
        """The API at an address; a subclass for another source gives another one.

        Raises:
            UserError: the settings describe none.
        """
        return generator_api(settings, url)

    def _address(self, settings: Settings, timeout: float) -> str:
        url = _checked(self.url) or settings.generator_url or self._started
        if url is None:
            process = self._running.enter_context(start_generator())
            url = self._started = generator_url(process, timeout=timeout)
        return url


@dataclass(frozen=True)
class FeedSource:
    """The source of a feed that has a name; see `GeneratorResource`.

    Attributes:
        feed: has its address and its API.
    """

    feed: Feed

    def source(self, contract: Contract) -> Source:  # noqa: ARG002 - as for the generator
        """The client.

        Args:
            contract: of its rows: the feed's, which has it.
        """
        return self.feed.source(load_settings())

    def source_for_tick(self) -> Source:
        """The client for a tick of a sensor or a schedule, whose questions end within seconds."""
        settings = load_settings()
        return self.feed.source(settings, _tick_limits(settings))


def source_key(feed: Feed) -> str:
    """The name of the resource that is the source of a feed."""
    return feed.named("source") if feed.prefix else "generator"


def _tick_limits(settings: Settings) -> Limits:
    return replace(
        source_limits(settings),
        connect_seconds=_CONNECT_SECONDS,
        read_seconds=min(settings.source_read_seconds, _ANSWER_SECONDS),
        whole_seconds=min(settings.source_whole_seconds, _ANSWER_SECONDS),
        # The next tick tries again.
        backoff=source_backoff(attempts=1),
    )


def _checked(url: str | None) -> str | None:
    try:
        return http_address(url) if url else None
    except ValueError as error:
        raise UserError(
            f"resources.generator.config.url of the run's config {error}", Section.SETTINGS
        ) from None


class LakeResource(dg.ConfigurableResource["LakeResource"]):
    """The lake, and the Delta table beside it: a bucket on S3 or a directory."""

    bucket: str | None = None
    """`AWS_BUCKET_NAME` when unset; without both the lake is a directory."""
    lake_prefix: str | None = None
    """`TXN_LAKE_PREFIX` when unset."""
    endpoint_url: str | None = None
    """`AWS_ENDPOINT_URL` when unset."""
    region: str | None = None
    """`AWS_REGION` when unset."""
    access_key_id: str | None = None
    """`AWS_ACCESS_KEY_ID` when unset; as `dg.EnvVar`."""
    secret_access_key: str | None = None
    """`AWS_SECRET_ACCESS_KEY` when unset; as `dg.EnvVar`."""
    delta_path: str | None = None
    """`DELTA_LAKE_S3_PATH` when unset; without both there is no table."""

    @override
    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Self]:
        """For as long as a run lasts. Nothing staged stays after it."""
        try:
            yield self
        finally:
            if "lake" in vars(self):
                self.lake.discard_staged()

    @cached_property
    def lake(self) -> Lake:
        """The lake.

        Raises:
            UserError: it can't be opened.
        """
        return open_lake(self._settings)

    def delta(self, feed: Feed = GENERATOR_FEED) -> DeltaLake | None:
        """The Delta table of a feed's published rows, if there is one.

        Raises:
            UserError: see `open_delta`.
        """
        return open_delta(feed.settings(self._settings), feed.contract)

    @property
    def _settings(self) -> Settings:
        return load_settings(
            bucket=self.bucket,
            lake_prefix=self.lake_prefix,
            endpoint_url=self.endpoint_url,
            region=self.region,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            delta_path=self.delta_path,
        )


class CardKeyResource(dg.ConfigurableResource["CardKeyResource"]):
    """How card numbers are published: under which key, or in clear."""

    key: str | None = None
    """`TXN_CARD_KEY` when unset, or a key made once and kept under `TXN_HOME`; as `dg.EnvVar`."""
    card_policy: str | None = None
    """`token` or `clear`; `TXN_CARD_POLICY` when unset."""
    card_mask: str | None = None
    """`first6last4`, `last4` or `none`; `TXN_CARD_MASK` when unset."""

    @property
    def policy(self) -> Literal["token", "clear"]:
        """Whether card numbers are replaced by tokens, or published as sent."""
        return self._settings.card_policy

    def protector(self, feed: Feed = GENERATOR_FEED) -> CardProtector:
        """Turns card numbers of a feed into tokens and masks, under its own key if it has one.

        Raises:
            UserError: see `card_key.card_key`.
        """
        settings = feed.settings(self._settings)
        return CardProtector(card_key(settings), settings.card_mask)

    @property
    def _settings(self) -> Settings:
        return load_settings(
            card_key=self.key, card_policy=self.card_policy, card_mask=self.card_mask
        )


class QuarantineResource(dg.ConfigurableResource["QuarantineResource"]):
    """How much of a window may be quarantined."""

    max_quarantine: float | None = None
    """The largest share, 0 to 1; `TXN_MAX_QUARANTINE` when unset."""

    def largest_share(self) -> float:
        """The largest share of quarantined rows with which a window is published."""
        return load_settings(max_quarantine=self.max_quarantine).max_quarantine
