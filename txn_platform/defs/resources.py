"""Dagster's resources: the source, and the card key. The lake is in `io_managers.py`."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Final, Self, override

import dagster as dg
from pydantic import PrivateAttr

from txn_platform.errors import UserError
from txn_platform.http_addresses import http_address
from txn_platform.local.processes import generator_child, generator_url
from txn_platform.local.stack import running_generator
from txn_platform.rows.card_key import card_protector
from txn_platform.rows.protection import CardProtector
from txn_platform.settings import load_settings
from txn_platform.source.client import Source, source_api, source_limits

# Dagster gives a tick 60 s. A generator starts, and a question is answered, well within.
_GENERATOR_SECONDS: Final = 20.0
_CONNECT_SECONDS: Final = 3.0
_ANSWER_SECONDS: Final = 8.0


class GeneratorResource(dg.ConfigurableResource["GeneratorResource"]):
    """The source of transactions.

    Without a URL, here or in `GENERATOR_URL`, a generator is started on a free port, at the latest
    when the source is first asked for, and stopped when the run ends, whatever happens.
    """

    url: str | None = None

    _source: Source | None = PrivateAttr(default=None)
    _running: ExitStack = PrivateAttr(default_factory=ExitStack)

    @override
    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Self]:
        """For as long as a run (or a tick of a sensor) lasts."""
        with self._running:
            yield self

    def source(self) -> Source:
        """The client.

        Raises:
            UserError: the generator did not start, or the URL cannot be used.
        """
        if self._source is None:
            settings = load_settings()
            url = _checked(self.url) or settings.generator_url
            if url is None:
                child = self._running.enter_context(generator_child())
                url = generator_url(child)
            self._source = Source(url, source_api(settings), source_limits(settings))
        return self._source

    def source_for_tick(self) -> Source:
        """The client for a tick of a sensor or a schedule, whose questions end within seconds.

        Without a URL it is the generator of the local stack, if one runs; else one is started, and
        stopped when the tick ends.

        Raises:
            UserError: the generator did not start.
        """
        settings = load_settings()
        url = _checked(self.url) or settings.generator_url
        url = url or running_generator(settings.home.absolute())
        if url is None:
            child = self._running.enter_context(generator_child())
            url = generator_url(child, timeout=_GENERATOR_SECONDS)
        limits = replace(
            source_limits(settings),
            connect_seconds=_CONNECT_SECONDS,
            read_seconds=min(settings.source_read_seconds, _ANSWER_SECONDS),
            whole_seconds=min(settings.source_whole_seconds, _ANSWER_SECONDS),
            # The next tick asks again.
            attempts=1,
        )
        return Source(url, source_api(settings), limits)


def _checked(url: str | None) -> str | None:
    try:
        return http_address(url) if url else None
    except ValueError as error:
        raise UserError(f"resources.generator.config.url of the run's config {error}") from None


class CardKeyResource(dg.ConfigurableResource["CardKeyResource"]):
    """The key of card tokens: `TXN_CARD_KEY`, or one made once and kept under `TXN_HOME`."""

    def protector(self) -> CardProtector:
        """What turns card numbers into tokens and masks under the key.

        Raises:
            UserError: see `card_key.card_protector`.
        """
        return card_protector(load_settings())
