"""Applied to every response: HEAD without a body, ids, headers, metrics, a log of failures."""

from __future__ import annotations

import logging
import re
import secrets
import time
from http import HTTPMethod
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from generator_service.access import key_name
from generator_service.metrics import NO_ROUTE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from generator_service.metrics import Metrics

HEAD = "generator_service.head"
"""The key in the scope of a request that came as HEAD."""

REQUEST_ID = "X-Request-ID"
"""The header with the id of a request."""

_ID = "generator_service.request_id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LOG = logging.getLogger(__name__)
_ACCESS_LOG = logging.getLogger("generator_service.access")
_METHODS = frozenset(HTTPMethod)
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
# No Strict-Transport-Security: on localhost it would bind the other programs of a machine, and a
# gateway that ends TLS knows whether all of its host is served with it.
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


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


class DescribeResponse:
    """Adds headers to every response: its request's id, the generator, security.

    A client's own id of a request is used if it has at most 128 characters, which are letters,
    digits, `.`, `_`, `:` and `-`. Otherwise a random one is made.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        scope[_ID] = given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(16)

        async def send_described(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = scope[_ID]
                headers.update(scope["app"].state.source.headers)
                headers.update(_SECURITY_HEADERS)
                headers.setdefault("Content-Security-Policy", _NO_PAGE)
                # Files with a tag, those of /docs, are asked for again by it.
                if "ETag" not in headers:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_described)


class Measure:
    """Counts each request, and logs it if that is asked for, when its response has ended."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._logs = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = body_bytes = 0

        async def send_measured(message: Message) -> None:
            nonlocal status, body_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not scope.get(HEAD):
                body_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_measured)
        finally:
            seconds = time.perf_counter() - begin
            method, route = _asked(scope)
            self._metrics.count_request(
                method, route, status, seconds=seconds, body_bytes=body_bytes
            )
            if self._logs:
                _ACCESS_LOG.info(
                    "%s %s %d, %d bytes in %.3f s, request %s, key %s",
                    method,
                    route,
                    status,
                    body_bytes,
                    seconds,
                    scope[_ID],
                    key_name(scope) or "none",
                )


class LogFailures:
    """Logs requests that fail, also when the response has begun; the server logs the traceback.

    A line has the method, the route, the type of the error and the request's id: no query, no id of
    a row, no row.
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
            method, route = _asked(scope)
            outcome = "broke off" if begun else "failed"
            failure = type(error).__name__
            _LOG.error("%s %s %s: %s, request %s", method, route, outcome, failure, scope.get(_ID))
            raise


def _asked(scope: Scope) -> tuple[str, str]:
    """Return the method and the route of a request; a client can make up neither."""
    method = "HEAD" if scope.get(HEAD) else scope.get("method", "")
    # FastAPI puts the route into the scope; its path has names in place of ids.
    route = getattr(scope.get("route"), "path", NO_ROUTE)
    return method if method in _METHODS else "other", route
