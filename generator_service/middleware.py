"""Applied to every response: HEAD without a body, the generator's name, a log of failures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEAD = "generator_service.head"
"""The key in the scope of a request that came as HEAD."""

_LOG = logging.getLogger(__name__)


class AnswerHead:
    """Answers HEAD as GET, without the body, on every route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        ended = False

        async def send_head(message: Message) -> None:
            nonlocal ended
            if message["type"] != "http.response.body":
                await send(message)
            elif not ended:
                ended = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET", HEAD: True}, receive, send_head)


class NameGenerator:
    """Adds the generator's version and configuration to the headers of every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(scope["app"].state.source.headers)
            await send(message)

        await self._app(scope, receive, send_named)


class LogFailures:
    """Logs requests that fail, also when the response has begun; the server logs the traceback.

    A line has the method, the route and the type of the error: no query, no id, no row.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:
            method = "HEAD" if scope.get(HEAD) else scope.get("method", "?")
            # FastAPI puts the route into the scope; its path has names in place of ids.
            route = getattr(scope.get("route"), "path", "of no route")
            outcome = "broke off" if begun else "failed"
            _LOG.error("%s %s %s: %s", method, route, outcome, type(error).__name__)
            raise
